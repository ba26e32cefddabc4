"""LP401 input-mutated: what the caller gave is not what the caller has afterwards."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.report import Status

PAIR = ("float[6,4]", "float[6,4]")


def smoothed(input, target):
    target.mul_(0.9).add_(0.05)  # <-- here
    return F.binary_cross_entropy_with_logits(input, target)


def through_float(input, target):
    target = target.float()
    target.mul_(0.9)  # <-- here
    return F.mse_loss(input, target)


def through_a_view(input, target):
    labels = target.view(-1)
    labels[labels < 0] = 0  # <-- here
    return F.mse_loss(input.view(-1), labels)


def augmented(input, target):
    target -= target.mean()  # <-- here
    return F.mse_loss(input, target)


def divided(input, target):
    target /= 2.0  # <-- here
    return F.mse_loss(input, target)


def ignored_labels(logits, target):
    target[target == 3] = -100  # <-- here
    return F.cross_entropy(logits, target)


def scattered(input, target):
    with torch.no_grad():
        target.scatter_(1, torch.zeros(6, 1, dtype=torch.long), 1.0)  # <-- here
    return F.mse_loss(input, target)


def prediction_under_no_grad(input, target):
    with torch.no_grad():
        input.clamp_(0, 1)  # <-- here
    return F.mse_loss(input, target)


def data_of_prediction(input, target):
    input.data.clamp_(-0.5, 0.5)  # <-- here
    return F.mse_loss(input, target)


def bias_added(logits, target):
    logits += torch.arange(4.0)  # <-- here
    return F.mse_loss(logits, target)


class Masking(nn.Module):
    def mask(self, target):
        return target.masked_fill_(target > 1, 1.0)  # <-- here

    def forward(self, input, target):
        return F.mse_loss(input, self.mask(target))


class InForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, target):
        target.mul_(2)  # <-- here
        ctx.save_for_backward(input, target)
        return ((input - target) ** 2).mean()

    @staticmethod
    def backward(ctx, grad):
        input, target = ctx.saved_tensors
        return grad * 2 * (input - target) / input.numel(), None


def output_argument(input, target):
    difference = torch.sub(input.detach(), target, out=target)  # <-- here
    return (input * difference).mean()


@pytest.mark.parametrize(
    ("loss", "inputs", "operation"),
    [
        (smoothed, ("float[6,4]", "binary[6,4]"), "`mul_`"),
        (through_float, PAIR, "`mul_`"),
        (through_a_view, PAIR, "`[...] =`"),
        (augmented, PAIR, "`-=`"),
        (divided, PAIR, "`/=`"),
        (ignored_labels, ("float[9,5]", "int[9]<4"), "`[...] =`"),
        (scattered, PAIR, "`scatter_`"),
        (prediction_under_no_grad, PAIR, "`clamp_`"),
        (data_of_prediction, PAIR, "`clamp_`"),
        (bias_added, PAIR, "`+=`"),
        (Masking, PAIR, "`masked_fill_`"),
        (InForward, PAIR, "`mul_`"),
        (output_argument, PAIR, "`sub`"),
    ],
)
def test_a_write_into_an_input_is_found(loss, inputs, operation, found, marked):
    (finding,) = found("LP401", loss, *inputs)
    assert finding.location.line == marked(loss)
    assert operation in finding.message
    assert finding.evidence["changed"] > 0
    assert finding.help


def test_augmented_assignments_are_mended_as_they_are_written(found):
    (finding,) = found("LP401", augmented, *PAIR)
    assert "`x = x - ...`" in finding.help
    (finding,) = found("LP401", smoothed, "float[6,4]", "binary[6,4]")
    assert "use `mul`, which makes a new tensor, instead of `mul_`" in finding.help


def test_through_numpy_no_operation_is_seen_but_the_change_is(found):
    def loss(input, target):
        target.numpy()[:] = 0
        return F.mse_loss(input, target)

    (finding,) = found("LP401", loss, *PAIR)
    assert "`target`" in finding.message
    assert finding.location.file == __file__


def test_containers_and_arrays_count_too(found, silent):
    def of_dict(outputs, target):
        outputs["logits"] += 1
        return F.mse_loss(outputs["logits"], target)

    def pops(outputs, target):
        return F.mse_loss(outputs.pop("logits"), target)

    def of_list(outputs, target):
        outputs.append(1)
        return F.mse_loss(outputs[0], target)

    def of_array(input, target):
        target *= 2
        return F.mse_loss(input, torch.from_numpy(target))

    def reads(outputs, target):
        return F.mse_loss(outputs["logits"], target)

    given = {"logits": torch.randn(3)}
    for loss, first in ((of_dict, given), (pops, given), (of_list, [torch.randn(3)])):
        (finding,) = found("LP401", loss, first, torch.randn(3, requires_grad=True))
        assert "`outputs`" in finding.message
    (finding,) = found("LP401", of_array, torch.randn(3), np.ones(3, dtype=np.float32))
    assert "`target`" in finding.message
    silent("LP401", reads, given, torch.randn(3))
    assert list(given) == ["logits"]


# ------------------------------------------------------------------ not reported


def own_copy(input, target):
    target = target.clone()
    target[target < 0] = 0
    return F.mse_loss(input, target)


def own_tensor(input, target):
    weights = torch.zeros_like(target)
    weights[target > 0] = 1
    weights += 0.1
    return (weights * (input - target) ** 2).mean()


def converted(input, target):
    target = target.double()
    target.mul_(0.9)
    return ((input - target) ** 2).mean()


def result_in_place(input, target):
    error = (input - target) ** 2
    error.mul_(0.5)
    return error.mean()


@pytest.mark.parametrize("loss", [own_copy, own_tensor, converted, result_in_place])
def test_writes_into_own_tensors_are_silent(loss, silent):
    assert silent("LP401", loss, *PAIR) is Status.PROVED


def test_nan_in_an_input_is_no_change(silent):
    input = torch.tensor([1.0, torch.nan], requires_grad=True)
    assert silent("LP401", F.mse_loss, input, torch.zeros(2)) is Status.PROVED


def test_a_change_from_nan_is_one(found):
    def fills(input, target):
        target.nan_to_num_(0.0)
        return F.mse_loss(input, target)

    assert found("LP401", fills, torch.ones(2), torch.tensor([0.0, torch.nan]))


def test_the_page(page_code, module_of, found, silent):
    head = "import torch.nn.functional as F\n"
    example = page_code("LP401", "Example")
    bad = module_of(head + example, "bad")
    lines = example.splitlines()
    mended = [lines[0], page_code("LP401", "Use instead").rstrip(), lines[-1]]
    good = module_of(head + "\n".join(mended) + "\n", "good")
    (finding,) = found("LP401", bad.smoothed_bce, "float[6]", "binary[6]")
    assert finding.location.line == 4
    silent("LP401", good.smoothed_bce, "float[6]", "binary[6]")
