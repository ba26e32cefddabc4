"""What a loss takes and never reads."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.dead_options import declared_unused, other_values, unread_options


class Documented(nn.Module):
    """A loss.

    Args:
        gamma (float): ignored, kept for old checkpoints.
        alpha: the weight of the rare class; ignored when there is none.
        beta: the slope.
            Not used before version 2.
    """

    def __init__(self, gamma=2.0, alpha=1.0, beta=1.0, delta=1.0):
        super().__init__()
        self.gamma, self.alpha, self.beta, self.delta = gamma, alpha, beta, delta

    def forward(self, input, target):
        return F.mse_loss(input, target)


@pytest.mark.parametrize(
    ("name", "declared"), [("gamma", True), ("alpha", False), ("beta", True), ("delta", False)]
)
def test_the_documentation_may_declare_an_option_unused(name, declared, examination):
    case = examination(Documented(), "float[4]", "float[4]")
    assert declared_unused(case, name) is declared


def test_the_others_are_unread(examination):
    case = examination(Documented(), "float[4]", "float[4]")
    assert [option.name for option in unread_options(case)] == ["alpha", "delta"]


@pytest.mark.parametrize(
    "value", [True, 2, 0.5, 0.0, [1.0, 2.0], (1, 2), None, torch.tensor([1.0, 1.0]), torch.ones(())]
)
def test_other_values_are_other_ones(value):
    others = list(other_values(value))
    assert others
    for other in others:
        if isinstance(value, torch.Tensor):
            assert not torch.equal(other, value)
        else:
            assert other != value
            assert value is None or type(other) is type(value)


def test_a_text_has_no_other_values():
    assert not list(other_values("focal"))
