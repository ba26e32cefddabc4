"""Blocks of a matrix fit into their budget, whatever its form."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from lossproof.speed.blocks import CPU_BUDGET, FEWEST, UNCUT, block_of

CPU = torch.device("cpu")


@given(rows=st.integers(1, 10**6), columns=st.integers(1, 10**6), pair_bytes=st.integers(1, 10**6))
def test_a_block_fits_into_the_budget_and_fills_half_of_it(rows, columns, pair_bytes):
    block = block_of((rows, columns), pair_bytes, CPU)
    most = max(CPU_BUDGET // pair_bytes, FEWEST**2)
    if block is None:
        assert rows * columns <= UNCUT * most
    else:
        assert block[0] <= rows and block[1] <= columns
        assert most / 2 - max(block) <= block[0] * block[1] <= most


def test_a_thin_matrix_has_thin_blocks():
    assert block_of((3, 10**7), 8, CPU) == (3, 349525)
    assert block_of((10**7, 3), 8, CPU) == (349525, 3)
    assert block_of((10**5, 10**5), 8, CPU) == (1024, 1024)


def test_an_accelerator_gets_larger_blocks():
    assert block_of((10**5, 10**5), 16, torch.device("meta")) == (2048, 2048)


def test_the_user_has_the_last_word():
    assert block_of((100, 30), 1 << 30, CPU, 64) == (64, 64)
    assert block_of((64, 30), 1 << 30, CPU, 64) is None
