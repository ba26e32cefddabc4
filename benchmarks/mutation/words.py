"""Which names of a cause agree with, and which contradict, what is true of a wrong gradient.

The truth (:mod:`benchmarks.mutation.truth`) has a word only where one word says it all; a
check may use another word for the same thing. A cause outside this table, such as a path of the
forward that is missing, is neither confirmed nor contradicted here.
"""

from __future__ import annotations

from collections.abc import Iterable

SAYS: dict[str, set[str]] = {
    "factor": {"factor", "constant-factor", "sign", "missing-normalisation"},
    "zero": {"zero", "zero-gradient", "none-returned"},
    "none-returned": {"none-returned"},
    "swapped": {"swapped", "swapped-arguments"},
    "grad-output-ignored": {"grad-output-ignored"},
    "mean-repeated": {"mean-repeated"},
}
"""For each truth, the causes that say it."""


def agrees(truth: str, causes: Iterable[str]) -> bool:
    """Whether one of the causes says what is true."""
    return bool(SAYS[truth] & set(causes))


def contradicted(truths: Iterable[str | None], causes: Iterable[str]) -> list[str]:
    """The causes that say something definite which is true of none of the wrong gradients."""
    said = set().union(*(SAYS[truth] for truth in truths if truth is not None))
    definite = set().union(*SAYS.values())
    return sorted((set(causes) & definite) - said)
