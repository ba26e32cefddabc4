"""`compare`: two losses side by side, and the data that says so."""

import functools
import json
import math
import queue
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lossproof
from lossproof import Comparison, UsageError
from lossproof.checks import measurement
from lossproof.checks.agreement import agreement, constant_offset, constant_ratio, viewpoint
from lossproof.checks.examination import Examination
from lossproof.checks.inputs import inputs_for
from lossproof.checks.measurement import measure_peak, measure_times
from lossproof.checks.subject import subject_of


@pytest.fixture(autouse=True)
def short_timing(monkeypatch):
    """What is timed here is only that it is timed."""
    monkeypatch.setattr(measurement, "BUDGET", 0.0)


def mse(input, target):
    return ((input - target) ** 2).mean()


def cross_entropy(logits, target):
    odds = logits.exp()
    return -(odds.gather(1, target[:, None]).squeeze(1) / odds.sum(1)).log().mean()


class Quadratic(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, target):
        ctx.save_for_backward(input, target)
        return ((input - target) ** 2).mean()

    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        return grad_output * 2 * (input - target) / input.numel(), None


class IgnoresUpstream(Quadratic):
    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        return 2 * (input - target) / input.numel(), None


class TwiceTheGradient(Quadratic):
    @staticmethod
    def backward(ctx, grad_output):
        grad, _ = Quadratic.backward(ctx, grad_output)
        return 2 * grad, None


def pair():
    return torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)


def logits():
    return torch.randn(8, 5, requires_grad=True), torch.randint(5, (8,))


def case_of(loss, *inputs):
    subject = subject_of(loss)
    return Examination(subject, inputs_for(subject, inputs, 0))


# ---------------------------------------------------------------------------- the same
@pytest.mark.parametrize(
    ("one", "other", "inputs"),
    [
        (mse, F.mse_loss, pair),
        (mse, nn.MSELoss, pair),
        (mse, nn.MSELoss(), pair),
        (mse, Quadratic, pair),
        (lambda p, t: mse(p, t), mse, pair),
        (cross_entropy, F.cross_entropy, logits),
        (lambda z, t: F.nll_loss(F.log_softmax(z, 1), t), nn.CrossEntropyLoss(), logits),
        (functools.partial(F.mse_loss, reduction="none"), lambda a, b: (a - b) ** 2, pair),
    ],
)
def test_the_same_loss_in_two_forms(one, other, inputs):
    comparison = lossproof.compare(one, other, *inputs())
    assert comparison
    assert comparison.same
    assert comparison.relation is None
    assert all(point.same_value and point.same_gradient for point in comparison.points)
    assert len(comparison.points) == 4
    assert comparison.gradients[0].cosine == pytest.approx(1)
    assert comparison.a.follows_upstream
    assert comparison.b.follows_upstream


def test_the_numbers_are_those_of_torch():
    input, target = pair()
    comparison = lossproof.compare(mse, nn.L1Loss(), input, target)
    assert comparison.a.value == F.mse_loss(input, target).item()
    assert comparison.b.value == F.l1_loss(input, target).item()
    wide = input.detach().double().requires_grad_()
    (own,) = torch.autograd.grad(F.mse_loss(wide, target.double()), wide)
    (other,) = torch.autograd.grad(F.l1_loss(wide, target.double()), wide)
    gradient = comparison.gradients[0]
    assert gradient.norm_a == pytest.approx(own.norm().item())
    assert gradient.norm_b == pytest.approx(other.norm().item())
    assert gradient.cosine == pytest.approx(
        F.cosine_similarity(own.flatten(), other.flatten(), dim=0).item()
    )
    worst = (own - other).abs()
    assert worst[gradient.worst_index] == worst.max()
    assert gradient.worst_a == pytest.approx(own[gradient.worst_index].item())


