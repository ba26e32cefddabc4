"""Which balancers there are, and what each costs."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.point_balancer import PointBalancer
from lossproof.terms.gradients import Want

Kind = Literal["values", "statistics", "gramian", "gradients", "points", "adapter"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""What the weights come from, the cheapest first; ``points`` are the residuals of single points,
and an ``adapter`` takes a method of another library."""
NAMES = ("data", "pde", "bc")
OPTIONS: Mapping[str, Any] = {
    "window": 2,
    "schedules": dict.fromkeys(NAMES, 1.0),
    "causal": "pde",
    "points": {"pde": 8},
}
"""Examples of the options that have no default."""
_SOURCE = re.compile(r"^Source:\s+(.*)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class BalancerEntry:
    """One balancer.

    Attributes:
        balancer: the class.
    """

    balancer: type[Balancer]

    @property
    def name(self) -> str:
        return self.balancer.__name__

    def example(self) -> Balancer:
        """A balancer of this class for the terms of :data:`NAMES`, with its default options."""
        wanted = inspect.signature(self.balancer).parameters.values()
        required = {p.name for p in wanted if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
        given = {name: option for name, option in OPTIONS.items() if name in required}
        if "names" in inspect.signature(self.balancer).parameters:
            given["names"] = NAMES
        return self.balancer(**given)

    @property
    def needs(self) -> tuple[Want, ...]:
        """What must be known of the gradients, with the default options."""
        return () if self._adapts else self.balancer.needs

    @property
    def _adapts(self) -> bool:
        """Whether what it needs depends on the method that it is given."""
        return isinstance(vars(self.balancer).get("needs"), property)

    @property
    def kind(self) -> Kind:
        """What the weights come from."""
        if issubclass(self.balancer, PointBalancer):
            return "points"
        if self._adapts:
            return "adapter"
        if "gradients" in self.needs:
            return "gradients"
        if {"gramian", "cosine"} & set(self.needs):
            return "gramian"
        if self.needs:
            return "statistics"
        return "values" if self.balancer.scalars is Balancer.scalars else "points"

    @property
    def doc(self) -> str:
        """The docstring."""
        return inspect.getdoc(self.balancer) or ""

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return self.doc.partition("\n")[0]

    @property
    def source(self) -> str:
        """Where it was published: the part of the docstring that says so."""
        found = _SOURCE.search(self.doc)
        return " ".join(textwrap.dedent(found[1]).split()) if found else ""


def balancers() -> tuple[BalancerEntry, ...]:
    """All balancers, in the order of :data:`KINDS` and by name; bases of others are none.

    Example:
        >>> from lossproof.terms import balancers
        >>> [entry.name for entry in balancers() if entry.needs == ("max_abs", "mean_abs")]
        ['LearningRateAnnealing']
    """
    package = importlib.import_module("lossproof.terms.balance")
    found = [
        member
        for module in pkgutil.iter_modules(package.__path__)
        for member in _members(f"{package.__name__}.{module.name}")
    ]
    bases = {base for member in found for base in member.__mro__[1:]}
    entries = [BalancerEntry(member) for member in found if member not in bases]
    return tuple(sorted(entries, key=lambda entry: (KINDS.index(entry.kind), entry.name.lower())))


def _members(module: str) -> list[type[Balancer]]:
    """The public balancers that a module defines."""
    return [
        member
        for name, member in vars(importlib.import_module(module)).items()
        if inspect.isclass(member)
        and issubclass(member, Balancer)
        and member.__module__ == module
        and member is not Balancer
        and not name.startswith("_")
    ]
