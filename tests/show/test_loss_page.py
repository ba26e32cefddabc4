"""The page of a loss in Markdown, and the lists."""

import re

import pytest

from lossproof.losses.catalogue import catalogue, named
from lossproof.losses.torch_nn import TORCH_LOSSES
from lossproof.show.loss_page import as_data, index, listing, page, torch_listing

ENTRIES = catalogue()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_nothing_of_the_docstring_is_lost(entry):
    text = page(entry)
    for word in re.findall(r"[A-Za-z]{4,}", entry.doc):
        if word not in {"Args", "math", "func", "class"}:  # names of roles
            assert word in text, word
    assert ":math:" not in text
    assert ".. math::" not in text
    assert not re.search(r"(?<!`)``(?!`)", text)
    assert text.count("```") % 2 == 0


def test_the_parts_of_a_page():
    text = page(named("log_cosh"), ["pictures/one.svg"])
    assert "```math\n" in text
    assert "- **`target`**: targets" in text
    assert '<img src="pictures/one.svg"' in text
    assert "## In other libraries\n\n- **" in text
    assert "```python\n>>> import torch" in text
    assert "from lossproof.losses import log_cosh_loss, LogCoshLoss" in text


def test_lists_name_everything_once():
    assert all(listing(ENTRIES).count(f"  {entry.name} ") == 1 for entry in ENTRIES)
    text = index(ENTRIES, TORCH_LOSSES)
    assert all(f"]({entry.name}.md)" in text for entry in ENTRIES)
    assert all(f"`{loss.qualified_name}`" in text for loss in TORCH_LOSSES)
    assert torch_listing(TORCH_LOSSES).count("torch.nn.") >= len(TORCH_LOSSES)


def test_data_is_plain():
    data = as_data(named("cox_ph"))
    assert data["family"] == "survival"
    assert set(data["properties"]) == {
        "convex", "bounded_gradient", "minimal_at_target", "coupled"
    }  # fmt: skip
