"""What made a loss or a gradient very large: the term, the samples, the operation."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.watcher.alarm import AlarmKind
from lossproof.watcher.diagnosis import diagnose
from lossproof.watcher.samples import dominating


def of_value(recording, model, term=None):
    return diagnose(AlarmKind.EXPLODING_LOSS, recording.record, model, term=term)


def of_gradient(recording, model, term=None):
    return diagnose(AlarmKind.EXPLODING_GRADIENT, recording.record, model, term=term)


def plain(out, target):
    return (out - target).square().mean()


LOSSES = [
    pytest.param(F.mse_loss, id="function-with-reduction"),
    pytest.param(nn.MSELoss(), id="module-with-reduction"),
    pytest.param(plain, id="without-reduction"),
]


@pytest.mark.parametrize("search", [of_value, of_gradient])
@pytest.mark.parametrize("loss", LOSSES)
def test_two_outliers_among_the_targets(recording, network, loss, search):
    model, target = network(), torch.zeros(32, 1)
    target[9], target[4] = 1e6, 2e6
    recording.terms(loss, recording.model(model, torch.randn(32, 3)), target)
    found = search(recording, model)
    assert found.samples == (4, 9)
    assert "huber_loss" in found.help
    assert found.caveat is None
    if isinstance(loss, nn.Module):
        assert loss.reduction == "mean"


def test_the_term_and_the_operation_that_enlarges_most(recording, network, marked):
    def terms_of(out, scale):
        return {
            "fit": out.square().mean(),
            "ratio": (out.abs() / scale).mean(),  # <-- here
        }

    model, scale = network(), torch.ones(16, 1)
    scale[3] = 1e-8
    terms = recording.terms(terms_of, recording.model(model, torch.randn(16, 3)), scale)
    found = of_value(recording, model)
    assert (found.part, found.phase, found.operation) == ("loss", "forward", "div")
    assert found.location.line == marked(terms_of)
    assert found.text == "out.abs() / scale"
    assert found.samples == (3,)
    assert found.evidence["value"] == pytest.approx(float(terms["ratio"].detach()))
    # Each number is at most 1 before and about 1e8 times as large after.
    assert found.evidence["after"] / found.evidence["before"] > 1e6
    found = of_value(recording, model, "fit")
    assert found.operation != "div"


def test_an_exponential_in_the_model(recording, marked):
    class Scale(nn.Module):
        def forward(self, x):
            return torch.exp(x)  # <-- here

    model = nn.Sequential(nn.Linear(1, 1, bias=False), Scale())
    with torch.no_grad():
        model[0].weight.fill_(30.0)
    recording.terms(nn.L1Loss(), recording.model(model, torch.ones(8, 1)), torch.zeros(8, 1))
    found = of_value(recording, model)
    assert (found.part, found.operation) == ("model", "exp")
    assert found.location.line == marked(Scale)
    assert found.samples == ()
    assert "no few samples explain it: the largest holds 12% of the loss" in found.notes[1]
    assert "clip_grad_norm_" in found.help


def test_parameters_that_ran_away(recording):
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1e9)
    loss = nn.L1Loss(reduction="sum")  # which enlarges 8 times
    recording.terms(loss, recording.model(model, torch.ones(8, 1)), torch.zeros(8, 1))
    found = of_value(recording, model)
    assert found.operation is None
    assert "its largest parameter is in `weight`: 1e+09" in found.notes[-1]


def test_which_term_the_gradient_comes_from(recording, network, marked):
    def terms_of(out):
        return {
            "size": out.square().mean(),
            "root": (out.square().sum(1) + 1e-30).sqrt().mean(),
            "steep": torch.tanh(1e7 * (out - out.detach())).mean(),  # <-- here
        }

    model = network()
    out = recording.model(model, torch.randn(16, 3))
    terms = recording.terms(terms_of, out)
    found = of_gradient(recording, model)
    assert found.notes[0].startswith("the gradient comes from `steep`")
    assert found.location.line == marked(terms_of)
    assert found.operation == "mul"
    sum(terms.values()).backward()
    largest = max(model.named_parameters(), key=lambda one: one[1].grad.norm())[0]
    assert any(f"the largest is that of `{largest}`" in note for note in found.notes)


def test_one_sample_near_a_pole(recording, marked):
    def loss(out, target):
        return torch.log((out - target).abs()).mean()  # <-- here

    model = nn.Linear(2, 1)
    out = recording.model(model, torch.randn(12, 2))
    target = out.detach() + 1.0
    target[8] = out[8].detach() + 1e-6
    recording.terms(loss, out, target)
    found = of_gradient(recording, model)
    assert (found.part, found.phase, found.operation) == ("loss", "backward", "log")
    assert found.location.line == marked(loss)
    assert found.samples == (8,)


def test_what_dominates():
    assert dominating(torch.tensor([1.0, 1.0, 998.0, 0.0, 0.0])) == (2,)
    assert dominating(torch.tensor([10.0, 10.0, 90.0, 0.0, 0.0])) == ()
    assert dominating(torch.ones(10)) == ()
    assert dominating(torch.zeros(10)) == ()
    assert dominating(torch.tensor([1.0, float("inf"), 2.0])) == (1,)
