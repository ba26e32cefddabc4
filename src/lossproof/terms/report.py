"""The figures of one step, fetched from the device at once, and what is wrong with its terms."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Literal, get_args

import torch

from lossproof.write.arguments import number

if TYPE_CHECKING:
    from lossproof.terms.balance.step import BalanceStep
    from lossproof.terms.gradients import TermGradients

Tensor = torch.Tensor
Magnitude = Literal["norm", "mean_abs", "max_abs"]
Kind = Literal["nonfinite", "dropped", "dead", "dominating", "conflicting", "runaway"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MAGNITUDES: tuple[Magnitude, ...] = get_args(Magnitude)
"""What tells the size of a gradient, the best first."""
WORDS = {
    "norm": "gradient norm",
    "mean_abs": "mean magnitude of the gradient",
    "max_abs": "largest magnitude in the gradient",
}
DOMINATING = 0.95
"""The share of a term above which all others together carry less than a twentieth."""
CONFLICTING = -0.1
"""The cosine of a pair below it is no noise: it is about 1/sqrt(P) between P random numbers."""
MOST_COSINES = 8
"""With more terms than that the table lists the pairs that conflict most, not all pairs."""


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with one term, or with a pair of terms.

    Attributes:
        kind: ``"nonfinite"``, ``"dropped"``, ``"dead"``, ``"dominating"`` or ``"conflicting"``;
            over many steps ``"runaway"``, too.
        terms: the names of the terms.
        message: what is wrong, in words.
    """

    kind: Kind
    terms: tuple[str, ...]
    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class StepReport:
    """The figures of one step as plain Python numbers: what ``step.report()`` returns.

    Attributes:
        names: the names of the terms.
        values: their values.
        weights: their weights.
        total: what was minimised.
        refreshed: whether the weights were computed anew.
        magnitude: what is known of the size of the gradients: ``"norm"``, else ``"mean_abs"``,
            else ``"max_abs"``, or ``None``.
        magnitudes: that of each term.
        cosines: the cosine between every two gradients, a row for each term, where it is known.
        norm: the norm of the whole gradient before it was clipped, where it was to be.
        constant: the terms that depend on none of the parameters.
        dropped: the terms that were left out because they were not finite.

    Example:
        >>> from lossproof.terms.report import StepReport
        >>> report = StepReport(
        ...     names=("data", "pde"),
        ...     values=(0.5, 2.0),
        ...     weights=(1.0, 0.01),
        ...     total=0.52,
        ...     magnitude="norm",
        ...     magnitudes=(2.0, 600.0),
        ...     cosines=((1.0, -0.4), (-0.4, 1.0)),
        ... )
        >>> print(report)
        total 0.52, weights computed anew
        term  value  weight  norm  share  cos data  cos pde
        data    0.5       1     2  25.0%     +1.00    -0.40
        pde       2    0.01   600  75.0%     -0.40    +1.00
        'data' and 'pde' conflict: their gradients have the cosine -0.40
        >>> report.as_dict()["terms/share/pde"]
        0.75
    """

    names: tuple[str, ...]
    values: tuple[float, ...]
    weights: tuple[float, ...]
    total: float
    refreshed: bool = True
    magnitude: Magnitude | None = None
    magnitudes: tuple[float, ...] = ()
    cosines: tuple[tuple[float, ...], ...] | None = None
    norm: float | None = None
    constant: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    @cached_property
    def shares(self) -> tuple[float, ...]:
        """What each term contributes to the step: its weighted magnitude over the sum of them.

        The magnitude is that of the gradient where this step knows the gradients, and else that of
        the value, which says less. A term that is not finite has the share NaN, and does not count.
        """
        sizes = self.magnitudes if self.magnitude else self.values
        weighted = [abs(weight * size) for weight, size in zip(self.weights, sizes, strict=True)]
        largest = max((size for size in weighted if math.isfinite(size)), default=0.0)
        if not largest:
            return tuple(0.0 * size for size in weighted)
        total = sum(size / largest for size in weighted if math.isfinite(size))
        return tuple(
            size / largest / total if math.isfinite(size) else math.nan for size in weighted
        )

    @property
    def pairs(self) -> dict[tuple[str, str], float]:
        """The cosine of every two terms, each pair once; empty where it is not known."""
        if self.cosines is None:
            return {}
        rows = self.cosines
        found = combinations(range(len(self.names)), 2)
        return {(self.names[a], self.names[b]): rows[a][b] for a, b in found}

    def problems(
        self, *, dominating: float = DOMINATING, conflicting: float = CONFLICTING
    ) -> tuple[Problem, ...]:
        """What is wrong with the terms of this step.

        Args:
            dominating: the share above which a term dominates, where another one has any.
            conflicting: the cosine below which two terms conflict.

        Returns:
            Terms that are not finite, were dropped, are dead (they have no gradient, or it is
            zero) or dominate, and pairs that conflict. What a step does not know it does not judge:
            without gradients no term is dead, without the Gramian no pair conflicts.
        """
        number("dominating", dominating, minimum=0, maximum=1)
        number("conflicting", conflicting, minimum=-1, maximum=1)
        return (
            *self._not_finite(),
            *self._dead(),
            *self._dominating(dominating),
            *self._conflicting(conflicting),
        )

    def _not_finite(self) -> Iterator[Problem]:
        for position, name in enumerate(self.names):
            found = {"value": self.values[position], "weight": self.weights[position]}
            if self.magnitude:
                found[WORDS[self.magnitude]] = self.magnitudes[position]
            wrong = [f"{word} {one:g}" for word, one in found.items() if not math.isfinite(one)]
            if name in self.dropped:
                why = wrong[0] if wrong else "its gradient is not finite"
                yield Problem("dropped", (name,), f"{name!r} was left out of the step: {why}")
            elif wrong:
                yield Problem("nonfinite", (name,), f"{name!r} is not finite: {', '.join(wrong)}")

    def _dead(self) -> Iterator[Problem]:
        for position, name in enumerate(self.names):
            if name in self.constant:
                message = f"{name!r} is dead: it depends on none of the parameters"
                yield Problem("dead", (name,), message)
            elif self.magnitude and self.magnitudes[position] == 0:
                yield Problem("dead", (name,), f"{name!r} is dead: its gradient is zero")

    @property
    def shares_judged(self) -> bool:
        """Whether the shares say who dominates; where the weights are held, values do not."""
        return self.magnitude is not None or self.refreshed

    def _dominating(self, limit: float) -> Iterator[Problem]:
        shares = self.shares
        if not self.shares_judged or sum(share > 0 for share in shares) < 2:
            return
        what = WORDS[self.magnitude] if self.magnitude else "value"
        for name, share in zip(self.names, shares, strict=True):
            if share > limit:
                message = f"{name!r} dominates: {share:.1%} of the weighted {what}s"
                yield Problem("dominating", (name,), message)

    def _conflicting(self, limit: float) -> Iterator[Problem]:
        for (a, b), cosine in self.pairs.items():
            if cosine < limit:
                message = f"{a!r} and {b!r} conflict: their gradients have the cosine {cosine:.2f}"
                yield Problem("conflicting", (a, b), message)

    def as_dict(self, prefix: str = "terms/") -> dict[str, float]:
        """All figures as a flat dictionary of Python floats, for any tracker.

        The keys are ``total``, ``refreshed`` (1 or 0), ``total_norm`` (where the gradient was to be
        clipped), ``value/NAME``, ``weight/NAME``; ``norm/NAME`` (or ``mean_abs/NAME``,
        ``max_abs/NAME``) and ``share/NAME`` where the gradients are known, else
        ``value_share/NAME``; ``cosine/NAME/NAME`` where the Gramian is known. What is wrong stands
        there as ``KIND/NAME`` with a 1, in the steps in which it is.

        Args:
            prefix: what every key begins with.
        """
        found = self.figures()
        found |= {f"{one.kind}/{'/'.join(one.terms)}": 1.0 for one in self.problems()}
        return {prefix + key: one for key, one in found.items()}

    def figures(self) -> dict[str, float]:
        """What :meth:`as_dict` has without a prefix and without what is wrong."""
        found = {"total": self.total, "refreshed": float(self.refreshed)}
        if self.norm is not None:
            found["total_norm"] = self.norm
        for word, numbers in self._by_term().items():
            found |= {f"{word}/{name}": one for name, one in zip(self.names, numbers, strict=True)}
        return found | {f"cosine/{a}/{b}": cosine for (a, b), cosine in self.pairs.items()}

    def _by_term(self) -> dict[str, tuple[float, ...]]:
        """What is known of each term, by the word for it."""
        found = {"value": self.values, "weight": self.weights}
        if self.magnitude:
            return found | {self.magnitude: self.magnitudes, "share": self.shares}
        return found | {"value_share": self.shares}

    def __str__(self) -> str:
        from lossproof.show.terms_table import render

        state = "weights computed anew" if self.refreshed else "weights held"
        every_pair = self.cosines is not None and len(self.names) <= MOST_COSINES
        header = ["term", *(word.replace("_", " ") for word in self._by_term())]
        rows = [[name] for name in self.names]
        for word, numbers in self._by_term().items():
            form = ".1%" if "share" in word else ".4g"
            for row, one in zip(rows, numbers, strict=True):
                row.append(f"{one:{form}}")
        if self.cosines is not None and every_pair:
            header += [f"cos {name}" for name in self.names]
            for row, cosines in zip(rows, self.cosines, strict=True):
                row += [f"{cosine:+.2f}" for cosine in cosines]
        lines = [] if every_pair else self._lowest_cosines()
        lines += [str(one) for one in self.problems()]
        return render(f"total {self.total:.6g}, {state}", header, rows, lines)

    def _lowest_cosines(self) -> list[str]:
        lowest = sorted(self.pairs.items(), key=lambda pair: pair[1])[:MOST_COSINES]
        words = ", ".join(f"{a} and {b} {cosine:+.2f}" for (a, b), cosine in lowest)
        return [f"lowest cosines: {words}"] if words else []


