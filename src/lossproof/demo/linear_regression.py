"""Story 3: a linear regression with four mean squared errors, one of which is wrong."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from runpy import run_path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import lossproof
from lossproof.checks.chart import LineChart, Series
from lossproof.checks.report import Finding
from lossproof.demo.story import Claim, Outline, Part, Pictures, code_of, found, table
from lossproof.watcher.alarm import Alarm, AlarmKind

Loss = Callable[[Tensor, Tensor], Tensor]

EPOCHS = 25
SHOWN = (1, 2, 3, 4, 5, 10, 15, 20, 25)


# ---------------------------------------------------------------------------- the losses
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


LOSSES: dict[str, Any] = {
    "mse_loss": functional.mse_loss,
    "OwnMSE": OwnMSE(),
    "RightMSE": RightMSE,
    "WrongMSE": WrongMSE,
}


# ---------------------------------------------------------------------------- the training
def inputs() -> tuple[Tensor, Tensor]:
    """A prediction and a target: what the check calls the losses with."""
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
    return loss  # type: ignore[no-any-return]


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
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        curve.append(value.item())
    return curve


def train_watched(loss: Any) -> list[Alarm]:
    """The same training under a guard; what the guard said."""
    torch.manual_seed(42)
    x, target = data()
    model = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=20, gamma=0.1)
    alarms: list[Alarm] = []
    with lossproof.watch(model, on_alarm=alarms.append) as guard:
        compute = guard.wrap(loss)
        for _ in range(EPOCHS):
            optimizer.zero_grad()
            compute(model(x).squeeze(1), target).backward()
            optimizer.step()
            scheduler.step()
    return alarms


# ---------------------------------------------------------------------------- the story
def trained_four_ways() -> Part:
    """The same regression, trained with each of four losses."""
    with torch.random.fork_rng(devices=()):
        curves = {name: train(as_function(loss)) for name, loss in LOSSES.items()}
    right = curves["mse_loss"]
    rows = [(f"{epoch}", *(f"{c[epoch - 1]:.5g}" for c in curves.values())) for epoch in SHOWN]
    return Part(
        "The same regression, trained with each of four losses",
        (
            "PyTorch's mean squared error, a layer, and two `autograd.Function`s with a backward "
            "of their own. This one looks plausible:",
            code_of(WrongMSE),
            table(("epoch", *curves), *rows),
            Pictures((curves_chart(curves),)),
        ),
        (
            Claim(
                f"the right three go from {right[0]:.5g} to {right[-1]:.4g} on one curve",
                right[-1] < 1e-3 * right[0]
                and all(alike(curves[name], right) for name in ("OwnMSE", "RightMSE")),
            ),
            Claim(
                f"the fourth starts at the same {curves['WrongMSE'][0]:.5g} and is not finite by "
                "epoch 5",
                math.isclose(curves["WrongMSE"][0], right[0], rel_tol=1e-6)
                and not math.isfinite(curves["WrongMSE"][4]),
            ),
        ),
    )


def alike(curve: list[float], other: list[float]) -> bool:
    """Whether two trainings went the same way."""
    return all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(curve, other, strict=True))


def curves_chart(curves: Mapping[str, list[float]]) -> LineChart:
    """The four curves on a logarithmic axis."""
    epochs = tuple(float(epoch) for epoch in range(1, EPOCHS + 1))
    series = tuple(
        Series(
            name,
            epochs,
            tuple(value if math.isfinite(value) else None for value in curve),
            "dots" if name in ("OwnMSE", "RightMSE") else "line",
        )
        for name, curve in curves.items()
    )
    gone = next(i for i, value in enumerate(curves["WrongMSE"], 1) if not math.isfinite(value))
    return LineChart(
        "The loss over the training",
        "epoch",
        "mean squared error",
        series,
        f"The right three lie on each other. `WrongMSE` is infinite in epoch {gone}, and "
        "not a number after it.",
        y_scale="log",
    )


def checked() -> Part:
    """What `check` says, without training anything."""
    reports = {name: lossproof.check(loss, *inputs()) for name, loss in LOSSES.items()}
    wrong = reports["WrongMSE"]
    by_code = {finding.code: finding for finding in wrong.findings}
    rows = [
        (name, len(one.findings), len(one.proved), f"{one.seconds:.1f} s")
        for name, one in reports.items()
    ]
    return Part(
        "What `check` says, without training anything",
        (
            wrong,
            "All four, side by side:",
            table(("loss", "findings", "proved", "in"), *rows),
        ),
        (
            Claim(
                "`check` convicts `WrongMSE` of both faults (LP202, LP203), and of no other",
                found(wrong, "LP202", "LP203"),
            ),
            Claim(
                "the first is a mean repeated in place of each element's own value, 1/N missing",
                "LP202" in by_code and "one mean repeated" in by_code["LP202"].message,
            ),
            Claim(
                "`check` acquits the other three",
                all(report.ok for name, report in reports.items() if name != "WrongMSE"),
            ),
        ),
    )


def watched() -> Part:
    """And if nobody checked it?"""
    with torch.random.fork_rng(devices=()):
        alarms = {name: train_watched(loss) for name, loss in LOSSES.items()}
    wrong = alarms.pop("WrongMSE")
    first = wrong[0] if wrong else None
    named = first is not None and first.kind is AlarmKind.WRONG_BACKWARD
    codes = {one.code for one in first.diagnosis.findings} if first and first.diagnosis else set()
    return Part(
        "And if nobody checked it?",
        (
            "Then `lossproof.watch` does, while it trains. Its first alarm, of the "
            f"{len(wrong)} that this training raises:",
            code_of(train_watched),
            *wrong[:1],
        ),
        (
            Claim(
                "the guard names the wrong backward in the second epoch, with both faults",
                named and first is not None and first.step == 2 and codes == {"LP202", "LP203"},
            ),
            Claim(
                "it raises no alarm in the training of the other three", not any(alarms.values())
            ),
        ),
    )


def mended() -> Part:
    """The two mends, put in their places."""
    wrong = lossproof.check(WrongMSE, *inputs())
    text = with_mends(Path(__file__).read_text(encoding="utf-8"), wrong.findings)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "mended.py")
        file.write_text(text, encoding="utf-8")
        loss = run_path(str(file))["WrongMSE"]
        report = lossproof.check(loss, *inputs())
    with torch.random.fork_rng(devices=()):
        curve, right = train(as_function(loss)), train(functional.mse_loss)
    rows = [
        (name, f"{one[0]:.5g}", f"{one[-1]:.5g}")
        for name, one in (("mse_loss", right), ("WrongMSE, mended", curve))
    ]
    return Part(
        "The two mends, put in their places",
        (
            "Each finding ends with its mend. A copy of this file in which they stand in place of "
            "their lines, checked and trained:",
            table(("loss", "first epoch", "last epoch"), *rows),
        ),
        (
            Claim("`check` finds nothing wrong with the mended loss", report.ok),
            Claim("and it trains on the curve of the others", alike(curve, right)),
        ),
    )  # fmt: skip


def with_mends(text: str, findings: Sequence[Finding]) -> str:
    """The text of a file, the line of each finding replaced by its mend."""
    lines = text.split("\n")
    for finding in findings:
        mend = re.fullmatch(r"`(.+)`", finding.help or "")
        if mend is None or finding.location is None:
            raise ValueError(f"{finding.code} has no mend of one line: {finding.help}")
        old = lines[finding.location.line - 1]
        lines[finding.location.line - 1] = old[: len(old) - len(old.lstrip())] + mend[1]
    return "\n".join(lines)


OUTLINE = Outline(
    "linear regression",
    "A linear regression that explodes",
    "I train the same model with PyTorch's MSE, with my own layer and with my own "
    "`autograd.Function`. Two of three work. What is wrong with the third?",
    "Its backward repeats one mean, forgets 1/N, and ignores `grad_output`. `check` says so before "
    "the first step, with the lines and the mends; `watch` says so in the second epoch.",
    (trained_four_ways, checked, watched, mended),
)
