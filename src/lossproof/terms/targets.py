"""Which parameters a step fills, over which the gradients are measured, and who gets what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from lossproof.terms.graph import Graph, read_graph
from lossproof.terms.parameters import Parameters, chosen_parameters
from lossproof.terms.terms import Terms
from lossproof.write.sharding import is_sharded

Exclusive = Literal["weighted", "plain"]
EXCLUSIVE: tuple[Exclusive, ...] = ("weighted", "plain")


@dataclass(frozen=True)
class Targets:
    """The parameters of one step.

    Attributes:
        filled: those whose ``.grad`` is filled with the gradient of the weighted sum, or ``None``
            for all leaves that the terms depend on, whichever these are.
        plain: those that one term alone depends on and that get its gradient without its weight.
        measured: those over which the gradients are measured, if they are. Of a single term no
            parameter is shared.
    """

    filled: Parameters | None
    plain: Parameters
    measured: Parameters | None

    @property
    def everything_measured(self) -> bool:
        """Whether the measured gradients are just those that fill ``.grad``."""
        if self.filled is None or self.measured is None or self.plain.tensors:
            return False
        return _ids(self.filled.tensors) == _ids(self.measured.tensors)


def targets(
    terms: Terms, params: Any, on: Any, exclusive: Exclusive, *, measuring: bool, listed: bool
) -> Targets:
    """Find the parameters of a step.

    Args:
        terms: the terms of the step.
        params: what is filled, or ``None`` for all leaves that the terms depend on.
        on: what the gradients are measured over; ``"shared"`` for the parameters that two or more
            terms depend on; ``None`` for all that is filled.
        exclusive: whether a parameter that one term alone depends on gets the weighted gradient of
            that term or the plain one. In the second case the weights do not act on it, so that it
            is not measured either.
        measuring: whether the gradients are measured in this step at all.
        listed: whether the filled parameters must be known one by one, even where they are all.

    Raises:
        ValueError: no term depends on any of the parameters, or none of them is shared where only
            shared ones are measured.
    """
    shared_only = isinstance(on, str) or exclusive == "plain"
    unlisted = params is None and (listed or measuring)
    reads = exclusive == "plain" or unlisted or (measuring and shared_only)
    graph = read_graph(terms.tensors) if reads else None
    filled = chosen_parameters(params) if params is not None else None
    if graph is not None and filled is None:
        filled = _leaves(graph)
    if filled is not None and any(is_sharded(tensor) for tensor in filled.tensors):
        _refuse_parts(on, exclusive)
    plain = Parameters((), ())
    if graph is not None and filled is not None and exclusive == "plain":
        plain = filled.among([_count(graph, tensor) == 1 for tensor in filled.tensors])
        filled = filled.among([_count(graph, tensor) != 1 for tensor in filled.tensors])
    if not measuring or filled is None:
        return Targets(filled, plain, None)
    if on is None or isinstance(on, str):
        measured = filled if params is not None else _parameters_first(filled)
    else:
        measured = chosen_parameters(on, "on")
    if len(terms) == 1 and exclusive == "plain":
        return Targets(filled, plain, None)
    if graph is not None and shared_only and len(terms) > 1:
        measured = _shared(graph, measured)
    return Targets(filled, plain, measured)


def _refuse_parts(on: Any, exclusive: Exclusive) -> None:
    """What is sharded is not in the graph of this rank, and differentiated as a whole."""
    if on is not None:
        raise ValueError(
            "`on` must be None where parameters are sharded (fully_shard): the gradients are "
            f"measured over all of them, got {on if isinstance(on, str) else type(on).__name__!r}"
        )
    if exclusive != "weighted":
        raise ValueError(
            "`exclusive` must be 'weighted' where parameters are sharded (fully_shard), got "
            f"{exclusive!r}"
        )


def _leaves(graph: Graph) -> Parameters:
    if not graph.leaves:
        raise ValueError("none of the terms depends on a tensor that requires a gradient")
    return chosen_parameters([tensor for tensor, _ in graph.leaves.values()])


def _parameters_first(leaves: Parameters) -> Parameters:
    """The parameters of modules among the leaves: inputs that require a gradient are none."""
    owned = [isinstance(tensor, nn.Parameter) for tensor in leaves.tensors]
    return leaves.among(owned) if any(owned) else leaves


def _shared(graph: Graph, parameters: Parameters) -> Parameters:
    shared = [_count(graph, tensor) > 1 for tensor in parameters.tensors]
    if not any(shared):
        raise ValueError(
            "no parameter is shared by two terms, so that there is nothing to balance on: measure "
            "over all parameters (`on=None`, `exclusive='weighted'`)"
        )
    return parameters.among(shared)


def _count(graph: Graph, tensor: Tensor) -> int:
    """How many terms depend on a leaf."""
    return graph.mask_of(tensor).bit_count()


def _ids(tensors: Sequence[Tensor]) -> set[int]:
    return {id(tensor) for tensor in tensors}
