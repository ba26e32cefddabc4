"""A device that is only pretended: what is told of it, and what lies where."""

import pytest
import torch

from lossproof.checks.pretended_device import DEVICE, PretendedDevice
from lossproof.checks.sources import Sources


def run(loss, *inputs):
    mode = PretendedDevice(Sources(__file__), inputs)
    with mode:
        loss(*inputs)
    return [meeting.operation for meeting in mode.meetings]


def test_a_loss_is_told_of_the_device():
    seen = []

    def loss(x):
        y = 2 * x
        seen.extend([y.device, y.is_cuda, torch.zeros(2).device.type, y.cpu().device.type])
        seen.append(torch.zeros(2, device=y.device).device)

    run(loss, torch.ones(3))
    assert seen == [DEVICE, True, "cpu", "cpu", DEVICE]


MOVED = {
    "device=": lambda x: torch.ones(3, device=x.device),
    "to(tensor)": lambda x: torch.ones(3).to(x),
    "to(device)": lambda x: torch.ones(3).to(x.device, torch.float32),
    "cuda": lambda x: torch.ones(3).cuda(),
    "type_as": lambda x: torch.ones(3).type_as(x),
    "new": lambda x: x.new_ones(3),
    "like": lambda x: torch.ones_like(x),
    "of a tensor": lambda x: torch.as_tensor(x.detach()),
    "unpacked": lambda x: torch.stack(list(x)),
    "gradient": lambda x: torch.autograd.grad((x * x).sum(), x)[0],
}
LEFT = {
    "ones": lambda x: torch.ones(3),
    "arange": lambda x: torch.arange(3.0),
    "derived": lambda x: torch.eye(3)[0] * 2,
    "half moved": lambda x: torch.zeros_like(torch.ones(3)),
    "numbers": lambda x: torch.tensor([float(one) for one in x.detach()]),
}


@pytest.mark.parametrize("make", MOVED.values(), ids=MOVED.keys())
def test_what_follows_the_inputs_meets_nothing(make):
    assert not run(lambda x: x + make(x), torch.ones(3, requires_grad=True))


@pytest.mark.parametrize("make", LEFT.values(), ids=LEFT.keys())
def test_what_stays_behind_is_met(make):
    assert run(lambda x: x + make(x), torch.ones(3, requires_grad=True)) == ["add"]


ALLOWED = {
    "no dimension": lambda x: x * torch.tensor(2.0),
    "an index": lambda x: x[torch.arange(3)],
    "a mask": lambda x: x[torch.ones(3) > 0],
    "copy_": lambda x: torch.ones(3).copy_(x),
    "an element": lambda x: torch.zeros(3).__setitem__(0, x[0]),
    "shape only": lambda x: torch.ones(3).expand_as(x),
}


@pytest.mark.parametrize("use", ALLOWED.values(), ids=ALLOWED.keys())
def test_what_torch_allows_between_devices_is_no_meeting(use):
    assert not run(use, torch.ones(3))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad_output):
        return 2 * grad_output


def test_the_result_of_a_function_lies_where_its_arguments_do():
    x = torch.ones(3, requires_grad=True)
    assert not run(lambda x: Doubled.apply(x) + x, x)
    assert run(lambda x: Doubled.apply(x) + torch.ones(3), x) == ["add"]


def test_the_numbers_are_the_real_ones():
    kept = []
    run(lambda x: kept.append(float((x + torch.ones(3)).sum())), torch.ones(3))
    assert kept == [6.0]
