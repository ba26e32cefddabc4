"""Products with a parameter that are not, or not quite, ``nn.Linear``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from tests.terms.architectures.registry import (
    Built,
    architecture,
    built,
    losses,
    parameter,
    register,
    squares,
)
from torch import nn

Tensor = torch.Tensor
F = nn.functional


def _product(
    rule: Callable[[Tensor, Tensor, Tensor], Tensor], x: Callable[[], Tensor], *shapes: tuple
) -> Built:
    """Three terms of ``rule(x, w, b)``, behind a layer that makes ``x`` depend on a parameter."""
    first, (w, b) = parameter(4, 4), (parameter(*shape) for shape in shapes)
    given = x()
    out = rule((given @ first).tanh(), w, b)
    terms = losses(out)
    return built(terms, {"first": first, "weight": w, "bias": b}, given)


def rows() -> Tensor:
    return torch.randn(6, 4)


def tokens() -> Tensor:
    return torch.randn(2, 3, 4)


for _name, _rule, _x, _shapes in (
    ("x_at_w", lambda x, w, b: x @ w + b, rows, ((4, 3), (3,))),
    ("x_at_w_on_3d", lambda x, w, b: x @ w + b, tokens, ((4, 3), (3,))),
    ("w_at_x", lambda x, w, b: w @ x.T + b[:, None], rows, ((3, 4), (3,))),
    ("w_at_x_on_3d", lambda x, w, b: w @ x.transpose(1, 2) + b, tokens, ((3, 4), (1,))),
    ("transposed_product", lambda x, w, b: (w @ x.T).T + b, rows, ((3, 4), (3,))),
    ("x_transposed_at_w", lambda x, w, b: x.T @ w + b, rows, ((6, 3), (3,))),
    ("matrix_vector", lambda x, w, b: w @ x[0] + b, rows, ((3, 4), (3,))),
    ("vector_matrix", lambda x, w, b: x[0] @ w + b, rows, ((4, 3), (3,))),
    ("matrix_times_parameter_vector", lambda x, w, b: x @ w + b, rows, ((4,), (6,))),
    ("mv", lambda x, w, b: torch.mv(x, w) * b, rows, ((4,), (6,))),
    ("dot", lambda x, w, b: torch.dot(x[0], w) + b, rows, ((4,), (3,))),
    ("outer", lambda x, w, b: torch.outer(x[:, 0], w) + b, rows, ((3,), (3,))),
    ("addmm_scaled", lambda x, w, b: torch.addmm(b, x, w, beta=0.5, alpha=2.5), rows,
     ((4, 3), (3,))),
    ("addmm_transposed_scaled", lambda x, w, b: torch.addmm(b, x, w.t(), beta=-2, alpha=0.3),
     rows, ((3, 4), (3,))),
    ("addmm_weight_left", lambda x, w, b: torch.addmm(b, w, x.T), rows, ((3, 4), (3, 1))),
    ("addmm_of_activations", lambda x, w, b: torch.addmm(x[:, :3], x, w) + b, rows,
     ((4, 3), (3,))),
    ("addmm_beta_zero", lambda x, w, b: torch.addmm(b, x, w, beta=0.0), rows, ((4, 3), (3,))),
    ("addmv", lambda x, w, b: torch.addmv(b, w, x[0], alpha=2), rows, ((3, 4), (3,))),
    ("baddbmm", lambda x, w, b: torch.baddbmm(b, x, w, beta=2, alpha=0.5), tokens,
     ((2, 4, 3), (2, 1, 3))),
    ("bmm", lambda x, w, b: torch.bmm(x, w) + b, tokens, ((2, 4, 3), (3,))),
    ("scalar_bias", lambda x, w, b: torch.addmm(b, x, w), rows, ((4, 3), (1,))),
    ("bias_without_axes", lambda x, w, b: torch.addmm(b, x, w), rows, ((4, 3), ())),
    ("bias_by_row", lambda x, w, b: torch.addmm(b, x, w), rows, ((4, 3), (6, 1))),
    ("bias_by_entry", lambda x, w, b: torch.addmm(b, x, w), rows, ((4, 3), (6, 3))),
    ("bias_expanded", lambda x, w, b: F.linear(x, w, b.expand(3)), rows, ((3, 4), (1,))),
    ("bias_sliced", lambda x, w, b: F.linear(x, w, b[1:4]), rows, ((3, 4), (6,))),
    ("bias_strided", lambda x, w, b: F.linear(x, w, b[::2]), rows, ((3, 4), (6,))),
    ("bias_used_as_input", lambda x, w, b: F.linear(x + b, w, b), rows, ((4, 4), (4,))),
    ("weight_sliced", lambda x, w, b: F.linear(x, w[:3], b), rows, ((5, 4), (3,))),
    ("weight_columns", lambda x, w, b: F.linear(x, w[:, 1:5], b), rows, ((3, 6), (3,))),
    ("weight_narrowed_twice",
     lambda x, w, b: F.linear(x, w[:3], b) + F.linear(x, w[2:], b), rows, ((5, 4), (3,))),
    ("weight_expanded", lambda x, w, b: F.linear(x, w.expand(3, 4), b), rows, ((1, 4), (3,))),
    ("weight_repeated", lambda x, w, b: F.linear(x, w.repeat(3, 2), b), rows, ((1, 2), (3,))),
    ("weight_reshaped", lambda x, w, b: F.linear(x, w.view(3, 4), b), rows, ((2, 6), (3,))),
    ("weight_of_one_axis", lambda x, w, b: F.linear(x, w.view(3, 4), b), rows, ((12,), (3,))),
    ("weight_transposed_twice", lambda x, w, b: x @ w.t().t() + b, rows, ((4, 3), (3,))),
    ("weight_contiguous", lambda x, w, b: x @ w.t().contiguous() + b, rows, ((3, 4), (3,))),
    ("weight_scaled", lambda x, w, b: F.linear(x, 2 * w, b / 3), rows, ((3, 4), (3,))),
    ("weight_masked", lambda x, w, b: F.linear(x, w.tril(), b), rows, ((3, 4), (3,))),
    ("weight_softmax", lambda x, w, b: F.linear(x, w.softmax(0), b), rows, ((3, 4), (3,))),
    ("weight_squared", lambda x, w, b: x @ (w @ w) + b, rows, ((4, 4), (4,))),
    ("weight_times_itself_linear", lambda x, w, b: x @ F.linear(w, w) + b, rows, ((4, 4), (4,))),
    ("weight_gram", lambda x, w, b: x @ (w.t() @ w) + b, rows, ((3, 4), (4,))),
    ("weight_applied_twice", lambda x, w, b: F.linear(F.linear(x, w, b).tanh(), w, b), rows,
     ((4, 4), (4,))),
    ("weight_both_ways", lambda x, w, b: F.linear(x, w).sigmoid() @ w + b, rows,
     ((3, 4), (4,))),
    ("weight_and_its_norm", lambda x, w, b: F.linear(x, w / w.norm(dim=1, keepdim=True), b),
     rows, ((3, 4), (3,))),
    ("weight_stacked", lambda x, w, b: F.linear(x, torch.cat([w, 2 * w]), torch.cat([b, b])),
     rows, ((3, 4), (3,))),
    ("einsum", lambda x, w, b: torch.einsum("bi,oi->ob", x, w) + b[:, None], rows,
     ((3, 4), (3,))),
    ("einsum_experts", lambda x, w, b: torch.einsum("bi,eio->beo", x, w) + b, rows,
     ((3, 4, 2), (3, 2))),
    ("tensordot", lambda x, w, b: torch.tensordot(x, w, dims=([2], [0])) + b, tokens,
     ((4, 3), (3,))),
    ("input_flattened", lambda x, w, b: F.linear(x.flatten(1), w, b), tokens, ((3, 12), (3,))),
    ("kron", lambda x, w, b: F.linear(x, torch.kron(w, torch.eye(2)), b), rows,
     ((2, 2), (4,))),
    ("quadratic_form", lambda x, w, b: (x * (x @ w)).sum(1) + b, rows, ((4, 4), (1,))),
    ("determinant", lambda x, w, b: F.linear(x, w) + torch.logdet(w @ w.T + torch.eye(3)) + b,
     rows, ((3, 4), (3,))),
    ("solve", lambda x, w, b: torch.linalg.solve(w + 5 * torch.eye(4), x.T).T + b, rows,
     ((4, 4), (4,))),
):  # fmt: skip
    register(f"matrix_{_name}", partial(_product, _rule, _x, *_shapes))


@architecture
def weight_is_the_input_of_another() -> Built:
    """A product of two parameters: both sides of one matrix product want a gradient."""
    a, b, c = parameter(5, 4), parameter(3, 4), parameter(3)
    out = F.linear(a, b, c)
    return built(
        {**losses(out), "of one": F.linear(a.detach(), b).square().sum()},
        {"a": a, "b": b, "c": c},
    )


@architecture
def parameter_is_the_only_input() -> Built:
    x = torch.randn(6, 4)
    w, free, image = parameter(3, 4), parameter(5), parameter(6, 4)
    terms = {
        "data": F.linear(x, w).square().mean(),
        "free": free.square().sum(),
        "image": (image - x).abs().mean(),
        "rendered": F.linear(image, w).tanh().sum(),
    }
    return built(terms, {"w": w, "free": free, "image": image}, x)


@architecture
def parameter_itself_is_a_term() -> Built:
    """A term without any operation before it."""
    scalar, other = parameter(), parameter()
    return built(
        {"bare": scalar, "square": scalar.square(), "both": scalar * other, "alone": other},
        {"scalar": scalar, "other": other},
    )


@architecture
def scalar_parameters() -> Built:
    x = torch.randn(7)
    names = ("slope", "offset", "power")
    params = {name: nn.Parameter(torch.rand(())) for name in names}
    curve = params["slope"] * x + params["offset"]
    return built(squares(curve, curve.abs() ** params["power"], params["offset"] * x), params, x)


@architecture
def layer_with_a_frozen_weight() -> Built:
    x = torch.randn(5, 4)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 2))
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    return built(losses(model(x)), model, x)


@architecture
def inputs_that_want_gradients() -> Built:
    x = torch.randn(5, 4, requires_grad=True)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    return built(losses(model(x)), model, x)


@architecture
def input_is_among_the_parameters() -> Built:
    """Gradients for the points as well as for the weights, as in adversarial training."""
    x = torch.randn(5, 4, requires_grad=True)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    out = model(x)
    params = {"points": x, **dict(model.named_parameters())}
    return built({**losses(out), "points": x.norm()}, params)


@architecture
def double_precision_among_single() -> Built:
    x = torch.randn(6, 4).double()
    model = nn.ModuleDict({"a": nn.Linear(4, 5), "b": nn.Linear(5, 3).double()})
    hidden = model["a"](x.to(model["a"].weight.dtype)).tanh()
    return built(squares(hidden, model["b"](hidden.double())), model, x)
