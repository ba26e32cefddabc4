"""What a history keeps, what it says is wrong, and its picture."""

import csv
import io
import math
import sys
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossproof.terms.balance.step import BalanceStep
from lossproof.terms.gradients import TermGradients
from lossproof.terms.history import PENDING, TermHistory

NAN = math.nan


def step_of(rows=None, values=(1.0, 2.0), weights=None, names=("data", "bc"), **facts):
    found = torch.tensor(values, dtype=torch.float64)
    factors = torch.ones(len(found)) if weights is None else torch.tensor(weights)
    factors = factors.double()
    figures = None
    if rows is not None:
        figures = TermGradients.from_matrix(torch.tensor(rows).double(), names, found)
    total = (factors * found).sum()
    return BalanceStep(tuple(names), found, factors, total, figures, **facts)


ORDINARY = [[3.0, 4.0], [0.0, 2.0]]


def filled(count, limit=None, every=1, **facts):
    history = TermHistory(limit=limit)
    for k in range(count):
        due = k % every == 0
        history.add(step_of(ORDINARY if due else None, (k + 1.0, 2.0), refreshed=due, **facts))
    return history


def words(history, **options):
    return [str(problem) for problem in history.problems(**options)]


def same(a, b):
    return list(a) == list(b) and all(
        x == y or (math.isnan(x) and math.isnan(y))
        for key in a
        for x, y in zip(a[key], b[key], strict=True)
    )


def test_columns_hold_the_figures_of_every_step():
    history = TermHistory()
    first, held = step_of(ORDINARY, (1.0, 2.0)), step_of(None, (0.5, 1.5), refreshed=False)
    history.add(first)
    history.add(held, at=7)
    columns = history.to_dict()
    assert columns["step"] == [0, 7]
    for key, one in first.as_dict("").items():
        assert columns[key][0] == one
    assert columns["value/data"] == [1.0, 0.5]
    assert columns["norm/data"][0] == 5.0
    assert math.isnan(columns["norm/data"][1])
    assert math.isnan(columns["value_share/data"][0])
    assert columns["value_share/data"][1] == 0.25
    assert columns["refreshed"] == [1.0, 0.0]
    assert {len(column) for column in columns.values()} == {2}


def test_steps_are_counted_on_from_the_last_number():
    history = TermHistory()
    for at in (None, 10, None):
        history.add(step_of(), at=at)
    assert history.to_dict()["step"] == [0, 10, 11]


def test_adding_does_not_wait_for_the_device():
    # on the meta device there are no numbers: to fetch them is an error
    history = TermHistory()
    ones = torch.ones(2, device="meta")
    for _ in range(PENDING - 1):
        history.add(BalanceStep(("a", "b"), ones, ones, ones.sum()))
    with pytest.raises(Exception, match=r"meta"):
        history.to_dict()


def test_many_steps_are_fetched_as_one_after_the_other():
    history = filled(3 * PENDING + 5)
    assert history.to_dict()["value/data"] == [k + 1.0 for k in range(3 * PENDING + 5)]
    assert len(history) == 3 * PENDING + 5


@settings(max_examples=30)
@given(st.integers(1, 300), st.integers(2, 30), st.sampled_from([1, 3, 10]))
def test_memory_is_bounded_and_the_whole_training_stays_in_view(count, limit, every):
    history = filled(count, limit, every)
    columns = history.to_dict()
    steps = columns["step"]
    assert len(steps) <= limit + 1  # and the latest
    assert (steps[0], steps[-1]) == (0, count - 1)
    assert steps == sorted(set(steps))
    assert columns["value/data"] == [step + 1.0 for step in steps]  # no row is mixed up
    longest = max((b - a for a, b in pairwise(steps)), default=1)
    assert longest <= max(1, 8 * count / limit)


def test_of_several_steps_the_one_is_kept_that_knows_the_gradients():
    history = filled(2000, limit=100, every=10)
    known = [not math.isnan(norm) for norm in history.to_dict()["norm/data"]]
    assert sum(known) >= len(known) - 1  # the latest step is shown whatever it knows


def test_a_frame_of_pandas_takes_the_columns():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(filled(20, every=4).to_dict()).set_index("step")
    assert frame["norm/data"].count() == 5
    assert frame.loc[7, "value/data"] == 8.0


