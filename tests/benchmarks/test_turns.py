"""Who takes a turn when, and what becomes of those who fail."""

import pytest
from benchmarks.harness.clock import Turn, Warmth, turn_of, warmed_up
from benchmarks.harness.figures import of_case, quartiles, quotient
from benchmarks.harness.process import Failure
from benchmarks.harness.study import Kind, Step
from benchmarks.harness.turns import LEAST_ROUNDS, in_turns
from tests.benchmarks.hand import Hand

PLAIN = dict.fromkeys("abc", Kind.plain)


class Fake:
    """A process that writes down what it is asked, and takes as long as it is told."""

    def __init__(self, name, log, seconds, fails_after=99):
        self.name, self.log, self.seconds, self.left = name, log, iter(seconds), fails_after
        self.warmth = Warmth(1.0, 1)
        log.append(f"start {name}")

    def turn(self):
        if self.left == 0:
            raise Failure("it is broken")
        self.left -= 1
        self.log.append(self.name)
        seconds = next(self.seconds)
        return Turn({"step": seconds}, {"step": 2 * seconds})

    def facts(self):
        return {"name": self.name}

    def end(self):
        self.log.append(f"end {self.name}")


def run(methods, rounds, keep=True, log=None, **options):
    log = [] if log is None else log
    starts = {
        name: (lambda name=name, how=how: Fake(name, log, **how)) for name, how in methods.items()
    }
    return in_turns(starts, rounds=rounds, seconds=1e9, keep=keep, **options), log


def steady(seconds):
    return {"seconds": [seconds] * 50}


def test_all_take_turns_and_the_order_moves_on():
    _, log = run({"a": steady(1.0), "b": steady(1.0), "c": steady(1.0)}, rounds=3)
    assert log[:3] == ["start a", "start b", "start c"]
    assert "".join(log[3:12]) == "abc" + "bca" + "cab"
    assert log[12:] == ["end a", "end b", "end c"]


def test_a_step_twice_as_long_has_the_ratio_two():
    taken, _ = run({"a": steady(1.0), "b": steady(2.0)}, rounds=7)
    figures = of_case(taken, ("a",), PLAIN)
    assert figures["a"]["ratio"]["step"] == {"median": 1.0, "quartiles": [1.0, 1.0]}
    assert figures["b"]["ratio"]["step"] == {"median": 2.0, "quartiles": [2.0, 2.0]}
    assert figures["b"]["processor_ms"]["step"]["median"] == 2000.0
    assert figures["b"]["wall_ms"]["step"]["median"] == 4000.0
    assert figures["b"]["each_round_ms"] == [2000.0] * 7
    assert figures["b"]["rounds"] == 7
    assert figures["b"]["facts"] == {"name": "b"}


class Measured:
    """A process that is none: it measures a step as one does, by a clock that the step moves."""

    def __init__(self, clock, seconds):
        self.clock = clock
        self.step = Step.of(lambda: clock.move(seconds))
        self.warmth = warmed_up(self.step, clock)

    def turn(self):
        return turn_of(self.step, self.warmth.repeats, self.clock)

    def facts(self):
        return {}

    def end(self):
        pass


def test_from_the_step_to_the_ratio():
    clock = Hand()
    seconds = {"a": 0.0031, "b": 0.0062, "c": 7.0}
    starts = {name: lambda s=s: Measured(clock, s) for name, s in seconds.items()}
    taken = in_turns(starts, rounds=6, seconds=1e9, keep=True)
    figures = of_case(taken, ("a",), PLAIN)
    assert {name: f["repeats"] for name, f in figures.items()} == {"a": 7, "b": 4, "c": 1}
    assert figures["b"]["ratio"]["step"] == {"median": 2.0, "quartiles": [2.0, 2.0]}
    assert figures["c"]["processor_ms"]["step"]["median"] == 7000.0


def test_a_machine_that_slows_down_does_not_change_the_ratio():
    slow = [1.0, 1.0, 1.0, 10.0, 10.0, 10.0, 50.0]
    taken, _ = run(
        {"a": {"seconds": slow}, "b": {"seconds": [3 * s for s in slow]}}, rounds=len(slow)
    )
    assert of_case(taken, ("a",), PLAIN)["b"]["ratio"]["step"] == {
        "median": 3.0,
        "quartiles": [3.0, 3.0],
    }


