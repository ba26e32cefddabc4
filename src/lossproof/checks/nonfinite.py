"""Which operation, on which line, was the first to make a NaN or an infinity.

The loss is called once more under a mode that sees every operation of the forward and of the
backward pass. The first whose operands are finite and whose result is not is the culprit: in the
forward pass its line is where it was called, in the backward pass the line of the forward
operation whose derivative it is. (Anomaly mode names the first NaN instead, which for a square
root at 0 is the innocent multiplication after it, and does not see infinities.)
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lossproof.checks.examination import Evaluation, Examination
from lossproof.checks.report import Location
from lossproof.checks.sources import Sources, excerpt, is_machinery, locate
from lossproof.checks.trace import Operation, tensors_in

Tensor = torch.Tensor

Mark = tuple[str, int, str, str]

_BOUNDARY = frozenset({Examination._call.__code__, Examination._differentiate.__code__})
_DEPTH = 8


@dataclass(frozen=True)
class Culprit:
    """The operation that first made something non-finite from finite operands."""

    operation: str
    """Its name as torch knows it: ``log``, ``div``, ``sqrt``..."""
    phase: Literal["forward", "backward"]
    produced: Literal["nan", "inf"]
    location: Location | None
    text: str
    """The expression at the location."""
    operand: float | None = None
    """The number that its first operand held where the result is not finite."""
    chain: tuple[str, ...] = ()
    """What its first operand was made by, nearest first, along first operands."""
    ancestors: frozenset[str] = frozenset()
    """Every operation that its operands were made by."""

    @property
    def key(self) -> tuple[str, int]:
        """Two culprits with the same key are the same fault."""
        if self.location is None:
            return (self.operation, 0)
        return (self.location.file, self.location.line)

    @property
    def mark(self) -> Mark:
        """What tells an operation from another on the same line."""
        return (*self.key, self.operation, self.phase)


def is_finite(found: Evaluation) -> bool:
    """Whether the value and every gradient are finite."""
    return _all_finite(found.value) and all(_all_finite(g) for g in found.gradients)


def _all_finite(value: Tensor | None) -> bool:
    return value is None or bool(torch.isfinite(value.detach()).all())


def find_culprit(
    case: Examination,
    values: Sequence[Any],
    *,
    dtype: torch.dtype | None = None,
    innocent: frozenset[Mark] = frozenset(),
) -> Culprit | None:
    """Call the loss at ``values`` and name the first operation that left the finite numbers.

    Args:
        case: the check in progress.
        values: the arguments of the call.
        dtype: as for :meth:`Examination.evaluate`.
        innocent: marks of operations that make infinities at ordinary inputs, too, which the loss
            deals with.
    """
    watch = _Watch(case.subject.sources)
    with watch:
        found = case.evaluate(values, dtype=dtype, record=True)
    culprits = [_named(event, found) for event in watch.events]
    return next((culprit for culprit in culprits if culprit.mark not in innocent), None)


def innocent_marks(case: Examination) -> frozenset[Mark]:
    """Operations that leave the finite numbers at the given inputs while the result is finite."""
    watch = _Watch(case.subject.sources)
    with watch:
        found = case.evaluate(record=True)
    if not is_finite(found):
        return frozenset()
    return frozenset(_named(event, found).mark for event in watch.events)


@dataclass(eq=False)
class _Event:
    operation: str
    node: Any
    produced: Literal["nan", "inf"]
    place: Location | None
    operand: float | None
    chain: tuple[str, ...]
    ancestors: frozenset[str]


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operation that makes something non-finite of finite operands."""

    def __init__(self, sources: Sources) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sources = sources
        self.events: list[_Event] = []
        self._makers: dict[int, tuple[str, tuple[int, ...]]] = {}
        self._alive: list[Tensor] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spares the import of torch's compiler, which takes longer than a whole check."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        operands = [*tensors_in(args), *tensors_in(kwargs)]
        before = [_state(operand) for operand in operands]
        first = operands[0].detach().clone() if operands and before[0] == "finite" else None
        out = func(*args, **kwargs)
        name = str(func).split(".")[1]
        results = list(tensors_in(out))
        self._note_maker(name, operands, results)
        if not operands or name.startswith(("empty", "new_empty")):
            return out
        after = [_state(result) for result in results]
        born = _born(before, after, [*args, *kwargs.values()])
        if born is not None:
            self._note(name, born, first, results, operands)
        return out

    def _note_maker(self, name: str, operands: list[Tensor], results: list[Tensor]) -> None:
        known = tuple(_memory(operand) for operand in operands)
        for result in results:
            if _memory(result) not in known:
                self._makers[_memory(result)] = (name, known)
                self._alive.append(result)

    def _note(
        self,
        name: str,
        produced: Literal["nan", "inf"],
        first: Tensor | None,
        results: list[Tensor],
        operands: list[Tensor],
    ) -> None:
        place, reached = _place(self.sources)
        if not reached:
            return  # one of the check's own operations
        node = torch._C._current_autograd_node()
        memories = [_memory(operand) for operand in operands]
        chain, ancestors = self._chain(memories[0]), self._ancestors(memories)
        value = _operand(first, results)
        self.events.append(_Event(name, node, produced, place, value, chain, ancestors))

    def _ancestors(self, waiting: list[int]) -> frozenset[str]:
        names: set[str] = set()
        seen: set[int] = set()
        while waiting:
            memory = waiting.pop()
            if memory in self._makers and memory not in seen:
                seen.add(memory)
                name, operands = self._makers[memory]
                names.add(_plain(name))
                waiting = [*waiting, *operands]
        return frozenset(names)

    def _chain(self, memory: int) -> tuple[str, ...]:
        """The operations that led to a tensor, nearest first, along their first operands."""
        names: list[str] = []
        while memory in self._makers and len(names) < _DEPTH:
            name, operands = self._makers[memory]
            names.append(_plain(name))
            if not operands:
                break
            memory = operands[0]
        return tuple(names)


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage().data_ptr())


