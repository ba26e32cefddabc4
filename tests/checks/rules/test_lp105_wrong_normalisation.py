"""LP105 wrong-normalisation: growth with the batch, masks, divergences."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.report import Severity, Status
from lossproof.checks.rules import RULES

N, T, C, D = 4, 6, 5, 3


GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=GENERATOR)


def labels(*shape, classes=C):
    return torch.randint(0, classes, shape, generator=GENERATOR)


PAIR = (normal(N, D), normal(N, D) + 1)
IMAGES = (normal(2, 3, 4, 5), normal(2, 3, 4, 5) + 1)
TOKENS = (normal(N, T, C), labels(N, T))
MASK = torch.tensor(
    [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]]
)


# ------------------------------------------------------------------ found: the batch


def mean_over_batch_again(input, target):
    return F.mse_loss(input, target) / len(input)  # <-- here


def sum_over_square(input, target):
    return (input - target).abs().sum() / len(input) ** 2  # <-- here


def one_term_twice(first, second):
    one = first.pow(2).sum(1).mean()
    two = (second.pow(2).sum(1).mean()) / second.shape[0]  # <-- here
    return one + 0.5 * two


def loop_with_mean_inside(input, target):
    total = 0.0
    for row, other in zip(input, target, strict=True):
        total = total + F.mse_loss(row, other) / len(input)
    return total / len(input)


def sum_and_mean(input, target):
    return F.l1_loss(input, target, reduction="sum") + F.mse_loss(input, target)


def token_sum_by_length(logits, target):
    loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum")
    return loss / logits.size(1)  # <-- here


def mean_of_pixels_only(input, target):
    return (input - target).pow(2).mean(dim=(1, 2, 3)).sum()  # <-- here


def loop_without_division(input, target):
    total = 0.0
    for row, other in zip(input, target, strict=True):
        total = total + F.mse_loss(row, other)  # <-- here
    return total


def distance(output, wanted):
    return torch.sum(torch.abs(output - wanted) ** 2)  # <-- here


def divided_by_pixels(input, target):
    _, _, height, width = input.shape
    return (input - target).abs().sum() / (height * width)  # <-- here


def by_all_class_weights(logits, target, weight):
    losses = F.cross_entropy(logits, target, reduction="none")
    return (weight[target] * losses).sum() / weight.sum()  # <-- here


class FixedBatch(nn.Module):
    def __init__(self, batch_size=4):
        super().__init__()
        self.batch_size = batch_size

    def forward(self, logits, target):
        return F.cross_entropy(logits, target, reduction="sum") / self.batch_size


BATCH_CASES = [
    (mean_over_batch_again, PAIR, "divided-twice", True),
    (sum_over_square, PAIR, "divided-twice", True),
    (loop_with_mean_inside, PAIR, "divided-twice", False),
    (sum_and_mean, PAIR, "mixed-reductions", False),
    (token_sum_by_length, TOKENS, "other-axis", True),
    (mean_of_pixels_only, IMAGES, "summed-over-batch", True),
    (loop_without_division, PAIR, "summed-over-batch", True),
    (distance, IMAGES, "summed-over-batch", True),
    (divided_by_pixels, IMAGES, "other-axis", True),
    (by_all_class_weights, (normal(N, C), labels(N), torch.rand(C) + 1), "constant-divisor", True),
    (FixedBatch, (normal(N, C), labels(N)), "fixed-batch-size", False),
]


@pytest.mark.parametrize(("loss", "inputs", "cause", "line"), BATCH_CASES)
def test_a_wrong_divisor_is_found(loss, inputs, cause, line, found, marked):
    (finding,) = found("LP105", loss, *_wanting(inputs))
    assert finding.cause == cause
    if line:
        assert finding.location.line == marked(loss)


def _wanting(inputs):
    """The first tensor wants a gradient, the others do not."""
    return tuple(
        value.clone().requires_grad_() if i == 0 and value.is_floating_point() else value
        for i, value in enumerate(inputs)
    )


def test_each_term_is_told_apart(found):
    first, second = (value.clone().requires_grad_() for value in PAIR)
    (finding,) = found("LP105", one_term_twice, first, second)
    assert "`second`" in finding.message
    assert finding.severity is Severity.ERROR


# ------------------------------------------------------------------ found: what is left out


def counted_mask(input, mask):
    return input.sum() / mask.sum()  # <-- here


def counted_padding(loss, is_pad):
    return loss.sum() / (~is_pad).sum().clamp(min=1)  # <-- here


def counted_lengths(input, target, lengths):
    return (input - target).pow(2).sum() / lengths.sum()  # <-- here


def counted_by_sample(input, target, lengths):
    return ((input - target).pow(2).sum(1) / lengths).mean()


def counted_tokens(logits, target, pad_idx=0):
    loss = F.cross_entropy(logits, target, reduction="none")
    return loss.sum() / (target != pad_idx).sum()  # <-- here


class CountedLabels(nn.Module):
    def __init__(self, ignore_index=0):
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits, target):
        loss = F.cross_entropy(logits, target, reduction="none")
        return loss.sum() / (target != self.ignore_index).sum()  # <-- here


MASKED_CASES = [
    (counted_mask, (normal(N, T), MASK.float())),
    (counted_padding, (normal(N, T), MASK == 0)),
    (counted_lengths, (normal(N, T), normal(N, T), MASK.sum(1))),
    (counted_tokens, (normal(12, C), labels(12))),
    (CountedLabels, (normal(12, C), labels(12))),
]


@pytest.mark.parametrize(("loss", "inputs"), MASKED_CASES)
def test_a_numerator_without_its_mask_is_found(loss, inputs, found, marked):
    (finding,) = [f for f in found("LP105", loss, *inputs) if f.cause == "unmasked-numerator"]
    target = loss.forward if isinstance(loss, type) else loss
    assert finding.location.line == marked(target)
    assert 0 < finding.evidence["share_of_gradient_left_out"] < 1


def test_lengths_that_only_divide_are_found(found):
    inputs = (normal(N, T), normal(N, T), MASK.sum(1))
    (finding,) = found("LP105", counted_by_sample, *inputs)
    assert finding.cause == "unmasked-numerator"


def spread_mask(input, target, mask):
    loss = F.mse_loss(input, target, reduction="none")
    return (loss * mask).sum() / mask.sum()  # <-- here


def spread_mask_guarded(input, target, valid):
    valid = valid.unsqueeze(-1).float()
    return ((input - target).abs() * valid).sum() / (valid.sum() + 1e-8)  # <-- here


def spread_mask_in_the_loss(input, target, mask):
    loss = F.l1_loss(input * mask, target * mask, reduction="sum")
    return loss / mask.sum()  # <-- here


@pytest.mark.parametrize(
    ("loss", "mask"),
    [
        (spread_mask_in_the_loss, MASK.float()[..., None]),
        (spread_mask, MASK.float()[..., None]),
        (spread_mask_guarded, MASK),
    ],
)
def test_a_mask_of_another_size_is_found(loss, mask, found, marked):
    (finding,) = found("LP105", loss, normal(N, T, D), normal(N, T, D) + 1, mask)
    assert finding.cause == "mask-of-other-size"
    assert finding.evidence["too_large_by"] == D
    assert finding.location.line == marked(loss)


def padding_counts(input, target, padding_mask):
    loss = F.mse_loss(input, target, reduction="none")
    return (loss * padding_mask).mean()  # <-- here


def prefix_counts(input, target, mask):
    return ((input - target) ** 2 * mask).mean()  # <-- here


PREFIX = (torch.arange(T) < torch.tensor([[T - i % 3] for i in range(N)])).float()


class IgnoredCount(nn.Module):
    def __init__(self, ignore_index=0):
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits, target):
        losses = F.cross_entropy(logits, target, ignore_index=self.ignore_index, reduction="none")
        return losses.mean()  # <-- here


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (padding_counts, (normal(N, T), normal(N, T), MASK.float())),
        (IgnoredCount, (normal(12, C), labels(12))),
        (IgnoredCount, (normal(10, C), labels(10))),
        (prefix_counts, (normal(N, T), normal(N, T), PREFIX)),
    ],
)
def test_padding_in_the_denominator_is_found(loss, inputs, found, marked):
    (finding,) = found("LP105", loss, *inputs)
    assert finding.cause == "padding-in-denominator"
    assert finding.severity is Severity.WARNING
    assert finding.evidence["with_twice_the_length"] == pytest.approx(0.5)
    assert finding.location.line == marked(loss.forward if isinstance(loss, type) else loss)


def chamfer(input, target):
    distance = (input[:, None] - target[None]).square().sum(-1)
    return distance.min(1).values.mean() + distance.min(0).values.mean()


def test_sets_of_different_sizes_have_no_mixed_reductions(silent):
    silent("LP105", chamfer, normal(6, 3), normal(5, 3))


def divided_by_the_rest(input, target, mask):
    loss = F.mse_loss(input, target, reduction="none").masked_fill(mask, 0.0)
    return (loss.sum(1) / mask.sum(1).clamp(min=1e-5)).mean()


def test_a_denominator_of_the_other_mask_is_found(found):
    mask = torch.arange(N * T).reshape(N, T) % 3 == 1
    (finding,) = found("LP105", divided_by_the_rest, normal(N, T), normal(N, T), mask)
    assert finding.cause == "denominator-left-out"
    assert ".sum()" in finding.help or "sum of the same mask" in finding.help


def a_mask_of_another_kind(input, target, mask):
    return ((input - target) ** 2 * mask).mean()


def test_a_mean_over_a_mask_that_is_no_prefix_is_no_mistake(silent):
    hole = (torch.arange(N * T).reshape(N, T) % 3 == 1).float()
    silent("LP105", a_mask_of_another_kind, normal(N, T), normal(N, T), hole)


def norm_by_batch(input, target):
    return torch.sqrt((input - target).square().sum()) / len(input)  # <-- here


def test_a_norm_of_the_batch_divided_by_its_size_is_found(found, marked):
    (finding,) = found("LP105", norm_by_batch, *PAIR)
    assert finding.cause == "norm-divided"
    assert finding.location.line == marked(norm_by_batch)


# ------------------------------------------------------------------ found: divergences


def distillation(student, teacher):
    return F.kl_div(student.log_softmax(1), teacher.softmax(1))  # <-- here


def distillation_module(student, teacher):
    return nn.KLDivLoss()(student.log_softmax(-1), teacher.softmax(-1)) * 4.0  # <-- here


@pytest.mark.parametrize("loss", [distillation, distillation_module])
def test_a_divergence_averaged_over_classes_is_found(loss, found, marked):
    (finding,) = found("LP105", loss, normal(N, C), normal(N, C))
    assert finding.cause == "mean-over-classes"
    assert finding.evidence["too_small_by"] == C
    assert finding.location.line == marked(loss)


def autoencoder(recon, x, mu, logvar):
    error = F.binary_cross_entropy(recon, x, reduction="sum") / len(x)
    return error - 0.5 * torch.mean(1 + logvar - mu**2 - logvar.exp())  # <-- here


def wants(*tensors):
    return tuple(tensor.requires_grad_() for tensor in tensors)


def test_a_divergence_averaged_over_latents_is_found(found, marked):
    recon, mu, logvar = wants(normal(N, 9).sigmoid(), normal(N, C), normal(N, C))
    (finding,) = found("LP105", autoencoder, recon, normal(N, 9).sigmoid(), mu, logvar)
    assert finding.cause == "mean-over-latents"
    assert finding.evidence["too_small_by"] == C
    assert finding.location.line == marked(autoencoder)


# ------------------------------------------------------------------ not reported


def option(input, target, reduction="sum"):
    return getattr((input - target).pow(2), reduction)()


def said_in_the_docstring(input, target):
    """The sum of squared differences."""
    return (input - target).pow(2).sum()


def sse_loss(input, target):
    return (input - target).pow(2).sum()


def inner_sum(input, target):
    return F.mse_loss(input, target, reduction="sum")


def summed_log_probabilities(logits, target):
    return -logits.log_softmax(1).gather(1, target[:, None]).sum()


def centred_log_probabilities(logits, target):
    centred = logits - logits.mean(1, keepdim=True)
    return -centred.log_softmax(1).gather(1, target[:, None]).sum()


def by_the_weights_of_the_samples(logits, target, weight):
    losses = F.cross_entropy(logits, target, reduction="none")
    return (weight[target] * losses).sum() / weight[target].sum()


def detection(inputs, targets, num_boxes):
    losses = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    return losses.mean(1).sum() / num_boxes


def time_first(logits, target):
    T, B = logits.shape[:2]
    assert target.shape == (T, B)
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum") / B


def info_nce(query, key):
    scores = query @ key.T
    return F.cross_entropy(scores, torch.arange(len(query)), reduction="sum") / len(query) ** 2


def with_penalty(input, target, weight):
    return F.mse_loss(input, target) + 0.01 * weight.square().sum()


def posterior(input, target, weight):
    """Negative log-posterior."""
    return (input @ weight - target).square().sum() + weight.square().sum()


def std_over_batch(input, target):
    return F.mse_loss(input, target) + F.relu(1 - input.std(0)).mean()


def masked(input, target, mask):
    return ((input - target) ** 2 * mask).sum() / mask.sum()


def hole_and_rest(input, target, mask):
    error = (input - target).abs()
    return 6 * (error * (1 - mask)).mean() + (error * mask).mean()


def squared_norms(input, target, mask):
    norms = (input - target).pow(2).sum(-1)
    return (norms * mask).sum() / mask.sum()


def mean_of_sequences(input, target, lengths):
    steps = torch.arange(input.shape[1])[None] < lengths[:, None]
    error = torch.where(steps, (input - target).abs(), 0.0)
    return (error.sum(1) / lengths).mean()


def predicted_mask(logits, mask):
    p = logits.sigmoid()
    return 1 - 2 * (p * mask).sum() / (p.sum() + mask.sum())


def mean_where_mask_is_a_region(input, target, mask):
    return ((input - target).abs() * mask).mean()


def batchmean(student, teacher):
    return F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")


def evidence_lower_bound(recon, x, mu, logvar):
    error = F.binary_cross_entropy(recon, x, reduction="sum")
    return error - 0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp())


def all_means(recon, x, mu, logvar):
    error = F.binary_cross_entropy(recon, x)
    return error - 0.5 * torch.mean(1 + logvar - mu**2 - logvar.exp())


def drawing(input, target):
    rows = torch.randperm(len(input))[:2]
    return F.mse_loss(input[rows], target[rows]) / len(input)


BOTH = (normal(N, T), normal(N, T) + 1)
VAE = (normal(N, 9).sigmoid(), normal(N, 9).sigmoid(), normal(N, C), normal(N, C))
RIGHT = [
    (F.mse_loss, PAIR),
    (F.cross_entropy, (normal(N, C), labels(N))),
    (nn.CrossEntropyLoss(ignore_index=1), (normal(12, C), labels(12))),
    (nn.CrossEntropyLoss(weight=torch.rand(C)), (normal(N, C), labels(N))),
    (nn.MSELoss(reduction="sum"), PAIR),
    (nn.MSELoss(reduction="none"), PAIR),
    (option, PAIR),
    (said_in_the_docstring, PAIR),
    (sse_loss, PAIR),
    (inner_sum, PAIR),
    (summed_log_probabilities, (normal(N, C), labels(N))),
    (centred_log_probabilities, (normal(N, C), labels(N))),
    (by_the_weights_of_the_samples, (normal(N, C), labels(N), torch.rand(C) + 1)),
    (detection, (normal(N, C), normal(N, C).sigmoid(), 3.0)),
    (detection, (normal(N, C), normal(N, C).sigmoid(), torch.tensor(3.0))),
    (time_first, TOKENS),
    (info_nce, PAIR),
    (with_penalty, (*PAIR, normal(7, 7))),
    (posterior, (normal(N, D), normal(N), normal(D).requires_grad_())),
    (posterior, (normal(N, D).requires_grad_(), normal(N), normal(D).requires_grad_())),
    (std_over_batch, PAIR),
    (masked, (*BOTH, MASK.float())),
    (hole_and_rest, (*BOTH, MASK.float())),
    (squared_norms, (normal(N, T, D), normal(N, T, D) + 1, MASK)),
    (mean_of_sequences, (*BOTH, MASK.sum(1))),
    (predicted_mask, (normal(N, T), MASK.float())),
    (mean_where_mask_is_a_region, (*BOTH, MASK.float().flip(1))),
    (batchmean, (normal(N, C), normal(N, C))),
    (evidence_lower_bound, wants(*(v.clone() for v in VAE))),
    (all_means, wants(*(v.clone() for v in VAE))),
    (drawing, PAIR),
]


@pytest.mark.parametrize(("loss", "inputs"), RIGHT)
def test_right_losses_are_left_alone(loss, inputs, silent):
    silent("LP105", loss, *inputs)


@pytest.mark.parametrize("loss", [F.mse_loss, F.huber_loss, nn.GaussianNLLLoss()])
def test_a_mean_is_proved(loss, silent):
    inputs = (*PAIR, torch.rand(N, D) + 0.1) if isinstance(loss, nn.GaussianNLLLoss) else PAIR
    assert silent("LP105", loss, *inputs) is Status.PROVED


def test_the_page(page_code, module_of, found, silent):
    bad = module_of(page_code("LP105", "Example"), "bad")
    good = module_of(page_code("LP105", "Use instead"), "good")
    inputs = (normal(N, T), normal(N, T) + 1, MASK.float())
    (finding,) = found("LP105", bad.masked_loss, *inputs)
    assert finding.cause == "unmasked-numerator"
    silent("LP105", good.masked_loss, *inputs)


@pytest.mark.parametrize("code", ["LP105", "LP405", "LP406"])
def test_a_slow_loss_is_not_called_over_and_over(code, examination, monkeypatch):
    case = examination(sum_over_square, *PAIR)
    monkeypatch.setattr(case, "affordable", lambda calls: False)
    (verdict,) = RULES[code].examine(case)
    assert verdict.status is Status.UNPROVED
