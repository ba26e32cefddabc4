"""How the terms hang on one network: heads, losses of one output, layers that few reach."""

from __future__ import annotations

from functools import partial

import torch
from tests.terms.architectures.registry import (
    Built,
    architecture,
    built,
    losses,
    mlp,
    parameter,
    register,
    squares,
)
from torch import nn

Tensor = torch.Tensor
F = nn.functional


def _heads(count: int) -> Built:
    x = torch.randn(6, 4)
    model = nn.ModuleDict(
        {"trunk": mlp(4, 8, 8), "heads": nn.ModuleList(mlp(8, 3, 2) for _ in range(count))}
    )
    features = model["trunk"](x)
    return built(squares(*(head(features) for head in model["heads"])), model, x)


for _count in (1, 2, 5, 17):
    register(f"heads_{_count}", partial(_heads, _count))


def _losses_of_one_output(count: int) -> Built:
    x = torch.randn(6, 4)
    model = mlp(4, 8, 1)
    out = model(x)
    return built(
        {f"power {k}": (out - 0.1 * k).abs().pow(1 + k / 3).mean() for k in range(count)}, model, x
    )


for _count in (1, 2, 5, 17):
    register(f"losses_of_one_output_{_count}", partial(_losses_of_one_output, _count))


@architecture
def columns_of_one_layer() -> Built:
    """Each term has its own outputs of the last layer."""
    x = torch.randn(5, 3)
    model = mlp(3, 7, 6)
    out = model(x)
    a, b, c = out.split([1, 2, 3], dim=1)
    return built(squares(a, b, c, out[:, 3], *out.unbind(1)[:2]), model, x)


@architecture
def heads_of_heads() -> Built:
    x = torch.randn(5, 4)
    model = nn.ModuleDict(
        {"root": mlp(4, 6, 6), "left": mlp(6, 5, 5), "right": mlp(6, 7, 4)}
        | {f"leaf{k}": nn.Linear(size, 2) for k, size in enumerate((5, 5, 4, 4, 6))}
    )
    root = model["root"](x).tanh()
    left, right = model["left"](root).tanh(), model["right"](root).tanh()
    leaves = [model[f"leaf{k}"](at) for k, at in enumerate((left, left, right, right, root))]
    return built(squares(*leaves, leaves[0] * leaves[2]), model, x)


@architecture
def terms_at_every_depth() -> Built:
    """A term for each layer: the first layers are reached by all, the last by one."""
    x = torch.randn(6, 4)
    model = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))
    depths = []
    for layer in model:
        x = layer(x).tanh()
        depths.append(x)
    return built(squares(*depths), model)


@architecture
def residual() -> Built:
    x = torch.randn(6, 5)
    model = nn.ModuleDict(
        {"blocks": nn.ModuleList(mlp(5, 9, 5) for _ in range(4)), "head": nn.Linear(5, 3)}
    )
    for block in model["blocks"]:
        x = x + block(x)
    return built(losses(model["head"](x)), model)


@architecture
def dense_connections() -> Built:
    x = torch.randn(6, 3)
    model = nn.ModuleList(nn.Linear(3 * (k + 1), 3) for k in range(4))
    parts = [x]
    for layer in model:
        parts.append(layer(torch.cat(parts, 1)).tanh())
    return built(squares(*parts[1:]), model, x)


@architecture
def gated_experts() -> Built:
    x = torch.randn(7, 4)
    model = nn.ModuleDict(
        {"gate": nn.Linear(4, 3), "experts": nn.ModuleList(mlp(4, 6, 2) for _ in range(3))}
    )
    shares = model["gate"](x).softmax(1)
    outputs = torch.stack([expert(x) for expert in model["experts"]], 1)
    mixed = (shares[..., None] * outputs).sum(1)
    return built({**losses(mixed), "balance": shares.mean(0).square().sum()}, model, x)


@architecture
def routed_experts() -> Built:
    """Rows go to experts by index, and one expert gets none."""
    x = torch.randn(7, 4)
    model = nn.ModuleList(nn.Linear(4, 2) for _ in range(3))
    chosen = torch.tensor([0, 1, 0, 0, 1, 1, 0])
    out = torch.zeros(7, 2)
    for k, expert in enumerate(model):
        at = (chosen == k).nonzero()[:, 0]
        out = out.index_add(0, at, expert(x[at]))
    return built(squares(out[:3], out[2:], out), model, x)


@architecture
def disjoint_networks() -> Built:
    x = torch.randn(5, 3)
    model = nn.ModuleList(mlp(3, 4, 2) for _ in range(3))
    return built(squares(*(net(x) for net in model)), model, x)


@architecture
def same_term_under_two_names() -> Built:
    x = torch.randn(5, 3)
    model = mlp(3, 6, 2)
    out = model(x)
    term = out.square().mean()
    return built({"a": term, "b": out.abs().mean(), "again": term, "copy": term.clone()}, model, x)


