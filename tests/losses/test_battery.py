"""Every loss of the catalogue stands the battery, the whole check, and what its page claims.

To compile a loss takes longer than all else together: each is compiled in one of three ways here,
and in all of them with ``CATALOGUE=all``, as before a release.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from benchmarks.catalogue.battery import COMMON, NotApplicable
from benchmarks.catalogue.contract import CONTRACT
from benchmarks.catalogue.properties import PROPERTIES
from benchmarks.catalogue.subject import Subject, of_catalogue

from lossproof.losses.catalogue import catalogue

SUBJECTS = [subject for entry in catalogue() for subject in of_catalogue(entry)]
CHECKS = {**COMMON, **CONTRACT, **PROPERTIES}
COMPILING = ("fullgraph", "dynamic shapes", "export")


def cases() -> Iterator[tuple[Subject, str]]:
    """Which loss is asked what."""
    for place, subject in enumerate(SUBJECTS):
        for check in CHECKS:
            in_turn = check not in COMPILING or check == COMPILING[place % len(COMPILING)]
            if in_turn or os.environ.get("CATALOGUE") == "all":
                yield subject, check


def named(subject: Subject, check: str) -> str:
    """What pytest calls a case."""
    return f"{subject.name}[{subject.specification}]-{check.replace(' ', '-')}"


def test_the_ways_to_compile_are_checks() -> None:
    assert set(COMPILING) <= CHECKS.keys()


CASES = list(cases())


@pytest.mark.parametrize(("subject", "check"), CASES, ids=[named(*case) for case in CASES])
@pytest.mark.filterwarnings("ignore")
def test_battery(subject: Subject, check: str) -> None:
    try:
        wrong = CHECKS[check](subject)
    except NotApplicable:
        return
    assert wrong is None, f"{subject.name}, {check}: {wrong}"
