"""The whole step of a small network in one compiled graph: ``compiled_step``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.looking import without
from lossproof.terms.balance.presence import only
from lossproof.terms.balance.step import BalanceStep
from lossproof.terms.compiled_graph import StepGraph
from lossproof.terms.compiled_weights import solver_in_graph
from lossproof.terms.distributed import Ranks
from lossproof.terms.filling import fill
from lossproof.terms.gradients import TermGradients
from lossproof.terms.parameters import chosen_parameters
from lossproof.terms.slots import Slots
from lossproof.terms.terms import Terms
from lossproof.write.arguments import choice, integer

Tensor = torch.Tensor
TermsOf = Callable[..., Mapping[str, Tensor | None]]


def compiled_step(
    terms_of: TermsOf,
    model: nn.Module,
    balancer: Balancer,
    *,
    mode: str | None = None,
    nonfinite: str = "raise",
    graphs: int = 8,
) -> CompiledStep:
    """Compile the forward pass, the gradient of each term, and their figures into one graph.

    In a network of a few thousand parameters nearly all time goes into calling operators one by
    one, and K gradients in one compiled graph cost about as much as one plain step without it. In
    a large network they cost K backward passes, compiled or not: use ``balancer.backward`` there,
    which finds what need not be computed.

    ``step = compiled_step(...)`` is called as ``step(*batch)`` in place of the forward pass and
    of ``balancer.backward(terms, model)``, fills ``.grad`` and returns the same. The first call
    for each form of a batch (shapes, dtypes, numbers, training or evaluation mode) traces and
    compiles, which takes from seconds to a minute.

    ``terms_of`` runs once for each form, on tensors without values. So it may not look at numbers
    in Python (``if loss > 1``, ``.item()``); whatever else it reads in Python (the number of the
    epoch, a global) is as it was then, unless it is an argument; what it prints is printed once.
    It may differentiate inside (``torch.autograd.grad`` with ``create_graph=True``). Buffers of the
    model, such as the averages of a batch norm, are updated. Random numbers (dropout, points drawn
    inside) are drawn anew in each call, but not the same ones that eager mode draws.

    Args:
        terms_of: takes the model and a batch, and returns scalar tensors by name, as
            ``balancer.backward`` takes them.
        model: what is trained: all its parameters that require a gradient. A learned coefficient of
            an equation must be a parameter of it.
        balancer: any but those for the residuals of points.
        mode: of ``torch.compile``.
        nonfinite: ``"raise"`` or ``"ignore"``, as in ``balancer.backward``. With ``"raise"`` the
            host looks at K booleans in each step.
        graphs: for how many forms of a batch a graph is made. Further ones are not compiled, which
            a warning tells once.

    Raises:
        TypeError: an argument is of the wrong type, or the balancer is one for points.
        ValueError: an option is out of range, or several ranks train together; in the first call
            for a form, the terms depend on the numbers of a tensor.

    Example:
        >>> import torch
        >>> from lossproof.terms import UPGrad
        >>> from lossproof.terms import compiled_step
        >>> def terms_of(model, x):
        ...     u = model(x)
        ...     return {"data": (u - 1).square().mean(), "size": u.square().mean()}
        >>> model = torch.nn.Linear(2, 1)
        >>> step = compiled_step(terms_of, model, UPGrad())
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> for _ in range(3):  # doctest: +SKIP
        ...     optimizer.zero_grad()
        ...     figures = step(torch.randn(8, 2))
        ...     optimizer.step()
    """
    return CompiledStep(terms_of, model, balancer, mode=mode, nonfinite=nonfinite, graphs=graphs)


class CompiledStep:
    """A step that is compiled, see :func:`compiled_step`."""

    def __init__(
        self,
        terms_of: TermsOf,
        model: nn.Module,
        balancer: Balancer,
        *,
        mode: str | None = None,
        nonfinite: str = "raise",
        graphs: int = 8,
    ) -> None:
        if not callable(terms_of):
            raise TypeError(f"`terms_of` must be a function, got {type(terms_of).__name__}")
        if not isinstance(model, nn.Module):
            raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}")
        if not isinstance(balancer, Balancer):
            raise TypeError(f"`balancer` must be a Balancer, got {type(balancer).__name__}")
        if type(balancer).scalars is not Balancer.scalars:
            raise TypeError(
                f"{type(balancer).__name__} weighs points, which a compiled step cannot hold: call "
                "balancer.backward"
            )
        _refuse_ranks()
        self.terms_of, self.model, self.balancer = terms_of, model, balancer
        self.nonfinite = choice("nonfinite", nonfinite, ("raise", "ignore"))
        self.graphs = integer("graphs", graphs, minimum=1)
        self._modules = list(model.modules())
        self._slots = Slots(model)
        self._options = _options(mode, chosen_parameters(model).tensors[0].device)
        self._found: dict[Any, StepGraph] = {}
        self._warned = False

    def __call__(self, *batch: Any, refresh: bool | None = None) -> BalanceStep:
        """Compute the terms of a batch, weigh them, and add the gradient of their sum to ``.grad``.

        Args:
            *batch: tensors, numbers, strings and ``None``, also in lists, tuples and mappings.
            refresh: as in ``balancer.backward``.
        """
        _refuse_ranks()
        leaves, structure = _flattened(batch)
        inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        form = self._form(leaves, structure)
        graph = self._found.get(form)
        if graph is None:
            if len(self._found) >= self.graphs:
                return self._not_compiled(batch, refresh)
            graph = self._compiled(leaves, structure, inputs)
            self._found[form] = graph
        return self._step(graph, inputs, refresh)

    # ---- graphs

    def _form(self, leaves: Sequence[Any], structure: Any) -> Any:
        """All that a graph takes for granted."""
        parameters = self._slots.tensors()[: self._slots.parameter_count]
        batch = tuple(
            (leaf.shape, leaf.stride(), leaf.dtype, leaf.device, leaf.requires_grad)
            if isinstance(leaf, Tensor)
            else (type(leaf), leaf)
            for leaf in leaves
        )
        model = parameters[0].dtype, parameters[0].device
        trained = tuple([parameter.requires_grad for parameter in parameters])
        training = tuple([module.training for module in self._modules])
        autocast = torch.is_autocast_enabled()
        return batch, structure, model, trained, training, autocast

    def _compiled(
        self, leaves: Sequence[Any], structure: Any, inputs: Sequence[Tensor]
    ) -> StepGraph:
        given: list[str] = []

        def terms_of(tensors: Sequence[Tensor]) -> Mapping[str, Tensor | None]:
            rest = iter(tensors)
            filled = [next(rest) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            batch = filled if structure is None else pytree.tree_unflatten(filled, structure)
            terms = self.terms_of(self.model, *batch)
            names = self.balancer.names
            if isinstance(terms, Mapping):
                if names is not None and set(names) == set(terms):
                    terms = {name: terms[name] for name in names}
                given.extend(terms)
            return terms

        parameters = chosen_parameters(self.model)
        graph = StepGraph(
            terms_of,
            self._slots,
            parameters,
            self.balancer.needs,
            inputs,
            self._options,
            lambda names: solver_in_graph(self.balancer, names),
        )
        place = torch.zeros((), device=parameters.tensors[0].device)
        self.balancer._expected({name: None if name in graph.absent else place for name in given})
        return graph

    def _not_compiled(self, batch: Sequence[Any], refresh: bool | None) -> BalanceStep:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"batches of more than {self.graphs} forms were given to a compiled step; further "
                "ones are not compiled. Give batches of one shape, or a larger `graphs`",
                RuntimeWarning,
                stacklevel=3,
            )
        terms = self.terms_of(self.model, *batch)
        nonfinite: Any = self.nonfinite
        return self.balancer.backward(terms, self.model, refresh=refresh, nonfinite=nonfinite)

    # ---- one step

    def _step(
        self, graph: StepGraph, inputs: Sequence[Tensor], refresh: bool | None
    ) -> BalanceStep:
        balancer = self.balancer
        due, counts = balancer._due(refresh)
        outcome = graph(inputs)
        figures, solved = outcome.figures, outcome.weights if due else None
        if self.nonfinite == "raise":
            _all_finite(figures, outcome.finite)
        own = balancer.own_parameters
        with balancer._counted(counts), only(balancer, figures.names), torch.no_grad():
            if solved is not None:
                balancer.weights = solved
            elif due:
                balancer._refresh(figures)
            weights = balancer.weights
            total, slopes, own_gradients = _minimised(balancer, figures.values, own)
            if solved is not None:
                gradients = graph.gradients(outcome)
            elif balancer.combines and due:
                by_name = balancer.gradients_of(figures, weights)
                gradients = [by_name.get(name) for name in graph.parameters.names]
            else:
                gradients = graph.combined(figures, slopes)
        _fill(graph.parameters.tensors, gradients)
        fill(own, own_gradients)
        figures.release()
        return BalanceStep(figures.names, figures.values, weights, total, figures, due)


def _refuse_ranks() -> None:
    """Asked in each step, too: the ranks may meet after the step was made."""
    if Ranks.of(None) is not None:
        raise ValueError(
            "a compiled step is for one process, but several ranks train together: call "
            "balancer.backward"
        )


def _fill(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """As :func:`fill`, without a question for each parameter where nobody listens or accumulates.

    The gradients are parts of fresh memory, in the order of the parameters' own entries.
    """
    for parameter in parameters:
        simple = parameter.grad is None and parameter.is_contiguous()
        if not simple or parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            fill(parameters, gradients)
            return
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def _flattened(batch: Sequence[Any]) -> tuple[list[Any], Any]:
    """The leaves of a batch, and its structure: ``None`` where it is nothing but tensors."""
    if all(isinstance(one, Tensor) for one in batch):
        return list(batch), None
    leaves, structure = pytree.tree_flatten(batch)
    return leaves, structure


def _minimised(
    balancer: Balancer, values: Tensor, own: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Sequence[Tensor | None]]:
    """What is minimised, and its gradient by the values and by the balancer's own parameters."""
    weights = balancer.weights
    if balancer.linear:
        return (weights * values).sum(), weights, ()
    with torch.enable_grad():
        leaf = values.clone().requires_grad_()
        total = balancer.objective(leaf, weights)
    slopes, *rest = torch.autograd.grad(total, [leaf, *own], allow_unused=True)
    return total.detach(), slopes, rest


def _all_finite(figures: TermGradients, finite: Tensor) -> None:
    flags = finite.tolist()
    if not all(flags):
        wrong = [name for name, fine in zip(figures.names, flags, strict=True) if not fine]
        without(Terms(figures.names, tuple(figures.values)), wrong, "raise")


def _options(mode: Any, device: torch.device) -> dict[str, Any]:
    """The options of Inductor for a mode of ``torch.compile``.

    On a CPU the program is C++ throughout: dozens of small matrix products cost less than calling
    them from Python does.
    """
    by_mode = torch._inductor.list_mode_options()
    chosen = "default" if mode is None else choice("mode", mode, tuple(by_mode))
    options: dict[str, Any] = dict(by_mode[chosen])
    if device.type == "cpu":
        options["cpp_wrapper"] = True
    return options
