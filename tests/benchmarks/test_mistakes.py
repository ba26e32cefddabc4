"""The cases are what they say: wrong losses differ from right ones, and right ones are usable."""

import pytest
import torch
from benchmarks.mistakes.run import figures, load

CASES = load()


@pytest.mark.parametrize("name", CASES)
def test_the_right_loss_gives_a_finite_value_and_gradient(name):
    _, right, inputs = CASES[name].make()
    given = inputs()
    loss = right.apply if isinstance(right, type) else right
    value = loss(*given)
    leaves = [v for v in given if isinstance(v, torch.Tensor) and v.requires_grad]
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    assert value.numel() == 1
    assert torch.isfinite(value)
    assert all(torch.isfinite(g).all() for g in gradients if g is not None)


@pytest.mark.parametrize("name", CASES)
def test_a_case_names_the_rules_that_fit(name):
    from lossproof.checks.rules import RULES

    assert set(CASES[name].rules) <= set(RULES)
    assert CASES[name].what.endswith(".")


def test_a_finding_of_another_rule_does_not_name_the_mistake():
    name = "masked_mse"
    findings = [{"code": "LP301", "severity": "error", "line": 3}]
    record = {"name": name, "findings": findings, "gradcheck": False, "error": None}
    counted = figures([{**record, "mode": "alone"}, {**record, "mode": "right"}])
    assert counted["alone"]["found"] == 1
    assert counted["alone"]["named"] == 0
    assert counted["alone"]["misnamed"] == [name]
    assert counted["right"]["with_false_alarm"] == 1
