"""The registry: what all losses share, and how one is found."""

import inspect
import re
import warnings
from pathlib import Path

import pytest
import torch

import lossproof.losses as room
from lossproof.losses import focal_loss, log_cosh_loss, poisson_nll_loss
from lossproof.losses.catalogue import catalogue, named, nearest, search

ENTRIES = catalogue()
HALF = torch.float16


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_the_page_has_all_its_parts(entry):
    doc = entry.doc
    assert re.match(r"[A-Z].*[.]$", entry.summary), entry.summary
    assert len(entry.summary) <= 100
    for part in (".. math::", "Args:", "Shape:", "Raises:", "Example:", "Source:"):
        assert part in doc, f"{entry.name} has no {part}"
    assert re.search(r"\(\d{4}\)", doc.partition("Source:")[2]), f"{entry.name}: no year"
    for name in inspect.signature(entry.function or entry.module).parameters:
        told = re.search(rf"^\s+(\w+, )*{name}(, \w+)*:", doc, re.MULTILINE)
        assert told, f"{entry.name}: `{name}` is not told"


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_it_can_be_imported_from_the_room(entry):
    assert getattr(room, entry.module_name) is entry.module
    assert entry.module_name in room.__all__
    if entry.function is not None:
        assert getattr(room, entry.name) is entry.function
        assert entry.name in room.__all__


def test_nothing_else_is_exported():
    names = {n for e in ENTRIES for n in (e.name if e.function else e.module_name, e.module_name)}
    assert set(room.__all__) - names <= {"sequence_log_probs"}


def test_search_finds_by_name_summary_and_other_words():
    assert search("log cosh")[0].name == "log_cosh_loss"
    assert "sigmoid_focal_loss" in {entry.name for entry in search("retinanet")}
    assert search("no such thing") == ()
    assert search("") == ENTRIES


def test_names_are_read_leniently():
    wanted = named("focal_loss")
    for name in ("focal", "FocalLoss", "focal loss", "FOCAL-LOSS"):
        assert named(name) is wanted
    assert named("nothing") is None
    assert "triplet_margin_loss" in nearest("tripet")


def test_half_precision_is_computed_in_float32():
    # exp(12) is above 65504, the largest number of float16.
    log_rate, count = torch.tensor([12.0, 1.0], dtype=HALF), torch.tensor([162_000.0, 3.0])
    wide = poisson_nll_loss(log_rate.float(), count, reduction="none")
    mixed = poisson_nll_loss(log_rate, count, reduction="none")
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, wide)
    assert log_cosh_loss(log_rate, log_rate).dtype == HALF


def test_under_autocast_the_result_stays_float32():
    logits, labels = torch.randn(4, 3, dtype=torch.bfloat16), torch.tensor([0, 2, 1, 1])
    with torch.autocast("cpu", torch.bfloat16):
        found = focal_loss(logits, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, focal_loss(logits.float(), labels))


@pytest.mark.parametrize(("options", "reduction"), [
    ({"size_average": False}, "sum"), ({"reduce": False}, "none"), ({"size_average": True}, "mean"),
])  # fmt: skip
def test_options_of_old(options, reduction):
    x, y = torch.tensor([1.0, 2.0]), torch.zeros(2)
    with pytest.warns(DeprecationWarning, match=f"use reduction='{reduction}'") as caught:
        found = log_cosh_loss(x, y, **options)
    assert caught[0].filename == __file__
    assert torch.equal(found, log_cosh_loss(x, y, reduction=reduction))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_cosh_loss(x, y)


def test_the_stub_is_up_to_date():
    import runpy

    root = Path(__file__).parents[2]
    stub = runpy.run_path(str(root / "scripts" / "write_losses_stub.py"))
    assert stub["STUB"].read_text(encoding="utf-8") == stub["stub"](), (
        "run `python scripts/write_losses_stub.py`"
    )
