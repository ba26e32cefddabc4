"""What a loss should take as a constant, told by the names that the field gives it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

_FIXED = frozenset(
    "old teacher tea ema momentum behavior behaviour bootstrap pseudo frozen".split()
)
_FIXED_HEADS = frozenset("advantage advantages adv advs returns reward rewards".split())
_NETWORKS = frozenset("net network model critic actor policy encoder q value values".split())
_NEXT = frozenset("q v value values qs vs".split())
_VALUES = frozenset("v vs value values baseline baselines critic vf vpred".split())
_LOG_PROBS = frozenset(
    "logprob logprobs logp logps logpi logits logit policy actor pi ratio ratios lp".split()
)

ADVANTAGE = re.compile(r"^(adv|advs|advantages?|\w+_adv(antages?)?|gaes?|td_errors?)$", re.I)
"""Local names of what weighs a log-probability."""
TARGET = re.compile(
    r"^(td_?targets?|q_?targets?|target_?qs?|target_?values?|v_?targets?|bellman_?targets?|"
    r"expected_(q|v|values?|state_\w*values?|q_values?)|bootstrap\w*|pseudo_?(labels?|targets?)?|"
    r"soft_?(targets?|labels?)|teacher_\w+|target_dist(ribution)?)$",
    re.I,
)
"""Local names of targets that are computed from predictions."""
PLAIN_TARGET = re.compile(r"^(targets?|y)$", re.I)
BOOTSTRAP = re.compile(r"reward|next|gamma|discount|^r$", re.I)
"""With one of these a plain `target` is one of temporal differences."""


def words(name: str) -> tuple[str, ...]:
    """The words of a name, in lower case: ``targetNet.weight`` has three."""
    return tuple(word.lower() for word in _WORDS.findall(name))


def is_constant(name: str, others: Sequence[str] = ()) -> bool:
    """Whether a name says that no gradient belongs there.

    Args:
        name: of an input, or the path of a parameter.
        others: the other names; beside an ``x_s`` an ``x_t`` is the teacher's.

    Example:
        >>> [is_constant(name) for name in ("old_log_probs", "teacher.weight", "target")]
        [True, True, False]
        >>> is_constant("logits_t", ["logits_s"])
        True
    """
    parts = words(name)
    if not _FIXED.isdisjoint(parts) or (parts and parts[-1] in _FIXED_HEADS):
        return True
    pairs = set(itertools.pairwise(parts))
    if any(one == "target" and other in _NETWORKS for one, other in pairs):
        return True
    if any(one == "next" and other in _NEXT | {"state"} for one, other in pairs):
        return True
    if any(one in _NEXT and other == "next" for one, other in pairs):
        return True
    if ("ref", "log") in pairs or ("reference", "log") in pairs or ("ref", "logps") in pairs:
        return True
    twin = re.sub(r"_t$", "_s", re.sub(r"_T$", "_S", name))
    return twin != name and twin in others


def is_value(name: str) -> bool:
    """Whether a name is that of a critic's estimate."""
    return not _VALUES.isdisjoint(words(name)) and not is_log_prob(name)


def is_log_prob(name: str) -> bool:
    """Whether a name is that of a policy's log-probability, or of what it is made from."""
    parts = words(name)
    joined = {one + other for one, other in itertools.pairwise(parts)}
    return not _LOG_PROBS.isdisjoint({*parts, *joined})


def is_temperature(name: str) -> bool:
    """Whether a name is that of the entropy's coefficient in soft actor-critic."""
    parts = words(name)
    return "".join(parts) in ("logalpha", "logtemperature", "logtemp", "logent", "logentcoef")
