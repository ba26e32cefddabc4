"""Whether a value depends on an input, and which line is to blame where no gradient does."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.reach import grouped, lost_terms, reaches

PAIR = ("float[6,4]", "float[6,4]")


def kinds(case):
    return {reach.name: reach.kind for reach in reaches(case)}


def both():
    return [torch.randn(6, 4, requires_grad=True) for _ in range(2)]


def of(expression):
    return eval(f"lambda a, b: {expression}", {"torch": torch, "F": F, "math": math})


@pytest.mark.parametrize(
    ("expression", "a", "b"),
    [
        ("(a - b).pow(2).mean()", "connected", "connected"),
        ("(a - b.detach()).pow(2).mean()", "connected", "cut"),
        ("(a - b.data).pow(2).mean()", "connected", "cut"),
        ("a.pow(2).mean() * b.pow(2).mean().item()", "connected", "cut"),
        ("a.pow(2).mean() * math.exp(b.mean())", "connected", "cut"),
        ("a.pow(2).mean() + (b > 0).float().mean()", "connected", "flat"),
        ("a.pow(2).mean() + b.round().mean()", "connected", "flat"),
        ("a.pow(2).mean() * (1 + b.argmax(1).float().mean())", "connected", "flat"),
        ("a.pow(2).mean()", "connected", "unused"),
        ("a.pow(2).mean() + 0 * b.sum()", "connected", "unused"),
        ("torch.relu(a - 9).mean() + torch.relu(b + 9).mean()", "unused", "connected"),
        ("torch.relu(a - 2.9).mean() + b.sum()", "connected", "connected"),
        ("(a - b + (b - b.detach())).pow(2).mean()", "connected", "unused"),
    ],
)
def test_the_four_answers(expression, a, b, examination):
    found = kinds(examination(of(expression), *both()))
    if expression.endswith("(b - b.detach())).pow(2).mean()"):
        # Autograd sees -1 + 1 = 0 here and the value moves: the gradient is not the value's.
        assert found == {"a": "connected", "b": "cut"}
    else:
        assert found == {"a": a, "b": b}


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1e3, 1e8])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_the_answers_hold_at_every_scale(scale, offset, examination):
    def loss(a, b):
        return offset * scale + scale * (a - b.detach()).pow(2).mean()

    case = examination(loss, *both())
    assert kinds(case) == {"a": "connected", "b": "cut"}
    assert reaches(case)[1].culprits


def test_the_culprit_is_the_stop_that_matters(examination, marked):
    def loss(a, b):
        print_me = f"{a.mean().item()} {b.detach().sum()}"
        top = b.max().detach()
        c = b - top
        with torch.no_grad():
            unused = c * 2
        scaled = c.detach() + 0 * unused  # <-- here
        assert print_me
        return (a - scaled).pow(2).mean()

    reach = reaches(examination(loss, *both()))[1]
    assert reach.kind == "cut"
    assert reach.location.line == marked(loss)


def test_stops_of_one_loop_are_one_culprit(examination, marked):
    def loss(a, b):
        total = a.pow(2).mean()
        for row in b:
            total = total + row.pow(2).mean().item()  # <-- here
        return total

    reach = reaches(examination(loss, *both()))[1]
    assert len(reach.culprits) == 6
    assert reach.location.line == marked(loss)


def test_groups_are_by_place_and_name(examination):
    def loss(a, b):
        return sum(row.detach().sum() * float(row.sum()) for row in a) + b.sum()

    trace = examination(loss, *both()).twin.trace
    assert sorted(len(group) for group in grouped(trace.stops)) == [6, 6]


def test_a_flat_operation_with_a_graph_is_named(examination, marked):
    def loss(a, b):
        rounded = torch.round(a * 2)  # <-- here
        return (rounded - b.detach()).pow(2).mean()

    reach = reaches(examination(loss, *both()))[0]
    assert reach.kind == "flat"
    assert reach.operation.name == "round"
    assert reach.location.line == marked(loss)
    assert reach.change > 0


def test_parameters_of_the_loss_count(examination):
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.used = nn.Parameter(torch.ones(4))
            self.cut = nn.Parameter(torch.ones(4))
            self.unused = nn.Parameter(torch.ones(4))
            self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)

        def forward(self, a, b):
            return ((a - b).pow(2) * self.used * self.cut.data * self.frozen).mean()

    case = examination(Weighted(), torch.randn(6, 4, requires_grad=True), torch.randn(6, 4))
    assert kinds(case) == {
        "a": "connected", "self.used": "connected", "self.cut": "cut", "self.unused": "unused",
    }  # fmt: skip


def test_an_empty_input_is_unused(examination):
    case = examination(
        lambda a, b: a.sum() + b.sum(), torch.empty(0, 3).requires_grad_(), both()[0]
    )
    assert kinds(case) == {"a": "unused", "b": "connected"}


# ------------------------------------------------------------------ terms that are lost


def l2_of_item(a, b):
    return F.mse_loss(a, b) + 0.1 * a.pow(2).sum().item()  # <-- here


def under_no_grad(a, b):
    with torch.no_grad():
        penalty = a.norm()  # <-- here
    return F.mse_loss(a, b) + 0.5 * penalty


def through_float(a, b):
    return F.mse_loss(a, b) - float(a.std())  # <-- here


def of_a_detached_tensor(a, b):
    centre = a.detach().mean(0)  # <-- here
    return F.mse_loss(a, b) + 0.1 * centre.pow(2).sum()


def elementwise_under_no_grad(a, b):
    with torch.no_grad():
        penalty = a.pow(2)  # <-- here
    return F.mse_loss(a, b) + 0.1 * penalty.sum()


def of_data(a, b):
    return F.mse_loss(a, b) + 0.1 * a.data.norm()  # <-- here


@pytest.mark.parametrize(
    "loss",
    [
        l2_of_item,
        under_no_grad,
        through_float,
        of_a_detached_tensor,
        elementwise_under_no_grad,
        of_data,
    ],
)
def test_a_stopped_term_is_lost(loss, examination, marked):
    case = examination(loss, torch.randn(6, 4, requires_grad=True), torch.randn(6, 4))
    (term,) = lost_terms(case)
    assert term.name == "a"
    assert term.stops[0].operation.site.location.line == marked(loss)
    assert abs(term.derivative) > 0


def self_weighted(a, b):
    loss = F.mse_loss(a, b)
    return loss / loss.item()


def detached_denominator(a, b):
    error = (a - b).pow(2)
    return error.sum() / error.detach().sum().sqrt()


def constant_added(a, b):
    return F.mse_loss(a, b) + b.pow(2).mean().item()


def shifted_by_maximum(a, b):
    top = a.max().detach()
    return top + (a - top).exp().sum().log() + b.sum()


def printed(a, b):
    loss = F.mse_loss(a, b)
    assert math.isfinite(loss.item())
    return loss


def shifted_rows(a, b):
    row = a - a.max(1, keepdim=True).values.detach()
    return (row.exp().sum(1).log() - (row * b.softmax(1)).sum(1)).mean()


def straight_through(a, b):
    return ((a + (a.round() - a).detach()) * b).mean()


def straight_through_one_hot(a, b):
    soft = a.softmax(1)
    hard = F.one_hot(soft.argmax(1), 4).to(soft)
    return ((hard - soft.detach() + soft) * b).sum()


def stop_gradient_target(a, b):
    return (1 - F.cosine_similarity(a, a.roll(1, 0).detach())).mean() + b.sum()


@pytest.mark.parametrize(
    "loss",
    [
        self_weighted,
        detached_denominator,
        constant_added,
        shifted_by_maximum,
        printed,
        shifted_rows,
        straight_through,
        straight_through_one_hot,
        stop_gradient_target,
    ],
)
def test_what_is_stopped_on_purpose_is_no_lost_term(loss, examination):
    case = examination(loss, torch.randn(6, 4, requires_grad=True), torch.randn(6, 4))
    assert lost_terms(case) == ()
