"""Numbers for every point of some terms, side by side in one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lossproof.write.arguments import integer, tensor, within

Tensor = torch.Tensor


class Points:
    """How many points some terms have, and where their numbers lie in a tensor for all of them.

    Args:
        counts: the number of points of each term, by name.

    Raises:
        TypeError: it is no mapping from strings to integers.
        ValueError: it is empty, or a term has no point.
    """

    def __init__(self, counts: Any) -> None:
        if not isinstance(counts, Mapping):
            raise TypeError(
                "`points` must be a mapping from the name of a term to its number of points, got "
                f"{type(counts).__name__}"
            )
        if not counts:
            raise ValueError("`points` must hold the number of points of a term, got none")
        self.counts: dict[str, int] = {}
        self._starts: dict[str, int] = {}
        self.total = 0
        for name, count in counts.items():
            if not isinstance(name, str):
                raise TypeError(f"the names in `points` must be strings, got {name!r}")
            self.counts[name] = integer(f"points[{name!r}]", count, minimum=1)
            self._starts[name] = self.total
            self.total += count

    def __repr__(self) -> str:
        return repr(self.counts)

    def __contains__(self, name: str) -> bool:
        return name in self.counts

    def of(self, state: Tensor, name: str, index: Tensor | None) -> Tensor:
        """The numbers of some points of a term."""
        part = state.narrow(0, self._starts[name], self.counts[name])
        return part if index is None else part.index_select(0, index)

    def put(self, state: Tensor, name: str, index: Tensor | None, values: Tensor) -> Tensor:
        """The tensor with other numbers for some points of a term."""
        if index is None:
            index = torch.arange(self.counts[name], device=state.device)
        return state.index_copy(0, index + self._starts[name], values.to(state))

    def index_of(self, name: str, given: Any, residual: Tensor) -> Tensor | None:
        """Which points of a term a residual is of, checked.

        Args:
            name: the name of the term.
            given: indices by the names of terms, one tensor if there is one term, or ``None``.
            residual: with a point in each row.

        Raises:
            TypeError: it is no tensor of integers.
            ValueError: it does not fit the residual or the number of points.
        """
        count, rows = self.counts[name], residual.shape[0]
        one = self._index_for(name, given)
        if one is None:
            if rows != count:
                raise ValueError(
                    f"term {name!r} must have a residual for each of its {count} points, got "
                    f"{rows}; say which ones with `index`"
                )
            return None
        index = tensor(f"index[{name!r}]", one, "integer").long().to(residual.device)
        if index.shape != (rows,):
            raise ValueError(
                f"`index[{name!r}]` must hold one integer for each of the {rows} residuals, got "
                f"the shape {list(index.shape)}"
            )
        within(f"index[{name!r}]", index, 0, count - 1)
        return index

    def _index_for(self, name: str, given: Any) -> Any:
        if given is None:
            return None
        if isinstance(given, Mapping):
            unknown = [one for one in given if one not in self.counts]
            if unknown:
                raise ValueError(
                    f"`index` must be for the terms {list(self.counts)}, got {unknown}"
                )
            return given.get(name)
        if len(self.counts) > 1:
            raise TypeError(
                f"`index` must be a mapping from the terms {list(self.counts)} to tensors, got "
                f"{type(given).__name__}"
            )
        return given
