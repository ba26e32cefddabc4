"""Which known loss a loss is, or which it fails to be and by what."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch

from lossproof.checks.agreement import tensors_agree
from lossproof.checks.examination import Examination
from lossproof.checks.likeness.draws import Draws
from lossproof.checks.likeness.fit import (
    SAME,
    Deviation,
    Fit,
    Group,
    all_columns,
    deviations,
    fit,
    opposite_groups,
    right_columns,
    weighted_sum,
)
from lossproof.checks.likeness.from_catalogue import claimed_in_catalogue
from lossproof.checks.likeness.known import (
    Binding,
    KnownLoss,
    Reading,
    Slot,
    Terms,
    known_losses,
)
from lossproof.checks.likeness.options import Options
from lossproof.checks.roles import role_by_name, roles_of

Tensor = torch.Tensor

MOST_DRAWS = 30
FEWEST_DRAWS = 6
CONVICTING = 1e-5
"""The relative residual from which on other coefficients say nothing: another shape may be near."""
UNCLAIMED = 1e-8
"""The relative residual up to which a loss equals a known one that its name does not claim."""
ROWS_PER_TERM = 3
LARGEST = 20_000
"""Inputs with more elements are left alone: their definitions would take too long."""


class Claim(Enum):
    """What says that a loss is a known one, strongest first."""

    NAME = "name"
    CALL = "call"
    NONE = "none"


@dataclass(frozen=True)
class Match:
    """A loss and a known one that it equals, or nearly equals in a way that is known."""

    known: KnownLoss
    reading: Reading
    binding: Binding
    options: dict[str, Any]
    fit: Fit
    points: int
    factor: float
    wrong: tuple[Deviation, ...] = ()
    """The terms with wrong coefficients."""
    negated: bool = False
    swapped: bool = False

    elements: int = 1
    """How many values the first term has."""
    meant: bool = False
    """Whether its coefficients are those of another member of the family."""
    claim: Claim = Claim.NAME
    """What says that the loss is this one."""
    unbalanced: str | None = None
    """What is wrong with the factors of its groups."""

    @property
    def right(self) -> bool:
        """Whether the loss is what the literature says."""
        slip = self.reading.wrong or self.wrong or self.negated or self.swapped
        return not slip and self.unbalanced is None


class Likeness:
    """The loss under check, its values at fresh draws, and the search through known losses."""

    def __init__(self, case: Examination) -> None:
        self.case = case
        numbers = {a.name: a.value for a in case.inputs.arguments if isinstance(a.value, float)}
        self.options = Options(case.subject, numbers)
        self.words = names_of(case)
        trace = case.base.trace
        self.called = {o.name for o in trace.operations} if trace is not None else set()
        self.slots = _slots(case)
        self.neutral = _neutral(case, self.slots, 1.0)
        self.draws = Draws(case, self.neutral)
        self.open = tuple(s for s in self.slots if s.position not in self.neutral)
        self._values: dict[int, float | None] = {}
        self._tensors: dict[tuple[int, int], Tensor] = {}

    # ------------------------------------------------------------------ the loss's own values
    def value(self, draw: int) -> float | None:
        """The loss's value in float64; ``None`` where it has none that is finite."""
        if draw not in self._values:
            found = self.case.evaluate(self.draws[draw], dtype=torch.float64, backward=False)
            value = None
            if found.error is None and found.value is not None:
                total = float(found.value.detach().double().sum())
                value = total if abs(total) < 1e300 else None
            self._values[draw] = value
        return self._values[draw]

    @functools.cached_property
    def usable(self) -> bool:
        """Whether the loss gives finite values that vary."""
        sizes = sum(slot.value.numel() for slot in self.slots)
        if not self.slots or sizes > LARGEST or not self.case.affordable(MOST_DRAWS):
            return False
        return self._varies() or (bool(self.neutral) and self._masked_by_ones())

    def _varies(self) -> bool:
        values = [self.value(draw) for draw in range(3)]
        return None not in values and len(set(values)) > 1

    def _masked_by_ones(self) -> bool:
        """A mask of ones may hide everything (padding): then zeros are what changes nothing."""
        self._values.clear()
        self._tensors.clear()
        self.neutral = _neutral(self.case, self.slots, 0.0)
        self.draws = Draws(self.case, self.neutral)
        return self._varies()

    def points(self, count: int) -> list[int]:
        """The first ``count`` draws at which the loss has a value."""
        found = []
        for draw in range(min(count + 6, MOST_DRAWS)):
            if self.value(draw) is not None:
                found.append(draw)
            if len(found) == count:
                break
        return found

    # ------------------------------------------------------------------ the search
    def matches(self) -> Iterator[Match]:
        """Everything that fits: what names claim, then what calls claim, then everyday losses."""
        for claim in Claim:
            for known in self._known:
                for binding in known.roles(self.open):
                    if self._claim(known, binding) is claim:
                        found = self._match(known, binding, deep=claim is not Claim.NONE)
                        if found is not None:
                            yield replace(found, claim=claim)

    @functools.cached_property
    def _known(self) -> tuple[KnownLoss, ...]:
        """The losses known by their terms, or else those of the catalogue that the name claims."""
        known = known_losses()
        if any(one.claimed_by(self.words) for one in known):
            return known
        return (*known, *claimed_in_catalogue(self.words))

    def _claim(self, known: KnownLoss, binding: Binding) -> Claim | None:
        if known.claimed_by(self.words) or known.claimed_by_arguments(binding):
            return Claim.NAME
        if not self.called.isdisjoint(known.calls):
            return Claim.CALL
        return Claim.NONE if known.everyday else None

    def claims(self) -> list[KnownLoss]:
        """The known losses that the name claims and whose inputs fit."""
        return [
            known
            for known in self._known
            if known.claimed_by(self.words) and any(True for _ in known.roles(self.open))
        ]

    def _match(self, known: KnownLoss, binding: Binding, deep: bool) -> Match | None:
        """The first reading that fits, in the order of their declaration; else the nearest."""
        inexact: list[Match] = []
        for reading in known.readings:
            if reading.wrong is not None and not (deep and self._slips(reading, binding)):
                continue
            for found in self._readings(known, reading, binding, deep):
                if not found.wrong and not found.negated:
                    return found
                inexact.append(found)
        if any(match.meant or self._excused(match) for match in inexact):
            return None
        return min(inexact, key=lambda m: (len(m.wrong), m.fit.residual), default=None)

    def _slips(self, reading: Reading, binding: Binding) -> bool:
        """Whether this slip is one, or is said by the names to be meant."""
        for role, pattern in reading.needs.items():
            if re.search(pattern, _words(binding[role].name)) is None:
                return False
        return reading.unless is None or re.search(reading.unless, self._all_names) is None

    @property
    def _all_names(self) -> str:
        return " ".join([self.words, *(_words(slot.name) for slot in self.slots)])

    def _readings(
        self, known: KnownLoss, reading: Reading, binding: Binding, deep: bool
    ) -> Iterator[Match]:
        for options in self.options.choices(reading.terms):
            found = self._try(known, reading, binding, options, deep)
            if found is not None:
                yield found
            if not deep and not options:
                return

    def _try(
        self,
        known: KnownLoss,
        reading: Reading,
        binding: Binding,
        options: dict[str, Any],
        deep: bool,
    ) -> Match | None:
        first = self.terms(reading, binding, options, 0)
        if not first:
            return None
        whole = len(first) > 1 and deep and reading.wrong is None
        wanted = (len(first) if whole else 1) + 2
        samples, values = self._samples(reading, binding, options, wanted)
        if len(samples) < wanted or not self._fits(samples, values, whole):
            return None
        wanted = min(max(FEWEST_DRAWS, ROWS_PER_TERM * len(first)), MOST_DRAWS - 4)
        samples, values = self._samples(reading, binding, options, wanted)
        if len(samples) < wanted:
            return None
        groups, columns = right_columns(samples)
        same = fit(values, columns)
        strict = same is not None and (deep or same.residual < UNCLAIMED)
        if (
            same is not None
            and same.exact
            and strict
            and self._constant_fits(known, samples[0], same)
        ):
            right = same.positive(all_seen=reading.wrong is not None)
            opposite = same.negative and reading.wrong is None and deep and self._is_minimised
            if right or opposite:
                return Match(
                    known, reading, binding, options, same, len(samples), same.coefficients[0],
                    negated=not right, swapped=known.ordered and self._swapped(binding),
                    elements=next(iter(samples[0].values())).value.numel(),
                    unbalanced=self._unbalanced(known, binding, groups, same) if deep else None,
                )  # fmt: skip
            wrong = opposite_groups(groups, same) if deep and reading.wrong is None else []
            if wrong:
                return Match(
                    known, reading, binding, options, same, len(samples), same.coefficients[0],
                    tuple(wrong),
                )  # fmt: skip
        if not whole:
            return None
        _, columns = all_columns(samples)
        each = fit(values, columns)
        if each is None or each.residual > CONVICTING or not each.determined:
            return None
        factor, wrong = deviations(samples[0], each.coefficients)
        named = dict(zip(samples[0], each.coefficients, strict=True))
        if not wrong:
            return None
        meant = known.excuse is not None and known.excuse(named, each.offset, samples[0])
        return Match(
            known, reading, binding, options, each, len(samples), factor, tuple(wrong), meant=meant,
        )  # fmt: skip

    def _unbalanced(
        self, known: KnownLoss, binding: Binding, groups: Sequence[Group], found: Fit
    ) -> str | None:
        if known.balance is None:
            return None
        factors = {g.name: c for g, c in zip(groups, found.coefficients, strict=True)}
        ratios = [a / b for a in factors.values() for b in factors.values() if b]
        if any(self.options.has(ratio) for ratio in ratios if abs(ratio - 1) > SAME):
            return None
        return known.balance(factors, binding)

    def _constant_fits(self, known: KnownLoss, terms: Terms, found: Fit) -> bool:
        """Whether the constant beside the terms is one that the loss may have."""
        if known.constant == "free":
            return True
        size = sum(abs(c) for c in found.coefficients)
        count = next(iter(terms.values())).value.numel()
        allowed = (0.0,) if known.constant == "none" else (0.0, found.coefficients[0] * count)
        return any(abs(found.offset - wanted) <= SAME * size for wanted in allowed)

    def _fits(self, samples: Sequence[Terms], values: Tensor, whole: bool) -> bool:
        columns = (all_columns if whole else right_columns)(samples)[1]
        quick = fit(values, columns)
        return quick is not None and quick.exact

    def _samples(
        self, reading: Reading, binding: Binding, options: dict[str, Any], count: int
    ) -> tuple[list[Terms], Tensor]:
        points = self.points(count)
        samples = []
        values = []
        for draw in points:
            terms = self.terms(reading, binding, options, draw)
            value = self.value(draw)
            if terms and value is not None:
                samples.append(terms)
                values.append(value)
        return samples, torch.tensor(values, dtype=torch.float64)

    def terms(
        self, reading: Reading, binding: Binding, options: dict[str, Any], draw: int
    ) -> Terms | None:
        """The terms of a known loss at a draw; ``None`` where they are not defined."""
        tensors = {role: self._tensor(draw, slot.position) for role, slot in binding.items()}
        try:
            found = reading.terms(**tensors, **options)
        except (RuntimeError, IndexError, ValueError, TypeError, ArithmeticError):
            return None  # shapes or options for which the definition has no meaning
        finite = all(bool(torch.isfinite(term.value).all()) for term in found.values())
        return found if found and finite else None

    def _tensor(self, draw: int, position: int) -> Tensor:
        """An input of a draw in float64, the same object each time."""
        if (draw, position) not in self._tensors:
            value = self.draws[draw][position].detach().cpu()
            wide = value.double() if value.is_floating_point() else value
            self._tensors[draw, position] = wide
        return self._tensors[draw, position]

    def same_gradient(self, match: Match) -> bool:
        """Whether the gradient, too, is that of the known loss, at two draws."""
        return all(self._same_gradient(match, draw) for draw in self.points(2))

    def _same_gradient(self, match: Match, draw: int) -> bool:
        wanted = {r: s for r, s in match.binding.items() if s.differentiable}
        leaves = {r: self._tensor(draw, s.position).clone() for r, s in wanted.items()}
        rest = {r: self._tensor(draw, s.position) for r, s in match.binding.items()}
        for leaf in leaves.values():
            leaf.requires_grad_()
        with torch.enable_grad():
            terms = match.reading.terms(**{**rest, **leaves}, **match.options)
            total = weighted_sum(terms, match.fit.coefficients)
        if not leaves or not total.requires_grad:
            return not leaves
        truth = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
        found = self.case.evaluate(self.draws[draw], dtype=torch.float64, upstream=torch.ones_like)
        if found.failed:
            return False
        return all(
            tensors_agree(
                found.gradient(self.case.inputs.differentiable.index(slot.position)).cpu(), true
            )
            for slot, true in zip(wanted.values(), truth, strict=True)
        )

    def _swapped(self, binding: Binding) -> bool:
        """Whether names and gradients say that input and target have changed places."""
        if not {"input", "target"} <= set(binding):
            return False
        given, wanted = binding["input"], binding["target"]
        return (
            wanted.differentiable
            and not given.differentiable
            and role_by_name(given.name) == "target"
            and role_by_name(wanted.name) == "prediction"
        )

    @property
    def _is_minimised(self) -> bool:
        """Whether the name says so: a score or a reward goes up."""
        return bool(_MINIMISED.search(self.words)) and not _MAXIMISED.search(self.words)

    def _excused(self, match: Match) -> bool:
        """Whether an option has the value of what looks wrong: then it is meant."""
        ratios = [abs(d.ratio) for d in match.wrong if d.ratio]
        for ratio in ratios:
            forms = (ratio, 1 / ratio, ratio**2, ratio**-2, ratio**0.5, ratio**-0.5)
            if any(self.options.has(form) for form in forms if form):
                return True
        return False


