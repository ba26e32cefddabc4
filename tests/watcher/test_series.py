from hypothesis import given
from hypothesis import strategies as st

from lossproof.watcher.series import Series

SIZES = st.lists(st.floats(0, 1e30), min_size=1, max_size=200)


@given(SIZES, st.integers(4, 40))
def test_the_top_is_the_largest_of_about_the_ring(sizes, length):
    series = Series(length)
    for count, size in enumerate(sizes, 1):
        series.add(size)
        whole = sizes[max(0, count - length) : count]
        more = sizes[max(0, count - length - length // 2) : count]
        assert max(whole) <= series.top <= max(more)
        assert list(series.sizes) == whole


def told(sizes, length=64, **keywords):
    """The places at which a series explodes."""
    series = Series(length)
    return [place for place, size in enumerate(sizes) if series.add(size, **keywords)]


def test_a_sudden_explosion_is_told_at_once():
    assert told([1.0, 0.9, 0.8, 2000.0]) == [3]


def test_a_steady_one_after_it_has_risen_to_a_hundred_times():
    sizes = [1.0] * 10 + [2.0**k for k in range(1, 9)]
    first = told(sizes)[0]
    assert 100 < sizes[first] <= 256


def test_a_slow_one_when_it_has_left_its_beginning_far_behind():
    sizes = [1.05**k for k in range(200)]
    first = told(sizes)[0]
    assert 1000 < sizes[first] / 1.05**2 < 1100


def test_noise_and_spikes_are_none():
    assert told([1.0, 0.2, 3.0, 0.1, 50.0, 0.3, 900.0, 0.5, 0.4]) == []


def test_what_has_shrunk_to_nothing_may_jump():
    assert told([1.0, 1.0, 1.0] + [1e-14] * 100 + [1e-5, 1e-9]) == []
    assert told([1.0, 1.0, 1.0] + [1e-4] * 100 + [5.0]) == [103]


def test_a_figure_that_grows_from_nothing_to_little_is_none():
    sizes = [1e-9 * 10**k for k in range(8)]
    assert told(sizes, floor=100.0) == []
    assert told(sizes) != []


def test_zeros_are_no_measure():
    assert told([0.0] * 20 + [1.0, 1.0]) == []
