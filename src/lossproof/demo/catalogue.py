"""Story 2: a catalogue of losses, and a base to build one's own on."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import lossproof
from lossproof import losses
from lossproof.checks.chart import LineChart, Series
from lossproof.checks.curves import curves
from lossproof.checks.examination import Examination
from lossproof.checks.inputs import inputs_for
from lossproof.checks.subject import subject_of
from lossproof.demo.story import Claim, Outline, Part, Pictures, Said, code_of, table
from lossproof.losses.catalogue import CatalogueEntry, catalogue, named
from lossproof.write import from_numpy

Array = np.ndarray[Any, Any]

WALL = (
    "huber_loss", "log_cosh_loss", "charbonnier_loss", "general_robust_loss", "wing_loss",
    "pinball_loss", "hinge_loss", "sigmoid_focal_loss", "poisson_nll_loss",
    "asymmetric_loss", "student_t_nll_loss", "tweedie_loss",
)  # fmt: skip
"""Losses whose curves are drawn."""


# ---------------------------------------------------------------------------- the losses
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
    """The fourth power of the error: large errors count very much."""
    values = ((input - target) / scale) ** 4
    return lossproof.reduce(values, weight, reduction, mask=mask, normalizer=normalizer)


QuarticLoss = lossproof.as_module(quartic_loss)


def fair_values(input: Array, target: Array) -> Any:
    """Fair's robust loss, as somebody has it in numpy."""
    size = np.abs(input - target)
    return size - np.log1p(size)


def fair_slopes(input: Array, target: Array) -> Any:
    """Its derivative, as they worked it out."""
    error = input - target
    return error / (1 + np.abs(error))


fair_loss = from_numpy(fair_values, fair_slopes)


def inputs() -> tuple[Tensor, Tensor]:
    """Predictions of 8 samples with 3 values, and their targets."""
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(8, 3, generator=generator, requires_grad=True)
    return prediction, torch.randn(8, 3, generator=generator)


# ---------------------------------------------------------------------------- the story
def one_of_many() -> Part:
    """Is there one for me?"""
    entries = catalogue()
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 3, 2, -100, 1, 1])
    layer = losses.FocalLoss(gamma=1.5, weight=torch.tensor([1.0, 1.0, 2.0, 5.0]))
    options: dict[str, Any] = {"gamma": layer.gamma, "weight": layer.weight}
    whole = losses.focal_loss(logits, labels, **options)
    items = losses.focal_loss(logits, labels, **options, reduction="none")
    total = losses.focal_loss(logits, labels, **options, reduction="sum")
    state = list(nn.ModuleDict({"loss": layer}).state_dict())
    pages = [entry.doc for entry in entries if "Example:" in entry.doc and ">>>" in entry.doc]
    return Part(
        "Is there one for me?",
        (
            f"{len(entries)} losses keep one contract: torch's argument names, logits, every "
            "reduction, class weights as buffers, an ignored label. `lossproof losses` lists them, "
            "`lossproof losses focal` shows one. This is its layer:",
            Said("repr", repr(layer)),
            table(
                ("", "value"),
                ("the layer", layer(logits, labels).item()),
                ("the function", whole.item()),
                ('reduction="none"', " ".join(f"{item:.3g}" for item in items.tolist())),
                ('reduction="sum"', total.item()),
                ("state_dict", ", ".join(state)),
            ),
            Pictures(tuple(map(curve_of, map(entry_of, WALL))), small=True),
        ),
        (
            Claim("layer and function agree", torch.equal(layer(logits, labels), whole)),
            Claim("the items add up to the sum", torch.allclose(items.sum(), total)),
            Claim("the item with the label -100 counts nothing", items[3].item() == 0),
            Claim("the class weights are in the `state_dict`", state == ["loss.weight"]),
            Claim(
                f"each of the {len(entries)} has an example on its page",
                len(pages) == len(entries),
            ),
        ),
    )


def entry_of(name: str) -> CatalogueEntry:
    """A loss of the catalogue by its name."""
    entry = named(name)
    if entry is None:
        raise LookupError(f"the catalogue has no `{name}`")
    return entry


