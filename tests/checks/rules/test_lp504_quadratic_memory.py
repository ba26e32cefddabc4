"""LP504 quadratic-memory."""

import sys

import pytest
import torch
import torch.nn.functional as F

from lossproof.checks.report import Severity, Status
from lossproof.checks.rules import lp504_quadratic_memory

CODE = "LP504"


def test_a_large_matrix_over_all_pairs(found, marked):
    def info_nce(a, b):
        similarity = a @ b.T / 0.1  # <-- here
        return F.cross_entropy(similarity, torch.arange(len(a)))

    (finding,) = found(CODE, info_nce, "float[4200,2]", "float[4200,2]")
    assert (finding.cause, finding.severity) == ("all-pairs", Severity.PERFORMANCE)
    assert finding.location.line == marked(info_nce)
    assert finding.evidence["bytes"] == 4200 * 4200 * 4


def test_a_small_one_is_on_purpose(verdicts):
    def info_nce(a, b):
        return F.cross_entropy(a @ b.T / 0.1, torch.arange(len(a)))

    (outcome,) = verdicts(CODE, info_nce, "float[8,4]", "float[8,4]")
    assert outcome.status is Status.UNPROVED
    # 8 x 8 floats are 256 bytes, at 4096 times the samples 4096 * 4096 times as much
    assert "4 GiB" in outcome.detail


def test_linear_memory_is_proved(silent):
    assert silent(CODE, F.cross_entropy, "float[16,5]", "int[16]<5") is Status.PROVED
    assert silent(CODE, F.mse_loss, "float[16,5]", "float[16,5]") is Status.PROVED


def test_a_product_of_two_axes_is_no_square(silent):
    def outer(input, target):
        return (input[:, :, None] - target[:, None, :]).abs().mean()

    assert silent(CODE, outer, "float[8,5]", "float[8,5]") is Status.PROVED


def test_a_penalty_has_no_batch(silent):
    class Penalty(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(4))

        def forward(self):
            return self.weight.pow(2).sum()

    assert silent(CODE, Penalty()) is Status.NOT_APPLICABLE


@pytest.fixture
def small_is_large(monkeypatch):
    """Report what takes 64 KiB: large matrices are slow where others use the machine, too."""
    monkeypatch.setattr(lp504_quadratic_memory, "LARGE", 2**16)


@pytest.mark.usefixtures("small_is_large")
def test_pairs_is_the_mend(found):
    def info_nce(a, b):
        similarity = a @ b.T / 0.1
        return F.cross_entropy(similarity, torch.arange(len(a)))

    (finding,) = found(CODE, info_nce, "float[256,2]", "float[256,2]")
    assert "`lossproof.pairs`" in finding.help
    if sys.version_info >= (3, 11):  # before, there are no columns to read the expression at
        assert 'lossproof.pairs(lambda a, b: a @ b.T / 0.1, "logsumexp")(a, b)' in finding.help
    assert finding.evidence["samples"] == 256
    assert "4 GiB" in finding.notes[0]  # 32,768 squared floats, whatever the given batch was


@pytest.mark.usefixtures("small_is_large")
def test_chunk_is_the_mend_of_an_output_layer(found):
    class Tokens(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(4, 700)

        def forward(self, hidden, target):
            return F.cross_entropy(self.head(hidden), target)

    (finding,) = found(CODE, Tokens(), "float[64,4]", "int[64]<700")
    assert (finding.cause, finding.severity) == ("output-layer", Severity.PERFORMANCE)
    assert finding.evidence["bytes"] == 64 * 700 * 4
    assert "`lossproof.chunk`" in finding.help
    if sys.version_info >= (3, 11):
        assert "lossproof.chunk(F.cross_entropy, self.head)(hidden, target)" in finding.help


@pytest.mark.usefixtures("small_is_large")
def test_given_logits_are_no_output_layer(silent):
    assert silent(CODE, F.cross_entropy, "float[64,700]", "int[64]<700") is Status.PROVED


@pytest.mark.usefixtures("small_is_large")
def test_the_page(found, page_code, module_of):
    wrong = module_of("import torch\n\n" + page_code(CODE, "Example"), "wrong")
    right = module_of("import lossproof\n\n" + page_code(CODE, "Use instead"), "right")
    given = torch.randn(6, 4), torch.randn(6, 4)
    torch.testing.assert_close(wrong.info_nce(*given), right.info_nce(*given))
    assert found(CODE, wrong.info_nce, "float[256,2]", "float[256,2]")
    assert not found(CODE, right.info_nce, "float[16,2]", "float[16,2]")