def test_csv_has_the_same_columns(tmp_path):
    history = filled(5, every=2)
    text = history.to_csv(tmp_path / "terms.csv")
    assert (tmp_path / "terms.csv").read_text(encoding="utf-8") == text
    rows = list(csv.DictReader(io.StringIO(text)))
    columns = history.to_dict()
    read = {key: [float(row[key]) for row in rows] for key in rows[0]}
    assert same(read, columns)


def test_terms_that_come_and_go_have_columns_of_their_own():
    history = TermHistory()
    history.add(step_of(values=(1.0,), names=("data",)))
    history.add(step_of(values=(1.0, 4.0), names=("data", "bc")))
    columns = history.to_dict()
    assert history.names == ("data", "bc")
    assert math.isnan(columns["value/bc"][0])
    assert columns["value/bc"][1] == 4.0
    assert words(history) == []


def test_it_goes_on_from_a_checkpoint(tmp_path):
    whole, half = filled(250, limit=60, every=3), filled(130, limit=60, every=3)
    torch.save(half.state_dict(), tmp_path / "history.pt")
    resumed = TermHistory(limit=60)
    resumed.load_state_dict(torch.load(tmp_path / "history.pt", weights_only=True))
    assert same(resumed.to_dict(), half.to_dict())
    for k in range(130, 250):
        due = k % 3 == 0
        resumed.add(step_of(ORDINARY if due else None, (k + 1.0, 2.0), refreshed=due))
    assert same(resumed.to_dict(), whole.to_dict())
    assert resumed.problems() == whole.problems()
    assert repr(resumed) == repr(whole)


def test_nothing_is_wrong_with_an_ordinary_training():
    assert words(filled(50, every=2)) == []


def test_a_term_is_dead_that_has_had_no_gradient_for_long():
    history = filled(5)
    for _ in range(9):
        history.add(step_of([[1.0, 0.0], [0.0, 0.0]]))
    assert words(history) == []
    history.add(step_of(None, refreshed=False))  # looks for no gradient, and does not count
    history.add(step_of([[1.0, 0.0], [0.0, 0.0]]))
    text = "'bc' has had no gradient in the last 10 steps that looked for one"
    assert words(history) == [text]
    history.add(step_of(ORDINARY))
    assert words(history) == []


def test_a_pair_conflicts_that_does_so_in_half_of_the_steps():
    history = filled(10)
    for _ in range(9):
        history.add(step_of([[1.0, 0.0], [-1.0, 0.5]]))
    assert words(history) == []
    history.add(step_of([[1.0, 0.0], [-1.0, 0.5]]))
    assert words(history) == ["'data' and 'bc' conflicted in 10 of 20 steps"]
    assert words(history, often=0.6) == []


def test_a_term_dominates_that_does_so_in_half_of_the_steps():
    history = TermHistory()
    for k in range(40):
        due = k % 10 == 0
        rows = [[99.0, 0.0], [0.0, 1.0]] if due else None
        history.add(step_of(rows, (1.0, 1.0), refreshed=due))
    assert words(history) == ["'data' dominated in 4 of 4 steps"]


def test_what_was_not_finite_once_is_not_forgotten():
    history = TermHistory(limit=4)
    for k in range(300):
        history.add(step_of(values=(NAN if k == 77 else 1.0, 1.0)))
    history.add(step_of(dropped=("bc",)))
    assert not any(math.isnan(one) for one in history.to_dict()["value/data"])
    assert words(history) == [
        "'data' was not finite in 1 of 301 steps, the last time in step 77",
        "'bc' was left out in 1 of 301 steps, the last time in step 300",
    ]


@pytest.mark.parametrize(
    ("last", "wrong"),
    [(9e4, []), (2e5, ["the weight of 'bc' has run away, from 1 to 2e+05"]),
     (-5e-6, ["the weight of 'bc' has run away, from 1 to 5e-06"])],
)  # fmt: skip
def test_a_weight_that_changes_by_orders_of_magnitude_has_run_away(last, wrong):
    history = TermHistory()
    for weight in (1.0, 5e6, last):
        history.add(step_of(values=(1.0, 1.0), weights=(1.0, weight), refreshed=False))
    assert words(history) == wrong


