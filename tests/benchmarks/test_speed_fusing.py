"""The studies of fused losses at tiny sizes, and what their page says was reached."""

import pytest
import torch
from benchmarks.harness.study import Case, Method
from benchmarks.speed import fusing

FORMULA_OF = {
    "MSE": "our MSE",
    "Huber": "our Huber",
    "focal": "our focal",
    "quantile": "our quantile",
}


@pytest.mark.parametrize("name", [*fusing.FORMULAS, *fusing.CATALOGUE])
def test_every_loss_has_a_value_and_a_gradient(name):
    loss, (input, *others) = fusing.drawn(name, 30_000)
    input.requires_grad_()
    loss(input, *others).backward()
    assert input.grad.isfinite().all()
    assert input.grad.any()


@pytest.mark.parametrize("name", FORMULA_OF)
def test_a_formula_is_the_loss_of_the_catalogue(name):
    formula, given = fusing.drawn(name, 3000)
    torch.testing.assert_close(formula(*given), fusing.FORMULAS[FORMULA_OF[name]](*given))


def test_there_are_twenty():
    assert len(fusing.CATALOGUE) == 20


def test_a_step_forgets_the_gradient_and_tells_the_loss():
    case = Case("MSE", {"loss": "MSE", "items": 100})
    step = fusing.make(case, Method(fusing.EAGER))
    step.take()
    step.take()
    assert set(step.facts()) == {"loss"}
    fusing.make(case, Method(fusing.FLOOR))()


def study(name, ours, floor):
    ratio = {"step": {"median": ours}}
    methods = {
        fusing.FUSED: {"ratio": ratio, "each_round_ms": [2.0, 3.0, 4.0]},
        fusing.FLOOR: {"each_round_ms": floor},
    }
    return {"study": name, "cases": [{"case": "MSE, a million", "methods": methods}]}


def test_aims_are_of_the_ratio_and_of_the_floor():
    rows = list(fusing.aims(study("speed_fuse_kept", 0.65, [2.0, 2.0, 2.0])))
    assert [row[1:] for row in rows] == [("0.7", "0.650", "yes"), ("1.2", "1.50", "no")]
    (row, _) = fusing.aims(study("speed_fuse_catalogue", 1.04, [9.0, 9.0, 9.0]))
    assert row[1:] == ("1", "1.04", "no")
    failed = {"study": "x", "cases": [{"case": "MSE", "methods": {fusing.FUSED: {"failed": "?"}}}]}
    assert not list(fusing.aims(failed))
