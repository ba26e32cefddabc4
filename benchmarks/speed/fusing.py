"""Time of losses that are fused with their gradient, beside `torch.compile` and the floor.

Pages are kept by the allocator in one study, as training that has run for a while on a tuned
machine finds them, and fresh in the other, as they are by default.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import results, tables
from benchmarks.harness.floors import moved
from benchmarks.harness.study import TIMES, WHOLE, Case, Kind, Method, Step, Study
from benchmarks.speed.allocator import (
    COMPILED,
    EAGER,
    FUSED,
    HUGE,
    KEPT,
    Loss,
    charbonnier,
    focal,
    mse,
    way_of,
)
from lossproof import losses

FLOOR, SCALED = "one read and one write", "lossproof fuse, loss times 3"
KEEPING = {**HUGE, **KEPT}
MILLION = 10**6


# ---- the five that have an aim, as a user writes them


def huber(input: Tensor, target: Tensor) -> Tensor:
    error = (input - target).abs()
    return torch.where(error < 1, 0.5 * error**2, error - 0.5).mean()


def quantile(input: Tensor, target: Tensor) -> Tensor:
    levels = torch.tensor([0.1, 0.5, 0.9])
    error = target.unsqueeze(1) - input
    return torch.maximum(levels * error, (levels - 1) * error).mean()


THREE_LEVELS = partial(losses.pinball_loss, quantiles=(0.1, 0.5, 0.9))
FORMULAS: dict[str, Loss] = {
    "MSE": mse, "Charbonnier": charbonnier, "Huber": huber, "focal": focal, "quantile": quantile,
    "our MSE": losses.mse_loss, "our Charbonnier": losses.charbonnier_loss,
    "our Huber": losses.huber_loss, "our focal": losses.sigmoid_focal_loss,
    "our quantile": THREE_LEVELS,
}  # fmt: skip
NEAR_THE_FLOOR = ("MSE", "Charbonnier", "Huber")


# ---- the catalogue's twenty


def _two(items: int) -> tuple[Tensor, ...]:
    return torch.randn(items), torch.randn(items)


def _yes_or_no(items: int) -> tuple[Tensor, ...]:
    return torch.randn(items), (torch.randn(items) > 1).float()


def _three(items: int) -> tuple[Tensor, ...]:
    return torch.randn(items // 3, 3), torch.randn(items // 3)


def _classes(items: int) -> tuple[Tensor, ...]:
    return torch.randn(items // 100, 100), torch.randint(100, (items // 100,))


def _distributions(items: int) -> tuple[Tensor, ...]:
    shape = items // 100, 100
    return torch.randn(shape).log_softmax(1), torch.randn(shape).softmax(1)


def _pixels(items: int) -> tuple[Tensor, ...]:
    side = int((items / 21) ** 0.5)
    return torch.randn(1, 21, side, side), torch.randint(21, (1, side, side))


def _images(items: int) -> tuple[Tensor, ...]:
    shape = max(1, items // (3 * 256 * 256)), 3, 256, 256
    return torch.rand(shape), torch.rand(shape)


def _vectors(items: int, count: int = 2) -> tuple[Tensor, ...]:
    return tuple(torch.randn(items // 256, 256) for _ in range(count))


def _with_variance(items: int) -> tuple[Tensor, ...]:
    return (*_two(items), torch.rand(items) + 0.5)


def _counts(items: int) -> tuple[Tensor, ...]:
    return torch.randn(items), torch.poisson(torch.rand(items) * 3)


CATALOGUE: dict[str, tuple[Loss, Callable[[int], tuple[Tensor, ...]]]] = {
    "mse_loss": (losses.mse_loss, _two),
    "l1_loss": (losses.l1_loss, _two),
    "smooth_l1_loss": (losses.smooth_l1_loss, _two),
    "huber_loss": (losses.huber_loss, _two),
    "charbonnier_loss": (losses.charbonnier_loss, _two),
    "log_cosh_loss": (losses.log_cosh_loss, _two),
    "pinball_loss": (THREE_LEVELS, _three),
    "gaussian_nll_loss": (losses.gaussian_nll_loss, _with_variance),
    "poisson_nll_loss": (losses.poisson_nll_loss, _counts),
    "binary_cross_entropy_with_logits_loss": (
        losses.binary_cross_entropy_with_logits_loss, _yes_or_no,
    ),
    "cross_entropy_loss": (losses.cross_entropy_loss, _classes),
    "kl_divergence_loss": (losses.kl_divergence_loss, _distributions),
    "sigmoid_focal_loss": (losses.sigmoid_focal_loss, _yes_or_no),
    "focal_loss": (losses.focal_loss, _classes),
    "dice_loss": (losses.dice_loss, _pixels),
    "tversky_loss": (losses.tversky_loss, _pixels),
    "lovasz_softmax_loss": (losses.lovasz_softmax_loss, _pixels),
    "triplet_margin_loss": (losses.triplet_margin_loss, partial(_vectors, count=3)),
    "info_nce_loss": (losses.info_nce_loss, lambda items: _vectors(items // 4)),
    "ssim_loss": (losses.ssim_loss, _images),
}  # fmt: skip
"""The most used, with what they are given."""


def drawn(loss: str, items: int) -> tuple[Loss, tuple[Tensor, ...]]:
    """A loss and a batch of about so many elements."""
    if loss in CATALOGUE:
        function, draw = CATALOGUE[loss]
        return function, draw(items)
    by_name = {"focal": _yes_or_no, "quantile": _three}
    return FORMULAS[loss], by_name.get(loss.removeprefix("our "), _two)(items)


# ---- the steps


def make(case: Case, method: Method) -> Step | Callable[[], Any]:
    """Forward and backward of one way."""
    torch.manual_seed(0)
    loss, (input, *others) = drawn(case["loss"], case["items"])
    if method.name == FLOOR:
        return moved(2 * input.nbytes + sum(other.nbytes for other in others))
    input.requires_grad_()
    way = way_of(loss, method.name)
    factor = 3.0 if method.name == SCALED else None
    value: list[Tensor] = []

    def backward() -> None:
        total = value.pop()
        (total if factor is None else total * factor).backward()

    step = Step(
        {"forward": lambda: value.append(way(input, *others)), "backward": backward},
        before=partial(setattr, input, "grad", None),
    )
    step.facts = lambda: {
        "loss": float(way(input, *others).detach()),
        **({"kept": way.choices[0].way} if hasattr(way, "choices") else {}),
    }
    return step


METHODS = (
    Method(EAGER, Kind.plain),
    Method(COMPILED),
    Method(FUSED, Kind.ours),
    Method(SCALED, Kind.ours),
    Method(FLOOR, Kind.floor),
)


study_of = partial(
    Study,
    title="Losses fused with their gradient",
    methods=METHODS,
    make=make,
    baseline=COMPILED,
    rounds=11,
    seconds=60.0,
    sources=("benchmarks.speed.allocator",),
)


def case_of(loss: str, items: int, *methods: str) -> Case:
    shown = {MILLION: "a million", 10 * MILLION: "ten million"}[items]
    return Case(f"{loss}, {shown}", {"loss": loss, "items": items}, methods, (TIMES,))


SIZES = (MILLION, 10 * MILLION)
KEPT_STUDY = study_of(
    name="speed_fuse_kept",
    asks="what does a pointwise loss cost in one sweep, with pages that are kept?",
    takes="20 min",
    cases=tuple(case_of(loss, items) for loss in FORMULAS for items in SIZES),
    environment=KEEPING,
)
FRESH_STUDY = study_of(
    name="speed_fuse_fresh",
    asks="what does a pointwise loss cost in one sweep, with fresh pages?",
    takes="10 min",
    cases=tuple(case_of(loss, items) for loss in list(FORMULAS)[:5] for items in SIZES),
)
CATALOGUE_STUDY = study_of(
    name="speed_fuse_catalogue",
    asks="is the catalogue, fused, never slower than compiled?",
    takes="25 min",
    cases=tuple(case_of(loss, MILLION, EAGER, COMPILED, FUSED) for loss in CATALOGUE),
    environment=KEEPING,
)


# ---- the page


def page(*data: dict[str, Any] | None) -> Iterable[Any]:
    """The page of `fuse`: what was aimed at, then every case."""
    there = [study for study in data if study is not None]
    yield "# Losses fused with their gradient"
    yield (
        "`lossproof.fuse` computes the value of a loss and its gradient in one compiled program, "
        "and keeps whichever is fastest on the first call: that, two programs as `torch.compile` "
        "makes them, or the loss as it is written. *Kept* says which it was. *One read and one "
        "write* is a copy of as many bytes as the inputs and the gradient have; a loss reads "
        "twice as much as it writes, so that it may take less. Losses called *our* are those of "
        "the catalogue, the others formulas."
    )
    yield tables.HOW
    for study in there:
        yield from tables.setting(study)
    yield "## Aims"
    yield results.table(
        ("what", "aim", "reached", "is it?"),
        [row for study in there for row in aims(study)],
    )
    for study in there:
        yield f"## {study['study'].removeprefix('speed_fuse_').capitalize()}"
        for case in study["cases"]:
            yield f"### {case['case']}"
            yield tables.case_table(case, study)
            yield from tables.remarks(case)
    commands = ", ".join(f"`python -m benchmarks {study['study']}`" for study in there)
    yield f"{commands} make this page."


def aims(study: dict[str, Any]) -> Iterable[tuple[str, ...]]:
    """Time over that of torch.compile, and over the floor."""
    pages = study["study"].removeprefix("speed_fuse_")
    for case in study["cases"]:
        ours = case["methods"].get(FUSED, {})
        if "ratio" not in ours:
            continue
        aim = 1.0 if pages == "catalogue" else 0.7
        yield _row(f"over torch.compile, {pages}, {case['case']}", aim, _ratio(ours))
        floor = case["methods"].get(FLOOR, {})
        if case["case"].split(",")[0] in NEAR_THE_FLOOR and "each_round_ms" in floor:
            rounds = zip(ours["each_round_ms"], floor["each_round_ms"], strict=True)
            over = statistics.median(own / least for own, least in rounds)
            yield _row(f"over the floor, {pages}, {case['case']}", 1.2, over)


def _ratio(figures: dict[str, Any]) -> float:
    found: float = figures["ratio"][WHOLE]["median"]
    return found


def _row(what: str, aim: float, reached: float) -> tuple[str, ...]:
    return what, f"{aim:g}", tables.number(reached), "yes" if reached <= aim else "no"