def _state(tensor: Tensor) -> Literal["finite", "inf", "nan"]:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return "finite"
    if bool(torch.isfinite(tensor).all()):
        return "finite"
    return "nan" if bool(torch.isnan(tensor).any()) else "inf"


def _born(
    before: Sequence[str], after: Sequence[str], args: Sequence[Any]
) -> Literal["nan", "inf"] | None:
    """What an operation made that its operands did not have."""
    if "nan" in before:
        return None
    if "nan" in after:
        return "nan"
    if "inf" not in after or "inf" in before or _holds_infinity(args):
        return None
    return "inf"


def _holds_infinity(args: Sequence[Any]) -> bool:
    """Whether an infinity was asked for, as in ``masked_fill(mask, -inf)``."""
    return any(isinstance(arg, float) and not math.isfinite(arg) for arg in args)


def _operand(first: Tensor | None, results: list[Tensor]) -> float | None:
    if first is None or not results or first.shape != results[0].shape or first.is_complex():
        return None
    bad = ~torch.isfinite(results[0].detach())
    return float(first[bad].reshape(-1)[0]) if bool(bad.any()) else None


def _place(sources: Sources) -> tuple[Location | None, bool]:
    """The user's own frame below the call of the loss; whether this belongs to that call at all.

    Frames above the call are those of whoever runs the check.
    """
    frame: FrameType | None = sys._getframe(1)
    found = outer = None
    while frame is not None and frame.f_code not in _BOUNDARY:
        file = frame.f_code.co_filename
        if found is None and sources.owns(file):
            found = locate(frame.f_code, frame.f_lasti)
        elif outer is None and not is_machinery(file):
            outer = locate(frame.f_code, frame.f_lasti)
        frame = frame.f_back
    return found or outer, frame is not None


def _named(event: _Event, found: Evaluation) -> Culprit:
    """The culprit with its forward line, which for a derivative the graph's node knows."""
    if event.node is None:
        return Culprit(
            _plain(event.operation), "forward", event.produced, event.place,
            excerpt(event.place) if event.place else "", event.operand, event.chain,
            event.ancestors,
        )  # fmt: skip
    operation = _of_node(event.node, found)
    place = event.place
    if place is None and operation is not None:
        place = operation.site.location
    name, *chain = _node_names(event.node)
    return Culprit(
        name, "backward", event.produced, place,
        excerpt(place) if place else "", None, tuple(chain), _nodes_before(event.node),
    )  # fmt: skip


def _node_names(node: Any) -> list[str]:
    """The names of the operations that a node of the graph and the ones before it belong to."""
    names: list[str] = []
    while node is not None and len(names) <= _DEPTH and not hasattr(node, "variable"):
        names.append(_node_name(node))
        node = next((following for following, _ in node.next_functions if following), None)
    return names


def _nodes_before(node: Any) -> frozenset[str]:
    """The names of every operation that a node of the graph depends on."""
    names: set[str] = set()
    seen: set[Any] = set()
    waiting = [following for following, _ in node.next_functions]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen and not hasattr(node, "variable"):
            seen.add(node)
            names.add(_node_name(node))
            waiting += [following for following, _ in node.next_functions]
    return frozenset(names)


def _node_name(node: Any) -> str:
    return _plain(_snake(re.sub(r"Backward\d*$", "", str(node.name()))))


def _of_node(node: Any, found: Evaluation) -> Operation | None:
    return None if found.trace is None else found.trace.nodes.get(node)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


_ALIASES = {
    "linalg_vector_norm": "norm", "true_divide": "div", "rsub": "sub", "clamp_min": "clamp",
    "nll_loss_forward": "nll_loss", "reciprocal": "div",
}  # fmt: skip


def _plain(name: str) -> str:
    name = name.strip("_")
    return _ALIASES.get(name, name)
