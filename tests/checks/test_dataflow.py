"""Flow: which operation made what another one was given."""

import pytest
import torch
import torch.nn.functional as F

from lossproof.checks.dataflow import Flow


@pytest.fixture
def flow_of(examination):
    """The flow of one recorded call."""

    def make(loss, *inputs):
        case = examination(loss, *inputs)
        case.base  # noqa: B018 - records the call
        return Flow(case.trace.operations, case.base.passed)

    return make


def operation(flow, name):
    return next(found for found in flow.operations if found.name == name)


def test_operands_are_joined_to_their_makers(flow_of):
    flow = flow_of(lambda x, y: F.mse_loss(x.exp(), y), "float[4]", "float[4]")
    made, given = flow.operands(operation(flow, "mse_loss"))
    assert made.maker is operation(flow, "exp")
    assert made.position is None
    assert (given.maker, given.position) == (None, 1)
    assert flow.inputs(made) == {0}
    assert flow.inputs(given) == {1}
    assert flow.consumers(operation(flow, "exp")) == [operation(flow, "mse_loss")]


def test_operands_are_found_by_place_and_by_name(flow_of):
    flow = flow_of(lambda x, y: F.mse_loss(input=x, target=y), "float[4]", "float[4]")
    loss = operation(flow, "mse_loss")
    assert flow.operand(loss, 0, "input").position == 0
    assert flow.operand(loss, 1, "target").position == 1
    assert flow.operand(loss, 2, "weight") is None


@pytest.mark.parametrize(
    "carried",
    [
        lambda p: p[:2].reshape(-1),
        lambda p: p.T.contiguous().clone(),
        lambda p: p.clamp(1e-7, 1 - 1e-7),
        lambda p: p + 1e-8,
        lambda p: 1 - p,
        lambda p: p.double().detach(),
        lambda p: p / 4,
        lambda p: torch.stack([1 - p, p], 1),
    ],
)
def test_the_origin_lies_behind_what_hands_numbers_on(carried, flow_of):
    flow = flow_of(lambda x: carried(x.sigmoid()).abs().sum(), "float[4,3]")
    (given,) = flow.operands(operation(flow, "abs"))
    (origin,) = flow.origins(given)
    assert origin.maker is operation(flow, "sigmoid")


@pytest.mark.parametrize(
    "changed", [lambda p: p * 4, lambda p: p + 1, lambda p: p.log(), lambda p: 2 - p]
)
def test_new_numbers_have_an_origin_of_their_own(changed, flow_of):
    flow = flow_of(lambda x: changed(x.sigmoid()).abs().sum(), "float[4,3]")
    (given,) = flow.operands(operation(flow, "abs"))
    (origin,) = flow.origins(given)
    assert origin.maker is not operation(flow, "sigmoid")


def test_what_is_written_in_place_was_made_there(flow_of):
    def loss(x, y):
        filled = torch.zeros_like(x)
        filled[0] = y[0]
        return (filled * x).sum()

    flow = flow_of(loss, "float[4]", "float[4]")
    written, given = flow.operands(operation(flow, "mul"))
    assert written.maker is operation(flow, "__setitem__")
    assert flow.inputs(written) == {1}  # of x, only the shape
    assert given.position == 0


def test_plain_numbers_are_no_switches(flow_of):
    flow = flow_of(lambda x: torch.clamp(x, min=0.5).sum(0, True).sum(), "float[4]")
    assert list(flow.numbers(operation(flow, "clamp"))) == [0.5]
    assert list(flow.numbers(operation(flow, "sum"))) == [0.0]
