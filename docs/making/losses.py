"""The pages of the catalogue, and the pictures on them.

A page is made from the loss's own definition, and its picture from its code: the value and the
derivative along a line through the example inputs, with finite differences beside them.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from lossproof.checks.chart import LineChart
from lossproof.checks.curves import curves
from lossproof.checks.examination import Examination
from lossproof.checks.inputs import inputs_for
from lossproof.checks.subject import subject_of
from lossproof.losses.catalogue import CatalogueEntry, catalogue
from lossproof.losses.torch_nn import TORCH_LOSSES
from lossproof.show.loss_page import index, page
from lossproof.show.plots import svg_file

FOLDER = Path(__file__).parents[1] / "losses"
PICTURES = "pictures"
INTRODUCTION = """\
# The catalogue

{count} losses with one convention. Each is a function and a Module, passes every check of
lossproof, and stands a battery of its own (`tests/losses/test_battery.py`). This page and the pages
behind it are made from the code by `python docs/build.py`; `lossproof losses WORDS` finds one from
the command line, and [the gallery](../gallery.md) shows the curves of all.

"""


def pages() -> Mapping[Path, str]:
    """The text of each page, by its file."""
    entries = catalogue()
    written = {
        FOLDER / "README.md": INTRODUCTION.format(count=len(entries)) + index(entries, TORCH_LOSSES)
    }
    for entry in entries:
        links = [f"{PICTURES}/{name}" for name in pictures_of(entry)]
        written[FOLDER / f"{entry.name}.md"] = page(entry, links)
    return written


def pictures_of(entry: CatalogueEntry) -> list[str]:
    """The names of the pictures of a loss."""
    return sorted(file.name for file in (FOLDER / PICTURES).glob(f"{entry.name}-[0-9].svg"))


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


def charts_of(entry: CatalogueEntry) -> list[LineChart]:
    """The value and the derivative along a line; none where no number of the input can move."""
    torch.manual_seed(0)
    subject = subject_of(entry.module(**entry.options))
    case = Examination(subject, inputs_for(subject, [entry.inputs[0]], 0))
    found = curves(case, hold_stops=True, patient=True)
    return [chart for chart in found if isinstance(chart, LineChart)]
