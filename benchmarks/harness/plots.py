"""Pictures of a study, as SVG that is the same each time it is drawn from the same results."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.study import WHOLE

COLOURS = {"ours": "#0072b2", "plain": "#999999", "peer": "#e69f00", "floor": "#000000"}
"""Those of Okabe and Ito (2008), which the colour-blind can tell apart."""


@dataclass(frozen=True)
class Picture:
    """A picture on a page."""

    name: str
    """The name of its file, without its ending."""
    words: str
    """What it shows, for those who do not see it."""
    draw: Callable[[], str]
    """Draws it, as SVG."""

    @property
    def markdown(self) -> str:
        return f"![{self.words}](pictures/{self.name}.svg)"


def bars(data: dict[str, Any], key: str, title: str, phase: str = WHOLE) -> Picture:
    """A bar for each method of each case, with quartiles where there are any."""
    words = f"{title}, by case and method"
    return Picture(f"{data['study']}_{key}", words, lambda: _bars(data, key, title, phase))


def _bars(data: dict[str, Any], key: str, title: str, phase: str) -> str:
    from matplotlib.figure import Figure

    cases = [case for case in data["cases"] if any(key in m for m in case["methods"].values())]
    heights = [1 + sum(key in m for m in case["methods"].values()) for case in cases]
    figure = Figure(figsize=(7.0, 0.25 * sum(heights) + 0.6), layout="constrained")
    rooms = figure.subplots(len(cases), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
    for case, axes in zip(cases, rooms[:, 0], strict=True):
        entries = {name: m[key] for name, m in case["methods"].items() if key in m}
        values = [_value(entry, phase) for entry in entries.values()]
        axes.barh(
            range(len(values)), [v[1] for v in values],
            xerr=[[v[1] - v[0] for v in values], [v[2] - v[1] for v in values]],
            color=[COLOURS[data["kinds"][name]] for name in entries],
            error_kw={"ecolor": "#444444", "elinewidth": 0.8},
        )  # fmt: skip
        for place, (_, middle, high) in enumerate(values):
            axes.annotate(
                f"{middle:.3g}", (high, place), (3, 0), textcoords="offset points",
                va="center", fontsize=7,
            )  # fmt: skip
        axes.set_yticks(range(len(values)), list(entries), fontsize=7)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_title(case["case"], loc="left", fontsize=8)
        axes.tick_params(axis="x", labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    rooms[-1, 0].set_xlabel(title, fontsize=8)
    return svg(figure)


def _value(entry: Any, phase: str) -> tuple[float, float, float]:
    if isinstance(entry, dict):
        low, high = entry[phase]["quartiles"]
        return min(low, entry[phase]["median"]), entry[phase]["median"], high
    return entry, entry, entry


def svg(figure: Any) -> str:
    """A figure of matplotlib as SVG: without a date, with the same names in it each time."""
    import matplotlib as mpl

    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "lossproof", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    lines = file.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"
