"""Whether a loss may be computed in chunks: a row must not depend on the rows beside it.

Asked once, of a few rows: what the loss says of a row alone, and what it says in company.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lossproof.errors import UsageError
from lossproof.speed.chunk_plan import Plan
from lossproof.speed.surroundings import accelerators, generators_kept

Tensor = torch.Tensor
COMPANY = 32
ALONE = 4


class NotSeparableError(UsageError):
    """The loss of a row depends on the other rows of the batch, so that it cannot be chunked."""


@dataclass(frozen=True)
class Company:
    """The few rows that were tried, for whoever wants to look at them, too."""

    logits: Tensor
    rows: Sequence[Tensor]
    of_loss: Sequence[Tensor]
    """What the loss takes besides."""
    overwritten: bool
    """Whether the loss wrote to its logits."""


def refuse_coupled_rows(
    plan: Plan, tensors: Sequence[Tensor], modules: Sequence[nn.Module]
) -> Company:
    """Compare a few rows alone with the same rows in company.

    Args:
        plan: how a chunk is computed.
        tensors: those of the call.
        modules: those of the call, whose buffers are left as they were.

    Raises:
        NotSeparableError: a row depends on its company.
        ValueError: the loss does not give a value for each row.
    """
    for module in modules:
        _refuse_batch_statistics(module)
    rows, shared = plan.split(tensors)
    pick = _picked(plan, len(rows[0]), rows[0].device)
    some = [row.detach().index_select(0, pick) for row in rows]
    with _undisturbed(modules, tensors), plan.surroundings.autocast_again(), torch.no_grad():
        of_head, of_loss = plan.of_head(shared), plan.beyond_heads(shared)
        logits = _same_alone(
            lambda part: plan.head.logits(part[0], of_head), some, "the head's output", quiet=True
        )
        some = list(plan.through_target_head(some, shared))
        written = _tried(plan, logits.clone(), some, of_loss)
        overwritten = not bool(_same(written, logits).all())
        _same_alone(
            lambda part: plan.values(part[0], [some[0][: len(part[0])], *part[1:]], of_loss),
            [logits, *some[1:]],
            "the loss",
        )
    return Company(logits, some, of_loss, overwritten)


def _tried(plan: Plan, logits: Tensor, rows: Sequence[Tensor], of_loss: Sequence[Tensor]) -> Tensor:
    """Call the loss once; return the logits as it leaves them."""
    plan.overwrites = False
    try:
        plan.values(logits, rows, of_loss)
    except Exception as error:
        _explain_given_by_name(plan, len(rows[0]), of_loss, error)
        raise
    plan.overwrites = True  # until it is known that it does not
    return logits


def _explain_given_by_name(
    plan: Plan, rows: int, of_loss: Sequence[Tensor], error: Exception
) -> None:
    """Say what may be wrong where a tensor that is to be cut was given by name."""
    by_name = of_loss[len(plan.loss_parameters) :]
    for name, one in zip(plan.shared_names, by_name, strict=False):
        if one.ndim and len(one) == plan.count:
            raise ValueError(
                f"`{name}` has {plan.count} rows as `hidden` has, and was given by name: such a "
                f"tensor is given to the loss whole, beside the logits of {rows} rows; what has a "
                f"row for each goes by position (the loss raised {type(error).__name__}: {error})"
            ) from error


def _same(one: Tensor, other: Tensor) -> Tensor:
    return (one == other) | (one.isnan() & other.isnan())


def _picked(plan: Plan, count: int, device: torch.device) -> Tensor:
    """Some rows that count, and a few of them twice: a pair of equals may be what couples them."""
    if plan.index is not None and len(plan.index):
        first = plan.index[:COMPANY]
    else:
        first = torch.arange(min(COMPANY, count), device=device)
    return torch.cat([first, first[:ALONE]])


def _same_alone(run: Any, rows: Sequence[Tensor], what: str, *, quiet: bool = False) -> Tensor:
    """What the rows give together, if each gives the same by itself.

    A head with dropout is nothing to speak of (``quiet``).
    """
    together: Tensor = run(rows)
    if len(together) != len(rows[0]):
        return together  # told in words by whoever asks for a value for each row
    again = run(rows)
    size = _largest(rows[0], together)
    if not _near(together, again, size).all():
        if not quiet:
            warnings.warn(
                f"{what} is drawn at random, so that it could not be tried whether it depends on "
                "other rows than its own",
                RuntimeWarning,
                stacklevel=6,
            )
        return together
    for row in range(min(ALONE, len(together))):
        alone = run([tensor[row : row + 1] for tensor in rows])
        if alone.shape[1:] != together.shape[1:] or not _near(alone[0], together[row], size).all():
            raise NotSeparableError(
                f"{what} of row {row} is {_shown(alone[0])} alone and {_shown(together[row])} "
                "beside other rows: it depends on the batch (by its statistics, a ranking, the "
                "number of rows?), so that it cannot be computed in chunks"
            )
    return together


def _largest(*tensors: Tensor) -> float:
    """The largest number that was computed with: rounding is relative to it."""
    found = [one[one.isfinite()].abs() for one in tensors if one.is_floating_point()]
    return max([float(one.max()) for one in found if one.numel()], default=0.0)


def _near(one: Tensor, other: Tensor, size: float) -> Tensor:
    """Equal but for rounding."""
    if not one.is_floating_point():
        return one == other
    eps = _rounding(one.dtype)
    return torch.isclose(
        one, other, rtol=eps**0.6, atol=max(eps**0.6, 32 * eps * size), equal_nan=True
    )


def _rounding(dtype: torch.dtype) -> float:
    """The rounding of a product; where it may be made in TF32 or bfloat16, that of these."""
    precision = torch.get_float32_matmul_precision()
    if dtype is torch.float32 and precision != "highest":
        return 2.0**-10 if precision == "high" else 2.0**-7
    return torch.finfo(dtype).eps


def _shown(value: Tensor) -> str:
    return f"{value.reshape(-1)[0].item():g}" if value.numel() else "nothing"


def _refuse_batch_statistics(module: nn.Module) -> None:
    for name, part in module.named_modules():
        if isinstance(part, _BatchNorm) and (part.training or part.running_mean is None):
            raise NotSeparableError(
                f"`{name or type(part).__name__}` is a {type(part).__name__} that normalises "
                "by the statistics of the batch, which chunks do not have; use another "
                "normalisation, or put it into evaluation mode with running statistics"
            )


@contextmanager
def _undisturbed(modules: Sequence[nn.Module], tensors: Sequence[Tensor]) -> Iterator[None]:
    """Afterwards the buffers of the modules and the random generators are what they were."""
    kept = [copy.deepcopy(dict(module.named_buffers())) for module in modules]
    try:
        with generators_kept(accelerators(tensor.device for tensor in tensors)):
            yield
    finally:
        written = [
            f"`{name}` of {type(module).__name__}"
            for module, before in zip(modules, kept, strict=True)
            for name, buffer in module.named_buffers()
            if _put_back(buffer, before[name])
        ]
    if written:
        warnings.warn(
            f"the forward pass writes to a buffer, {', '.join(written)}: chunks do so several "
            "times in a call, each with its own rows",
            RuntimeWarning,
            stacklevel=6,
        )


def _put_back(buffer: Tensor, before: Tensor) -> bool:
    """Give a buffer the numbers it had, and say whether they had changed."""
    changed = not bool(_same(buffer, before).all())
    with torch.no_grad():
        buffer.copy_(before)
    return changed
