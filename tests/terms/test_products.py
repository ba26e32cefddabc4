import pytest
import torch

from lossproof.terms.products import BLOCK, PANEL, out_of_range, products_of_rows


def test_ten_million_columns_lose_no_digits():
    generator = torch.Generator().manual_seed(0)
    rows = 1 + torch.rand(2, 10_000_019, generator=generator)
    found = products_of_rows(rows)
    wanted = torch.zeros(2, 2, dtype=torch.float64)
    for part in rows.split(1 << 20, 1):
        wanted += part.double() @ part.double().T
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted, rtol=2e-7, atol=0.0)


@pytest.mark.parametrize("columns", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, PANEL + BLOCK + 3])
def test_no_column_is_left_out(columns):
    rows = torch.randn(3, columns, dtype=torch.float64)
    torch.testing.assert_close(products_of_rows(rows), rows @ rows.T, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_added_up_in_single(dtype):
    rows = torch.full((2, 100_000), 3.0, dtype=dtype)
    assert products_of_rows(rows).tolist() == [[900_000.0] * 2] * 2


def test_in_double_where_float32_ends():
    rows = torch.tensor([[1e-30, 2e-30], [1e25, 0.0]])
    found = products_of_rows(rows, torch.float64)
    wanted = rows.double() @ rows.double().T
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0.0)


def test_out_of_range():
    squares = torch.tensor([0.0, 1e-30, 1.0, -1.0, 1e35, float("inf"), float("nan")])
    assert out_of_range(squares).tolist() == [True, True, False, False, True, True, True]
