"""The terms of a composite loss in TensorBoard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossproof.terms.balance.step import BalanceStep
    from lossproof.terms.history import TermHistory

__all__ = ["log_history", "log_step"]


def log_step(
    writer: Any, step: BalanceStep, global_step: int | None = None, prefix: str = "terms/"
) -> None:
    """Write the figures of a step as scalars, one for each key of ``step.as_dict(prefix)``.

    Args:
        writer: a ``torch.utils.tensorboard.SummaryWriter``, or what has its ``add_scalar``.
        step: what ``balancer.backward`` returned.
        global_step: the number of the step.
        prefix: what the name of each scalar begins with.

    Raises:
        TypeError: the writer has no ``add_scalar``.
    """
    add_scalar = _method(writer, "add_scalar")
    for key, one in step.as_dict(prefix).items():
        add_scalar(key, one, global_step)


def log_history(
    writer: Any, history: TermHistory, global_step: int | None = None, tag: str = "terms"
) -> None:
    """Write the picture of a history as an image.

    Args:
        writer: a ``torch.utils.tensorboard.SummaryWriter``, or what has its ``add_figure``.
        history: what was recorded.
        global_step: the number of the step.
        tag: the name of the image.

    Raises:
        TypeError: the writer has no ``add_figure``.
        ImportError: matplotlib is not installed.
    """
    _method(writer, "add_figure")(tag, history.plot(), global_step)


def _method(writer: Any, name: str) -> Any:
    found = getattr(writer, name, None)
    if not callable(found):
        raise TypeError(
            "`writer` must be a torch.utils.tensorboard.SummaryWriter (pip install "
            f"'lossproof[tensorboard]'), got {type(writer).__name__}"
        )
    return found
