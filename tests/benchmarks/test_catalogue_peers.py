"""The copies of our losses in other libraries: their values, and the page of the study."""

import json
import warnings

import pytest
import torch
from benchmarks.catalogue.battery import COMMON
from benchmarks.catalogue.imported import Imported, Kept, layer
from benchmarks.catalogue.peer import Peer
from benchmarks.catalogue.run import Task, all_peers, compared, main
from benchmarks.catalogue.subject import Call, Subject, of_catalogue, value_and_gradients
from benchmarks.catalogue.tables import AGREE, figures, page, summary
from benchmarks.harness.results import installed

from lossproof.losses.catalogue import catalogue, named

PEERS = all_peers()
LIBRARIES = sorted({peer.library for peer in PEERS})
BESIDES = {"torchmetrics": ("torchvision",)}
"""What a library leaves some of its losses out without."""


@pytest.mark.parametrize("library", LIBRARIES)
def test_values_agree_or_differ_as_told(library):
    absent = installed([library, *BESIDES.get(library, ())])[1]
    if absent:
        pytest.skip(f"{' and '.join(absent)} not installed")
    wrong = {}
    for peer in PEERS:
        if peer.library == library:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = compared(peer)
            if "error" in found or found["agree"] == (peer.difference is not None):
                wrong[f"{peer.loss}, {peer.name}"] = found
    assert wrong == {}


def test_peers_are_of_losses_that_we_have_and_are_told_apart():
    assert [peer.loss for peer in PEERS if named(peer.loss) is None] == []
    calls = [(peer.library, peer.loss, peer.name) for peer in PEERS]
    assert len(set(calls)) == len(calls)
    assert {check for peer in PEERS for check in peer.not_asked} <= set(COMMON)


def test_the_comparison_finds_a_difference():
    def ours(input, target):
        return (input - target).square().mean()

    def theirs(input, target):
        return ours(input, target) * (1 + 1e-5)

    def refuses(input, target):
        raise TypeError("no float64\nhere")

    inputs = "input float[4,3]; target float[4,3]"
    found = compared(Peer("mse_loss", "torch", "theirs", ours, theirs, inputs))
    assert found["agree"] is False
    assert found["distance"] == pytest.approx(1e-5, rel=1e-3)
    assert found["dtype"] == "float64"
    assert compared(Peer("mse_loss", "torch", "ours", ours, ours, inputs))["agree"] is True
    found = compared(Peer("mse_loss", "torch", "refuses", ours, refuses, inputs))
    assert found["error"] == "TypeError: no float64"
    several = compared(Peer("mse_loss", "torch", "several", ours, torch.sub, inputs))
    assert "no scalars" in several["error"]


def test_a_library_is_imported_when_it_is_called_and_a_layer_is_made_once_for_a_dtype():
    absent = Imported("a_package_that_is_not_there", "loss")
    with pytest.raises(ModuleNotFoundError):
        absent(1)
    linear = layer("torch.nn", "Linear", 3, 1)
    one, two = (linear(torch.ones(2, 3, dtype=dtype)) for dtype in (torch.float32, torch.float64))
    assert (one.dtype, two.dtype) == (torch.float32, torch.float64)
    assert torch.equal(one, linear(torch.ones(2, 3)))
    assert torch.allclose(one.double(), two)
    without_state = layer("torch.nn", "MSELoss")
    assert without_state.of(torch.float32) is without_state.of(torch.float64)
    made = []
    kept = Kept(lambda: made.append(1) or torch.sum)
    assert kept(torch.ones(2)) + kept(torch.ones(3)) == 5
    assert made == [1]
    assert Imported("torch", "Tensor.sum")(torch.ones(3)) == 3


def test_inputs_follow_their_specification_and_the_seed():
    subject = Subject(
        "s", torch.nn.functional.mse_loss, "input float[4,3]; target int[4]<3; scale positive[]",
        catalogue()[0],
    )  # fmt: skip
    given = subject.draw(1)
    assert given.names == ("input", "target", "scale")
    assert [tuple(t.shape) for t in given.tensors] == [(4, 3), (4,), ()]
    assert given.predicted == (0, 2)  # what is no target, and has a gradient
    assert [given.batched(i) for i in range(3)] == [True, True, False]
    assert [tuple(t.shape) for t in subject.draw(times=3).tensors] == [(12, 3), (12,), ()]
    again, other = subject.draw(1), subject.draw(2)
    assert all(map(torch.equal, given.tensors, again.tensors))
    assert not torch.equal(given.tensors[0], other.tensors[0])
    wide = given.to(torch.float64)
    assert [t.dtype for t in wide.tensors] == [torch.float64, torch.int64, torch.float64]
    half = given.rows(slice(0, 2))
    assert [tuple(t.shape) for t in half.tensors] == [(2, 3), (2,), ()]
    leaves = given.leaves()
    assert [t.requires_grad for t in leaves.tensors] == [True, False, True]
    assert leaves.tensors[0] is not given.tensors[0]


