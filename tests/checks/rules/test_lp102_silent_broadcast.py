"""LP102 silent-broadcast: two inputs spread over each other without being told to."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.report import Status

COLUMN = ("float[6,1]", "float[6]")


def mse(pred, target):
    return ((pred - target) ** 2).mean()  # <-- here


def through_other_operations(pred, target):
    p = torch.sigmoid(pred).clamp(1e-6, 1 - 1e-6)
    t = target.float()
    return -(t * p.log() + (1 - t) * (1 - p).log()).mean()


def built_in(pred, target):
    return F.mse_loss(pred, target)  # <-- here


def built_in_smooth(pred, target):
    scaled = 2 * pred
    return F.smooth_l1_loss(scaled, 2 * target)  # <-- here


class Huber(nn.Module):
    def __init__(self, delta=1.0):
        super().__init__()
        self.delta = delta

    def residual(self, pred, target):
        return torch.sub(pred, target)  # <-- here

    def forward(self, pred, target):
        r = self.residual(pred, target).abs()
        return torch.where(r < self.delta, 0.5 * r**2, self.delta * (r - 0.5 * self.delta)).mean()


def reversed_difference(pred, target):
    difference = target - pred  # <-- here
    return difference.abs().mean()


def channels(probabilities, target):
    overlap = (probabilities * target).sum()  # <-- here
    return 1 - 2 * overlap / (probabilities.sum() + target.sum())


def reduced_then_combined(pred, target, weight):
    error = ((pred - target) ** 2).mean(1)
    return (error * weight).mean()  # <-- here


def larger(pred, target):
    return torch.relu(1 - torch.maximum(pred, target)).mean()  # <-- here


def column_of_targets(pred, target):
    return ((pred - target.unsqueeze(1)) ** 2).mean()  # <-- here


def viewed_as_a_column(pred, target):
    error = pred - target.view(-1, 1)  # <-- here
    return error.abs().mean()


WRONG = [
    (column_of_targets, ("float[6]", "float[6]")),
    (viewed_as_a_column, ("float[6]", "float[6]")),
    (mse, COLUMN),
    (mse, ("float[6]", "float[6,1]")),
    (built_in, COLUMN),
    (built_in_smooth, COLUMN),
    (Huber, COLUMN),
    (reversed_difference, COLUMN),
    (channels, ("unit[2,1,8,8]", "binary[2,8,8]")),
    (reduced_then_combined, ("float[6,4]", "float[6,4]", "positive[6,1]")),
    (larger, COLUMN),
]


@pytest.mark.parametrize(("loss", "inputs"), WRONG)
def test_a_broadcast_is_found_at_its_line(loss, inputs, found, marked):
    findings = found("LP102", loss, *inputs)
    assert {finding.location.line for finding in findings} == {marked(loss)}
    assert findings[0].evidence["result"]
    assert findings[0].help


def gathered(probabilities, target, weight):
    distance = 1 - probabilities.gather(1, target.unsqueeze(1)).squeeze(1)
    return (weight[target].unsqueeze(1) * distance).sum()  # <-- here


def test_an_outer_product_that_is_only_added_up_is_found(found, marked):
    probabilities = torch.rand(3, 4, 10).softmax(1).requires_grad_()
    (finding,) = found(
        "LP102", gathered, probabilities, torch.randint(0, 4, (3, 10)), torch.rand(4)
    )
    assert finding.location.line == marked(gathered)
    assert finding.evidence["result"] == "[3, 3, 10]"


def pairs_are_used(scores, weight):
    return (weight.unsqueeze(1) * scores).softmax(1).square().sum()


def test_a_product_of_pairs_that_is_used_is_no_mistake(silent):
    silent("LP102", pairs_are_used, torch.randn(5).requires_grad_(), torch.rand(4))


def test_every_line_is_told_once(found):
    findings = found("LP102", through_other_operations, "float[6,1]", "binary[6]")
    places = [(f.location.line, f.location.column) for f in findings]
    assert len(set(places)) == len(places)
    assert findings


def test_both_inputs_are_named(found):
    (finding,) = found("LP102", mse, *COLUMN)
    assert "`pred`" in finding.notes[0]
    assert "`target`" in finding.notes[0]
    assert "[6, 1] and [6] broadcast to [6, 6]" in finding.message


# ------------------------------------------------------------------ not reported


def none_added(a, b):
    return (a[:, None] - b[None]).abs().mean()


def unsqueezed(a, b):
    return (a.unsqueeze(1) - b.unsqueeze(0)).pow(2).mean()


def energy_distance(a, b):
    between = (a.unsqueeze(1) - b).abs().mean()
    within = (a.unsqueeze(1) - a).abs().mean() + (b.unsqueeze(1) - b).abs().mean()
    return 2 * between - within


def discrepancy(a, b):
    def kernel(x, y):
        return torch.exp(-((x.unsqueeze(1) - y) ** 2)).mean()

    return kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)


def expanded(a, b):
    return (a[:, None].expand(6, 6) - b[None].expand(6, 6)).pow(2).mean()


def viewed(a, b):
    return (a.view(-1, 1) - b.view(1, -1)).pow(2).mean()


def kept(a, b):
    return (a.mean(1, keepdim=True) - b.mean(0, keepdim=True)).pow(2).mean()


def same_input(a):
    column = a.sum(1, keepdim=True)
    return (column - a.sum(1)).pow(2).mean()


def squared_distances(a, b):
    return (a.pow(2).sum(1, keepdim=True) + b.pow(2).sum(1) - 2 * a @ b.T).clamp(min=0).mean()


def weighted(pred, target, weight):
    return ((pred - target) ** 2 * weight).mean()


class Bins(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("centres", torch.linspace(-1, 1, 5))

    def forward(self, pred, target):
        bins = (pred.reshape(-1, 1) - self.centres).abs().softmax(1)
        return (
            (bins.mean(0) - (target.reshape(-1, 1) - self.centres).abs().softmax(1).mean(0))
            .abs()
            .sum()
        )


def info_nce(a, b):
    logits = a @ b.T / 0.1
    return F.cross_entropy(logits, torch.arange(len(a)))


def mean_subtracted(pred, target):
    return ((pred - pred.mean(0)) - (target - target.mean(0))).pow(2).mean()


RIGHT = [
    (none_added, ("float[6]", "float[6]")),
    (unsqueezed, ("float[6]", "float[6]")),
    (energy_distance, ("float[6]", "float[6]")),
    (discrepancy, ("float[6]", "float[6]")),
    (expanded, ("float[6]", "float[6]")),
    (viewed, ("float[6]", "float[6]")),
    (kept, ("float[6,3]", "float[3,6]")),
    (same_input, ("float[6,4]",)),
    (squared_distances, ("float[6,4]", "float[6,4]")),
    (weighted, ("float[6,4]", "float[6,4]", "positive[4]")),
    (weighted, ("float[6,4]", "float[6,4]", "positive[6,1]")),
    (Bins, ("float[6]", "float[6]")),
    (info_nce, ("float[6,4]", "float[6,4]")),
    (mean_subtracted, ("float[6,4]", "float[6,4]")),
    (mse, ("float[6]", "float[6]")),
    (mse, ("float[6,1]", "float[6,1]")),
    (mse, ("float[6,4]", "float[]")),
]


@pytest.mark.parametrize(("loss", "inputs"), RIGHT)
def test_wanted_broadcasts_are_silent(loss, inputs, silent):
    assert silent("LP102", loss, *inputs) is Status.PROVED


def test_the_page(page_code, module_of, found, silent, verdicts, examination):
    bad = module_of(page_code("LP102", "Example"), "bad")
    good = module_of(page_code("LP102", "Use instead"), "good")
    (finding,) = found("LP102", bad.mse, *COLUMN)
    assert finding.location.line == 2
    silent("LP102", good.mse, "float[6]", "float[6]")
    assert isinstance(examination(good.mse, *COLUMN).base.error, ValueError)
