"""Sign agreement: only the coordinates move on which the terms agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.reaching import voting_rows
from lossproof.terms.gradients import TermGradients, Want
from lossproof.write.arguments import choice, flag, number

Tensor = torch.Tensor

REDUCTIONS = ("mean", "sum")
ROUNDING = 1e-6
"""A share such as 0.6 of 5 votes is 3, whatever its last bit."""


class SignAgreement(Balancer):
    r"""The AND-mask: the mean gradient, at the coordinates where enough of the signs agree.

    .. math::
        \Delta = m \, \frac1K \sum_k g_k, \qquad
        m = \Bigl[ \Bigl| \sum_k \operatorname{sign} g_k \Bigr| \ge \tau
        \sum_k |\operatorname{sign} g_k| \Bigr]

    coordinate by coordinate. With :math:`\tau = 1` all signs must agree, with
    :math:`\tau = 0` it is the plain mean; a share p of equal signs counts as 2p - 1. It depends on
    the parametrisation, and the more terms there are the fewer coordinates move. The weights that
    are told are those of the mean (or the sum), of which something is masked.

    A gradient that is exactly zero at a coordinate has no vote there, so that a head, on which one
    term alone depends, is trained. The paper, in which all terms are one loss on different data,
    counts it as disagreement. Its code and DomainBed's also divide the gradient of each parameter
    by the share of the coordinates that are kept (``rescale=True``). With ``reduction="sum"`` and
    :math:`\tau = 1` it is Agr-Sum of Mansilla et al.

    Args:
        names: the names of the terms, in their order. Without them they are taken from the first
            step.
        tau: the agreement that is needed, from 0 to 1.
        reduction: ``"mean"`` or ``"sum"`` of the gradients of the K terms.
        rescale: whether the masked gradient of each parameter is divided by the share of its
            coordinates that are kept.

    Raises:
        TypeError: an option is of the wrong type.
        ValueError: an option is out of range.

    Example:
        >>> import torch
        >>> from lossproof.terms import SignAgreement
        >>> x = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> _ = SignAgreement().backward({"a": 3 * x[0] + x[1], "b": x[1] - x[0]}, [x])
        >>> x.grad
        tensor([0., 1.])

    Source:
        Parascandolo, Neitz, Orvieto, Gresele and Schölkopf (2021), Learning explanations that are
        hard to vary, ICLR; Mansilla, Echeveste, Milone and Ferrante (2021), Domain generalization
        via gradient surgery, ICCV.
    """

    needs: ClassVar[tuple[Want, ...]] = ("gradients",)

    def __init__(
        self,
        names: Sequence[str] | None = None,
        *,
        tau: float = 1.0,
        reduction: str = "mean",
        rescale: bool = False,
    ) -> None:
        super().__init__(names)
        self.tau = number("tau", tau, minimum=0, maximum=1)
        self.reduction = choice("reduction", reduction, REDUCTIONS)
        self.rescale = flag("rescale", rescale)

    def weights_of(self, figures: TermGradients) -> Tensor:
        count = len(figures.names) if self.reduction == "mean" else 1
        return torch.full_like(figures.values, 1.0 / count)

    def gradients_of(self, figures: TermGradients, weights: Tensor) -> dict[str, Tensor]:
        divisor = len(figures.names) if self.reduction == "mean" else 1
        return {name: self._masked(rows) / divisor for name, rows in voting_rows(figures)}

    def _masked(self, rows: Tensor) -> Tensor:
        balance = torch.zeros(rows.shape[1:], dtype=torch.float32, device=rows.device)
        votes = torch.zeros_like(balance)
        for row in rows:
            sign = row.sign()
            balance += sign
            votes += sign.abs()
        mask = balance.abs() >= self.tau * votes - ROUNDING
        summed = rows.sum(0) * mask
        if not self.rescale:
            return summed
        kept = mask.to(torch.float32).mean()
        return summed / torch.where(kept > 0, kept, 1.0).to(summed)
