"""Moving averages of whole gradients, whose shapes are known from the first step on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lossproof.terms.terms import solving_dtype

Tensor = torch.Tensor


class GradientAverage(nn.Module):
    """For each parameter a moving average of the gradients of K terms, saved with the module.

    The buffers are made at the first step that meets a parameter, or by the checkpoint that is
    loaded, and named after the parameters. Half
    precision is averaged in float32, for there a small part of a new gradient would be rounded
    away.
    """

    def __init__(self) -> None:
        super().__init__()
        self._dtypes: dict[str, torch.dtype] = {}
        """The dtypes of the parameters of the last step, by their names."""

    def update(
        self,
        rows: Mapping[str, Tensor],
        factors: Tensor,
        old_share: Tensor,
        present: Tensor,
        count: int,
    ) -> None:
        """Take the gradients of a step into the averages.

        Args:
            rows: for each parameter a stack of tensors of its shape, one for each term of the step.
                Of a parameter that is not there all gradients are zero.
            factors: what the gradient of each term is multiplied with first.
            old_share: the part of the old averages, a number.
            present: the positions of the terms of the step among all terms.
            count: how many terms there are in all.

        Raises:
            ValueError: a parameter has another shape than before.
        """
        for key, old in list(self.named_buffers(recurse=False)):
            if key not in map(_key, rows):
                faded = old[present] * old_share.to(old)
                self.register_buffer(key, old.index_copy(0, present, faded))
        for name, row in rows.items():
            wide = row.to(torch.promote_types(row.dtype, torch.float32))
            new = wide * factors.to(wide).view(-1, *[1] * (wide.dim() - 1))
            before = self._before(name, new, count)
            average = torch.lerp(new, before[present], old_share.to(new))
            self.register_buffer(_key(name), before.index_copy(0, present, average))
        self._dtypes = {name: row.dtype for name, row in rows.items()}

    def _before(self, name: str, new: Tensor, count: int) -> Tensor:
        old = self._buffers.get(_key(name))
        if old is None:
            return new.new_zeros(count, *new.shape[1:])
        if old.shape[1:] != new.shape[1:]:
            raise ValueError(
                f"the averages hold gradients of shape {list(old.shape[1:])} where the parameter "
                f"{name!r} has {list(new.shape[1:])}; use one balancer for each set of parameters"
            )
        return old.to(new)

    def norms(self, present: Tensor, shards: Mapping[str, int]) -> Tensor:
        """The Euclidean norm of the average gradient of each of these terms.

        Args:
            present: the positions of the terms.
            shards: into how many pieces each parameter is divided over the ranks. The norms of the
                pieces are so much enlarged that their mean square is that of the whole.
        """
        factors = {_key(name): count**0.5 for name, count in shards.items()}
        parts = []
        for key, average in self.named_buffers(recurse=False):
            rows = average[present].flatten(1)
            norms = torch.linalg.vector_norm(rows, dim=1, dtype=solving_dtype(rows.device))
            parts.append(norms * factors[key])
        return torch.linalg.vector_norm(torch.stack(parts), dim=0)  # type: ignore[no-any-return]

    def combined(self, factors: Tensor, present: Tensor) -> dict[str, Tensor]:
        """The sum of the average gradients of these terms, each with a factor, by parameter."""
        found = {}
        for name, dtype in self._dtypes.items():
            rows = self.get_buffer(_key(name))[present]
            found[name] = torch.tensordot(factors.to(rows), rows, 1).to(dtype)
        return found

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name, saved in state_dict.items():
            if name.startswith(prefix) and name.removeprefix(prefix) not in self._buffers:
                self.register_buffer(name.removeprefix(prefix), torch.empty_like(saved))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _key(name: str) -> str:
    """What the buffer of a parameter is called: a name of a buffer holds no full stop."""
    return "average of " + name.replace(".", "/")
