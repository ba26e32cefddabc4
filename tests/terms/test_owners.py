import torch

from lossproof.terms.owners import Owners

CPU = torch.device("cpu")


def owners():
    return Owners([(2, 1), (0, 2), (2, 2)], 4, CPU)


def test_the_rows_of_each_term():
    assert owners().of_rows.tolist() == [2, 0, 0, 2, 2]
    wanted = [[0, 1, 1, 0, 0], [0] * 5, [1, 0, 0, 1, 1], [0] * 5]
    assert owners().members(torch.float32).tolist() == wanted


def test_sums():
    rows = torch.arange(10.0, dtype=torch.float64).view(5, 2)
    assert owners().sums(rows).tolist() == [[6, 8], [0, 0], [14, 17], [0, 0]]


def test_a_row_that_is_not_finite_is_no_one_elses():
    rows = torch.ones(5, 2)
    rows[1, 0], rows[3, 1] = float("nan"), float("inf")
    found = owners().sums(rows)
    assert found[0, 0].isnan()
    assert found.nan_to_num(7.0, posinf=9.0).tolist() == [[7, 2], [0, 0], [3, 9], [0, 0]]


def test_parts():
    rows = torch.arange(5)
    assert [one.tolist() for (one,) in owners().parts(2, rows)] == [[0], [3, 4]]
    assert owners().parts(1, rows) == []