# ---------------------------------------------------------------------------- not the same
def differing():
    def total(input, target):
        return ((input - target) ** 2).sum()

    def shifted(input, target):
        return mse(input, target) + 0.5

    def only_here(input, target):
        return mse(input, target) + (input.abs() > 4).sum() * 0.1

    yield total, "constant-factor", "always 24 times (the number of elements)"
    yield shifted, "constant-offset", "always 0.5 more than `mse`"
    yield F.l1_loss, "unrelated", "no constant factor or offset"
    yield only_here, "some-points", "ordinary points"
    yield TwiceTheGradient, "gradient-only", "always 2 times that of `mse`"
    yield IgnoresUpstream, "gradient-only", "does not follow the one sent backward"
    yield (lambda input, t: mse(input, t).detach()), "gradient-only", "<lambda>` reaches `input`"
    yield (lambda p, t: mse(p, t).item()), "gradient-only", "returns float64[]"
    yield functools.partial(F.mse_loss, reduction="none"), "shape", "the mean of `mse_loss` is"


@pytest.mark.parametrize(("loss", "relation", "text"), list(differing()))
def test_how_they_differ_is_named(loss, relation, text):
    comparison = lossproof.compare(loss, mse, *pair())
    assert not comparison
    assert comparison.relation == relation
    assert any(text in difference for difference in comparison.differences)


@given(st.floats(-100, 100).filter(lambda factor: abs(factor) > 1e-3 and abs(factor - 1) > 1e-3))
@settings(max_examples=10)
def test_any_constant_factor_is_found_in_value_and_gradient(factor):
    comparison = lossproof.compare(lambda p, t: factor * mse(p, t), mse, *pair())
    assert comparison.relation == "constant-factor"
    assert f"always {factor:.6g} times" in comparison.differences[0]
    gradient = comparison.gradients[0]
    assert gradient.norm_a == pytest.approx(abs(factor) * gradient.norm_b)
    assert gradient.cosine == pytest.approx(math.copysign(1, factor))


def test_a_vector_is_compared_by_the_reduction_that_the_other_side_uses():
    for reduction in ("mean", "sum"):
        each = functools.partial(F.mse_loss, reduction="none")
        one = functools.partial(F.mse_loss, reduction=reduction)
        comparison = lossproof.compare(each, one, *pair())
        assert comparison.compared_as == reduction
        assert comparison.gradients[0].same
        assert any("gradient=torch.ones_like(loss)" in note for note in comparison.notes)


def test_a_difference_of_rounding_alone_is_called_that():
    def wobbly(input, target):
        return mse(input.float() + 2.0**12, target.float() + 2.0**12)

    comparison = lossproof.compare(wobbly, mse, *pair())
    assert comparison.value.difference > 1e-5
    assert comparison.value64.difference < 1e-9
    assert any("loses digits" in text for text in comparison.differences)


def test_a_loss_that_knows_no_float64_is_compared_in_its_own_dtype():
    def narrow(input, target):
        if input.dtype != torch.float32:
            raise TypeError("float32 only")
        return mse(input, target)

    comparison = lossproof.compare(narrow, mse, *pair())
    assert comparison.same
    assert comparison.precision == "float32"
    assert comparison.value64 is None
    assert any("cannot be computed in float64" in note for note in comparison.notes)


# ---------------------------------------------------------------------------- extremes
def test_the_naive_cross_entropy_overflows_and_the_line_is_named():
    comparison = lossproof.compare(cross_entropy, nn.CrossEntropyLoss(), *logits())
    assert comparison.same
    confident = [e for e in comparison.extremes if "100 for the class in `target`" in e.words]
    assert [extreme.verdict for extreme in confident] == ["a fails"]
    assert math.isnan(confident[0].a.value)
    assert confident[0].b.value == 0
    assert not any(extreme.b.fails for extreme in comparison.extremes)
    line = cross_entropy.__code__.co_firstlineno + 1
    told = [text for text in comparison.differences if "logits.exp()` overflows" in text]
    assert len(told) == 1
    assert f"test_comparison.py:{line}" in told[0]


def test_which_side_fails_does_not_depend_on_the_order():
    comparison = lossproof.compare(nn.CrossEntropyLoss(), cross_entropy, *logits())
    verdicts = {extreme.verdict for extreme in comparison.extremes}
    assert "b fails" in verdicts
    assert "a fails" not in verdicts


