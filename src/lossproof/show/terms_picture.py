"""What the terms of a composite loss did over a training, drawn from plain columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Columns = Mapping[str, Sequence[float]]
Drawer = Callable[["Axes"], None]

COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#8f7f00", "#555555",
)  # fmt: skip
"""Okabe and Ito's colours, which look different to colour-blind eyes; the yellow is made darker to
be seen on white, and the black lighter to be no wall where shares are filled."""
STYLES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
"""With more terms than colours the dashes tell them apart."""
SHARES = {"share": "share of the\nweighted gradient", "value_share": "share of the\nweighted value"}
MOST_LINES = 6
"""With more pairs than that their cosines are rows of one map."""
MOST_ROWS = 24
"""Of the pairs in a map those with the lowest cosines are shown."""
MAGNITUDES = {
    "norm": "gradient norm",
    "mean_abs": "mean magnitude\nof the gradient",
    "max_abs": "largest magnitude\nin the gradient",
}
WIDTH, HEIGHT, ROW = 9.0, 2.1, 0.14
"""Inches: the picture, one panel, and one row of a map."""
SETTINGS: dict[str, Any] = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "text.parse_math": False,  # a name may hold dollar signs
}


def picture(names: Sequence[str], columns: Columns) -> Figure:
    """A panel for each thing that is known, above one another, over the steps.

    Args:
        names: the names of the terms.
        columns: ``step``, and ``value/NAME``, ``weight/NAME``, ``share/NAME`` or
            ``value_share/NAME``, ``norm/NAME``, ``mean_abs/NAME`` or ``max_abs/NAME``,
            ``cosine/NAME/NAME``, of equal length; NaN is where a figure is not known.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "a picture needs matplotlib: pip install 'lossproof[plots]'", name="matplotlib"
        ) from error

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        settings: Any = matplotlib.rcParams
        settings.update(SETTINGS)
        drawn = _panels(names, columns)
        heights = [height for height, _ in drawn]
        figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
        panels = figure.subplots(len(drawn), 1, sharex=True, squeeze=False, height_ratios=heights)[
            :, 0
        ]
        for axes, (_, draw) in zip(panels, drawn, strict=True):
            draw(axes)
        panels[-1].set_xlabel("step")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", frameon=False)
    return figure


def _panels(names: Sequence[str], columns: Columns) -> list[tuple[float, Drawer]]:
    """The height of each panel, and what draws it."""
    lines = {"value": "value", "weight": "weight"}
    lines |= {word: title for word, title in MAGNITUDES.items() if _knows(columns, word, names)}
    found: list[tuple[float, Drawer]] = [
        (HEIGHT, partial(_lines, names=names, columns=columns, word=word, title=title))
        for word, title in lines.items()
    ]
    shares = next((word for word in SHARES if _knows(columns, word, names)), None)
    if shares is not None:
        found.insert(2, (HEIGHT, partial(_stack, names=names, columns=columns, word=shares)))
    pairs = [(a, b) for a, b in combinations(names, 2) if f"cosine/{a}/{b}" in columns]
    if len(pairs) > MOST_LINES:
        height = max(HEIGHT, ROW * min(len(pairs), MOST_ROWS))
        found.append((height, partial(_cosine_map, pairs=pairs, columns=columns)))
    elif pairs:
        found.append((HEIGHT, partial(_cosine_lines, pairs=pairs, columns=columns)))
    return found


def _knows(columns: Columns, word: str, names: Sequence[str]) -> bool:
    return any(f"{word}/{name}" in columns for name in names)


def _points(columns: Columns, key: str) -> tuple[list[float], list[float]]:
    """The steps in which a figure is known, and the figure."""
    numbers = columns.get(key, [math.nan] * len(columns["step"]))
    known = [
        (step, one)
        for step, one in zip(columns["step"], numbers, strict=True)
        if math.isfinite(one)
    ]
    return [step for step, _ in known], [one for _, one in known]


