"""Times are what an injected clock says; nothing here waits."""

import pytest
from benchmarks.harness import floors
from benchmarks.harness.clock import LEAST, MOST_REPEATS, once, turn_of, warmed_up
from benchmarks.harness.study import WHOLE, Step
from tests.benchmarks.hand import Hand


def phases(hand, **seconds):
    return {name: lambda s=s: hand.move(s) for name, s in seconds.items()}


def test_each_phase_is_timed_and_all_together():
    hand = Hand()
    turn = once(Step(phases(hand, forward=1.0, backward=3.0)), hand)
    assert turn.processor == {"forward": 1.0, "backward": 3.0, WHOLE: 4.0}
    assert turn.wall == {"forward": 2.0, "backward": 6.0, WHOLE: 8.0}


def test_a_function_is_a_step_of_one_phase():
    hand = Hand()
    assert once(Step.of(lambda: hand.move(3.0)), hand).processor == {WHOLE: 3.0}


def test_what_comes_before_a_step_is_not_timed():
    hand = Hand()
    step = Step(phases(hand, only=1.0), before=lambda: hand.move(100.0))
    assert turn_of(step, 3, hand).processor[WHOLE] == pytest.approx(1.0)


@pytest.mark.parametrize(("seconds", "repeats"), [(1.0, 1), (LEAST / 7.5, 8), (0.0, MOST_REPEATS)])
def test_a_short_step_is_repeated_until_a_turn_lasts(seconds, repeats):
    hand = Hand()
    assert warmed_up(Step.of(lambda: hand.move(seconds)), hand).repeats == repeats


def test_the_first_call_is_kept_and_does_not_decide_how_often_a_step_is_repeated():
    hand = Hand()
    seconds = iter([50.0, LEAST / 3.5, LEAST / 3.5])
    warmth = warmed_up(Step.of(lambda: hand.move(next(seconds))), hand)
    assert warmth.first_call == 100.0
    assert warmth.repeats == 4


def test_a_repeated_step_is_once_taken_without_being_counted():
    hand = Hand()
    seconds = iter([99.0, 1.0, 2.0, 3.0])
    turn = turn_of(Step.of(lambda: hand.move(next(seconds))), 3, hand)
    assert turn.processor[WHOLE] == pytest.approx(2.0)


def test_a_long_step_is_taken_once_a_turn():
    hand, calls = Hand(), []

    def step():
        calls.append(1)
        hand.move(5.0)

    assert turn_of(Step.of(step), 1, hand).processor[WHOLE] == 5.0
    assert len(calls) == 1


def test_what_warms_a_long_step_up_takes_the_place_of_the_first_steps():
    hand = Hand()
    taken = []
    step = Step({"only": lambda: taken.append(1)}, warm=lambda: hand.move(2.0))
    warmth = warmed_up(step, hand)
    assert (warmth.first_call, warmth.repeats, taken) == (4.0, 1, [])


def test_the_floor_moves_as_many_bytes_as_it_is_told():
    copied = floors.moved(8_000)()
    assert 2 * copied.nbytes == 8_000  # read once, and written once
    assert (copied == 1).all()
