"""What every balancer shares: the backward pass of named terms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch

from lossproof.terms.autocast import autocast_off
from lossproof.terms.balance.closure import Closure
from lossproof.terms.balance.entering import announced, enter
from lossproof.terms.balance.filling_step import clip_long_terms, fill_step
from lossproof.terms.balance.looking import (
    Found,
    infinite,
    intention,
    is_measuring,
    look,
    without,
)
from lossproof.terms.balance.options import NONFINITE, Nonfinite, StepOptions
from lossproof.terms.balance.passes import stacked
from lossproof.terms.balance.presence import only
from lossproof.terms.balance.state import NamedState
from lossproof.terms.balance.step import BalanceStep
from lossproof.terms.distributed import Ranks, reductions_held_back
from lossproof.terms.gradients import TermGradients, Want
from lossproof.terms.targets import Exclusive
from lossproof.terms.terms import Terms
from lossproof.write.arguments import choice, flag, integer

Tensor = torch.Tensor


class Balancer(NamedState):
    """The base of the balancers. ``balancer.backward(terms, params)`` replaces ``loss.backward()``.

    A balancer says in ``needs`` what it wants to know of the gradients of the terms, and computes
    the weights of the terms from it in ``weights_of``. The base computes what is needed in the
    cheapest way, fills ``.grad`` with the gradient of the weighted sum, and keeps the state, all of
    which is in ``state_dict()``. The state stays float64 under ``.half()`` and ``.to(dtype)``.

    Args:
        names: the names of the terms, in their order. Without them they are taken from the first
            step (or from the checkpoint that is loaded). Give them where the balancer is part of a
            model that is copied before the first step.
        every: the weights are computed anew in every n-th step, and held in between, where a step
            costs one plain backward pass.
    """

    needs: ClassVar[tuple[Want, ...]] = ()
    """What must be known of the gradients; nothing, where the values of the terms are enough."""

    of_this_rank: ClassVar[tuple[str, ...]] = ()
    """What of the state a rank has to itself; all else must be the same on every rank."""

    def __init__(self, names: Sequence[str] | None = None, *, every: int = 1) -> None:
        self.every = integer("every", every, minimum=1)
        super().__init__(names)
        self._holding = 0
        self.known_groups: set[str] = set()
        self._ranks: Ranks | None = None

    # ---- what a method defines

    def weights_of(self, figures: TermGradients) -> Tensor:
        """The weights of the terms, K numbers of ``figures.values``'s dtype and device.

        It is called without gradient tracking, at every refresh, and may change the state. Where
        terms are absent, the balancer is for the others alone while it is called: ``names`` and
        the state hold what belongs to them.
        """
        raise NotImplementedError

    def objective(self, values: Tensor, weights: Tensor) -> Tensor:
        """What is minimised, from the K values (with their graph) and the weights.

        The parameters of the balancer itself are filled from it, and where the weights are held,
        or need the values alone, the parameters of the model, too.
        """
        return (weights.to(values) * values).sum()

    def gradients_of(self, figures: TermGradients, weights: Tensor) -> dict[str, Tensor]:
        """What fills ``.grad`` where the weights are computed anew from the gradients, by name."""
        return figures.combined(weights)

    def scalars(self, terms: Mapping[str, Any]) -> Mapping[str, Tensor | None]:
        """The scalar terms that are balanced, from what the user gave."""
        return terms

    # ---- what the user calls

    def backward(
        self,
        terms: Mapping[str, Any],
        params: Any = None,
        *,
        on: Any = None,
        exclusive: Exclusive = "weighted",
        scaler: torch.amp.GradScaler | None = None,
        factor: float | Tensor = 1.0,
        clip: float | None = None,
        clip_terms: float | Mapping[str, float] | None = None,
        refresh: bool | None = None,
        retain_graph: bool = False,
        nonfinite: Nonfinite = "raise",
        group: Any = None,
    ) -> BalanceStep:
        """Weigh the terms, and add the gradient of their weighted sum to ``.grad``.

        A step in which the weights are held, and each step of a method that needs the values of the
        terms alone, is one plain backward pass of the weighted sum, to the last bit. For gradient
        accumulation refresh in the first micro-batch, and pass ``refresh=False`` in the others.

        Tensor hooks of the parameters, hooks after accumulation and data parallelism see the
        gradient that fills ``.grad``, once; the statistics are of the gradients before them. Hooks
        on anything else (activations, modules) run in each pass through the graph.

        Args:
            terms: scalar tensors of one forward pass, by name. A term that is ``None`` is absent
                in this step: the others are weighted among themselves, just as by a balancer that
                was made for them, and its weight and its part of the state stay as they are. A
                constant has a gradient of zero.
            params: what is filled: a module, or parameters in any form that
                :func:`lossproof.term_gradients` takes. Parameters of the graph that are not among
                them are not filled, as with ``inputs=`` of ``torch.autograd.backward``; frozen
                ones are skipped, tied ones counted once. Without it all leaves that the terms
                depend on are filled, as by ``loss.backward()``; the gradients are then measured
                over the ``nn.Parameter`` among them, if there is one.
            on: what the gradients are measured over, in any of these forms, or ``"shared"``: the
                parameters that two or more terms depend on. Without it all that is filled. A
                small part, such as the last shared layer, costs K passes through what lies behind
                it, and one plain pass.
            exclusive: what a parameter that one term alone depends on (a head) gets:
                ``"weighted"``, the gradient of that term with its weight, or ``"plain"``, without.
                In the second case such parameters are not measured.
            scaler: the ``torch.amp.GradScaler`` of the training. Give the terms unscaled. The
                gradients are computed under its scale and left scaled in ``.grad``; all figures are
                unscaled. Where a gradient overflows, the weights and the state stay as they are,
                and ``.grad`` holds what overflowed, so that ``scaler.step`` skips the step.
            factor: what the gradient that is added to ``.grad`` is multiplied by at the end, a
                positive number: 1/n in each of n micro-batches. Values, weights and figures do not
                see it, and terms that were divided instead would be other terms to a method whose
                objective is not their sum.
            clip: the largest norm of what this call adds to ``.grad`` (unscaled, and without
                ``factor``), over all parameters that it fills.
            clip_terms: the largest norm of the gradient of each term, over what is measured; one
                number, or numbers by name. The weights are computed from the clipped gradients.
                Each step costs as much as one in which the weights are computed anew.
            refresh: whether the weights are computed anew; by default in every n-th step. A step
                with ``refresh=False`` does not count.
            retain_graph: whether the graph can be gone through again afterwards.
            nonfinite: what happens when a value or a gradient holds NaN or an infinity:
                ``"raise"``; ``"drop"``, which leaves the term out of this step, with weight 0,
                and its state as it was (it costs a second look at the others where only a
                gradient tells, and memory of the graph until then); or ``"ignore"``, which does
                not look, so that nothing waits for the device. Where the weights are held, only
                the values are looked at.
            group: the process group of the ranks that train together, which get the same weights
                (see :mod:`lossproof.terms.distributed`); by default all, where
                ``torch.distributed`` is initialised; ``False`` for a process that is on its own.

        Returns:
            The weights and the figures of this step.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: a term is missing or unknown, an option is out of range, or none of the
                terms depends on any of the parameters.
            NonFiniteTermError: a term is not finite; ``.grad``, the weights and the state are as
                they were before.
        """
        ranks = Ranks.of(group)
        with announced(self, ranks):
            named = self._expected(self.scalars(terms))
            options = StepOptions.checked(
                self.names or (),
                named.tensors[0].device,
                params=params,
                on=on,
                exclusive=exclusive,
                scaler=scaler,
                factor=factor,
                clip=clip,
                clip_terms=clip_terms,
                retain_graph=retain_graph,
                nonfinite=nonfinite,
                ranks=ranks,
            )
            due, counts = self._due(refresh)
            meaning = intention(self, named, options, due)
        named = enter(self, named, ranks, meaning)
        held_back = reductions_held_back(named.tensors if is_measuring(self, options, due) else ())
        off = autocast_off(named.tensors[0].device)
        with off, held_back, self._together_with(ranks):
            return self._step(named, options, due, counts)

    def _step(self, named: Terms, options: StepOptions, due: bool, counts: bool) -> BalanceStep:
        found = look(self, named, options, due)
        fresh = due and not found.overflowed and (found.figures is not None or not self.needs)
        own = self.own_parameters
        with self._counted(counts and not found.overflowed), only(self, found.terms.names):
            factors = clip_long_terms(found, options.limits)
            with torch.no_grad():
                if fresh:
                    self._refresh(found.figures or TermGradients.of_values(found.terms))
                total = self.objective(found.terms.values, self.weights)
            norm = fill_step(self, found, factors, own, options, fresh=fresh)
            weights = self.weights
        if found.figures is not None:
            found.figures.release()
        return _outcome(named, found, weights, total, fresh, norm)

    def forward(
        self, terms: Mapping[str, Any], *, nonfinite: Nonfinite = "raise", group: Any = None
    ) -> Tensor:
        """What is minimised, as a scalar with a graph: for code that calls ``backward()`` itself.

        In evaluation mode (``balancer.eval()``) nothing is learned: the weights are those of the
        last step, of any method, and the values are those of this rank.

        Args:
            terms: as for ``backward``.
            nonfinite: as for ``backward``.
            group: as for ``backward``.

        Raises:
            TypeError: the method needs the gradients of the terms.
        """
        choice("nonfinite", nonfinite, NONFINITE)
        due, counts = self._due(None) if self.training else (False, False)
        if self.needs and due:
            raise TypeError(
                f"{type(self).__name__} needs the gradients of the terms: call "
                "balancer.backward(terms, params) in place of loss.backward()"
            )
        ranks = Ranks.of(group) if self.training else None
        usable = self._entered(terms, ranks)
        if nonfinite != "ignore":
            usable = without(usable, infinite(usable), nonfinite)
        with self._together_with(ranks), self._counted(counts), only(self, usable.names):
            if due:
                with torch.no_grad():
                    self._refresh(TermGradients.of_values(usable))
            return self.objective(stacked(usable), self.weights)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, the weights stay as they are, and steps do not count."""
        self._holding += 1
        try:
            yield
        finally:
            self._holding -= 1

    def closure(
        self,
        compute_terms: Callable[[], Mapping[str, Any]],
        optimizer: torch.optim.Optimizer,
        params: Any = None,
        **options: Any,
    ) -> Callable[[], Tensor]:
        """The closure for optimisers that evaluate the loss many times in a step, such as LBFGS.

        The weights are computed anew at the first evaluation in each ``optimizer.step`` at most,
        and held in its line search, which so compares values of one function. A value
        that is not finite is an error there, too: torch's line search would end at NaN.

        Args:
            compute_terms: computes the terms, without arguments.
            optimizer: whose ``step`` calls the closure. Its gradients are set to zero each time.
            params: as for ``backward``.
            **options: as for ``backward``, but ``refresh``.

        Example:
            >>> import torch
            >>> from lossproof.terms import Balancer
            >>> class Halves(Balancer):
            ...     def weights_of(self, figures):
            ...         return torch.full_like(figures.values, 0.5)
            >>> x = torch.tensor([3.0, -2.0], requires_grad=True)
            >>> optimizer = torch.optim.LBFGS([x], line_search_fn="strong_wolfe")
            >>> compute = lambda: {"a": (x[0] - 1).square(), "b": (x[1] - 2).square()}
            >>> _ = optimizer.step(Halves().closure(compute, optimizer))
            >>> x.detach().round(decimals=3)
            tensor([1., 2.])
        """
        return Closure(self, compute_terms, optimizer, params, options)

    # ---- one step

    def _due(self, refresh: bool | None) -> tuple[bool, bool]:
        """Whether the weights are computed anew in this step, and whether it counts."""
        if refresh is not None:
            return (flag("refresh", refresh),) * 2
        if self._holding:
            return False, False
        return self.steps % self.every == 0, True

    @contextmanager
    def _counted(self, counts: bool) -> Iterator[None]:
        """Count the step, unless it fails."""
        before = self.steps
        self.steps += counts
        try:
            yield
        except BaseException:
            self.steps = before
            raise

    def _refresh(self, figures: TermGradients) -> None:
        weights = self.weights_of(figures).detach().clone()
        if weights.shape != figures.values.shape:
            raise ValueError(
                f"`weights_of` must return one weight for each of {len(figures.names)} terms, got "
                f"the shape {list(weights.shape)}"
            )
        self.weights = weights

    @property
    def linear(self) -> bool:
        """Whether what is minimised is the plain weighted sum."""
        return type(self).objective is Balancer.objective

    @property
    def combines(self) -> bool:
        """Whether the method makes something else of the gradients than their weighted sum."""
        return type(self).gradients_of is not Balancer.gradients_of

    @property
    def own_parameters(self) -> list[Tensor]:
        """The parameters of the balancer itself, which what is minimised depends on."""
        if self.linear:
            return []
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    # ---- several ranks

    def over_ranks(self, compute: Callable[[], Tensor], count: int) -> Tensor:
        """The mean of numbers over the ranks that train together.

        For methods that compute figures of their own in ``weights_of``, on every rank from its own
        gradients or residuals, or with random numbers of its own.

        Args:
            compute: returns the numbers. If it fails on one rank, the others are told.
            count: how many there are.
        """
        if self._ranks is None:
            return compute()
        with self._ranks.announcing(count, self.weights.device):
            numbers = compute()
        return self._ranks.gather({"numbers": numbers})["numbers"].mean(0).to(numbers)

    @contextmanager
    def _together_with(self, ranks: Ranks | None) -> Iterator[None]:
        self._ranks = ranks
        try:
            yield
        finally:
            self._ranks = None

    def _entered(self, terms: Mapping[str, Any], ranks: Ranks | None) -> Terms:
        """The terms that the user gave, checked, with their values over all ranks."""
        with announced(self, ranks):
            named = self._expected(self.scalars(terms))
        return enter(self, named, ranks)


def _outcome(
    named: Terms,
    found: Found,
    weights: Tensor,
    total: Tensor,
    fresh: bool,
    norm: Tensor | None,
) -> BalanceStep:
    """What is told of the step: a term that was dropped has weight 0."""
    used = found.terms.names
    weights = weights.clone()  # what is told of a step stays, whatever becomes of the state
    if used != named.names:
        at = torch.tensor([named.names.index(name) for name in used], device=weights.device)
        weights = torch.zeros_like(named.values).index_copy(0, at, weights.to(named.values))
    dropped = tuple(name for name in named.names if name not in used)
    return BalanceStep(
        named.names, named.values, weights, total, found.figures, fresh, dropped, norm
    )