def test_value_and_gradient_are_those_of_torch():
    given = Call(("input", "target"), (torch.tensor([1.0, 3.0]), torch.tensor([0.0, 0.0])))
    value, gradients = value_and_gradients(torch.nn.functional.mse_loss, given)
    assert value == 5
    assert [g.tolist() for g in gradients] == [[1.0, 3.0]]


def test_a_module_that_learns_has_the_same_parameters_each_time():
    before = torch.get_rng_state()
    one, other = (of_catalogue(named("CenterLoss"))[0] for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    given = one.draw()
    assert torch.equal(one.call(*given.tensors), other.call(*given.tensors))


def record(library, loss="mse_loss", name="call()", *, value=None, **failed):
    common = dict.fromkeys(COMMON) | {key.replace("_", " "): said for key, said in failed.items()}
    answer = {"library": library, "loss": loss, "name": name, "common": common}
    if library == "lossproof":
        return {**answer, "contract": {"weights": None, "swept": failed.get("swept")}}
    agree = {"agree": True, "distance": 1e-9, "ours": 1.0, "theirs": 1.0, "difference": None}
    return {**answer, "value": agree | (value or {})}


ANSWERS = [
    record("lossproof"),
    record("torch", half="too far", no_items="nan"),
    record("torch", "l1_loss"),
    record("monai", no_items="nan", value={"agree": False, "distance": 0.5, "theirs": 1.5}),
    record("monai", value={"agree": False, "difference": "twice ours", "theirs": 2.0}),
    {**record("monai", "l1_loss", value={"difference": "none at all"}), "common": {}},
]


def test_failures_are_counted_by_library_and_by_check():
    counted = figures(ANSWERS)
    checks = len(COMMON)
    torch_, monai = counted["libraries"]["torch"], counted["libraries"]["monai"]
    assert (torch_["losses"], torch_["with_failure"], torch_["failed"]) == (2, 1, 2)
    assert torch_["checks"] == 2 * checks
    assert torch_["failed_besides_no_items"] == 1
    assert torch_["by_check"]["half"] == [1, 2]
    assert monai["losses"] == 2  # the third is only compared
    assert counted["copies"]["losses"] == 4
    assert counted["contract"] == {"checks": 2, "failed": 0}
    assert counted["failures"] == [
        ["torch", "mse_loss", "call()", ["half", "no items"]],
        ["monai", "mse_loss", "call()", ["no items"]],
    ]


def test_a_check_of_ours_that_fails_is_counted():
    assert figures([record("lossproof", swept="off")])["contract"] == {"checks": 2, "failed": 1}


def test_values_are_explained_or_not():
    values = figures(ANSWERS)["values"]
    assert (values["compared"], values["said_to_agree"], values["agree"]) == (5, 3, 2)
    assert values["farthest"] == 0.5
    assert [title.startswith("monai call()") for title in values["unexplained"]] == [True]
    assert len(values["explained"]) == 2
    assert "none at all" in values["said_to_differ_but_agree"][0]


def test_the_summary_and_the_page_tell_everything():
    machine = dict.fromkeys(
        ("date", "processor", "cores", "threads", "system", "python", "torch", "lossproof",
         "source"), "?",
    )  # fmt: skip
    counted = json.loads(json.dumps(figures(ANSWERS)))
    text = "\n\n".join(page({"figures": counted, "machine": machine, "versions": {"monai": "1"}}))
    assert "| torch | 2 | 1 | 2/" in text
    assert "| all but lossproof | 4 | 2 |" in text
    assert "torch 1/2" in text
    assert "twice ours | 1 | 2 |" in text
    assert f"2 of the 3 whose definition is the same agree to a relative {AGREE:.0e}" in text
    assert "| torch | `mse_loss` | `call()` | half, no items |" in text
    for name, check in COMMON.items():
        assert check.__doc__ and f"| {name} | " in text
    said = summary(counted)
    assert "unexplained: monai call()" in said
    assert "no difference: monai call()" in said


def test_what_is_unknown_is_refused():
    with pytest.raises(SystemExit, match="no library and no loss `nolib`"):
        main(only="nolib")
    assert Task("torch", "mse_loss", 3).key == "torch/mse_loss/3"
