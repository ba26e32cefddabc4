"""Weights learned as the uncertainty of each term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.named_numbers import required_names
from lossproof.terms.balance.value_range import nonnegative
from lossproof.terms.gradients import TermGradients, Want
from lossproof.write.arguments import choice, number

Tensor = torch.Tensor

_FACTORS = {"regression": 0.5, "classification": 1.0}


class UncertaintyWeights(Balancer):
    r"""Weights that are learned with the model: one variance of observation noise for each term.

    .. math::
        \sum_k c_k\, e^{-s_k} L_k + p(s_k), \qquad s_k = \log \sigma_k^2, \qquad
        p(s) = \tfrac12 s \ \text{ or } \ \log(1 + e^s)

    with :math:`c_k = \frac12` for a regression (a Gaussian likelihood) and :math:`c_k = 1` for a
    classification (a softmax likelihood). :math:`p(s) = \log\sigma` is the penalty of Kendall et
    al., :math:`p(s) = \log(1 + \sigma^2)` that of Liebel and Körner, which never is negative, so
    that the sum stays positive. The weights are :math:`c_k e^{-s_k}` and sum to nothing fixed. At
    the optimum of :math:`p = \frac12 s` a weight is :math:`1 / (2 L_k)`: the method trains the
    logarithms of the terms, and a term close to zero gets an ever larger weight. Only the ratio
    of values counts, not their gradients.

    The log-variances are a parameter of the balancer: **give ``balancer.parameters()`` to the
    optimiser**, best without weight decay. A term whose value is exactly 0 leaves its log-variance
    as it is, which otherwise would fall forever.

    Args:
        names: the names of the terms, in their order.
        form: ``"regression"`` or ``"classification"``, for all terms or by name.
        penalty: ``"log"`` (Kendall et al.) or ``"log1p"`` (Liebel and Körner).
        initial: the log-variance that each term starts with. LibMTL starts with -0.5.
        every: the weights *shown* are those of every n-th step; those that train are always of
            the present.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an option is out of range, or a term has a negative value, for which the sum
            has no minimum.

    Example:
        >>> import torch
        >>> from lossproof.terms import UncertaintyWeights
        >>> balancer = UncertaintyWeights(["depth", "labels"], form={
        ...     "depth": "regression", "labels": "classification"})
        >>> x = torch.tensor(1.0, requires_grad=True)
        >>> step = balancer.backward({"depth": 4 * x, "labels": 2 * x}, [x])
        >>> step.weights, balancer.log_variance.grad
        (tensor([0.5000, 1.0000], dtype=torch.float64), tensor([-1.5000, -1.5000]))

    Source:
        Kendall, Gal and Cipolla (2018), Multi-task learning using uncertainty to weigh losses for
        scene geometry and semantics, CVPR, equations 7 and 10. Liebel and Körner (2018), Auxiliary
        tasks in multi-task learning, arXiv:1805.06334. LibMTL and TorchJD have the regression form
        with the penalty ``"log"`` for every term.
    """

    needs: ClassVar[tuple[Want, ...]] = ()
    factors: Tensor

    def __init__(
        self,
        names: Sequence[str],
        *,
        form: str | Mapping[str, str] = "regression",
        penalty: str = "log",
        initial: float = 0.0,
        every: int = 1,
    ) -> None:
        super().__init__(required_names(type(self).__name__, names), every=every)
        self.form, self.initial = form, float(number("initial", initial))
        first = torch.full((len(names),), self.initial)
        self.log_variance = nn.Parameter(first)
        self.penalty = choice("penalty", penalty, ("log", "log1p"))
        factors = torch.tensor(_factors(form, names), dtype=torch.float64)
        self.register_buffer("factors", factors, persistent=False)

    def weights_of(self, figures: TermGradients) -> Tensor:
        nonnegative(type(self).__name__, figures.names, figures.values)
        return self._weights(figures.values)

    def _weights(self, like: Tensor) -> Tensor:
        return self.factors.to(like) * torch.exp(-self.log_variance.to(like))

    def objective(self, values: Tensor, weights: Tensor) -> Tensor:
        log_variance = self.log_variance.to(values)
        if self.penalty == "log":
            penalty = 0.5 * log_variance
        else:
            penalty = nn.functional.softplus(log_variance)
        return (self._weights(values) * values + torch.where(values == 0, 0.0, penalty)).sum()


def _factors(form: Any, names: Sequence[str]) -> list[float]:
    if isinstance(form, Mapping):
        if set(form) != set(names):
            raise ValueError(
                f"`form` must say the form of each of the terms {list(names)}, got {list(form)}"
            )
        forms = [choice(f"form[{name!r}]", form[name], tuple(_FACTORS)) for name in names]
    else:
        forms = [choice("form", form, tuple(_FACTORS))] * len(names)
    return [_FACTORS[one] for one in forms]
