"""What the tests of the formats share: reports with text from anywhere."""

import pytest
from hypothesis import strategies as st

from lossproof.checks.report import Finding, Location, Outcome, Report, Severity, Status
from lossproof.checks.rules import RULES

CODES = sorted(RULES)
WORDS = st.text(max_size=30)
SOME = st.none() | WORDS
LOCATIONS = st.builds(
    Location,
    file=st.sampled_from(
        ["losses.py", "/elsewhere/a b.py", "päckage/ü,:%.py", "<stdin>", "x<&>.py"]
    ),
    line=st.integers(1, 5000),
    column=st.none() | st.integers(1, 200),
    end_line=st.none(),
    end_column=st.none() | st.integers(200, 300),
    function=SOME,
    source=SOME,
)
NUMBERS = st.none() | st.booleans() | st.integers() | st.floats() | WORDS


def of_a_rule(code: str) -> dict:
    return {"code": st.just(code), "name": st.just(RULES[code].name)}


FINDINGS = st.sampled_from(CODES).flatmap(
    lambda code: st.builds(
        Finding,
        **of_a_rule(code),
        severity=st.sampled_from(Severity),
        message=WORDS,
        location=st.none() | LOCATIONS,
        cause=SOME,
        evidence=st.dictionaries(WORDS, NUMBERS, max_size=3),
        notes=st.lists(WORDS, max_size=2).map(tuple),
        help=SOME,
        related=st.lists(st.tuples(WORDS, LOCATIONS), max_size=2).map(tuple),
    )
)
OUTCOMES = st.sampled_from(CODES).flatmap(
    lambda code: st.builds(Outcome, **of_a_rule(code), status=st.sampled_from(Status), detail=WORDS)
)
REPORTS = st.builds(
    Report,
    subject=WORDS,
    location=st.none() | LOCATIONS,
    inputs=st.lists(WORDS, max_size=2).map(tuple),
    findings=st.lists(FINDINGS, max_size=4).map(tuple),
    outcomes=st.lists(OUTCOMES, max_size=4).map(tuple),
    seed=st.integers(0, 9),
    seconds=st.floats(0, 100),
    reproduce=SOME,
)


@pytest.fixture(scope="session")
def any_reports() -> st.SearchStrategy[list[Report]]:
    """Reports with text, numbers and places of any kind."""
    return st.lists(REPORTS, max_size=3)


@pytest.fixture
def dice_report(tmp_path, monkeypatch) -> Report:
    """A report as a user sees one: an error, a warning and a matter of speed, in one file."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "my losses.py"
    file.write_text("def dice(p, t):\n    denom = p.sum() + t.sum()\n    return p / denom\n")
    place = Location(str(file), 2, 5, 2, 30, "dice", "    denom = p.sum() + t.sum()")
    return Report(
        subject="dice",
        location=Location(str(file), 1),
        inputs=("p: float32[4]", "t: float32[4]"),
        findings=(
            Finding(
                "LP206", "gradient-path-missing", Severity.ERROR,
                "`backward` treats `denom` as a constant", place, "missing-path",
                {"relative_error": 0.3, "worst": float("inf")}, ("160 of 160 differ",),
                "add `+ num / denom ** 2`\nto the gradient",
                (("backward", Location(str(file), 3, 5)),),
            ),
            Finding("LP404", "nondeterministic", Severity.WARNING, "100 % random: two values"),
            Finding("LP501", "python-loop", Severity.PERFORMANCE, "loop", Location("other.py", 7)),
        ),
        outcomes=(
            Outcome("LP101", "non-scalar", Status.PROVED, "one element"),
            Outcome("LP103", "differs-from-reference", Status.NOT_APPLICABLE, "no reference"),
            Outcome("LP206", "gradient-path-missing", Status.PROVED, "another call"),
        ),
        seed=7,
        seconds=0.25,
        reproduce="lossproof check 'my losses.py:dice' --seed 7",
    )  # fmt: skip
