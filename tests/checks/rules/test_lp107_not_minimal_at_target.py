"""LP107 not-minimal-at-target: better predictions that cost more."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.report import Severity, Status
from lossproof.checks.rules import RULES

LOGITS, CLASSES = "float[12,5]", "int[12]<5"
UNIT, BINARY = "unit[4,6]", "binary[4,6]"
PAIR = ("float[4,6]", "float[4,6]")


# ------------------------------------------------------------------ scores for labels
def missing_minus(logits, target):
    return F.log_softmax(logits, 1).gather(1, target[:, None]).mean()


def focal_without_minus(logits, target):
    p = logits.softmax(1).gather(1, target[:, None])
    return ((1 - p) ** 2 * torch.log(p)).mean()


def margin_of_the_wrong_sign(logits, target):
    right = logits.gather(1, target[:, None])
    return F.relu(1 + right - logits).mean()


def accuracy(logits, target):
    return logits.softmax(1).gather(1, target[:, None]).mean()


@pytest.mark.parametrize(
    "loss", [missing_minus, focal_without_minus, margin_of_the_wrong_sign, accuracy]
)
def test_a_right_class_that_costs(loss, found):
    (finding,) = found("LP107", loss, LOGITS, CLASSES)
    assert finding.cause == "right-class-punished"
    assert finding.severity is Severity.ERROR
    assert finding.evidence["better_prediction"] > finding.evidence["random_prediction"]


def ordinal(logits, target):
    reached = (torch.arange(5)[None] < target[:, None]).float()
    return F.binary_cross_entropy_with_logits(logits, reached)


def conditional_ordinal(logits, target):
    step = torch.arange(5)[None]
    costs = F.binary_cross_entropy_with_logits(
        logits, (step < target[:, None]).float(), reduction="none"
    )
    return torch.where(step <= target[:, None], costs, 0.0).mean()


def by_distance(output, target):
    return F.cross_entropy(-output, target)


def test_ranks_and_distances_are_no_scores(silent):
    silent("LP107", ordinal, LOGITS, CLASSES)
    silent("LP107", conditional_ordinal, LOGITS, CLASSES)
    silent("LP107", by_distance, "positive[12,5]", CLASSES)


def dice(p, target):
    return (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)


def iou(p, target):
    overlap = (p * target).sum(1)
    return (overlap / (p + target - p * target).sum(1)).mean()


def f_measure(p, target):
    hits, false, missed = (p * target).sum(), (p * (1 - target)).sum(), ((1 - p) * target).sum()
    return hits / (hits + 0.5 * (false + missed))


def likelihood(p, target):
    return (target * p.log() + (1 - target) * (1 - p).log()).mean()


def cosine(p, target):
    return F.cosine_similarity(p, target, dim=1).mean()


def correlation(p, target):
    a, b = p - p.mean(), target - target.mean()
    return (a * b).sum() / (a.norm() * b.norm())


@pytest.mark.parametrize("loss", [dice, iou, f_measure, likelihood])
def test_a_similarity_of_labels_returned_as_a_loss(loss, found, silent):
    (finding,) = found("LP107", loss, UNIT, BINARY)
    assert finding.cause == "maximal-at-target"
    silent("LP107", lambda p, target: 1 - loss(p, target), UNIT, BINARY)


def dice_without_two(p, target):
    return 1 - ((p * target).sum() + 1e-5) / (p.sum() + target.sum() + 1e-5)


def iou_counted_twice(p, target):
    return 1 - (p * target).sum() / (p + target).sum()


def soft_dice_of_logits(logits, target):
    p, mask = logits.softmax(1), F.one_hot(target, 5)
    return 1 - (p * mask).sum() / (p.sum() + mask.sum())


def test_a_perfect_overlap_that_costs(found, silent):
    for loss in (dice_without_two, iou_counted_twice):
        (finding,) = found("LP107", loss, UNIT, BINARY)
        assert finding.cause == "perfect-overlap-costs"
        assert finding.evidence["perfect_overlap"] == pytest.approx(0.5, abs=1e-3)
    (finding,) = found("LP107", soft_dice_of_logits, LOGITS, torch.arange(12) % 5)
    assert finding.cause == "perfect-overlap-costs"


def mean_iou_with_absent_classes(logits, target):
    p, mask = logits.softmax(1), F.one_hot(target, 5).float()
    overlap, both = (p * mask).sum(0), (p + mask).sum(0)
    return 1 - (overlap / (both - overlap + 1e-6)).mean()


def test_absent_classes_may_cost(silent):
    silent("LP107", mean_iou_with_absent_classes, LOGITS, torch.arange(12) % 3)


def dice_with_smoothing(p, target):
    return 1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)


def log_dice(p, target):
    return -torch.log((2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1))


def negative_iou(p, target):
    return -iou(p, target)


def dice_and_cross_entropy(p, target):
    return dice_with_smoothing(p, target) + F.binary_cross_entropy(p, target)


@pytest.mark.parametrize(
    "loss", [dice_with_smoothing, log_dice, negative_iou, dice_and_cross_entropy]
)
def test_overlap_losses(loss, silent):
    silent("LP107", loss, UNIT, BINARY)


def one_term_of_the_wrong_sign(p, target):
    return -(target * p.log() - (1 - target) * (1 - p).log()).mean()


def hinge_of_the_wrong_sign(output, target):
    return F.relu(1 + target * output).mean()


def test_one_label_of_the_wrong_sign(found):
    (finding,) = found("LP107", one_term_of_the_wrong_sign, UNIT, BINARY)
    assert finding.cause == "one-label-punished"
    assert "is 0" in finding.message


def test_a_hinge_of_the_wrong_sign(found, silent):
    (finding,) = found("LP107", hinge_of_the_wrong_sign, "float[40]", "sign[40]")
    assert finding.cause == "maximal-at-target"
    silent("LP107", lambda o, y: F.relu(1 - y * o).mean(), "float[40]", "sign[40]")


# ------------------------------------------------------------------ estimates
@pytest.mark.parametrize("loss", [cosine, correlation])
def test_a_similarity_of_numbers_returned_as_a_loss(loss, found, silent):
    (finding,) = found("LP107", loss, *PAIR)
    assert finding.cause == "maximal-at-target"
    silent("LP107", lambda p, target: 1 - loss(p, target), *PAIR)


def structural(img1, img2):
    a, b = img1 - img1.mean(), img2 - img2.mean()
    return (2 * (a * b).mean() + 0.01) / (a.var() + b.var() + 0.01)


def signal_to_noise(estimate, source):
    noise = (estimate - source).pow(2).sum(1)
    return 10 * torch.log10(source.pow(2).sum(1) / noise).mean()


def explained(y_pred, y_true):
    return 1 - (y_pred - y_true).pow(2).sum() / (y_true - y_true.mean()).pow(2).sum()


@pytest.mark.parametrize("loss", [structural, signal_to_noise, explained])
def test_a_quality_returned_as_a_loss(loss, found, silent):
    assert found("LP107", loss, *PAIR)

    def mended(pred, target):
        return -loss(pred, target)

    silent("LP107", mended, *PAIR)


def signed_error(pred, target):
    return (pred - target).mean()


def cubed_error(pred, target):
    return ((pred - target) ** 3).mean()


@pytest.mark.parametrize("loss", [signed_error, cubed_error])
def test_an_error_that_counts_on_one_side_only(loss, found):
    (finding,) = found("LP107", loss, *PAIR)
    assert finding.cause == "lower-beside-target"
    assert "below" in finding.message


def negative_square(pred, target):
    return -((pred - target) ** 2).mean()


def test_a_negative_square(found):
    assert found("LP107", negative_square, *PAIR)


# ------------------------------------------------------------------ branches
def huber(constant):
    def loss(pred, target):
        d = (pred - target).abs()
        return torch.where(d < 1.5, 0.5 * d**2, 1.5 * d - constant).mean()

    return loss


def wing_by_index(pred, target):
    d = (pred - target).abs()
    small, large = d[d < 2], d[d >= 2]  # <-- here
    return (torch.log(1 + small / 0.5).sum() * 2 + (large - 1).sum()) / d.numel()


def test_branches_that_do_not_meet(found, silent):
    (finding,) = found("LP107", huber(0.0), *PAIR)
    assert finding.cause == "branches-do-not-meet"
    assert finding.severity is Severity.WARNING
    assert finding.evidence["distance"] == pytest.approx(1.5)
    jump = finding.evidence["after"] - finding.evidence["before"]
    assert jump == pytest.approx(1.5**2 / 2 / 24, rel=1e-6)  # the constant that is missing
    silent("LP107", huber(1.5**2 / 2), *PAIR)


def clipped_td_loss(q_value, q_target):
    d = (q_value - q_target).abs()
    return torch.where(d < 1.5, 0.5 * d**2, d - 0.5).mean()


def test_branches_have_to_meet_whatever_the_aim(found):
    (finding,) = found("LP107", clipped_td_loss, *PAIR)
    assert finding.cause == "branches-do-not-meet"


def test_the_line_that_chooses_the_branch_is_found(found, marked):
    (finding,) = found("LP107", wing_by_index, *PAIR)
    assert finding.location.line == marked(wing_by_index)
    assert finding.evidence["distance"] == pytest.approx(2)


def weighted_beyond(pred, target):
    d = (pred - target).abs()
    return (torch.where(d > 1, 3.0, 1.0) * d).mean()


def hard_examples(pred, target):
    d = (pred - target) ** 2
    return d[d > 0.1].mean()


def capped(pred, target):
    d = (pred - target) ** 2
    return torch.where(d < 4, d, torch.full_like(d, 5.0)).mean()


def asymmetric(pred, target):
    d = pred - target
    return torch.where(d > 0, 10 * d, -d).mean()


def with_a_step(pred, target):
    return F.mse_loss(pred, target) + (pred > target + 1).float().mean()


@pytest.mark.parametrize("loss", [weighted_beyond, hard_examples, capped, asymmetric, with_a_step])
def test_thresholds_on_purpose(loss, silent):
    silent("LP107", loss, *PAIR)


# ------------------------------------------------------------------ latents
def divergence(mu, logvar):
    return -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(1).mean()


def plus_logarithm(mu, logvar):
    return 0.5 * (mu**2 + logvar.exp() + logvar - 1).sum(1).mean()


def minus_divergence(mu, logvar):
    return 0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(1).mean()


def half_forgotten(mu, log_sigma):
    return (mu**2 + torch.exp(log_sigma) ** 2 - log_sigma - 0.5).sum(1).mean()


def scale_for_variance(mu, sigma):
    return 0.5 * (mu**2 + sigma**2 - torch.log(sigma) - 1).sum(1).mean()


@pytest.mark.parametrize(
    ("loss", "scale"),
    [
        (plus_logarithm, "float[6,3]"),
        (minus_divergence, "float[6,3]"),
        (half_forgotten, "float[6,3]"),
        (scale_for_variance, "positive[6,3]"),
    ],
)
def test_a_divergence_that_is_none(loss, scale, found):
    (finding,) = found("LP107", loss, "float[6,3]", scale)
    assert finding.cause in ("no-minimum", "mean-rewarded", "no-divergence")


def torch_divergence(mu, sigma):
    normal = torch.distributions.Normal
    return torch.distributions.kl_divergence(normal(mu, sigma), normal(0.0, 1.0)).sum(1).mean()


def without_its_constant(mu, logvar):
    return 0.5 * (mu**2 + logvar.exp() - logvar).sum(1).mean()


def another_prior(mu, logvar):
    variance = 0.01
    inside = logvar - math.log(variance) + 1 - (mu**2 + logvar.exp()) / variance
    return -0.5 * inside.sum(1).mean()


def free_bits(mu, logvar):
    kl = -0.5 * (1 + logvar - mu**2 - logvar.exp())
    return kl.clamp(min=0.25).sum(1).mean()


def beta(mu, logvar):
    return 4 * divergence(mu, logvar)


def capacity(mu, logvar):
    return 10 * (divergence(mu, logvar) - 5).abs()


def test_a_capacity_is_no_divergence(silent):
    silent("LP107", capacity, "float[6,3]", "float[6,3]")


@pytest.mark.parametrize("loss", [divergence, without_its_constant, another_prior, free_bits, beta])
def test_divergences(loss, silent):
    assert silent("LP107", loss, "float[6,3]", "float[6,3]") is Status.PROVED


def entropy_bonus(mu, logvar):
    return -0.5 * (1 + logvar).sum(1).mean()


def upper_confidence_bound(mu, sigma):
    return -(mu + 2 * sigma).mean()


def autoencoder(sign):
    def loss(recon, x, mu, logvar):
        return F.mse_loss(recon, x) + sign * 0.5 * (1 + logvar - mu**2 - logvar.exp()).mean()

    return loss


def gaussian_likelihood(mu, logvar, target):
    return 0.5 * (logvar + (target - mu) ** 2 / logvar.exp()).mean()


def test_a_divergence_beside_a_reconstruction(found, silent):
    def inputs():
        shapes = (6, 9), (6, 9), (6, 3), (6, 3)
        return [torch.randn(shape).requires_grad_(i != 1) for i, shape in enumerate(shapes)]

    (finding,) = found("LP107", autoencoder(1), *inputs())
    assert finding.cause == "mean-rewarded"
    silent("LP107", autoencoder(-1), *inputs())
    silent("LP107", gaussian_likelihood, *inputs()[2:], torch.randn(6, 3))


@pytest.mark.parametrize("loss", [entropy_bonus, upper_confidence_bound])
def test_other_losses_of_mean_and_scale(loss, silent):
    silent("LP107", loss, "float[6,3]", "float[6,3]")


def test_the_divergence_of_torch_is_right(silent):
    silent("LP107", torch_divergence, "float[6,3]", "positive[6,3]")


# ------------------------------------------------------------------ survival
def cox(share, later=True):
    """A Cox loss: ``share`` divides the risk set's sum, ``later`` says who is at risk."""

    def loss(risk, time, event):
        order = time[None] >= time[:, None] if later else time[None] <= time[:, None]
        total = (risk.exp()[None] * order).sum(1)
        if share:
            total = total / order.sum(1)
        return -((risk - total.log()) * event).sum() / event.sum()

    return loss


