"""Inputs that are inferred fit: the loss runs on them, and they are what its author had in mind."""

import functools
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossproof
from lossproof.checks.examination import Examination
from lossproof.checks.inference import infer_inputs
from lossproof.checks.inference.meanings import slots_of
from lossproof.checks.inference.trial import Trials
from lossproof.checks.inputs import inputs_for
from lossproof.checks.subject import subject_of
from lossproof.errors import UsageError


def inferred(loss, seed=0):
    return infer_inputs(subject_of(loss), seed)


def kinds(loss):
    return [str(argument).partition(": ")[2] for argument in inferred(loss).arguments]


def values(loss):
    return inferred(loss).values


LOSSES_OF_TORCH = [
    getattr(nn, name)
    for name in dir(nn)
    if name.endswith("Loss") and not name.startswith(("Linear", "Adaptive"))
]


@pytest.mark.parametrize("cls", LOSSES_OF_TORCH, ids=lambda cls: cls.__name__)
def test_every_loss_of_torch_runs_with_a_gradient(cls):
    subject = subject_of(cls())
    inputs = infer_inputs(subject, 0)
    found = Examination(subject, inputs).evaluate()
    assert not found.failed
    assert torch.isfinite(found.value).all()
    assert all(torch.isfinite(gradient).all() for gradient in found.gradients)
    assert any((gradient != 0).any() for gradient in found.gradients)


def test_class_indices_lie_among_the_classes():
    logits, target = values(nn.CrossEntropyLoss())
    assert target.dtype is torch.int64
    assert 0 <= target.min() <= target.max() < logits.shape[1]
    assert target.shape == logits.shape[:1]


def test_probabilities_and_what_they_are_compared_with():
    probabilities, target = values(nn.BCELoss())
    assert 0 < probabilities.min() <= probabilities.max() < 1
    assert set(target.flatten().tolist()) == {0.0, 1.0}
    log_probabilities, target = values(nn.NLLLoss())
    torch.testing.assert_close(log_probabilities.exp().sum(1), torch.ones(8))
    log_probabilities, target = values(nn.KLDivLoss())
    torch.testing.assert_close(log_probabilities.exp().sum(1), torch.ones(8))
    torch.testing.assert_close(target.sum(1), torch.ones(8))
    _, target = values(nn.KLDivLoss(log_target=True))
    torch.testing.assert_close(target.exp().sum(1), torch.ones(8))


@pytest.mark.parametrize(
    "cls", [nn.SoftMarginLoss, nn.HingeEmbeddingLoss, nn.MarginRankingLoss, nn.CosineEmbeddingLoss]
)
def test_signs_where_signs_are_wanted(cls):
    assert set(values(cls())[-1].flatten().tolist()) == {-1.0, 1.0}


def test_counts_and_variances():
    _, target = values(nn.PoissonNLLLoss())
    assert torch.equal(target, target.round())
    assert values(nn.GaussianNLLLoss())[2].min() > 0


def test_ctc_has_room_for_its_targets_and_no_blanks():
    log_probabilities, targets, lengths, target_lengths = values(nn.CTCLoss())
    assert targets.min() > 0
    assert target_lengths.max() <= targets.shape[1]
    assert lengths.max() <= log_probabilities.shape[0]


# ------------------------------------------------------------------ losses as people write them


def dice(y_true, y_pred):
    overlap = (y_true * y_pred).sum((1, 2, 3))
    return 1 - (2 * overlap / (y_true + y_pred).sum((1, 2, 3))).mean()


def focal(logits, labels, gamma=2.0):
    picked = F.log_softmax(logits, 1).gather(1, labels[:, None])
    return -((1 - picked.exp()) ** gamma * picked).mean()


def triplet(anchor, positive, negative, margin):
    near = (anchor - positive).pow(2).sum(1)
    return F.relu(near - (anchor - negative).pow(2).sum(1) + margin).mean()


def vae(recon, x, mu, logvar):
    kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(1).mean()
    return F.binary_cross_entropy(recon, x) + kl


def cox(risk, time, event):
    order = time.argsort(descending=True)
    risk = risk[order]
    return -((risk - risk.logcumsumexp(0)) * event[order]).mean()


