"""Problems for numpy as functions of tensors: in eager mode, in graphs, and in any dtype."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tests.terms.balance.jacobians import jacobian

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.cagrad import CAGrad
from lossproof.terms.balance.fairgrad import FairGrad
from lossproof.terms.balance.mgda import MGDA
from lossproof.terms.balance.modo import MoDo
from lossproof.terms.balance.nash_mtl import NashMTL
from lossproof.terms.balance.on_cpu import Array, on_cpu
from lossproof.terms.balance.sdmgrad import SDMGrad
from lossproof.terms.balance.upgrad import DualProj, UPGrad


@on_cpu
def _rows_times(matrix: Array, factor: float, offset: int, kind: str) -> Array:
    assert matrix.dtype == np.float64
    return matrix.sum(1) * factor + offset + len(kind)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_result_is_like_the_first_argument(dtype: torch.dtype) -> None:
    found = _rows_times(torch.eye(3, dtype=dtype), 2.0, 1, "ab")
    assert found.dtype == dtype and found.tolist() == [5.0] * 3


@pytest.mark.parametrize(
    "method", [UPGrad, DualProj, MGDA, CAGrad, NashMTL, FairGrad, MoDo, SDMGrad]
)
def test_the_weights_in_one_graph(method: type[Balancer]) -> None:
    """As a part of a compiled step they do not break the graph, and are the same."""
    names = [f"term {k}" for k in range(4)]
    in_graph, eager = method(names), method(names)
    assert eager.names is not None
    matrix = torch.from_numpy(jacobian(0, len(eager.names), 9))

    def step(rows: torch.Tensor) -> torch.Tensor:
        return in_graph.weights_of(Figures(rows @ rows.T, in_graph.names)) + 0.0

    torch._dynamo.reset()
    found = torch.compile(step, fullgraph=True, backend="eager")(matrix)
    wanted = eager.weights_of(Figures(matrix @ matrix.T, eager.names))
    torch.testing.assert_close(found, wanted)


class Figures:
    """As much of the figures of a step as the weights are computed from."""

    def __init__(self, gramian: torch.Tensor, names: Sequence[str] | None):
        self.gramian, self.names = gramian, names
        self.values = gramian.new_ones(len(gramian))