TIMES = torch.tensor([3.0, 1.0, 4.0, 1.5, 5.0, 9.0, 2.0, 6.0])
EVENTS = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0])


def test_partial_likelihoods(found, silent):
    (finding,) = found("LP107", cox(share=True), "float[8]", TIMES, EVENTS)
    assert finding.cause == "negative-likelihood"
    assert finding.evidence["lowest"] < 0
    (finding,) = found("LP107", cox(share=False, later=False), "float[8]", TIMES, EVENTS)
    assert finding.cause == "risk-reversed"
    silent("LP107", cox(share=False), "float[8]", TIMES, EVENTS)


def sorted_by_the_caller(risk, time, event):
    return -((risk - torch.logcumsumexp(risk, 0)) * event).sum() / event.sum()


def exponential_model(log_hazard, time, event):
    return (log_hazard.exp() * time - event * log_hazard).mean()


@pytest.mark.parametrize("loss", [sorted_by_the_caller, exponential_model])
def test_survival_losses_of_other_kinds(loss, silent):
    silent("LP107", loss, "float[8]", TIMES, EVENTS)


# ------------------------------------------------------------------ embeddings
def gathering(push):
    def loss(embeddings, labels):
        centers = torch.stack([embeddings[labels == k].mean(0) for k in range(3)])
        pull = (embeddings - centers[labels]).norm(dim=1).pow(2).mean()
        apart = ~torch.eye(3, dtype=torch.bool)
        distance = (centers[:, None] - centers[None])[apart].norm(dim=-1)
        return pull + push(distance).mean()

    return loss


