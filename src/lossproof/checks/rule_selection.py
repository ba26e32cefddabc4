"""Which rules are run: ``--select`` and ``--ignore`` by code, prefix or name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

from lossproof.checks.rules import RULES, Rule
from lossproof.errors import UsageError

EVERYTHING = "LP"
"""The prefix of every code."""
_CODE = re.compile(r"LP\d*", re.IGNORECASE)


def selected(select: Iterable[str] = (), ignore: Iterable[str] = ()) -> tuple[Rule, ...]:
    """The rules to run, in the order of their codes.

    The longer prefix counts: ``select=["LP2"], ignore=["LP204"]`` is all of LP2 but LP204, and
    ``select=["LP204"], ignore=["LP2"]`` is LP204 alone. At the same length, ``ignore`` does.

    Args:
        select: codes (``"LP203"``), prefixes (``"LP2"``) or names (``"graph-cut"``), each of which
            may be several, separated by commas; nothing means all rules.
        ignore: the rules to leave out, written alike.

    Raises:
        UsageError: a word means no rule, or no rule is left.

    Example:
        >>> [rule.code for rule in selected(["LP201", "crash"])]
        ['LP201', 'LP408']
        >>> [rule.code for rule in selected(["LP40"], ignore=["LP401, LP402", "state-leak"])][:1]
        ['LP404']
    """
    wanted, unwanted = _prefixes(select), _prefixes(ignore)
    rules = tuple(
        rule
        for rule in RULES.values()
        if _longest(rule, wanted or (EVERYTHING,)) > _longest(rule, unwanted)
    )
    if not rules:
        raise UsageError("no rule is left to run: `ignore` takes away everything that is selected")
    return rules


def asked_for(select: Iterable[str]) -> frozenset[str]:
    """The codes of the rules that ``select`` names one by one, and not by a prefix.

    Example:
        >>> asked_for(["LP4", "overflow"])
        frozenset({'LP302'})
    """
    return frozenset(prefix for prefix in _prefixes(select) if prefix in RULES)


def _longest(rule: Rule, prefixes: Iterable[str]) -> int:
    """The length of the longest of these prefixes that the rule's code has; 0 for none."""
    return max((len(prefix) for prefix in prefixes if rule.code.startswith(prefix)), default=0)


def listed(words: Any) -> tuple[Any, ...]:
    """The words of `select` or `ignore`, which may be one, or come from an iterator."""
    one = isinstance(words, str) or getattr(words, "ndim", 1) == 0  # a tensor that has no rows
    return (words,) if one or not isinstance(words, Iterable) else tuple(words)


def _prefixes(words: Iterable[str]) -> tuple[str, ...]:
    parts: list[str] = []
    for word in listed(words):
        if not isinstance(word, str):
            raise UsageError(
                "`select` and `ignore` take codes, prefixes or names of rules as text, "
                f"got `{type(word).__name__}`"
            )
        parts += [part.strip() for part in word.split(",") if part.strip()]
    return tuple(prefix_of(part) for part in parts)


def prefix_of(word: str) -> str:
    """The prefix that a code, a prefix or a name stands for.

    Raises:
        UsageError: no rule has this code, prefix or name; the message lists the nearest.
    """
    if _CODE.fullmatch(word) and any(code.startswith(word.upper()) for code in RULES):
        return word.upper()
    for rule in RULES.values():
        if word.lower() == rule.name:
            return rule.code
    names = [name for rule in RULES.values() for name in (rule.code, rule.name)]
    near = difflib.get_close_matches(word.upper(), names, 3, 0.6)
    near += difflib.get_close_matches(word.lower(), names, 3, 0.6)
    hint = f"; did you mean {' or '.join(f'`{name}`' for name in near)}?" if near else ""
    raise UsageError(f"no rule is called `{word}`, and no rule's code begins so{hint}")
