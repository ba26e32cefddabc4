"""How the ranks enter a step together: with the same terms, values and intentions."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lossproof.terms.distributed import Ranks
from lossproof.terms.terms import Terms
from lossproof.write.arguments import visible

if TYPE_CHECKING:
    from lossproof.terms.balance.base import Balancer

Tensor = torch.Tensor


@contextmanager
def announced(balancer: Balancer, ranks: Ranks | None) -> Iterator[None]:
    """Inside, an exception is told to the ranks that wait in :func:`enter` for this one."""
    try:
        yield
    except Exception as error:
        if ranks is not None:
            words = f"{type(error).__name__}: {error}"
            if ranks.name in balancer.known_groups:
                count = _numbers(len(balancer.names or ()))
                ranks.fail(count, balancer.weights.device, words)
            else:
                ranks.compare({}, failure=words)
        raise


@dataclass(frozen=True)
class Intention:
    """What a rank is about to do in a step, in which all must stay together.

    Attributes:
        numbers: how many numbers it will gather of the gradients.
        shapes: the shapes of the parameters that they are of.
        sharded: whether these are sharded, so that each backward pass is made by all ranks at once.
    """

    numbers: int = 0
    shapes: tuple[tuple[int, ...], ...] = ()
    sharded: bool = False

    @property
    def code(self) -> tuple[int, int]:
        """The same as two numbers."""
        return self.numbers, zlib.crc32(repr(self.shapes).encode())


_NOTHING = Intention()


def enter(
    balancer: Balancer, terms: Terms, ranks: Ranks | None, intention: Intention = _NOTHING
) -> Terms:
    """The terms of a step as all ranks see them, with the values over all ranks.

    Args:
        balancer: whose step it is.
        terms: the terms that are present on this rank, in the order of the balancer.
        ranks: the processes that train together.
        intention: what this rank is about to do.

    Returns:
        The terms that are present on any rank; what is absent here is zero.

    Raises:
        ValueError: the ranks do not mean to do the same.
        AnotherRankError: another rank cannot take part.
    """
    if ranks is None:
        return terms
    names = balancer.names or ()
    if ranks.name not in balancer.known_groups:
        ranks.compare(_identity(balancer))
        balancer.known_groups.add(ranks.name)
    own = dict(zip(terms.names, terms.tensors, strict=True))
    zero = torch.zeros_like(terms.tensors[0], requires_grad=False)
    everyone = Terms(names, tuple(own.get(name, zero) for name in names), terms.absent)
    heard = ranks.gather(
        {
            "present": terms.values.new_tensor([name in own for name in names]),
            "values": everyone.values,
            "graphs": terms.values.new_tensor([term.requires_grad for term in everyone.tensors]),
            "intention": terms.values.new_tensor(intention.code),
        }
    )
    _refuse_differences(heard["intention"])
    if intention.sharded:
        _refuse_missing_graphs(heard["graphs"], names)
    everyone = everyone.valued(heard["values"].mean(0).to(everyone.values))
    if len(own) == len(names):
        return everyone
    anywhere = heard["present"].amax(0).tolist()
    return everyone.among([name for name, yes in zip(names, anywhere, strict=True) if yes])


def _numbers(count: int) -> int:
    """How many numbers :func:`enter` gathers for K terms from each rank."""
    return 3 * count + 2


def _refuse_differences(intentions: Tensor) -> None:
    same = (intentions == intentions[0]).all(1)
    if not visible(same):
        torch._assert_async(same.all(), "the ranks measure different gradients in a step")
    elif not same.all():
        told = ", ".join(
            f"rank {rank} gathers {numbers:.0f} numbers (parameters {code:.0f})"
            for rank, (numbers, code) in enumerate(intentions.tolist())
        )
        raise ValueError(
            "the ranks do not measure the same gradients in this step: `refresh` must be the same "
            f"on every rank, and `params` and `on` must name the same parameters ({told})"
        )


def _refuse_missing_graphs(graphs: Tensor, names: Sequence[str]) -> None:
    same = graphs.amin(0) == graphs.amax(0)
    if not visible(same):
        torch._assert_async(same.all(), "a term has a gradient on some of the ranks only")
    elif not same.all():
        told = ", ".join(
            f"{name!r} on the ranks {there.nonzero().flatten().tolist()}"
            for name, there, fine in zip(names, graphs.T, same.tolist(), strict=True)
            if not fine
        )
        raise ValueError(
            "with fully_shard every backward pass is made by all ranks at once, but a gradient "
            f"have the terms {told} only; give the others a zero with a graph, such as "
            "0 * output.sum()"
        )


def _identity(balancer: Balancer) -> dict[str, Any]:
    """What must be the same on every rank before they can train together."""
    return {
        "the class of the balancer": type(balancer).__name__,
        "the names of its terms": list(balancer.names or ()),
        "`every`": balancer.every,
        "the number of its steps": balancer.steps,
        "the state of the balancer (load the same checkpoint)": _digest(balancer),
    }


def _digest(balancer: Balancer) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name, held in balancer.state_dict().items():
        if name in balancer.of_this_rank or name.split(".")[0] in balancer.of_this_rank:
            continue
        digest.update(name.encode())
        if isinstance(held, Tensor):
            raw = held.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(raw.numpy().tobytes())
        else:
            digest.update(repr(held).encode())
    return digest.hexdigest()