LABELS = torch.arange(15) % 3


def test_classes_pulled_together(found, silent):
    wrong = gathering(lambda d: F.relu(d - 3) ** 2)
    (finding,) = found("LP107", wrong, "float[15,4]", LABELS)
    assert finding.cause == "classes-pulled-together"
    silent("LP107", gathering(lambda d: F.relu(3 - d) ** 2), "float[15,4]", LABELS)
    silent("LP107", gathering(lambda d: 0 * d), "float[15,4]", LABELS)
    silent("LP107", gathering(lambda d: -d), "float[15,4]", LABELS)


def triplet(sign):
    def loss(anchor, positive, negative):
        near, far = (anchor - positive).norm(dim=1), (anchor - negative).norm(dim=1)
        return F.relu(sign * (near - far) + 0.5).mean()

    return loss


def test_a_negative_that_is_pulled(found, silent):
    (finding,) = found("LP107", triplet(-1), *["float[6,4]"] * 3)
    assert finding.cause == "negative-pulled"
    silent("LP107", triplet(1), *["float[6,4]"] * 3)


def test_a_negative_score_that_is_rewarded(found, silent):
    def reversed_ranking(pos_score, neg_score):
        return -F.logsigmoid(neg_score - pos_score).mean()

    def ranking(pos_score, neg_score):
        return -F.logsigmoid(pos_score - neg_score).mean()

    both = torch.randn(8).requires_grad_(), torch.randn(8).requires_grad_()
    (finding,) = found("LP107", reversed_ranking, *both)
    assert finding.cause == "negative-rewarded"
    silent("LP107", ranking, *both)


