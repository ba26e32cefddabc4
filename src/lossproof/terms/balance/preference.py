"""How much each term matters: an option of the methods that start from a combination of terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lossproof.terms.balance.named_numbers import NamedNumbers


class Preference:
    """A number of at least 0 for each term; without a choice of the user, 1/K.

    Args:
        given: a mapping from the names of the terms to numbers, or ``None``.
        names: the names of the terms, where they are known already.

    Raises:
        TypeError: ``given`` is no mapping from strings to numbers.
        ValueError: a number is negative, all are 0, or a term has no number.
    """

    def __init__(
        self, given: Mapping[str, float] | None, names: Sequence[str] | None = None
    ) -> None:
        numbers = NamedNumbers("preference", given, default=1.0, minimum=0.0)
        self._given = numbers.given
        if self._given is not None and not any(self._given.values()):
            raise ValueError("`preference` must hold a number above 0, got zeros alone")
        if names is not None:
            numbers.fits(tuple(names))

    def of(self, names: Sequence[str]) -> list[float]:
        """The numbers of some terms, in their order.

        Raises:
            ValueError: a term has no number.
        """
        if self._given is None:
            return [1.0 / len(names)] * len(names)
        missing = [name for name in names if name not in self._given]
        if missing:
            raise ValueError(
                f"`preference` must hold a number for each of the terms {list(names)}, "
                f"got {list(self._given)}"
            )
        return [self._given[name] for name in names]
