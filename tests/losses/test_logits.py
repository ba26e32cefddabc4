import pytest
import torch

from lossproof.losses import sigmoid_focal_loss
from lossproof.losses._logits import binary

# What torch warns of in its own compiler.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
LOGITS = [-1e4, -90.0, -17.0, -1.0, 0.0, 1.0, 17.0, 90.0, 1e4]


def weighed(logits):
    parts = binary(logits)
    return sum(factor * part.square().sum() for factor, part in enumerate(parts, 1))


def slope(function, logits):
    leaf = logits.clone().requires_grad_()
    function(leaf).backward()
    return leaf.grad


def test_a_compiled_graph_has_the_derivatives_of_the_operations():
    logits = torch.tensor(LOGITS, dtype=torch.float64)
    compiled = torch.compile(weighed, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(slope(compiled, logits), slope(weighed, logits))


def test_transforms_inside_a_compiled_graph_are_differentiated_as_often_as_they_ask():
    hessian = torch.func.hessian(weighed)
    compiled = torch.compile(hessian, fullgraph=True, backend="aot_eager")
    logits = torch.tensor(LOGITS[2:-2], dtype=torch.float64)
    torch.testing.assert_close(compiled(logits), hessian(logits))


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_loss_has_a_gradient(strict):
    class Wrapped(torch.nn.Module):
        def forward(self, input, target):
            return sigmoid_focal_loss(input, target)

    input, target = torch.randn(3, 4), torch.rand(3, 4)
    exported = torch.export.export(
        Wrapped(), (input.clone().requires_grad_(), target), strict=strict
    ).module()
    torch.testing.assert_close(
        slope(lambda x: exported(x, target), input),
        slope(lambda x: sigmoid_focal_loss(x, target), input),
    )
