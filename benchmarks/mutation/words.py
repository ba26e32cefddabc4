"""Which names of a cause agree with, and which contradict, what is true of a mutant.

Two things are known of a mutant without asking lossproof: what its wrong gradients are
(:mod:`benchmarks.mutation.truth` has a word where one word says it all), and which slip was made.
A cause is right if it says the one or the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Relation = Mapping[str, Any]

OF_A_FACTOR = {"constant-factor", "missing-1/N", "extra-1/N", "log-base"}

OF_THE_GRADIENT: dict[str, set[str]] = {
    "factor": OF_A_FACTOR,
    "negative": {"sign"},
    "zero": {"zero"},
    "none-returned": {"none-returned"},
    "swapped": {"swapped"},
    "grad-output-ignored": {"grad-output-ignored"},
    "mean-repeated": {"mean-repeated"},
}
"""For each truth about a gradient, the causes that say it."""

_PATH = {"missing-path", "path-sign", "path-weight", "chain-rule"}
_PART = {"missing-term", "extra-term", "missing-factor", "extra-factor"}
_UPSTREAM = {
    "grad-output-ignored", "grad-output-partly-ignored", "grad-output-reduced",
    "grad-output-twice", "grad-output-inverted", "grad-output-nonlinear",
}  # fmt: skip

OF_THE_SLIP: dict[str, set[str]] = {
    "operator-swapped": {"wrong-operator", "path-sign", "grad-output-inverted"},
    "operand-dropped": _PATH | _PART | _UPSTREAM,
    "minus-dropped": {"sign", "path-sign", "wrong-operator"},
    "constant-changed": {"wrong-constant", "path-weight"},
    "exponent-changed": {"wrong-constant", "wrong-operator", *_PART, *_PATH},
    "comparison-flipped": {"wrong-condition", "region"},
    "function-swapped": {"wrong-function", "chain-rule"},
    "function-dropped": {"wrong-function", "chain-rule"},
    "clamp-side-changed": {"wrong-function", "wrong-condition", "region"},
    "branch-changed": {"wrong-condition", "region", "wrong-function"},
    "reduction-swapped": {"wrong-reduction", *OF_A_FACTOR, *_PATH},
    "normaliser-changed": {"wrong-reduction", "wrong-constant", *OF_A_FACTOR, *_PATH},
    "axis-changed": {"wrong-reduction", "broadcast-sum"},
    "slice-changed": {"reordered", "wrong-variable"},
    "transpose-changed": {"transposed", "reordered"},
    "arguments-changed": {"reordered"},
    "variable-replaced": {"wrong-variable"},
    "grad-output-dropped": {"grad-output-ignored", "grad-output-partly-ignored"},
    "grad-output-reduced": {"grad-output-reduced"},
    "return-none": {"none-returned"},
    "return-zeros": {"zero"},
    "return-swapped": {"swapped", "sign"},
    "sign-flipped": {"sign"},
    "normaliser-added": {"extra-1/N"},
    "mean-repeated": {"mean-repeated"},
    "statement-dropped": {*_PATH, *_PART, "wrong-variable", "wrong-function", "wrong-reduction"},
    "grad-output-ignored": {"grad-output-ignored"},
    "detached": set(),
}
"""For each kind of slip, the causes that say it."""

_DEFINITE = set().union(*OF_THE_GRADIENT.values())


def said_by(relations: Iterable[Relation]) -> set[str]:
    """The causes that say something true of one wrong gradient."""
    return set().union(*map(_words, relations))


def _words(relation: Relation) -> set[str]:
    if relation["word"] == "factor" and relation["factor"] == -1:
        return OF_THE_GRADIENT["negative"]
    return OF_THE_GRADIENT[relation["word"]]


def agrees(kind: str, relations: Iterable[Iterable[Relation]], causes: Iterable[str]) -> bool:
    """Whether one of the causes is true of the gradients, or of the slip.

    ``relations`` holds, for each wrong gradient, all that is true of it.
    """
    right = OF_THE_SLIP[kind].union(*map(said_by, relations))
    return bool(right & set(causes))


def says_the_simplest(
    relations: Sequence[Iterable[Relation]], causes: Iterable[str]
) -> bool | None:
    """Whether a cause says what is true of every wrong gradient; None if nothing is."""
    sets = [said_by(relation) for relation in relations]
    common = set.intersection(*sets) if sets else set()
    return bool(common & set(causes)) if common else None


def contradicted(relations: Iterable[Iterable[Relation]], causes: Iterable[str]) -> list[str]:
    """The causes that say something definite which is true of none of the wrong gradients."""
    true: set[str] = set().union(*map(said_by, relations))
    return sorted((set(causes) & _DEFINITE) - true)
