"""LP108 double-activation: what went through one activation goes through another."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.report import Severity, Status
from lossproof.checks.rules import RULES

LOGITS, CLASSES, BINARY = "float[12,6]", "int[12]<6", "binary[12,6]"


def softmax_then_cross_entropy(logits, target):
    return F.cross_entropy(F.softmax(logits, dim=1), target)  # <-- here


class HeadWithSoftmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Softmax(dim=-1)
        self.criterion = nn.CrossEntropyLoss(label_smoothing=0.1)

    def forward(self, logits, target):
        probabilities = self.head(logits)
        return self.criterion(probabilities, target)  # <-- here


def clamped_on_the_way(logits, target):
    p = logits.softmax(1).clamp(1e-7, 1 - 1e-7) + 1e-8
    return F.cross_entropy(p[:10], target[:10])  # <-- here


def focal_of_probabilities(logits, target):
    p = torch.softmax(logits, 1)
    log_p = F.log_softmax(p, dim=1)  # <-- here
    picked = log_p.gather(1, target[:, None])
    return (-((1 - picked.exp()) ** 2) * picked).mean()


def softmax_by_hand(logits, target):
    e = torch.exp(logits - logits.max(1, keepdim=True).values)
    p = e / e.sum(1, keepdim=True)
    return F.cross_entropy(p, target)  # <-- here


def cross_entropy_by_hand(logits, target):
    p = logits.softmax(1)
    picked = p.gather(1, target[:, None]).squeeze(1)
    return (torch.logsumexp(p, 1) - picked).mean()  # <-- here


def softmax_of_softmax(logits, target):
    p = F.softmax(F.softmax(logits, 1), 1)  # <-- here
    return F.nll_loss(torch.log(p), target)


def two_columns(logits, target):
    p = torch.sigmoid(logits[:, 0])
    return F.cross_entropy(torch.stack([1 - p, p], 1), target.clamp(max=1))  # <-- here


def permuted(logits, target):
    p = logits.softmax(1)
    return F.cross_entropy(p.T.contiguous().T.reshape(12, 6), target)  # <-- here


def student_of_probabilities(logits, target):
    p = F.softmax(logits, 1)
    return F.nll_loss(F.log_softmax(p / 4, 1), target)  # <-- here


def relu_before_cross_entropy(logits, target):
    return F.cross_entropy(F.relu(logits), target)  # <-- here


def sigmoid_before_cross_entropy(logits, target):
    return F.cross_entropy(logits.sigmoid(), target)  # <-- here


@pytest.mark.parametrize(
    "loss",
    [
        softmax_then_cross_entropy, HeadWithSoftmax, clamped_on_the_way, focal_of_probabilities,
        softmax_by_hand, cross_entropy_by_hand, softmax_of_softmax, two_columns, permuted,
        student_of_probabilities, relu_before_cross_entropy, sigmoid_before_cross_entropy,
    ],
)  # fmt: skip
def test_a_second_softmax_is_found(loss, found, marked):
    (finding,) = found("LP108", loss, LOGITS, CLASSES)
    assert finding.location.line == marked(loss)
    assert finding.cause.endswith("-then-softmax")
    assert finding.severity is Severity.ERROR
    ((_, first),) = finding.related
    assert first.line <= finding.location.line


def sigmoid_then_bce_with_logits(score, correct):
    return F.binary_cross_entropy_with_logits(torch.sigmoid(score), correct)  # <-- here


def sigmoid_twice(score, correct):
    p = torch.sigmoid(score)
    return F.binary_cross_entropy(p.sigmoid(), correct)  # <-- here


def log_probability_as_logit(score, correct):
    return F.binary_cross_entropy_with_logits(F.logsigmoid(score), correct)  # <-- here


def logsigmoid_of_probability(score, correct):
    p = 1 / (1 + torch.exp(-score))
    return -(correct * F.logsigmoid(p)).mean()  # <-- here


def tanh_head(score, correct):
    return F.binary_cross_entropy_with_logits(torch.tanh(score), correct)  # <-- here


@pytest.mark.parametrize(
    "loss",
    [
        sigmoid_then_bce_with_logits, sigmoid_twice, log_probability_as_logit,
        logsigmoid_of_probability, tanh_head,
    ],
)  # fmt: skip
def test_a_second_sigmoid_is_found(loss, found, marked):
    (finding,) = found("LP108", loss, LOGITS, BINARY)
    assert finding.location.line == marked(loss)
    assert finding.cause.endswith("-then-sigmoid")


def exponential_twice(score, count):
    return F.poisson_nll_loss(F.softplus(score), count)  # <-- here


def test_a_second_exponential_is_found(found, marked):
    (finding,) = found("LP108", exponential_twice, "float[12,6]", "count[12,6]")
    assert finding.location.line == marked(exponential_twice)
    assert "log_input=False" in finding.help


def test_the_smallest_loss_that_is_left_is_right(found):
    """A sure and right prediction costs what the finding says, and no prediction costs less."""
    (finding,) = found("LP108", softmax_then_cross_entropy, LOGITS, CLASSES)
    target = torch.arange(6)
    best = softmax_then_cross_entropy(1e3 * torch.eye(6, dtype=torch.float64), target)
    assert finding.evidence["smallest_loss"] == pytest.approx(float(best))
    (finding,) = found("LP108", sigmoid_then_bce_with_logits, LOGITS, BINARY)
    best = sigmoid_then_bce_with_logits(torch.tensor([1e3]), torch.ones(1))
    assert finding.evidence["smallest_loss"] == pytest.approx(float(best))


def test_probabilities_given_as_logits_are_found(found):
    probabilities = torch.randn(8, 5).softmax(1).requires_grad_()
    (finding,) = found("LP108", nn.CrossEntropyLoss(), probabilities, torch.arange(8) % 5)
    assert finding.cause == "softmax-in-the-model"
    assert finding.severity is Severity.ERROR
    assert finding.evidence["smallest_loss"] == pytest.approx(math.log(1 + 4 / math.e))


def test_numbers_called_probabilities_are_found(found):
    def loss(prob, label):
        return F.binary_cross_entropy_with_logits(prob, label)

    (finding,) = found("LP108", loss, torch.rand(20).requires_grad_(), "binary[20]")
    assert finding.cause == "sigmoid-in-the-model"
    assert finding.severity is Severity.WARNING


def plain(logits, target):
    return F.cross_entropy(logits, target)


def nll_of_log_softmax(logits, target):
    return F.nll_loss(F.log_softmax(logits, 1), target)


def log_softmax_is_idempotent(logits, target):
    return F.cross_entropy(F.log_softmax(logits, 1), target)


def logarithm_between(logits, target):
    return F.cross_entropy(torch.log(logits.softmax(1)), target)


def side_by_side(logits, target):
    p = logits.softmax(1).gather(1, target[:, None]).squeeze(1)
    return ((1 - p) ** 2 * F.cross_entropy(logits, target, reduction="none")).mean()


def dual_softmax(logits, target):
    scaled = logits * F.softmax(logits, 0) * len(logits)
    return F.cross_entropy(scaled, target)


def weights_without_gradient(logits, target):
    p = logits.softmax(1)
    weight = torch.softmax(p, 1).detach()
    return -(weight.gather(1, target[:, None]) * p.log().gather(1, target[:, None])).mean()


def tempered(logits, target):
    return F.cross_entropy(20 * logits.softmax(1), target)


def softmax_over_another_axis(logits, target):
    attention = torch.softmax(torch.softmax(logits, 1), 0)
    return (attention.gather(1, target[:, None]) - 1).pow(2).mean()


def clipped_logits(logits, target):
    return F.cross_entropy(10 * torch.tanh(logits / 10), target)


def relu_further_up(logits, target):
    hidden = F.relu(logits) @ torch.eye(6)
    return F.cross_entropy(hidden, target)


def entropy_of_probabilities(logits, target):
    p = logits.softmax(1)
    return F.cross_entropy(logits, target) - (p * p.log()).sum(1).mean()


@pytest.mark.parametrize(
    "loss",
    [
        plain, nll_of_log_softmax, log_softmax_is_idempotent, logarithm_between, side_by_side,
        dual_softmax, weights_without_gradient, tempered, softmax_over_another_axis,
        clipped_logits, relu_further_up, entropy_of_probabilities,
    ],
)  # fmt: skip
def test_what_only_looks_like_it_is_not_reported(loss, silent):
    silent("LP108", loss, LOGITS, CLASSES)


def focal(score, correct):
    p = torch.sigmoid(score)
    bce = F.binary_cross_entropy_with_logits(score, correct, reduction="none")
    return ((p - correct).abs() ** 2 * bce).mean()


def distilled(student, teacher):
    return F.kl_div(F.log_softmax(student, 1), F.softmax(F.softmax(teacher, 1), 1))


def sharpened_target(student, teacher):
    return F.cross_entropy(student, torch.softmax(teacher.softmax(1), 1))


@pytest.mark.parametrize("loss", [focal, distilled, sharpened_target])
def test_targets_and_parallel_activations_are_not_reported(loss, silent):
    silent("LP108", loss, LOGITS, BINARY)


def test_numbers_in_the_unit_interval_are_no_evidence(silent):
    uniform = torch.rand(20).requires_grad_()
    assert silent("LP108", nn.BCEWithLogitsLoss(), uniform, "binary[20]") is Status.PROVED


def test_a_rate_that_is_no_logarithm_is_not_reported(silent):
    loss = nn.PoissonNLLLoss(log_input=False)
    positive = torch.rand(20).requires_grad_()
    silent("LP108", lambda score, count: loss(F.softplus(score), count), positive, "count[20]")


def test_a_loss_without_activations_is_none_of_its_business(silent):
    assert silent("LP108", nn.MSELoss(), "float[4]", "float[4]") is Status.NOT_APPLICABLE


def test_the_example_of_the_page_is_found(found, silent, page_code):
    for section, check in (("Example", found), ("Use instead", silent)):
        space = {"F": F, "torch": torch}
        exec(page_code("LP108", section), space)
        said = check("LP108", space["criterion"], LOGITS, CLASSES)
        assert said
    assert RULES["LP108"].name == "double-activation"
