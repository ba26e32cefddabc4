"""LP406 batch-split: the whole batch and its parts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.report import Status

N, C = 9, 4
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(N, C, generator=GENERATOR)
LABELS = torch.tensor([1, 1, 2, 3, 0, 0, 1, 0, 3])
OTHERS = torch.randn(N, C, generator=GENERATOR)
COUNT = torch.tensor(18)


def ignores_it(logits, labels, num_items_in_batch):
    return F.cross_entropy(logits, labels)


def divides_again(logits, labels, num_items_in_batch):
    return F.cross_entropy(logits, labels) / num_items_in_batch  # <-- here


class AverageFactor(nn.Module):
    def forward(self, logits, labels, avg_factor):
        losses = F.cross_entropy(logits, labels, reduction="none")
        return losses.sum() / avg_factor / len(losses)


@pytest.mark.parametrize("count", [COUNT, 18])
def test_a_global_number_without_effect_is_found(count, found):
    (finding,) = found("LP406", ignores_it, LOGITS, LABELS, count)
    assert finding.cause == "normalizer-ignored"


@pytest.mark.parametrize("loss", [divides_again, AverageFactor])
def test_a_global_number_beside_the_own_one_is_found(loss, found):
    (finding,) = found("LP406", loss, LOGITS, LABELS, COUNT)
    assert finding.cause == "divided-twice"
    assert finding.evidence["sum_of_parts"] > 1.5 * finding.evidence["whole"]


def test_the_division_is_pointed_at(found, marked):
    (finding,) = found("LP406", divides_again, LOGITS, LABELS, COUNT)
    assert finding.location.line == marked(divides_again)


# ------------------------------------------------------------------ not reported


def uses_it(logits, labels, num_items_in_batch):
    return F.cross_entropy(logits, labels, reduction="sum") / num_items_in_batch


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (F.mse_loss, (LOGITS, OTHERS)),
        (nn.MSELoss(reduction="sum"), (LOGITS, OTHERS)),
        (nn.MSELoss(reduction="none"), (LOGITS, OTHERS)),
        (F.cross_entropy, (LOGITS, LABELS)),
        (uses_it, (LOGITS, LABELS, COUNT)),
    ],
)
def test_parts_that_make_up_the_whole_are_proved(loss, inputs, silent):
    assert silent("LP406", loss, *inputs) is Status.PROVED


@pytest.mark.parametrize(
    "loss",
    [nn.CrossEntropyLoss(ignore_index=0), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 3, 4]))],
)
def test_a_mean_over_what_counts_is_right_and_told(loss, verdicts):
    (verdict,) = verdicts("LP406", loss, LOGITS, LABELS)
    assert verdict.status is Status.UNPROVED
    assert "normalizer" in verdict.detail


def info_nce(query, key):
    return F.cross_entropy(query @ key.T, torch.arange(len(query)))


def drawing(input, target):
    return F.mse_loss(input + torch.randn_like(input), target)


def test_what_cannot_be_split_is_not_judged(silent):
    assert silent("LP406", info_nce, LOGITS, OTHERS) is Status.NOT_APPLICABLE
    assert silent("LP406", drawing, LOGITS, OTHERS) is Status.UNPROVED
    assert silent("LP406", torch.square, torch.tensor(2.0)) is Status.NOT_APPLICABLE


def test_the_page(page_code, module_of, found, silent):
    head = "import torch.nn.functional as F\n\n\n"
    bad = module_of(head + page_code("LP406", "Example"), "bad")
    good = module_of(head + page_code("LP406", "Use instead"), "good")
    (finding,) = found("LP406", bad.loss, LOGITS, LABELS, COUNT)
    assert finding.location.line == 5
    assert silent("LP406", good.loss, LOGITS, LABELS, COUNT) is Status.PROVED