def test_a_clamp_that_only_confident_mistakes_feel_is_found():
    def clamped(logits, target):
        chance = logits.softmax(1).gather(1, target[:, None])
        return -(chance + 1e-8).log().mean()

    comparison = lossproof.compare(clamped, F.cross_entropy, *logits())
    assert comparison.same
    assert any("the values differ when `logits`" in text for text in comparison.differences)


def test_two_equal_losses_part_nowhere():
    for loss, other, inputs in (
        (mse, F.mse_loss, pair()),
        (F.huber_loss, nn.HuberLoss(), pair()),
        (F.cross_entropy, nn.CrossEntropyLoss(), logits()),
    ):
        comparison = lossproof.compare(loss, other, *inputs)
        assert comparison.differences == ()
        assert len(comparison.extremes) > 10
        assert len(comparison.rearrangements) > 2


# ---------------------------------------------------------------------------- arrangements
def test_classes_on_the_wrong_axis_show_in_another_arrangement():
    def last_axis(logits, target):
        return -F.log_softmax(logits, -1).gather(1, target.unsqueeze(1)).mean()

    comparison = lossproof.compare(last_axis, F.cross_entropy, *logits())
    assert comparison.same
    reactions = {one.words: (one.a.same, one.b.same) for one in comparison.rearrangements}
    assert reactions["samples in another order"] == (True, True)
    assert reactions["samples split over two axes"] == (False, True)
    assert any("gives something else for" in text for text in comparison.differences)


def test_a_side_that_refuses_an_arrangement_is_not_blamed():
    def strict(logits, target):
        if logits.dim() != 2:
            raise ValueError("two axes, please")
        return F.cross_entropy(logits, target)

    comparison = lossproof.compare(strict, F.cross_entropy, *logits())
    assert comparison.same
    assert comparison.differences == ()
    split = comparison.rearrangements[-1]
    assert split.a.error == "ValueError: two axes, please"
    assert split.b.same


def test_a_loss_of_neighbours_depends_on_the_order():
    def smooth(input, target):
        return mse(input, target) + (input[1:] - input[:-1]).abs().sum() * 0

    def rough(input, target):
        return mse(input, target) + (input[1:] - input[:-1]).abs().mean()

    comparison = lossproof.compare(rough, smooth, *pair())
    order = comparison.rearrangements[0]
    assert not order.a.same
    assert order.a.difference > 1e-3
    assert order.b.same


# ---------------------------------------------------------------------------- cost
def drained(filled):
    return [filled.get() for _ in range(filled.qsize())]


def test_runs_are_interleaved_and_enough():
    # What a loss remembers is put back after each call, but a queue is out of reach.
    calls = queue.SimpleQueue()

    def one(input, target):
        calls.put("a")
        return mse(input, target)

    def other(input, target):
        calls.put("b")
        return mse(input, target)

    times = measure_times(case_of(one, *pair()), case_of(other, *pair()))
    assert times.runs == measurement.RUNS
    assert "".join(drained(calls)) == "ab" * (measurement.RUNS + measurement.WARM_UP)
    for spread in (times.forward_a, times.total_b, times.total_ratio):
        assert 0 < spread.low <= spread.median <= spread.high


def test_nothing_watches_while_the_clock_runs():
    modes = queue.SimpleQueue()

    def watched(input, target):
        modes.put(torch._C._len_torch_dispatch_stack() + torch._C._len_torch_function_stack())
        return mse(input, target)

    measure_times(case_of(watched, *pair()), case_of(mse, *pair()))
    assert set(drained(modes)) == {0}


def test_peak_memory_is_counted_to_the_byte():
    size = 4000

    def exponential(input):
        return input.exp().sum()

    def rows(input):
        return sum(row.exp().sum().detach() for row in input)

    # exp (kept for backward), its sum, the gradient sent in, and the gradient that comes out
    flat = torch.randn(1000, requires_grad=True)
    assert measure_peak(case_of(exponential, flat)) == size + 4 + 4 + size
    # In rows nothing is kept: one row's exp, its sum, and the running total, old and new.
    square = torch.randn(10, 100, requires_grad=True)
    assert measure_peak(case_of(rows, square)) == 400 + 4 + 4


