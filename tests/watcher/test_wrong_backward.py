"""A backward written by hand, checked with what one recorded call was given."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lossproof.checks.trace import tensors_in
from lossproof.losses import focal_loss
from lossproof.watcher.alarm import AlarmKind
from lossproof.watcher.diagnosis import diagnose, examine_backward, has_handwritten_backward

EXAMPLES = Path(__file__).parents[2] / "examples"


class Right(torch.autograd.Function):
    """Half the mean of the squares."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square().mean() / 2

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return grad_output * x / x.numel()


class Doubled(torch.autograd.Function):
    """The same forward with twice its derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square().mean() / 2

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return grad_output * x / x.numel() * 2


@pytest.fixture
def regression(monkeypatch):
    """Story 3's example, from its file."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import linear_regression

    yield linear_regression
    sys.modules.pop("linear_regression", None)


def line_with(module, text):
    source = Path(module.__file__).read_text().splitlines()
    found = [number for number, line in enumerate(source, 1) if text in line]
    assert len(found) == 1
    return found[0]


def test_story_3_both_faults_from_one_call(recording, regression):
    torch.manual_seed(42)
    x, target = regression.data()
    model = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))
    prediction = recording.model(model, x).squeeze(1)
    loss = recording.terms(regression.WrongMSE.apply, prediction, target)
    assert has_handwritten_backward(loss)
    findings = examine_backward(recording.record.calls[-1])
    assert [finding.code for finding in findings] == ["LP202", "LP203"]
    assert findings[0].location.line == line_with(regression, ".repeat(")
    assert findings[0].help == "`grad = -2 * (target - prediction) / prediction.numel()`"
    assert findings[1].help == "`return grad_output * grad, None`"


def test_the_right_one_of_story_3(recording, regression):
    x, target = regression.data()
    prediction = recording.model(nn.Linear(1, 1), x).squeeze(1)
    recording.terms(regression.RightMSE.apply, prediction, target)
    assert examine_backward(recording.record.calls[-1]) == ()


class Loss(nn.Module):
    def forward(self, x, *, scale):
        return scale * Doubled.apply(x)


@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        pytest.param(lambda x: Doubled.apply(x), ["x"], {}, id="function"),
        pytest.param(Loss(), ["x"], {"scale": 3.0}, id="module"),
        pytest.param(lambda d: Doubled.apply(d["x"]), [{"x": "x"}], {}, id="dictionary"),
        pytest.param(
            lambda x: {"size": x.abs().mean(), "own": Doubled.apply(x)}, ["x"], {}, id="second-term"
        ),
        pytest.param(lambda *, x: Doubled.apply(x), [], {"x": "x"}, id="by-name"),
    ],
)
def test_the_fault_is_found_wherever_the_function_stands(recording, function, arguments, named):
    x = recording.model(nn.Linear(2, 3), torch.randn(5, 2))

    def filled(value):
        if isinstance(value, dict):
            return {key: filled(item) for key, item in value.items()}
        return x if value == "x" else value

    recording.terms(function, *map(filled, arguments), **filled(named))
    findings = examine_backward(recording.record.calls[-1])
    assert [finding.code for finding in findings] == ["LP202"]
    assert findings[0].location.function == "Doubled.backward"


def test_a_right_one_is_not_convicted(recording):
    x = recording.model(nn.Linear(2, 3), torch.randn(5, 2))
    recording.terms(lambda x: {"own": Right.apply(x)}, x)
    assert examine_backward(recording.record.calls[-1]) == ()


def test_of_a_large_batch_the_first_rows_are_taken(recording):
    x = torch.randn(50_000, 4, requires_grad=True)
    recording.terms(Doubled.apply, x)
    (finding,) = examine_backward(recording.record.calls[-1])
    assert finding.code == "LP202"
    assert finding.notes[-1] == "seen with the first rows of the batch"


def test_a_loss_that_needs_its_whole_batch_gets_it(recording):
    def loss(x):
        if len(x) != 50_000:
            raise ValueError("the whole batch")
        return Doubled.apply(x)

    recording.terms(loss, torch.randn(50_000, 4, requires_grad=True))
    codes = [finding.code for finding in examine_backward(recording.record.calls[-1])]
    assert codes == ["LP202"]


def test_nothing_of_the_step_is_touched(recording):
    model = nn.Linear(2, 3)
    x = recording.model(model, torch.randn(5, 2))
    loss = recording.terms(Doubled.apply, x)
    state, versions = torch.get_rng_state(), [t._version for t in tensors_in([x, loss])]
    examine_backward(recording.record.calls[-1])
    assert torch.equal(torch.get_rng_state(), state)
    assert [t._version for t in tensors_in([x, loss])] == versions
    assert model.weight.grad is None
    loss.backward()
    assert model.weight.grad is not None


def test_an_endless_loss_ends_in_time(recording):
    calls = []

    def loss(x):
        calls.append(1)
        while len(calls) > 1:
            pass
        return Doubled.apply(x)

    recording.terms(loss, torch.randn(4, requires_grad=True))
    assert examine_backward(recording.record.calls[-1], seconds=0.3) == ()


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (Doubled.apply, True),
        (lambda x: x.exp() + Right.apply(x), True),
        (lambda x: x.exp().sum(), False),
        (lambda x: focal_loss(x, torch.zeros(4, dtype=torch.long)), False),
        (lambda x: torch.utils.checkpoint.checkpoint(torch.exp, x, use_reentrant=True), False),
    ],
    ids=["alone", "inside", "none", "ours", "torch's"],
)
def test_whether_there_is_one(function, expected):
    x = torch.randn(4, 3, requires_grad=True)
    assert has_handwritten_backward(function(x)) is expected


def test_one_in_the_model_is_not_the_loss_s():
    x = torch.randn(4, requires_grad=True)
    out = Right.apply(x)
    assert has_handwritten_backward(out * 2)
    assert not has_handwritten_backward(out * 2, [out])


def test_the_diagnosis_of_this_alarm_names_it(recording):
    x = recording.model(nn.Linear(2, 3), torch.randn(5, 2))
    recording.terms(Doubled.apply, x)
    found = diagnose(AlarmKind.WRONG_BACKWARD, recording.record, nn.Linear(2, 3))
    assert (found.part, found.phase) == ("loss", "backward")
    assert [finding.code for finding in found.findings] == ["LP202"]
