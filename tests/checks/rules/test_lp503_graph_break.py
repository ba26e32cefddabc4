"""LP503 graph-break."""

import pytest
import torch

import lossproof
from lossproof.checks.report import Severity, Status

CODE = "LP503"


@pytest.fixture
def asked(examination):
    """What the rule says when it was asked for."""
    from lossproof.checks.rules import RULES

    def run(loss, *inputs):
        case = examination(loss, *inputs)
        case.asked = frozenset({CODE})
        return RULES[CODE].examine(case)

    return run


def test_a_branch_on_a_number_of_the_graph(asked, marked):
    def loss(input, target):
        difference = (input - target).abs()
        if difference.max() < 1:  # <-- here
            return (difference**2 / 2).mean()
        return (difference - 0.5).mean()

    finding = asked(loss, "float[8]", "float[8]")[0]
    assert (finding.cause, finding.severity) == ("graph-break", Severity.PERFORMANCE)
    assert finding.location.line == marked(loss)


def test_an_item_in_a_module(asked, marked):
    class Scaled(torch.nn.Module):
        def forward(self, input, target):
            count = (target > 0).sum().item()  # <-- here
            return (input - target).pow(2).sum() / (count + 1)

    finding = asked(Scaled(), "float[8]", "float[8]")[0]
    assert finding.location.line == marked(Scaled)


def test_one_graph_is_proved(asked):
    (outcome,) = asked(torch.nn.HuberLoss(), "float[8]", "float[8]")
    assert outcome.status is Status.PROVED
    assert "one graph" in outcome.detail


def test_it_waits_to_be_asked(verdicts):
    (outcome,) = verdicts(CODE, torch.nn.MSELoss(), "float[8]", "float[8]")
    assert outcome.status is Status.NOT_APPLICABLE
    assert "--select LP503" in outcome.detail


def test_what_cannot_be_traced_is_unproved(asked, monkeypatch):
    import torch._dynamo

    def broken(function):
        raise RuntimeError("no tracing today\nwith details")

    monkeypatch.setattr(torch._dynamo, "explain", broken)
    (outcome,) = asked(torch.nn.MSELoss(), "float[8]", "float[8]")
    assert outcome.status is Status.UNPROVED
    assert outcome.detail.endswith("no tracing today")


def test_the_chunks_of_lossproof_end_the_graph_by_design(asked):
    loss = lossproof.chunk(torch.nn.functional.cross_entropy, torch.nn.Linear(4, 3))
    (said,) = asked(loss, "float[6,4]", "int[6]<3")
    assert said.status in (Status.NOT_APPLICABLE, Status.PROVED)


def test_a_break_in_a_loss_that_is_accelerated(asked, marked):
    def loss(input, target):
        difference = (input - target).abs()
        if difference.max() < 1:  # <-- here
            return (difference**2 / 2).mean()
        return (difference - 0.5).mean()

    finding = asked(lossproof.fuse(loss), "float[8]", "float[8]")[0]
    assert finding.location.line == marked(loss)
