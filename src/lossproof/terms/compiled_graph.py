"""One graph of a whole step: the forward pass, the gradient of each term, and what they make.

The step is traced once, with tensors that have no values, down to the operators that autograd runs:
the K backward passes stand in the graph like any other code, derivatives within a term included
(the residual of a differential equation). Inductor then makes one program of it. What the graph
takes for granted is compared by the caller, so that nothing else is looked at in each call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

import torch
import torch._inductor
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from lossproof.terms.compiled_weights import Solve
from lossproof.terms.engine import Found
from lossproof.terms.gradients import TermGradients
from lossproof.terms.parameters import Parameters
from lossproof.terms.side_by_side import Alone, SideBySide, Together
from lossproof.terms.slots import Slots
from lossproof.terms.statistics import SINGLE, StatisticsTable
from lossproof.terms.terms import Terms, named_terms

Tensor = torch.Tensor
TermsOfTensors = Callable[[Sequence[Tensor]], Mapping[str, Tensor | None]]


@dataclass
class Layout:
    """What was found while the step was traced: the terms, and what the graph returns.

    Attributes:
        names: the terms that are there.
        absent: the terms that are ``None``.
        reached: for each term and parameter, whether the one depends on the other.
        reassigned: the positions of buffers in whose place another tensor is put.
        returned: the names of the tensors that the graph returns, in their order.
    """

    names: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    reached: list[list[bool]] = field(default_factory=list)
    reassigned: Sequence[int] = ()
    returned: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """What a run of the graph found.

    Attributes:
        figures: of the gradients.
        found: all tensors that it returned, by name.
    """

    figures: TermGradients
    found: dict[str, Tensor]

    @property
    def finite(self) -> Tensor:
        """For each term whether its value and its gradient are finite."""
        return self.found["finite"]

    @property
    def weights(self) -> Tensor | None:
        """The weights, if they were computed within the graph, and rightly."""
        solved = self.found.get("solved")
        return self.found["weights"] if solved is not None and bool(solved) else None


class StepGraph:
    """The compiled graph of a step for batches of one form.

    Args:
        terms_of: the terms, from the tensors of a batch.
        slots: the parameters and buffers of the model.
        parameters: those whose gradients are wanted.
        needs: what must be known of the gradients.
        inputs: the tensors of a batch of that form.
        options: of ``torch.compile``.
        solver: for terms of these names, what computes the weights within the graph, if there is
            such a thing.

    Raises:
        ValueError: the terms depend on the numbers of a tensor in a way that no graph can hold, or
            the model computes with a parameter that it keeps a second time elsewhere.
    """

    def __init__(
        self,
        terms_of: TermsOfTensors,
        slots: Slots,
        parameters: Parameters,
        needs: Sequence[str],
        inputs: Sequence[Tensor],
        options: dict[str, Any],
        solver: Callable[[Sequence[str]], Solve | None],
    ) -> None:
        self.parameters = parameters
        self._slots = slots
        self._layout = Layout()
        state = [tensor.detach() for tensor in slots.tensors()]
        positions = {id(tensor): position for position, tensor in enumerate(slots.tensors())}
        chosen = [positions[id(tensor)] for tensor in parameters.tensors]
        trace = _Trace(terms_of, slots, parameters, chosen, needs, solver, self._layout)

        def step(*tensors: Tensor) -> list[Tensor]:
            found = trace.step(tensors[: len(state)], tensors[len(state) :])
            self._layout.returned = list(found)
            return list(found.values())

        graph = _traced(step, [*state, *inputs])
        _nothing_kept_elsewhere(graph, parameters)
        with torch.no_grad():
            self._run = torch._inductor.compile(graph, [*state, *inputs], options)
        groups = _groups(parameters, self._layout.reached)
        self._groups = {f"rows {k}": group for k, group in enumerate(groups)}
        self._template = self._figures_without_numbers()

    @property
    def absent(self) -> tuple[str, ...]:
        """The names of the terms that are ``None``."""
        return self._layout.absent

    def _figures_without_numbers(self) -> TermGradients:
        layout = self._layout
        sizes = [tensor.numel() for tensor in self.parameters.tensors]
        device = self.parameters.tensors[0].device
        nothing = tuple(torch.zeros((), device=device) for _ in layout.names)
        table = StatisticsTable((), sizes, len(layout.names), device)
        terms = Terms(layout.names, nothing, layout.absent)
        return TermGradients(terms, self.parameters, Found(table, None, [], layout.reached))

    def __call__(self, inputs: Sequence[Tensor]) -> Outcome:
        """Run it on the tensors of a batch."""
        layout = self._layout
        with torch.no_grad():
            returned = self._run(*self._slots.tensors(), *inputs)
        found = dict(zip(layout.returned, returned, strict=True))
        for position in layout.reassigned:
            self._slots.put(position, found[f"buffer {position}"])
        figures = object.__new__(TermGradients)  # copy.copy takes ten times as long
        vars(figures).update(
            vars(self._template),
            values=found["values"],
            _gramian=found.get("gramian"),
            _groups=tuple(group.holding(found[name]) for name, group in self._groups.items()),
        )
        if bool(found["lost"]):  # a gradient of 1e-25 has a square of 1e-50
            exact = torch.stack([one.products(torch.float64) for one in figures._groups or ()])
            found["finite"] = found["values"].isfinite() & exact.sum(0).diagonal().isfinite()
            figures._gramian = exact.sum(0) if "gramian" in found else None
        kept = {name: found[name] for name in SINGLE if name in found}
        if kept:
            figures._table = figures._table.replaced(kept)
        return Outcome(figures, found)

    def gradients(self, outcome: Outcome) -> list[Tensor | None]:
        """The gradient of the sum with the weights of the graph, for each parameter."""
        count = len(self.parameters)
        return [outcome.found.get(f"gradient {position}") for position in range(count)]

    def combined(self, figures: TermGradients, weights: Tensor) -> list[Tensor | None]:
        """The gradient of the weighted sum for each parameter, ``None`` where no term reaches."""
        found: list[Tensor | None] = [None] * len(self.parameters)
        for group in figures._groups or ():
            for position, gradient in zip(group.positions, group.combined(weights), strict=True):
                found[position] = gradient
        return found


def _traced(step: Callable[..., list[Tensor]], tensors: Sequence[Tensor]) -> torch.fx.GraphModule:
    try:
        graph: torch.fx.GraphModule = make_fx(
            step, tracing_mode="fake", _allow_non_fake_inputs=True
        )(*tensors)
    except (DataDependentOutputException, GuardOnDataDependentSymNode) as error:
        raise ValueError(
            "the terms look at the numbers of a tensor in Python (`if loss > 1`, `.item()`), which "
            "no graph can hold: call balancer.backward in place of a compiled step"
        ) from error
    return graph


def _nothing_kept_elsewhere(graph: torch.fx.GraphModule, parameters: Parameters) -> None:
    """A parameter is an input of the graph; one that stands in it as a constant was not replaced.

    Raises:
        ValueError: there is one, whose gradient would be missing.
    """
    places = {
        tensor.untyped_storage().data_ptr(): name
        for name, tensor in zip(parameters.names, parameters.tensors, strict=True)
        if tensor.numel()
    }
    for node in graph.graph.find_nodes(op="get_attr"):
        constant = getattr(graph, str(node.target), None)
        if not isinstance(constant, Tensor):
            continue
        name = places.get(constant.untyped_storage().data_ptr())
        if name is not None:
            raise ValueError(
                f"the model computes with its parameter {name!r} from a place of its own, "
                "so that no graph of the step can be made: call "
                "balancer.backward in place of a compiled step"
            )


@dataclass(frozen=True)
class _Trace:
    """The step itself, which is traced; see :class:`StepGraph`."""

    terms_of: TermsOfTensors
    slots: Slots
    parameters: Parameters
    chosen: Sequence[int]
    needs: Sequence[str]
    solver: Callable[[Sequence[str]], Solve | None]
    layout: Layout

    def step(self, state: Sequence[Tensor], inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        terms, gradients, buffers = self._differentiated(state, inputs)
        groups = _groups(self.parameters, self.layout.reached)
        rows = [group.laid_out(gradients) for group in groups]
        gramian = _gramian(groups, rows, terms.values)
        own = torch.eye(len(terms), dtype=torch.bool, device=gramian.device)
        squares = torch.where(own, gramian, 0.0).sum(0)
        found = {"values": terms.values, "finite": terms.values.isfinite() & squares.isfinite()}
        held = [group.holding(one) for group, one in zip(groups, rows, strict=True)]
        lost = [one.range_left() for one in held if isinstance(one, Together)]
        found["lost"] = torch.stack(lost).any() if lost else squares.new_zeros((), dtype=torch.bool)
        if {"gramian", "cosine"} & set(self.needs):
            found["gramian"] = gramian
        for name in SINGLE:
            if name in self.needs:
                found[name] = _statistic(name, gradients, terms.values)
        solve = None if terms.absent else self.solver(terms.names)
        if solve is not None:
            weights, solved = solve(gramian)
            found |= {
                "weights": weights,
                "solved": solved & ~found["lost"],
                **_sums(weights, gradients),
            }
        found |= {f"rows {k}": one for k, one in enumerate(rows)}
        return found | buffers

    def _differentiated(
        self, state: Sequence[Tensor], inputs: Sequence[Tensor]
    ) -> tuple[Terms, Sequence[Sequence[Tensor | None]], dict[str, Tensor]]:
        """The terms, the gradient of each, and the buffers that were put in place of others."""
        leaves = {position: state[position].detach().requires_grad_() for position in self.chosen}
        standing = [leaves.get(position, tensor) for position, tensor in enumerate(state)]
        with torch.enable_grad(), self.slots.replaced(standing):
            terms = named_terms(self.terms_of(inputs))
            after = self.slots.tensors()
            own = [leaves[position] for position in self.chosen]
            gradients = [_gradients(term, own) for term in terms.tensors]
        layout = self.layout
        layout.names, layout.absent = terms.names, terms.absent
        layout.reached = [[one is not None for one in row] for row in gradients]
        layout.reassigned = [
            position for position, one in enumerate(standing) if one is not after[position]
        ]
        buffers = {f"buffer {position}": after[position].detach() for position in layout.reassigned}
        return terms, gradients, buffers


def _sums(weights: Tensor, gradients: Sequence[Sequence[Tensor | None]]) -> dict[str, Tensor]:
    """The gradient of the weighted sum for each parameter that a term depends on."""
    found: dict[str, Tensor] = {}
    for position, column in enumerate(zip(*gradients, strict=True)):
        parts = [
            weight.to(part.dtype) * part
            for weight, part in zip(weights.unbind(), column, strict=True)
            if part is not None
        ]
        if parts:
            found[f"gradient {position}"] = reduce(add, parts)
    return found


def _gramian(groups: Sequence[SideBySide], rows: Sequence[Tensor], like: Tensor) -> Tensor:
    """The inner products, in the gradients' own precision within blocks."""
    total = like.new_zeros(len(like), len(like))
    for group, one in zip(groups, rows, strict=True):
        total = total + group.holding(one).products()
    return total


