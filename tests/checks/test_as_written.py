"""Accelerated losses beside the loss as it was written."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

import lossproof
from lossproof.checks.as_written import compared, cut, plain_of
from lossproof.checks.examination import Examination
from lossproof.checks.inputs import inputs_for
from lossproof.checks.report import Severity
from lossproof.checks.subject import subject_of
from lossproof.write.accelerated import Accelerated


class InForward(Function):
    """Value and gradient of the sum, so many rows at a time; differentiable in turn."""

    @staticmethod
    def forward(ctx, rows_of, size, hidden, weight, target):
        ctx.rows_of = rows_of
        total, of_hidden, of_weight = 0.0, torch.zeros_like(hidden), torch.zeros_like(weight)
        for start in range(0, len(hidden), size):
            rows = slice(start, start + size)
            with torch.enable_grad():
                part = hidden[rows].detach().requires_grad_()
                shared = weight.detach().requires_grad_()
                value = rows_of(part, shared, target[rows]).sum()
                of_hidden[rows], more = torch.autograd.grad(value, (part, shared))
            of_weight += more
            total = total + value.detach()
        ctx.save_for_backward(hidden, weight, target, of_hidden, of_weight)
        return total

    @staticmethod
    def backward(ctx, upstream):
        hidden, weight, target, *gradients = ctx.saved_tensors
        if torch.is_grad_enabled():
            total = ctx.rows_of(hidden, weight, target).sum()
            gradients = torch.autograd.grad(total, (hidden, weight), create_graph=True)
        return None, None, upstream * gradients[0], upstream * gradients[1], None


class Chunked(Accelerated):
    """The mean cross entropy over an output layer, computed in chunks."""

    function = InForward

    def __init__(self, chunk_size=None):
        super().__init__()
        self.head = nn.Linear(6, 5, bias=False)
        self.chunk_size = chunk_size
        self.sizes = []

    @staticmethod
    def rows(hidden, weight, target):
        return F.cross_entropy(hidden @ weight.T, target, reduction="none")

    def plain(self, hidden, target):
        return self.rows(hidden, self.head.weight, target).mean()

    def forward(self, hidden, target):
        if self.chunk_size is None:
            return self.plain(hidden, target)
        given = self.rows, self.chunk_size, hidden, self.head.weight, target
        return self.function.apply(*given) / len(hidden)


def spoiled(spoil):
    """A Function whose backward gives other gradients than it should."""

    class Spoiled(InForward):
        @staticmethod
        def backward(ctx, upstream):
            return None, None, *spoil(ctx, upstream, *InForward.backward(ctx, upstream)[2:4]), None

    return Spoiled


def without_some_rows(ctx, upstream, hidden, weight):
    keep = torch.arange(len(hidden)) < len(hidden) - 2
    return hidden * keep[:, None], weight


class Scaled(Chunked):
    function = spoiled(lambda ctx, upstream, hidden, weight: (2 * hidden, 2 * weight))


class DropsAParameter(Chunked):
    function = spoiled(lambda ctx, upstream, hidden, weight: (hidden, None))


class SomeRows(Chunked):
    function = spoiled(without_some_rows)


class IgnoresUpstream(Chunked):
    function = spoiled(lambda ctx, upstream, hidden, weight: ctx.saved_tensors[3:])


class ConstantGradient(Chunked):
    function = spoiled(
        lambda ctx, upstream, hidden, weight: [g * upstream for g in ctx.saved_tensors[3:]]
    )


class ScalesInPlace(Chunked):
    function = spoiled(
        lambda ctx, upstream, hidden, weight: [g.data.mul_(upstream) for g in ctx.saved_tensors[3:]]
    )


class ValueOff(Chunked):
    def forward(self, hidden, target):
        return super().forward(hidden, target) + 1e-4


class OtherShape(Chunked):
    def forward(self, hidden, target):
        return super().forward(hidden, target).reshape(1, 1)


class Refuses(Chunked):
    """Says that it has no second derivative."""

    class function(InForward):
        @staticmethod
        @once_differentiable
        def backward(ctx, upstream):
            return None, None, *(upstream * g for g in ctx.saved_tensors[3:]), None


def inputs():
    return torch.randn(8, 6, requires_grad=True), torch.randint(5, (8,))


def beside(loss, *given):
    subject = subject_of(loss)
    found = inputs_for(subject, given, 0)
    cut(subject, found)
    return compared(Examination(subject, found, 0, plain_of(subject)))


@pytest.fixture
def report():
    return lambda loss, *given: lossproof.check(loss, *(given or inputs()))


def test_a_right_one_is_proved_by_itself(report):
    loss = Chunked()
    said = report(loss)
    assert said.ok
    (outcome,) = [one for one in said.proved if one.code == "LP103"]
    assert "compared with the loss as it was written" in outcome.detail
    assert "`hidden`, `self.head.weight`" in outcome.detail
    assert "the second derivative, too" in outcome.detail
    assert loss.chunk_size is None  # the caller's own is not cut


def test_small_inputs_are_cut_into_parts():
    subject = subject_of(Chunked())
    found = inputs_for(subject, inputs(), 0)
    cut(subject, found)
    assert subject.call.chunk_size == 3
    case = Examination(subject, found, 0, plain_of(subject))
    assert [call.cls for call in case.calls] == [InForward]
    assert subject.call.chunk_size == 3  # also after the state was put back


def test_many_rows_are_compared_on_few(report):
    said = report(Chunked(), torch.randn(3000, 6, requires_grad=True), torch.randint(5, (3000,)))
    assert [one.code for one in said.proved if one.code == "LP103"]


CONVICTED = {
    Scaled: ("gradient", "hidden", "LP202"),
    DropsAParameter: ("gradient", "self.head.weight", "LP202"),
    SomeRows: ("gradient", "hidden", "LP202"),
    IgnoresUpstream: ("gradient", "hidden", "LP203"),
    ScalesInPlace: ("gradient at a second pass", "hidden", "LP203"),
    ConstantGradient: ("second derivative", "hidden", "LP203"),
    ValueOff: ("value", None, "LP103"),
    OtherShape: ("shape", None, "LP103"),
}


@pytest.mark.parametrize("loss", CONVICTED, ids=lambda c: c.__name__)
def test_the_first_difference(loss):
    what, leaf, _ = CONVICTED[loss]
    found = beside(loss(), *inputs()).difference
    assert (found.what, found.leaf) == (what, leaf)


@pytest.mark.parametrize("loss", CONVICTED, ids=lambda c: c.__name__)
def test_a_broken_one_is_convicted_once(report, loss):
    (finding,) = report(loss()).findings
    assert finding.code == CONVICTED[loss][2]
    if loss is ConstantGradient:
        assert finding.severity is Severity.WARNING
    else:
        assert finding.severity is Severity.ERROR


def test_the_factor_and_the_rows_are_named():
    assert beside(Scaled(), *inputs()).difference.times == pytest.approx(2.0)
    assert beside(SomeRows(), *inputs()).difference.rows == (6, 7)
    assert not beside(DropsAParameter(), *inputs()).difference.reaches


MESSAGES = {
    ValueOff: "differs from the loss as it was written in the value",
    DropsAParameter: "has no gradient of `self.head.weight`, which the loss as it was written has",
    SomeRows: "in the gradient of `hidden` in rows 6, 7",
    Scaled: "in the gradient of `hidden`: 2 times as much",
    OtherShape: "returns other shapes than the loss as it was written",
}


@pytest.mark.parametrize("loss", MESSAGES, ids=lambda c: c.__name__)
def test_what_the_finding_says(loss):
    (finding,) = lossproof.check(loss(), *inputs(), select=["LP103"]).findings
    assert MESSAGES[loss] in finding.message
    assert ".plain" in finding.help


def test_a_refused_second_derivative_is_said():
    found = beside(Refuses(), *inputs())
    assert found.difference is None
    assert found.second == "a second derivative is refused with an error"


def test_the_users_own_reference_counts(report):
    def half(hidden, target):
        return loss.plain(hidden, target) / 2

    loss = Chunked()
    said = lossproof.check(loss, *inputs(), reference=half)
    assert [finding.code for finding in said.findings] == ["LP103"]
    assert "2 times as much" in said.findings[0].message


def test_random_numbers_are_left_undecided():
    class Drops(Chunked):
        @staticmethod
        def rows(hidden, weight, target):
            return Chunked.rows(F.dropout(hidden, 0.5), weight, target)

    assert "random" in beside(Drops(), *inputs()).undecided


def test_a_plain_loss_that_raises_is_undecided():
    class Broken(Chunked):
        def plain(self, hidden, target):
            raise RuntimeError("no memory")

    assert "RuntimeError: no memory" in beside(Broken(chunk_size=2), *inputs()).undecided


def test_several_outputs_are_all_compared():
    class Two(Accelerated):
        def __init__(self, off):
            super().__init__()
            self.off = off

        def plain(self, x):
            return x.exp().sum(1), x.sin().sum(0)

        def forward(self, x):
            rows, columns = self.plain(x)
            return rows, columns * self.off

    assert beside(Two(1.0), torch.randn(4, 3, requires_grad=True)).difference is None
    wrong = beside(Two(1.01), torch.randn(4, 3, requires_grad=True)).difference
    assert (wrong.what, wrong.times) == ("value", pytest.approx(1.01))


# ---------------------------------------------------------------------- compiled losses
def scaled_by(factor):
    """A backend of torch.compile whose code is off by a factor."""

    def backend(graph, example_inputs):
        return lambda *args: tuple(factor * out for out in graph.forward(*args))

    return backend


class CompiledBackward(Function):
    """Stands for the node that compiled code leaves in the graph."""

    @staticmethod
    def forward(ctx, function, input, target):
        ctx.save_for_backward(input, target)
        return function(input.detach(), target)

    @staticmethod
    def backward(ctx, upstream):
        input, target = ctx.saved_tensors
        return None, upstream * 2 * (input - target) / input.numel(), None


class Compiled(Accelerated):
    def __init__(self, factor):
        super().__init__()
        self.compiled = torch.compile(self.plain, backend=scaled_by(factor))

    @property
    def compiles(self):
        return True

    @staticmethod
    def plain(input, target):
        return ((input - target) ** 2).mean()

    def forward(self, input, target):
        return CompiledBackward.apply(self.compiled, input, target)

    def __deepcopy__(self, memo):
        return self


def test_compiled_code_is_what_is_compared():
    given = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)
    found = beside(Compiled(1.0), *given)
    assert (found.difference, found.undecided, found.dtype) == (None, None, torch.float32)
    wrong = beside(Compiled(1.25), *given).difference
    assert (wrong.what, wrong.times) == ("value", pytest.approx(1.25))


def test_what_was_not_compiled_is_not_proved():
    class Refused(Compiled):
        def forward(self, input, target):
            return self.plain(input, target)

    given = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)
    assert "the compiler refused it" in beside(Refused(1.0), *given).undecided


# ---------------------------------------------------------------------- the real ones
def test_chunk_is_proved(report):
    said = report(lossproof.chunk(F.cross_entropy, nn.Linear(6, 5)))
    assert said.ok
    assert {"LP103", "LP203"} <= {one.code for one in said.proved}


def test_chunk_infers_its_inputs():
    said = lossproof.check(lossproof.chunk(F.cross_entropy, nn.Linear(6, 5)), select=["LP103"])
    assert said.inputs[0].startswith("hidden: float32[8, 6]")
    assert said.inputs[1].startswith("target: int64[8]")
    assert [one.code for one in said.proved] == ["LP103"]


def test_pairs_is_proved(report):
    rows = lossproof.pairs(lambda x, y: x @ y.T / 0.3, "logsumexp")
    said = report(rows, torch.randn(8, 3, requires_grad=True), torch.randn(7, 3))
    assert said.ok
    assert {"LP103", "LP203"} <= {one.code for one in said.proved}


def test_a_loss_that_uses_them_has_no_finding(report):
    rows = lossproof.pairs(lambda x, y: x @ y.T / 0.3, "logsumexp")

    def info_nce(a, b):
        return (rows(a, b) - (a * b).sum(1) / 0.3).mean()

    assert report(info_nce, "float[8,3]", "float[8,3]").ok


def test_fuse_takes_what_the_loss_takes():
    subject = subject_of(lossproof.fuse(F.huber_loss))
    assert subject.parameter_names[:2] == ("input", "target")
    assert subject.required == 2
    assert any("compiled code" in one for one in subject.assumptions)


def test_compare_works_with_them():
    head = nn.Linear(6, 5)
    loss = lossproof.chunk(F.cross_entropy, head, chunk_size=3)
    said = lossproof.compare(loss, lambda h, t: F.cross_entropy(head(h), t), *inputs())
    assert said.same
