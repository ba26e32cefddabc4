"""What was aimed at, and what was reached, counted from the cases of `engine`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.terms.backwards import OURS, RAW

Case = dict[str, Any]
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


def aims(cases: Sequence[Case]) -> Iterable[Aim]:
    """All that was aimed at, for the cases that there are."""
    for case in cases:
        yield from OF_KIND[case["kind"]](case)


def best_peer(ways: dict[str, Any], key: str) -> tuple[float | None, str]:
    """The least figure among the peers, and whose it is."""
    found = {
        name: way[key]
        for name, way in ways.items()
        if not name.startswith(NOT_PEERS) and key in way
    }
    if not found:
        return None, "-"
    name = min(found, key=lambda name: found[name])
    return found[name], name


def _heads(case: Case) -> Iterable[Aim]:
    ways, where = case["backward"], f"{case['model']}, K = {case['count']}"
    ours, peer = ways[OURS]["ratio"], best_peer(ways, "ratio")
    bound = {
        ("mlpwide", 4): 2.2, ("mlpwide", 16): 6.5, ("mlp", 4): 3.6, ("mlp", 16): 10.6,
    }.get((case["model"], case["count"]))  # fmt: skip
    if bound is not None:
        yield Aim(f"backward, {where}", bound, ours, *peer)
    if case["model"] in ("cnn", "transformer"):
        least = min(1.05 * ways[RAW]["ratio"], peer[0] or float("inf"))
        yield Aim(f"backward, {where}: K x autograd.grad + 5 %, best peer", least, ours, *peer)


def _every(case: Case) -> Iterable[Aim]:
    where = f"{case['model']}, K = {case['count']}"
    yield Aim(f"whole step, every=10, {where}", 1.3, case["step"][OURS]["ratio"], None, "-")


def _segments(case: Case) -> Iterable[Aim]:
    bound = {4: 1.2, 16: 1.4}.get(case["count"])
    if bound is None:
        return
    peer = best_peer(case["step"], "ratio")
    for way in (JOINED, SEPARATE):
        what = f"whole step, disjoint samples, {way.rpartition(' ')[2]}"
        where = f"{case['model']}, K = {case['count']}"
        yield Aim(f"{what}, {where}", bound, case["step"][way]["ratio"], *peer)


def _compiled(case: Case) -> Iterable[Aim]:
    peer = best_peer(case["step"], "ratio")
    what = f"whole step, compiled, {case['model']}, K = {case['count']}"
    yield Aim(what, 1.05, case["step"][f"{OURS}, compiled"]["ratio"], *peer)


def _memory(case: Case) -> Iterable[Aim]:
    if case["way"] == OURS and case["model"] == "mlpwide":
        where = f"{case['model']}, K = {case['count']}"
        yield Aim(f"extra memory in gradients, {where}", 1.3, case["gradients"], None, "-")


OF_KIND = {
    "heads": _heads,
    "every": _every,
    "segments": _segments,
    "compiled": _compiled,
    "memory": _memory,
}
