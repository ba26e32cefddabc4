"""Proof that samples are to blame: with others in their places the fault is gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from lossproof.checks.nonfinite import node_name
from lossproof.checks.trace import tensors_in
from lossproof.watcher.batch import batch_size, given_tensors
from lossproof.watcher.lines import nodes_from
from lossproof.watcher.record import Call
from lossproof.watcher.replay import Replay
from lossproof.watcher.samples import by_halving, on_rows, plainly
from lossproof.write.sharding import is_sharded

Tensor = torch.Tensor

CONTROLS = 4
"""How many other rows are asked whether they are bad by themselves, too."""
MOVES_ROWS = frozenset(
    "index index_select gather masked_select take permute transpose t movedim flip roll sort topk"
    " cat stack repeat mm bmm as_strided scatter unbind split".split()
)
"""Operations after which a row may be another sample's."""


def guilty_rows(
    call: Call, rows: Sequence[int] | None, is_bad: Callable[[Any], bool]
) -> tuple[int, ...]:
    """The rows of a call's arguments without which it shows no fault; none where that is not so.

    A result with as many rows as there are samples need not have one for each: they may be
    classes, or what a mask has left.

    Args:
        call: what is called again.
        rows: what the fault looks like; ``None`` where it does not look like rows.
        is_bad: whether a result shows the fault.
    """
    size = batch_size([call])
    if size is None:
        return ()
    if rows and (len(rows) == size or _is_gone_without(call, rows, size, is_bad)):
        return tuple(rows)
    found = by_halving(call, is_bad)
    others = [row for row in range(size) if row not in found][:CONTROLS]
    return found if any(not _is_bad_alone(call, row, size, is_bad) for row in others) else ()


def _is_bad_alone(call: Call, row: int, size: int, is_bad: Callable[[Any], bool]) -> bool:
    """Whether one row shows the fault; a fault of any row is that of a call with too few."""
    try:
        return is_bad(on_rows(call, range(row, row + 1), size))
    except Exception:  # it needs more rows
        return True


def _is_gone_without(
    call: Call, rows: Sequence[int], size: int, is_bad: Callable[[Any], bool]
) -> bool:
    """Whether the fault is there, and gone with another row in the place of each of these."""
    other = next((row for row in range(size) if row not in rows), None)

    def copied(tensor: Tensor) -> Tensor:
        return tensor.detach().clone().requires_grad_(tensor.requires_grad)

    def replaced(tensor: Tensor) -> Tensor:
        numbers = tensor.detach().clone()
        if not isinstance(tensor, nn.Parameter) and tensor.dim() and tensor.shape[0] == size:
            numbers[list(rows)] = numbers[other].clone()
        return numbers.requires_grad_(tensor.requires_grad)

    if other is None:
        return False
    try:
        return is_bad(plainly(call, copied)) and not is_bad(plainly(call, replaced))
    except Exception:  # it cannot be called in this way
        return False


def samples_of(
    replay: Replay, call: Call, rows: Sequence[int] | None
) -> tuple[tuple[int, ...], int | None]:
    """The samples of the batch that rows of a call's arguments were made from, and how many it has.

    Code between the model and the loss may have left some out, or have put them in another order:
    its own graph, which is still there, tells which.
    """
    earlier = [one for one in replay.needed(call) if one.role == "model"]
    size, batch = batch_size([call]), batch_size(earlier or [call])
    if not rows or size is None or batch is None:
        return (), batch
    if not earlier:
        return tuple(rows), batch
    made = [
        given.tensor
        for given in given_tensors(call)
        if given.tensor.grad_fn is not None and given.tensor.dim() and len(given.tensor) == size
    ]
    results = [
        tensor
        for one in earlier
        for tensor in tensors_in(one.result)
        if tensor.grad_fn is not None and tensor.dim() and len(tensor) == batch
    ]
    if not made or not results or any(map(is_sharded, replay.model.parameters())):
        return (), batch
    found = _sent_back(made, results, rows)
    if found is None and size == batch and not _moves_rows(made, results):
        return tuple(rows), batch
    return found or (), batch


def _sent_back(
    made: Sequence[Tensor], results: Sequence[Tensor], rows: Sequence[int]
) -> tuple[int, ...] | None:
    """The rows of the results that get a gradient from these; ``None`` if the graph was freed."""
    sent = [torch.zeros_like(one) for one in made]
    for one in sent:
        one[list(rows)] = 1
    try:
        found = torch.autograd.grad(made, results, sent, retain_graph=True, allow_unused=True)
    except RuntimeError:
        return None
    hit = torch.zeros(len(results[0]), dtype=torch.bool)
    for gradient in found:
        if gradient is not None:
            hit |= (gradient != 0).reshape(len(hit), -1).any(1).cpu()
    return tuple(hit.nonzero().flatten().tolist())


def _moves_rows(made: Sequence[Tensor], results: Sequence[Tensor]) -> bool:
    ends = [one.grad_fn for one in results]
    between = [node for node in nodes_from([one.grad_fn for one in made], ends) if node not in ends]
    return any(node_name(node) in MOVES_ROWS for node in between if not hasattr(node, "variable"))
