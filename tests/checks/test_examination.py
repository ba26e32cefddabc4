"""One evaluation leaves nothing behind, and its float64 twin is float64 throughout."""

import collections
import math
import random
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.examination import (
    Examination,
    fresh_copy,
    primary,
    weights_like,
)
from lossproof.checks.inputs import inputs_for
from lossproof.checks.subject import subject_of

PAIR = ("float[6,4]", "float[6,4]")


# ------------------------------------------------------------------ nothing is left behind


def generators():
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        str(np.random.get_state()),
    )


def rude(input, target):
    """Changes everything a process has."""
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    torch.rand(3)
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.autograd.set_detect_anomaly(True)
    np.seterr(all="ignore")
    with torch.no_grad():
        input.mul_(2)
        target.add_(1)
    return ((input - target) ** 2).mean()


@pytest.mark.parametrize("options", [{}, {"dtype": torch.float64}, {"record": True},
                                     {"reseed": False}, {"prelude": 2}])  # fmt: skip
def test_no_setting_survives_a_call(options, examination):
    case = examination(rude, torch.randn(4, requires_grad=True), torch.randn(4))
    before = torch.is_grad_enabled(), torch.get_default_dtype(), np.geterr()
    case.evaluate(**options)
    after = torch.is_grad_enabled(), torch.get_default_dtype(), np.geterr()
    assert after == before
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.is_anomaly_enabled()
    assert set(case.base.settings) == {
        "torch.set_grad_enabled", "torch.set_default_dtype", "numpy.seterr",
        "torch.use_deterministic_algorithms", "torch.autograd.set_detect_anomaly",
    }  # fmt: skip


def test_no_random_number_is_taken_from_the_caller(examination):
    case = examination(rude, torch.randn(4, requires_grad=True), torch.randn(4))
    before = generators()
    case.evaluate()
    case.evaluate(dtype=torch.float64, record=True)
    case.value_at(None)(case.point)
    assert generators() == before


def test_the_callers_tensors_and_their_gradients_are_untouched(examination):
    input = torch.randn(4, requires_grad=True)
    input.grad = torch.ones(4)
    target, kept = torch.randn(4), input.grad
    copies = input.detach().clone(), target.clone()
    versions = input._version, target._version

    def loss(input, target):
        with torch.no_grad():
            input.zero_()
            target.data.fill_(7)
        value = ((input - target) ** 2).mean()
        value.backward(retain_graph=True)
        return value

    case = examination(loss, input, target)
    for options in ({}, {"dtype": torch.float64}, {"record": True}, {"prelude": 1}):
        assert case.evaluate(**options).error is None
    assert torch.equal(input, copies[0])
    assert torch.equal(target, copies[1])
    assert (input._version, target._version) == versions
    assert input.grad is kept
    assert torch.equal(input.grad, torch.ones(4))


def test_the_gradients_of_parameters_are_untouched(examination):
    weight = nn.Parameter(torch.ones(4))

    def loss(input, target):
        return ((input * weight - target) ** 2).mean()

    case = examination(loss, torch.randn(4, requires_grad=True), torch.randn(4))
    case.evaluate()
    case.evaluate(dtype=torch.float64, record=True)
    assert weight.grad is None
    assert case.leaf_names == ("input", "weight")
    assert case.twin.gradients[1].dtype is torch.float64
    assert weight.dtype is torch.float32


def test_what_is_in_containers_is_the_loss_s_own_copy(examination):
    outputs = {"logits": torch.zeros(3), "aux": [torch.zeros(3), (torch.zeros(3), "x")]}
    generator = torch.Generator().manual_seed(5)
    state = generator.get_state()

    def loss(outputs, target, generator):
        outputs["logits"] += 1
        outputs["aux"][1][0].add_(1)
        outputs["new"] = 1
        noise = torch.rand(3, generator=generator, dtype=torch.float64)
        return (outputs["logits"].sum() + target.sum() + noise.sum()).sum()

    case = examination(loss, outputs, torch.zeros(3, requires_grad=True), generator)
    one, two = case.evaluate(), case.evaluate(dtype=torch.float64)
    assert one.error is None
    assert one.value.item() == pytest.approx(two.value.item())
    assert torch.equal(generator.get_state(), state)
    assert list(outputs) == ["logits", "aux"]
    assert torch.equal(outputs["logits"], torch.zeros(3))
    assert torch.equal(outputs["aux"][1][0], torch.zeros(3))
    assert two.passed[0]["logits"].dtype is torch.float64
    assert two.passed[0]["aux"][1][0].dtype is torch.float64