@dataclass(frozen=True)
class PackedStep:
    """The numbers of a step in one tensor on its device, so that one transfer fetches them."""

    names: tuple[str, ...]
    numbers: Tensor
    refreshed: bool
    magnitude: Magnitude | None
    paired: bool
    normed: bool
    constant: tuple[str, ...]
    dropped: tuple[str, ...]

    def report(self, numbers: Sequence[float]) -> StepReport:
        """The report of the step, from the numbers that were fetched."""
        left = list(numbers)
        count = len(self.names)

        def taken(size: int) -> tuple[float, ...]:
            part, left[:] = left[:size], left[size:]
            return tuple(part)

        return StepReport(
            self.names,
            values=taken(count),
            weights=taken(count),
            total=taken(1)[0],
            refreshed=self.refreshed,
            magnitude=self.magnitude,
            magnitudes=taken(count) if self.magnitude else (),
            cosines=tuple(taken(count) for _ in self.names) if self.paired else None,
            norm=taken(1)[0] if self.normed else None,
            constant=self.constant,
            dropped=self.dropped,
        )


def packed(step: BalanceStep) -> PackedStep:
    """The numbers of a step, still on its device; nothing waits for them."""
    parts = [step.values, step.weights, step.total.reshape(1)]
    gradients = step.gradients
    magnitude, sizes = magnitudes(gradients)
    paired = gradients is not None and "cosine" in gradients.known
    if gradients is not None:
        at = _positions(gradients.names, step)
        if sizes is not None:
            parts.append(_spread(sizes, at, len(step.names)))
        if paired:
            rows = _spread(gradients.cosine, at, len(step.names))
            parts.append(_spread(rows.T, at, len(step.names)).T.flatten())
    if step.norm is not None:
        parts.append(step.norm.reshape(1))
    return PackedStep(
        step.names,
        torch.cat([part.detach().to(step.values) for part in parts]),
        refreshed=step.refreshed,
        magnitude=magnitude,
        paired=paired,
        normed=step.norm is not None,
        constant=() if gradients is None else gradients.constant,
        dropped=step.dropped,
    )


def _positions(names: Sequence[str], step: BalanceStep) -> Tensor | None:
    """Where the terms that were measured stand among all, or ``None`` where these are all."""
    if tuple(names) == step.names:
        return None
    return torch.tensor([step.names.index(name) for name in names], device=step.values.device)


def _spread(numbers: Tensor, at: Tensor | None, count: int) -> Tensor:
    """The numbers of the terms that were measured among those of all; NaN for the others."""
    if at is None:
        return numbers
    return numbers.new_full((count, *numbers.shape[1:]), math.nan).index_copy(0, at, numbers)


def magnitudes(gradients: TermGradients | None) -> tuple[Magnitude | None, Tensor | None]:
    """The best that is known of the size of each gradient, and what it is."""
    if gradients is None:
        return None, None
    if "gramian" in gradients.known and "norm" not in gradients.known:
        return "norm", gradients.gramian.diagonal().clamp_min(0.0).sqrt()
    for one in MAGNITUDES:
        if one in gradients.known:
            return one, gradients.vector(one)
    return None, None


def report_of(step: BalanceStep) -> StepReport:
    """The report of a step, fetched from its device in one transfer."""
    pack = packed(step)
    return pack.report(pack.numbers.tolist())
