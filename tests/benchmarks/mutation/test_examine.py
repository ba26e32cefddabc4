from typing import Any

from benchmarks.mutation.examine import judge

from benchmarks.mutation import tables, words


def finding(code: str = "LP202", cause: str | None = None, line: int = 9) -> dict[str, Any]:
    return {
        "code": code, "severity": "error", "cause": cause, "message": "", "line": line,
        "lines": [line], "has_help": False,
    }  # fmt: skip


def record(*findings: dict[str, Any], word: str | None = "factor", **more: Any) -> dict[str, Any]:
    relation = None if word is None else {"word": word, "factor": None}
    return {
        "label": "real", "subject": "mse", "split": "design", "kind": "sign-flipped", "line": 9,
        "relations": [relation], "findings": list(findings),
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


def test_the_mutated_line_counts_wherever_the_report_shows_it() -> None:
    shown = {**finding(line=3), "lines": [3, 9]}
    assert judge(record(shown), set())["line_exact"] is True
    assert judge(record(finding(line=3)), set())["line_exact"] is False
    assert judge(record(finding(line=3)), set())["line_given"] is True


def test_a_cause_agrees_or_contradicts() -> None:
    factor = next(iter(words.SAYS["factor"]))
    said = judge(record(finding(cause=factor), word="factor"), set())
    assert (said["agrees"], said["contradicted"]) == (True, [])
    wrong = judge(record(finding(cause="none-returned"), word="factor"), set())
    assert (wrong["agrees"], wrong["contradicted"]) == (False, ["none-returned"])
    open_question = judge(record(finding(cause="missing-path"), word=None), set())
    assert (open_question["agrees"], open_question["contradicted"]) == (None, [])


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
    figures = tables.figures(records, {"real": 2, "equivalent": 1, "loud": 0, "second-order": 1})
    assert figures["total"]["mutants"] == 2
    assert figures["total"]["found"] == 1
    assert figures["total"]["named"] == 1
    assert figures["by_kind"]["return-none"]["found"] == 0
    assert figures["false_alarms"]["unchanged"]["gradient"] == 1
    assert figures["false_alarms"]["unchanged"]["other"] == 0
    assert figures["causes_by_kind"]["sign-flipped"] == {"missing-path": 1}
    assert figures["causes_by_kind"]["return-none"] == {"not found": 1}
    assert figures["second_order"]["codes"] == {"LP205": 1}
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
