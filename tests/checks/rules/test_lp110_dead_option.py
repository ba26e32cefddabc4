"""LP110 dead-option: what is never read, and what cancels."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.report import Severity, Status

PAIR = ("float[6,3]", "float[6,3]")
WEIGHTED = (*PAIR, "weight positive[6,3]")


class Options(nn.Module):
    def __init__(self, margin=0.5):  # the option of the losses below
        super().__init__()
        self.margin = margin


class Stored(nn.Module):
    def __init__(self, margin=0.5):
        super().__init__()
        self.margin = margin  # <-- here

    def forward(self, input, target):
        return F.mse_loss(input, target)


class NotEvenStored(nn.Module):
    def __init__(self, margin=0.5):  # <-- here
        super().__init__()

    def forward(self, input, target):
        return F.mse_loss(input, target)


class StoredUnderAnotherName(nn.Module):
    def __init__(self, gamma: float = 2.0, alpha: float = 1.0):
        super().__init__()
        self._focus, self._alpha = float(gamma), alpha  # <-- here

    def forward(self, input, target):
        return self._alpha * F.mse_loss(input, target)


class WeightsThatNobodyReads(nn.Module):
    def __init__(self, alpha=0.25):
        super().__init__()
        if alpha < 0:
            raise ValueError(alpha)
        self.register_buffer("weights", torch.tensor([alpha, 1 - alpha]))  # <-- here

    def forward(self, input, target):
        return F.mse_loss(input, target)


class TermThatNobodyCalls(nn.Module):
    def __init__(self, beta=0.25):
        super().__init__()
        self.term = nn.SmoothL1Loss(beta=beta)  # <-- here

    def forward(self, input, target):
        return F.mse_loss(input, target)


class HiddenByAnArgument(nn.Module):
    def __init__(self, temperature=0.5):
        super().__init__()
        self.temperature = temperature  # <-- here

    def forward(self, input, target, temperature=0.07):
        rows = torch.arange(len(input), device=input.device)
        return F.cross_entropy(input @ target.T / temperature, rows)


def keyword(input, target, label_smoothing=0.1):  # <-- here
    return F.cross_entropy(input, target.argmax(1))


def keyword_only(
    input,
    target,
    *,
    beta=1.0,  # <-- here
):
    return F.smooth_l1_loss(input, target)


@pytest.mark.parametrize(
    "loss",
    [
        Stored, NotEvenStored, StoredUnderAnotherName, WeightsThatNobodyReads, TermThatNobodyCalls,
        HiddenByAnArgument, keyword, keyword_only,
    ],
)  # fmt: skip
def test_an_option_that_is_never_read_is_found(loss, found, marked):
    (finding,) = found("LP110", loss, *PAIR)
    assert finding.cause == "never-read"
    assert finding.severity is Severity.WARNING
    assert finding.location.line == marked(loss)


class HiddenByConstants(nn.Module):
    def __init__(self, alpha=0.25, gamma=2.0):
        super().__init__()
        self.alpha, self.gamma = alpha, gamma

    def forward(self, input, target):
        alpha, gamma = 0.25, 2.0  # <-- here
        return alpha * ((input - target).abs() ** gamma).mean()


def test_the_constant_in_its_place_is_shown(found, marked):
    findings = found("LP110", HiddenByConstants(0.5, 1.0), *PAIR)
    assert [f.location.line for f in findings] == [marked(HiddenByConstants)] * 2
    assert all("a constant stands in its place" in finding.message for finding in findings)


def mask_not_used(input, target, mask):  # <-- here
    return F.mse_loss(input, target)


def test_a_mask_that_is_not_used_is_found(found, marked):
    (finding,) = found("LP110", mask_not_used, *PAIR, "mask bool[6,3]")
    assert finding.location.line == marked(mask_not_used)


def generalised_dice(input, target, smooth=1e-6):
    p, y = input.softmax(1), F.one_hot(target, 3).float()
    w = 1 / y.sum(0).clamp(min=1) ** 2
    overlap, size = w * (p * y).sum(0), w * (p + y).sum(0)
    return (1 - (2 * overlap + smooth) / (size + smooth)).mean()  # <-- here


class ClassWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("class_weights", torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, input, target):
        p, y = input.softmax(1), F.one_hot(target, 3).float()
        overlap = (p * y).sum(0) * self.class_weights
        size = (p + y).sum(0) * self.class_weights
        return 1 - (2 * overlap / size).mean()  # <-- here


@pytest.mark.parametrize("loss", [generalised_dice, ClassWeights])
def test_class_weights_that_cancel_are_found(loss, found, marked):
    (finding,) = found("LP110", loss, "float[6,3]", torch.tensor([0, 1, 2, 1, 0, 0]))
    assert finding.cause == "cancels"
    assert finding.location.line == marked(loss)


def divided_again(input, target, weight):
    error = weight * (input - target) ** 2
    return (error / weight).mean()  # <-- here


def test_weights_given_to_the_loss_that_cancel_are_found(found, marked):
    (finding,) = found("LP110", divided_again, *WEIGHTED)
    assert finding.location.line == marked(divided_again)


def temperature_before_normalising(input, target, temperature=0.5):
    p = F.normalize(input / temperature, dim=1)  # <-- here
    return (1 - (p * F.normalize(target, dim=1)).sum(1)).mean()


def one_weight_for_all(input, target, alpha=0.25):
    weight = torch.full_like(input, alpha)
    return (weight * (input - target) ** 2).sum() / weight.sum()  # <-- here


@pytest.mark.parametrize("loss", [temperature_before_normalising, one_weight_for_all])
def test_numbers_that_cancel_are_found(loss, found, marked):
    (finding,) = found("LP110", loss, *PAIR)
    assert finding.cause == "cancels"
    assert finding.location.line == marked(loss)


# ------------------------------------------------------------------ not reported


class Read(Options):
    def forward(self, input, target):
        return F.relu(self.margin - (input - target).pow(2)).mean()


class MarginThatIsKept(Options):
    def forward(self, input, target):
        return F.relu(self.margin - input.pow(2).sum(1) - 1e4).mean() + F.mse_loss(input, target)


class ZeroTerm(nn.Module):
    def __init__(self, beta=1.0, margin=1.0):
        super().__init__()
        self.beta, self.margin = beta, margin

    def forward(self, input, target):
        far = (input - target - 100).abs()
        return far.mean() + (self.beta * target.abs() * F.relu(self.margin - far)).mean()


class AnotherMode(nn.Module):
    def __init__(self, alpha=None, gamma=2.0, focal=False):
        super().__init__()
        self.alpha, self.gamma, self.focal = alpha, gamma, focal

    def forward(self, input, target):
        error = (input - target) ** 2
        if self.focal:
            error = error**self.gamma
        return error.mean() if self.alpha is None else self.alpha * error.mean()


class ThroughAProperty(nn.Module):
    def __init__(self, gamma=2.0):
        super().__init__()
        self._gamma = gamma

    @property
    def gamma(self):
        return self._gamma

    def forward(self, input, target):
        return ((input - target).abs() ** self.gamma).mean()


def powered(owner, input, target):
    return ((input - target).abs() ** owner.gamma).mean()


class ThroughAHelper(nn.Module):
    def __init__(self, gamma=2.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, input, target):
        return powered(self, input, target)


class ByName(nn.Module):
    def __init__(self, gamma=2.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, input, target):
        return ((input - target).abs() ** getattr(self, "gamma")).mean()  # noqa: B009


class InALambda(nn.Module):
    def __init__(self, gamma=2.0):
        super().__init__()
        self.power = lambda error: error**gamma

    def forward(self, input, target):
        return self.power((input - target).abs()).mean()


class Describes(nn.Module):
    def __init__(self, num_classes=3, name="mse", device="cpu"):
        super().__init__()
        self.num_classes, self.name, self.device = num_classes, name, device

    def forward(self, input, target):
        return F.mse_loss(input, target)


class Declared(nn.Module):
    """The squared error.

    Args:
        gamma: kept for compatibility, not used.
    """

    def __init__(self, gamma=2.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, input, target):
        return F.mse_loss(input, target)


class Below(Read):
    def forward(self, input, target):
        return F.mse_loss(input, target)


class Above(nn.Module):
    def forward(self, input, target, weight=None):
        raise NotImplementedError


class Fulfils(Above):
    def forward(self, input, target, weight=None):
        return F.mse_loss(input, target)


def normalised(input, target):
    weight = target.softmax(1)
    return (weight * (input - target) ** 2).sum() / weight.sum()


def named_weight_of_the_prediction(input, target):
    weight = (input - target).abs()
    return (weight * (input - target) ** 2).mean()


@pytest.mark.parametrize(
    "loss",
    [
        Read, MarginThatIsKept, ZeroTerm, AnotherMode, ThroughAProperty, ThroughAHelper, ByName,
        InALambda, Describes, Declared, Below, Fulfils, normalised, named_weight_of_the_prediction,
        nn.SmoothL1Loss(), F.huber_loss,
    ],
)  # fmt: skip
def test_options_that_are_read_are_proved(loss, silent):
    assert silent("LP110", loss, *PAIR) is Status.PROVED


def summed_first(input, target):
    p, y = input.softmax(1), F.one_hot(target, 3).float()
    w = 1 / y.sum(0).clamp(min=1) ** 2
    return 1 - 2 * (w * (p * y).sum(0)).sum() / (w * (p + y).sum(0)).sum()


def test_class_weights_that_are_summed_first_are_right(silent):
    inputs = ("float[6,3]", torch.tensor([0, 1, 2, 1, 0, 0]))
    assert silent("LP110", summed_first, *inputs) is Status.PROVED


def test_one_class_alone_cancels_by_nature(silent):
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    assert silent("LP110", loss, "float[4,3]", torch.tensor([1, 1, 1, 1])) is Status.PROVED


def test_a_slow_loss_is_told(examination):
    from lossproof.checks.rules import RULES

    case = examination(one_weight_for_all, *PAIR)
    case.__dict__["call_seconds"] = 10.0
    (outcome,) = RULES["LP110"].examine(case)
    assert outcome.status is Status.UNPROVED
    assert "too slow" in outcome.detail


def test_the_page(page_code, module_of, found, silent):
    head = "import torch\nfrom torch import nn\n\n\n"
    bad = module_of(head + page_code("LP110", "Example"), "bad")
    good = module_of(head + page_code("LP110", "Use instead"), "good")
    inputs = ("float[8]", "binary[8]")
    findings = found("LP110", bad.FocalLoss, *inputs)
    assert [finding.location.line for finding in findings] == [12, 12]
    assert silent("LP110", good.FocalLoss, *inputs) is Status.PROVED
