"""What was aimed at, and what was reached, counted from the cases of `engine`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.study import WHOLE
from benchmarks.terms.backwards import OURS, RAW

Entry = dict[str, Any]
JOINED, SEPARATE = f"{OURS}, joined", f"{OURS}, separate"
NOT_PEERS = ("plain", "lossproof", "K x autograd.grad")


@dataclass(frozen=True)
class Aim:
    """One figure beside its aim and the best peer's."""

    what: str
    aim: float
    ours: float
    peer: float | None
    peer_name: str

    @property
    def reached(self) -> bool:
        return self.ours <= self.aim


def aims(cases: Sequence[Entry]) -> Iterable[Aim]:
    """All that was aimed at, for the cases that there are."""
    for case in cases:
        yield from OF_KIND[case["settings"]["kind"]](case)
    yield from (aim for case in cases for aim in _memory(case))


def ratio(case: Entry, name: str, phase: str = WHOLE) -> float | None:
    """The quotient of a way over the baseline, if it was measured."""
    found = case["methods"].get(name, {}).get("ratio")
    return None if found is None else found[phase]["median"]


def best_peer(case: Entry, phase: str = WHOLE) -> tuple[float | None, str]:
    """The least quotient among the peers, and whose it is."""
    found = {name: ratio(case, name, phase) for name in case["methods"]}
    peers = {k: r for k, r in found.items() if r is not None and not k.startswith(NOT_PEERS)}
    if not peers:
        return None, "-"
    name = min(peers, key=lambda name: peers[name])
    return peers[name], name


def _aim(
    what: str, aim: float, ours: float | None, peer: tuple[float | None, str]
) -> Iterable[Aim]:
    if ours is not None:
        yield Aim(what, aim, ours, *peer)


def _heads(case: Entry) -> Iterable[Aim]:
    model, count = case["settings"]["model"], case["settings"]["count"]
    ours, peer = ratio(case, OURS, "backward"), best_peer(case, "backward")
    bound = {
        ("mlpwide", 4): 2.2, ("mlpwide", 16): 6.5, ("mlp", 4): 3.6, ("mlp", 16): 10.6,
    }.get((model, count))  # fmt: skip
    if bound is not None:
        yield from _aim(f"backward, {_where(case)}", bound, ours, peer)
    raw = ratio(case, RAW, "backward")
    if model in ("cnn", "transformer") and raw is not None:
        least = min(1.05 * raw, peer[0] or float("inf"))
        what = f"backward, {_where(case)}: K x autograd.grad + 5 %, best peer"
        yield from _aim(what, least, ours, peer)


def _every(case: Entry) -> Iterable[Aim]:
    yield from _aim(f"whole step, every=10, {_where(case)}", 1.3, ratio(case, OURS), (None, "-"))


def _segments(case: Entry) -> Iterable[Aim]:
    bound = {4: 1.2, 16: 1.4}.get(case["settings"]["count"])
    if bound is None:
        return
    for way in (JOINED, SEPARATE):
        what = f"whole step, disjoint samples, {way.rpartition(' ')[2]}, {_where(case)}"
        yield from _aim(what, bound, ratio(case, way), best_peer(case))


def _compiled(case: Entry) -> Iterable[Aim]:
    ours = ratio(case, f"{OURS}, compiled")
    yield from _aim(f"whole step, compiled, {_where(case)}", 1.05, ours, best_peer(case))


def _memory(case: Entry) -> Iterable[Aim]:
    if case["settings"]["model"] == "mlpwide" and "resident_mb" in case["methods"].get(OURS, {}):
        what = f"extra memory in gradients, {_where(case)}"
        yield from _aim(what, 1.3, round(in_gradients(case, OURS), 2), (None, "-"))


def in_gradients(case: Entry, name: str) -> float:
    """The resident peak of a way in gradients of all parameters."""
    gradient: float = case["methods"]["plain"]["facts"]["gradient_mb"]
    peak: float = case["methods"][name]["resident_mb"]
    return peak / gradient


def _where(case: Entry) -> str:
    return f"{case['settings']['model']}, K = {case['settings']['count']}"


OF_KIND = {"heads": _heads, "every": _every, "segments": _segments, "compiled": _compiled}
