"""JSON for programs: standard, complete, and readable back."""

import json
import math

from lossproof.checks.report import Finding, Location, Outcome, Report, Severity, Status
from lossproof.show.json import render


def report(evidence):
    place = Location("损失.py", 3, 5, 3, 9, "f", "    x")
    fault = Finding(
        "LP301", "nan-domain", Severity.WARNING, "`nan`", place, "log", evidence,
        ("one", "two"), "mend", (("here", place),),
    )  # fmt: skip
    outcome = Outcome("LP101", "non-scalar", Status.PROVED, "one element")
    return Report("f", place, ("x: float32[3]",), (fault,), (outcome,), 7, 0.25, ("a",), "again")


def test_a_report_can_be_read_back():
    original = report({"error": 1e-7, "count": 3, "sign": True, "kind": "log", "none": None})
    data = json.loads(render(original))
    assert data["ok"] is False
    assert Report.from_dict(data) == original


def test_infinity_and_nan_are_standard_json():
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    text = render(report({"high": math.inf, "low": -math.inf, "none": math.nan}))
    evidence = json.loads(text, parse_constant=refuse)["findings"][0]["evidence"]
    assert evidence == {"high": "inf", "low": "-inf", "none": "nan"}
    assert float(evidence["low"]) == -math.inf
