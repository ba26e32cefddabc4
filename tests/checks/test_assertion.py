"""A check as an assertion."""

import pytest
import torch
import torch.nn.functional as F

import lossproof
from lossproof.errors import FindingsError, UsageError


def flat(input, target):
    return (input.round() - target).abs().mean().round()


def slow(input, target):
    return sum(((input[i] - target[i]) ** 2).sum() for i in range(len(target))) / target.numel()


def test_a_right_loss_gives_its_report():
    report = lossproof.assert_right(F.mse_loss, "float[8,3]", "float[8,3]")
    assert report.ok
    assert report.proved


def test_a_wrong_loss_fails_the_assertion():
    with pytest.raises(AssertionError, match="LP204") as caught:
        lossproof.assert_right(flat, "float[8,3]", "float[8,3]")
    assert isinstance(caught.value, FindingsError)


def test_what_is_only_slow_is_right():
    report = lossproof.assert_right(slow, "float[16,3]", "float[16,3]")
    assert "LP501" in [finding.code for finding in report]


def test_rules_can_be_chosen():
    assert lossproof.assert_right(flat, "float[8,3]", "float[8,3]", ignore=["LP2"]) is not None
    with pytest.raises(FindingsError):
        lossproof.assert_right(flat, "float[8,3]", "float[8,3]", select=["flat-loss"])


def test_a_reference_is_compared_with():
    with pytest.raises(FindingsError, match="LP103"):
        lossproof.assert_right(
            lambda a, b: F.mse_loss(a, b) * 2, "float[8]", "float[8]", reference=F.mse_loss
        )


def test_a_wrong_request_is_no_failed_assertion():
    with pytest.raises(UsageError):
        lossproof.assert_right(torch.nn.MSELoss(), "flaot[8]", "float[8]")


@pytest.mark.parametrize("select", ["LP2", ["LP2"], "LP201,LP204"])
def test_the_rules_are_chosen_as_for_a_check(select):
    report = lossproof.assert_right(F.mse_loss, "float[8,3]", "float[8,3]", select=select)
    assert {one.code[:3] for one in report.outcomes} == {"LP2"}
    words = iter(select if isinstance(select, list) else [select])
    again = lossproof.check(F.mse_loss, "float[8,3]", "float[8,3]", select=words)
    assert [one.code for one in again.outcomes] == [one.code for one in report.outcomes]
