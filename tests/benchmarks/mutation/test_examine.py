from typing import Any

from benchmarks.mutation.examine import judge
from benchmarks.mutation.operators import KINDS

from benchmarks.mutation import tables, words


def finding(code: str = "LP202", cause: str | None = None, line: int = 9) -> dict[str, Any]:
    return {
        "code": code, "severity": "error", "cause": cause, "message": "", "line": line,
        "lines": [line], "has_help": False,
    }  # fmt: skip


def record(*findings: dict[str, Any], word: str | None = "factor", **more: Any) -> dict[str, Any]:
    relations = [] if word is None else [{"word": word, "factor": 2.0}]
    return {
        "label": "real", "subject": "mse", "split": "design", "kind": "sign-flipped", "line": 9,
        "visible": True, "relations": [relations], "findings": list(findings),
        "gradcheck_slow": True, "gradcheck_fast": False, **more,
    }  # fmt: skip


def test_a_finding_that_the_right_backward_has_too_convicts_nothing() -> None:
    assert judge(record(finding("LP209")), {"LP209"})["found"] is False
    assert judge(record(finding("LP202")), {"LP209"})["found"] is True


def test_a_finding_on_something_else_convicts_nothing() -> None:
    assert judge(record(finding("LP101"), finding("LP404")), set())["found"] is False


def test_an_unnamed_cause_is_no_name() -> None:
    assert judge(record(finding(cause="unnamed")), set())["named"] is False
    assert judge(record(finding(cause=None)), set())["named"] is False
    assert judge(record(finding(cause="missing-path")), set())["named"] is True


def test_a_rule_of_the_gradient_names_the_cause_itself() -> None:
    numerics = finding("LP301", cause="divide")
    assert judge(record(numerics), set())["causes"] == ["divide"]
    assert judge(record(numerics, finding("LP202")), set())["causes"] == []


def test_the_mutated_line_counts_wherever_the_report_shows_it() -> None:
    shown = {**finding(line=3), "lines": [3, 9]}
    assert judge(record(shown), set())["line_exact"] is True
    assert judge(record(finding(line=3)), set())["line_exact"] is False
    assert judge(record(finding(line=3)), set())["line_given"] is True


def test_a_cause_is_right_if_it_says_what_the_gradient_is() -> None:
    said = judge(record(finding(cause="constant-factor"), kind="operand-dropped"), set())
    assert (said["agrees"], said["simplest"], said["contradicted"]) == (True, True, [])
    wrong = judge(record(finding(cause="none-returned"), kind="operand-dropped"), set())
    assert (wrong["agrees"], wrong["simplest"]) == (False, False)
    assert wrong["contradicted"] == ["none-returned"]


def test_a_cause_is_right_if_it_says_which_slip_was_made() -> None:
    said = judge(record(finding(cause="wrong-constant"), kind="constant-changed"), set())
    assert (said["agrees"], said["simplest"], said["contradicted"]) == (True, False, [])
    said = judge(record(finding(cause="missing-path"), kind="axis-changed", word=None), set())
    assert (said["agrees"], said["simplest"], said["contradicted"]) == (False, None, [])


def test_only_a_factor_of_minus_one_is_a_sign() -> None:
    def causes_of(factor: float) -> set[str]:
        return words.said_by([{"word": "factor", "factor": factor}])

    assert causes_of(-1.0) == {"sign"}
    assert "sign" not in causes_of(-2.0)
    assert causes_of(0.1) == words.OF_A_FACTOR


def test_every_kind_of_slip_has_its_words() -> None:
    assert set(words.OF_THE_SLIP) == set(KINDS)


def test_the_page_shows_the_counts() -> None:
    real = record(finding(cause="missing-path"))
    missed = record(kind="return-none")
    quiet = record(label="equivalent", kind="detached")
    records = [
        {**real, **judge(real, set())},
        {**missed, **judge(missed, set())},
        quiet,
        {**quiet, "label": "unchanged", "findings": [finding()]},
        {**quiet, "label": "unchanged", "findings": [finding("LP101")]},
        {**quiet, "label": "second-order", "findings": [finding("LP205")]},
    ]
    figures = tables.figures(
        records, {"real": 2, "equivalent": 1, "special-point": 0, "loud": 0, "second-order": 1}
    )
    assert figures["total"]["mutants"] == 2
    assert figures["total"]["found"] == 1
    assert figures["total"]["named"] == 1
    assert figures["by_kind"]["return-none"]["found"] == 0
    assert figures["false_alarms"]["unchanged"]["gradient"] == 1
    assert figures["false_alarms"]["unchanged"]["other"] == 0
    assert figures["causes_by_kind"]["sign-flipped"] == {"missing-path": 1}
    assert figures["causes_by_kind"]["return-none"] == {"not found": 1}
    assert figures["besides"]["second-order"]["codes"] == {"LP205": 1}
    machine = dict.fromkeys(
        [
            "date",
            "processor",
            "cores",
            "threads",
            "system",
            "python",
            "torch",
            "lossproof",
            "source",
        ]
    )
    page = tables.page({"figures": figures, "backwards": 1, "per_subject": 21, "machine": machine})
    assert any("| return-none | 1 | 0/1 (0.0 %)" in block for block in page)