# ---------------------------------------------------------------------------- names
_MINIMISED = re.compile(r"loss|criterion|nll|\bkl|entropy|penalty|diverg|cost")
_MAXIMISED = re.compile(
    r"coef|(score|metric|similarity)(?! loss)|reward|gain|utility|negative (?!log)"
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def _words(name: str) -> str:
    return " ".join(word.lower() for word in _WORD.findall(name))


def names_of(case: Examination) -> str:
    """The words of the names of a loss and of the user's own functions that it calls."""
    names = [case.subject.name.rpartition(".")[2]]
    call = getattr(case.subject.call, "__self__", case.subject.call)
    if not inspect.isroutine(call):
        module = type(call).__module__
        names += [base.__name__ for base in type(call).__mro__ if base.__module__ == module]
    if case.base.trace is not None:
        for operation in case.base.trace.operations:
            place = operation.site.own
            if place is not None:
                names.append(getattr(place[0], "co_qualname", place[0].co_name))
    known: dict[str, None] = {}
    for name in names:
        for part in name.split("."):
            if part not in ("forward", "__call__", "<lambda>", "<locals>"):
                known[_words(part)] = None
    return " ; ".join(known)


# ---------------------------------------------------------------------------- arguments
def _slots(case: Examination) -> tuple[Slot, ...]:
    return tuple(
        Slot(position, argument.name, argument.value.detach(), argument.differentiable)
        for position, argument in enumerate(case.inputs.arguments)
        if isinstance(argument.value, Tensor) and not argument.value.is_complex()
    )


def _neutral(case: Examination, slots: Sequence[Slot], masks: float) -> dict[int, Tensor]:
    """Weights at one and masks filled, where there is enough beside them to be a loss."""
    roles = roles_of(case.inputs)
    beside = [s.position for s in slots if roles[s.position] in ("weight", "mask")]
    if len(slots) - len(beside) < 2:
        return {}
    return {
        position: torch.full_like(
            case.inputs.values[position], 1.0 if roles[position] == "weight" else masks
        )
        for position in beside
    }
