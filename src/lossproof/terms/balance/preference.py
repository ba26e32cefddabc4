"""How much each term matters: an option of the methods that start from a combination of terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lossproof.terms.balance.named_numbers import NamedNumbers


class Preference(NamedNumbers):
    """A number of at least 0 for each term; without a choice of the user, 1/K.

    Args:
        given: a mapping from the names of the terms to numbers, or ``None``.

    Raises:
        TypeError: ``given`` is no mapping from strings to numbers.
        ValueError: a number is negative, or all are 0.
    """

    def __init__(self, given: Mapping[str, float] | None) -> None:
        super().__init__("preference", given, default=1.0, minimum=0.0)
        if self.given is not None and not any(self.given.values()):
            raise ValueError("`preference` must hold a number above 0, got zeros alone")

    def shares(self, names: Sequence[str]) -> list[float]:
        """The numbers of some terms, in their order."""
        if self.given is None:
            return [1.0 / len(names)] * len(names)
        return [self.given[name] for name in names]
