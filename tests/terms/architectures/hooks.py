"""Hooks: what they make of the gradient is the gradient."""

from __future__ import annotations

from collections.abc import Callable
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


def _hooked(install: Callable[[nn.ModuleDict, Tensor], object]) -> Built:
    """A trunk and two heads, with a hook on the features or on a parameter."""
    x = torch.randn(6, 4)
    model = nn.ModuleDict({"trunk": mlp(4, 7, 5), "a": nn.Linear(5, 3), "b": nn.Linear(5, 2)})
    features = model["trunk"](x).tanh()
    install(model, features)
    return built(squares(model["a"](features), model["b"](features), features), model, x)


for _name, _install in (
    ("scales_features", lambda model, features: features.register_hook(lambda g: g * 3)),
    ("clamps_features", lambda model, features: features.register_hook(
        lambda g: g.clamp(-1e-2, 1e-2))),
    ("normalises_features", lambda model, features: features.register_hook(
        lambda g: g / (g.norm() + 1))),
    ("masks_features", lambda model, features: features.register_hook(
        lambda g: g * (torch.arange(6) < 3)[:, None])),
    ("scales_weight", lambda model, features: model["trunk"][0].weight.register_hook(
        lambda g: g * 0.25)),
    ("clamps_weight", lambda model, features: model["trunk"][0].weight.register_hook(
        lambda g: g.clamp(-1e-3, 1e-3))),
    ("zeroes_bias", lambda model, features: model["trunk"][2].bias.register_hook(
        torch.zeros_like)),
    ("scales_head", lambda model, features: model["a"].weight.register_hook(lambda g: -g)),
    ("looks_only", lambda model, features: features.register_hook(lambda g: None)),
    ("two_on_one", lambda model, features: [
        features.register_hook(lambda g: g + 1e-3), features.register_hook(lambda g: g * 2)]),
    ("on_a_node", lambda model, features: features.grad_fn.register_prehook(
        lambda grads: tuple(2 * one for one in grads))),
    ("after_a_node", lambda model, features: features.grad_fn.register_hook(
        lambda inputs, outputs: tuple(-one for one in inputs))),
    ("retain_grad", lambda model, features: features.retain_grad()),
    ("accumulation_of_a_weight",
     lambda model, features: model["a"].weight.register_post_accumulate_grad_hook(
         lambda one: None)),
):  # fmt: skip
    register(f"hook_{_name}", partial(_hooked, _install))


@architecture
def hook_on_the_output_of_a_layer() -> Built:
    """The hook sits on the very product that has the weight."""
    x = torch.randn(6, 4)
    model = mlp(4, 5, 3)
    before = model[0](x)
    before.register_hook(lambda g: g * 4)
    out = model[2](model[1](before))
    out.register_hook(lambda g: g.tanh())
    return built(losses(out), model, x)


@architecture
def hook_on_a_term() -> Built:
    x = torch.randn(6, 4)
    model = mlp(4, 5, 3)
    terms = losses(model(x))
    terms["square"].register_hook(lambda g: g * 7)
    return built(terms, model, x)


@architecture
def hook_on_the_parts_of_a_batch() -> Built:
    x = torch.randn(9, 4)
    model = mlp(4, 5, 3)
    out = model(x)
    out.register_hook(lambda g: g.flip(0))
    return built(squares(*out.split([4, 5])), model, x)


@architecture
def hook_that_mixes_the_rows_of_features() -> Built:
    """The forward treats each row by itself, the backward does not."""
    x = torch.randn(9, 4)
    model = nn.ModuleDict({"trunk": mlp(4, 5, 5), "head": nn.Linear(5, 2)})
    features = model["trunk"](x).tanh()
    features.register_hook(lambda g: g - g.mean(0))
    return built(squares(*model["head"](features).split([4, 5])), model, x)


@architecture
def hook_of_a_module() -> Built:
    x = torch.randn(6, 4, requires_grad=True)
    model = nn.ModuleDict({"a": nn.Linear(4, 5), "b": nn.Linear(5, 3)})
    model["a"].register_full_backward_hook(lambda module, before, after: None)
    model["b"].register_full_backward_hook(
        lambda module, before, after: tuple(2 * one for one in before)
    )
    return built(losses(model["b"](model["a"](x).tanh())), model, x)


@architecture
def hook_on_a_view_of_a_weight() -> Built:
    x = torch.randn(6, 4)
    weight, bias = parameter(4, 3), parameter(3)
    turned = weight.t()
    turned.register_hook(lambda g: g * 5)
    return built(losses(F.linear(x, turned, bias)), {"weight": weight, "bias": bias}, x)


@architecture
def saved_on_cpu() -> Built:
    """Saved tensors are kept elsewhere, and come back as other tensors."""
    x = torch.randn(6, 4)
    model = mlp(4, 7, 3)
    with torch.autograd.graph.save_on_cpu():
        out = model(x)
    return built(losses(out), model, x)


@architecture
def saved_as_numpy() -> Built:
    x = torch.randn(6, 4)
    model = mlp(4, 7, 3)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda one: one.detach().numpy().copy(), torch.from_numpy
    ):
        out = model(x)
    return built(losses(out), model, x)


@architecture
def saved_with_less_precision() -> Built:
    """What comes back is not what was saved: torch's gradient is of the rounded tensors."""
    x = torch.randn(6, 4)
    model = mlp(4, 7, 3)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda one: (one.to(torch.bfloat16), one.dtype), lambda kept: kept[0].to(kept[1])
    ):
        out = model(x)
    return built(losses(out), model, x)
