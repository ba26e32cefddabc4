"""``lossproof losses``: the catalogue from the command line."""

import json

import pytest
from typer.testing import CliRunner

from lossproof.cli import app
from lossproof.losses.catalogue import catalogue


def answer(*words):
    result = CliRunner().invoke(app, ["losses", *words])
    return result.exit_code, result.output


def test_it_lists_all():
    code, text = answer()
    assert code == 0
    for entry in catalogue():
        assert f"  {entry.name} " in text
        assert entry.summary in text
    assert f"{len(catalogue())} of {len(catalogue())} losses" in text


def test_it_searches():
    code, text = answer("survival")
    assert code == 0
    assert "cox_ph_loss" in text
    assert "dice_loss" not in text


@pytest.mark.parametrize("words", [("focal",), ("FocalLoss",), ("focal_loss",)])
def test_it_shows_one(words):
    code, text = answer(*words)
    assert code == 0
    assert text.startswith("# focal_loss")
    assert "FocalLoss(gamma=2.0" in text
    assert "Lin et al. (2017)" in text
    assert "| convex in the prediction | no |" in text
    assert "See also: " in text
    assert "sigmoid_focal_loss" in text.partition("See also: ")[2]


def test_what_is_found_alone_is_shown():
    _, text = answer("wing")
    assert text.startswith("# wing_loss")


def test_it_knows_those_of_torch():
    code, text = answer("ctc")
    assert code == 0
    assert "torch.nn.CTCLoss" in text
    assert "cannot be differentiated twice" in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_it_gives_json():
    code, text = answer("cox", "--format", "json")
    (loss,) = json.loads(text)
    assert code == 0
    assert loss["name"] == "cox_ph_loss"
    assert loss["properties"]["coupled"] is True


def test_a_typo_is_answered_with_what_is_near():
    code, text = answer("tripet")
    assert code == 2
    assert "triplet_margin_loss" in text