def test_copies_keep_the_type_of_containers():
    Pair = collections.namedtuple("Pair", "a b")
    value = {
        "pair": Pair(torch.ones(1), 2),
        "ordered": collections.OrderedDict(z=1, a=2),
        "default": collections.defaultdict(list, {"k": [1]}),
        "array": np.ones(2),
        "text": "abc",
        "none": None,
    }
    copy = fresh_copy(value)
    assert type(copy["pair"]) is Pair
    assert list(copy["ordered"]) == ["z", "a"]
    assert copy["default"]["missing"] == []
    copy["array"][0] = 5
    assert value["array"][0] == 1
    assert copy["pair"].a is not value["pair"].a


# ------------------------------------------------------------------ what comes back


def test_gradients_are_those_of_autograd(examination):
    input, target = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)
    case = examination(F.mse_loss, input, target)
    (expected,) = torch.autograd.grad(F.mse_loss(input, target), input)
    assert torch.equal(case.base.gradients[0], expected)
    assert case.base.value.item() == F.mse_loss(input, target).item()
    assert case.twin.value.dtype is torch.float64


def test_a_vector_is_weighted_and_its_weights_differ(examination):
    def rows(input, target):
        return ((input - target) ** 2).sum(1)

    input, target = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)
    base = examination(rows, input, target).base
    assert base.upstream.shape == (6,)
    assert len(set(base.upstream.tolist())) == 6
    expected = 2 * (input - target).detach() * base.upstream[:, None]
    torch.testing.assert_close(base.gradients[0], expected)
    weighted = (rows(input, target) * base.upstream).sum().item()
    assert base.scalar == pytest.approx(weighted)


def test_weights_are_one_for_a_number_and_positive_else():
    assert torch.equal(weights_like(torch.tensor(3.0)), torch.tensor(1.0))
    weights = weights_like(torch.zeros(50))
    assert weights.min() >= 0.5
    assert weights.max() < 1.5
    assert torch.equal(weights, weights_like(torch.ones(50)))


@pytest.mark.parametrize(
    ("output", "number"),
    [
        (torch.tensor(2.0), 2.0),
        (3.5, 3.5),
        (2, 2.0),
        (np.float32(1.5), 1.5),
        ({"loss": torch.tensor(4.0), "a": torch.tensor(1.0)}, 4.0),
        ({"total": torch.tensor(5.0)}, 5.0),
        ((torch.tensor(6.0), {"x": 1}), 6.0),
        (["x", torch.tensor(7.0)], 7.0),
        (None, None),
        ("text", None),
        (True, None),
        ({}, None),
    ],
)
def test_the_tensor_that_is_the_loss(output, number):
    found = primary(output)
    assert (None if found is None else found.item()) == number


def test_an_exception_is_kept_with_its_place(examination, marked):
    def loss(input, target):
        scaled = input / 2
        raise ValueError(f"no {scaled.shape}")  # <-- here

    case = examination(loss, *PAIR)
    assert isinstance(case.base.error, ValueError)
    assert case.where(case.base.error).line == marked(loss)
    assert case.base.failed
    assert case.base.value is None


def test_an_exception_in_backward_is_kept(examination):
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, input, target):
            return (input - target).sum()

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("not today")

    case = examination(Broken, *PAIR)
    assert case.base.error is None
    assert "not today" in str(case.base.backward_error)


def test_a_keyboard_interrupt_is_the_users_own_and_passes(examination):
    def loss(input, target):
        torch.set_default_dtype(torch.float64)
        raise KeyboardInterrupt

    case = examination(loss, *PAIR)
    with pytest.raises(KeyboardInterrupt):
        case.evaluate()
    assert torch.get_default_dtype() is torch.float32


def test_system_exit_is_an_error_of_the_loss(examination):
    def loss(input, target):
        raise SystemExit(3)

    case = examination(loss, *PAIR)
    assert str(case.base.error) == "SystemExit(3)"
    assert case.where(case.base.error).file == __file__


