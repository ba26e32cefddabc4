"""Graphs with unusual nodes: Functions of one's own, checkpoints, half precision, in-place."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
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
from torch.utils.checkpoint import checkpoint

Tensor = torch.Tensor
F = nn.functional


class Cube(torch.autograd.Function):
    """A Function without a rule for vmap."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x.square() * grad


class NumpySine(torch.autograd.Function):
    """A Function that leaves torch in both directions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.from_numpy(np.sin(x.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.from_numpy(np.cos(x.detach().numpy()) * grad.numpy())


class Reversal(torch.autograd.Function):
    """The identity, whose backward is not its derivative, as in domain adaptation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -0.5 * grad


class OwnLinear(torch.autograd.Function):
    """A product with a weight whose gradient is, on purpose, twice what it should be."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return grad @ weight, 2 * grad.t() @ x


class Blocked(torch.autograd.Function):
    """No gradient for its second input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class Clipped(torch.autograd.Function):
    """The identity, whose backward is no linear map."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.clamp(-1e-2, 1e-2)


def _between(function: type[torch.autograd.Function]) -> Built:
    x = torch.randn(6, 4)
    model = nn.ModuleDict({"a": mlp(4, 5, 5), "b": nn.Linear(5, 3), "c": nn.Linear(5, 2)})
    hidden = function.apply(model["a"](x))
    return built(squares(model["b"](hidden), model["c"](hidden), hidden), model, x)


for _function in (Cube, NumpySine, Reversal, Clipped):
    register(f"function_{_function.__name__}", partial(_between, _function))


@architecture
def function_of_a_weight() -> Built:
    x = torch.randn(6, 4)
    weight, other = parameter(5, 4), parameter(3, 5)
    hidden = OwnLinear.apply(x, weight).tanh()
    return built(losses(F.linear(hidden, other)), {"weight": weight, "other": other}, x)


@architecture(reach_is_vague=True)
def function_that_gives_no_gradient() -> Built:
    x = torch.randn(6, 4)
    model = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])
    return built(losses(Blocked.apply(model[0](x), model[1](x))), model, x)


@architecture
def straight_through_rounding() -> Built:
    x = torch.randn(6, 4)
    model = nn.ModuleDict({"a": nn.Linear(4, 5), "b": nn.Linear(5, 3)})
    soft = model["a"](x)
    hard = soft + (soft.round() - soft).detach()
    return built(squares(soft, model["b"](hard)), model, x)


@architecture
def detached_branch() -> Built:
    x = torch.randn(6, 4)
    model = nn.ModuleDict({"a": nn.Linear(4, 5), "b": nn.Linear(5, 3), "c": nn.Linear(5, 3)})
    hidden = model["a"](x).tanh()
    ahead = model["c"](hidden.detach())
    return built(squares(model["b"](hidden), ahead, model["b"](hidden) - ahead.detach()), model, x)


def _checkpointed(dropout: float) -> Built:
    x = torch.randn(6, 4)
    blocks = [nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(dropout)) for _ in range(3)]
    model = nn.ModuleDict({"blocks": nn.ModuleList(blocks), "head": nn.Linear(4, 3)})
    for block in model["blocks"]:
        x = checkpoint(block, x, use_reentrant=False)
    return built({**losses(model["head"](x)), "features": x.square().sum()}, model)


register("checkpoint", partial(_checkpointed, 0.0))
register("checkpoint_with_dropout", partial(_checkpointed, 0.4))


@architecture(single=4e-2)
def autocast_bfloat16() -> Built:
    x = torch.randn(16, 8)
    model = nn.ModuleDict({"trunk": mlp(8, 12, 12), "a": nn.Linear(12, 3), "b": nn.Linear(12, 2)})
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model["trunk"](x).tanh()
        outputs = model["a"](hidden), model["b"](hidden)
    return built(squares(*(one.to(x.dtype) for one in outputs)), model, x)


@architecture
def complex_between() -> Built:
    x = torch.randn(5, 8)
    model = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(5, 3)})
    spectrum = torch.fft.rfft(model["a"](x), dim=-1)
    out = model["b"](spectrum.abs())
    return built({**losses(out), "phase": spectrum.angle().cos().sum()}, model, x)


@architecture
def complex_product() -> Built:
    """A spectral layer: its weight is two real parameters, multiplied as one complex one."""
    x = torch.randn(5, 8)
    real, imaginary, model = parameter(5, 4), parameter(5, 4), nn.Linear(8, 8)
    spectrum = torch.fft.rfft(model(x), dim=-1) @ torch.complex(real, imaginary)
    back = torch.fft.irfft(spectrum, dim=-1)
    params = {"real": real, "imaginary": imaginary, **dict(model.named_parameters())}
    return built({**losses(back), "size": spectrum.abs().square().sum()}, params, x)


@architecture
def changed_in_place() -> Built:
    x = torch.randn(6, 4)
    model = nn.ModuleDict({"a": nn.Linear(4, 6), "b": nn.Linear(6, 3)})
    hidden = model["a"](x)
    hidden.mul_(2).add_(1)
    hidden[:, :2] = hidden[:, 2:4].tanh()
    hidden[1:3].sigmoid_()
    out = model["b"](hidden)
    out += 1
    return built(losses(out), model, x)


@architecture
def filled_in_place() -> Built:
    """An output that is put together row by row from two layers."""
    x = torch.randn(6, 4)
    model = nn.ModuleDict({"a": nn.Linear(4, 3), "b": nn.Linear(4, 3)})
    out = torch.zeros(6, 3)
    out[:2] = model["a"](x[:2])
    out[2:] = model["b"](x[2:])
    out.diagonal().mul_(3)
    return built(squares(out[:2], out[2:], out[1:4]), model, x)


@architecture
def views_changed_in_place_before_split() -> Built:
    """The first rows are written over with what the last rows gave."""
    x = torch.randn(8, 3)
    model = mlp(3, 6, 2)
    out = model(x).clone()
    out[:2] = out[6:] * 2
    first, second = out[:4], out[4:]
    return built(squares(first, second), model, x)


@architecture
def stochastic_depth() -> Built:
    x = torch.randn(6, 4)
    model = nn.ModuleList(mlp(4, 5, 4) for _ in range(4))
    for k, block in enumerate(model):
        if k % 2:
            x = x + block(x)
    return built(losses(x), model)


@architecture
def implicit_layer() -> Built:
    """A fixed point, whose gradient is one step at the solution."""
    x = torch.randn(5, 4)
    model = nn.ModuleDict({"step": nn.Linear(4, 4), "inject": nn.Linear(4, 4)})
    state = torch.zeros(5, 4)
    with torch.no_grad():
        for _ in range(20):
            state = (0.2 * model["step"](state) + model["inject"](x)).tanh()
    state = (0.2 * model["step"](state) + model["inject"](x)).tanh()
    return built(losses(state), model, x)


@architecture
def sampled() -> Built:
    """A variational autoencoder with the usual two terms."""
    x = torch.randn(6, 5)
    model = nn.ModuleDict({"encoder": nn.Linear(5, 6), "decoder": nn.Linear(3, 5)})
    mean, log_variance = model["encoder"](x).chunk(2, 1)
    code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
    fit = F.mse_loss(model["decoder"](code), x)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
    return built({"fit": fit, "kl": kl}, model, x)


@architecture
def library_losses() -> Built:
    x, classes = torch.randn(8, 4), torch.randint(0, 3, (8,))
    model = nn.ModuleDict({"trunk": mlp(4, 6, 6), "a": nn.Linear(6, 3), "b": nn.Linear(6, 1)})
    hidden = model["trunk"](x)
    logits, score = model["a"](hidden), model["b"](hidden)[:, 0]
    terms = {
        "classes": F.cross_entropy(logits, classes, label_smoothing=0.1),
        "binary": F.binary_cross_entropy_with_logits(score, (classes > 0).to(score.dtype)),
        "huber": F.huber_loss(score, x[:, 0]),
        "ranking": F.margin_ranking_loss(score[:4], score[4:], torch.ones(4), margin=0.5),
        "divergence": F.kl_div(logits.log_softmax(1), x[:, :3].softmax(1), reduction="batchmean"),
    }
    return built(terms, model, x)


@architecture
def terms_of_very_different_size() -> Built:
    x = torch.randn(6, 4)
    model = mlp(4, 6, 2)
    out = model(x)
    return built({"large": 1e6 * out.square().sum(), "small": 1e-6 * out.sin().sum()}, model, x)
