"""The picture of the rooms and of who imports whom, drawn from the imports themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from docs.making.imports import Kind, arrows

FOLDER = Path(__file__).parents[1]
PICTURE = FOLDER / "architecture.svg"
PAGE = FOLDER / "architecture.md"
Point = tuple[float, float]
TABLE = "<!-- imports: written by docs/build.py -->\n"
WIDTH, HEIGHT = 900, 560
STYLE = (
    "svg{color:#1f2328;--box:#eef2fb;--edge:#1f55c0;--line:#57606a;font:15px sans-serif}"
    "@media(prefers-color-scheme:dark)"
    "{svg{color:#e6e6e6;--box:#24304a;--edge:#8fb6ff;--line:#a8b0ba}}"
    "text{fill:currentColor;text-anchor:middle}.what{font-size:11.5px;opacity:.8}"
    "rect{fill:var(--box);stroke:var(--edge)}.public{stroke-width:2.5}"
    "path{fill:none;stroke:var(--line);stroke-width:1.4}.tip{fill:var(--line);stroke:none}"
    ".late{stroke-dasharray:5 4}"
)


@dataclass(frozen=True)
class Room:
    """A box of the picture."""

    x: float
    y: float
    what: str
    title: str = ""
    width: float = 150
    height: float = 52


ROOMS: Mapping[str, Room] = {
    "integrations": Room(150, 60, "Lightning, Trainer, trackers ...", width=200),
    "cli": Room(470, 60, "lossproof check, explain ...", title="command line", width=200),
    "pytest_plugin": Room(790, 60, "a fixture and a marker", title="pytest plugin", width=170),
    "watcher": Room(340, 190, "the training guard"),
    "show": Room(790, 190, "text, HTML, JSON, SARIF ...", width=190),
    "checks": Room(560, 240, "rules, witnesses, reports", width=180),
    "terms": Room(150, 386, "gradients, balancers"),
    "speed": Room(400, 402, "fuse, chunk, pairs"),
    "losses": Room(690, 402, "the catalogue"),
    "write": Room(450, 510, "reduce, as_module, from_numpy, surrogates, arguments", width=840),
}
"""Where each room stands; what it imports stands below it, as far as it goes."""
FOUNDATION = "write"
"""The room that all stand on: arrows to it go straight down."""
BENDS: Mapping[tuple[str, str], Point] = {
    ("cli", "losses"): (730, 170),
    ("integrations", "speed"): (210, 290),
    ("terms", "show"): (600, 335),
}
"""Where an arrow that would run into a room in between is drawn to."""
DOWN_AT: Mapping[str, float] = {"integrations": 60, "watcher": 290}
"""Where an arrow to the foundation starts, where the middle of the room would not do."""


def pages() -> Mapping[Path, str]:
    """The picture, and the page with its table of the arrows, by their files."""
    found = {ends: kind for ends, kind in arrows().items() if ends[0] != "face"}
    public = {imported for importer, imported in arrows() if importer == "face"}
    before, _, after = PAGE.read_text(encoding="utf-8").split(TABLE)
    text = f"{before}{TABLE}\n{table(found)}\n{TABLE}{after}"
    return {PICTURE: picture(found, public), PAGE: text}


def table(found: Mapping[tuple[str, str], Kind]) -> str:
    """Who imports whom, in Markdown."""
    lines = ["| room | imports | loads on use |", "|---|---|---|"]
    for room in ROOMS:
        cells = [
            ", ".join(f"`{to}`" for (who, to), one in found.items() if who == room and one is kind)
            for kind in (Kind.AT_ONCE, Kind.ON_USE)
        ]
        lines.append(f"| `{room}` | {cells[0] or 'nothing'} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def picture(found: Mapping[tuple[str, str], Kind], public: set[str]) -> str:
    """The rooms and their arrows as SVG; a room whose names `import lossproof` offers is framed."""
    words = "; ".join(f"{who} imports {to}" for who, to in found)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{words}"><style>{STYLE}</style>'
    ]
    for ends, kind in found.items():
        lines += arrow(*ends, kind, both=ends[::-1] in found)
    for name, room in ROOMS.items():
        lines += box(name, room, "public" if name in public else "inner")
    return "\n".join([*lines, "</svg>"]) + "\n"


def box(name: str, room: Room, kind: str) -> Iterator[str]:
    """A room."""
    yield (
        f'<rect class="{kind}" x="{room.x - room.width / 2:g}" y="{room.y - room.height / 2:g}" '
        f'width="{room.width:g}" height="{room.height:g}" rx="8"/>'
    )
    yield f'<text x="{room.x:g}" y="{room.y - 3:g}" font-weight="bold">{room.title or name}</text>'
    yield f'<text x="{room.x:g}" y="{room.y + 15:g}" class="what">{room.what}</text>'


def arrow(who: str, to: str, kind: Kind, *, both: bool) -> Iterator[str]:
    """An arrow from a room to what it imports, beside the one that comes back if there is one."""
    start, end = ROOMS[who], ROOMS[to]
    first, last = (start.x, start.y), (end.x, end.y)
    if to == FOUNDATION:
        first = (DOWN_AT.get(who, start.x), start.y)
        last = (first[0], end.y)
    if both:
        side = 9 if kind is Kind.AT_ONCE else -9
        first, last = (first[0], first[1] + side), (last[0], last[1] + side)
    bend = BENDS.get((who, to))
    a = edge(first, bend or last, start)
    b = edge(last, bend or first, end)
    middle = bend or ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2)
    late = "late" if kind is Kind.ON_USE else "at-once"
    yield (
        f'<path class="{late}" d="M{a[0]:.1f} {a[1]:.1f}Q{middle[0]:.1f} {middle[1]:.1f} '
        f'{b[0]:.1f} {b[1]:.1f}"><title>{who} imports {to}</title></path>'
    )
    yield tip(middle, b)


def edge(inside: Point, outside: Point, room: Room) -> Point:
    """Where the line from a point within a room to one outside crosses its frame."""
    dx, dy = outside[0] - inside[0], outside[1] - inside[1]
    steps = []
    for delta, at, middle, half in (
        (dx, inside[0], room.x, room.width / 2),
        (dy, inside[1], room.y, room.height / 2),
    ):
        if delta:
            steps.append((middle + (half if delta > 0 else -half) - at) / delta)
    step = min(steps)
    return inside[0] + step * dx, inside[1] + step * dy


def tip(before: Point, at: Point) -> str:
    """The head of an arrow that comes from one point and ends at another."""
    dx, dy = at[0] - before[0], at[1] - before[1]
    length = (dx * dx + dy * dy) ** 0.5
    ux, uy = dx / length, dy / length
    corners = [
        at,
        (at[0] - 10 * ux - 4 * uy, at[1] - 10 * uy + 4 * ux),
        (at[0] - 10 * ux + 4 * uy, at[1] - 10 * uy - 4 * ux),
    ]
    points = "L".join(f"{x:.1f} {y:.1f}" for x, y in corners)
    return f'<path class="tip" d="M{points}Z"/>'
