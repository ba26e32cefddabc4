"""Weights that are used more than once, and weights that are computed from others."""

from __future__ import annotations

import torch
from tests.terms.architectures.registry import (
    Built,
    architecture,
    built,
    losses,
    mlp,
    parameter,
    squares,
)
from torch import nn
from torch.nn.utils import parametrizations

F = nn.functional


@architecture
def module_used_twice() -> Built:
    x, y = torch.randn(5, 4), torch.randn(3, 4)
    model = mlp(4, 6, 2)
    return built(squares(model(x), model(y), model(x[:2] + y[:2])), model, x, y)


@architecture
def module_in_a_loop() -> Built:
    x = torch.randn(5, 4)
    model = nn.ModuleDict({"step": nn.Linear(4, 4), "head": nn.Linear(4, 1)})
    terms = []
    for _ in range(4):
        x = model["step"](x).tanh()
        terms.append(model["head"](x))
    return built(squares(*terms), model)


@architecture
def one_weight_under_two_names() -> Built:
    x = torch.randn(5, 4)
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["b"].weight = model["a"].weight
    hidden = model["a"](x).tanh()
    return built(squares(hidden, model["b"](hidden)), model, x)


@architecture
def tied_autoencoder() -> Built:
    """One weight, as it is and transposed."""
    x = torch.randn(6, 5)
    weight, bias = parameter(3, 5), parameter(5)
    code = F.linear(x, weight).tanh()
    back = F.linear(code, weight.t(), bias)
    return built(
        {"fit": (back - x).square().mean(), "sparse": code.abs().sum()},
        {"weight": weight, "bias": bias},
        x,
    )


@architecture
def linear_and_convolution_share() -> Built:
    x = torch.randn(2, 4, 6)
    model = nn.Linear(4, 3)
    by_rows = model(x.transpose(1, 2))
    by_kernel = F.conv1d(x, model.weight[:, :, None], model.bias)
    return built(squares(by_rows, by_kernel * 2, by_rows.sum() + by_kernel.mean()), model, x)


@architecture
def one_bias_for_two_layers() -> Built:
    x = torch.randn(5, 4)
    model = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4, bias=False)])
    hidden = model[0](x).tanh()
    out = F.linear(hidden, model[1].weight, model[0].bias)
    return built(squares(hidden, out, model[0].bias), model, x)


@architecture
def weight_is_an_input_elsewhere() -> Built:
    """A weight of one layer passes through another layer as data."""
    x = torch.randn(5, 4)
    model = nn.ModuleList([nn.Linear(4, 6), nn.Linear(4, 2)])
    return built(squares(model[0](x), model[1](model[0].weight), model[1](x)), model, x)


@architecture
def siamese() -> Built:
    x, y = torch.randn(5, 4), torch.randn(5, 4)
    model = mlp(4, 6, 3)
    a, b = model(x), model(y)
    return built(
        {"near": (a - b).square().mean(), "far": F.relu(2 - a.norm(dim=1)).sum(), "one": b.sum()},
        model,
        x,
        y,
    )


@architecture
def weight_norm() -> Built:
    x = torch.randn(6, 4)
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))
    return built(losses(model(x)), model, x)


@architecture
def spectral_norm() -> Built:
    x = torch.randn(6, 4)
    model = nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3)
    )
    return built(losses(model(x)), model, x)


@architecture
def orthogonal_weight() -> Built:
    x = torch.randn(6, 4)
    model = nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4)), nn.Linear(4, 3))
    return built(losses(model(x)), model, x)


@architecture
def functional_call() -> Built:
    """A module whose parameters are replaced for the call."""
    x = torch.randn(6, 4)
    model = mlp(4, 6, 3)
    own = {name: nn.Parameter(one.detach() * 0.7) for name, one in model.named_parameters()}
    shifted = {name: one + 0.1 * one.square() for name, one in own.items()}
    plain = torch.func.functional_call(model, own, (x,))
    moved = torch.func.functional_call(model, shifted, (x,))
    return built({**losses(plain), "moved": moved.square().mean()}, own, x)


@architecture
def inner_step_of_meta_learning() -> Built:
    """A term after one step of gradient descent on another."""
    x = torch.randn(6, 4)
    model = mlp(4, 6, 2)
    own = dict(model.named_parameters())
    before = model(x).square().mean()
    slopes = torch.autograd.grad(before, list(own.values()), create_graph=True)
    moved = {
        name: one - 0.1 * slope for (name, one), slope in zip(own.items(), slopes, strict=True)
    }
    after = torch.func.functional_call(model, moved, (x + 1,)).abs().mean()
    return built({"before": before, "after": after}, model, x)


@architecture
def one_flat_parameter() -> Built:
    """All weights are slices of one vector."""
    x = torch.randn(6, 4)
    flat = parameter(4 * 5 + 5 + 5 * 2)
    first, bias, second = flat.split([20, 5, 10])
    hidden = F.linear(x, first.view(5, 4), bias).tanh()
    return built(losses(hidden @ second.view(5, 2)), {"flat": flat}, x)


@architecture
def parameter_with_strides() -> Built:
    """A parameter that does not lie contiguously in memory."""
    x = torch.randn(6, 4)
    weight = nn.Parameter(torch.randn(4, 3).t())
    image = nn.Parameter(torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last))
    kernel = nn.Parameter(torch.randn(2, 3, 3, 3).to(memory_format=torch.channels_last))
    out = F.linear(x, weight)
    return built(
        {**losses(out), "image": F.conv2d(image, kernel).square().mean()},
        {"weight": weight, "image": image, "kernel": kernel},
        x,
    )


@architecture
def buffers_in_the_products() -> Built:
    x = torch.randn(6, 4)
    model = nn.Module()
    model.register_buffer("basis", torch.randn(4, 5))
    model.layer = nn.Linear(5, 3)
    model.scale = parameter(5)
    out = model.layer((x @ model.basis) * model.scale)
    return built(losses(out), model, x)
