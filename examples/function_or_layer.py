"""Function or layer? What if it is not differentiable? Must the loss require a gradient?

Three questions that everyone has who writes a first loss, answered by running them.

    python examples/function_or_layer.py
    lossproof check examples/function_or_layer.py:mean_absolute_error
    lossproof check examples/function_or_layer.py:error_rate
"""

from __future__ import annotations

import torch
from torch import Tensor

import lossproof
from lossproof.write import straight_through


def mean_absolute_error(
    prediction: Tensor, target: Tensor, *, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """|prediction - target|, with every reduction and with weights."""
    return lossproof.reduce((prediction - target).abs(), weight, reduction)


# The same as a layer, for those who keep their losses beside their models.
MeanAbsoluteError = lossproof.as_module(mean_absolute_error, name="MeanAbsoluteError")


def error_rate(logits: Tensor, target: Tensor) -> Tensor:
    """The share of samples put into the wrong class: a fine metric, and no loss."""
    chosen = logits.argmax(dim=1)
    return (chosen != target).float().mean()


def soft_error_rate(logits: Tensor, target: Tensor) -> Tensor:
    """One minus the mean probability of the right class: differentiable, and near it."""
    return 1 - logits.softmax(1).gather(1, target.unsqueeze(1)).mean()


# The value of the metric with the gradient of its soft neighbour, and declared to be that.
trainable_error_rate = straight_through(error_rate, soft_error_rate)


def mean_absolute_error_inputs() -> tuple[Tensor, Tensor]:
    """A prediction and a target for `mean_absolute_error`."""
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(8, generator=generator, requires_grad=True)
    return prediction, torch.randn(8, generator=generator)


def error_rate_inputs() -> tuple[Tensor, Tensor]:
    """Logits of 8 samples over 5 classes, and their classes, for `error_rate`."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 5, generator=generator, requires_grad=True)
    return logits, torch.randint(5, (8,), generator=generator)


def function_or_layer() -> None:
    """Both forms give the same value and the same gradient."""
    print("== Function or layer?\n")
    prediction, target = mean_absolute_error_inputs()
    for loss in (mean_absolute_error, MeanAbsoluteError()):
        value = loss(prediction, target)
        (grad,) = torch.autograd.grad(value, prediction)
        print(f"{type(loss).__name__:>17}: value {value:.6f}, gradient {grad[:3].tolist()} ...")
    print("\nEither: write the function, and `as_module` makes the layer. The check agrees:\n")
    print(lossproof.compare(mean_absolute_error, MeanAbsoluteError(), prediction, target), "\n")


def kinks() -> None:
    """At a kink every number between the two slopes is a subgradient; `abs` takes 0."""
    print("== Is |x| differentiable at 0?\n")
    same = torch.ones(1, requires_grad=True)
    (grad,) = torch.autograd.grad(mean_absolute_error(same, torch.ones(1)), same)
    print(f"No: its slope is -1 on the left and 1 on the right. Autograd takes {grad.item():g}:")
    print("it lies between the two, so it is a valid subgradient. The check looks at kinks too:\n")
    print(lossproof.check(mean_absolute_error, *mean_absolute_error_inputs()), "\n")


def not_differentiable() -> None:
    """An operation without a gradient is named, with its line."""
    print("== What if it is not differentiable?\n")
    print("Then no gradient reaches the model. The check names the operation and its line:\n")
    print(lossproof.check(error_rate, *error_rate_inputs()), "\n")
    print("A surrogate keeps the metric as the value and takes its gradient from a soft neighbour:")
    logits, target = error_rate_inputs()
    value = trainable_error_rate(logits, target)
    (grad,) = torch.autograd.grad(value, logits)
    print(f"    value {value:.3f}, the metric's; gradient {grad[0, :3].tolist()} ...")
    print("It is declared, so the check tells it from a mistake, and checks all around it:\n")
    print(lossproof.check(trainable_error_rate, logits, target), "\n")


def requires_grad() -> None:
    """A loss needs no `requires_grad` of its own: it inherits it from its inputs."""
    print("== Must I set requires_grad on the loss?\n")
    prediction, target = mean_absolute_error_inputs()
    value = mean_absolute_error(prediction, target)
    print(f"No. The prediction requires a gradient, so the loss does: {value.requires_grad}")
    value = mean_absolute_error(prediction.detach(), target)
    print(f"If no input does, neither does the loss: {value.requires_grad}, and backward() says")
    try:
        value.backward()
    except RuntimeError as error:
        print(f"    RuntimeError: {error}")
    print("To set it on the loss by hand silences this message, and still trains nothing:")
    value.requires_grad_().backward()
    print(f"    the gradient of the prediction is {prediction.grad}\n")
    print("The check needs no such setting. It takes the prediction by its name, and says so:")
    report = lossproof.check(mean_absolute_error, prediction.detach(), target)
    print(f"    {report.assumptions[0]}")


def main() -> None:
    """Answer the questions one after the other."""
    function_or_layer()
    kinks()
    not_differentiable()
    requires_grad()


if __name__ == "__main__":
    main()
