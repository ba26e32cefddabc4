"""Every loss of the catalogue stands the battery, the whole check, and what its page claims."""

from __future__ import annotations

import pytest
from benchmarks.catalogue.battery import COMMON, NotApplicable
from benchmarks.catalogue.contract import CONTRACT
from benchmarks.catalogue.properties import PROPERTIES
from benchmarks.catalogue.subject import Subject, of_catalogue

from lossproof.losses.catalogue import catalogue

SUBJECTS = [subject for entry in catalogue() for subject in of_catalogue(entry)]
CHECKS = {**COMMON, **CONTRACT, **PROPERTIES}


@pytest.mark.parametrize("check", CHECKS, ids=lambda name: name.replace(" ", "-"))
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: f"{s.name}[{s.specification}]")
@pytest.mark.filterwarnings("ignore")
def test_battery(subject: Subject, check: str) -> None:
    try:
        wrong = CHECKS[check](subject)
    except NotApplicable:
        return
    assert wrong is None, f"{subject.name}, {check}: {wrong}"
