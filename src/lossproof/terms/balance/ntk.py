"""Weights from the trace of the neural tangent kernel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.moving_average import moving_average
from lossproof.terms.balance.random_stream import RandomStream
from lossproof.terms.balance.residuals import mean_square, residual_vector
from lossproof.terms.balance.step import BalanceStep
from lossproof.terms.gradients import TermGradients, Want
from lossproof.terms.targets import targets
from lossproof.terms.terms import named_terms, refuse_no_mapping, solving_dtype
from lossproof.write.arguments import choice, integer, number
from lossproof.write.sharding import is_sharded

Tensor = torch.Tensor


class NTKTrace(Balancer):
    r"""Weights that let all terms converge at the same average rate, from their tangent kernels.

    .. math::
        L_i = \frac{1}{N_i} \sum_n r_{in}^2, \qquad
        K_{ii} = J_i J_i^T, \quad J_i = \frac{\partial r_i}{\partial \theta}, \qquad
        \lambda_i = \frac{\sum_j t_j}{t_i}, \quad t_i = \frac{\operatorname{tr} K_{ii}}{N_i}

    The terms are given as their residual at every point; what is minimised is the weighted sum of
    their mean squares. A term whose kernel has the larger trace converges faster by itself and gets
    the *smaller* weight. The weights are not normalised: for two equal terms they are 2 each. A
    term whose trace is zero keeps its weight.

    The paper has as many points in every term, so that dividing by them changes nothing. With
    different numbers, the trace of a kernel grows with its points while the mean of the squares
    does not; ``normalization="none"`` leaves the division out. jaxpi divides too, takes the mean of
    the :math:`t_j` for their sum, and averages with ``momentum=0.9``. What PINA calls NTK weighting
    is the opposite: it gives the larger weight to the larger gradient.

    The exact trace costs a backward pass for every entry of every residual. With ``probes``, random
    signs :math:`v` estimate it without bias as the mean of :math:`\lVert J_i^T v \rVert^2`, at one
    backward pass each.

    Args:
        names: the names of the terms, in their order.
        probes: the number of random vectors for each term; without it the trace is exact.
        normalization: ``"points"``, the traces are divided by the numbers of entries of the
            residuals, or ``"none"``.
        momentum: the part of the old weights in a moving average that starts at 1, at least 0 and
            below 1.
        chunk: how many backward passes run as one batch, which takes the memory of as many
            gradients. With 1 they run one by one, as operations without a batching rule need it.
        seed: of the random vectors.
        every: the weights are computed anew in every n-th step (100 in the authors' code).

    Raises:
        TypeError: an option is of the wrong type, or a term is no floating-point tensor.
        ValueError: an option is out of range, or a term is a scalar.

    Example:
        >>> import torch
        >>> from lossproof.terms import NTKTrace
        >>> weight = torch.ones(2, requires_grad=True)
        >>> residuals = {"pde": 3 * weight, "bc": weight[:1]}
        >>> NTKTrace().backward(residuals, [weight]).weights  # traces 18 / 2 and 1 / 1
        tensor([ 1.1111, 10.0000], dtype=torch.float64)

    Source:
        Wang, Yu and Perdikaris (2022), When and why PINNs fail to train: a neural tangent kernel
        perspective, Journal of Computational Physics 449, algorithm 1. The random vectors:
        Hutchinson (1989), A stochastic estimator of the trace of the influence matrix.
    """

    needs: ClassVar[tuple[Want, ...]] = ()
    averages: Tensor

    def __init__(
        self,
        names: Sequence[str] | None = None,
        *,
        probes: int | None = None,
        normalization: str = "points",
        momentum: float = 0.0,
        chunk: int = 32,
        seed: int = 0,
        every: int = 1,
    ) -> None:
        self.probes = None if probes is None else integer("probes", probes, minimum=1)
        self.normalization = choice("normalization", normalization, ("points", "none"))
        self.momentum = number("momentum", momentum, minimum=0, below=1)
        self.chunk = integer("chunk", chunk, minimum=1)
        super().__init__(names, every=every)
        self.random = RandomStream(seed)
        self._given: tuple[Mapping[str, Any], Any, Any] | None = None

    def initial_state(self, count: int) -> dict[str, Tensor]:
        return {"averages": torch.ones(count, dtype=torch.float64)}

    def scalars(self, terms: Mapping[str, Any]) -> Mapping[str, Tensor | None]:
        refuse_no_mapping(terms)
        return {
            name: None if given is None else mean_square(residual_vector(name, given))
            for name, given in terms.items()
        }

    def backward(
        self, terms: Mapping[str, Any], params: Any = None, *, on: Any = None, **options: Any
    ) -> BalanceStep:
        """As for every balancer, with the residuals of the terms in place of scalars.

        Args:
            terms: for each term a tensor of shape (N,), its residual at every point, or (N, ...).
            params: what is filled, as for every balancer.
            on: the parameters that the kernels are of; without it those that are filled.
            **options: as for every balancer.
        """
        self._given = (terms, params, on)
        try:
            return super().backward(terms, params, on=on, **options)
        finally:
            self._given = None

    def weights_of(self, figures: TermGradients) -> Tensor:
        traces = self._traces(figures.names)
        known = torch.where(traces.isfinite(), traces, 0.0)
        before = self.averages.to(traces)
        self.averages = moving_average(before, known.sum() / known, 1 - self.momentum)
        return self.averages.clone()

    def _traces(self, names: Sequence[str]) -> Tensor:
        if self._given is None:
            raise TypeError(
                "NTKTrace needs the parameters: call balancer.backward(terms, params) in place of "
                "loss.backward()"
            )
        terms, params, on = self._given
        residuals = {name: terms[name] for name in names if terms[name] is not None}
        return self.over_ranks(lambda: self._traces_here(names, residuals, params, on), len(names))

    def _traces_here(
        self, names: Sequence[str], residuals: Mapping[str, Tensor], params: Any, on: Any
    ) -> Tensor:
        """The traces on this rank; zero for a term that is absent here."""
        with torch.enable_grad():  # which parameters they depend on is read from the graph
            named = named_terms({name: residual.sum() for name, residual in residuals.items()})
        measured = targets(named, params, on, "weighted", measuring=True, listed=True).measured
        assert measured is not None
        for name, parameter in zip(measured.names, measured.tensors, strict=True):
            if is_sharded(parameter):
                raise ValueError(
                    f"NTKTrace needs whole parameters, but {name!r} is sharded over the ranks; "
                    "give parameters that are not in `on`, or take SelfAdaptiveNorms"
                )
        traces = {name: self._trace(one, measured.tensors) for name, one in residuals.items()}
        zero = torch.zeros_like(next(iter(traces.values())))
        return torch.stack([traces.get(name, zero) for name in names])

    def _trace(self, residual: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """The trace of the tangent kernel of a residual, by its number of entries if so wished.

        Of random signs it is the sum over the probes, of which all terms have the same number.
        """
        trace = torch.zeros((), dtype=solving_dtype(residual.device), device=residual.device)
        if not residual.requires_grad:
            return trace
        for directions in self._directions(residual):
            trace = trace + _squared_norm(residual, parameters, directions).to(trace)
        return trace / residual.numel() if self.normalization == "points" else trace

    def _directions(self, residual: Tensor) -> Iterator[Tensor]:
        """Stacks of vectors in the shape of the residual: unit vectors, or random signs."""
        count = residual.numel() if self.probes is None else self.probes
        for start in range(0, count, self.chunk):
            size = min(self.chunk, count - start)
            if self.probes is None:
                rows = torch.zeros(size, residual.numel())
                rows[range(size), range(start, start + size)] = 1.0
            else:
                bits = torch.randint(2, (size, residual.numel()), generator=self.random.generator)
                rows = 2.0 * bits - 1.0
            yield rows.view(size, *residual.shape).to(residual)


def _squared_norm(residual: Tensor, parameters: Sequence[Tensor], directions: Tensor) -> Tensor:
    """The sum over directions of the squared norm of the Jacobian transposed times each."""
    batched = len(directions) > 1
    gradients: Sequence[Tensor | None] = torch.autograd.grad(
        residual,
        parameters,
        directions if batched else directions[0],
        retain_graph=True,
        allow_unused=True,
        is_grads_batched=batched,
    )
    dtype = solving_dtype(residual.device)
    norms = [torch.linalg.vector_norm(part, dtype=dtype) for part in gradients if part is not None]
    return torch.stack(norms).square().sum() if norms else torch.zeros((), dtype=dtype)
