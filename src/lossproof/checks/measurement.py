"""How long two losses take and how much memory they need, measured fairly against each other."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
import warnings
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from lossproof.checks.comparison import Spread, Times
from lossproof.checks.dispatch_mode import LeanDispatchMode
from lossproof.checks.examination import Examination, primary, weights_like
from lossproof.checks.global_state import untouched_globals
from lossproof.checks.trace import tensors_in
from lossproof.write.accelerated import Accelerated

Tensor = torch.Tensor

RUNS = 7
"""At least so many runs of each side are timed."""
BUDGET = 0.2
"""Runs are added until they have taken so many seconds."""
WARM_UP = 2
"""The first runs fill caches and allocate memory; they do not count."""


class UnmeasurableError(Exception):
    """A loss raised while it was measured; the cause is what it raised."""


def measure_times(a: Examination, b: Examination) -> Times:
    """Time forward and backward of two losses in interleaved runs: a, b, a, b...

    What disturbs the machine for a while disturbs both, so the ratio within each pair of runs is
    steadier than the times. Each run has fresh copies of the inputs, made before its clock starts.

    Args:
        a: the first loss with its inputs.
        b: the second.

    Raises:
        UnmeasurableError: a forward or backward pass raised.
    """
    for _ in range(WARM_UP):
        timed_run(a)
        timed_run(b)
    runs: list[tuple[tuple[float, float], tuple[float, float]]] = []
    end = time.perf_counter() + BUDGET
    with _no_garbage_collection():
        while len(runs) < RUNS or time.perf_counter() < end:
            runs.append((timed_run(a), timed_run(b)))
    forward = [(one[0], other[0]) for one, other in runs]
    total = [(one[1], other[1]) for one, other in runs]
    return Times(
        *_spreads(forward), *_spreads(total), len(runs), str(_device(a)), torch.get_num_threads()
    )


def _spreads(pairs: Sequence[tuple[float, float]]) -> tuple[Spread, Spread, Spread]:
    return (
        _spread([one for one, _ in pairs]),
        _spread([other for _, other in pairs]),
        _spread([one / other for one, other in pairs]),
    )


def _spread(numbers: Sequence[float]) -> Spread:
    low, median, high = statistics.quantiles(numbers, n=4, method="inclusive")
    return Spread(median, low, high)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection in the middle of a run would count against whoever was running."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def _ready(case: Examination) -> Iterator[tuple[tuple[Any, ...], list[Tensor]]]:
    """Fresh arguments and leaves, in a state that is put back afterwards."""
    with (
        untouched_globals(case.seed, compiled=_compiles(case)),
        case.subject.state.lent(None),
        torch.enable_grad(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        arguments, leaves = case.fresh(case.inputs.values, None)
        try:
            yield arguments, [*leaves, *case.subject.state.parameters().values()]
        except Exception as error:
            raise UnmeasurableError(
                f"`{case.subject.name}` raised {type(error).__name__}"
            ) from error


def timed_run(case: Examination) -> tuple[float, float]:
    """Seconds of one forward, and of forward and backward together."""
    device = _device(case)
    with _ready(case) as (arguments, leaves):
        start = _now(device)
        output = case.subject.call(*arguments)
        forward = _now(device) - start
        value = primary(output)
        if value is None or not value.requires_grad or not leaves:
            return forward, forward
        upstream = weights_like(value.detach())
        start = _now(device)
        torch.autograd.grad(value, leaves, upstream, allow_unused=True)
        return forward, forward + _now(device) - start


def _compiles(case: Examination) -> bool:
    call = case.subject.call
    return isinstance(call, Accelerated) and call.compiles


def _now(device: torch.device) -> float:
    """The time when everything that was asked of the device is done."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
    return time.perf_counter()


def _device(case: Examination) -> torch.device:
    """Where the loss runs: the first device that is not the CPU, else the CPU."""
    devices = [tensor.device for tensor in tensors_in(case.inputs.values)]
    return next((d for d in devices if d.type != "cpu"), torch.device("cpu"))


# ---------------------------------------------------------------------------- memory
def measure_peak(case: Examination) -> int:
    """The most bytes that the tensors of one forward and backward held at one time.

    Inputs, parameters and buffers are not counted: only what the loss adds to them, gradients
    included. On the CPU every tensor is counted exactly, from the operation that makes it until its
    memory is given back; scratch memory inside one operation is not seen. On CUDA it is the
    allocator's own count.

    Raises:
        UnmeasurableError: the forward or backward pass raised.
    """
    device = _device(case)
    if device.type == "cuda":
        return _cuda_peak(case, device)
    with _ready(case) as (arguments, leaves), _LiveBytes() as live:
        _forward_backward(case, arguments, leaves)
    peak: int = live.peak
    return peak


def _forward_backward(
    case: Examination, arguments: tuple[Any, ...], leaves: list[Tensor]
) -> tuple[Tensor | None, ...]:
    value = primary(case.subject.call(*arguments))
    if value is None or not value.requires_grad or not leaves:
        return ()
    return torch.autograd.grad(value, leaves, torch.ones_like(value), allow_unused=True)


def _cuda_peak(case: Examination, device: torch.device) -> int:
    with _ready(case) as (arguments, leaves):
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        _forward_backward(case, arguments, leaves)
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device)) - before


class _LiveBytes(LeanDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that operations have made and nobody has freed yet."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._bytes = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # What an operation is given and did not come from here is the caller's own memory.
        mine = {id(storage) for storage in _storages((args, kwargs))} & self._sizes.keys()
        given = {id(storage) for storage in _storages((args, kwargs))} - mine
        out = func(*args, **kwargs)
        # `torch.tensor(...)` makes its memory out of sight and hands it to `lift_fresh`.
        fresh = func is torch.ops.aten.lift_fresh.default
        for storage in _storages(out):
            if fresh or id(storage) not in given:
                self._note(storage)
        self.peak = max(self.peak, self._bytes)
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key not in self._sizes:
            # A storage's Python object lives exactly as long as its memory.
            weakref.finalize(storage, self._forget, key).atexit = False
        self._bytes += size - self._sizes.get(key, 0)
        self._sizes[key] = size

    def _forget(self, key: int) -> None:
        self._bytes -= self._sizes.pop(key)


def _storages(value: Any) -> list[torch.UntypedStorage]:
    """The memory of every plain tensor in a nested structure."""
    return [
        tensor.untyped_storage() for tensor in tensors_in(value) if tensor.layout is torch.strided
    ]
