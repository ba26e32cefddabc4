"""Fast adaptive multitask optimization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.named_numbers import NamedNumbers
from lossproof.terms.balance.presence import only
from lossproof.terms.balance.value_range import nonnegative
from lossproof.terms.distributed import Ranks
from lossproof.terms.gradients import TermGradients, Want
from lossproof.write.arguments import number

Tensor = torch.Tensor

_BETAS = (0.9, 0.999)
_EPS = 1e-8
"""Adam's own defaults, as the authors use them. The eps is of a gradient of logarithms, which has
no unit."""


class FAMO(Balancer):
    r"""Weights that let the logarithms of all terms fall at the same rate, from values alone.

    .. math::
        w_k = c\, \frac{z_k}{L_k - b_k}, \qquad z = \operatorname{softmax}(\xi), \qquad
        c = \Big( \sum_k \frac{z_k}{L_k - b_k} \Big)^{-1}

    and after the step :math:`\xi` descends along :math:`J_{\operatorname{softmax}}^T \delta` by
    Adam, where :math:`\delta_k = \log(L_k - b_k) - \log(L_k^+ - b_k)` is how much each term fell.
    The weights sum to 1. Their quality hangs on :math:`\delta`: call ``update`` with the terms
    *on the same batch* after the optimiser's step, which costs a forward pass. Without that call
    the values of the next step stand in for it, which with small batches is mostly noise.

    Args:
        names: the names of the terms, in their order.
        min_losses: the lower bound :math:`b_k` of each term by name; 0 where not given.
        lr: the learning rate of Adam on :math:`\xi`.
        weight_decay: its decay of :math:`\xi` towards equal weights (the paper's gamma). The
            authors run theirs with 0.001 on three data sets, with 0.01 on a fourth, and with 0 on
            a problem of two variables.
        every: the weights are computed anew in every n-th step.

    Raises:
        TypeError: an option is of the wrong type.
        ValueError: an option is out of range, or a term lies below its bound. A term that lies
            exactly on it gets weight 0.

    Example:
        >>> import torch
        >>> from lossproof.terms import FAMO
        >>> balancer = FAMO(lr=0.1)
        >>> x = torch.tensor(1.0, requires_grad=True)
        >>> step = balancer.backward({"a": 3 * x, "b": x}, [x])
        >>> step.weights
        tensor([0.2500, 0.7500], dtype=torch.float64)
        >>> balancer.update({"a": 3 * x, "b": 0.5 * x})
        >>> balancer.logits
        tensor([ 0.1000, -0.1000], dtype=torch.float64)

    Source:
        Liu, Feng, Stone and Liu (2023), FAMO: fast adaptive multitask optimization, NeurIPS,
        algorithm 1. There the logits take a plain gradient step; Adam is what the authors' code
        and LibMTL do, and so does this.
    """

    needs: ClassVar[tuple[Want, ...]] = ()
    logits: Tensor
    moment: Tensor
    second_moment: Tensor
    updates: Tensor
    before: Tensor
    pending: Tensor

    def __init__(
        self,
        names: Sequence[str] | None = None,
        *,
        min_losses: Mapping[str, float] | None = None,
        lr: float = 0.025,
        weight_decay: float = 1e-3,
        every: int = 1,
    ) -> None:
        self.min_losses = NamedNumbers("min_losses", min_losses, default=0.0)
        self.lr = number("lr", lr, minimum=0)
        self.weight_decay = number("weight_decay", weight_decay, minimum=0)
        super().__init__(names, every=every)

    def initial_state(self, count: int) -> dict[str, Tensor]:
        self.min_losses.fits(self.names or ())
        zeros = torch.zeros(count, dtype=torch.float64)
        return {
            "logits": zeros,
            "moment": zeros.clone(),
            "second_moment": zeros.clone(),
            "updates": torch.zeros((), dtype=torch.int64),
            "before": zeros.clone(),
            "pending": torch.zeros((), dtype=torch.bool),
        }

    def weights_of(self, figures: TermGradients) -> Tensor:
        shifted = self._above_bound(figures.names, figures.values)
        self._learn(shifted)
        self.before, self.pending = shifted, torch.ones_like(self.pending)
        positive = shifted > 0
        shares = torch.where(positive, torch.softmax(self.logits, 0), 0.0)
        # Divided by the least value, which is positive, nothing overflows on the way to a sum of 1.
        safe = torch.where(positive, shifted, torch.inf)
        relative = shares * (safe.amin() / safe).nan_to_num(0.0)
        total = relative.sum()
        return relative / torch.where(total > 0, total, 1.0)

    def update(self, terms: Mapping[str, Any], *, group: Any = None) -> None:
        """Learn from what the optimiser's step did to the terms.

        Args:
            terms: the terms on the same batch, after the step.
            group: the process group, as for ``backward``.

        Raises:
            ValueError: it is called before a step, or the terms are others.
        """
        if self.names is None:
            raise ValueError("`update` must be called after `backward`, but there was no step yet")
        named = self._entered(terms, Ranks.of(group))
        with only(self, named.names), torch.no_grad():
            self._learn(self._above_bound(named.names, named.values))

    def _above_bound(self, names: Sequence[str], values: Tensor) -> Tensor:
        shifted = values - self.min_losses.of(names, values)
        nonnegative("FAMO", names, shifted, "`min_losses`" if self.min_losses.given else "0")
        return shifted

    def _learn(self, after: Tensor) -> None:
        """One step of Adam on the logits, if there is a step of the model to learn from."""
        comparable = (self.before > 0) & (after > 0)
        fall = torch.where(comparable, self.before, 1.0).log()
        fall = fall - torch.where(comparable, after, 1.0).log()
        shares = torch.softmax(self.logits, 0)
        gradient = shares * (fall - (shares * fall).sum()) + self.weight_decay * self.logits
        moment = torch.lerp(gradient, self.moment, _BETAS[0])
        second = torch.lerp(gradient.square(), self.second_moment, _BETAS[1])
        updates = self.updates + 1
        unbiased = moment / (1.0 - _BETAS[0] ** updates.to(moment))
        size = (second / (1.0 - _BETAS[1] ** updates.to(moment))).sqrt() + _EPS
        logits = self.logits - self.lr * unbiased / size
        self.logits = torch.where(self.pending, logits, self.logits)
        self.moment = torch.where(self.pending, moment, self.moment)
        self.second_moment = torch.where(self.pending, second, self.second_moment)
        self.updates = torch.where(self.pending, updates, self.updates)
        self.pending = torch.zeros_like(self.pending)
