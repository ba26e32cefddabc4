"""The terms of a composite loss: named scalar tensors of one forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

Tensor = torch.Tensor


@dataclass(frozen=True)
class Terms:
    """The terms of one step, in their order."""

    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    absent: tuple[str, ...] = ()
    """The terms that take no part: given as ``None``, or left out since."""
    over_ranks: Tensor | None = None
    """The value of each term over all ranks, where several train together."""

    def __len__(self) -> int:
        return len(self.names)

    def among(self, names: Sequence[str]) -> Terms:
        """Only the terms of these names, in this order."""
        found = dict(zip(self.names, self.tensors, strict=True))
        chosen = tuple(found[name] for name in names)
        values = self.over_ranks
        if values is not None:
            values = values[[self.names.index(name) for name in names]]
        left_out = tuple(name for name in self.names if name not in names)
        return Terms(tuple(names), chosen, self.absent + left_out, values)

    def valued(self, values: Tensor) -> Terms:
        """The same terms, with other values: those over all ranks."""
        return Terms(self.names, self.tensors, self.absent, values)

    @cached_property
    def values(self) -> Tensor:
        """The value of each term, float64 where the device has it, without a graph."""
        if self.over_ranks is not None:
            return self.over_ranks
        with torch.no_grad():
            return torch.stack(self.tensors).to(solving_dtype(self.tensors[0].device))


def named_terms(terms: Any) -> Terms:
    """The terms of a step, checked.

    Args:
        terms: a mapping from names to scalar floating-point tensors. A term that is ``None`` is
            absent in this step. A term may be a constant (it then has no gradient), and the same
            tensor may stand under two names.

    Raises:
        TypeError: it is no mapping, a name is no string, or a term is no real floating tensor.
        ValueError: there is no term, one is no scalar, or they lie on different devices.

    Example:
        >>> import torch
        >>> from lossproof.terms.terms import named_terms
        >>> named_terms({"data": torch.tensor(2.0), "bc": None}).names
        ('data',)
    """
    refuse_no_mapping(terms)
    for name, term in terms.items():
        _usable(name, term)
    present = {name: term for name, term in terms.items() if term is not None}
    if not present:
        raise ValueError("`terms` must hold at least one term that is not None, got none")
    devices = {term.device for term in present.values()}
    if len(devices) > 1:
        where = ", ".join(f"{name!r} on {term.device}" for name, term in present.items())
        raise ValueError(f"the terms must lie on one device, got {where}")
    absent = tuple(name for name, term in terms.items() if term is None)
    return Terms(tuple(present), tuple(present.values()), absent)


def refuse_no_mapping(terms: Any) -> None:
    """Terms are given by name.

    Raises:
        TypeError: they are not.
    """
    if not isinstance(terms, Mapping):
        raise TypeError(
            "`terms` must be a mapping from the name of each term to a scalar tensor, such as "
            f"{{'data': data_loss, 'pde': pde_loss}}, got {type(terms).__name__}"
        )


def _usable(name: Any, term: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"the names of `terms` must be strings, got {name!r}")
    if term is None:
        return
    if not isinstance(term, Tensor):
        raise TypeError(f"term {name!r} must be a scalar tensor, got {type(term).__name__}")
    if not term.is_floating_point():
        raise TypeError(f"term {name!r} must be a real floating-point tensor, got {term.dtype}")
    if term.dim() != 0:
        raise ValueError(
            f"term {name!r} must be a scalar, got the shape {list(term.shape)}; reduce it first, "
            "for example with lossproof.reduce"
        )


def solving_dtype(device: torch.device) -> torch.dtype:
    """The dtype in which K x K problems are solved: float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64
