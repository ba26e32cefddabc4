"""Charts are plain data: they survive the way through JSON."""

import json

from hypothesis import given
from hypothesis import strategies as st

from lossproof.checks.chart import (
    HeatMap,
    LineChart,
    Series,
    Unmeasured,
    chart_from_dict,
    chart_to_dict,
)

words = st.text(max_size=10)
numbers = st.floats(allow_nan=False, allow_infinity=False)
cells = st.none() | numbers
series = st.lists(st.tuples(numbers, cells), max_size=4).flatmap(
    lambda pairs: st.builds(
        Series, words, st.just(tuple(x for x, _ in pairs)), st.just(tuple(y for _, y in pairs)),
        st.sampled_from(("line", "dots")),
    )
)  # fmt: skip
scales = st.sampled_from(("linear", "log"))
lines = st.builds(
    LineChart, words, words, words, st.lists(series, max_size=3).map(tuple), words, scales, scales,
    st.none() | st.tuples(numbers, numbers),
)  # fmt: skip
matrices = st.lists(st.tuples(cells, cells), min_size=1, max_size=3).map(tuple)
heat_maps = st.builds(HeatMap, words, words, words, words, matrices, words)
charts = lines | heat_maps | st.builds(Unmeasured, words, words)


@given(charts)
def test_a_chart_survives_json(chart):
    plain = json.dumps(chart_to_dict(chart), allow_nan=False)
    assert chart_from_dict(json.loads(plain)) == chart


@given(charts)
def test_a_chart_survives_plain_data(chart):
    assert chart_from_dict(chart_to_dict(chart)) == chart
