"""A mode that sees every operation and notes each that makes a NaN or an infinity."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lossproof.checks.report import Location
from lossproof.checks.sources import Sources, is_machinery, locate
from lossproof.checks.trace import tensors_in

Tensor = torch.Tensor
State = Literal["finite", "inf", "nan"]

_DEPTH = 8
_ALIASES = {
    "linalg_vector_norm": "norm", "true_divide": "div", "rsub": "sub", "clamp_min": "clamp",
    "nll_loss_forward": "nll_loss", "reciprocal": "div",
}  # fmt: skip


@dataclass(eq=False)
class Maker:
    """The operation that last wrote a piece of memory; holds no tensor alive."""

    name: str
    operands: tuple[Maker, ...]
    state: State = "finite"
    """What the largest of its results holds."""
    event: Event | None = None
    """Set where it made something non-finite of finite operands."""


@dataclass(eq=False)
class Event:
    """One operation that made something non-finite of finite operands."""

    operation: str
    node: Any
    """The node of the graph whose derivative was being computed; ``None`` in the forward pass."""
    produced: Literal["nan", "inf"]
    place: Location | None
    operand: float | None
    """The number that its first operand held where the result is not finite."""
    makers: tuple[Maker, ...]
    """What its operands were made by, the first operand's first."""
    first: Maker | None
    """What its first operand was made by."""

    @property
    def chain(self) -> tuple[str, ...]:
        """The operations that led to its first operand, nearest first, along first operands."""
        names: list[str] = []
        maker = self.first
        while maker is not None and len(names) < _DEPTH:
            names.append(plain_name(maker.name))
            maker = maker.operands[0] if maker.operands else None
        return tuple(names)

    @property
    def ancestors(self) -> frozenset[str]:
        """The names of every operation that its operands were made by."""
        return frozenset(plain_name(maker.name) for maker in makers_before(self.makers))


def makers_before(makers: Collection[Maker]) -> Iterator[Maker]:
    """These and everything that they were made from, each once."""
    waiting = list(makers)
    seen: set[int] = set()
    while waiting:
        maker = waiting.pop()
        if id(maker) not in seen:
            seen.add(id(maker))
            yield maker
            waiting += maker.operands


class NonFiniteWatch(TorchDispatchMode):
    """Notes every operation that makes something non-finite of finite operands.

    Args:
        sources: tells the user's files from the rest.
        boundary: the code that calls what is watched. What stands further out on the stack is
            whoever asked, and an operation without any of it on the stack is not noted.
    """

    def __init__(self, sources: Sources, boundary: Collection[CodeType]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sources = sources
        self.boundary = frozenset(boundary)
        self.events: list[Event] = []
        self._makers: dict[int, Maker] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spares the import of torch's compiler, which takes longer than a whole check."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():
            operands = [*tensors_in(args), *tensors_in(kwargs)]
            before = [state_of(operand) for operand in operands]
            first = operands[0].detach().clone() if operands and before[0] == "finite" else None
            sources = [self.maker_of(operand) for operand in operands]
        out = func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            self._look(func, (args, kwargs), operands, before, sources, first, out)
        return out

    def _look(
        self,
        func: Any,
        given: tuple[tuple[Any, ...], dict[str, Any]],
        operands: list[Tensor],
        before: list[State],
        sources: list[Maker | None],
        first: Tensor | None,
        out: Any,
    ) -> None:
        name = str(func).split(".")[1]
        results = list(tensors_in(out))
        unwritten = name.startswith(("empty", "new_empty"))
        after: list[State] = ["finite"] if unwritten else [state_of(result) for result in results]
        maker = Maker(name, tuple(one for one in sources if one is not None), _worst(after))
        self._remember(func, maker, operands, results)
        if operands and not unwritten:
            born = _born(before, after, [*given[0], *given[1].values()])
            if born is not None:
                self._note(maker, born, sources[0], operands, first, results)
        self.performed(maker, operands, results)

    def maker_of(self, tensor: Tensor) -> Maker | None:
        """What last wrote the memory of a tensor, if it was seen."""
        return self._makers.get(_memory(tensor))

    def performed(self, maker: Maker, operands: list[Tensor], results: list[Tensor]) -> None:
        """What else is wanted of every operation: here nothing."""

    def found(self, event: Event, operands: list[Tensor], results: list[Tensor]) -> None:
        """What else is wanted of an event, whose tensors are gone afterwards: here nothing."""

    def _remember(
        self, func: Any, maker: Maker, operands: list[Tensor], results: list[Tensor]
    ) -> None:
        """Note who made the results; a view of an operand was made by what made the operand."""
        known = () if func._schema.is_mutable else tuple(_memory(operand) for operand in operands)
        for result in results:
            if _memory(result) not in known:
                self._makers[_memory(result)] = maker

    def _note(
        self,
        maker: Maker,
        produced: Literal["nan", "inf"],
        source: Maker | None,
        operands: list[Tensor],
        first: Tensor | None,
        results: list[Tensor],
    ) -> None:
        node: Any = torch._C._current_autograd_node()
        place, reached = self._place()
        # A backward pass may run in a thread of its own, whose stack begins there.
        if not reached and node is None:
            return  # an operation of whoever watches
        value = _operand(first, results)
        event = Event(maker.name, node, produced, place, value, maker.operands, source)
        maker.event = event
        self.events.append(event)
        self.found(event, operands, results)

    def _place(self) -> tuple[Location | None, bool]:
        """The user's own frame below the boundary; whether the boundary is on the stack at all."""
        frame: FrameType | None = sys._getframe(1)
        found = outer = None
        while frame is not None and frame.f_code not in self.boundary:
            file = frame.f_code.co_filename
            if found is None and self.sources.owns(file):
                found = locate(frame.f_code, frame.f_lasti)
            elif outer is None and not is_machinery(file):
                outer = locate(frame.f_code, frame.f_lasti)
            frame = frame.f_back
        return found or outer, frame is not None


def plain_name(name: str) -> str:
    """The name a user knows an operation by."""
    name = name.strip("_")
    return _ALIASES.get(name, name)


def state_of(tensor: Tensor) -> State:
    """Whether a tensor holds a NaN, else an infinity, else numbers alone."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return "finite"
    tensor = numbers_in(tensor)
    if bool(torch.isfinite(tensor).all()):
        return "finite"
    return "nan" if bool(torch.isnan(tensor).any()) else "inf"


def numbers_in(tensor: Tensor) -> Tensor:
    """What a tensor stores: of a sparse one, its values."""
    if tensor.layout is torch.strided:
        return tensor
    return tensor._values() if tensor.layout is torch.sparse_coo else tensor.values()


def _worst(states: Sequence[State]) -> State:
    return max(states, key=("finite", "inf", "nan").index, default="finite")


def _memory(tensor: Tensor) -> int:
    if tensor.layout is not torch.strided or tensor.numel() == 0:
        return id(tensor)
    return int(tensor.untyped_storage().data_ptr())


def _born(
    before: Sequence[State], after: Sequence[State], args: Sequence[Any]
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
    if first.layout is not torch.strided or results[0].layout is not torch.strided:
        return None
    bad = ~torch.isfinite(results[0].detach())
    return float(first[bad].reshape(-1)[0]) if bool(bad.any()) else None
