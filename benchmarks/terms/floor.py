"""How few floating-point operations a backward pass of K terms can do, over those of a plain one.

Counted on the trunk, which all terms share: the K gradients one by one, the same and a second
weighted pass, and one pass that carries K cotangents through the layers, takes the Gramian of each
layer the cheaper way, and adds up one weighted gradient.
"""

from __future__ import annotations

from torch import Tensor, autograd, nn, randn_like
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.terms.models import trunk_and_inputs

LAYERS = (nn.Linear, nn.Conv2d)


def floors(model: str, count: int) -> dict[str, float]:
    """The floors of one model for K terms, in plain backward passes."""
    trunk, inputs, _ = trunk_and_inputs(model)
    outputs: list[tuple[nn.Module, Tensor]] = []
    hooks = [
        layer.register_forward_hook(lambda layer, _, out: outputs.append((layer, out)))
        for layer in trunk.modules()
        if isinstance(layer, LAYERS)
    ]
    features = trunk(inputs)
    for hook in hooks:
        hook.remove()
    cotangent = randn_like(features)
    to_outputs = _flops(features, [out for _, out in outputs], cotangent)
    whole = _flops(features, list(trunk.parameters()), cotangent)
    one_pass = count * to_outputs + sum(_gramian(*pair, count) for pair in outputs)
    return {
        "gradients": float(count),
        "second_pass": float(count + 1),
        "one_pass": one_pass / whole,
    }


def _flops(features: Tensor, wanted: list[Tensor], cotangent: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        autograd.grad(features, wanted, cotangent, retain_graph=True)
    return counter.get_total_flops()


def _gramian(layer: nn.Module, output: Tensor, count: int) -> int:
    """The Gramian and the weighted gradient of a layer: by its K gradients, or without them."""
    if isinstance(layer, nn.Linear):
        samples, before, after = (
            output.numel() // output.shape[-1],
            layer.in_features,
            layer.out_features,
        )
    else:
        samples, before, after = (
            output.numel() // output.shape[1],
            layer.in_channels * 9,
            layer.out_channels,
        )
    gradient = 2 * samples * before * after
    products = 2 * count * count * before * after
    by_gradients = count * gradient + products + 2 * count * before * after
    by_samples = (
        2 * samples**2 * (before + count * after) + 2 * count**2 * samples * after + gradient
    )
    return min(by_gradients, by_samples)
