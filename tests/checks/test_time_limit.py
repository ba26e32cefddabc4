"""A limit must end any Python code, once, and leave nothing behind."""

import math
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossproof.checks.time_limit import time_limit
from lossproof.errors import TimeLimitError


def endless():
    while True:
        pass


def endless_behind_except_exception():
    while True:
        try:
            endless()
        except Exception:
            pass


def swallowing_everything(times):
    """Swallows this many interruptions, then returns."""
    for _ in range(times):
        try:
            endless()
        except BaseException:
            pass


def run_long_enough_to_be_interrupted_again():
    until = time.perf_counter() + 0.2
    while time.perf_counter() < until:
        sum(range(100))


@pytest.mark.parametrize("code", [endless, endless_behind_except_exception])
def test_endless_code_is_ended_and_located(code):
    with pytest.raises(TimeLimitError, match="still running after 0.05 s") as caught:
        with time_limit(0.05):
            code()
    file, line, function = caught.value.location
    assert file == __file__
    assert function == "endless"
    assert line - endless.__code__.co_firstlineno in (1, 2)


def test_an_interruption_that_is_swallowed_is_made_again():
    with pytest.raises(TimeLimitError):
        with time_limit(0.02):
            swallowing_everything(3)


def test_code_that_swallows_the_interruption_and_returns_is_over_its_limit_all_the_same():
    went_on = []
    with pytest.raises(TimeLimitError):
        with time_limit(0.02):
            swallowing_everything(1)
            went_on.append(True)
    assert went_on


def test_an_error_raised_in_answer_to_the_interruption_is_its_context():
    def translates():
        try:
            endless()
        except BaseException as error:
            raise ValueError("translated") from error

    with pytest.raises(TimeLimitError) as caught:
        with time_limit(0.02):
            translates()
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("translated", [False, True])
def test_what_was_open_ends_with_the_block_the_innermost_first(translated):
    """As the generator of a context does whose exit was interrupted, or whose block never began."""
    ended = []

    def opened(name):
        try:
            yield
        finally:
            ended.append(name)

    def outer():
        generator = opened("outer")
        next(generator)
        try:
            inner()
        except BaseException as error:
            if translated:
                raise ValueError("translated") from error
            raise

    def inner():
        generator = opened("inner")
        next(generator)
        endless()

    with pytest.raises(TimeLimitError) as caught:
        with time_limit(0.02):
            outer()
    assert caught.value.__cause__.__traceback__ is not None  # the error is still held
    assert ended == ["inner", "outer"]


def test_the_users_own_error_passes_through_untouched():
    error = KeyError("own")
    with pytest.raises(KeyError) as caught:
        with time_limit(30):
            raise error
    assert caught.value is error
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("seconds", [None, math.inf, 1e300, 30])
def test_code_within_its_limit_is_left_alone(seconds):
    with time_limit(seconds):
        value = sum(range(1000))
    assert value == 499_500


@pytest.mark.parametrize("seconds", [0, -1, math.nan])
def test_a_limit_must_be_positive(seconds):
    with pytest.raises(ValueError, match="`seconds` must be positive or None"):
        time_limit(seconds)


def test_the_inner_limit_ends_first():
    reached = []
    with time_limit(30):
        with pytest.raises(TimeLimitError, match="after 0.02 s"):
            with time_limit(0.02):
                endless()
        reached.append("after the inner block")
    assert reached


def test_the_outer_limit_ends_through_the_inner_one():
    with pytest.raises(TimeLimitError, match="after 0.02 s"):
        with time_limit(0.02):
            with time_limit(30):
                endless()


def test_both_limits_can_end_together():
    with pytest.raises(TimeLimitError):
        with time_limit(0.03):
            with time_limit(0.03):
                endless()
    run_long_enough_to_be_interrupted_again()


def test_it_works_in_any_thread_and_only_in_that_thread():
    outcomes = {}

    def work(name, code, seconds):
        try:
            with time_limit(seconds):
                outcomes[name] = code()
        except TimeLimitError as error:
            outcomes[name] = error.location[2]

    threads = [
        threading.Thread(target=work, args=("stuck", endless, 0.05)),
        threading.Thread(target=work, args=("fine", lambda: "done", 30)),
    ]
    for thread in threads:
        thread.start()
    run_long_enough_to_be_interrupted_again()
    for thread in threads:
        thread.join(30)
    assert outcomes == {"stuck": "endless", "fine": "done"}


def test_nothing_arrives_after_the_block():
    for _ in range(20):
        with pytest.raises(TimeLimitError):
            with time_limit(0.005):
                endless()
    run_long_enough_to_be_interrupted_again()


def test_its_threads_end_with_the_block():
    before = threading.active_count()
    for _ in range(50):
        with time_limit(30):
            pass
    deadline = time.perf_counter() + 10
    while threading.active_count() > before and time.perf_counter() < deadline:
        time.sleep(0.001)
    assert threading.active_count() <= before


@given(st.floats(1e-6, 2e-3), st.integers(0, 400))
def test_code_that_ends_near_its_limit_ends_one_way_or_the_other(seconds, work):
    """Wherever the time is up: before, in, or after the last statement of the block."""

    def busy():
        return sum(sum(range(50)) for _ in range(work))

    try:
        with time_limit(seconds):
            busy()
    except TimeLimitError as error:
        assert error.location is not None
    assert busy() == 1225 * work


@pytest.mark.parametrize("seconds", [30, 0.01])
def test_the_interpreter_is_left_as_it_was_for_a_profiler(seconds):
    """CPython 3.11 hung in the first call after a limit whose interruption had been withdrawn."""
    program = f"""
import cProfile, contextlib
from lossproof.checks.time_limit import time_limit
from lossproof.errors import TimeLimitError

def profiled():
    with contextlib.suppress(TimeLimitError):
        with time_limit({seconds}):
            sum(range(100)) if {seconds} > 1 else [None for _ in iter(int, 1)]
    return sum(number for number in range(100))

print(cProfile.Profile().runcall(profiled))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert run.stdout == "4950\n", run.stderr