def _style(position: int) -> dict[str, Any]:
    return {
        "color": COLOURS[position % len(COLOURS)],
        "linestyle": STYLES[position // len(COLOURS) % len(STYLES)],
    }


def _lines(axes: Axes, names: Sequence[str], columns: Columns, word: str, title: str) -> None:
    everything: list[float] = []
    for position, name in enumerate(names):
        steps, numbers = _points(columns, f"{word}/{name}")
        mark: dict[str, Any] = {"marker": "o", "markersize": 3} if len(steps) == 1 else {}
        axes.plot(steps, numbers, label=name, linewidth=1.3, **_style(position), **mark)
        everything += numbers
    axes.set_ylabel(title)
    _scale(axes, everything)


def _scale(axes: Axes, numbers: Sequence[float]) -> None:
    """A logarithmic axis; numbers of both signs get one that is linear around zero."""
    sizes = sorted(abs(one) for one in numbers if one)
    if not sizes:
        return
    if min(numbers) >= 0:
        axes.set_yscale("log", nonpositive="mask")
    elif sizes[-1] > 100 * sizes[len(sizes) // 2]:
        axes.set_yscale("symlog", linthresh=sizes[len(sizes) // 2])


def _stack(axes: Axes, names: Sequence[str], columns: Columns, word: str) -> None:
    rows = [columns[f"{word}/{name}"] for name in names]
    known = [k for k in range(len(columns["step"])) if any(math.isfinite(row[k]) for row in rows)]
    steps = [columns["step"][k] for k in known]
    bottom = [0.0] * len(known)
    for position, row in enumerate(rows):
        shares = (row[k] if math.isfinite(row[k]) else 0.0 for k in known)
        top = [low + share for low, share in zip(bottom, shares, strict=True)]
        colour = COLOURS[position % len(COLOURS)]
        hatch = (None, "///", "...", "xxx")[position // len(COLOURS) % 4]
        axes.fill_between(
            steps, bottom, top, facecolor=colour, hatch=hatch, edgecolor="white", linewidth=0.3
        )
        bottom = top
    axes.set(ylabel=SHARES[word], ylim=(0, 1))
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")


def _cosine_lines(axes: Axes, pairs: Sequence[tuple[str, str]], columns: Columns) -> None:
    axes.axhline(0, color="#888888", linewidth=0.8)
    for position, (a, b) in enumerate(pairs):
        steps, numbers = _points(columns, f"cosine/{a}/{b}")
        axes.plot(steps, numbers, label=f"{a}, {b}", linewidth=1.1, **_style(position))
    axes.set(ylabel="cosine", ylim=(-1.05, 1.05))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=3, frameon=False)


def _cosine_map(axes: Axes, pairs: Sequence[tuple[str, str]], columns: Columns) -> None:
    """A row for each pair, blue where the gradients agree and orange where they conflict."""
    rows = {pair: columns[f"cosine/{pair[0]}/{pair[1]}"] for pair in pairs}
    some = next(iter(rows.values()))
    known = [k for k in range(len(some)) if math.isfinite(some[k])]
    means = {pair: sum(row[k] for k in known) / max(1, len(known)) for pair, row in rows.items()}
    lowest = sorted(pairs, key=lambda pair: means[pair])[:MOST_ROWS]
    picture = [[rows[pair][k] for k in known] for pair in lowest]
    steps = [columns["step"][k] for k in known]
    mesh = axes.pcolormesh(
        steps, range(len(lowest)), picture, cmap="PuOr_r", vmin=-1, vmax=1, shading="nearest",
        rasterized=True,
    )  # fmt: skip
    axes.grid(visible=False)
    axes.set_ylabel("cosine" if len(lowest) == len(pairs) else f"{MOST_ROWS} lowest\ncosines")
    axes.set_yticks(range(len(lowest)), [f"{a}, {b}" for a, b in lowest], fontsize=6.5)
    axes.invert_yaxis()
    axes.figure.colorbar(mesh, ax=axes, location="right", pad=0.01)
