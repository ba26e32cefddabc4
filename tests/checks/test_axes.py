"""Which axes inside a loss grow with the batch, and along which one an operation works."""

import pytest
import torch
import torch.nn.functional as F

from lossproof.checks.axes import counted, dimension
from lossproof.checks.trace import Operation
from lossproof.checks.variational import divergence_of, summed_beside
from lossproof.checks.wording import source_of, wording


def similarity(query, key):
    scores = query @ key.T
    return F.cross_entropy(scores.flatten().reshape(scores.shape), torch.arange(len(query)))


def test_both_axes_of_a_similarity_grow(examination):
    found = counted(examination(similarity, torch.randn(4, 3), torch.randn(4, 3)))
    axes = {one.operation.name: one.axes for one in found}
    assert axes["matmul"] == {0}
    assert axes["flatten"] == {0, 1}
    assert axes["cross_entropy"] == {0, 1}


def test_a_loop_over_the_samples_is_not_followed(examination):
    def loop(input, target):
        return sum(F.mse_loss(row, other) for row, other in zip(input, target, strict=True))

    assert counted(examination(loop, torch.randn(4, 3), torch.randn(4, 3))) is None


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "axis"),
    [
        ("softmax", (torch.randn(2, 3), -1), {}, 1),
        ("log_softmax", (torch.randn(2, 3),), {"dim": 0}, 0),
        ("softmax", (torch.randn(2, 3),), {"dim": None}, 1),
        ("softmax", (torch.randn(2, 3, 4),), {}, 0),
        ("normalize", (torch.randn(2, 3),), {}, 1),
        ("normalize", (torch.randn(2, 3), 2.0, 0), {}, 0),
        ("cosine_similarity", (torch.randn(2, 3), torch.randn(2, 3)), {"dim": -1}, 1),
        ("softmax", (torch.tensor(1.0), 0), {}, None),
    ],
)
def test_the_axis_of_an_operation(name, args, kwargs, axis):
    operation = Operation(0, name, None, None, args=args, kwargs=kwargs)
    assert dimension(operation) == axis


# ------------------------------------------------------------------ other small helpers
def loss_of(reduce, weight=1.0):
    def loss(recon, x, mu, logvar):
        """Reconstruction and divergence."""
        inner = 1 + logvar - mu**2 - logvar.exp()
        return F.mse_loss(recon, x, reduction="sum") / len(x) - 0.5 * weight * reduce(inner)

    return loss


def draw():
    leaves = [torch.randn(4, size).requires_grad_() for size in (6, 3, 3)]
    return leaves[0], torch.randn(4, 6), leaves[1], leaves[2]


@pytest.mark.parametrize(
    ("reduce", "averages"),
    [(torch.mean, True), (lambda inner: inner.sum(1).mean(), False), (torch.sum, False)],
)
def test_the_weight_of_a_divergence_is_read_off(reduce, averages, examination):
    found = divergence_of(examination(loss_of(reduce), *draw()))
    assert (found.samples, found.dimensions) == (4, 3)
    assert found.averages_dimensions is averages


def test_what_is_no_divergence_is_none(examination):
    def other(recon, x, mu, logvar):
        return F.mse_loss(recon, x) + (mu**2).mean() + logvar.exp().mean()

    assert divergence_of(examination(other, *draw())) is None
    assert divergence_of(examination(F.mse_loss, torch.randn(4, 3), torch.randn(4, 3))) is None


def test_the_sum_beside_a_divergence_is_named(examination):
    case = examination(loss_of(torch.mean), *draw())
    assert summed_beside(case, divergence_of(case)) == "recon"


def test_wording_and_source(examination):
    case = examination(loss_of(torch.mean), *draw())
    assert "Reconstruction" in wording(case.subject)
    assert "inner = 1 + logvar" in source_of(case.subject)
    assert "sum of squares" in wording(_named("sum_of_squares", examination))
    assert source_of(examination(F.mse_loss, torch.randn(3), torch.randn(3)).subject)


def _named(name, examination):
    def plain(input, target):
        return F.mse_loss(input, target)

    plain.__qualname__ = name
    return examination(plain, torch.randn(3), torch.randn(3)).subject