def test_memory_written_in_place_is_counted_once():
    def in_place(input):
        copy = input * 2
        copy.add_(1).mul_(3)
        return copy.sum()

    flat = torch.randn(1000, requires_grad=True)
    # Nothing is kept but the copy; backward makes two gradients, of which one is alive at a time
    # with the next.
    peak = measure_peak(case_of(in_place, flat))
    assert 2 * 4000 <= peak <= 2 * 4000 + 64


# ---------------------------------------------------------------------------- trouble
def test_a_side_that_raises_is_told_and_not_raised():
    def broken(input, target):
        raise ValueError("no [bold]way")

    comparison = lossproof.compare(mse, broken, *pair())
    assert not comparison.same
    assert comparison.relation == "error"
    assert comparison.a.error is None
    assert comparison.b.error == "ValueError: no [bold]way"
    assert comparison.b.error_location.line == broken.__code__.co_firstlineno + 1
    assert comparison.differences == ("`test_a_side_that_raises_is_told_and_not_raised.broken`: "
                                      "ValueError: no [bold]way",)  # fmt: skip


def test_a_backward_that_raises_is_told():
    class Broken(Quadratic):
        @staticmethod
        def backward(ctx, grad_output):
            raise RuntimeError("not today")

    comparison = lossproof.compare(Broken, mse, *pair())
    assert comparison.relation == "gradient-only"
    assert comparison.a.backward_error == "RuntimeError: not today"
    assert any("backward pass of" in text for text in comparison.differences)
    assert any("time was not measured" in note for note in comparison.notes)


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (lambda input: input.sum(), "takes 1 inputs"),
        (lambda input, target: None, "returns NoneType `None`"),
        (lambda input, target: mse(input, target) * 1j, "complex number"),
    ],
)
def test_a_side_that_cannot_be_compared_is_told(loss, text):
    comparison = lossproof.compare(loss, mse, *pair())
    assert text in comparison.a.error
    assert comparison.relation == "error"


def test_an_endless_side_is_told():
    def endless(input, target):
        while True:
            pass

    comparison = lossproof.compare(endless, mse, *pair(), time_limit=0.2)
    assert comparison.a.error == "still running after 0.2 s"
    assert comparison.a.error_location.file == __file__
    assert comparison.b.error is None


def test_the_end_of_the_time_keeps_what_there_is(monkeypatch):
    from lossproof.checks import compare as room

    def endless(pair, same):
        while True:
            pass

    monkeypatch.setattr(room, "compare_extremes", endless)
    comparison = lossproof.compare(mse, F.mse_loss, *pair(), time_limit=2.0)
    assert comparison.same
    assert comparison.times is None
    assert any("ended it before: extreme points" in note for note in comparison.notes)


@pytest.mark.parametrize(
    ("one", "other", "inputs", "text"),
    [
        (mse, F.mse_loss, ("flaot[3]", "float[3]"), "did you mean `float`"),
        (mse, F.l1_loss, ("float[3]", "float[4]"), "neither loss can be called"),
        (mse, mse, (torch.zeros(2),), "takes 2 inputs"),
        (mse, 3, ("float[3]", "float[3]"), "`loss` must be a function"),
    ],
)
def test_a_wrong_request_is_a_usage_error(one, other, inputs, text):
    with pytest.raises(UsageError, match=text):
        lossproof.compare(one, other, *inputs)


def test_inputs_that_are_not_given_are_inferred():
    comparison = lossproof.compare(mse, F.mse_loss)
    assert comparison.same
    assert any("no inputs were given" in note for note in comparison.notes)


def test_nothing_of_the_callers_is_changed():
    input, target = pair()
    input.grad = torch.ones_like(input)
    copies = [value.detach().clone() for value in (input, target)]

    def rude(input, target):
        input.data.zero_()
        torch.manual_seed(1)
        return mse(input, target) + torch.rand(())

    module = nn.BatchNorm1d(4, affine=False)
    state = torch.get_rng_state()
    threads = torch.get_num_threads()
    lossproof.compare(rude, lambda p, t: mse(module(p), t), input, target)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert torch.equal(input.detach(), copies[0])
    assert torch.equal(target, copies[1])
    assert torch.equal(input.grad, torch.ones_like(input))
    assert module.num_batches_tracked == 0


