"""A mode that sees every operation and notes each that makes a NaN or an infinity."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, Literal

import torch

from lossproof.checks.dispatch_mode import LeanDispatchMode
from lossproof.checks.report import Location
from lossproof.checks.sources import Sources, is_machinery, locate
from lossproof.checks.trace import tensors_in
from lossproof.write.sharding import is_sharded

Tensor = torch.Tensor

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
    size: float = 0.0
    """The largest magnitude in this memory; infinity or NaN where it holds such."""
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


class NonFiniteWatch(LeanDispatchMode):
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
        self.idle = False
        """Whether to let operations pass unseen, such as those of whoever watches."""
        self._makers: dict[int, Maker] = {}
        self._given: dict[tuple[int, int, int], tuple[float, Tensor]] = {}
        """How large tensors are that no operation was seen to make, such as parameters; with the
        tensor, so that nothing else comes to lie in its memory."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.idle:
            return func(*args, **kwargs)
        mutable = func._schema.is_mutable
        with torch._C.DisableTorchFunction():
            operands = [*tensors_in(args), *tensors_in(kwargs)]
            sources = [self.maker_of(operand) for operand in operands]
            before = list(map(self._size_of, operands, sources))
            first = operands[0].detach() if operands else None
            if first is not None and mutable:
                first = first.clone()
        out = func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            results = list(tensors_in(out))
            maker = self._made(func, operands, sources, results)
            if operands and not _is_unwritten(maker.name):
                after = [size_of(result) for result in results]
                maker.size = _worst([*after, maker.size])
                born = _born(before, after, [*args, *kwargs.values()])
                if born is not None:
                    self._note(maker, born, sources[0], operands, first, results)
            self.performed(maker, before, operands, results)
        return out

    def _size_of(self, operand: Tensor, maker: Maker | None) -> float:
        """How large an operand is: known from what made it, where that holds numbers alone."""
        if maker is not None:
            return maker.size if math.isfinite(maker.size) else size_of(operand)
        if not operand.is_floating_point() and not operand.is_complex():
            return 0.0
        version = 0 if operand.is_inference() else operand._version
        key = (_memory(operand), version, operand.numel())
        if key not in self._given:
            self._given[key] = size_of(operand), operand.detach()
        return self._given[key][0]

    def _made(
        self, func: Any, operands: list[Tensor], sources: list[Maker | None], results: list[Tensor]
    ) -> Maker:
        """Note who made the results; a view of an operand was made by what made the operand."""
        name = str(func).split(".")[1]
        maker = Maker(name, tuple(one for one in sources if one is not None))
        written = func._schema.is_mutable
        known = () if written else tuple(_memory(operand) for operand in operands)
        for result in results:
            if written and not _is_whole(result) and maker.operands:
                maker.size = _worst([maker.size, maker.operands[0].size])
            if _memory(result) not in known:
                self._makers[_memory(result)] = maker
        return maker

    def maker_of(self, tensor: Tensor) -> Maker | None:
        """What last wrote the memory of a tensor, if it was seen."""
        return self._makers.get(_memory(tensor))

    def performed(
        self, maker: Maker, before: list[float], operands: list[Tensor], results: list[Tensor]
    ) -> None:
        """What else is wanted of every operation: here nothing."""

    def found(self, event: Event, operands: list[Tensor], results: list[Tensor]) -> None:
        """What else is wanted of an event, whose tensors are gone afterwards: here nothing."""

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


def size_of(tensor: Tensor) -> float:
    """The largest magnitude in a tensor of floating numbers; NaN where it holds one; else 0.

    One sweep over the numbers, which is many times faster than ``isfinite``.
    """
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if not tensor.is_floating_point():
        return 0.0
    numbers = numbers_in(tensor.detach())
    if numbers.numel() == 0:
        return 0.0
    if numbers.element_size() == 1:
        numbers = numbers.float()
    low, high = map(float, numbers.aminmax())  # both are NaN where there is one
    return max(abs(low), abs(high))


def _is_unwritten(name: str) -> bool:
    """Whether what an operation returns holds whatever the memory held."""
    return name.startswith(("empty", "new_empty"))


def _is_whole(tensor: Tensor) -> bool:
    """Whether a tensor is all that its memory holds."""
    if tensor.layout is not torch.strided:
        return True
    return tensor.numel() * tensor.element_size() >= tensor.untyped_storage().nbytes()


def numbers_in(tensor: Tensor) -> Tensor:
    """What a tensor stores here: of a sparse one, its values; of a sharded one, the part here."""
    if is_sharded(tensor):
        tensor = tensor.detach().to_local()  # type: ignore[attr-defined]
    if tensor.layout is torch.strided:
        return tensor
    return tensor._values() if tensor.layout is torch.sparse_coo else tensor.values()


def _worst(sizes: Sequence[float]) -> float:
    """The largest; NaN where there is one."""
    return max(sizes, key=lambda size: (math.isnan(size), size), default=0.0)


def _memory(tensor: Tensor) -> int:
    if tensor.layout is not torch.strided or tensor.numel() == 0:
        return id(tensor)
    return int(tensor.untyped_storage().data_ptr())


def _born(
    before: Sequence[float], after: Sequence[float], args: Sequence[Any]
) -> Literal["nan", "inf"] | None:
    """What an operation made that its operands did not have."""
    if any(map(math.isnan, before)):
        return None
    if any(map(math.isnan, after)):
        return "nan"
    if math.inf not in after or math.inf in before or _holds_infinity(args):
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
    return first_number(first, ~torch.isfinite(results[0].detach()))


def first_number(tensor: Tensor, where: Tensor) -> float | None:
    """The number that a tensor holds at the first true place of another, if there is one.

    It is looked up alone: a tensor may be most of the memory, and true nearly everywhere.
    """
    if where.numel() == 0:
        return None
    place = torch.unravel_index(where.flatten().view(torch.uint8).argmax(), where.shape)
    return float(tensor[place]) if bool(where[place]) else None
