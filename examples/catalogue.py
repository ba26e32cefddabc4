"""A catalogue of losses, and a base to build one's own on.

Every loss is a function and a layer, with the same options; weights move with the model; the
options of old are understood; and a loss that is computed in numpy or scipy joins in with its own
gradient.

    python examples/catalogue.py
    lossproof losses focal
    lossproof check examples/catalogue.py:quartic_loss
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor, nn

import lossproof
from lossproof import losses
from lossproof.losses.catalogue import catalogue
from lossproof.write import from_numpy


def quartic_loss(
    input: Tensor,
    target: Tensor,
    *,
    scale: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    """The fourth power of the error: large errors count very much.

    Args:
        input: predictions, any shape.
        target: targets, the shape of `input`.
        scale: the error that counts 1.
        weight: how much each value counts.
        mask: which values count.
        reduction: `"none"`, `"mean"` or `"sum"`.
        normalizer: what a mean divides by instead of the number of values.
    """
    if input.shape != target.shape:
        raise ValueError(f"`input` has shape {list(input.shape)}, `target` {list(target.shape)}")
    values = ((input - target) / scale) ** 4
    return lossproof.reduce(values, weight, reduction, mask=mask, normalizer=normalizer)


QuarticLoss = lossproof.as_module(quartic_loss)


def fair_values(input: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Fair's robust loss, as somebody has it in numpy."""
    size = np.abs(input - target)
    return size - np.log1p(size)


def fair_slopes(input: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Its derivative in each input."""
    error = input - target
    return error / (1 + np.abs(error))


fair_loss = from_numpy(fair_values, fair_slopes)
FairLoss = lossproof.as_module(fair_loss, name="FairLoss")


def inputs() -> tuple[Tensor, Tensor]:
    """Predictions of 8 samples with 3 values, and their targets."""
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(8, 3, generator=generator, requires_grad=True)
    return prediction, torch.randn(8, 3, generator=generator)


def from_the_catalogue() -> None:
    """A function and a layer, every reduction, class weights that move with the model."""
    print(f"== One of {len(catalogue())} losses\n")
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 4, generator=generator), torch.tensor([0, 3, 2, -100, 1, 1])
    layer = losses.FocalLoss(gamma=1.5, weight=torch.tensor([1.0, 1.0, 2.0, 5.0]))
    print(layer)
    print(f"layer     {layer(logits, labels):.6f}")
    print(f"function  {losses.focal_loss(logits, labels, gamma=1.5, weight=layer.weight):.6f}")
    print(f"none      {[round(v, 3) for v in layer_values(layer, logits, labels).tolist()]}")
    print(f"state     {list(nn.ModuleDict({'loss': layer}).state_dict())}")
    print(f"float64   {layer.double().weight.dtype}, with the model around it\n")


def layer_values(layer: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
    """The value of each item; the ignored one has none."""
    return losses.focal_loss(
        logits, labels, gamma=layer.gamma, weight=layer.weight, reduction="none"
    )


def options_of_old() -> None:
    """`size_average` and `reduce` mean what they meant in torch.nn, with a warning."""
    print("== size_average=False\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        layer = losses.HuberLoss(size_average=False)
    print(f"{layer}: {caught[0].category.__name__}: {caught[0].message}\n")


def one_of_ones_own() -> None:
    """`reduce` and `as_module` give an own loss what those of the catalogue have."""
    print("== My own loss, on the same base\n")
    layer = QuarticLoss(scale=2.0)
    print(f"{layer}: {layer(*inputs()):.6f}")
    halves = [tensor.split(4) for tensor in inputs()]
    parts = [layer(p, t, normalizer=24) for p, t in zip(*halves, strict=True)]
    print(f"in two halves of the batch: {sum(parts):.6f}\n")
    print(lossproof.check(layer, *inputs()), "\n")


def from_numpy_with_its_own_gradient() -> None:
    """A loss in numpy, differentiated by its author and checked on first use."""
    print("== A loss computed in numpy\n")
    prediction, target = inputs()
    layer = FairLoss(reduction="sum")
    layer(prediction, target).backward()
    print(f"{layer}: the gradient begins with {prediction.grad[0].tolist()}")
    wrong = from_numpy(fair_values, lambda input, target: -fair_slopes(input, target))
    try:
        wrong(*inputs()).backward()
    except ValueError as error:
        print(f"with the sign the wrong way round: {error}\n")
    print(lossproof.check(fair_loss, *inputs()), "\n")


def main() -> None:
    """Show one after the other."""
    from_the_catalogue()
    options_of_old()
    one_of_ones_own()
    from_numpy_with_its_own_gradient()


if __name__ == "__main__":
    main()