def box_iou_loss(pred, target):
    low = torch.max(pred[:, :2], target[:, :2])
    high = torch.min(pred[:, 2:], target[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    areas = [(b[:, 2:] - b[:, :2]).prod(1) for b in (pred, target)]
    return (1 - shared / (areas[0] + areas[1] - shared)).mean()


def masked_sequence(logits, targets, lengths):
    b, t, c = logits.shape
    each = F.cross_entropy(logits.reshape(b * t, c), targets.reshape(-1), reduction="none")
    kept = torch.arange(t)[None] < lengths[:, None]
    return (each.view(b, t) * kept).sum() / kept.sum()


def distillation(student_logits, teacher_logits, temperature):
    student = F.log_softmax(student_logits / temperature, 1)
    teacher = F.softmax(teacher_logits / temperature, 1)
    return F.kl_div(student, teacher, reduction="batchmean") * temperature**2


def contrastive(x1, x2, y):
    distance = (x1 - x2).pow(2).sum(1).sqrt()
    return (y * distance**2 + (1 - y) * F.relu(1 - distance) ** 2).mean()


def info_nce(sim, labels):
    same = (labels[:, None] == labels[None]).float()
    return -(F.log_softmax(sim, 1) * same).sum(1).mean()


def quantiles(preds, target):
    errors = [target - preds[:, i] for i in range(3)]
    return sum(torch.max(-0.5 * e, 0.5 * e).mean() for e in errors)


def gaussian_policy(mean, log_std, actions):
    return (0.5 * ((actions - mean) / log_std.exp()) ** 2 + log_std).sum(-1).mean()


def critic(real_logits, fake_logits):
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def mixture(pi, sigma, mu, y):
    """pi: (B, K); sigma: (B, K, D); mu: (B, K, D); y: (B, D)"""
    squares = ((y[:, None] - mu) / sigma).pow(2).sum(-1)
    return -torch.logsumexp(pi.log() - 0.5 * squares - sigma.log().sum(-1), 1).mean()


def documented(a, b):
    """A loss.

    Args:
        a: hidden states (B, T, D)
        b: one number for each sequence, (B,)
    """
    return ((a.mean((1, 2)) - b) ** 2).mean()


@pytest.mark.parametrize(
    ("loss", "wanted"),
    [
        (dice, ["float32[2, 5, 8, 8]", "float32[2, 5, 8, 8], requires grad"]),
        (focal, ["float32[8, 5], requires grad", "int64[8]"]),
        (triplet, ["float32[8, 6], requires grad"] * 3 + ["0.5"]),
        (vae, ["float32[8, 5], requires grad", "float32[8, 5]"]
              + ["float32[8, 4], requires grad"] * 2),
        (cox, ["float32[8], requires grad", "float32[8]", "float32[8]"]),
        (box_iou_loss, ["float32[8, 4], requires grad", "float32[8, 4]"]),
        (masked_sequence, ["float32[4, 7, 5], requires grad", "int64[4, 7]", "int64[4]"]),
        (distillation, ["float32[8, 5], requires grad", "float32[8, 5]", "0.5"]),
        (contrastive, ["float32[8, 5], requires grad"] * 2 + ["float32[8]"]),
        (info_nce, ["float32[8, 8], requires grad", "int64[8]"]),
        (quantiles, ["float32[8, 5], requires grad", "float32[8]"]),
        (gaussian_policy, ["float32[8, 5], requires grad"] * 2 + ["float32[8, 5]"]),
        (critic, ["float32[8, 5], requires grad"] * 2),
        (mixture, ["float32[8, 5]"] + ["float32[8, 5, 6], requires grad"] * 2
                  + ["float32[8, 6]"]),
        (documented, ["float32[8, 7, 6], requires grad", "float32[8]"]),
    ],
)  # fmt: skip
def test_losses_as_people_write_them(loss, wanted):
    assert kinds(loss) == wanted


def test_the_values_suit_the_names():
    assert set(values(dice)[0].flatten().tolist()) == {0.0, 1.0}
    assert 0 < values(dice)[1].min() <= values(dice)[1].max() < 1
    assert set(values(contrastive)[2].tolist()) == {0.0, 1.0}
    boxes = values(box_iou_loss)[0]
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert values(cox)[1].min() > 0


def test_an_option_that_is_on_settles_what_the_target_is():
    class Mixed(nn.Module):
        def __init__(self, softmax, sigmoid):
            super().__init__()
            self.softmax, self.sigmoid = softmax, sigmoid

        def forward(self, input, target):
            if self.sigmoid:
                return F.binary_cross_entropy_with_logits(input, target)
            return -(F.log_softmax(input, 1) * target).sum(1).mean()

    rows = values(Mixed(softmax=True, sigmoid=False))[1].sum(1)
    torch.testing.assert_close(rows, torch.ones(rows.shape))
    target = values(Mixed(softmax=False, sigmoid=True))[1]
    assert set(target.flatten().tolist()) == {0.0, 1.0}
    assert len(set(target.sum(1).flatten().tolist())) > 1


def test_a_tensor_that_may_be_left_out_is_left_out():
    def loss(input, target, weight=None):
        return F.mse_loss(input, target)

    assert [argument.name for argument in inferred(loss).arguments] == ["input", "target"]


def test_unless_the_loss_does_not_run_without_it():
    def loss(embeddings, labels=None):
        if labels is None:
            raise ValueError("labels are required")
        same = labels[:, None] == labels[None]
        return torch.cdist(embeddings, embeddings)[same].pow(2).mean()

    assert [argument.name for argument in inferred(loss).arguments] == ["embeddings", "labels"]


def test_the_sizes_that_a_module_was_made_with():
    class Centers(nn.Module):
        def __init__(self):
            super().__init__()
            self.centers = nn.Parameter(torch.randn(3, 11))

        def forward(self, x, labels):
            return (x - self.centers[labels]).pow(2).mean()

    x, labels = values(Centers())
    assert x.shape[1] == 11
    assert labels.max() < 3


def test_an_accidental_broadcast_has_its_price():
    def loss(input, target):
        return (input - target).pow(2).mean()

    trials = Trials(subject_of(loss), slots_of(("input", "target"), [None] * 2, {}), 0)
    assert trials.run(("float[8]", "float[8]")).penalty == 0
    assert trials.run(("float[8,1]", "float[8]")).penalty > 0


def test_whole_numbers_that_pick_nothing_have_their_price():
    def picks(input, target):
        return F.cross_entropy(input, target)

    def calculates(input, target):
        return (input[:, 0] - target).pow(2).mean()

    items = ("float[8,5]", "int[8]<5")
    for loss, meant in ((picks, True), (calculates, False)):
        trials = Trials(subject_of(loss), slots_of(("input", "target"), [None] * 2, {}), 0)
        assert (trials.run(items).penalty == 0) is meant


# ------------------------------------------------------------------ losses with a fault in them


def test_a_cut_graph_is_found_and_not_dodged():
    def loss(log_probs, actions, rewards):
        picked = [row[a].item() for row, a in zip(log_probs, actions, strict=True)]
        return -(torch.tensor(picked) * rewards).mean()

    report = lossproof.check(loss)
    assert "LP201" in [finding.code for finding in report]


def test_a_crash_that_no_inputs_would_mend_is_a_finding():
    def loss(y_true, y_pred):
        overlap = (y_true * y_pred,)
        return 1 - overlap.sum()

    report = lossproof.check(loss)
    assert [finding.code for finding in report] == ["LP408"]


def test_where_nothing_fits_the_message_says_what_was_tried():
    def loss(outputs, batch):
        return outputs.loss + batch.size

    with pytest.raises(UsageError) as caught:
        lossproof.check(loss)
    text = str(caught.value)
    assert "`loss`" in text or "loss`, which takes (outputs, batch)" in text
    assert "'Tensor' object has no attribute 'loss'" in text
    assert "kinds of inputs were tried" in text
    assert re.search(r'--inputs "\w+\[', text)


# ------------------------------------------------------------------ how it behaves


def test_what_was_inferred_can_be_given():
    report = lossproof.check(focal)
    (said,) = report.assumptions
    assert "`logits: float[8, 5]`, `labels: int[8]<5`" in said
    assert "`focal_inputs()`" in said
    given = re.search(r'--inputs "([^"]+)"', said)[1]
    assert ", ".join(inferred(focal).inferred) == given
    again = inputs_for(subject_of(focal), (given,), 0)
    for one, other in zip(again.values, values(focal), strict=True):
        assert torch.equal(one, other)


def test_the_seed_decides():
    one, same, other = inferred(focal, 0), inferred(focal, 0), inferred(focal, 1)
    assert torch.equal(one.values[0], same.values[0])
    assert not torch.equal(one.values[0], other.values[0])


def test_nothing_is_left_changed():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0
            self.register_buffer("mean", torch.zeros(()))

        def forward(self, input, target):
            self.calls += 1
            self.mean += 1
            torch.rand(1)
            return F.mse_loss(input, target)

    module, state = Counting(), torch.get_rng_state()
    inferred(module)
    assert (module.calls, module.mean) == (0, 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_a_loss_prints_is_not_shown(capsys):
    def loss(input, target):
        print("called")  # noqa: T201
        return F.mse_loss(input, target)

    inferred(loss)
    assert capsys.readouterr().out == ""


def test_partials_and_flags_have_their_usual_values():
    def loss(input, target, reduction, epoch, use_mask):
        assert reduction == "mean" and not use_mask
        return F.mse_loss(input, target, reduction=reduction) * epoch

    assert kinds(loss)[2:] == ["'mean'", "2", "False"]
    assert len(kinds(functools.partial(F.mse_loss, reduction="sum"))) == 2


def test_an_endless_loss_ends_the_search(monkeypatch):
    from lossproof.checks.inference import trial

    monkeypatch.setattr(trial, "SECONDS", 0.05)

    def loss(input, target):
        while True:
            pass

    with pytest.raises(UsageError, match="still running"):
        inferred(loss)
