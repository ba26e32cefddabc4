r"""The cross entropy of some rows and its derivative in the logits, in the memory of the logits.

.. math::
    \ell_i = \log \sum_c e^{z_{ic}} - \sum_c q_{ic} z_{ic} \qquad
    \frac{\partial \ell_i}{\partial z_{ic}} = \operatorname{softmax}(z_i)_c - q_{ic}

with the smoothed one-hot :math:`q_{ic} = (1 - \alpha) [c = t_i] + \alpha / C`; class weights
multiply its entries, and the softmax by their sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lossproof.write.arguments import class_indices

Tensor = torch.Tensor
CACHE = 1 << 20
"""Bytes of logits that are gone through at a time on a CPU, so that they stay in its cache."""


@dataclass(frozen=True)
class SoftmaxSlope:
    """Torch's cross entropy of class indices."""

    smoothing: float
    class_weights: Tensor | None
    ignore_index: int

    def values_and_slope(self, logits: Tensor, target: Tensor) -> Tensor:
        """The values of the rows; the logits become the derivative.

        Args:
            logits: (N, C), at least float32. They are overwritten.
            target: (N,), class indices, or ``ignore_index``.
        """
        if logits.device.type != "cpu":
            return self._of_rows(logits, target)
        class_indices("target", target, logits.shape[1], ignore_index=self.ignore_index)
        rows = max(1, CACHE // (logits.shape[1] * logits.element_size()))
        values = [
            self._of_rows(logits[first : first + rows], target[first : first + rows])
            for first in range(0, len(logits), rows)
        ]
        return torch.cat(values) if values else logits.new_zeros(0)

    def _of_rows(self, logits: Tensor, target: Tensor) -> Tensor:
        classes = logits.shape[1]
        counts = target != self.ignore_index
        index = torch.where(counts, target, 0).unsqueeze(1).long()  # bytes are classes, too
        row_max = logits.amax(1, keepdim=True)
        logits.sub_(row_max)
        own = logits.gather(1, index)
        weight = counts.unsqueeze(1).to(logits.dtype)
        if self.class_weights is not None:
            weight = weight * self.class_weights.to(logits)[index]
        spread = self._spread(logits, counts)
        total = logits.exp_().sum(1, keepdim=True)
        share = weight if spread is None else (1 - self.smoothing) * weight + spread.mass
        values = share * total.log() - (1 - self.smoothing) * weight * own
        logits.mul_(share / total)
        if spread is not None:
            values = values - spread.product
            logits.addcmul_(spread.of_classes, counts.unsqueeze(1).to(logits.dtype), value=-1)
        logits.scatter_add_(1, index, -(1 - self.smoothing) * weight)
        if classes == 0:
            return values.new_zeros(len(target))
        return values.squeeze(1)

    def _spread(self, logits: Tensor, counts: Tensor) -> _Spread | None:
        """What label smoothing spreads over all classes."""
        if not self.smoothing:
            return None
        classes = logits.shape[1]
        part = self.smoothing / classes
        if self.class_weights is None:
            of_classes = logits.new_full((1, classes), part)
        else:
            of_classes = part * self.class_weights.to(logits).unsqueeze(0)
        counted = counts.unsqueeze(1).to(logits.dtype)
        product = (logits @ of_classes.t()) * counted
        return _Spread(of_classes, of_classes.sum() * counted, product)


@dataclass(frozen=True)
class _Spread:
    of_classes: Tensor
    """What each class gets, (1, C)."""
    mass: Tensor
    """The sum over the classes, for each row."""
    product: Tensor
    """The sum of what each class gets times its logit, for each row."""