def same_means_zero(x1, x2, is_same):
    d = F.pairwise_distance(x1, x2)
    return ((1 - is_same) * d**2 + is_same * F.relu(1 - d) ** 2).mean()


def same_means_one(x1, x2, is_same):
    return same_means_zero(x1, x2, 1 - is_same)


def nobody_says(x1, x2, y):
    return same_means_zero(x1, x2, y)


def test_a_pair_label_whose_name_says_what_it_means(found, silent):
    pair = [torch.randn(8, 4).requires_grad_() for _ in range(2)]
    label = torch.tensor([1.0, 0, 1, 1, 0, 0, 1, 0])
    (finding,) = found("LP107", same_means_zero, *pair, label)
    assert finding.cause == "same-pair-pushed"
    silent("LP107", same_means_one, *pair, label)
    silent("LP107", nobody_says, *pair, label)
    silent("LP107", lambda x1, x2, y: nobody_says(x1, x2, 1 - y), *pair, label)


# ------------------------------------------------------------------ right losses that look guilty
def poisson(log_rate, target):
    return (log_rate.exp() - target * log_rate).mean()


def quantile(pred, target):
    d = target - pred
    return torch.maximum(0.9 * d, -0.1 * d).mean()


def linex(pred, target):
    d = pred - target
    return (d.exp() - d - 1).mean()


