"""Balancing in several processes: the same weights, and the same gradients, on every rank.

Under ``DistributedDataParallel`` each rank differentiates the terms of its own batch. Every rank
computes the same weights from the figures of all, and the weighted gradient goes through DDP's own
reducer, once, as in plain training. Two small collectives are added to a step: one of the values of
the terms, and, where gradients are measured, one of the statistics and the K x K Gramian.

What the figures mean when there are several ranks:

- the value of a term is the mean over the ranks;
- Gramian, squared norm, mean and mean magnitude are the means of the ranks' own, and the largest
  magnitude is the largest of all. The mean of the Gramians is the Gramian of the mean gradients
  plus the covariance between the ranks, the noise of their batches; the Gramian of the mean
  gradients alone cannot be told without exchanging the gradients themselves;
- whole gradients stay each rank's own: what a method makes of them is what is averaged;
- a term that is ``None`` on some ranks counts as zero there, as it does in plain training.

All ranks make the same steps: with batches of uneven number, DDP's ``join()`` would answer for
DDP's own collectives alone, and the others would wait.

With ``fully_shard`` (FSDP2) the gradients are exchanged anyway, and all figures are exactly those
of the whole batch (see :mod:`lossproof.terms.sharded`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from lossproof.terms.statistics import SINGLE
from lossproof.write.hooks import hooks_held_back

if TYPE_CHECKING:
    from lossproof.terms.gradients import TermGradients

Tensor = torch.Tensor

MAXIMA = ("max_abs", "reached")
"""Of what the largest is taken over the ranks; of everything else the mean."""


class AnotherRankError(RuntimeError):
    """Another rank could not do its part of the step."""


class Ranks:
    """The processes that train together, and what they tell each other.

    Args:
        group: their process group.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.size = dist.get_world_size(group)

    @classmethod
    def of(cls, group: Any) -> Ranks | None:
        """The ranks of a process group, or ``None`` for a process that is alone.

        Args:
            group: a process group; ``None`` is the default one, if there is one; ``False`` is none.

        Raises:
            TypeError: it is no process group.
            ValueError: this process is not in the group, or nothing is initialised.
        """
        if group is False:
            return None
        if not dist.is_available() or not dist.is_initialized():
            if group is None:
                return None
            raise ValueError("`group` was given, but torch.distributed is not initialised")
        chosen = dist.group.WORLD if group is None else group
        if chosen == dist.GroupMember.NON_GROUP_MEMBER:
            raise ValueError("`group` must be a process group that this process belongs to")
        if not isinstance(chosen, dist.ProcessGroup):
            raise TypeError(
                f"`group` must be a process group, None or False, got {type(chosen).__name__}"
            )
        return cls(chosen) if dist.get_world_size(chosen) > 1 else None

    @property
    def name(self) -> str:
        """What this group is called in this process."""
        return str(self.group.group_name)

    def compare(self, facts: Mapping[str, Any], failure: str = "") -> None:
        """Make sure that something is the same on every rank.

        Args:
            facts: what must be the same, in words, and what it is here (picklable).
            failure: why this rank cannot take part, if it cannot.

        Raises:
            ValueError: it is not the same, on all ranks alike.
            AnotherRankError: another rank cannot take part.
        """
        heard: list[Any] = [None] * self.size
        dist.all_gather_object(heard, (failure, dict(facts)), group=self.group)
        if failure:
            return
        _refuse_failures([words for words, _ in heard])
        for what, here in facts.items():
            there = [rank[what] for _, rank in heard]
            if any(one != here for one in there):
                told = ", ".join(f"{one!r} on rank {rank}" for rank, one in enumerate(there))
                raise ValueError(f"{what} must be the same on every rank, got {told}")

    def gather(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gather tensors from all ranks, in one collective.

        Args:
            parts: tensors of the same names and shapes on every rank.

        Returns:
            The same in float64, with a leading axis for the rank.

        Raises:
            AnotherRankError: a rank cannot take part (see :meth:`fail`).
        """
        flat = torch.cat([part.reshape(-1).double() for part in parts.values()])
        rows = self._rows(flat, failure="")
        pieces = torch.split(rows, [part.numel() for part in parts.values()], dim=1)
        return {
            name: piece.reshape(self.size, *part.shape)
            for (name, part), piece in zip(parts.items(), pieces, strict=True)
        }

    def fail(self, count: int, device: torch.device, failure: str) -> None:
        """Answer those who wait in :meth:`gather` for this rank, which cannot take part.

        Args:
            count: how many numbers they gather from each rank.
            device: where these are.
            failure: why.
        """
        self._rows(torch.zeros(count, dtype=torch.float64, device=device), failure=failure)

    def _rows(self, flat: Tensor, *, failure: str) -> Tensor:
        """The numbers of all ranks, a row for each."""
        sent = torch.cat([flat.new_full((1,), float(bool(failure))), flat])
        rows = sent.new_empty(self.size, sent.numel())
        dist.all_gather(list(rows), sent, group=self.group)
        if flat.device.type == "cpu":
            if rows[:, 0].any():
                heard: list[Any] = [None] * self.size
                dist.all_gather_object(heard, failure, group=self.group)
                if not failure:
                    _refuse_failures(heard)
        elif not failure:  # nobody waits for the device to hear that all is well
            torch._assert_async(~rows[:, 0].any(), "another rank could not do its part of a step")
        return rows[:, 1:]

    @contextmanager
    def announcing(self, count: int, device: torch.device) -> Iterator[None]:
        """Inside, an exception is told to the ranks that gather ``count`` numbers meanwhile."""
        try:
            yield
        except Exception as error:
            self.fail(count, device, _words(error))
            raise


def _refuse_failures(failures: Sequence[str]) -> None:
    told = "; ".join(f"rank {rank}: {words}" for rank, words in enumerate(failures) if words)
    if told:
        raise AnotherRankError(f"this step could not be done on every rank: {told}")


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def synchronised(
    figures: TermGradients, ranks: Ranks | None, *, with_values: bool = False
) -> TermGradients:
    """The figures over all ranks, from those of this rank. Its gradients stay its own.

    Args:
        figures: the figures of this rank.
        ranks: the processes that train together, if this one is not alone.
        with_values: whether the values of the terms are those of this rank, too.
    """
    if ranks is None:
        return figures
    parts = figures.parts
    if not with_values:
        del parts["values"]
    heard = {
        name: (rows.amax(0) if name in MAXIMA else rows.mean(0)).to(parts[name].dtype)
        for name, rows in ranks.gather(parts).items()
    }
    return figures.replaced({"values": figures.values, **heard})


def numbers_of(count: int, parameters: int, want: Sequence[str]) -> int:
    """How many numbers :func:`synchronised` gathers for K terms from each rank."""
    tables = 1 + sum(name in want for name in SINGLE)  # the first says what is reached
    pairs = "gramian" in want or "cosine" in want
    return tables * parameters * count + pairs * count * count


def norm_over_ranks(norm: Tensor, ranks: Ranks | None) -> Tensor:
    """The root mean square of a norm over the ranks.

    The mean of the ranks' gradients is never longer than that.
    """
    if ranks is None:
        return norm
    return ranks.gather({"square": norm.double().square()})["square"].mean(0).sqrt().to(norm)


@contextmanager
def reductions_held_back(terms: Sequence[Tensor]) -> Iterator[None]:
    """Inside, the gradients of terms are measured, and ``.grad`` is filled at the end.

    In its first step, ``DistributedDataParallel(static_graph=True)`` averages ``.grad`` over the
    ranks at the end of the first backward pass that there is, which here measures, before anything
    is in ``.grad``. So that is held back until it is filled.
    """
    models = list(_static_models(terms)) if dist.is_available() and dist.is_initialized() else []
    for model in models:
        model._static_graph_delay_allreduce_enqueued = True
    try:
        yield
    except BaseException:
        for model in models:
            model._static_graph_delay_allreduce_enqueued = False
        raise
    for model in models:
        model.reducer._delay_all_reduce()


def _static_models(terms: Sequence[Tensor]) -> Iterator[Any]:
    """The models behind the terms, read from the node that such a model puts after its outputs."""
    for node in _nodes_behind(terms):
        if node.name() == "_DDPSinkBackward":
            model = node.ddp_weakref()
            if model.static_graph and not model._static_graph_delay_allreduce_enqueued:
                yield model


def tell_of_idle(terms: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
    """Let listeners hear that a backward pass went by these parameters and brought no gradient.

    ``DistributedDataParallel(find_unused_parameters=True)`` waits for every parameter behind the
    outputs of its model, whether the terms use these outputs or not. A plain backward pass comes by
    all of them.

    Args:
        terms: the terms of the step.
        parameters: those whose ``.grad`` was not filled.
    """
    if not parameters or not dist.is_available() or not dist.is_initialized():
        return
    behind = {id(getattr(node, "variable", None)) for node in _nodes_behind(terms)}
    idle = [parameter for parameter in parameters if id(parameter) in behind]
    if idle:
        with hooks_held_back(idle):
            _NoGradient.apply(*idle).backward()  # type: ignore[no-untyped-call]


class _NoGradient(torch.autograd.Function):
    """A number that depends on parameters by name only."""

    @staticmethod
    def forward(ctx: Any, *parameters: Tensor) -> Tensor:
        return torch.zeros((), device=parameters[0].device)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return (None,) * len(ctx.needs_input_grad)


def _nodes_behind(terms: Sequence[Tensor]) -> Iterator[Any]:
    """All nodes of autograd's graph behind the terms, each once."""
    waiting: list[Any] = [term.grad_fn for term in terms if term.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        yield node
        for child, _ in node.next_functions:
            if child is not None and child not in seen:
                seen.add(child)
                waiting.append(child)