def curve_of(entry: CatalogueEntry) -> LineChart:
    """The value and the derivative of a loss, while one number of its prediction moves."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        subject = subject_of(entry.module(**entry.options))
        case = Examination(subject, inputs_for(subject, [entry.inputs[0]], 0))
        value, slope = curves(case, hold_stops=True, patient=True)
    assert isinstance(value, LineChart) and isinstance(slope, LineChart)
    (first, *_), (second, *_) = value.series, slope.series
    series = Series("value", first.x, first.y), Series("derivative", second.x, second.y)
    return LineChart(entry.name, value.x_label, "", series, entry.summary)


def options_of_old() -> Part:
    """Does old code still run?"""
    rows, agree, warned = [], [], []
    for average, reduce in itertools.product((True, False, None), repeat=2):
        if average is reduce is None:
            continue
        old: dict[str, Any] = {"size_average": average, "reduce": reduce}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ours = losses.HuberLoss(**old).reduction
            warned += [any(w.category is DeprecationWarning for w in caught)]
            theirs = nn.L1Loss(**old).reduction
        rows.append((f"size_average={average}, reduce={reduce}", ours, theirs))
        agree.append(ours == theirs)
    return Part(
        "Does old code still run?",
        (
            "`size_average` and `reduce` mean what `torch.nn` makes of them, with a "
            "`DeprecationWarning` that says what to write instead.",
            table(("given", "here", "torch.nn"), *rows),
        ),
        (
            Claim("all eight ways are mapped as `torch.nn` maps them", all(agree)),
            Claim("each with a `DeprecationWarning`", all(warned)),
        ),
    )


def a_loss_of_ones_own() -> Part:
    """What do I inherit from?"""
    layer = QuarticLoss(scale=2.0)
    prediction, target = inputs()
    whole = layer(prediction, target)
    halves = slice(0, 4), slice(4, 8)
    both = sum(layer(prediction[k], target[k], normalizer=prediction.numel()) for k in halves)
    report = lossproof.check(layer, prediction, target)
    return Part(
        "What do I inherit from?",
        (
            "Nothing. A function that ends in `lossproof.reduce` has every reduction, weights, "
            "masks and a global `normalizer`, with which the parts of a batch add up to the whole.",
            code_of(quartic_loss),
            table(
                ("", "value"),
                (repr(layer), whole.item()),
                ("the sum over two halves of the batch", both.item()),
            ),
            Said("the check", verdict_of(report)),
        ),
        (
            Claim("two halves of the batch add up to the whole", torch.allclose(both, whole)),
            Claim("the check finds nothing wrong with it", report.ok),
        ),
    )


def verdict_of(report: lossproof.Report) -> str:
    """What a check without findings comes to."""
    return (
        f"{len(report.findings)} findings, {len(report.proved)} proved, "
        f"{len(report.unproved)} unproved, of `{report.subject}`"
    )


def from_numpy_with_its_own_gradient() -> Part:
    """And one that is computed in numpy?"""
    prediction, target = inputs()
    (grad,) = torch.autograd.grad(fair_loss(prediction, target, reduction="sum"), prediction)
    error = (prediction - target).detach()
    right = torch.allclose(grad, error / (1 + error.abs()))
    wrong = from_numpy(fair_values, lambda x, y: -fair_slopes(x, y))
    message = ""
    try:
        torch.autograd.grad(wrong(prediction, target), prediction)
    except ValueError as refusal:
        message = str(refusal)
    report = lossproof.check(fair_loss, *inputs())
    return Part(
        "And one that is computed in numpy?",
        (
            "`from_numpy(value, gradient)` makes a loss of it that trains. The gradient that you "
            "worked out is compared with the values when it is first used; here, one with the sign "
            "the wrong way round:",
            code_of(fair_values, fair_slopes),
            Said("ValueError", message),
            Said("the check of the right one", verdict_of(report)),
        ),
        (
            Claim("the gradient that arrives is the one that was worked out", right),
            Claim("one with the wrong sign is refused", "`gradient`" in message),
            Claim("the check finds nothing wrong with the right one", report.ok),
        ),
    )


OUTLINE = Outline(
    "the catalogue",
    "A catalogue, and a base of one's own",
    "Is there a catalogue of losses with one convention? What does a loss of my own inherit from, "
    "and what of one that I have in numpy?",
    "Each loss of the catalogue is a function and a layer with the same options. A function that "
    "ends in `reduce` has all that they have, and a loss in numpy joins in with its own gradient.",
    (one_of_many, options_of_old, a_loss_of_ones_own, from_numpy_with_its_own_gradient),
)
