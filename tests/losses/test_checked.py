"""The whole check, on every loss of the catalogue: nothing is wrong with any.

A loss that is a function and a Module is checked as one of them here, and as both with
``CATALOGUE=all``, as before a release.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import lossproof
from lossproof.losses.catalogue import CatalogueEntry, catalogue


def forms(entry: CatalogueEntry) -> list[Callable[..., Any]]:
    """The loss as a Module, and as a function where it can be called without options."""
    as_function = [entry.function] if entry.function is not None and not entry.options else []
    return [entry.module, *as_function]


def cases() -> Iterator[Any]:
    """The forms that are checked, and with which inputs."""
    for place, entry in enumerate(catalogue()):
        known = forms(entry)
        wanted = known if os.environ.get("CATALOGUE") == "all" else [known[place % len(known)]]
        for form in wanted:
            for inputs in entry.inputs:
                yield pytest.param(entry, form, inputs, id=f"{form.__name__}[{inputs}]")


@pytest.mark.parametrize(("entry", "form", "inputs"), list(cases()))
@pytest.mark.filterwarnings("ignore")
def test_a_loss_passes_the_check(
    entry: CatalogueEntry, form: Callable[..., Any], inputs: str
) -> None:
    torch.manual_seed(0)
    loss = form(**entry.options) if isinstance(form, type) else form
    report = lossproof.check(loss, inputs)
    assert not report.findings, str(report)


def test_both_forms_occur() -> None:
    checked = [case.values[1] for case in cases()]
    assert any(isinstance(form, type) for form in checked)
    assert any(not isinstance(form, type) for form in checked)
    assert {case.values[0].name for case in cases()} == {entry.name for entry in catalogue()}
