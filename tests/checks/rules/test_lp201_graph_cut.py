"""LP201 graph-cut: every way out of the graph, with its line; stops on purpose stay silent."""

import contextlib
import functools
import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.report import Severity, Status

WRONG = {}
RIGHT = {}


def wrong(*inputs, cause=None):
    def keep(loss):
        WRONG[getattr(loss, "__name__", str(loss))] = (loss, inputs, cause)
        return loss

    return keep


def right(*inputs):
    def keep(loss):
        RIGHT[getattr(loss, "__name__", str(loss))] = (loss, inputs)
        return loss

    return keep


PAIR = ("float[6,4]", "float[6,4]")
CLASSES = ("float[6,4]", "int[6]<4")


# ------------------------------------------------------------------ wrong: nothing arrives


@wrong(*PAIR, cause="item")
def item_at_the_end(pred, target):
    loss = ((pred - target) ** 2).mean().item()  # <-- here
    return torch.tensor(loss, requires_grad=True)


@wrong(*PAIR, cause="item")
def plain_number(pred, target):
    return (pred - target).pow(2).mean().item()  # <-- here


@wrong(*PAIR, cause="detach")
def numpy_mse(pred, target):
    p = pred.detach().cpu()  # noqa: F841
    difference = pred.detach().numpy() - target.numpy()  # <-- here
    return torch.as_tensor((difference**2).mean())


@wrong(*PAIR, cause="data")
def old_data_attribute(pred, target):
    p = pred.data  # <-- here
    return torch.abs(p - target).mean()


@wrong(*PAIR, cause="float")
def float_of_each_row(pred, target):
    total = 0.0
    for row, other in zip(pred, target, strict=True):
        total = total + float(((row - other) ** 2).sum())  # <-- here
    return torch.tensor(total / len(pred))


@wrong(*PAIR, cause="tolist")
def list_of_numbers(pred, target):
    errors = (pred - target).abs().flatten().tolist()  # <-- here
    return torch.tensor(sum(errors) / len(errors), requires_grad=True)


@wrong(*PAIR, cause="no_grad")
def under_no_grad(pred, target):
    with torch.no_grad():
        loss = F.mse_loss(pred, target)  # <-- here
    return loss


@wrong("float[6]", "float[6]", cause="tensor")
def rebuilt_with_torch_tensor(pred, target):
    return (torch.tensor([p for p in pred]) - target).square().mean()  # noqa: C416  # <-- here


@wrong("positive[6]", "positive[6]", cause="float")
def math_of_a_tensor(pred, target):
    return (pred * 0).sum() + math.sqrt(((pred - target) ** 2).sum())  # <-- here


@wrong(*PAIR, cause="detach")
def detached_by_mistake(pred, target):
    probabilities = torch.softmax(pred, -1).detach()  # <-- here
    return -(torch.softmax(target, -1) * probabilities.log()).sum(-1).mean()


@wrong(*PAIR, cause="detach")
def detached_in_place(pred, target):
    probabilities = torch.softmax(pred, -1)
    probabilities.detach_()  # <-- here
    return F.mse_loss(probabilities, target)


@wrong(*PAIR, cause="detach")
def numpy_function_of_a_tensor(pred, target):
    with torch.no_grad():
        p = pred - 0  # noqa: F841
    error = np.asarray(pred.detach() - target)  # <-- here
    return torch.from_numpy(error).pow(2).mean()


class OldStyleModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = 2.0

    def distance(self, a, b):
        return self.scale * (a.data - b).pow(2).mean()  # <-- here

    def forward(self, pred, target):
        return self.distance(pred, target)


wrong(*PAIR, cause="data")(OldStyleModule)


class DecoratedModule(nn.Module):
    @torch.no_grad()
    def forward(self, pred, target):
        return F.l1_loss(pred, target)  # <-- here


wrong(*PAIR, cause="no_grad")(DecoratedModule)


@wrong(*PAIR, cause="item")
def generator_of_items(pred, target):
    return torch.as_tensor(
        sum(
            (row - other).abs().sum().item()  # <-- here
            for row, other in zip(pred, target, strict=True)
        )
    )


@wrong("float[6,4]", "float[6,4]", cause="detach")
def one_of_two_inputs(pred, target):
    return F.mse_loss(pred.detach(), torch.zeros_like(pred)) + F.l1_loss(  # <-- here
        pred.detach() * 0, target
    )


@pytest.mark.parametrize("name", WRONG)
def test_cut_is_found_at_its_line(name, found, marked):
    loss, inputs, cause = WRONG[name]
    findings = found("LP201", loss, *inputs)
    assert [f.location.line for f in findings] == [marked(loss)], findings
    assert findings[0].severity is Severity.ERROR
    assert findings[0].cause == cause
    assert findings[0].help
    assert findings[0].evidence["derivative"] != 0


def test_one_of_two_wanted_inputs_is_named(found):
    def matching(a, b):
        return (a - torch.tanh(b).detach()).pow(2).mean()

    both = torch.randn(5, requires_grad=True), torch.randn(5, requires_grad=True)
    (finding,) = found("LP201", matching, *both)
    assert "`b`" in finding.message
    assert "`a`" not in finding.message


