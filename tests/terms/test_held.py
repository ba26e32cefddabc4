import pytest
import torch

from lossproof.terms.held import OfSingleTerms, Rows, SparseRows, total_products

CPU = torch.device("cpu")
WEIGHTS = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)


def answers(group, dense):
    """Whether a group says of its gradients what they are: K stacked for each parameter."""
    flat = torch.cat([one.reshape(3, -1) for one in dense], 1)
    products = flat @ flat.mH
    torch.testing.assert_close(group.products(), products.real, rtol=1e-12, atol=1e-12)
    for found, wanted in zip(group.combined(WEIGHTS), dense, strict=True):
        whole = found.to_dense() if found.is_sparse else found
        combined = torch.tensordot(WEIGHTS.to(wanted), wanted, 1)
        torch.testing.assert_close(whole, combined, rtol=1e-12, atol=1e-12)
    for found, wanted in zip(group.rows(), dense, strict=True):
        assert torch.equal(found, wanted)
    for term in range(3):
        assert group.vanishes(term) is not bool(flat[term].any())


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_rows(dtype):
    shapes = ((2, 3), (4,), ())
    dense = [torch.randn(3, *shape, dtype=dtype) for shape in shapes]
    dense[1][0] = 0
    for one in dense:
        one[2] = 0
    parameters = [one[0] for one in dense]
    size = 11 * (2 if dtype.is_complex else 1)
    group = Rows([0, 1, 2], parameters, torch.full((3, size), 7.0, dtype=torch.float64))
    group.fill(0, [dense[0][0], None, dense[2][0]])
    turned = dense[0][1].T.contiguous().T
    group.fill(1, [turned, dense[1][1], dense[2][1]])
    group.fill(2, [None, None, None])
    answers(group, dense)


def test_rows_of_matrices_that_lie_turned():
    dense = [torch.randn(3, 2, 3, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)]
    group = Rows([0, 1], [one[0] for one in dense], torch.empty(3, 10, dtype=torch.float64))
    for term in range(3):
        matrix = dense[0][term]
        group.fill(term, [matrix.T.contiguous().T if term != 1 else matrix, dense[1][term]])
    answers(group, dense)
    assert group.rows()[0][0].mT.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_of_single_terms(dtype):
    parts = [
        torch.randn(2, 2, dtype=dtype),
        torch.randn(3, dtype=dtype),
        torch.randn(1, dtype=dtype),
    ]
    dense = [torch.zeros(3, *part.shape, dtype=dtype) for part in parts]
    for one, part, term in zip(dense, parts, (1, 0, 1), strict=True):
        one[term] = part
    answers(OfSingleTerms([4, 5, 6], parts, [1, 0, 1], 3), dense)


def test_a_half_precision_gradient_times_a_small_weight():
    part = torch.tensor([3e4], dtype=torch.float16)
    weight = torch.tensor([0.3 / 65536], dtype=torch.float64)
    (found,) = OfSingleTerms([0], [part], [0], 1).combined(weight)
    assert found.dtype == torch.float16
    assert float(found) == pytest.approx(3e4 * 0.3 / 65536, rel=1e-3)


def sparse(rows, values):
    at = torch.tensor([rows])
    return torch.sparse_coo_tensor(at, torch.tensor(values).double(), (4, 2), check_invariants=True)


FIRST = sparse([1, 1, 3], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
SECOND = sparse([0, 3], [[7.0, 8.0], [9.0, 1.0]])
FULL = torch.arange(8.0, dtype=torch.float64).view(4, 2)


@pytest.mark.parametrize(
    "gradients",
    [(FIRST, SECOND, None), (FIRST, FULL, SECOND), (FULL, None, FIRST), (None, FULL, FULL)],
)
def test_sparse_gradients_among_others(gradients):
    like = torch.zeros(4, 2, dtype=torch.float64)
    dense = torch.stack([like if one is None else one.to_dense() for one in gradients])
    group = SparseRows(0, gradients, like)
    answers(group, [dense])
    found = group.combined(WEIGHTS)[0]
    assert found.is_sparse is all(one is None or one.is_sparse for one in gradients)


def test_products_beyond_single_precision():
    matrix = torch.tensor([[1e-25, 1e-25], [1e24, -1e24], [0.0, 0.0]])
    group = Rows([0], [matrix[0]], matrix)
    found = total_products([group, group], 3, CPU)
    wanted = 2 * matrix.double() @ matrix.double().T
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-60)
