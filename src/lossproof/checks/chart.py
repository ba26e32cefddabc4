"""A picture of what was measured, as plain data: no drawing and no torch.

A number that is not finite has no place on paper: it is ``None`` here, and its caption says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Scale = Literal["linear", "log"]
Mark = Literal["line", "dots"]
Number = float | None


@dataclass(frozen=True)
class Series:
    """One curve, or one set of dots: ``y[i]`` belongs to ``x[i]``."""

    label: str
    x: tuple[float, ...]
    y: tuple[Number, ...]
    mark: Mark = "line"


@dataclass(frozen=True)
class LineChart:
    """Curves over a common axis."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    caption: str = ""
    """What it shows and how to read it, in a sentence or two."""
    x_scale: Scale = "linear"
    y_scale: Scale = "linear"
    y_range: tuple[float, float] | None = None
    """What is to be in view whatever the numbers are, so that they can be read against it."""


@dataclass(frozen=True)
class HeatMap:
    """A small matrix, one coloured cell for each number."""

    title: str
    row_label: str
    column_label: str
    value_label: str
    values: tuple[tuple[Number, ...], ...]
    """Row by row."""
    caption: str = ""


@dataclass(frozen=True)
class Unmeasured:
    """A chart that there is none of, and why."""

    title: str
    why: str


Chart = LineChart | HeatMap | Unmeasured

_KINDS: dict[str, type[LineChart] | type[HeatMap] | type[Unmeasured]] = {
    "line": LineChart,
    "heat map": HeatMap,
    "unmeasured": Unmeasured,
}


def chart_to_dict(chart: Chart) -> dict[str, Any]:
    """The chart as JSON-safe data; :func:`chart_from_dict` gives it back."""
    kind = next(name for name, cls in _KINDS.items() if isinstance(chart, cls))
    return {"kind": kind, **asdict(chart)}


def chart_from_dict(data: Mapping[str, Any]) -> Chart:
    """Rebuild a chart from :func:`chart_to_dict`, also where JSON turned its tuples into lists."""
    parts = {name: _as_tuples(value) for name, value in data.items() if name != "kind"}
    if data["kind"] == "line":
        parts["series"] = tuple(
            Series(**{name: _as_tuples(value) for name, value in series.items()})
            for series in data["series"]
        )
    return _KINDS[data["kind"]](**parts)


def _as_tuples(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_as_tuples(item) for item in value)
    return value
