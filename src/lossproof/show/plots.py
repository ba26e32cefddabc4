"""A chart as SVG to be put into a page, drawn by matplotlib where it is installed.

The same chart gives the same text on every run. Lines and words take the colours of the page
around them, so that a dark page has a light chart: matplotlib draws in marker colours, and each is
replaced by ``currentColor`` or by one of the page's own variables.
"""

from __future__ import annotations

import importlib.util
import io
import math
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from lossproof.checks.chart import HeatMap, LineChart, Series
from lossproof.show.source import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = 4.6, 3.0
"""Inches: small, so that the words can be read where the picture is scaled down to a phone."""
SMALL_SIZE = 2.5, 1.6
"""A picture among many of its kind, which explain each other."""
INK = "#010203"
PALETTE = ("#010210", "#010211", "#010212", "#010213", "#010214", "#010215")
MARKERS = "osD^vP"
STYLES = ("-", "--", "-.", ":")
SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",  # words stay words, which a reader can search and enlarge
    "svg.hashsalt": "lossproof",
    "text.parse_math": False,  # a name may hold dollar signs
    "font.size": 10.5,
    "font.family": "sans-serif",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
}
LONGEST = 48
"""Characters of a label."""
LEGEND_WIDTH, LEGEND_ROW = 58, 0.2
"""Characters that fit beside each other above a chart, and the inches that a row of them takes."""
SPIKE = 30.0
"""Numbers so many times larger than nine in ten of the others are left outside the picture."""
ROUNDING = 1e-9
"""Numbers that differ by so little of their size are drawn as one: finite differences of a line."""


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def svg(chart: LineChart | HeatMap, name: str, *, small: bool = False) -> str:
    """The chart as an ``<svg>`` element.

    Args:
        chart: what to draw.
        name: begins every id inside, so that several charts can be on one page.
        small: draw curves without a legend and without names on the axes, for a wall of pictures
            that has them once.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that its own fonts lack: the page has them
        matplotlib.rcdefaults()
        settings: Any = matplotlib.rcParams
        settings.update(SETTINGS)
        figure = Figure(figsize=SMALL_SIZE if small else SIZE, layout="constrained")
        FigureCanvasSVG(figure)
        if isinstance(chart, LineChart):
            axes = _draw_lines(figure, chart)
            if small:
                axes.locator_params(nbins=3)
            else:
                _explain(figure, axes, chart)
        else:
            _draw_matrix(figure, chart)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _embeddable(text.getvalue(), name, f"{chart.title}. {chart.caption}")


LIGHT = ("#1f55c0", "#c2410c", "#0f766e", "#a21a5b", "#6a45a8", "#66600a")
DARK = ("#8fb6ff", "#ff9e66", "#5fdccb", "#f79ac4", "#c7adff", "#d8d27a")
"""The colours of a chart that stands alone; a page brings its own."""


def svg_file(chart: LineChart | HeatMap) -> str:
    """The chart as a file of its own, which follows the reader's choice of light or dark."""
    style = (
        f"svg{{color:#1f2328;{_variables(LIGHT)}font-family:sans-serif}}"
        f"@media(prefers-color-scheme:dark){{svg{{color:#e6e6e6;{_variables(DARK)}}}}}"
    )
    element = svg(chart, "chart").replace(
        "<svg ", '<svg xmlns="http://www.w3.org/2000/svg" width="560" ', 1
    )
    opening, bracket, rest = element.partition(">")
    return f"{opening}{bracket}<style>{style}</style>{rest}\n"


def _variables(colours: Sequence[str]) -> str:
    return "".join(f"--chart-{i}:{colour};" for i, colour in enumerate(colours, 1))


# ---------------------------------------------------------------------------- drawing
def _draw_lines(figure: Figure, chart: LineChart) -> Axes:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes = figure.add_subplot()
    axes.set_xscale(chart.x_scale)
    axes.set_yscale(chart.y_scale)
    for axis, scale in ((axes.xaxis, chart.x_scale), (axes.yaxis, chart.y_scale)):
        if scale == "log":  # its own labels are formulas, and formulas are not read here
            axis.set_major_formatter(FuncFormatter(lambda number, _: _power(number)))
            axis.set_minor_formatter(NullFormatter())
    for number, series in enumerate(chart.series):
        look: dict[str, Any] = {"color": PALETTE[number % len(PALETTE)]}
        if series.mark == "dots":
            look |= {"linestyle": "", "marker": MARKERS[number % len(MARKERS)], "mfc": "none"}
        else:
            look |= {"linestyle": STYLES[number // 2 % len(STYLES)]}
        y = [math.nan if value is None else value for value in series.y]
        axes.plot(series.x, y, label=_words(series.label), **look)
    limits = _limits(chart.series) if chart.y_scale == "linear" else None
    if limits is not None:
        axes.set_ylim(*limits)
    if chart.y_range is not None:
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, chart.y_range[0]), max(high, chart.y_range[1]))
    axes.grid(True, color=INK, alpha=0.12, linewidth=0.6)
    return axes


