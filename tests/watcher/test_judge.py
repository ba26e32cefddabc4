import math

import pytest

from lossproof.watcher.alarm import AlarmKind
from lossproof.watcher.judge import IN_A_ROW, PATIENCE, RECOVERED, Judge

NAN, INF = math.nan, math.inf


@pytest.fixture
def judge():
    return Judge(32)


def test_a_value_that_is_not_finite_is_said_once(judge):
    assert judge.value(1, "fit", 0.5) is None
    found = judge.value(2, "fit", NAN)
    assert (found.kind, found.term) == (AlarmKind.NON_FINITE_LOSS, "fit")
    assert "0.5" in found.message
    assert judge.value(3, "fit", NAN) is None
    assert judge.value(3, "other", INF) is None, "it follows from the first"


def test_and_again_when_it_had_recovered(judge):
    judge.value(1, "fit", NAN)
    for step in range(2, 2 + RECOVERED):
        judge.value(step, "fit", 1.0)
    assert judge.value(2 + RECOVERED, "fit", NAN) is not None


def test_a_gradient_that_follows_from_a_value_is_no_news(judge):
    judge.value(1, "fit", NAN)
    assert judge.norm(1, 0, {"w": NAN}) is None


def test_a_gradient_that_is_not_finite_names_the_parameters(judge):
    found = judge.norm(1, 0, {"a": 1.0, "b": NAN, "c": INF})
    assert found.kind is AlarmKind.NON_FINITE_GRADIENT
    assert found.parameters == ("b", "c")
    assert "2 of 3" in found.message


def test_an_exploding_term(judge):
    for step in range(1, 10):
        assert judge.value(step, "fit", 1.0) is None
    found = judge.value(10, "fit", -5000.0)
    assert (found.kind, found.term) == (AlarmKind.EXPLODING_LOSS, "fit")
    assert "5e+03 times" in found.message


def test_a_term_that_grows_beside_a_larger_one_does_not_explode(judge):
    for step, size in enumerate([1e-9, 1e-7, 1e-5, 1e-3, 1e-1, 1.0], 1):
        assert judge.value(step, "reconstruction", 100.0) is None
        assert judge.value(step, "kl", size) is None


def test_an_exploding_gradient_names_the_largest(judge):
    for step in range(1, 10):
        assert judge.norm(step, 0, {"a": 1.0, "b": 0.1}) is None
    found = judge.norm(10, 0, {"a": 1.0, "b": 1e5})
    assert (found.kind, found.parameters) == (AlarmKind.EXPLODING_GRADIENT, ("b",))


def test_optimizers_are_told_apart(judge):
    for step in range(1, 20, 2):
        assert judge.norm(step, "discriminator", {"a": 1e5}) is None
        assert judge.norm(step + 1, "generator", {"b": 1e-3}) is None


def test_a_gradient_that_is_gone_is_said_after_some_looks(judge):
    told = [judge.reach(step, 0, ["a"], {"a": 0.0}, 0.7) for step in range(1, 10)]
    assert [bool(found) for found in told].index(True) == IN_A_ROW - 1
    assert sum(map(len, told)) == 1
    assert told[IN_A_ROW - 1][0].kind is AlarmKind.VANISHED_GRADIENT


def test_a_gradient_that_shrinks_to_nothing(judge):
    for step in range(1, 10):
        judge.norm(step, 0, {"a": 1.0})
        assert judge.reach(step, 0, ["a"], {"a": 1.0}, 0.7) == []
    told = [judge.reach(step, 0, ["a"], {"a": 1e-14}, 0.7) for step in range(10, 14)]
    assert sum(map(len, told)) == 1


def test_a_loss_of_zero_has_nothing_left_to_learn(judge):
    assert all(judge.reach(step, 0, ["a"], {"a": 0.0}, 0.0) == [] for step in range(1, 30))


def reached(judge, norms_of, steps=40):
    return {
        step: found
        for step in range(1, steps)
        if (found := judge.reach(step, 0, ["a", "b", "c"], norms_of(step), 1.0))
    }


def test_a_parameter_that_never_gets_a_gradient(judge):
    told = reached(judge, lambda step: {"a": 1.0, "b": 0.0})
    assert list(told) == [1 + PATIENCE]
    (found,) = told[1 + PATIENCE]
    assert (found.kind, found.parameters) == (AlarmKind.UNREACHED_PARAMETER, ("b", "c"))
    assert found.help


def test_a_parameter_that_gets_none_any_more(judge):
    told = reached(judge, lambda step: {"a": 1.0, "b": float(step < 15), "c": 1.0})
    assert list(told) == [14 + PATIENCE]
    (found,) = told[14 + PATIENCE]
    assert found.parameters == ("b",)
    assert "step 14" in found.message


def test_what_lasts_is_said_once_however_far_apart_the_looks_are(judge):
    told = [judge.reach(step, 0, ["a", "b"], {"a": 1.0}, 1.0) for step in range(1, 5000, 500)]
    assert [len(found) for found in told].count(1) == 1
    gone = [judge.reach(step, 1, ["c"], {}, 1.0) for step in range(1, 5000, 500)]
    assert sum(map(len, gone)) == 1


def test_and_again_when_the_parameter_had_been_reached(judge):
    norms = [{"a": 1.0, "b": float(step == 2500)} for step in range(0, 5000, 500)]
    told = [judge.reach(500 * k, 0, ["a", "b"], of, 1.0) for k, of in enumerate(norms)]
    assert sum(map(len, told)) == 2


def test_a_parameter_that_is_used_now_and_then_is_reached(judge):
    assert reached(judge, lambda step: {"a": 1.0, "b": 1.0, "c": float(step % 8 == 0)}) == {}


def test_a_dead_term_is_said_once(judge):
    assert judge.dead_term(1, "fit", "no gradient comes from `fit`").term == "fit"
    assert judge.dead_term(2, "fit", "no gradient comes from `fit`") is None