def test_arguments_named_in_another_order_are_noted():
    def swapped(target, input):
        return mse(input, target)

    comparison = lossproof.compare(mse, swapped, *pair())
    assert any("in another order" in note for note in comparison.notes)


def test_parameters_of_one_side_alone_are_noted_and_shared_ones_compared():
    class Scaled(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))
            self.factor = factor

        def forward(self, input, target):
            return self.factor * self.scale.detach() * mse(input, target) + self.scale * 0.5

    comparison = lossproof.compare(Scaled(1), Scaled(1), *pair())
    assert comparison.same
    assert [gradient.name for gradient in comparison.gradients] == ["input", "self.scale"]
    comparison = lossproof.compare(Scaled(1), mse, *pair())
    assert any("only one of the two has `self.scale`" in note for note in comparison.notes)


# ---------------------------------------------------------------------------- data
@pytest.mark.parametrize(
    ("one", "other", "inputs"),
    [
        (cross_entropy, nn.CrossEntropyLoss(), logits),
        (functools.partial(F.mse_loss, reduction="none"), mse, pair),
        (lambda p, t: p.missing, mse, pair),
    ],
)
def test_it_survives_json(one, other, inputs):
    comparison = lossproof.compare(one, other, *inputs())
    text = json.dumps(comparison.to_dict(), allow_nan=False)
    again = Comparison.from_dict(json.loads(text))
    # NaN is not equal to itself, its representation is.
    assert repr(again) == repr(comparison)
    assert str(again) == str(comparison)


def test_the_data_needs_no_torch():
    program = (
        "import lossproof, sys; lossproof.Comparison; import lossproof.show.comparison; "
        "print([name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout == "[]\n", run.stderr


# ---------------------------------------------------------------------------- agreement
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8), st.floats(-1e-7, 1e-7))
def test_agreement_is_symmetric_and_relative(numbers, error):
    one = torch.tensor(numbers, dtype=torch.float64)
    other = one * (1 + error)
    found = agreement(one, other, 1e-6)
    assert found.same
    assert found == agreement(other, one, 1e-6)
    assert found.difference <= 1.1e-7


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([math.inf], [math.inf], True),
        ([math.inf], [-math.inf], False),
        ([math.inf], [1.0], False),
        ([math.nan], [1.0], False),
        ([], [], True),
        ([0.0, 1.0], [0.0, 1.1], False),
    ],
)
def test_agreement_of_special_numbers(one, other, same):
    assert agreement(torch.tensor(one), torch.tensor(other), 1e-5).same is same


def test_relations_of_numbers():
    assert constant_ratio([(2.0, 1.0), (4.0, 2.0), (0.0, 0.0)]) == 2
    assert constant_ratio([(2.0, 1.0), (5.0, 2.0)]) is None
    assert constant_ratio([(1.0, 1.0), (2.0, 2.0)]) is None
    assert constant_offset([(2.0, 1.0), (3.0, 2.0)]) == 1
    assert constant_offset([(2.0, 1.0), (4.0, 2.0)]) is None


def test_the_viewpoint_is_the_reduction_that_fits():
    values = torch.tensor([1.0, 2.0, 6.0])
    assert viewpoint(values, values * 2).reduction == "elements"
    assert viewpoint(values, torch.tensor(3.0)).reduction == "mean"
    assert viewpoint(torch.tensor(9.0), values).reduction == "sum"


def test_a_gradient_that_is_nan_beside_one_that_is_zero():
    comparison = lossproof.compare(
        nn.L1Loss, nn.MSELoss(), torch.ones(5), torch.full((5,), math.nan)
    )
    (gradient,) = comparison.gradients
    assert (gradient.norm_a, gradient.same) == (0.0, False)
    assert math.isnan(gradient.difference)
