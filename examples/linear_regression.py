"""Linear regression with four mean squared errors, one of which is wrong.

The same small model is trained with PyTorch's own loss, with an `nn.Module`, with a right
`autograd.Function` and with a wrong one. The first three give one curve; the fourth explodes within
five epochs. `lossproof.check` says why, without training anything.

    python examples/linear_regression.py
    python examples/linear_regression.py --picture curves.png
    lossproof check examples/linear_regression.py:WrongMSE
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import lossproof

Loss = Callable[[Tensor, Tensor], Tensor]

EPOCHS = 25


class OwnMSE(nn.Module):
    """The mean squared error as a layer: autograd finds the gradient by itself."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square().mean()


class RightMSE(torch.autograd.Function):
    """The mean squared error with its gradient written by hand."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(prediction, target)
        return (prediction - target).square().mean()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor]:
        prediction, target = ctx.saved_tensors
        grad = grad_output * 2 * (prediction - target) / prediction.numel()
        return grad, -grad


class WrongMSE(torch.autograd.Function):
    """The same forward, and a backward that looks plausible."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(prediction, target)
        return (prediction - target).square().mean()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        prediction, target = ctx.saved_tensors
        grad = torch.mean(-2 * (target - prediction)).repeat(prediction.shape[0])
        return grad, None


def inputs() -> tuple[Tensor, Tensor]:
    """A prediction and a target: what `lossproof check` gives to the losses of this file."""
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(20, generator=generator, requires_grad=True)
    target = 2 + 0.5 * torch.arange(20.0) + torch.rand(20, generator=generator)
    return prediction, target


def data() -> tuple[Tensor, Tensor]:
    """The line y = 2 + x / 2 at 100 points, with noise between 0 and 1."""
    noise = torch.rand(100)
    x = torch.arange(100.0)
    return x.unsqueeze(1), 2 + 0.5 * x + noise


def as_function(loss: Any) -> Loss:
    """What a training loop calls: an `autograd.Function` is called by its `apply`."""
    if isinstance(loss, type) and issubclass(loss, torch.autograd.Function):
        return loss.apply
    return loss


def train(loss: Loss) -> list[float]:
    """The loss before each of the 25 steps, each of which sees the whole data."""
    torch.manual_seed(42)
    x, target = data()
    model = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=20, gamma=0.1)
    curve = []
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        value = loss(model(x).squeeze(1), target)
        value.backward()
        optimizer.step()
        scheduler.step()
        curve.append(value.item())
    return curve


def print_curves(curves: Mapping[str, list[float]]) -> None:
    """The loss of every run at some epochs, side by side."""
    print("epoch  " + "  ".join(f"{name:>20}" for name in curves))
    for epoch in (1, 2, 3, 4, 5, 10, 15, 20, 25):
        row = (f"{curve[epoch - 1]:>20.5g}" for curve in curves.values())
        print(f"{epoch:>5}  " + "  ".join(row))
    print()


def draw_curves(curves: Mapping[str, list[float]], path: Path) -> None:
    """All curves in one picture, on a logarithmic scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    # The right three lie on each other: wide to narrow, so that each stays visible.
    styles: list[dict[str, Any]] = [
        {"linewidth": 7, "color": "#b8d4ea"},
        {"linewidth": 3, "color": "#3f83b8"},
        {"linewidth": 0, "color": "#0c2d48", "marker": ".", "markersize": 5},
        {"linewidth": 2, "color": "#c8102e", "marker": "x", "markersize": 6},
    ]
    epochs = range(1, EPOCHS + 1)
    for (name, curve), style in zip(curves.items(), styles, strict=True):
        axes.plot(epochs, curve, label=name, **style)
    finite = [value for value in curves["WrongMSE"] if value < float("inf")]
    axes.annotate(
        f"inf at epoch {len(finite) + 1}, nan after",
        (len(finite), finite[-1]),
        xytext=(10, -3),
        textcoords="offset points",
        color=styles[-1]["color"],
    )
    axes.set_yscale("log")
    axes.set_ylim(1e-3, 1e36)
    axes.set_xlabel("epoch")
    axes.set_ylabel("mean squared error")
    axes.legend(loc="center right")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Train with each loss, show the curves, and check each loss."""
    parser = argparse.ArgumentParser(description="Four mean squared errors, one of them wrong.")
    parser.add_argument("--picture", type=Path, help="draw the curves to this file")
    picture: Path | None = parser.parse_args().picture

    losses: dict[str, Any] = {
        "functional.mse_loss": functional.mse_loss,
        "OwnMSE": OwnMSE(),
        "RightMSE": RightMSE,
        "WrongMSE": WrongMSE,
    }
    curves = {name: train(as_function(loss)) for name, loss in losses.items()}
    print_curves(curves)
    if picture is not None:
        draw_curves(curves, picture)
        print(f"curves drawn to {picture}\n")
    for loss in losses.values():
        print(lossproof.check(loss, *inputs()))
        print()


if __name__ == "__main__":
    main()
