import pytest
import torch
from benchmarks.false_alarms import PLANTED, figures, planted
from benchmarks.torch_losses import DEFECTS, LOSSES, arguments


def test_there_are_24_losses() -> None:
    assert len(LOSSES) == 24


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_error_spoils_the_gradient_and_nothing_else(name: str, fault: str) -> None:
    loss, given = arguments(LOSSES[name], 1)
    value = loss(*given)
    (gradient,) = torch.autograd.grad(value, given[0])
    spoiled_value = planted(loss, PLANTED[fault]).apply(*given)
    (spoiled,) = torch.autograd.grad(spoiled_value, given[0])
    assert torch.equal(spoiled_value, value)
    difference = float((spoiled - gradient).norm() / gradient.norm())
    if fault == "scaled by 1 + 1e-4":
        assert difference == pytest.approx(1e-4, rel=1e-6)
    elif fault == "sign flipped":
        assert difference == pytest.approx(2)
    else:
        assert int((spoiled != gradient).sum()) == 1
        assert difference == pytest.approx(float(gradient.abs().max() / gradient.norm()))


@pytest.mark.parametrize("name", DEFECTS)
def test_a_known_defect_is_shown(name: str) -> None:
    assert DEFECTS[name].shows()


def test_a_defect_is_no_false_alarm_and_other_findings_are() -> None:
    def answer(loss: str, code: str, fault: str = "") -> dict[str, object]:
        return {
            "loss": loss, "planted": fault, "large": False, "gradcheck_fast": False, "error": None,
            "unproved": [], "findings": [{"code": code, "cause": None, "message": ""}],
        }  # fmt: skip

    counted = figures(
        [
            answer("soft_margin", "LP302"),
            answer("mse", "LP202"),
            answer("mse", "LP202", "sign flipped"),
            answer("l1", "LP302", "sign flipped"),
        ]
    )
    right = counted["right"]["small"]
    assert right["false_alarms"] == {"mse LP202": 1}
    assert right["real_defects"] == {"soft_margin LP302": 1}
    assert right["with_false_alarm"] == 1
    assert counted["planted"]["sign flipped"]["found"] == 1
    assert counted["planted"]["sign flipped"]["missed"] == {"l1": 1}