# ------------------------------------------------------------------ the float64 twin

TABLE = torch.tensor([0.5, 1.0, 1.5, 2.0])
TABLES = {"rows": [torch.tensor([0.5, 1.0, 1.5, 2.0])]}


class Buffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor([0.5, 1.0, 1.5, 2.0]))
        self.plain = torch.tensor([0.1, 0.2, 0.3, 0.4])
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        self.linear = nn.Linear(4, 4)

    def forward(self, input, target):
        return ((self.linear(input) * self.scale + self.plain * self.weight - target) ** 2).mean()


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel = torch.ones(1, 1, 1, 2) / 2

    def forward(self, input, target):
        smooth = F.conv2d(input[None, None], self.kernel)
        return (smooth - target[None, None, :, 1:]).abs().mean()


def global_tensors(input, target):
    return ((input @ torch.diag(TABLE) - target) ** 2 * TABLES["rows"][0]).mean()


def explicit_float(input, target):
    return F.mse_loss(input.float(), target.float())


def explicit_to(input, target):
    return F.mse_loss(input.to(torch.float32), target.to(dtype=torch.float32))


def legacy_types(input, target):
    return F.mse_loss(input.type(torch.FloatTensor), target.type("torch.FloatTensor"))


def factories(input, target):
    weight = torch.ones(4) * 0.5 + torch.arange(4.0) + torch.full((4,), 0.1)
    eye = torch.eye(4) + torch.zeros(4, 4, dtype=torch.float32)
    return (((input - target) @ eye) ** 2 * weight).mean()


def one_hot_float(input, target):
    hot = F.one_hot(target.argmax(1), 4).float()
    return -(hot * input.log_softmax(1)).sum(1).mean()


def like_factories(input, target):
    return (input - target + torch.zeros_like(input) + input.new_ones(4)).pow(2).mean()


def tensor_literals(input, target):
    weight = torch.tensor([0.1, 0.2, 0.3, 0.4])
    return (weight @ (input - target).pow(2).T).mean()


def float_tensor(input, target):
    weight = torch.FloatTensor([0.1, 0.2, 0.3, 0.4])
    return (weight * (input - target).pow(2)).mean()


def summed_in_float32(input, target):
    return (input - target).pow(2).sum(dtype=torch.float32) / F.softmax(
        torch.ones(4), 0, dtype=torch.float32
    ).sum()


def closure():
    held = torch.tensor([0.5, 1.0, 1.5, 2.0])

    def loss(input, target):
        return ((input - target).pow(2) @ held).mean()

    return loss


TWINS = {
    "buffers": Buffers,
    "conv": Conv,
    "globals": global_tensors,
    "float": explicit_float,
    "to": explicit_to,
    "type": legacy_types,
    "factories": factories,
    "one_hot": one_hot_float,
    "like": like_factories,
    "literals": tensor_literals,
    "FloatTensor": float_tensor,
    "sum dtype": summed_in_float32,
    "closure": closure(),
}


@pytest.mark.parametrize("name", TWINS)
def test_the_twin_computes_in_float64(name, examination):
    case = examination(TWINS[name], torch.randn(6, 4, requires_grad=True), torch.randn(6, 4))
    twin = case.twin
    assert twin.error is None, twin.error
    assert twin.backward_error is None
    assert twin.value.dtype is torch.float64
    assert twin.gradients[0].dtype is torch.float64
    assert twin.scalar == pytest.approx(case.base.scalar, rel=1e-5)
    # Central differences at a step of 1e-5 are right to 1e-9 if and only if no float32 is left.
    value, point = case.value_at(None), case.point
    along = torch.randn(6, 4, dtype=torch.float64)
    ahead = value([point[0] + 1e-5 * along, *point[1:]])[0]
    behind = value([point[0] - 1e-5 * along, *point[1:]])[0]
    slope = float((twin.gradients[0] * along).sum())
    assert (ahead - behind) / 2e-5 == pytest.approx(slope, rel=1e-7)


def test_the_twin_leaves_the_loss_in_float32(examination):
    case = examination(Buffers(), torch.randn(6, 4, requires_grad=True), torch.randn(6, 4))
    assert case.twin.value.dtype is torch.float64
    module = case.subject.call
    for tensor in (module.scale, module.plain, module.weight, module.linear.weight):
        assert tensor.dtype is torch.float32
    assert case.evaluate().value.dtype is torch.float32


