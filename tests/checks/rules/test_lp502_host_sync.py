"""LP502 host-sync."""

import pytest
import torch

import lossproof
from lossproof.checks.report import Severity, Status

CODE = "LP502"


def branch(input, target, mask):
    if mask.sum() == 0:
        return (input * 0).sum()
    return ((input - target) ** 2 * mask).sum() / mask.sum()


def item(input, target, mask):
    count = mask.sum().item()
    return ((input - target) ** 2 * mask).sum() / count


def to_list(input, target, mask):
    chosen = mask.argmax().tolist()
    return ((input - target) ** 2 * mask).sum() + input[chosen] * 0


@pytest.mark.parametrize(
    ("loss", "word"), [(branch, "truth"), (item, "`.item()`"), (to_list, "`.tolist()`")]
)
def test_a_number_for_python(found, loss, word):
    (finding,) = found(CODE, loss, "float[8]", "float[8]", "binary[8]")
    assert word in finding.message
    assert finding.severity is Severity.PERFORMANCE
    assert finding.location.line == loss.__code__.co_firstlineno + 1


def test_how_often_in_a_loop(found):
    def loop(input, target):
        total = 0.0
        for i in range(len(target)):
            total = total + input[i, int(target[i])]
        return total

    (finding,) = found(CODE, loop, "float[8,3]", "int[8]<3")
    assert finding.evidence["times"] == 8


def test_one_line_is_one_finding(found):
    def twice(input, target):
        count = int(target.sum().cpu().item())
        return ((input - target) ** 2).sum() / (count + 1)

    assert len(found(CODE, twice, "float[8]", "binary[8]")) == 1


def test_input_may_be_refused(silent):
    def careful(input, target):
        assert (target >= 0).all(), "target must not be negative"
        if target.max() > 1:
            raise ValueError("target must be at most 1")
        return ((input - target) ** 2).mean()

    assert silent(CODE, careful, "float[8]", "unit[8]") is Status.PROVED


def test_a_cut_is_reported_by_the_rule_for_cuts(silent):
    def cut(input, target):
        return (input - target).pow(2).mean() * (input - target).abs().mean().item()

    assert silent(CODE, cut, "float[8]", "float[8]") is Status.PROVED


def test_sizes_are_no_tensors(silent):
    def plain(input, target):
        return ((input - target) ** 2).sum() / input.shape[0]

    assert silent(CODE, plain, "float[8]", "float[8]") is Status.PROVED


def test_a_constant_is_known_before(silent):
    def constant(input, target):
        return ((input - target) ** 2).mean() * torch.tensor(2.0).item()

    assert silent(CODE, constant, "float[8]", "float[8]") is Status.PROVED


def test_what_lossproof_looks_at_is_no_wait_of_the_loss(silent):
    chunked = lossproof.chunk(torch.nn.functional.cross_entropy, torch.nn.Linear(4, 3))

    def loss(hidden, target):
        return 2 * chunked(hidden, target)

    assert silent("LP502", loss, "float[6,4]", "int[6]<3") is Status.PROVED


def test_what_the_loss_waits_for_within_lossproof_is(found):
    def rows(logits, target):
        losses = torch.nn.functional.cross_entropy(logits, target, reduction="none")
        return losses * 2 if losses.detach().max().item() > 1e6 else losses  # <-- here

    (finding,) = found(
        "LP502", lossproof.chunk(rows, torch.nn.Linear(4, 3)), "float[6,4]", "int[6]<3"
    )
    assert finding.location.function.endswith("rows")