def _explain(figure: Figure, axes: Axes, chart: LineChart) -> None:
    """Say what the axes are, and which curve is which."""
    _label(axes, chart.x_label, chart.y_label)
    if len(chart.series) > 1:
        columns = _columns([series.label for series in chart.series])
        rows = math.ceil(len(chart.series) / columns)
        figure.set_size_inches(SIZE[0], SIZE[1] + LEGEND_ROW * rows)
        figure.legend(loc="outside upper left", ncols=columns)


def _columns(labels: Sequence[str]) -> int:
    """How many columns of a legend fit beside each other."""
    widest = max(len(_words(label)) for label in labels)
    return max(min(LEGEND_WIDTH // (widest + 8), len(labels)), 1)


def _limits(series: Sequence[Series]) -> tuple[float, float] | None:
    """The range to show where the numbers alone would give a wrong picture; else None.

    A few are so large that the others would be one flat line, or all are the same but for rounding.
    """
    numbers = [y for one in series for y in one.y if y is not None]
    sizes = sorted(map(abs, numbers))
    if not sizes:
        return None
    if 0 < max(numbers) - min(numbers) <= ROUNDING * sizes[-1]:
        return min(numbers) - sizes[-1] / 2, max(numbers) + sizes[-1] / 2
    usual = sizes[int(0.9 * (len(sizes) - 1))]
    if sizes[-1] <= SPIKE * usual or usual == 0:
        return None
    shown = [y for y in numbers if abs(y) <= 3 * usual]
    margin = 0.05 * (max(shown) - min(shown)) or usual
    return min(shown) - margin, max(shown) + margin


def _draw_matrix(figure: Figure, chart: HeatMap) -> None:
    import matplotlib

    axes = figure.add_subplot()
    numbers = [[math.nan if cell is None else cell for cell in row] for row in chart.values]
    colours = matplotlib.colormaps["viridis"].with_extremes(bad="#d62728")
    largest = max((cell for row in chart.values for cell in row if cell is not None), default=0.0)
    image = axes.imshow(
        numbers, cmap=colours, vmin=0.0, vmax=largest or 1.0, aspect="auto", interpolation="none"
    )
    axes.locator_params(integer=True)
    if len(numbers) == 1:
        axes.set_yticks([])
    _label(axes, chart.column_label, chart.row_label)
    figure.colorbar(image, ax=axes, label=_words(chart.value_label))


def _power(number: float) -> str:
    """A power of ten: ``1e-7``."""
    return f"{number:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("1e0", "1")


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(_words(x))
    axes.set_ylabel(_words(y))


def _words(text: str) -> str:
    """A label that fits the picture and that XML can hold."""
    shown = visible(text).translate({0xFFFE: "?", 0xFFFF: "?"})
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"


# ---------------------------------------------------------------------------- for the page
_COLOUR = re.compile("|".join((INK, *PALETTE)))
_FONT = re.compile(r"font-family: [^;]*;? ?")


def _embeddable(text: str, name: str, label: str) -> str:
    """The SVG without what belongs to a file of its own, and with ids of its own."""
    root = ElementTree.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):
            if _bare(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _bare(element.tag)
        element.attrib = {
            _bare(key): _value(_bare(key), value, name) for key, value in element.attrib.items()
        }
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.attrib |= {"role": "img", "aria-label": visible(label), "class": "chart"}
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _bare(name: str) -> str:
    """The name without its namespace: a page knows ``svg`` and all that is in it."""
    return name.rpartition("}")[2]


def _value(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    value = value.replace("url(#", f"url(#{name}-")
    if key == "style":
        return _COLOUR.sub(lambda found: _page_colour(found[0]), _FONT.sub("", value))
    return value


def _page_colour(marker: str) -> str:
    return "currentColor" if marker == INK else f"var(--chart-{PALETTE.index(marker) + 1})"
