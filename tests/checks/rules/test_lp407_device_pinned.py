"""LP407 device-pinned: what stays on the CPU and meets inputs that lie elsewhere."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.report import Severity, Status

PAIR = ("float[4,3]", "float[4,3]")


class Weighted(nn.Module):
    def forward(self, input, target):
        weight = torch.ones(3)  # <-- here
        return (weight * (input - target) ** 2).mean()


class OldConstructor(nn.Module):
    def forward(self, input, target):
        weight = torch.FloatTensor([1, 2, 3])  # <-- here
        return (weight * (input - target) ** 2).mean()


class FromNumpy(nn.Module):
    def forward(self, input, target):
        weight = torch.from_numpy(np.ones(3, dtype=np.float32))  # <-- here
        return (weight * (input - target) ** 2).mean()


class Derived(nn.Module):
    def forward(self, input, target):
        eye = torch.eye(len(input))  # <-- here
        others = (1 - eye).reshape(len(input), -1)
        return ((input @ target.T) * others).mean()


class Accumulated(nn.Module):
    def forward(self, input, target):
        total = torch.zeros(1)  # <-- here
        for one, other in zip(input, target, strict=True):
            total = total + ((one - other) ** 2).sum()
        return total.mean()


def half_aware(input, target):
    shift = torch.zeros(3, device=input.device)
    rows = torch.arange(len(input))  # <-- here
    return F.cross_entropy(input @ target.T + shift.sum(), rows)


def chosen_by_where(input, target):
    device = input.device
    weight = torch.where(target > 0, input.to(device), torch.zeros(4, 3))  # <-- here
    return (weight - target).pow(2).mean()


@pytest.mark.parametrize(
    "loss",
    [Weighted, OldConstructor, FromNumpy, Derived, Accumulated, half_aware, chosen_by_where],
)
def test_what_is_made_on_the_cpu_is_found(loss, found, marked):
    (finding,) = found("LP407", loss, *PAIR)
    assert finding.location.line == marked(loss)
    assert finding.cause == "made-on-cpu"
    assert finding.severity is Severity.ERROR
    assert "input.device" in finding.help


class PlainAttribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.tensor([1.0, 2.0, 3.0])  # <-- here

    def forward(self, input, target):
        return (self.weight * (input - target) ** 2).mean() * torch.ones((), device=input.device)


def test_a_plain_attribute_is_found(found, marked):
    (finding,) = found("LP407", PlainAttribute, *PAIR)
    assert finding.location.line == marked(PlainAttribute)
    assert finding.cause == "plain-attribute"
    assert "register_buffer" in finding.help


WEIGHT = torch.tensor([1.0, 2.0, 3.0])


def from_global(input, target):
    scale = torch.ones((), device=input.device)
    return (scale * WEIGHT * (input - target) ** 2).mean()


def test_a_global_is_found(found):
    (finding,) = found("LP407", from_global, *PAIR)
    assert finding.cause == "global"
    assert finding.location.source.startswith("WEIGHT = ")


class ThroughNumpy(nn.Module):
    def forward(self, input, target):
        largest = input.detach().numpy().max()  # <-- here
        return ((input - target) ** 2).mean() * float(largest)


def test_numpy_of_a_tensor_on_the_gpu_is_found(found, marked):
    (finding,) = found("LP407", ThroughNumpy, *PAIR)
    assert finding.cause == "numpy"
    assert finding.location.line == marked(ThroughNumpy)


# ------------------------------------------------------------------ not reported


class Following(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.tensor([1.0, 2.0, 3.0]))
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, input, target):
        eye = torch.eye(len(input), device=input.device)
        ones = torch.ones(3).to(input)
        others = input.new_ones(3) + torch.zeros(3).type_as(input) + torch.zeros_like(target[0])
        moved = torch.zeros(3).to(target.device)
        error = self.weight * self.scale * ones * others * (input - target + moved) ** 2
        return error.mean() + (eye @ input).mean()


class ZeroDimensional(nn.Module):
    def forward(self, input, target):
        return torch.tensor(2.0) * ((input - target) ** 2).mean() + torch.zeros(())


class IndexOnTheCpu(nn.Module):
    def forward(self, input, target):
        rows = torch.arange(len(input))
        return (input[rows] - target[rows]).pow(2).mean() + input.new_zeros(()).sum()


class Assigned(nn.Module):
    def forward(self, input, target):
        out = torch.zeros(len(input))
        for row in range(len(input)):
            out[row] = ((input[row] - target[row]) ** 2).sum()
        return out.mean() if input.device.type == "cpu" else out.to(input.device).mean()


class Guarded(nn.Module):
    def forward(self, input, target):
        weight = torch.ones(3)
        if input.is_cuda:
            weight = weight.cuda()
        return (weight * (input - target) ** 2).mean()


class MovedToo(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.tensor([1.0, 2.0, 3.0])

    def forward(self, input, target):
        return (self.weight.to(input.device) * (input - target) ** 2).mean()


class HandedOver(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, input, target):
        return (self.weight * (input - target) ** 2).mean() + input.new_zeros(())


class NumbersAlone(nn.Module):
    def forward(self, input, target):
        largest = input.detach().cpu().numpy().max()
        return ((input - target) ** 2).mean() * float(largest) + input.max().item()


@pytest.mark.parametrize(
    "loss",
    [
        Following, ZeroDimensional, IndexOnTheCpu, Assigned, Guarded, MovedToo, NumbersAlone,
        HandedOver(torch.ones(3)), F.mse_loss,
    ],
)  # fmt: skip
def test_what_torch_allows_is_proved(loss, silent):
    assert silent("LP407", loss, *PAIR) is Status.PROVED


def test_a_closure_is_the_callers(silent):
    weight = torch.ones(3)
    assert silent("LP407", lambda x, y: (weight * (x - y) ** 2).mean(), *PAIR) is Status.PROVED


def for_the_cpu(input, target):
    return (torch.ones(3) * (input - target) ** 2).mean()


class Labels(nn.Module):
    def forward(self, input, target):
        return F.cross_entropy(input @ target.T, torch.arange(len(input)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="an accelerator makes these errors")
@pytest.mark.parametrize("loss", [for_the_cpu, Labels])
def test_without_an_accelerator_a_loss_for_the_cpu_is_told_and_not_convicted(loss, verdicts):
    (outcome,) = verdicts("LP407", loss, *PAIR)
    assert outcome.status is Status.UNPROVED
    assert "runs on the CPU only" in outcome.detail


@pytest.mark.parametrize("loss", [for_the_cpu, Labels])
def test_with_an_accelerator_it_is_found(loss, found, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    (finding,) = found("LP407", loss, *PAIR)
    assert finding.cause == "made-on-cpu"


def test_what_breaks_on_the_pretended_device_is_unproved(silent):
    def odd(input, target):
        if input.is_cuda:
            raise RuntimeError("not on a GPU")
        return F.mse_loss(input, target)

    assert silent("LP407", odd, *PAIR) is Status.UNPROVED


def test_the_page(page_code, module_of, found, verdicts, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    head = "import torch\n\n\n"
    bad = module_of(head + page_code("LP407", "Example"), "bad")
    good = module_of(head + page_code("LP407", "Use instead"), "good")
    (finding,) = found("LP407", bad.signed_return_loss, "float[6]", "float[6]")
    assert finding.location.line == 5
    assert not found("LP407", good.signed_return_loss, "float[6]", "float[6]")


class BalancedByAttribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.tensor([0.2, 0.3, 0.5])  # <-- here

    def forward(self, logits, labels):
        return (F.cross_entropy(logits, labels, reduction="none") * self.weight[labels]).mean()


class BalancedByBuffer(BalancedByAttribute):
    def __init__(self):
        nn.Module.__init__(self)
        self.register_buffer("weight", torch.tensor([0.2, 0.3, 0.5]))


def test_beside_a_reference_that_follows_its_inputs_it_is_found(found, silent, marked):
    inputs = torch.randn(6, 3).requires_grad_(), torch.arange(6) % 3
    silent("LP407", BalancedByAttribute(), *inputs)
    (finding,) = found("LP407", BalancedByAttribute(), *inputs, reference=BalancedByBuffer())
    assert finding.cause == "plain-attribute"
    assert finding.location.line == marked(BalancedByAttribute)
    silent("LP407", BalancedByBuffer(), *inputs, reference=BalancedByAttribute())
