"""No wrong call is broadcast, returns NaN, or ends in an error that says nothing."""

from __future__ import annotations

import pytest
from benchmarks.catalogue.subject import Subject, of_catalogue
from benchmarks.catalogue.wrong_calls import verdict, wrong_calls

from lossproof.losses.catalogue import catalogue

SUBJECTS = [of_catalogue(entry)[0] for entry in catalogue()]


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
@pytest.mark.filterwarnings("ignore")
def test_wrong_calls(subject: Subject) -> None:
    wrong = [said for call in wrong_calls(subject) if (said := verdict(subject, call)) is not None]
    assert not wrong, "\n".join([f"{subject.name}:", *wrong])


def test_there_are_thousands() -> None:
    assert sum(1 for subject in SUBJECTS for _ in wrong_calls(subject)) >= 2000
