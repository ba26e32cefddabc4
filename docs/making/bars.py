"""A small picture: some figures as bars, each with its name before and its number behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

ROW, BAR, NAME, LENGTH, NUMBER = 26, 14, 250, 250, 140
STYLE = (
    "svg{color:#1f2328;--ours:#1f55c0;--theirs:#8a8f98;font:13px sans-serif}"
    "@media(prefers-color-scheme:dark){svg{color:#e6e6e6;--ours:#8fb6ff;--theirs:#7d828c}}"
    "text{fill:currentColor}"
)


@dataclass(frozen=True)
class Bar:
    """One figure."""

    name: str
    share: float
    """Of the longest bar, from 0 to 1."""
    number: str
    ours: bool = False


def picture(bars: Sequence[Bar]) -> str:
    """The bars as SVG, which follows the page into the dark."""
    width, height = NAME + LENGTH + NUMBER, ROW * len(bars)
    words = escape("; ".join(f"{bar.name}: {bar.number}" for bar in bars), quote=True)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'role="img" aria-label="{words}"><style>{STYLE}</style>'
    ]
    for row, bar in enumerate(bars):
        middle = ROW * row + ROW / 2
        color = "--ours" if bar.ours else "--theirs"
        length = max(LENGTH * bar.share, 1.5)  # nothing at all is a hairline
        lines += [
            f'<text x="{NAME - 10}" y="{middle + 4:g}" text-anchor="end">{escape(bar.name)}</text>',
            f'<rect x="{NAME}" y="{middle - BAR / 2:g}" width="{length:.1f}" height="{BAR}" '
            f'style="fill:var({color})"/>',
            f'<text x="{NAME + length + 8:.1f}" y="{middle + 4:g}">{escape(bar.number)}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


def shares(rows: Sequence[tuple[str, int, int]], ours: str = "lossproof") -> str:
    """Bars of how many of how many: what begins with `ours` is in our colour."""
    return picture(
        [
            Bar(name, part / all_, f"{part} of {all_}", name.startswith(ours))
            for name, part, all_ in rows
        ]
    )


def amounts(rows: Sequence[tuple[str, float]], unit: str, ours: str = "lossproof") -> str:
    """Bars of amounts; the longest is the largest."""
    most = max(amount for _, amount in rows)
    return picture(
        [
            Bar(name, amount / most, f"{amount:.3g}{unit}", name.startswith(ours))
            for name, amount in rows
        ]
    )
