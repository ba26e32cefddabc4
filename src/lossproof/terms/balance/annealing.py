"""Learning-rate annealing for physics-informed networks: weights from ratios of gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.moving_average import moving_average
from lossproof.terms.balance.reached import entries, reached
from lossproof.terms.balance.reference import reference_among, reference_name
from lossproof.terms.gradients import TermGradients, Want
from lossproof.write.arguments import choice, flag, number

Tensor = torch.Tensor

_NEEDS: dict[str, tuple[Want, ...]] = {
    "max_mean": ("max_abs", "mean_abs"),
    "mean_mean": ("mean_abs",),
    "norm": ("norm",),
}


class LearningRateAnnealing(Balancer):
    r"""Weights that bring the gradient of every term to the size of that of a reference term.

    .. math::
        \hat\lambda_i = \frac{\max_\theta |\nabla L_{ref}|}
        {\overline{|\nabla (\lambda_i L_i)|}}, \qquad
        \lambda_i \leftarrow (1 - \alpha)\, \lambda_i + \alpha\, \hat\lambda_i, \qquad
        \lambda_{ref} = 1

    The weights start at 1 and are not normalised. The maximum is over all weight matrices; the mean
    is the mean over the matrices of the mean magnitude in each, so that a small layer counts as
    much as a large one, and without the matrices that a term does not depend on. A term whose
    gradient is zero keeps its weight, and all terms keep theirs while the gradient of the reference
    is zero, or the reference is absent.

    What goes by this name differs from place to place, down to the fixed point:

    - ``ratio="max_mean"`` is the paper's. With ``denominator="weighted"``, its equation (2.30) and
      its released code, :math:`\lambda_i` settles at the *root* of max / mean. With
      ``"unweighted"``, the first version of the preprint and the words beside the algorithm, it
      settles at max / mean itself, which grows without end on the paper's own Helmholtz problem.
    - ``ratio="mean_mean"``, mean magnitude over mean magnitude, over all entries alike, is what
      PhysicsNeMo calls by this name (there with ``alpha=0.01``).
    - ``ratio="norm"`` divides Euclidean norms, as the ``grad_norm`` of jaxpi does, which takes the
      mean of all norms for the reference, and ``alpha=0.1``.

    The paper's code computes the weights every tenth step: ``every=10``.

    Args:
        names: the names of the terms; without them they are taken from the first step.
        reference: the name of the term whose weight is 1, the residual of the equation in the
            paper. Without it the first.
        alpha: the part of the new value in the moving average, above 0 and at most 1. (The
            preprint swaps the parts and so calls the same value 0.9.)
        ratio: ``"max_mean"``, ``"mean_mean"`` or ``"norm"``.
        denominator: whether the gradient in the denominator is that of the weighted term,
            ``"weighted"``, or of the bare one, ``"unweighted"``. Without it as in the source of the
            ratio: weighted for ``"max_mean"``, unweighted for the others.
        matrices_only: whether only parameters with two or more axes count, which leaves out the
            biases. Without it as in the source of the ratio: ``True`` for ``"max_mean"``, ``False``
            for the others.
        every: the weights are computed anew in every n-th step.

    Raises:
        TypeError: an option is of the wrong type.
        ValueError: an option is out of range, ``reference`` is no term, or only matrices count and
            there is none among the parameters.

    Example:
        >>> import torch
        >>> from lossproof.terms import LearningRateAnnealing
        >>> weight = torch.tensor([[1.0, 2.0]], requires_grad=True)
        >>> terms = {"pde": 20 * weight.sum(), "bc": weight.square().sum() / 2}
        >>> step = LearningRateAnnealing().backward(terms, [weight])
        >>> step.weights  # max of (20, 20) over mean of (1, 2), of which a tenth is taken
        tensor([1.0000, 2.2333], dtype=torch.float64)

    Source:
        Wang, Teng and Perdikaris (2021), Understanding and mitigating gradient flow pathologies in
        physics-informed neural networks, SIAM Journal on Scientific Computing 43(5), algorithm 2.1.
    """

    needs: ClassVar[tuple[Want, ...]] = ("max_abs", "mean_abs")
    annealed: Tensor

    def __init__(
        self,
        names: Sequence[str] | None = None,
        *,
        reference: str | None = None,
        alpha: float = 0.1,
        ratio: str = "max_mean",
        denominator: str | None = None,
        matrices_only: bool | None = None,
        every: int = 1,
    ) -> None:
        self.reference = reference_name(reference)
        self.alpha = number("alpha", alpha, above=0, maximum=1)
        self.ratio = choice("ratio", ratio, tuple(_NEEDS))
        paper = self.ratio == "max_mean"
        self.denominator = choice(
            "denominator",
            ("weighted" if paper else "unweighted") if denominator is None else denominator,
            ("weighted", "unweighted"),
        )
        self.matrices_only = flag(
            "matrices_only", paper if matrices_only is None else matrices_only
        )
        self.needs = _NEEDS[self.ratio]  # type: ignore[misc]  # no variant asks for more than its own
        super().__init__(names, every=every)

    def initial_state(self, count: int) -> dict[str, Tensor]:
        if self.reference is None and self.names:
            self.reference = self.names[0]  # and so it stays where a step has not all terms
        reference_among(self.reference, self.names or ())
        return {"annealed": torch.ones(count, dtype=torch.float64)}

    def weights_of(self, figures: TermGradients) -> Tensor:
        if self.reference not in figures.names:
            return self.annealed.clone()
        reference = figures.names.index(self.reference)
        of_reference, own = self._sizes(figures)
        before = self.annealed.to(own)
        if self.denominator == "weighted":
            own = before * own
        after = moving_average(before, of_reference[reference] / own, self.alpha)
        after[reference] = 1.0
        self.annealed = after
        return after.clone()

    def _sizes(self, figures: TermGradients) -> tuple[Tensor, Tensor]:
        """How large each term's gradient is, as the reference and in the denominator."""
        rows = self._rows(figures)
        if self.ratio == "norm":
            norms = torch.linalg.vector_norm(figures.by_parameter("norm")[rows], dim=0)
            return norms, norms
        means, counted = figures.by_parameter("mean_abs")[rows], reached(figures)[rows]
        if self.ratio == "mean_mean":
            counted = counted * entries(figures)[rows]
        mean = (counted * means).sum(0) / counted.sum(0)
        if self.ratio == "mean_mean":
            return mean, mean
        return figures.by_parameter("max_abs")[rows].amax(0), mean

    def _rows(self, figures: TermGradients) -> list[int]:
        """Which parameters count, by their positions."""
        least = 2 if self.matrices_only else 0
        rows = [row for row, shape in enumerate(figures.shapes) if len(shape) >= least]
        if not rows:
            raise ValueError(
                "`matrices_only` is True, but none of the parameters has two axes: "
                f"{', '.join(figures.parameters[:3])}; give the layers' weights in `params`, or "
                "matrices_only=False"
            )
        return rows