def test_one_of_several_inputs_may_be_detached_on_purpose(verdicts):
    def temporal_difference(value, next_value, reward):
        return F.mse_loss(value, reward + 0.9 * next_value.detach())

    both = torch.randn(5, requires_grad=True), torch.randn(5, requires_grad=True)
    (outcome, *_) = verdicts("LP201", temporal_difference, *both, torch.rand(5))
    assert outcome.status is Status.UNPROVED
    assert "`next_value`" in outcome.detail


def test_a_target_made_of_rewards_and_the_next_value_may_be_detached(verdicts):
    def temporal_difference(value, next_value, reward):
        return F.mse_loss(value, (reward + 0.9 * next_value).detach())

    value, next_value = (torch.randn(5).requires_grad_() for _ in range(2))
    (outcome,) = verdicts("LP201", temporal_difference, value, next_value, torch.randn(5))
    assert outcome.status is Status.UNPROVED
    assert "`next_value`" in outcome.detail


def test_a_teacher_under_no_grad_is_constant_on_purpose(verdicts):
    def relations(student, teacher):
        with torch.no_grad():
            wanted = teacher @ teacher.T
        return F.mse_loss(student @ student.T, wanted)

    both = [torch.randn(6, 4, requires_grad=True) for _ in range(2)]
    said = verdicts("LP201", relations, *both)
    assert {outcome.status for outcome in said} == {Status.UNPROVED}


def test_the_projection_of_the_other_view_is_detached_on_purpose(verdicts):
    def simsiam(p1, p2, z1, z2):
        def side(p, z):
            return -F.cosine_similarity(p, z.detach(), dim=-1).mean()

        return (side(p1, z2) + side(p2, z1)) / 2

    views = [torch.randn(6, 4, requires_grad=True) for _ in range(4)]
    said = verdicts("LP201", simsiam, *views)
    assert {outcome.status for outcome in said} == {Status.UNPROVED}
    assert "`z1` is detached" in said[0].detail


def test_what_is_detached_as_it_is_must_face_its_equal(found):
    def attention(logits, label, weights, cage):
        weights = weights.detach()
        return F.cross_entropy(logits, label) + (weights @ cage).pow(2).mean()

    inputs = [torch.randn(shape, requires_grad=True) for shape in ((6, 3), (6, 4), (4, 2))]
    (finding,) = found("LP201", attention, inputs[0], torch.arange(6) % 3, *inputs[1:])
    assert "`weights`" in finding.message


@pytest.mark.skipif(sys.version_info < (3, 11), reason="code has no columns before Python 3.11")
def test_the_columns_are_those_of_the_expression(found):
    def loss(pred, target):
        return torch.tensor(1.0) * (pred - target).pow(2).mean().item() + 0 * pred.detach().sum()

    (finding,) = found("LP201", loss, *PAIR)
    location = finding.location
    text = location.source[location.column - 1 : location.end_column - 1]
    assert text == "(pred - target).pow(2).mean().item()"


def test_a_parameter_of_the_loss_is_named(found, marked):
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.log_scale = nn.Parameter(torch.tensor(0.3))

        def forward(self, pred, target):
            scale = self.log_scale.exp().item()  # <-- here
            return ((pred - target) ** 2).mean() * scale

    pred = torch.randn(6, requires_grad=True)
    (finding,) = found("LP201", Weighted(), pred, torch.randn(6))
    assert "`self.log_scale`" in finding.message
    assert finding.location.line == marked(Weighted)


def test_a_term_that_is_logged_but_not_trained_is_a_warning(found, marked):
    def total(pred, target):
        fit = F.mse_loss(pred, target)
        smooth = (pred[:, 1:] - pred[:, :-1]).abs().mean().item()  # <-- here
        return fit + 0.1 * smooth

    (finding,) = found("LP201", total, *PAIR)
    assert finding.cause == "lost-term"
    assert finding.severity is Severity.WARNING
    assert finding.location.line == marked(total)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
def test_the_verdict_does_not_depend_on_the_scale(scale, found, silent):
    def cut(pred, target):
        return scale * (pred.detach() - target).pow(2).mean()

    def whole(pred, target):
        return scale * (pred - target).pow(2).mean()

    assert len(found("LP201", cut, *PAIR)) == 1
    silent("LP201", whole, *PAIR)


# ------------------------------------------------------------------ right: stopped on purpose


@right(*CLASSES)
def stable_cross_entropy(logits, target):
    shifted = logits - logits.max(dim=1, keepdim=True).values.detach()
    log_p = shifted - shifted.exp().sum(1, keepdim=True).log()
    return -log_p.gather(1, target[:, None]).mean()


@right(*CLASSES)
def focal_with_detached_weight(logits, target):
    ce = F.cross_entropy(logits, target, reduction="none")
    with torch.no_grad():
        weight = (1 - torch.exp(-ce)) ** 2
    return (weight * ce).mean()


