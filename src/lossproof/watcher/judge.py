"""Whether the figures of a step are those of a training that goes wrong.

Numbers alone: what is said here is looked into by the replay of the step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lossproof.watcher.alarm import AlarmKind
from lossproof.watcher.series import Series

VANISHED = 1e-12
"""What part of the usual gradient is none."""
IN_A_ROW = 3
"""How many close looks must agree that a gradient is gone."""
PATIENCE = 10
"""How many steps a parameter may be without a gradient: some are only used now and then."""
RECOVERED = 10
"""After how many finite steps a number that is not finite is news again."""


@dataclass(frozen=True)
class Suspicion:
    """Something that a step's figures show; the fields are those of an alarm."""

    kind: AlarmKind
    message: str
    term: str | None = None
    parameters: tuple[str, ...] = ()
    help: str | None = None


class Judge:
    """Tells from the figures of each step what went wrong in it, and says everything once.

    Args:
        ring: how many steps are remembered.
    """

    def __init__(self, ring: int) -> None:
        self._ring = ring
        self.values: dict[str, Series] = {}
        """The values of each term. Of one that a series takes there is nothing to be said."""
        self._norms: dict[object, Series] = {}
        self._reached: dict[str, _Reach] = {}
        self._small: dict[object, int] = {}
        self._said: dict[tuple[AlarmKind, object], int] = {}
        self._lasting: set[tuple[AlarmKind, object]] = set()
        self._last_nonfinite: int | None = None

    def value(self, step: int, term: str, value: float) -> Suspicion | None:
        """Judge the value of a term."""
        series = self.values.get(term)
        if series is None:
            series = self.values[term] = Series(self._ring)
        elif series.takes(value):
            return None
        if not math.isfinite(value):
            return self._nonfinite_value(step, term, value, series)
        size = abs(value)
        others = [one.top for one in self.values.values() if one is not series]
        before = series.middle()
        if not series.add(size, floor=10 * max(others, default=0.0)):
            return None
        if not self._news(AlarmKind.EXPLODING_LOSS, term, step):
            return None
        times = f", {size / before:.2g} times the usual {before:.3g}" if before else ""
        return Suspicion(
            AlarmKind.EXPLODING_LOSS, f"`{term}` rose to {value:.4g}{times}", term=term
        )

    def norm(self, step: int, of: object, norms: Mapping[str, float]) -> Suspicion | None:
        """Judge the norms of the gradients of the parameters that an optimizer is about to see.

        Args:
            step: the number of the step.
            of: tells one optimizer from another.
            norms: the norm of each gradient by the name of its parameter.
        """
        bad = [name for name, norm in norms.items() if not math.isfinite(norm)]
        if bad:
            return self._nonfinite_norm(step, bad, norms)
        total = math.hypot(*norms.values())
        series = self._norms.setdefault(of, Series(self._ring))
        before = series.middle() if total > series.top else 0.0
        if not series.add(total) or not self._news(AlarmKind.EXPLODING_GRADIENT, of, step):
            return None
        largest = max(norms, key=lambda name: norms[name])
        return Suspicion(
            AlarmKind.EXPLODING_GRADIENT,
            f"the norm of the gradient rose to {total:.4g}, {total / before:.2g} times the usual"
            f" {before:.3g}" if before else f"the norm of the gradient rose to {total:.4g}",
            parameters=(largest,),
        )  # fmt: skip

    def reach(
        self, step: int, of: object, names: Sequence[str], norms: Mapping[str, float], loss: float
    ) -> list[Suspicion]:
        """Judge which parameters get a gradient, and whether any does.

        Args:
            step: the number of the step.
            of: tells one optimizer from another.
            names: the parameters that require a gradient.
            norms: the norm of the gradient of each that has one.
            loss: the largest magnitude of a term; 0 says that there is nothing left to learn.
        """
        total = math.hypot(*norms.values())
        if not math.isfinite(total):  # said elsewhere; it is no missing gradient
            return []
        usual = self._norms[of].middle() if of in self._norms else 0.0
        if total <= VANISHED * usual or total == 0.0:
            return self._vanished(step, of, total, loss)
        self._small[of] = 0
        self._lasting.discard((AlarmKind.VANISHED_GRADIENT, of))
        gone = []
        for name in names:
            reach = self._reached.get(name)
            if reach is None:
                reach = self._reached[name] = _Reach(step)
            if norms.get(name, 0.0) > 0.0:
                reach.last, reach.misses = step, 0
                self._lasting.discard((AlarmKind.UNREACHED_PARAMETER, name))
            elif reach.missed(step):
                gone.append(name)
        return self._unreached(step, gone)

    def dead_term(self, step: int, term: str, message: str) -> Suspicion | None:
        """A term that no gradient comes from."""
        if not self._news(AlarmKind.DEAD_TERM, term, step):
            return None
        return Suspicion(AlarmKind.DEAD_TERM, message, term=term)

    def _nonfinite_value(
        self, step: int, term: str, value: float, series: Series
    ) -> Suspicion | None:
        if not self._first_nonfinite(step):
            return None
        before = f" (it was {series.sizes[-1]:.4g} in size before)" if series.sizes else ""
        return Suspicion(AlarmKind.NON_FINITE_LOSS, f"`{term}` is {value}{before}", term=term)

    def _nonfinite_norm(
        self, step: int, bad: Sequence[str], norms: Mapping[str, float]
    ) -> Suspicion | None:
        if not self._first_nonfinite(step):
            return None
        more = f" and of {_more(bad)}" if len(bad) > 1 else ""
        return Suspicion(
            AlarmKind.NON_FINITE_GRADIENT,
            f"the gradient of `{bad[0]}`{more} is not finite ({len(bad)} of {len(norms)})",
            parameters=tuple(bad),
        )

    def _first_nonfinite(self, step: int) -> bool:
        """Whether this is no consequence of a number that was not finite just before."""
        last, self._last_nonfinite = self._last_nonfinite, step
        return last is None or step - last > RECOVERED

    def _vanished(self, step: int, of: object, total: float, loss: float) -> list[Suspicion]:
        self._small[of] = self._small.get(of, 0) + 1
        if self._small[of] < IN_A_ROW or loss == 0.0:
            return []
        if not self._first_look(AlarmKind.VANISHED_GRADIENT, of, step):
            return []
        words = "every gradient is 0" if total == 0.0 else f"the gradient has shrunk to {total:.3g}"
        more = "" if math.isnan(loss) else f", and the loss is {loss:.4g}"
        return [Suspicion(AlarmKind.VANISHED_GRADIENT, f"{words}{more}")]

    def _unreached(self, step: int, gone: Sequence[str]) -> list[Suspicion]:
        found = []
        for never, names in (
            (True, [name for name in gone if self._reached[name].last is None]),
            (False, [name for name in gone if self._reached[name].last is not None]),
        ):
            news = [n for n in names if self._first_look(AlarmKind.UNREACHED_PARAMETER, n, step)]
            if not news:
                continue
            more = f" and {_more(news)}" if len(news) > 1 else ""
            verb = "get" if more else "gets"
            since = "" if never else f" (the last in step {self._reached[news[0]].last})"
            words = f"{verb} no gradient" if never else f"{verb} no gradient any more{since}"
            found.append(
                Suspicion(
                    AlarmKind.UNREACHED_PARAMETER,
                    f"`{news[0]}`{more} {words}",
                    parameters=tuple(news),
                    help=None
                    if not never
                    else "give the optimizer only what the loss depends on,"
                    " or set `requires_grad_(False)` on what is not to be trained",
                )
            )
        return found

    def _news(self, kind: AlarmKind, about: object, step: int) -> bool:
        """Whether this was not said within the length of the ring."""
        last = self._said.get((kind, about))
        self._said[kind, about] = step
        return last is None or step - last > self._ring

    def _first_look(self, kind: AlarmKind, about: object, step: int) -> bool:
        """Whether this is news, and was not so at the last close look, however long ago it was."""
        news = self._news(kind, about, step) and (kind, about) not in self._lasting
        self._lasting.add((kind, about))
        return news


def _more(names: Sequence[str]) -> str:
    """All but the first."""
    return "1 more parameter" if len(names) == 2 else f"{len(names) - 1} more parameters"


class _Reach:
    """When a parameter got its last gradient."""

    __slots__ = ("first", "last", "misses")

    def __init__(self, step: int) -> None:
        self.first = step
        self.last: int | None = None
        self.misses = 0

    def missed(self, step: int) -> bool:
        """Note a step without a gradient, and tell whether it has been too many."""
        self.misses += 1
        since = self.first if self.last is None else self.last
        return self.misses >= IN_A_ROW and step - since >= PATIENCE
