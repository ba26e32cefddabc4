"""Smooth Tchebycheff scalarization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.named_numbers import NamedNumbers
from lossproof.terms.balance.value_range import nonnegative
from lossproof.terms.gradients import TermGradients, Want
from lossproof.write.arguments import integer, number

Tensor = torch.Tensor


class STCH(Balancer):
    r"""A smooth maximum of the terms is minimised, so that the worst of them counts the most.

    .. math::
        \mu \log \sum_k \exp \frac{\lambda_k (L_k - z_k)}{\mu}, \qquad
        w_k = \lambda_k \operatorname{softmax}_k\!\Big( \frac{\lambda (L - z)}{\mu} \Big)

    with preferences :math:`\lambda` and the ideal point :math:`z`. This form
    compares values as they are: use it for terms in one unit. For terms in different units the
    paper's multi-task experiments train the logarithms in a warm-up, take the mean of each term
    over its end as the nadir point :math:`n`, and go on with

    .. math::
        K \mu \log \sum_k \exp \Big( \frac1\mu \log \frac{L_k - z_k}{n_k - z_k} \Big)

    which is what ``warmup`` asks for; units then do not matter. With small ``mu`` nearly only the
    worst term is trained.

    Args:
        names: the names of the terms, in their order.
        mu: :math:`\mu`, the smoothness; the smaller, the closer to the maximum.
        preference: :math:`\lambda_k` by name, at least 0; 1/K where not given. Not with
            ``warmup``, where the nadir point takes its place.
        ideal: :math:`z_k` by name; 0 where not given.
        warmup: the number of steps in which the sum of the logarithms is minimised.
        nadir_window: over how many steps at the end of the warm-up the nadir is the mean; all of
            them, where not given. The authors' four epochs and one more of E steps are
            ``warmup=5 * E, nadir_window=E``.

    Raises:
        TypeError: an option is of the wrong type.
        ValueError: an option is out of range, or with ``warmup`` a term lies below its ideal. A
            term that lies exactly on it then gets weight 0.

    Example:
        >>> import torch
        >>> from lossproof.terms import STCH
        >>> x = torch.tensor(1.0, requires_grad=True)
        >>> step = STCH(mu=0.5).backward({"a": 2 * x, "b": x}, [x])
        >>> step.total, step.weights
        (tensor(1.1566, dtype=torch.float64), tensor([0.3655, 0.1345], dtype=torch.float64))

    Source:
        Lin, Zhang, Yang, Liu, Wang and Zhang (2024), Smooth Tchebycheff scalarization for
        multi-objective optimization, ICML. The form with the warm-up is that of the authors' code
        and of LibMTL, the other that of TorchJD and LibMOON.
    """

    needs: ClassVar[tuple[Want, ...]] = ()
    sums: Tensor
    seen: Tensor

    def __init__(
        self,
        names: Sequence[str] | None = None,
        *,
        mu: float = 1.0,
        preference: Mapping[str, float] | None = None,
        ideal: Mapping[str, float] | None = None,
        warmup: int = 0,
        nadir_window: int | None = None,
    ) -> None:
        self.mu = number("mu", mu, above=0)
        self.preference = NamedNumbers("preference", preference, default=1.0, minimum=0)
        self.ideal = NamedNumbers("ideal", ideal, default=0.0)
        self.warmup = integer("warmup", warmup, minimum=0)
        self.nadir_window = _window(nadir_window, warmup)
        if warmup and preference is not None:
            raise ValueError(
                "`preference` goes with warmup=0: after a warm-up the nadir point scales the "
                f"terms, got warmup={warmup}"
            )
        super().__init__(names)

    def initial_state(self, count: int) -> dict[str, Tensor]:
        for numbers in (self.preference, self.ideal):
            numbers.fits(self.names or ())
        return {
            "sums": torch.zeros(count, dtype=torch.float64),
            "seen": torch.zeros((), dtype=torch.int64),
        }

    def weights_of(self, figures: TermGradients) -> Tensor:
        distance = self._distance(figures.values)
        if not self.warmup:
            preference = self._preference(distance)
            return preference * torch.softmax(preference * distance / self.mu, 0)
        nonnegative("STCH", figures.names, distance, "`ideal`" if self.ideal.given else "0")
        warm = self.seen < self.warmup
        counts = warm & (self.seen >= self.warmup - self.nadir_window)
        self.sums = torch.where(counts, self.sums + distance, self.sums)
        self.seen = self.seen + 1
        positive = distance > 0
        shares = torch.softmax(self._logarithms(distance) / self.mu, 0)
        shares = torch.where(warm, 1.0, len(figures.names) * shares)
        return torch.where(positive, shares / torch.where(positive, distance, 1.0), 0.0)

    def objective(self, values: Tensor, weights: Tensor) -> Tensor:
        distance = self._distance(values)
        if not self.warmup:
            scaled = self._preference(distance) * distance
            return self.mu * torch.logsumexp(scaled / self.mu, 0)
        positive = distance > 0
        plain = torch.where(positive, torch.where(positive, distance, 1.0).log(), 0.0).sum()
        smooth = self.mu * torch.logsumexp(self._logarithms(distance) / self.mu, 0)
        return torch.where(self.seen <= self.warmup, plain, values.numel() * smooth)

    def _distance(self, values: Tensor) -> Tensor:
        return values - self.ideal.of(self.names or (), values)

    def _preference(self, like: Tensor) -> Tensor:
        share = 1.0 if self.preference.given else 1.0 / like.numel()
        return share * self.preference.of(self.names or (), like)

    def _logarithms(self, distance: Tensor) -> Tensor:
        """The logarithm of each distance to the ideal, in units of the nadir's."""
        positive = distance > 0
        mean = self.sums / self.nadir_window
        nadir = torch.where(mean > 0, mean, 1.0)  # a term that was always 0 keeps its unit
        safe = torch.where(positive, distance, 1.0)
        absent = torch.where(positive.any(), -torch.inf, 0.0)  # all at -inf would be NaN
        return torch.where(positive, safe.log() - nadir.log(), absent)


def _window(given: int | None, warmup: int) -> int:
    if given is None:
        return max(warmup, 1)
    window = integer("nadir_window", given, minimum=1)
    if window > warmup:
        raise ValueError(f"`nadir_window` must be at most `warmup`={warmup}, got {window}")
    return window
