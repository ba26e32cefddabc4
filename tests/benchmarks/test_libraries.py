"""The losses of other libraries are right as they are called, and their defects are there."""

import re
import sys

import pytest
import torch
from benchmarks.libraries.catalogue import LIBRARIES, Library
from benchmarks.libraries.defects import DEFECTS
from benchmarks.libraries.draw import Draw
from benchmarks.libraries.run import main
from benchmarks.libraries.stand_ins import stand_ins
from benchmarks.libraries.tables import figures, page, summary

from lossproof.checks.rules import RULES

# What a library warns of as it is imported or called is its own affair.
pytestmark = pytest.mark.filterwarnings("ignore")


def needs(library):
    missing = not LIBRARIES[library].installed
    return pytest.param(
        library, marks=pytest.mark.skipif(missing, reason=f"{library} is not installed")
    )


EACH_LIBRARY = [needs(name) for name in LIBRARIES]


@pytest.mark.parametrize("library", EACH_LIBRARY)
def test_every_loss_has_a_finite_value_and_gradient(library):
    wrong = {}
    for name, entry in LIBRARIES[library].entries().items():
        given = entry.inputs(0)
        value = entry.make()(*given)
        leaves = [v for v in given if isinstance(v, torch.Tensor) and v.requires_grad]
        gradients = torch.autograd.grad(value.sum(), leaves)
        if not all(torch.isfinite(t).all() for t in (value, *gradients)):
            wrong[name] = "is not finite"
        elif not gradients[0].any():
            wrong[name] = "has a gradient of zero"
    assert wrong == {}


@pytest.mark.parametrize("library", EACH_LIBRARY)
def test_the_inputs_depend_on_the_seed_alone(library):
    for name, entry in LIBRARIES[library].entries().items():
        first, again, other = (entry.inputs(seed)[0] for seed in (1, 1, 2))
        assert torch.equal(first, again), name
        assert not torch.equal(first, other), name
        assert first.requires_grad and first.is_leaf, name


@pytest.mark.parametrize("library", EACH_LIBRARY)
def test_a_known_defect_is_shown(library):
    known = [defect for defect in DEFECTS if defect.library == library]
    assert [defect.title for defect in known if not defect.shows()] == []


def test_a_defect_is_of_a_loss_that_is_checked_and_of_a_rule_that_exists():
    for defect in DEFECTS:
        assert defect.codes <= set(RULES)
        if LIBRARIES[defect.library].installed:
            assert defect.loss in LIBRARIES[defect.library].entries()


def test_torch_and_the_three_first_libraries_have_a_hundred_losses():
    four = ["torch.nn", "monai", "kornia", "auraloss"]
    if not all(LIBRARIES[name].installed for name in four):
        pytest.skip("not all of them are installed")
    assert len(LIBRARIES["torch.nn"].entries()) == 35
    assert sum(len(LIBRARIES[name].entries()) for name in four) >= 100


def test_the_parameters_of_a_loss_are_the_same_each_time_and_the_generator_is_left_alone():
    entry = LIBRARIES["torch.nn"].entries()["LinearCrossEntropyLoss"]
    before = torch.get_rng_state()
    first, second = entry.make(), entry.make()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, first.parameters(), second.parameters()))


def test_what_is_drawn_lies_where_it_should():
    d = Draw(3)
    assert torch.allclose(d.distributions(5, 4).sum(1), torch.ones(5))
    assert torch.equal(d.one_hot(3, 4, 2).sum(1), torch.ones(4, 2))
    assert set(d.signs(50).tolist()) == {-1.0, 1.0}
    assert 0 < d.uniform(1000).min() < d.uniform(1000).max() < 1
    assert d.labels(7, 500).unique().tolist() == list(range(7))