def test_the_baseline_may_be_the_fastest_of_some():
    taken, _ = run({"a": steady(3.0), "b": steady(2.0), "c": steady(1.0)}, rounds=2)
    ratios = {name: f["ratio"]["step"]["median"] for name, f in of_case(taken, "ab", PLAIN).items()}
    assert ratios == {"a": 1.5, "b": 1.0, "c": 0.5}


def test_ours_is_compared_with_the_fastest_peer():
    taken, _ = run({"a": steady(3.0), "b": steady(2.0), "c": steady(4.0)}, rounds=2)
    kinds = {"a": Kind.ours, "b": Kind.peer, "c": Kind.peer}
    figures = of_case(taken, ("c",), kinds)
    found = {"peer": "b", "median": 1.5, "quartiles": [1.5, 1.5]}
    assert figures["a"]["over_fastest_peer"] == found
    assert "over_fastest_peer" not in figures["b"]


def test_one_that_fails_drops_out_and_the_others_go_on():
    taken, log = run({"a": steady(1.0), "b": {**steady(1.0), "fails_after": 2}}, rounds=4)
    figures = of_case(taken, ("a",), PLAIN)
    assert figures["b"] == {"failed": "it is broken"}
    assert figures["a"]["rounds"] == 4
    assert log.count("end b") == 1


def test_without_the_baseline_there_are_times_and_no_ratio():
    taken, _ = run({"a": {**steady(1.0), "fails_after": 0}, "b": steady(1.0)}, rounds=2)
    figures = of_case(taken, ("a",), PLAIN)
    assert "ratio" not in figures["b"]
    assert figures["b"]["processor_ms"]["step"]["median"] == 1000.0


def test_one_that_cannot_be_made_or_leaves_itself_out_is_recorded():
    def broken():
        raise Failure("ImportError: no")

    def unwilling():
        raise Failure("has no weights", True)

    log = []
    taken = in_turns(
        {"a": lambda: Fake("a", log, [1.0] * 9), "b": broken, "c": unwilling},
        rounds=2, seconds=1e9, keep=True,
    )  # fmt: skip
    figures = of_case(taken, ("a",), PLAIN)
    assert figures["b"] == {"failed": "ImportError: no"}
    assert figures["c"] == {"left_out": "has no weights"}


def test_where_memory_is_short_each_turn_has_a_new_process():
    taken, log = run({"a": steady(1.0), "b": steady(2.0)}, rounds=2, keep=False)
    awake = 0
    for event in log:
        awake += event.startswith("start")
        assert awake == 1 or event.startswith("end")
        awake -= event.startswith("end")
    assert log.count("start a") == 3  # the warm-up, and two turns
    assert of_case(taken, ("a",), PLAIN)["b"]["ratio"]["step"]["median"] == 2.0
    assert taken["b"].facts == {"name": "b"}


def test_no_new_round_begins_when_the_time_is_up():
    now = iter(range(0, 1000, 100))
    starts = {"a": lambda: Fake("a", [], [1.0] * 50)}
    taken = in_turns(starts, rounds=50, seconds=25.0, keep=True, wall=lambda: next(now))
    assert len(taken["a"].turns) == LEAST_ROUNDS


def test_the_processes_end_when_the_run_is_interrupted():
    class Interrupted(Fake):
        def turn(self):
            raise KeyboardInterrupt

    log = []
    starts = {"a": lambda: Fake("a", log, [1.0]), "b": lambda: Interrupted("b", log, [])}
    with pytest.raises(KeyboardInterrupt):
        in_turns(starts, rounds=1, seconds=1e9, keep=True)
    assert log[-2:] == ["end a", "end b"]


def test_quotients_are_taken_within_a_round():
    assert quotient([1.0, 4.0, 9.0], [1.0, 2.0, 3.0]) == {"median": 2.0, "quartiles": [1.0, 3.0]}


def test_one_number_is_its_own_quartiles():
    assert quartiles([3.0]) == (3.0, 3.0)
