"""The losses of entmax."""

from __future__ import annotations

from typing import Any

import entmax

from benchmarks.libraries.draw import Draw, wanted
from benchmarks.libraries.entry import Entries

ENTRIES = Entries()


def classes(d: Draw) -> tuple[Any, ...]:
    return wanted(d.normal(9, 5)), d.labels(5, 9)


for loss in (
    entmax.SparsemaxLoss, entmax.SparsemaxBisectLoss, entmax.Entmax15Loss,
    entmax.EntmaxBisectLoss, entmax.NormmaxBisectLoss,
):  # fmt: skip
    ENTRIES.add(loss.__name__, loss, classes)