@right("float[6]", "positive[6]", "float[6]")
def beta_nll(mean, variance, target):
    loss = 0.5 * ((target - mean) ** 2 / variance + variance.log())
    return (loss * variance.detach() ** 0.5).mean()


@right(*PAIR)
def byol(online, target):
    p = F.normalize(online, dim=-1)
    z = F.normalize(target.detach(), dim=-1)
    return 2 - 2 * (p * z).sum(-1).mean()


def siamese(a, b):
    def side(p, z):
        return -F.cosine_similarity(p, z.detach(), dim=-1).mean()

    return (side(a, b) + side(b, a)) / 2


def test_symmetric_stop_gradient_is_silent(silent):
    both = [torch.randn(6, 4, requires_grad=True) for _ in range(2)]
    assert silent("LP201", siamese, *both) is Status.PROVED


@right(*PAIR)
def weighted_by_its_own_size(pred, target):
    loss = (pred - target).abs().mean()
    return loss / max(loss.item(), 1e-3)


@right("float[6,4]", "float[6,4]")
def straight_through(pred, target):
    hard = (pred > 0).float()
    soft = torch.sigmoid(pred)
    return F.mse_loss(hard.detach() + soft - soft.detach(), target)


@right("positive[6,4]", "positive[6,4]")
def ciou_like(pred, target):
    v = (torch.atan(pred[:, 2] / pred[:, 3]) - torch.atan(target[:, 2] / target[:, 3])) ** 2
    overlap = (torch.minimum(pred, target) / torch.maximum(pred, target)).prod(-1)
    with torch.no_grad():
        alpha = v / (1 - overlap + v + 1e-7)
    return (1 - overlap + alpha * v).mean()


@right(*PAIR)
def normalised_by_a_detached_scale(pred, target):
    scale = (pred - target).abs().max().item() + 1.0
    return ((pred - target) ** 2).mean() / scale


@right(*PAIR)
def logs_and_asserts(pred, target):
    loss = F.mse_loss(pred, target)
    text = f"{loss.item():.3f} {float(pred.mean()):.3f} {pred.detach().numpy().sum()}"
    assert text
    if loss.item() > 1e9 or bool((pred > 1e9).any()):
        loss = loss / loss.item()
    return loss


@right("float[6,4]", "float[6,4]")
def page_of_hinge(pred, target):
    return torch.clamp(1 - pred * target, min=0).mean()


@pytest.mark.parametrize("name", RIGHT)
def test_stop_on_purpose_is_silent(name, silent):
    loss, inputs = RIGHT[name]
    assert silent("LP201", loss, *inputs) is Status.PROVED


def test_no_floating_input_is_not_applicable(silent):
    def accuracy(pred, target):
        return (pred == target).float().mean()

    assert silent("LP201", accuracy, "int[6]<4", "int[6]<4") is Status.NOT_APPLICABLE


# ------------------------------------------------------------------ the page


def test_example_of_the_page_is_found_and_use_instead_is_silent(
    page_code, module_of, found, silent
):
    head = "import torch\n"
    bad = module_of(head + page_code("LP201", "Example"), "bad")
    good = module_of(head + page_code("LP201", "Use instead"), "good")
    log_prob = torch.randn(6, requires_grad=True)
    reward = torch.randn(6)
    (finding,) = found("LP201", bad.reinforce, log_prob, reward)
    assert finding.location.line == 3
    silent("LP201", good.reinforce, log_prob, reward)


# ------------------------------------------------------------------ clothing


def _inner(scale, pred, target):
    return torch.tensor(scale * (pred - target).abs().mean().item())  # <-- here


def _logged(loss):
    @functools.wraps(loss)
    def wrapper(*args, **kwargs):
        with contextlib.nullcontext():
            return loss(*args, **kwargs)

    return wrapper


@_logged
def decorated(pred, target):
    return torch.tensor((pred - target).abs().mean().item())  # <-- here


class CallableObject:
    def __call__(self, pred, target):
        return torch.tensor((pred - target).abs().mean().item())  # <-- here

    def method(self, pred, target):
        return self(pred, target)

    @staticmethod
    def static(pred, target):
        return CallableObject()(pred, target)


@pytest.mark.parametrize(
    ("loss", "source"),
    [
        (functools.partial(_inner, 2.0), _inner),
        (functools.partial(functools.partial(_inner), 2.0), _inner),
        (decorated, decorated),
        (CallableObject(), CallableObject.__call__),
        (CallableObject, CallableObject.__call__),
        (CallableObject().method, CallableObject.__call__),
        (CallableObject.static, CallableObject.__call__),
        (lambda pred, target: _inner(3.0, pred, target), _inner),
    ],
    ids=["partial", "partial of partial", "wraps", "object", "class", "method", "static", "lambda"],
)
def test_every_clothing_of_a_cut(loss, source, found, marked):
    (finding,) = found("LP201", loss, *PAIR)
    assert finding.location.line == marked(source)