def _gradients(term: Tensor, leaves: Sequence[Tensor]) -> Sequence[Tensor | None]:
    if not term.requires_grad:
        return [None] * len(leaves)
    found: Sequence[Tensor | None] = torch.autograd.grad(
        term, leaves, retain_graph=True, allow_unused=True
    )
    return [None if one is None else one.detach() for one in found]


def _groups(parameters: Parameters, reached: Sequence[Sequence[bool]]) -> list[SideBySide]:
    """The parameters by the terms that depend on them, and by dtype."""
    together: dict[tuple[tuple[int, ...], torch.dtype], list[int]] = {}
    alone: dict[torch.dtype, list[tuple[int, int]]] = {}
    for position in range(len(parameters)):
        terms = tuple(k for k, row in enumerate(reached) if row[position])
        dtype = parameters.tensors[position].dtype
        if len(terms) == 1:
            alone.setdefault(dtype, []).append((position, terms[0]))
        elif terms:
            together.setdefault((terms, dtype), []).append(position)
    count, tensors = len(reached), parameters.tensors
    groups: list[SideBySide] = [
        Together(positions, [tensors[one] for one in positions], terms, count)
        for (terms, _), positions in together.items()
    ]
    for pairs in alone.values():
        pairs.sort(key=lambda pair: pair[1])
        positions = [position for position, _ in pairs]
        owners = [owner for _, owner in pairs]
        groups.append(Alone(positions, [tensors[one] for one in positions], owners, count))
    return groups


def _statistic(name: str, gradients: Sequence[Sequence[Tensor | None]], like: Tensor) -> Tensor:
    """What a table of statistics keeps: parameters x K."""
    by_term = [
        torch.stack(
            [like.new_zeros(()) if one is None else _kept(name, one.to(like.dtype)) for one in row]
        )
        for row in gradients
    ]
    return torch.stack(by_term, 1)


def _kept(name: str, gradient: Tensor) -> Tensor:
    if name == "norm":
        return gradient.square().sum()
    if name == "mean":
        return gradient.sum()
    return gradient.abs().sum() if name == "mean_abs" else gradient.abs().amax()
