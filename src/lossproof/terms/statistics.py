"""Statistics of the gradient of each term, kept parameter by parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy

import torch

from lossproof.terms.held import as_real
from lossproof.terms.products import out_of_range
from lossproof.terms.terms import solving_dtype

Tensor = torch.Tensor

SINGLE = ("norm", "mean", "mean_abs", "max_abs")
"""The statistics of one gradient, as opposed to those of a pair."""


class StatisticsTable:
    """For each wanted statistic a matrix with a row for each parameter, a column for each term.

    What is kept is what adds up: the sum of squares for ``norm``, sums for the two means.
    """

    def __init__(
        self, wanted: Sequence[str], sizes: Sequence[int], count: int, device: torch.device
    ) -> None:
        dtype = solving_dtype(device)
        self.sizes = torch.tensor(sizes, dtype=dtype, device=device)
        self._kept = {
            name: torch.zeros(len(sizes), count, dtype=dtype, device=device) for name in wanted
        }

    @property
    def wanted(self) -> tuple[str, ...]:
        return tuple(self._kept)

    def add(self, term: int, positions: Sequence[int], gradients: Sequence[Tensor]) -> None:
        """Take the gradients of a term for the parameters at these positions into account."""
        if not gradients or not self._kept:
            return
        values = {
            position: as_real(part.coalesce().values() if part.is_sparse else part)
            for position, part in zip(positions, gradients, strict=True)
        }
        at = [position for position, part in values.items() if part.numel()]
        gradients = [values[position] for position in at]
        if not at:
            return
        if "norm" in self._kept:
            self._kept["norm"][at, term] += self._lengths(gradients).square()
        if "mean_abs" in self._kept:
            self._kept["mean_abs"][at, term] += self._norms(gradients, 1.0)
        if "max_abs" in self._kept:
            self._kept["max_abs"][at, term] = self._norms(gradients, float("inf"))
        if "mean" in self._kept:
            sums = torch.stack([part.sum(dtype=_summing_dtype(part)) for part in gradients])
            self._kept["mean"][at, term] += sums.to(self.sizes.dtype)

    def set(self, name: str, position: int, values: Tensor) -> None:
        """Set the sums (of squares, for ``norm``) of one parameter for all terms."""
        self._kept[name][position] = values.to(self.sizes.dtype)

    def _lengths(self, gradients: Sequence[Tensor]) -> Tensor:
        """Euclidean norms, also of gradients whose squares float32 cannot hold."""
        if self.sizes.is_cuda:  # to look would be to wait for the device
            return self._norms(gradients, 2.0, self.sizes.dtype)
        norms = self._norms(gradients, 2.0)
        if self.sizes.dtype == torch.float64:
            for n, beyond in enumerate(out_of_range(norms.square()).tolist()):
                if beyond and gradients[n].dtype != torch.float64:
                    norms[n] = torch.linalg.vector_norm(gradients[n], dtype=torch.float64)
        return norms

    def _norms(
        self, gradients: Sequence[Tensor], order: float, dtype: torch.dtype | None = None
    ) -> Tensor:
        norms = [
            torch.linalg.vector_norm(part, order, dtype=dtype or _summing_dtype(part))
            for part in gradients
        ]
        return torch.stack(norms).to(self.sizes.dtype)

    def by_parameter(self, name: str) -> Tensor:
        """The statistic of each parameter and term, a matrix of parameters x K."""
        kept = self._kept[name]
        if name == "norm":
            return kept.clamp_min(0.0).sqrt()
        return kept / self.sizes[:, None].clamp_min(1) if name in ("mean", "mean_abs") else kept

    def over_all(self, name: str) -> Tensor:
        """The statistic over all parameters, K numbers."""
        kept = self._kept[name]
        if name == "max_abs":
            return kept.amax(0)
        if name == "norm":
            return kept.sum(0).clamp_min(0.0).sqrt()
        return kept.sum(0) / self.sizes.sum()

    @property
    def kept(self) -> dict[str, Tensor]:
        """What is kept of each statistic, parameters x K: sums (of squares for norms) or maxima."""
        return dict(self._kept)

    def replaced(self, kept: Mapping[str, Tensor]) -> StatisticsTable:
        """A table of the same parameters that keeps something else, such as sums over all ranks."""
        table = copy(self)
        table._kept = dict(kept)
        return table

    def rescale(self, factor: Tensor) -> None:
        """Divide every gradient by a factor, after the fact."""
        for name, kept in list(self._kept.items()):
            self._kept[name] = kept / (factor.square() if name == "norm" else factor)


def _summing_dtype(part: Tensor) -> torch.dtype:
    """Half precision is summed in float32; long float32 rows are right in blocks of torch's own."""
    return torch.float32 if part.dtype in (torch.float16, torch.bfloat16) else part.dtype
