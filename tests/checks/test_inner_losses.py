"""The modules that a loss calls, each with the arguments that it is called with."""

import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.inner_losses import inner_losses


class Term(nn.Module):
    def forward(self, input, target):
        return F.mse_loss(input, target)


class Total(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.unused = Term(), Term(), Term()

    def forward(self, input, target):
        return self.first(2 * input, target) + self.second(input, target.abs())


def test_each_module_gets_what_it_is_called_with(examination):
    case = examination(Total(), "float[4,3]", "float[4,3]")
    first, second = inner_losses(case)
    input, target = case.inputs.values
    torch.testing.assert_close(first.inputs.values[0].detach(), 2 * input)
    torch.testing.assert_close(second.inputs.values[1], target.abs())
    assert first.inputs.differentiable == (0,)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.term = Term()

    def forward(self, input, target):
        return self.term(input, target) + self.term(target, input)


def test_a_module_called_twice_is_left_alone(examination):
    assert not list(inner_losses(examination(Twice(), "float[4,3]", "float[4,3]")))


def test_modules_that_a_lambda_closes_over_are_seen(examination):
    term = Term()
    case = examination(lambda input, target: 3 * term(input, target), "float[4]", "float[4]")
    (inner,) = inner_losses(case)
    assert inner.subject.name == "Term"
    assert "forward" not in vars(term)


def test_torchs_own_modules_are_no_losses_of_the_users(examination):
    mse = nn.MSELoss()
    case = examination(lambda input, target: mse(input, target), "float[4]", "float[4]")
    assert not list(inner_losses(case))
