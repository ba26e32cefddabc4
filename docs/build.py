"""Write the pages of the catalogue and of the balancers: ``python docs/build.py``.

Each page is made from the loss's own definition, and its picture from its code: the value and the
derivative along a line through the example inputs, with finite differences beside them. The page of
a balancer is made from its docstring, and what its weights sum to is found by training with it.
``python docs/build.py --text`` leaves the pictures as they are.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch

from lossproof.checks.chart import LineChart
from lossproof.checks.curves import curves
from lossproof.checks.examination import Examination
from lossproof.checks.inputs import inputs_for
from lossproof.checks.subject import subject_of
from lossproof.losses.catalogue import CatalogueEntry, catalogue
from lossproof.losses.torch_nn import TORCH_LOSSES
from lossproof.show import balancer_page
from lossproof.show.balancer_page import Facts
from lossproof.show.loss_page import index, page
from lossproof.show.plots import svg_file
from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.listing import NAMES, BalancerEntry, balancers
from lossproof.terms.balance.point_balancer import PointBalancer
from lossproof.terms.balance.samples import SampledBalancer

FOLDER = Path(__file__).parent / "losses"
TERMS = Path(__file__).parent / "terms"
TABLE = "<!-- balancers: written by docs/build.py -->\n"
PICTURES = "pictures"
INTRODUCTION = """\
# The catalogue

{count} losses with one convention. Each is a function and a Module, passes every check of
lossproof, and stands a battery of its own (`tests/losses/test_battery.py`). This page and the pages
behind it are made from the code by `python docs/build.py`; `lossproof losses WORDS` finds one from
the command line.

"""


def charts_of(entry: CatalogueEntry) -> list[LineChart]:
    """The value and the derivative along a line; none where no number of the input can move."""
    torch.manual_seed(0)
    subject = subject_of(entry.module(**entry.options))
    case = Examination(subject, inputs_for(subject, [entry.inputs[0]], 0))
    found = curves(case, hold_stops=True, patient=True)
    return [chart for chart in found if isinstance(chart, LineChart)]


def pages() -> dict[Path, str]:
    """The text of each page, by its file."""
    entries = catalogue()
    written = {
        FOLDER / "README.md": INTRODUCTION.format(count=len(entries)) + index(entries, TORCH_LOSSES)
    }
    for entry in entries:
        drawn = sorted((FOLDER / PICTURES).glob(f"{entry.name}-[0-9].svg"))
        links = [f"{PICTURES}/{file.name}" for file in drawn]
        written[FOLDER / f"{entry.name}.md"] = page(entry, links)
    return written


def terms_pages() -> dict[Path, str]:
    """The text of the page of each balancer, and the guide with the table of all."""
    entries = balancers()
    facts = {entry.name: facts_of(entry) for entry in entries}
    guide = TERMS / "README.md"
    before, _, after = guide.read_text(encoding="utf-8").split(TABLE)
    table = balancer_page.table(entries, facts)
    written = {guide: f"{before}{TABLE}\n{table}\n{TABLE}{after}"}
    for entry in entries:
        written[TERMS / f"{entry.name}.md"] = balancer_page.page(entry, facts[entry.name])
    return written


def facts_of(entry: BalancerEntry) -> Facts:
    """What a balancer keeps, and what its weights sum to in a short training."""
    if entry.kind == "adapter":
        return Facts("what the method gives", ())
    balancer = entry.example()
    kept = {key.partition("._extra_state")[0] for key in balancer.state_dict()}
    state = tuple(sorted(kept - {"weights", "_extra_state"}))
    if isinstance(balancer, PointBalancer):
        return Facts("one weight for each point", state)
    if entry.name in {"FixedWeights", "ScheduledWeights"}:
        return Facts("what you give", state)
    sums = torch.stack([step.sum() for step in short_training(balancer)])
    for number, words in ((1.0, "1"), (float(len(NAMES)), "K")):
        if torch.allclose(sums, torch.full_like(sums, number)):
            return Facts(words, state)
    if torch.allclose(sums.abs(), torch.ones_like(sums)):
        return Facts("1 or -1", state)
    return Facts("nothing fixed", state)


def short_training(balancer: Balancer) -> list[torch.Tensor]:
    """The weights of eight steps with terms that conflict and are of very different sizes."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.zeros(4, 1, requires_grad=True)
    optimizer = torch.optim.SGD([weight, *balancer.parameters()], lr=1e-6)
    found = []
    for _ in range(8):
        optimizer.zero_grad()
        points = 1 + torch.randn(len(NAMES), 6, 4, generator=generator)
        given = {
            name: (10.0**k) * ((points[k] @ weight)[:, 0] + (-1) ** k)
            for k, name in enumerate(NAMES)
        }
        found.append(balancer.backward(as_wanted(balancer, given), [weight]).weights)
        optimizer.step()
    return found


def as_wanted(balancer: Balancer, residuals: dict[str, torch.Tensor]) -> dict[str, object]:
    """Residuals, or their mean squares, or those of its parts, as the balancer takes them."""
    if isinstance(balancer, SampledBalancer):
        parts = {name: one.view(balancer.samples, -1) for name, one in residuals.items()}
        return {name: part.square().mean(1) for name, part in parts.items()}
    if type(balancer).scalars is not Balancer.scalars:
        return dict(residuals)
    return {name: residual.square().mean() for name, residual in residuals.items()}


def draw() -> None:
    """Draw the pictures of each loss."""
    folder = FOLDER / PICTURES
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for entry in catalogue():
        charts = charts_of(entry)
        for number, chart in enumerate(charts):
            (folder / f"{entry.name}-{number}.svg").write_text(svg_file(chart), encoding="utf-8")
        if not charts:
            sys.stderr.write(f"no picture of {entry.name}\n")


def main() -> None:
    """Draw all pictures and write all pages; a page whose loss or balancer is gone goes, too."""
    if "--text" not in sys.argv[1:]:
        draw()
    for folder, wanted in ((FOLDER, pages()), (TERMS, terms_pages())):
        for old in folder.glob("*.md"):
            if old not in wanted:
                old.unlink()
        for file, text in wanted.items():
            file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
