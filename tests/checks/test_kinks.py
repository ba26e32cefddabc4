"""Which operation takes another branch between two points."""

import pytest
import torch

from lossproof.checks.kinks import kink_between


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (lambda x: x.abs().sum(), "abs"),
        (lambda x: torch.relu(x).sum(), "relu"),
        (lambda x: x.clamp(min=0).sum(), "clamp"),
        (lambda x: torch.where(x > 0, x, 2 * x).sum(), "where"),
        (lambda x: torch.maximum(x, 0 * x).sum(), "maximum"),
    ],
)
def test_the_operation_with_the_kink(examination, loss, name):
    case = examination(loss, torch.ones(1).requires_grad_())
    found = kink_between(case, (torch.tensor([-0.1]),), (torch.tensor([0.1]),))
    assert found is not None
    assert found[0] == name
    assert found[1].location is not None


def test_a_smooth_loss_has_none(examination):
    case = examination(lambda x: (x**2).sum(), torch.ones(1).requires_grad_())
    assert kink_between(case, (torch.tensor([-0.1]),), (torch.tensor([0.1]),)) is None
