"""The registry of known losses: what they are called, what they take, and their terms.

A loss is a sum of terms with coefficients, up to one factor (its reduction, its weight in a larger
loss) and one constant. Its definition is therefore kept as terms with their right coefficients:
a loss that is made of the same terms with others says by itself which of them is wrong.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

Tensor = torch.Tensor


@dataclass(frozen=True)
class Term:
    """One term of a loss.

    Args:
        value: its values, which are summed.
        right: its coefficient in the loss, up to one factor for the whole group. ``None`` may be
            any positive number (a class weight); 0 is what people put in by mistake.
        group: terms of different groups may have different factors (a penalty and its weight).
    """

    value: Tensor
    right: float | None = 1.0
    group: str = ""


Terms = Mapping[str, Term]
Definition = Callable[..., Terms]
"""Takes the inputs by role and the options by keyword; gives the terms by name, or none where the
inputs are not of its kind."""
Usual = Any
"""An option: its default is a tuple of the usual values, and a call gives one of them."""


@dataclass(frozen=True)
class Reading:
    """One way of writing a loss down.

    Args:
        terms: takes the inputs by role, in float64, and the options as keyword-only arguments
            whose defaults are tuples of the values that are usual; gives the terms by name.
        wrong: what is wrong with it, where this is not the loss but a known slip; it completes
            the sentence "the loss ...".
        mend: the right line.
        unless: a pattern on the names in the loss (its own and its arguments'); where it is found,
            the slip is meant and nothing is said.
        needs: a pattern on each role's argument name; without these names it is no slip.
    """

    terms: Definition
    wrong: str | None = None
    mend: str | None = None
    unless: str | None = None
    needs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Slot:
    """A tensor argument of the loss under check."""

    position: int
    name: str
    value: Tensor
    differentiable: bool = False


Binding = Mapping[str, Slot]
Roles = Callable[[tuple[Slot, ...]], Iterable[Binding]]


@dataclass(frozen=True)
class KnownLoss:
    """A loss of the literature.

    Args:
        key: a fixed kebab-case word.
        name: what it is called in a message.
        source: the paper and the year.
        called: a pattern on the words of the name of a loss that claims to be this one (lower
            case, separated by single spaces).
        roles: which arguments can be which input, likeliest first.
        readings: the right ways of writing it, then the known slips.
        unlike: a pattern on those words; where it is found, the name claims nothing.
        named: a pattern on each role's argument name. Where all of them fit, the arguments claim
            to be this loss as well as a name would.
        calls: names of torch functions; a loss that calls one claims to be this known loss.
        everyday: tried also where no name claims it, to prove that a loss is right.
        ordered: whether the loss with ``input`` and ``target`` exchanged is a mistake.
        excuse: whether coefficients that are not the right ones are, with the constant beside
            them, another member of the family (a prior of another width).
        constant: which constant may stand beside the terms: any (``"free"``), none, or, for an
            overlap, what makes it 0 for a perfect prediction (``"overlap"``).
        mend: the right formula in one line.
        balance: from the factors of the groups, by name, and the inputs: what is wrong with them.
    """

    key: str
    name: str
    source: str
    called: str
    roles: Roles
    readings: tuple[Reading, ...]
    unlike: str | None = None
    named: Mapping[str, str] | None = None
    calls: tuple[str, ...] = ()
    everyday: bool = False
    ordered: bool = True
    excuse: Callable[[Mapping[str, float], float, Terms], bool] | None = None
    constant: Literal["free", "none", "overlap"] = "free"
    mend: str | None = None
    balance: Callable[[Mapping[str, float], Binding], str | None] | None = None

    def claimed_by(self, words: str) -> bool:
        """Whether a name claims to be this loss."""
        if self.unlike is not None and re.search(self.unlike, words):
            return False
        return re.search(self.called, words) is not None

    def claimed_by_arguments(self, binding: Binding) -> bool:
        """Whether the names of the arguments claim it."""
        if self.named is None:
            return False
        return all(
            re.search(pattern, binding[role].name, re.I) is not None
            for role, pattern in self.named.items()
        )


_REGISTERED: dict[str, KnownLoss] = {}


def register(*losses: KnownLoss) -> None:
    """Add known losses; one with the same key is replaced.

    Example:
        >>> from lossproof.checks.likeness.known import KnownLoss, Reading, Term, register
        >>> from lossproof.checks.likeness.binding import pair
        >>> def cube(input, target):
        ...     return {"|error|^3": Term((input - target).abs() ** 3)}
        >>> register(KnownLoss("cubic", "the cubic loss", "nobody, 2000", r"cubic",
        ...                    pair, (Reading(cube),)))
        >>> unregister("cubic")
    """
    for loss in losses:
        _REGISTERED[loss.key] = loss


def unregister(key: str) -> None:
    """Take a known loss out again."""
    known_losses()
    _REGISTERED.pop(key, None)


@functools.lru_cache(maxsize=1)
def _load_families() -> None:
    from lossproof.checks.likeness import families

    for module in pkgutil.iter_modules(families.__path__):
        found: Any = importlib.import_module(f"{families.__name__}.{module.name}")
        for loss in found.LOSSES:
            _REGISTERED.setdefault(loss.key, loss)


def known_losses() -> tuple[KnownLoss, ...]:
    """All known losses."""
    _load_families()
    return tuple(_REGISTERED.values())
