"""Which samples of a batch a fault comes from."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from lossproof.checks.trace import tensors_in
from lossproof.watcher.batch import MOST_SAMPLES, batch_size, mapped
from lossproof.watcher.kept import set_generator
from lossproof.watcher.record import Call

Tensor = torch.Tensor

MOST_TRIALS = 64
"""How often a call is performed on parts of its batch at most."""
MOST_OF_IT = 0.99
"""The part of a sum that few samples must hold to be named: without them nothing would explode."""
FEW = 0.25
"""The part of a batch that is few."""


def by_halving(call: Call, is_bad: Callable[[Any], bool]) -> tuple[int, ...]:
    """The samples that are bad by themselves, found by calling on ever smaller parts of the batch.

    Args:
        call: what is called again, with some rows of each argument that has one for each sample.
        is_bad: whether a result shows the fault.
    """
    size = batch_size([call])
    if size is None or size < 2:
        return ()
    trials = 0

    def bad(rows: range) -> bool:
        nonlocal trials
        trials += 1
        try:
            return is_bad(on_rows(call, rows, size))
        except Exception:  # a layer that needs more samples, a shape that is fixed
            return False

    found: list[int] = []
    waiting = [range(size)]
    while waiting and len(found) < MOST_SAMPLES and trials < MOST_TRIALS:
        rows = waiting.pop(0)
        middle = len(rows) // 2
        for part in (rows[:middle], rows[middle:]):
            if part and bad(part):
                if len(part) == 1:
                    found.append(part[0])
                else:
                    waiting.append(part)
    return tuple(sorted(found)[:MOST_SAMPLES])


def on_rows(call: Call, rows: range, size: int) -> Any:
    """Perform a call again on some rows of each argument that has `size` of them."""

    def part(tensor: Tensor) -> Tensor:
        whole = tensor.detach()
        if isinstance(tensor, nn.Parameter) or not tensor.dim() or tensor.shape[0] != size:
            return whole.clone().requires_grad_(tensor.requires_grad)
        return whole[rows.start : rows.stop].clone().requires_grad_(tensor.requires_grad)

    return plainly(call, part)


def plainly(call: Call, swap: Callable[[Tensor], Tensor], **options: Any) -> Any:
    """Perform a call again with other tensors, in the state of the generators that it had."""
    args, kwargs = mapped((call.args, call.kwargs), swap)
    for device, state in call.generators.items():
        set_generator(device, state)
    with contextlib.ExitStack() as stack:
        for device_type, dtype in call.autocast.items():
            stack.enter_context(torch.autocast(device_type, dtype, cache_enabled=False))
        return call.function(*args, **{**kwargs, **options})


def values_per_sample(call: Call, size: int) -> Tensor | None:
    """What each sample adds to a loss that can be had with ``reduction="none"``."""
    try:
        with _unreduced(call) as options, torch.no_grad():
            if options is None:
                return None
            result = plainly(call, lambda tensor: tensor.detach().clone(), **options)
    except Exception:  # it does not understand the word
        return None
    values = next(tensors_in(result), None)
    if values is None or values.dim() == 0 or values.shape[0] % size:
        return None
    return values.detach().double().abs().reshape(size, -1).sum(1).cpu()


@contextlib.contextmanager
def _unreduced(call: Call) -> Iterator[dict[str, str] | None]:
    """The options that make a loss return one value for each sample; ``None`` where none does."""
    function = call.function
    if isinstance(function, nn.Module) and isinstance(getattr(function, "reduction", None), str):
        before = function.reduction
        function.reduction = "none"  # type: ignore[assignment]
        try:
            yield {}
        finally:
            function.reduction = before
        return
    try:
        known = "reduction" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        known = False
    yield {"reduction": "none"} if known else None


def dominating(sizes: Tensor) -> tuple[int, ...]:
    """The few samples that hold nearly all of a sum, the largest first; none where it is spread."""
    total = float(sizes.sum())
    if not 0 < total < float("inf"):
        return tuple(torch.nonzero(~torch.isfinite(sizes)).flatten().tolist()[:MOST_SAMPLES])
    ordered, places = sizes.sort(descending=True)
    count = int((ordered.cumsum(0) < MOST_OF_IT * total).sum()) + 1
    if count > min(MOST_SAMPLES, max(FEW * len(sizes), 1)):
        return ()
    return tuple(places[:count].tolist())
