"""Options whose names promise an effect."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.promises import PROMISES, promises


@pytest.mark.parametrize(
    "name", ["alpha", "gamma", "lambda_kl", "pos_weight", "class_weights", "label_smoothing", "w1"]
)
def test_names_that_promise(name):
    assert PROMISES.search(name)


@pytest.mark.parametrize("name", ["eps", "reduction", "num_classes", "ignore_index", "weighted_by"])
def test_names_that_do_not(name):
    assert not PROMISES.search(name)


class Loss(nn.Module):
    def __init__(self):
        super().__init__()
        self.alpha, self.eps, self.gamma_on = 0.5, 1e-8, True
        self.register_buffer("class_weight", torch.ones(3))

    def forward(self, input, target, weight, beta=0.0):
        return self.alpha * F.mse_loss(input, target + beta)


def test_attributes_buffers_keywords_and_arguments(examination):
    case = examination(Loss(), "float[4,3]", "float[4,3]", "weight positive[4,3]")
    found = {promise.name: promise for promise in promises(case)}
    assert set(found) == {"alpha", "class_weight", "beta", "weight"}
    values = [float(case.evaluate(subject=one).value.detach()) for one in found["alpha"].variants]
    assert len({round(value / float(case.base.value.detach()), 4) for value in values}) == 3
    changed = found["weight"].change(case.inputs.values, 0)
    assert not torch.equal(changed[2], case.inputs.values[2])
    assert changed[0] is case.inputs.values[0]
