"""Story 1: function or layer, what is not differentiable, and who needs `requires_grad`."""

from __future__ import annotations

import torch
from torch import Tensor

import lossproof
from lossproof.checks.chart import LineChart, Series
from lossproof.checks.report import Report
from lossproof.demo.story import Claim, Code, Outline, Part, Pictures, Said, code_of, found, table
from lossproof.write import straight_through


# ---------------------------------------------------------------------------- the losses
def mean_absolute_error(
    prediction: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """|prediction - target|, with every reduction and with weights."""
    values = (prediction - target).abs()
    return lossproof.reduce(values, weight, reduction)


MeanAbsoluteError = lossproof.as_module(mean_absolute_error, name="MeanAbsoluteError")


def error_rate(logits: Tensor, target: Tensor) -> Tensor:
    """The share of samples put into the wrong class: a fine metric, and no loss."""
    chosen = logits.argmax(dim=1)
    return (chosen != target).float().mean()


def soft_error_rate(logits: Tensor, target: Tensor) -> Tensor:
    """One minus the mean probability of the right class: differentiable, and near it."""
    return 1 - logits.softmax(1).gather(1, target.unsqueeze(1)).mean()


trainable_error_rate = straight_through(error_rate, soft_error_rate)


# ---------------------------------------------------------------------------- their inputs
def predictions() -> tuple[Tensor, Tensor]:
    """A prediction of 8 numbers and a target."""
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(8, generator=generator, requires_grad=True)
    return prediction, torch.randn(8, generator=generator)


def logits_and_classes() -> tuple[Tensor, Tensor]:
    """Logits of 8 samples over 5 classes, and their classes."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 5, generator=generator, requires_grad=True)
    return logits, torch.randint(5, (8,), generator=generator)


# ---------------------------------------------------------------------------- the story
def one_function_is_both() -> Part:
    """Function or layer?"""
    rows = []
    for loss in (mean_absolute_error, MeanAbsoluteError()):
        prediction, target = predictions()
        value = loss(prediction, target)
        (grad,) = torch.autograd.grad(value, prediction)
        kind = "layer" if isinstance(loss, torch.nn.Module) else "function"
        rows.append((kind, value.item(), ", ".join(f"{g:.3f}" for g in grad[:3].tolist())))
    same = lossproof.compare(mean_absolute_error, MeanAbsoluteError(), *predictions())
    return Part(
        "Function or layer?",
        (
            "Either. Write the function; `lossproof.as_module(mean_absolute_error)` makes the "
            "layer of it, and `lossproof.reduce` gives both every reduction and weights.",
            code_of(mean_absolute_error),
            table(("form", "value", "the gradient begins with"), *rows),
        ),
        (Claim("`compare` finds the same value and gradient in both forms", same.same),),
    )


def the_kink() -> Part:
    """Is |x| differentiable at 0?"""
    error = (torch.arange(-40, 41, dtype=torch.float64) / 20).requires_grad_()
    values = mean_absolute_error(error, torch.zeros_like(error), reduction="none")
    (slopes,) = torch.autograd.grad(values.sum(), error)
    taken = slopes[40].item()
    report = lossproof.check(mean_absolute_error, *predictions())
    said = detail_of(report, "wrong-subgradient")
    return Part(
        "Is |x| differentiable at 0?",
        (
            "No: its slope is -1 on the left and 1 on the right. Every number between the two is a "
            f"subgradient there, and autograd takes {taken:g}. The check looks for "
            "kinks, and says of this one:",
            Said("proved wrong-subgradient", said),
            Pictures((kink_chart(error, values, slopes),)),
        ),
        (
            Claim(f"autograd takes {taken:g}, which is one of them", abs(taken) <= 1),
            Claim("the check finds nothing wrong with |x|", report.ok),
            Claim(
                "and proves that the gradient it takes at the kink is a subgradient",
                "between -1 and 1" in said,
            ),
        ),
    )


def kink_chart(error: Tensor, values: Tensor, slopes: Tensor) -> LineChart:
    """The value and its gradient; at the kink, all subgradients and the one that is taken."""
    x, y = tuple(error.tolist()), slopes.tolist()
    sides = tuple(slope if number else None for number, slope in zip(x, y, strict=True))
    return LineChart(
        "Value and gradient of |x|",
        "prediction - target",
        "",
        (
            Series("value", x, tuple(values.tolist())),
            Series("gradient by autograd", x, sides),
            Series("every subgradient at 0", (0.0, 0.0), (-1.0, 1.0)),
            Series("the one that autograd takes", (0.0,), (y[x.index(0.0)],), "dots"),
        ),
        "The gradient jumps at the kink. What autograd takes there lies between both slopes, so a "
        "step along it is as good as any.",
    )


def detail_of(report: Report, rule: str) -> str:
    """What a rule that proved something says of it."""
    return "; ".join(outcome.detail for outcome in report.proved if outcome.name == rule)


def not_differentiable() -> Part:
    """What if it is not differentiable?"""
    report = lossproof.check(error_rate, *logits_and_classes())
    line = line_of(code_of(error_rate), "argmax")
    hit = [one.location for one in report.findings if one.location]
    return Part(
        "What if it is not differentiable?",
        (
            "Then no gradient reaches the model, and it does not train. The check names the "
            "operation, its line, and what to take in its place.",
            report,
        ),
        (
            Claim("`check` convicts the metric of being flat (LP204)", found(report, "LP204")),
            Claim(f"and points at `argmax` in line {line}", [at.line for at in hit] == [line]),
        ),
    )


def line_of(code: Code, words: str) -> int:
    """The line of a listing that holds these words."""
    place = code.place
    lines = range(place.line, (place.end_line or place.line) + 1)
    texts = {number: type(place).at(place.file, number).source or "" for number in lines}
    return next(number for number, text in texts.items() if words in text)


def a_surrogate() -> Part:
    """And if that metric is what I want?"""
    logits, target = logits_and_classes()
    value = trainable_error_rate(logits, target)
    (grad,) = torch.autograd.grad(value, logits)
    (soft,) = torch.autograd.grad(soft_error_rate(logits, target), logits)
    hard = error_rate(logits, target)
    report = lossproof.check(trainable_error_rate, logits, target)
    return Part(
        "And if that metric is what I want?",
        (
            "Keep it as the value and take the gradient of a soft neighbour: "
            "`straight_through(error_rate, soft_error_rate)`. It is declared to be a surrogate, so "
            "the check does not take it for a mistake, and says so:",
            Said("assumed", report.assumptions[0]),
            table(
                ("", "value", "norm of the gradient"),
                ("the metric", hard.item(), "none"),
                ("its soft neighbour", soft_error_rate(logits, target).item(), soft.norm().item()),
                ("the surrogate", value.item(), grad.norm().item()),
            ),
        ),
        (
            Claim("the surrogate has the value of the metric", torch.equal(value, hard)),
            Claim("and the gradient of its neighbour", torch.allclose(grad, soft)),
            Claim("the check finds nothing wrong with it", report.ok),
        ),
    )


def requires_grad() -> Part:
    """Do I set `requires_grad` on the loss?"""
    prediction, target = predictions()
    inherited = mean_absolute_error(prediction, target).requires_grad
    cut = mean_absolute_error(prediction.detach(), target)
    message = ""
    try:
        cut.backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        message = str(error)
    without = cut.requires_grad
    cut.requires_grad_().backward()  # type: ignore[no-untyped-call]
    report = lossproof.check(mean_absolute_error, prediction.detach(), target)
    return Part(
        "Do I set `requires_grad` on the loss?",
        (
            "No. A loss requires a gradient because one of its inputs does. Where none does, "
            "`backward()` refuses; to set it on the loss by hand silences that, and still trains "
            "nothing.",
            table(
                ("the prediction", "the loss", "backward()"),
                ("requires a gradient", f"requires_grad={inherited}", "runs"),
                ("does not", f"requires_grad={without}", "RuntimeError"),
                ("does not, the loss by hand", "requires_grad=True", f"grad is {prediction.grad}"),
            ),
            Said("RuntimeError", message),
            "A check needs no such setting: it takes the prediction by its name, and says so.",
            Said("assumed", report.assumptions[0]),
        ),
        (
            Claim("the loss requires a gradient when its prediction does", inherited),
            Claim("and refuses `backward()` when none of its inputs does", "require" in message),
            Claim("set by hand, it sends no gradient to the prediction", prediction.grad is None),
        ),
    )


OUTLINE = Outline(
    "function or layer",
    "Function or layer?",
    "Do I write a function or a layer? What if it is not differentiable? Do I set `requires_grad` "
    "on the loss?",
    "One function gives both forms. The check names the operation without a gradient, and its "
    "line; at a kink it proves that the gradient is a subgradient. A loss needs no `requires_grad` "
    "of its own.",
    (one_function_is_both, the_kink, not_differentiable, a_surrogate, requires_grad),
)
