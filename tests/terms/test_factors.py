import pytest
import torch

from lossproof.terms.factors import SegmentFactors, SharedFactors
from lossproof.terms.held import squared_norms, total_products
from lossproof.terms.owners import Owners
from lossproof.terms.workspace import loan

CPU = torch.device("cpu")
COUNT, FIXED, MOVING = 3, 7, 5
OWNERS = ((2, 40), (0, 60), (2, 35))
ROWS = 135
"""More than a block, and no multiple of one."""


def shared(fixed, cotangents, *, left=True, terms=(0, 2)):
    width = fixed.shape[1], cotangents.shape[2]
    parameter = fixed.new_empty(width[::-1] if left else width)
    group = SharedFactors(3, parameter, fixed, cotangents, terms, COUNT, left)
    dense = torch.zeros(COUNT, *parameter.shape, dtype=torch.float64)
    for term, cotangent in zip(terms, cotangents.double(), strict=True):
        product = cotangent.T @ fixed.double()
        dense[term] = product if left else product.T
    return group, dense


def by_rows(fixed, cotangent, *, left=True):
    width = fixed.shape[1], cotangent.shape[1]
    parameter = fixed.new_empty(width[::-1] if left else width)
    owners = Owners(OWNERS, COUNT, CPU)
    group = SegmentFactors(3, parameter, fixed, cotangent, owners, left, loan(None, []))
    dense = torch.zeros(COUNT, *parameter.shape, dtype=torch.float64)
    for row, term in enumerate(owners.of_rows.tolist()):
        product = torch.outer(cotangent[row].double(), fixed[row].double())
        dense[term] += product if left else product.T
    return group, dense


def made(kind, left, moving=MOVING):
    torch.manual_seed(0)
    fixed = torch.randn(ROWS, FIXED, dtype=torch.float64)
    if kind == "shared":
        return shared(fixed, torch.randn(2, ROWS, moving, dtype=torch.float64), left=left)
    return by_rows(fixed, torch.randn(ROWS, moving, dtype=torch.float64), left=left)


@pytest.mark.parametrize("kind", ["shared", "by rows"])
@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("moving", [MOVING, 1])
def test_every_answer_is_that_of_the_gradients(kind, left, moving):
    group, dense = made(kind, left, moving)
    flat = dense.flatten(1)
    weights = torch.tensor([0.5, 7.0, -2.0], dtype=torch.float64)

    def same(found, wanted):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-10)

    same(group.products(), flat @ flat.T)
    same(group.sums(), flat.sum(1))
    same(group.combined(weights)[0], torch.tensordot(weights, dense, 1))
    same(group.rows()[0], dense)
    same(group.products(torch.float64), flat @ flat.T)
    assert [group.vanishes(term) for term in range(COUNT)] == [False, True, False]
    for term in (0, 2):
        same(group.gradient(term)[0], dense[term])


def test_products_by_rows_are_those_of_rows_with_rows():
    group, dense = made("by rows", True)
    flat = dense.flatten(1)
    torch.testing.assert_close(group._products_of_rows(None), flat @ flat.T, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("kind", ["shared", "by rows"])
@pytest.mark.parametrize("left_over", [1.0, 1e-2, 1e-4])
def test_gradients_that_all_but_cancel_in_single_precision(kind, left_over):
    """Near an optimum the rows of a batch add up to little: sums of products lose it twice."""
    torch.manual_seed(0)
    fixed = torch.randn(ROWS, 20) @ torch.randn(20, 300)
    basis = torch.linalg.qr(fixed.double())[0][:, :20].float()
    cotangents = torch.randn(2, ROWS, 200)
    if kind == "by rows":
        cotangents[:, 40:] = 0
        fixed[40:], basis = 0, torch.linalg.qr(fixed[:40].double())[0][:, :20].float()
        cotangents[:, :40] -= (1 - left_over) * basis @ (basis.T @ cotangents[:, :40])
        group, dense = by_rows(fixed, cotangents[0])
    else:
        cotangents[0] -= (1 - left_over) * basis @ (basis.T @ cotangents[0])
        group, dense = shared(fixed, cotangents)
    flat = dense.flatten(1)
    wanted = flat @ flat.T
    scale = wanted.diagonal().sqrt().clamp_min(1e-30)
    for found in (total_products([group], COUNT, CPU), torch.diag(squared_norms([group])[0])):
        error = (found - wanted).abs() / scale / scale[:, None]
        assert float(error.diagonal().max()) < 1e-5
    error = (total_products([group], COUNT, CPU) - wanted).abs() / scale / scale[:, None]
    assert float(error.max()) < 1e-5


@pytest.mark.parametrize("kind", ["shared", "by rows"])
def test_addends_are_the_squares_that_rows_would_add_up_to_without_each_other(kind):
    group, _ = made(kind, True)
    rows = torch.arange(ROWS)
    if kind == "shared":
        sizes = (group._cotangents.square().sum(2) * group._fixed.square().sum(1)).sum(1)
        wanted = [float(sizes[0]), 0.0, float(sizes[1])]
    else:
        sizes = group._cotangent.square().sum(1) * group._fixed.square().sum(1)
        first = (rows >= 40) & (rows < 100)
        wanted = [float(sizes[first].sum()), 0.0, float(sizes[~first].sum())]
    assert group.addends().tolist() == pytest.approx(wanted, rel=1e-12)


def test_weights_that_half_precision_cannot_hold():
    """As where a loss scale of 65536 is taken out."""
    fixed = torch.ones(ROWS, 2, dtype=torch.float16)
    group, dense = by_rows(fixed, torch.full((ROWS, 2), 3e4, dtype=torch.float16))
    weights = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64) * 0.3 / 65536
    found = group.combined(weights)[0].double()
    torch.testing.assert_close(found, torch.tensordot(weights, dense, 1), rtol=1e-3, atol=0.0)
