"""The whole check, on every loss of the catalogue: nothing is wrong with any."""

from __future__ import annotations

import pytest
import torch

import lossproof
from lossproof.losses.catalogue import CatalogueEntry, catalogue

ENTRIES = [(entry, inputs) for entry in catalogue() for inputs in entry.inputs]
NAMES = [f"{entry.name}[{inputs}]" for entry, inputs in ENTRIES]


@pytest.mark.parametrize(("entry", "inputs"), ENTRIES, ids=NAMES)
@pytest.mark.filterwarnings("ignore")
def test_the_module_passes_the_check(entry: CatalogueEntry, inputs: str) -> None:
    torch.manual_seed(0)
    report = lossproof.check(entry.module(**entry.options), inputs)
    assert not report.findings, str(report)


@pytest.mark.parametrize(("entry", "inputs"), ENTRIES, ids=NAMES)
@pytest.mark.filterwarnings("ignore")
def test_the_function_passes_the_check(entry: CatalogueEntry, inputs: str) -> None:
    if entry.function is None or entry.options:
        pytest.skip("it cannot be called without options, or is a Module alone")
    report = lossproof.check(entry.function, inputs)
    assert not report.findings, str(report)