def test_a_float64_evaluation_first_of_all_is_not_upset_by_what_it_asks(examination):
    case = examination(Buffers(), torch.randn(6, 4, requires_grad=True), torch.randn(6, 4))
    first = case.evaluate(dtype=torch.float64)
    assert first.error is None
    assert first.scalar == case.twin.scalar


def test_integers_and_booleans_stay_what_they_are(examination):
    def loss(logits, target, mask):
        assert target.dtype is torch.int64
        assert mask.dtype is torch.bool
        return F.cross_entropy(logits[mask], target[mask])

    case = examination(loss, "float[6,3]", "int[6]<3", torch.ones(6).bool())
    assert case.twin.error is None


# ------------------------------------------------------------------ cutting down, moving about


def test_large_inputs_are_cut_along_the_batch(examination):
    def loss(input, target, weight):
        return ((input - target) ** 2 * weight).mean()

    case = examination(loss, "float[512,20]", "float[512,20]", "float[20]")
    assert [tuple(v.shape) for v in case.small.values] == [(8, 20), (8, 20), (20,)]
    small = examination(loss, *PAIR, "float[4]")
    assert small.small is small.inputs


def test_a_loss_that_needs_its_batch_is_not_cut(examination):
    def loss(input, target):
        if len(input) < 512:
            raise ValueError("the whole batch, please")
        return ((input - target) ** 2).mean()

    case = examination(loss, "float[512,20]", "float[512,20]")
    assert case.small is case.inputs


def test_the_loss_at_another_point(examination):
    case = examination(lambda input, target: (input * 3).sum() + target.sum() * 0, *PAIR)
    value = case.value_at(None)
    here = value(case.point)[0]
    there = value([case.point[0] + 1])[0]
    assert there - here == pytest.approx(3 * 24)
    gradient = case.evaluate_at([case.point[0] + 1]).gradients[0]
    assert torch.equal(gradient, torch.full((6, 4), 3.0, dtype=torch.float64))


def test_parameters_move_with_the_point(examination):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.log_scale = nn.Parameter(torch.tensor(0.5))

        def forward(self, input, target):
            return (input - target).pow(2).mean() * self.log_scale.exp()

    case = examination(Scaled(), torch.randn(5, requires_grad=True), torch.randn(5))
    assert case.leaf_names == ("input", "self.log_scale")
    value = case.value_at(None)
    here = value(case.point)[0]
    there = value([case.point[0], case.point[1] + math.log(2)])[0]
    assert there == pytest.approx(2 * here)
    assert case.subject.call.log_scale.item() == 0.5


def test_a_prelude_is_called_in_the_same_state(examination):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, input, target):
            self.calls += 1
            return (input - target).pow(2).mean() * self.calls

    case = examination(Counting(), *PAIR)
    assert case.evaluate(prelude=2).scalar == pytest.approx(3 * case.evaluate().scalar)


def test_the_reference_is_called_with_a_state_of_its_own(examination):
    case = Examination(
        *(lambda s: (s, inputs_for(s, PAIR, 0)))(subject_of(F.mse_loss)), 0, subject_of(Buffers())
    )
    other = case.evaluate(dtype=torch.float64, subject=case.reference)
    assert other.error is None
    assert other.value.dtype is torch.float64


def test_a_slow_loss_may_be_called_less_often(examination):
    def slow(input, target):
        time.sleep(0.05)
        return (input - target).pow(2).mean()

    assert examination(lambda a, b: (a - b).pow(2).mean(), *PAIR).affordable(10)
    case = examination(slow, *PAIR)
    assert case.call_seconds >= 0.05
    assert case.affordable(2)
    assert not case.affordable(100)


def test_few_rows_are_an_examination_of_their_own(examination):
    def loss(input, target):
        return (input - target).pow(2).mean()

    case = examination(loss, "float[2000,4]", "float[2000,4]")
    assert case.few_rows.inputs.values[0].shape == (8, 4)
    assert torch.equal(case.few_rows.inputs.values[0], case.inputs.values[0][:8])
    small = examination(loss, *PAIR)
    assert small.few_rows is small