@architecture
def term_that_holds_another() -> Built:
    x = torch.randn(5, 3)
    model = nn.ModuleList([mlp(3, 6, 2), nn.Linear(2, 2)])
    out = model[0](x)
    a = out.square().mean()
    b = model[1](out).abs().mean()
    return built({"a": a, "b": b, "sum": a + 2 * b, "ratio": a / b, "product": a * a}, model, x)


@architecture
def constant_terms() -> Built:
    x = torch.randn(5, 3)
    model = mlp(3, 6, 2)
    out = model(x)
    terms = {
        "constant": torch.tensor(2.0),
        "data": out.square().mean(),
        "detached": out.detach().abs().mean(),
        "zero": 0.0 * out.sum(),
        "last": out.sin().sum(),
    }
    return built(terms, model, x)


@architecture
def constant_of_another_graph() -> Built:
    """A term that requires a gradient, but of nothing that was chosen."""
    x, other = torch.randn(5, 3), torch.randn(3, requires_grad=True)
    model = mlp(3, 6, 2)
    return built({"elsewhere": other.square().sum(), **losses(model(x))}, model, x)


@architecture
def unused_and_frozen() -> Built:
    x = torch.randn(5, 3)
    model = nn.ModuleDict(
        {"used": mlp(3, 6, 2), "unused": nn.Linear(4, 4), "frozen": nn.Linear(2, 2)}
    )
    model["frozen"].requires_grad_(False)
    return built(losses(model["frozen"](model["used"](x))), model, x)


@architecture
def weight_decay_beside_data() -> Built:
    x = torch.randn(6, 4)
    model = mlp(4, 7, 3)
    decay = sum(one.square().sum() for one in model.parameters())
    return built({**losses(model(x)), "decay": decay * 1e-2}, model, x)


@architecture
def orthogonality_of_a_layer() -> Built:
    """A regulariser that multiplies a weight with itself, which a layer uses as well."""
    x = torch.randn(6, 4)
    model = mlp(4, 4, 3)
    weight = model[0].weight
    off = (weight @ weight.T - torch.eye(4)).square().sum()
    spectrum = torch.linalg.svdvals(model[2].weight).sum()
    return built({**losses(model(x)), "orthogonal": off, "spectrum": spectrum}, model, x)


@architecture
def regulariser_through_the_layer_itself() -> Built:
    """The layer is applied to data and to the identity matrix."""
    x = torch.randn(6, 4)
    model = mlp(4, 5, 3)
    probe = model(torch.eye(4))
    return built({"data": model(x).square().mean(), "probe": probe.abs().sum()}, model, x)


@architecture
def hypernetwork() -> Built:
    """The weights of a layer are what another network gives."""
    x, condition = torch.randn(6, 4), torch.randn(2)
    model = nn.ModuleDict({"maker": mlp(2, 6, 4 * 3 + 3), "head": nn.Linear(3, 2)})
    made = model["maker"](condition)
    hidden = F.linear(x, made[:12].view(3, 4), made[12:]).tanh()
    return built(
        {**losses(model["head"](hidden)), "made": made.square().sum()}, model, x, condition
    )


@architecture
def low_rank_adaptation() -> Built:
    x = torch.randn(6, 5)
    base, up, down = parameter(4, 5), parameter(4, 2), parameter(2, 5)
    base.requires_grad_(False)
    out = F.linear(x, base + up @ down)
    return built(
        {**losses(out.tanh()), "rank": (up @ down).square().sum()},
        {"base": base, "up": up, "down": down},
        x,
    )


@architecture
def physics_informed() -> Built:
    """Second derivatives of the network are in a term, as in a PINN."""
    points = torch.rand(6, 2, requires_grad=True)
    edge = torch.rand(5, 2)
    model = mlp(2, 8, 8, 1)
    u = model(points)
    first = torch.autograd.grad(u.sum(), points, create_graph=True)[0]
    second = [
        torch.autograd.grad(first[:, k].sum(), points, create_graph=True)[0][:, k] for k in range(2)
    ]
    residual = second[0] + second[1] + u[:, 0] ** 3
    terms = {
        "pde": residual.square().mean(),
        "bc": model(edge).square().mean(),
        "data": (u - 0.5).square().mean(),
        "slope": first.square().sum(),
    }
    return built(terms, model, points, edge)


@architecture
def gradient_penalty_of_a_convolution() -> Built:
    x = torch.randn(2, 1, 6, 6, requires_grad=True)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Softplus(), nn.Conv2d(3, 1, 3))
    out = model(x)
    slope = torch.autograd.grad(out.sum(), x, create_graph=True)[0]
    return built(
        {"score": out.mean(), "penalty": (slope.flatten(1).norm(dim=1) - 1).square().mean()},
        model,
        x,
    )


@architecture
def gradient_with_respect_to_a_weight() -> Built:
    """A term of the gradient of a term, as in sharpness-aware methods."""
    x = torch.randn(6, 4)
    model = mlp(4, 6, 2)
    fit = model(x).square().mean()
    slopes = torch.autograd.grad(fit, list(model.parameters()), create_graph=True)
    return built({"fit": fit, "sharpness": sum(one.square().sum() for one in slopes)}, model, x)
