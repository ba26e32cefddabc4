"""Charts as SVG: in the colours of the page around them, and the same on every run."""

import math
import re
from xml.etree import ElementTree

import matplotlib
import pytest

from lossproof.checks.chart import HeatMap, LineChart, Series
from lossproof.show import plots
from lossproof.show.plots import svg

LINES = LineChart(
    "Derivative",
    "p",
    "slope",
    (
        Series("autograd", (0.0, 1.0, 2.0), (1.0, None, 3.0)),
        Series("finite differences", (0.5, 1.5), (1.2, 2.2), "dots"),
    ),
    "Both agree.",
)
MAP = HeatMap("Map", "i", "j", "difference", ((0.0, 0.5), (None, 1.0)), "Wrong at [1, 1].")


def words(text):
    return [element.text for element in ElementTree.fromstring(text).iter("text")]


def test_a_line_chart_has_its_words():
    shown = words(svg(LINES, "a"))
    assert {"p", "slope", "autograd", "finite differences"} <= set(shown)


def test_one_curve_needs_no_legend():
    alone = LineChart("t", "p", "slope", LINES.series[:1])
    assert "autograd" not in words(svg(alone, "a"))


def test_a_gap_breaks_the_line():
    def pieces(*y):
        chart = LineChart("t", "p", "slope", (Series("s", (0.0, 1.0, 2.0, 3.0), y),))
        (curve,) = re.findall(r'<path d="([^"]*)"[^>]*var\(--chart-1\)', svg(chart, "a"))
        return curve.count("M")

    assert pieces(1.0, 2.0, 1.0, 2.0) == 1
    assert pieces(1.0, 2.0, None, 2.0) + pieces(1.0, None, 2.0, 1.0) > 2


def test_a_heat_map_has_its_words_and_its_cells():
    text = svg(MAP, "a")
    assert {"i", "j", "difference"} <= set(words(text))
    assert 'href="data:image/png;base64,' in text


@pytest.mark.parametrize("chart", [LINES, MAP])
def test_the_same_chart_gives_the_same_text(chart):
    before = dict(matplotlib.rcParams)
    assert svg(chart, "a") == svg(chart, "a")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("chart", [LINES, MAP])
def test_it_is_a_picture_with_a_name(chart):
    root = ElementTree.fromstring(svg(chart, "a"))
    assert root.tag == "svg" and root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == f"{chart.title}. {chart.caption}"
    assert "viewBox" in root.attrib and "width" not in root.attrib


@pytest.mark.parametrize("chart", [LINES, MAP])
def test_every_id_is_its_own(chart):
    one, other = svg(chart, "one"), svg(chart, "other")
    ids = [set(re.findall(r'id="([^"]*)"', text)) for text in (one, other)]
    assert not ids[0] & ids[1] and all(name.startswith("one-") for name in ids[0])
    assert set(re.findall(r"url\(#([^)]*)\)", one)) <= ids[0]
    assert set(re.findall(r'href="#([^"]*)"', one)) <= ids[0]


def test_the_page_chooses_the_colours():
    text = svg(LINES, "a")
    assert "currentColor" in text and "var(--chart-1)" in text and "var(--chart-2)" in text
    assert not re.search(r"(fill|stroke): (#|black|white)", text)
    assert "font-family" not in text and "<style" not in text and "metadata" not in text


def test_a_spike_does_not_flatten_the_rest():
    x = tuple(k / 20 for k in range(21))
    y = (-1e12, *(-1 / value for value in x[1:]))
    low, high = plots._limits([Series("s", x, y)])
    assert -100 < low < -20 / 1 * 0.5 and high > -1.0
    smooth = [Series("s", x, tuple(math.exp(3 * v) for v in x))]
    assert plots._limits(smooth) is None
    assert plots._limits([Series("s", (0.0,), (None,))]) is None
    assert plots._limits([Series("s", x, (1.0, *(0.0,) * 20))]) is None


def test_rounding_noise_does_not_fill_the_picture():
    x = tuple(float(k) for k in range(3))
    constant = Series("s", x, (-1.0,) * 3)
    noisy = Series("dots", x, (-1.0 - 5e-14, -1.0, -1.0 + 4e-14), "dots")
    low, high = plots._limits([constant, noisy])
    assert (low, high) == pytest.approx((-1.5, -0.5))
    assert plots._limits([constant]) is None  # one number has a range of its own
    assert plots._limits([Series("s", x, (1.0, 1.0 + 1e-6, 1.0))]) is None


def test_logarithmic_axes_have_plain_labels():
    accuracy = LineChart(
        "Accuracy", "magnitude", "error",
        (Series("float32", (1e-4, 1.0, 1e4), (1e-7, 1e-7, 1e-3)),),
        "", "log", "log", (1e-9, 1.0),
    )  # fmt: skip
    shown = words(svg(accuracy, "a"))
    assert {"1e-4", "1", "1e4", "1e-8"} <= set(shown)
    assert not any("$" in word or "math" in word for word in shown)


def test_a_long_name_is_cut():
    chart = LineChart("t", "n" * 500, "y", LINES.series)
    (label,) = [word for word in words(svg(chart, "a")) if word.startswith("nn")]
    assert len(label) == plots.LONGEST and label.endswith("…")
