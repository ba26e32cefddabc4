"""LP109 target-convention: labels the loss is not written for, arguments in the wrong place."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossproof
from lossproof.checks.report import Severity, Status

EVENT = torch.tensor([1, 0, 1, 1, 0, 1, 0, 1])
SIGNS = EVENT * 2.0 - 1
CLASSES = torch.tensor([2, 0, 1, 1, 3, 2, 0, 3])
ONE_HOT = F.one_hot(CLASSES, 4)


# ------------------------------------------------------------------ labels as positions
def cox(log_hz, event):
    partial = log_hz - torch.logcumsumexp(log_hz.flip(0), 0).flip(0)
    return -partial[event].mean()  # <-- here


def selected(input, event):
    return input.pow(2).index_select(0, event).mean()  # <-- here


def sorted_first(input, event):
    order = torch.argsort(input.detach())
    return -input[order][event[order].long()].mean()  # <-- here


def inverted(input, event):
    censored = ~event  # <-- here
    return (censored * input).mean()


@pytest.mark.parametrize("loss", [cox, selected, sorted_first, inverted])
def test_labels_used_as_positions(loss, found, marked):
    (finding,) = found("LP109", loss, "float[8]", EVENT)
    assert finding.location.line == marked(loss)
    assert finding.severity is Severity.ERROR
    assert "`event`" in finding.message
    assert "bool" in finding.help


def test_a_mask_of_whole_numbers_is_found_too(found):
    def masked(input, target, mask):
        return F.mse_loss(input[mask], target[mask])

    findings = found("LP109", masked, "float[8,2]", "float[8,2]", EVENT)
    assert [finding.cause for finding in findings][:1] == ["labels-as-positions"]


def test_the_bitwise_complement_is_told_as_it_is(found):
    (finding,) = found("LP109", inverted, "float[8]", EVENT)
    assert sorted(set((~EVENT).tolist())) == [-2, -1]
    assert "gives -2 and -1" in finding.message


def one_hot_gather(logits, target):
    picked = logits.log_softmax(1).gather(1, target)  # <-- here
    return -picked.mean()


def test_one_hot_rows_as_positions(found, marked):
    (finding,) = found("LP109", one_hot_gather, "float[8,4]", ONE_HOT)
    assert finding.location.line == marked(one_hot_gather)
    assert finding.cause == "one-hot-as-positions"


def by_mask(log_hz, event):
    return -log_hz[event.bool()].mean()


def class_weights(input, target):
    weight = torch.tensor([0.3, 0.7])
    return (weight[target] * input.pow(2)).mean()


def own_rows(input, target):
    return input[torch.arange(8), None][target.argsort()].pow(2).mean()


def columns(input, target):
    return -input.repeat(2, 1).log_softmax(0).gather(0, target[None]).mean()


def complement(input, target):
    return ((1 - target) * input).pow(2).mean()


@pytest.mark.parametrize("loss", [by_mask, class_weights, own_rows, columns, complement])
def test_labels_that_are_used_rightly(loss, silent):
    silent("LP109", loss, "float[8]", EVENT)


# ------------------------------------------------------------------ labels of the other sign
def hinge(output, target):
    return F.relu(1 - target * output).mean()  # <-- here


def squared_hinge(output, target):
    return torch.clamp(1 - output * target, min=0).pow(2).mean()  # <-- here


def logistic(output, target):
    return torch.log(1 + torch.exp(-target * output)).mean()  # <-- here


def library_soft_margin(output, target):
    return F.soft_margin_loss(output, target)  # <-- here


def library_ranking(output, target):
    return F.margin_ranking_loss(output, torch.zeros_like(output), target)  # <-- here


@pytest.mark.parametrize(
    "loss", [hinge, squared_hinge, logistic, library_soft_margin, library_ranking]
)
def test_zero_and_one_for_minus_one_and_one(loss, found, silent, marked):
    (finding,) = found("LP109", loss, "float[8]", EVENT.float())
    assert finding.location.line == marked(loss)
    assert finding.cause == "zero-one-for-signed"
    silent("LP109", loss, "float[8]", SIGNS)


def cross_entropy_by_hand(p, target):
    loss = target * torch.log(p) + (1 - target) * torch.log(1 - p)  # <-- here
    return -loss.mean()


def library_bce(p, target):
    return F.binary_cross_entropy_with_logits(p, target)  # <-- here


@pytest.mark.parametrize("loss", [cross_entropy_by_hand, library_bce])
def test_minus_one_and_one_for_zero_and_one(loss, found, silent, marked):
    unit = torch.rand(8).mul(0.9).add(0.05).requires_grad_()
    (finding,) = found("LP109", loss, unit, SIGNS)
    assert finding.location.line == marked(loss)
    assert finding.cause == "signed-for-zero-one"
    silent("LP109", loss, unit, EVENT.float())


def masked_margin(output, target):
    return F.relu(target * (1 - output)).mean()


def margin_of_the_marked(output, target):
    return (F.relu(1 - target * output) * target).mean()


def contrastive(output, target):
    return (target * output**2 + (1 - target) * F.relu(1 - output) ** 2).mean()


def both_halves(output, target):
    pull, push = output**2, F.relu(1 - output) ** 2
    return ((1 + target) * pull + (1 - target) * push).mean() / 2


def mapped(output, target):
    return F.relu(1 - (2 * target - 1) * output).mean()


def log_likelihood(output, target):
    return -(target * F.logsigmoid(output) + (1 - target) * F.logsigmoid(-output)).mean()


@pytest.mark.parametrize(
    "loss", [masked_margin, margin_of_the_marked, contrastive, both_halves, mapped, log_likelihood]
)
def test_formulas_that_are_written_for_their_labels(loss, silent):
    silent("LP109", loss, "float[8]", SIGNS if loss is both_halves else EVENT.float())


# ------------------------------------------------------------------ torch's losses
def pixels(output, target):
    return F.binary_cross_entropy_with_logits(output, target)  # <-- here


def test_pixels_up_to_255(found, marked):
    (finding,) = found("LP109", pixels, "float[8]", EVENT * 255.0)
    assert finding.location.line == marked(pixels)
    assert finding.evidence["highest"] == 255
    assert "/ 255" in finding.help


def dice_of_pixels(output, target):
    p = output.sigmoid()
    overlap = (p * target).sum()  # <-- here
    return 1 - (2 * overlap + 1) / (p.sum() + target.sum() + 1)


def test_a_mask_up_to_255(found, silent, marked):
    pixels = torch.randint(0, 2, (4, 8)) * 255.0
    (finding,) = found("LP109", dice_of_pixels, "float[4,8]", pixels)
    assert finding.location.line == marked(dice_of_pixels)
    silent("LP109", dice_of_pixels, "float[4,8]", pixels / 255)
    silent("LP109", lambda o, target: dice_of_pixels(o, target / 255), "float[4,8]", pixels)


def divergence_of_probabilities(student, teacher):
    return F.kl_div(F.softmax(student, 1), F.softmax(teacher, 1), reduction="batchmean")  # <-- here


def divergence_of_logits(student_logits, teacher):
    return F.kl_div(student_logits, teacher.softmax(1), reduction="batchmean")  # <-- here


def nll_of_probabilities(student, teacher):
    return F.nll_loss(F.softmax(student, 1), teacher.argmax(1))  # <-- here


def logarithms_of_the_target(student, teacher):
    return F.kl_div(F.log_softmax(student, 1), F.log_softmax(teacher, 1))  # <-- here


def no_logarithms_of_the_target(student, teacher):
    log_p, q = F.log_softmax(student, 1), F.softmax(teacher, 1)
    return F.kl_div(log_p, q, reduction="batchmean", log_target=True)  # <-- here


@pytest.mark.parametrize(
    "loss",
    [
        divergence_of_probabilities, divergence_of_logits, nll_of_probabilities,
        logarithms_of_the_target, no_logarithms_of_the_target,
    ],
)  # fmt: skip
def test_probabilities_and_their_logarithms(loss, found, marked):
    (finding,) = found("LP109", loss, "float[8,4]", "float[8,4]")
    assert finding.location.line == marked(loss)


def test_several_labels_for_one_distribution(found):
    several = torch.tensor([[1.0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]])
    (finding,) = found("LP109", nn.CrossEntropyLoss(), "float[3,4]", several)
    assert finding.cause == "multi-hot-for-distribution"
    assert finding.severity is Severity.WARNING


def distilled(student, teacher):
    log_p, log_q = F.log_softmax(student / 4, 1), F.log_softmax(teacher / 4, 1)
    return 16 * F.kl_div(log_p, log_q.exp(), reduction="batchmean")


def reverse(student, teacher):
    log_p, log_q = F.log_softmax(student, 1), F.log_softmax(teacher, 1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def both_ways(student, teacher):
    log_p, log_q = F.log_softmax(student, 1), F.log_softmax(teacher, 1)
    return F.kl_div(log_p, log_q.exp()) + F.kl_div(log_q, log_p.exp())


def soft_cross_entropy(student, teacher):
    return F.cross_entropy(student, teacher.softmax(1))


def ignored_rows(student, teacher):
    rows = F.one_hot(teacher.argmax(1), 4).float() * (teacher[:, :1] > 0)
    return F.cross_entropy(student, rows)


def weighted_rows(student, teacher):
    rows = F.one_hot(teacher.argmax(1), 4) * torch.tensor([0.1, 0.4, 0.2, 0.3])
    return F.cross_entropy(student, rows)


@pytest.mark.parametrize(
    "loss",
    [distilled, reverse, both_ways, soft_cross_entropy, ignored_rows, weighted_rows],
)
def test_well_formed_targets_are_not_reported(loss, silent):
    assert silent("LP109", loss, "float[8,4]", "float[8,4]") is Status.PROVED


# ------------------------------------------------------------------ smoothing
def smoothed(share, base):
    """A cross entropy with labels smoothed by `share * one_hot + base`."""

    def loss(logits, target):
        labels = share * F.one_hot(target, 4) + base
        return -(labels * F.log_softmax(logits, 1)).sum(1).mean()

    return loss


@pytest.mark.parametrize(("share", "base"), [(0.9, 0.25), (0.9, 0.1), (0.7, 0.025), (1.0, 0.1)])
def test_labels_smoothed_by_a_wrong_formula(share, base, found):
    (finding,) = found("LP109", smoothed(share, base), "float[8,4]", CLASSES)
    assert finding.cause == "smoothing-does-not-sum-to-one"
    assert finding.evidence["sum"] == pytest.approx(share + 4 * base, abs=1e-5)


@pytest.mark.parametrize(("share", "base"), [(0.9, 0.025), (1 - 0.1 - 0.1 / 3, 0.1 / 3), (0.9, 0)])
def test_labels_smoothed_by_a_right_formula(share, base, silent):
    silent("LP109", smoothed(share, base), "float[8,4]", CLASSES)


def filled(logits, target):
    labels = torch.full_like(logits, 0.1 / 4).scatter_(1, target[:, None], 0.9)
    return F.cross_entropy(logits, labels)


def test_labels_smoothed_in_place(found):
    (finding,) = found("LP109", filled, "float[8,4]", CLASSES)
    assert finding.evidence["sum"] == pytest.approx(0.9 + 3 * 0.025, abs=1e-5)


def test_smoothed_binary_labels(found, silent):
    unit = torch.rand(8, 4).mul(0.9).add(0.05).requires_grad_()

    def smoothed_bce(base):
        return lambda p, y: F.binary_cross_entropy(p, 0.9 * y + base)

    silent("LP109", smoothed_bce(0.05), unit, ONE_HOT.float())  # toward 1/2
    silent("LP109", smoothed_bce(0.1), unit, ONE_HOT.float())  # 1 stays 1
    silent("LP109", smoothed_bce(0.1 / 4), unit, ONE_HOT.float())  # a distribution
    (finding,) = found("LP109", smoothed_bce(0.02), unit, ONE_HOT.float())
    assert finding.severity is Severity.WARNING


# ------------------------------------------------------------------ exchanged arguments
def cross_entropy_of(labels, logits):
    return -(labels * F.log_softmax(logits, dim=-1)).sum(-1).mean()


def exchanged(logits, labels):
    return cross_entropy_of(logits, labels)  # <-- here


class Exchanged(nn.Module):
    def focal(self, y_true, y_pred):
        return -(y_true * (1 - y_pred.sigmoid()) ** 2 * F.logsigmoid(y_pred)).mean()

    def forward(self, y_pred, y_true):
        return self.focal(y_pred, y_true)  # <-- here


def exchanged_for_torch(logits, labels):
    return F.binary_cross_entropy_with_logits(labels, logits.sigmoid())  # <-- here


def activated_target(a, b):
    return -(a * F.log_softmax(b, dim=1)).sum(1).mean()  # <-- here


@pytest.mark.parametrize("loss", [exchanged, Exchanged, exchanged_for_torch, activated_target])
def test_exchanged_arguments(loss, found, marked):
    target = ONE_HOT.float()
    (finding,) = found("LP109", loss, "float[8,4]", target)
    assert finding.location.line == marked(loss)
    assert finding.cause == "swapped-arguments"


def in_order(logits, labels):
    return cross_entropy_of(labels, logits)


def symmetric_helper(y_true, y_pred):
    return ((y_true - y_pred) ** 2).mean()


def exchanged_without_harm(y_pred, y_true):
    return symmetric_helper(y_pred, y_true)


def divergence(labels, logits):
    return (labels.softmax(1) * (labels.log_softmax(1) - logits.log_softmax(1))).sum(1).mean()


def symmetrised(logits, labels):
    return divergence(labels, logits) + divergence(logits, labels)


def distilled_by_hand(student, teacher):
    return -(teacher.softmax(1) * student.log_softmax(1)).sum(1).mean()


def policy_gradient(log_prob, advantage):
    return -(log_prob * advantage.softmax(1)).mean()


def same_shape(y_pred, y_true):
    if y_pred.shape != y_true.shape:
        raise ValueError("the shapes differ")


def checked_in_any_order(real, fake):
    same_shape(real, fake)
    return (1 - real).relu().mean() + (1 + fake).relu().mean()


@pytest.mark.parametrize(
    "loss",
    [
        in_order,
        exchanged_without_harm,
        symmetrised,
        distilled_by_hand,
        policy_gradient,
        checked_in_any_order,
    ],
)
def test_arguments_in_their_place(loss, silent):
    silent("LP109", loss, "float[8,4]", "float[8,4]")


def test_a_loss_without_a_target(silent):
    assert silent("LP109", lambda x: x.pow(2).mean(), "float[8]") is Status.NOT_APPLICABLE


def test_the_example_of_the_page_is_found(found, silent, page_code):
    for section, check in (("Example", found), ("Use instead", silent)):
        space = {"F": F, "torch": torch}
        exec(page_code("LP109", section), space)
        assert check("LP109", space["cox"], "float[8]", EVENT)


def test_a_soft_label_as_the_input_of_a_cross_entropy_of_two_classes(found, silent):
    def segmentation_loss(pred, mask):
        return F.binary_cross_entropy(mask, torch.sigmoid(pred))

    def reverse_distillation(student_logits, teacher_probs):
        return F.binary_cross_entropy(teacher_probs, torch.sigmoid(student_logits))

    inputs = "float[6,4]", "unit[6,4]"
    (finding,) = found("LP109", segmentation_loss, *inputs)
    assert finding.cause == "swapped-arguments"
    silent("LP109", reverse_distillation, *inputs)


def test_helpers_of_code_without_a_module_are_looked_at():
    namespace = {}
    exec("def helper(p, t): return (p - t) ** 2\ndef loss(p, t): return helper(p, t)", namespace)
    assert namespace["helper"].__module__ is None
    report = lossproof.check(namespace["loss"], "float[8]", "float[8]")
    assert not [f for f in report.findings if f.code == "LP109"]
