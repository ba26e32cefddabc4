"""Balancing in several processes: the same weights, and the same gradients, on every rank.

Under ``DistributedDataParallel`` each rank differentiates the terms of its own batch. The figures
of all ranks are exchanged in one small collective, from which every rank computes the same
weights; the weighted gradient then goes through DDP's own reducer, once, as in plain training.

What the figures mean when there are several ranks:

- the value of a term is the mean over the ranks;
- Gramian, squared norm, mean and mean magnitude are the means of the ranks' own, and the largest
  magnitude is the largest of all. The mean of the Gramians is the Gramian of the mean gradients
  plus the covariance between the ranks, which is what a rank's own batch adds to the noise; the
  Gramian of the mean gradients alone cannot be told without exchanging the gradients themselves;
- a term that is ``None`` on some ranks counts as zero there, as it does in plain training.

With ``fully_shard`` (FSDP2) the gradients are exchanged anyway, and the figures are exactly those
of the gradients of the whole batch (see :mod:`lossproof.terms.sharded`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist

from lossproof.terms.gradients import TermGradients
from lossproof.terms.statistics import SINGLE

Tensor = torch.Tensor

MAXIMA = ("max_abs", "reached", "present")
"""What is the largest over the ranks; everything else is the mean."""


class AnotherRankError(RuntimeError):
    """Another rank could not do its part of the step."""


class Ranks:
    """The processes that train together, and what they tell each other in a step.

    Args:
        group: their process group.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.size = dist.get_world_size(group)

    @classmethod
    def of(cls, group: dist.ProcessGroup | Literal[False] | None) -> Ranks | None:
        """The ranks of a process group, or ``None`` for a process that is alone.

        Args:
            group: a process group; ``None`` is the default one, if there is one; ``False`` is none.

        Raises:
            TypeError: it is no process group.
            ValueError: this process is not in the group.
        """
        if group is False:
            return None
        if not dist.is_available() or not dist.is_initialized():
            if group is None:
                return None
            raise ValueError("`group` was given, but torch.distributed is not initialised")
        chosen: Any = dist.group.WORLD if group is None else group
        if chosen is dist.GroupMember.NON_GROUP_MEMBER:
            raise ValueError("`group` must be a process group that this process belongs to")
        if not isinstance(chosen, dist.ProcessGroup):
            raise TypeError(
                f"`group` must be a process group, None or False, got {type(chosen).__name__}"
            )
        return cls(chosen) if dist.get_world_size(chosen) > 1 else None

    def same(self, facts: Mapping[str, Any]) -> None:
        """Make sure that something is the same on every rank.

        Args:
            facts: what must be the same, in words, and what it is here (picklable).

        Raises:
            ValueError: it is not, on all ranks alike.
        """
        heard: list[Any] = [None] * self.size
        dist.all_gather_object(heard, dict(facts), group=self.group)
        for what in heard[0]:
            here = [rank[what] for rank in heard]
            if any(one != here[0] for one in here[1:]):
                told = ", ".join(f"{one!r} on rank {rank}" for rank, one in enumerate(here))
                raise ValueError(f"{what} must be the same on every rank, got {told}")

    def gather(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gather tensors from all ranks, in one collective.

        Args:
            parts: tensors of the same names and shapes on every rank.

        Returns:
            The same in float64, with a leading axis for the rank.

        Raises:
            AnotherRankError: a rank has said that it cannot take part (see :meth:`announced`).
        """
        flat = torch.cat([part.reshape(-1).double() for part in parts.values()])
        rows = self._rows(flat, failed=False)
        pieces = torch.split(rows, [part.numel() for part in parts.values()], dim=1)
        return {
            name: piece.reshape(self.size, *part.shape)
            for (name, part), piece in zip(parts.items(), pieces, strict=True)
        }

    @contextmanager
    def announced(
        self, shapes: Mapping[str, Sequence[int]], device: torch.device
    ) -> Iterator[None]:
        """Let no rank wait for this one, if it fails before what it would have gathered.

        Args:
            shapes: the shapes of the parts that the other ranks are about to gather.
            device: where these are.
        """
        try:
            yield
        except AnotherRankError:
            raise
        except Exception as error:
            count = sum(torch.Size(shape).numel() for shape in shapes.values())
            flat = torch.zeros(count, dtype=torch.float64, device=device)
            self._rows(flat, failed=True, words=f"{type(error).__name__}: {error}")
            raise

    def _rows(self, flat: Tensor, *, failed: bool, words: str = "") -> Tensor:
        """The numbers of all ranks, a row for each."""
        sent = torch.cat([flat.new_full((1,), float(failed)), flat])
        received = sent.new_empty(self.size * sent.numel())
        dist.all_gather_into_tensor(received, sent, group=self.group)
        rows = received.view(self.size, -1)
        if flat.device.type != "cpu":  # nobody waits for the device to hear that all is well
            if not failed:
                torch._assert_async(~rows[:, 0].any(), "another rank could not do this step")
            return rows[:, 1:]
        if rows[:, 0].any():
            heard: list[Any] = [None] * self.size
            dist.all_gather_object(heard, words, group=self.group)
            if not failed:
                told = "; ".join(f"rank {rank}: {one}" for rank, one in enumerate(heard) if one)
                raise AnotherRankError(f"this step could not be done on every rank: {told}")
        return rows[:, 1:]

    def over_all(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Means over all ranks, and maxima of what is in ``MAXIMA``."""
        return {
            name: (part.amax(0) if name in MAXIMA else part.mean(0)).to(parts[name].dtype)
            for name, part in self.gather(parts).items()
        }


def synchronised(figures: TermGradients, ranks: Ranks | None) -> TermGradients:
    """The figures over all ranks, from those of this rank. Its gradients stay its own."""
    if ranks is None:
        return figures
    return figures.replaced(ranks.over_all(figures.parts))


class _Shared(torch.autograd.Function):
    """Other values, with the gradient of the first."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, shared: Tensor) -> Tensor:
        return shared.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


def averaged(values: Tensor, ranks: Ranks | None) -> Tensor:
    """The values of the terms over all ranks, with the graph of this rank's.

    A method that minimises a function of the values needs its slope at the values of the whole
    batch; the mean of the ranks' gradients is then the gradient for the whole batch.
    """
    if ranks is None:
        return values
    mean = ranks.over_all({"values": values.detach()})["values"].to(values)
    return _Shared.apply(values, mean)  # type: ignore[no-any-return, no-untyped-call]


def shapes_of(count: int, parameters: int, want: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The shapes of the figures of a step, by their names in ``TermGradients.parts``."""
    shapes: dict[str, tuple[int, ...]] = {"values": (count,)}
    shapes |= {name: (parameters, count) for name in SINGLE if name in want}
    if "gramian" in want or "cosine" in want:
        shapes["gramian"] = (count, count)
    return {**shapes, "reached": (count, parameters)}