def scale_invariant(pred, target):
    d = pred - target
    return (d**2).mean() - 0.85 * d.mean() ** 2


def snr(estimate, target):
    noise = (estimate - target).pow(2).sum(1)
    return -10 * torch.log10(target.pow(2).sum(1) / noise).mean()


def orthogonality(shared_features, target_features):
    return (shared_features.T @ target_features).pow(2).mean()


def policy(log_prob, advantage):
    return -(log_prob * advantage).mean()


def critic(fake, real):
    return fake.mean() - real.mean()


def hinge_discriminator(fake, real):
    return F.relu(1 + fake).mean() + F.relu(1 - real).mean()


def pair_distance(distance, same):
    return (same * distance**2 + (1 - same) * F.relu(1 - distance) ** 2).mean()


@pytest.mark.parametrize(
    "loss",
    [
        poisson, quantile, linex, scale_invariant, snr, orthogonality, policy, critic,
        hinge_discriminator, nn.MSELoss(), nn.BCEWithLogitsLoss(), nn.SmoothL1Loss(),
    ],
)  # fmt: skip
def test_right_losses_of_numbers(loss, silent):
    silent("LP107", loss, "float[4,6]", "unit[4,6]")


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (pair_distance, ("positive[30]", "binary[30]")),
        (nn.HingeEmbeddingLoss(), ("float[30]", "sign[30]")),
        (nn.SoftMarginLoss(), ("float[30]", "sign[30]")),
        (nn.CrossEntropyLoss(label_smoothing=0.4), (LOGITS, CLASSES)),
        (nn.MultiMarginLoss(), (LOGITS, CLASSES)),
        (nn.BCELoss(), (UNIT, BINARY)),
        (nn.NLLLoss(), ("logprob[12,5]", CLASSES)),
    ],
    ids=lambda item: getattr(item, "__name__", str(item)),
)
def test_right_losses_of_labels(loss, inputs, silent):
    silent("LP107", loss, *inputs)


def test_a_loss_of_one_argument_has_no_target(silent):
    loss = nn.Softplus()
    assert silent("LP107", lambda x: loss(x).mean(), "float[6]") is Status.NOT_APPLICABLE


def test_own_parameters_decide_what_is_best(silent):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.center = nn.Parameter(torch.zeros(1))

        def forward(self, pred, target):
            return (target * (pred - self.center) ** 2).mean()

    assert silent("LP107", Shifted(), UNIT, BINARY) is Status.UNPROVED


def test_the_example_of_the_page_is_found(found, silent, page_code):
    for section, check in (("Example", found), ("Use instead", silent)):
        space = {}
        exec(page_code("LP107", section), space)
        assert check("LP107", space["dice_loss"], UNIT, BINARY)
    assert RULES["LP107"].name == "not-minimal-at-target"


def test_the_next_token_is_what_a_place_predicts(silent, found):
    def causal_lm(logits, labels):
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    def reversed_lm(logits, labels):
        return -F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 12, 30, generator=generator, requires_grad=True)
    for seed in range(6):  # some draws of the labels make the shifted path rise
        labels = torch.randint(0, 30, (4, 12), generator=generator.manual_seed(seed))
        assert silent("LP107", causal_lm, logits, labels) is not None
    assert found("LP107", reversed_lm, logits, labels)[0].cause == "right-class-punished"