def test_a_weight_that_starts_at_zero_is_a_schedule():
    history = TermHistory()
    for weight in (0.0, 1e-7, 1.0):
        history.add(step_of(ORDINARY, weights=(1.0, weight)))
    assert "runaway" not in [problem.kind for problem in history.problems()]


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match=r"`limit` must be an integer of at least 2, got 1"):
        TermHistory(limit=1)
    with pytest.raises(ValueError, match=r"`often` must be a number above 0 and of at most 1"):
        TermHistory().problems(often=0)
    with pytest.raises(TypeError, match=r"`at` must be an integer, got 1.5"):
        TermHistory().add(step_of(), at=1.5)


# ---- the picture


def drawn(history):
    pytest.importorskip("matplotlib")
    figure = history.plot()
    figure.canvas.draw()
    return {axes.get_ylabel().replace("\n", " "): axes for axes in figure.axes}


@pytest.mark.parametrize("count", [2, 5, 16])
def test_the_picture_has_a_panel_for_everything_that_is_known(count):
    torch.manual_seed(count)
    names = [f"term {k}" for k in range(count)]
    history = TermHistory()
    for _ in range(30):
        values = tuple((torch.rand(count) + 0.1).tolist())
        history.add(step_of(torch.randn(count, 8).tolist(), values, names=names))
    panels = drawn(history)
    assert list(panels)[:4] == [
        "value", "weight", "share of the weighted gradient", "gradient norm",
    ]  # fmt: skip
    columns = history.to_dict()
    for panel, word in (("value", "value"), ("gradient norm", "norm")):
        assert panels[panel].get_yscale() == "log"
        for line, name in zip(panels[panel].lines, names, strict=True):
            assert list(line.get_xdata()) == list(range(30))
            assert list(line.get_ydata()) == columns[f"{word}/{name}"]
    looks = {(line.get_color(), line.get_linestyle(), str(line._unscaled_dash_pattern))
             for line in panels["value"].lines}  # fmt: skip
    assert len(looks) == count
    pairs = count * (count - 1) // 2
    if pairs <= 6:
        assert len(panels["cosine"].get_legend().get_texts()) == pairs
    else:
        title = "cosine" if pairs <= 24 else "24 lowest cosines"
        lowest = panels[title].get_yticklabels()
        means = {(a, b): sum(columns[f"cosine/{a}/{b}"]) / 30
                 for i, a in enumerate(names) for b in names[i + 1:]}  # fmt: skip
        wanted = sorted(means, key=means.get)[:24]
        assert [label.get_text() for label in lowest] == [f"{a}, {b}" for a, b in wanted]


def test_shares_are_stacked_to_the_whole():
    axes = drawn(filled(12, every=3))["share of the weighted gradient"]
    (lower, upper) = axes.collections
    bottom, top = lower.get_paths()[0].get_extents(), upper.get_paths()[0].get_extents()
    assert (bottom.y0, top.y1) == (0.0, pytest.approx(1.0))
    assert bottom.y1 == pytest.approx(5 / 7)
    assert (top.x0, top.x1) == (0, 9)  # the steps that know the gradients


def test_without_gradients_the_shares_are_those_of_the_values():
    history = TermHistory()
    for k in range(4):
        history.add(step_of(values=(1.0, 3.0 + k)))
    assert list(drawn(history)) == ["value", "weight", "share of the weighted value"]


def test_values_of_both_signs_are_drawn():
    history = TermHistory()
    for k in range(40):
        history.add(step_of(values=(1000.0 if k == 0 else 0.5, -0.5)))
    axes = drawn(history)["value"]
    assert axes.get_yscale() == "symlog"
    assert min(axes.lines[1].get_ydata()) == -0.5


def test_a_single_step_and_zeros_and_nan_can_be_drawn(tmp_path):
    history = TermHistory()
    history.add(step_of([[0.0, 0.0], [NAN, 1.0]], values=(0.0, NAN), weights=(0.0, 1.0)))
    drawn(history)
    path = tmp_path / "terms.png"
    history.plot(path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_name_is_drawn_as_it_is(tmp_path):
    history = TermHistory()
    history.add(step_of(values=(1.0, 2.0), names=("$x_", "_hidden")))
    history.plot(tmp_path / "terms.svg")


def test_an_empty_history_cannot_be_drawn():
    with pytest.raises(ValueError, match="there is nothing to draw: no step was added"):
        TermHistory().plot()


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'lossproof\[plots\]'"):
        filled(2).plot()
