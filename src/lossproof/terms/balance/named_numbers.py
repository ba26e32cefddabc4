"""An option that holds a number for each term, given by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lossproof.write.arguments import number

Tensor = torch.Tensor


class NamedNumbers:
    """Numbers by the names of the terms, as a tensor on the device where they are needed.

    Args:
        option: what the option is called.
        given: a mapping from names to numbers, or ``None``.
        default: the number of every term where no mapping is given.
        minimum: the least that is allowed, included.
        above: the least that is allowed, excluded.

    Raises:
        TypeError: it is no mapping from strings to numbers.
        ValueError: it is empty, or a number is out of range.
    """

    def __init__(
        self,
        option: str,
        given: Any,
        *,
        default: float,
        minimum: float | None = None,
        above: float | None = None,
    ) -> None:
        self.option = option
        self._default = default
        self.given = None if given is None else _checked(option, given, minimum, above)
        self._cached: tuple[tuple[str, ...], Tensor] | None = None

    def __repr__(self) -> str:
        return repr(self.given)

    def fits(self, names: Sequence[str]) -> None:
        """The names are those of the terms.

        Raises:
            ValueError: a term has no number, or a number has no term.
        """
        if self.given is not None and set(self.given) != set(names):
            raise ValueError(
                f"`{self.option}` must hold a number for each of the terms {list(names)}, "
                f"got {list(self.given)}"
            )

    def of(self, names: Sequence[str], like: Tensor) -> Tensor:
        """The numbers in the order of the names, in the dtype and on the device of ``like``."""
        names = tuple(names)
        if self._cached is not None:
            of, cached = self._cached
            if of == names and cached.device == like.device and cached.dtype == like.dtype:
                return cached
        given = self.given or dict.fromkeys(names, self._default)
        numbers = [given[name] for name in names]
        numbers_there = torch.tensor(numbers, dtype=like.dtype, device=like.device)
        self._cached = names, numbers_there
        return numbers_there


def required_names(method: str, names: Any) -> tuple[str, ...]:
    """The names of the terms, for a method whose parameters must exist before the first step.

    Raises:
        TypeError: they are missing, or no sequence of strings.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise TypeError(
            f"`names` must be the names of the terms, as {method} has a parameter for each, "
            f"got {names!r}"
        )
    return tuple(names)


def _checked(
    option: str, given: Any, minimum: float | None, above: float | None
) -> dict[str, float]:
    if not isinstance(given, Mapping):
        raise TypeError(
            f"`{option}` must be a mapping from the name of each term to a number, "
            f"got {type(given).__name__}"
        )
    if not given:
        raise ValueError(f"`{option}` must hold a number for each term, got an empty mapping")
    for name in given:
        if not isinstance(name, str):
            raise TypeError(f"the names in `{option}` must be strings, got {name!r}")
    return {
        name: float(number(f"{option}[{name!r}]", value, minimum=minimum, above=above))
        for name, value in given.items()
    }
