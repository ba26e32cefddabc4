"""LP204 flat-loss: a metric in the place of a loss, with the operation that made it one."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.report import Severity, Status

PAIR = ("float[8,4]", "float[8,4]")
CLASSES = ("float[8,4]", "int[8]<4")
MASKS = ("float[2,8,8]", "binary[2,8,8]")


def accuracy(logits, target):
    return 1 - (logits.argmax(1) == target).float().mean()  # <-- here


def iou(logits, target):
    mask = (logits > 0).float()  # <-- here
    return 1 - (mask * target).sum() / ((mask + target) > 0).sum()


def rounded(pred, target):
    return (torch.round(pred) - target.round()).abs().mean()  # <-- here


def signs(pred, target):
    return (1 - torch.sign(pred) * torch.sign(target)).mean()  # <-- here


def hard_dice(logits, target):
    hard = F.one_hot(
        logits.argmax(1),  # <-- here
        4,
    )
    return 1 - (hard * F.one_hot(target, 4)).sum() / len(target)


def wrapped(pred, target):
    wrong = (pred.sigmoid() > 0.5) != (target > 0)  # <-- here
    return wrong.float().mean().clone().detach().requires_grad_(True)


def integers(pred, target):
    p = (pred * 10).long()  # <-- here
    return ((p - (target * 10).long()) ** 2).float().mean()


class Ranking(nn.Module):
    def ranks(self, x):
        return x.argsort(-1).argsort(-1).float()

    def forward(self, pred, target):
        a = self.ranks(pred)
        b = self.ranks(target)
        return 1 - F.cosine_similarity(a, b, dim=-1).mean()


def counted(pred, target):
    return sum(int(p > 0) != int(t > 0) for p, t in zip(pred[:, 0], target[:, 0], strict=True)) / 8


def staircase(pred, target):
    return torch.floor(pred * 4).div(4).sub(target).pow(2).mean()  # <-- here


@pytest.mark.parametrize(
    ("loss", "inputs", "cause"),
    [
        (accuracy, CLASSES, "argmax"),
        (iou, MASKS, "gt"),
        (rounded, PAIR, "round"),
        (signs, PAIR, "sign"),
        (hard_dice, CLASSES, "argmax"),
        (wrapped, PAIR, "gt"),
        (integers, PAIR, "long"),
        (staircase, PAIR, "floor"),
    ],
)
def test_a_flat_loss_is_found_at_the_operation(loss, inputs, cause, found, marked):
    (finding,) = found("LP204", loss, *inputs)
    assert finding.location.line == marked(loss)
    assert finding.cause == cause
    assert finding.severity is Severity.ERROR
    assert finding.evidence["large_change"] > 0
    assert finding.help


@pytest.mark.parametrize(("loss", "inputs"), [(Ranking, PAIR), (counted, PAIR)])
def test_ranks_and_counts_are_found(loss, inputs, found):
    (finding,) = found("LP204", loss, *inputs)
    assert finding.location.file == __file__


def test_one_flat_input_beside_a_learning_one_is_a_warning(found, marked):
    def both(a, b):
        return a.pow(2).mean() * (1 + (b > 0).float().mean())  # <-- here

    tensors = [torch.randn(8, requires_grad=True) for _ in range(2)]
    (finding,) = found("LP204", both, *tensors)
    assert finding.severity is Severity.WARNING
    assert "`b`" in finding.message
    assert finding.location.line == marked(both)


# ------------------------------------------------------------------ not reported


def satisfied_hinge(pred, target):
    return torch.relu(pred - 1.5).mean()


def triplet(anchor, positive, negative):
    return F.triplet_margin_loss(anchor, positive, negative, margin=0.05)


def masked(pred, target):
    keep = (target > 0).float()
    return ((pred - target) ** 2 * keep).sum() / keep.sum().clamp(min=1)


def hard_mining(logits, target):
    values = F.cross_entropy(logits, target, reduction="none")
    return values[values.argsort(descending=True)[:3]].mean()


def straight_through(pred, target):
    hard = torch.round(pred)
    return F.mse_loss(pred + (hard - pred).detach(), target)


def soft_iou(logits, target):
    p = torch.sigmoid(logits)
    intersection = (p * target).sum()
    return 1 - intersection / (p + target - p * target).sum()


def satisfied_here(pred, target):
    return torch.relu(pred.abs() - 2.8).mean()


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (satisfied_hinge, PAIR),
        (satisfied_here, PAIR),
        (triplet, (*PAIR, "float[8,4]")),
        (masked, PAIR),
        (hard_mining, CLASSES),
        (straight_through, PAIR),
        (soft_iou, MASKS),
        (F.cross_entropy, CLASSES),
    ],
)
def test_right_losses_are_silent(loss, inputs, silent):
    assert silent("LP204", loss, *inputs) is Status.PROVED


def test_an_input_that_nothing_depends_on_is_not_called_flat(silent, verdicts):
    def one_of_two(a, b):
        return a.pow(2).mean()

    tensors = [torch.randn(8, requires_grad=True) for _ in range(2)]
    assert silent("LP204", one_of_two, *tensors) is Status.PROVED
    (said,) = verdicts("LP204", lambda pred, target: target.pow(2).mean(), *PAIR)
    assert said.status is Status.UNPROVED


def test_integers_alone_are_not_applicable(silent):
    status = silent("LP204", lambda a, b: (a == b).float().mean(), "int[4]<2", "int[4]<2")
    assert status is Status.NOT_APPLICABLE


def test_the_page(page_code, module_of, found, silent):
    bad = module_of("import torch\n" + page_code("LP204", "Example"), "bad")
    good = module_of("import torch\n" + page_code("LP204", "Use instead"), "good")
    (finding,) = found("LP204", bad.iou_loss, *MASKS)
    assert finding.location.line == 3
    silent("LP204", good.iou_loss, *MASKS)