def test_a_stand_in_is_there_for_the_import_and_no_longer():
    with stand_ins("package_that_is_not_there", "package_that_is_not_there.part"):
        from package_that_is_not_there import function
        from package_that_is_not_there.part import Base

        class Inherits(Base):
            pass

    with pytest.raises(ImportError, match=r"`function` belongs to a package that is not installed"):
        function(1)
    with pytest.raises(ImportError):
        Inherits()
    with pytest.raises(ModuleNotFoundError):
        import package_that_is_not_there  # noqa: F401


def test_a_package_that_is_there_is_not_replaced():
    import json

    with stand_ins("json"):
        assert sys.modules["json"] is json
    assert sys.modules["json"] is json


def record(library, loss, *codes, severity="error", seconds=1.0, error=None):
    findings = [{"code": c, "severity": severity, "cause": None, "message": ""} for c in codes]
    return {
        "library": library, "loss": loss, "findings": findings, "seconds": seconds, "error": error,
    }  # fmt: skip


def test_a_defect_is_a_hit_another_code_a_false_alarm_and_speed_is_counted_apart():
    counted = figures(
        [
            record("torch.nn", "SoftMarginLoss", "LP302", "LP106"),
            record("torch.nn", "MSELoss", "LP302", severity="warning"),
            record("torch.nn", "L1Loss", "LP501", severity="performance"),
            record("auraloss", "LogCoshLoss"),
        ]
    )
    torch_counts = counted["libraries"]["torch.nn"]
    assert torch_counts["false_alarms"] == {
        "torch.nn SoftMarginLoss": ["LP106"],
        "torch.nn MSELoss": ["LP302"],
    }
    assert torch_counts["with_false_alarm"] == 2
    assert torch_counts["defects_known"] == torch_counts["defects_reported"] == 1
    assert torch_counts["performance_findings"] == 1
    assert counted["libraries"]["auraloss"]["missed"][0].startswith("auraloss LogCoshLoss")
    assert counted["all"]["losses"] == 4


def test_a_defect_that_the_check_told_of_is_a_hit_and_its_weight_is_told():
    counted = figures(
        [record("entmax", "Entmax15Loss", "LP304"), record("entmax", "SparsemaxLoss", "LP304")]
    )["all"]
    assert counted["with_false_alarm"] == 0
    assert counted["with_alarm_if_later_defects_are_not_granted"] == 2
    assert counted["defects_reported"] == 2
    assert counted["defects_known_before"] == counted["defects_reported_known_before"] == 0
    assert counted["reported"][0].startswith("entmax SparsemaxLoss; Entmax15Loss: ")


def test_the_times_are_a_median_a_percentile_and_the_slowest_five():
    answers = [record("monai", f"loss {n}", seconds=float(n)) for n in range(1, 11)]
    seconds = figures(answers)["all"]["seconds"]
    assert seconds["median"] == 5.5
    assert seconds["percentile_90"] == 9
    assert list(seconds["slowest"].values()) == [10, 9, 8, 7, 6]


def test_the_page_and_the_summary_name_every_false_alarm_and_every_check_that_failed():
    answers = [
        record("torch.nn", "MSELoss", "LP302"),
        record("monai", "DiceLoss", error="ValueError: no"),
    ]
    machine = dict.fromkeys(
        ("date", "processor", "cores", "threads", "system", "python", "torch", "lossproof",
         "source"), "?",
    )  # fmt: skip
    counted = figures(answers)
    data = {"figures": counted, "machine": machine, "versions": {"monai": "1"}, "workers": 2}
    for text in ("\n\n".join(page(data)), summary(counted)):
        assert "torch.nn MSELoss" in text and "LP302" in text
        assert "monai DiceLoss: ValueError: no" in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nolib", "no library `nolib`; there are torch.nn, monai"),
        ("monai", "`monai` is not installed: benchmarks/README.md says how to install it"),
    ],
)
def test_a_library_that_is_unknown_or_not_there_is_refused(monkeypatch, name, words):
    absent = Library("monai", "package_that_is_not_there", "monai_losses")
    monkeypatch.setitem(LIBRARIES, "monai", absent)
    with pytest.raises(SystemExit, match=re.escape(words)):
        main(only=name)
