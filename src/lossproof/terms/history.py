"""What the terms did over a training: every step in columns, what is wrong, and a picture."""

from __future__ import annotations

import csv
import io
import math
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch

from lossproof.terms.report import KINDS, Kind, PackedStep, Problem, StepReport, packed
from lossproof.write.arguments import integer, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lossproof.terms.balance.step import BalanceStep

PENDING = 64
"""So many steps wait on their device before they are fetched together."""
RUNAWAY = 1e5
"""A weight that changed by a larger factor, up or down, has run away."""


@dataclass(frozen=True)
class Row:
    """The figures of one step; the keys are shared between rows."""

    step: int
    keys: tuple[str, ...]
    numbers: array[float]


@dataclass
class Tally:
    """In how many steps something was wrong, in how many in a row up to now, and when."""

    count: int
    run: int
    last: int


class TermHistory:
    """Records what the terms did, step by step.

    ``history.add(step)`` does not wait for the device: the numbers of many steps are fetched
    together. The memory is bounded: above ``limit`` rows every second one goes, so that the whole
    training stays in view, and of several steps the one is kept that knows the gradients. What is
    wrong is counted over all steps, also over those whose numbers were not kept.

    Args:
        limit: the most rows that are kept; ``None`` keeps all.

    Raises:
        TypeError: ``limit`` is no integer.
        ValueError: ``limit`` is below 2.

    Example:
        >>> import torch
        >>> from lossproof.terms import BalanceStep
        >>> from lossproof.terms import TermHistory
        >>> history = TermHistory()
        >>> for value in (4.0, 3.0):
        ...     values, weights = torch.tensor([value, 1.0]), torch.tensor([1.0, 0.5])
        ...     history.add(BalanceStep(("data", "bc"), values, weights, values @ weights))
        >>> columns = history.to_dict()
        >>> columns["step"], columns["value/data"], columns["total"]
        ([0, 1], [4.0, 3.0], [4.5, 3.5])
    """

    def __init__(self, *, limit: int | None = 2000) -> None:
        self.limit = None if limit is None else integer("limit", limit, minimum=2)
        self._names: dict[str, None] = {}
        self._rows: list[Row] = []
        self._latest: list[Row] = []
        self._keys: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._pending: list[tuple[int, PackedStep]] = []
        self._next = 0
        self._stride = 1
        self._seen = 0
        self._judged: Counter[str] = Counter()
        self._tallies: dict[tuple[Kind, tuple[str, ...]], Tally] = {}

    def add(self, step: BalanceStep, *, at: int | None = None) -> None:
        """Record a step.

        Args:
            step: what ``balancer.backward`` returned.
            at: the number of the step; without it they are counted.
        """
        position = self._next if at is None else integer("at", at)
        self._next = position + 1
        self._pending.append((position, packed(step)))
        if len(self._pending) >= PENDING:
            self._fetch()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all terms that were seen."""
        self._fetch()
        return tuple(self._names)

    def __len__(self) -> int:
        """How many steps were added, kept or not."""
        self._fetch()
        return self._seen

    def __repr__(self) -> str:
        return f"TermHistory({len(self)} steps of {list(self.names)}, {len(self._rows)} kept)"

    # ---- what is kept

    def _fetch(self) -> None:
        pending, self._pending = self._pending, []
        if not pending:
            return
        numbers = torch.cat([pack.numbers for _, pack in pending]).tolist()
        for position, pack in pending:
            size = pack.numbers.numel()
            self._take(position, pack.report(numbers[:size]))
            del numbers[:size]

    def _take(self, position: int, report: StepReport) -> None:
        self._names |= dict.fromkeys(report.names)
        self._count(position, report)
        figures = report.figures()
        keys = tuple(figures)
        row = Row(position, self._keys.setdefault(keys, keys), array("d", figures.values()))
        self._latest = [row]
        if self._seen % self._stride == 0:
            self._rows.append(row)
        else:  # another step of the same stretch
            self._rows[-1] = _better(self._rows[-1], row)
        self._seen += 1
        if self.limit is not None and len(self._rows) > self.limit:
            rows = self._rows
            self._rows = [
                _better(*rows[k : k + 2]) if k else rows[0] for k in range(0, len(rows), 2)
            ]
            self._stride *= 2

    def _count(self, position: int, report: StepReport) -> None:
        judged: dict[Kind, bool] = {
            "nonfinite": True,
            "dropped": True,
            "dominating": report.shares_judged,
            "dead": report.magnitude is not None,
            "conflicting": report.cosines is not None,
        }
        self._judged.update(kind for kind, yes in judged.items() if yes)
        found = dict.fromkeys((problem.kind, problem.terms) for problem in report.problems())
        for key, tally in self._tallies.items():
            if judged[key[0]] and key not in found:
                tally.run = 0
        for key in found:
            tally = self._tallies.setdefault(key, Tally(0, 0, position))
            tally.count, tally.run, tally.last = tally.count + 1, tally.run + 1, position

    # ---- what can be asked

    @property
    def _shown(self) -> list[Row]:
        """The rows that are kept, and the latest step, whatever became of it."""
        last = self._rows[-1:]
        return self._rows + [row for row in self._latest if last and row.step != last[0].step]

    def to_dict(self) -> dict[str, list[float]]:
        """The steps as columns of equal length, which ``pandas.DataFrame`` takes as they are.

        The first column is ``step``, the others are called as in ``step.as_dict("")``; a figure
        that a step does not have is NaN.
        """
        self._fetch()
        keys = dict.fromkeys(key for layout in self._keys for key in layout)
        rows = self._shown
        columns: dict[str, list[float]] = {key: [math.nan] * len(rows) for key in keys}
        for position, row in enumerate(rows):
            for key, one in zip(row.keys, row.numbers, strict=True):
                columns[key][position] = one
        return {"step": [row.step for row in rows], **columns}

    def to_csv(self, path: str | PathLike[str] | None = None) -> str:
        """The same columns as CSV, written to a file if one is given."""
        columns = self.to_dict()
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        if path is not None:
            with open(path, "w", encoding="utf-8", newline="") as file:
                file.write(buffer.getvalue())
        return buffer.getvalue()

    def problems(
        self, *, steps: int = 10, often: float = 0.5, runaway: float = RUNAWAY
    ) -> tuple[Problem, ...]:
        """What is wrong over the training so far.

        Args:
            steps: a term is dead that has had no gradient in so many steps, up to the last.
            often: a term dominates, and a pair conflicts, that does so in this part of the steps.
            runaway: the factor by which a weight may grow or shrink.

        Returns:
            Also terms that were ever not finite, or dropped. Steps in which something is not known
            (the gradients, where the weights are held) do not count for it.
        """
        integer("steps", steps, minimum=1)
        number("often", often, above=0, maximum=1)
        number("runaway", runaway, above=1)
        self._fetch()
        worst_first = sorted(
            self._tallies.items(), key=lambda one: (KINDS.index(one[0][0]), -one[1].count)
        )
        found = (
            self._problem(kind, terms, tally, steps, often) for (kind, terms), tally in worst_first
        )
        return (*(problem for problem in found if problem is not None), *self._run_away(runaway))

    def _problem(
        self, kind: Kind, terms: tuple[str, ...], tally: Tally, steps: int, often: float
    ) -> Problem | None:
        who = " and ".join(map(repr, terms))
        judged = self._judged[kind]
        some = f"in {tally.count} of {judged} steps"
        if kind == "dead" and tally.run >= steps:
            text = f"{who} has had no gradient in the last {tally.run} steps that looked for one"
        elif kind == "dominating" and tally.count >= often * judged:
            text = f"{who} dominated {some}"
        elif kind == "conflicting" and tally.count >= often * judged:
            text = f"{who} conflicted {some}"
        elif kind == "nonfinite":
            text = f"{who} was not finite {some}, the last time in step {tally.last}"
        elif kind == "dropped":
            text = f"{who} was left out {some}, the last time in step {tally.last}"
        else:
            return None
        return Problem(kind, terms, text)

    def _run_away(self, limit: float) -> Iterator[Problem]:
        columns = self.to_dict()
        for name in self._names:
            weights = [abs(one) for one in columns[f"weight/{name}"] if math.isfinite(one)]
            if not weights or not weights[0]:
                continue
            first, last = weights[0], weights[-1]
            if last > limit * first or last * limit < first:
                text = f"the weight of {name!r} has run away, from {first:.3g} to {last:.3g}"
                yield Problem("runaway", (name,), text)

    def plot(self, path: str | PathLike[str] | None = None) -> Figure:
        """Draw values, weights, shares, gradient norms and cosines over the steps.

        Args:
            path: where the picture is saved; its ending chooses the format.

        Returns:
            The figure of matplotlib, which a notebook shows.

        Raises:
            ImportError: matplotlib is not installed: ``pip install 'lossproof[plots]'``.
            ValueError: no step was added.
        """
        from lossproof.show.terms_picture import picture

        if not len(self):
            raise ValueError("there is nothing to draw: no step was added")
        figure = picture(self.names, self.to_dict())
        if path is not None:
            figure.savefig(path)
        return figure

    # ---- the state

    def state_dict(self) -> dict[str, Any]:
        """Everything that was recorded, of plain numbers and words, for a checkpoint."""
        self._fetch()
        layouts = list(self._keys)

        def as_list(row: Row) -> list[Any]:
            return [row.step, layouts.index(row.keys), row.numbers.tolist()]

        return {
            "names": list(self._names),
            "next": self._next,
            "stride": self._stride,
            "seen": self._seen,
            "judged": dict(self._judged),
            "tallies": [
                [kind, list(terms), *astuple(tally)]
                for (kind, terms), tally in self._tallies.items()
            ],
            "layouts": [list(keys) for keys in layouts],
            "rows": [as_list(row) for row in self._rows],
            "latest": [as_list(row) for row in self._latest],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what was recorded; what is here already is forgotten."""
        layouts = [tuple(keys) for keys in state["layouts"]]
        self._names = dict.fromkeys(state["names"])
        self._next, self._stride, self._seen = state["next"], state["stride"], state["seen"]
        self._judged = Counter(state["judged"])
        self._tallies = {
            (kind, tuple(terms)): Tally(*numbers) for kind, terms, *numbers in state["tallies"]
        }
        self._keys = {keys: keys for keys in layouts}
        self._rows, self._latest = (
            [
                Row(step, layouts[layout], array("d", numbers))
                for step, layout, numbers in state[which]
            ]
            for which in ("rows", "latest")
        )
        self._pending = []


def _better(first: Row, second: Row | None = None) -> Row:
    """The row that knows more, of two equals the first."""
    return second if second is not None and len(second.keys) > len(first.keys) else first
