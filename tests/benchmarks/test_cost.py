from typing import Any

import torch
from benchmarks.cost import PASS, STUDY, drawn, make, operations, page, seventeen
from benchmarks.harness.study import Case, Method, Step

OPERATIONS = 17
MACHINE = (
    "date", "processor", "cores", "threads", "system", "python", "torch", "lossproof", "source",
)  # fmt: skip


def test_the_loss_has_as_many_operations_as_the_page_says() -> None:
    assert operations(seventeen) == OPERATIONS


def test_its_gradient_is_finite_where_it_is_measured() -> None:
    given = drawn((32, 10), torch.float32)
    value = seventeen(*given)
    (gradient,) = torch.autograd.grad(value, given[0])
    assert given[0].numel() == 320
    assert bool(torch.isfinite(gradient).all())


def test_what_is_measured_can_be_made() -> None:
    small = STUDY.cases[0]
    (check,) = STUDY.of(small)
    assert Step.of(make(small, check)).facts() == {"operations": OPERATIONS}
    large = Case("small enough", {"shape": (32, 10)})
    Step.of(make(large, Method(PASS))).take()


def test_the_page_shows_median_and_spread() -> None:
    def figures(number: float) -> dict[str, Any]:
        found = {"median": number, "quartiles": [number / 2, 2 * number]}
        return {
            "processor_ms": {"step": found}, "wall_ms": {"step": found}, "first_call_s": 1.0,
            "ratio": {"step": found}, "facts": {"operations": OPERATIONS},
        }  # fmt: skip

    data = {
        "machine": dict.fromkeys(MACHINE), "versions": {}, "absent": [], "study": "cost",
        "cases": [
            {"case": case.name, "methods": {m.name: figures(200.0) for m in STUDY.of(case)}}
            for case in STUDY.cases
        ],
    }  # fmt: skip
    text = "\n\n".join(page(data))
    assert "| `lossproof --help`, s | 0.200 (0.100 - 0.400) | 0.3 |" in text
    assert "passes | 200 (100 - 400) | 60 |" in text
    assert "on a loss of 17 operations" in text
