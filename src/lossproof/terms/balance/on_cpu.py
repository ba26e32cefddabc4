"""Problems of K x K numbers, solved on the CPU whatever device the gradients are on.

An active set is found by looking at numbers. On an accelerator each look would wait for the device,
and a fixed number of iterations without a look would be dozens of kernels for a matrix that fits
into a few cache lines. So the matrix crosses once, K² numbers at each refresh of the weights, and
is solved in float64 by numpy, whose calls cost a third of torch's. In a compiled graph the whole
problem is one operator, which does not break the graph.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Tensor = torch.Tensor
Array = npt.NDArray[np.float64]

_SCHEMA = {
    "Array": "Tensor",
    "Sequence[float]": "float[]",
    "Sequence[int]": "int[]",
    "float": "float",
    "int": "int",
    "bool": "bool",
    "str": "str",
}
"""What the annotations are called in the signature of an operator."""


def on_cpu(solve: Callable[..., Array]) -> Callable[..., Tensor]:
    """Make a function of arrays one of tensors, in eager mode and in compiled graphs.

    Args:
        solve: takes an array of K rows, then other arrays and options, all annotated, and returns K
            new numbers.

    Returns:
        A function of tensors, whose result has the dtype and the device of the first.
    """
    operator = torch.library.custom_op(
        f"lossproof::{solve.__name__}",
        lambda *arguments: _solved(solve, arguments),
        mutates_args=(),
        schema=_schema(solve),
    )
    operator.register_fake(lambda first, *_: first.new_empty(first.shape[0]))

    @wraps(solve)
    def solved(*arguments: Any) -> Tensor:
        if torch.compiler.is_compiling():
            compiled: Tensor = operator(*arguments)
            return compiled
        return _solved(solve, arguments)

    return solved


def _schema(solve: Callable[..., Array]) -> str:
    parameters = inspect.signature(solve).parameters.values()
    typed = [f"{_SCHEMA[parameter.annotation]} {parameter.name}" for parameter in parameters]
    return f"({', '.join(typed)}) -> Tensor"


def _solved(solve: Callable[..., Array], arguments: Sequence[Any]) -> Tensor:
    arrays = [_array(one) if isinstance(one, Tensor) else one for one in arguments]
    return torch.from_numpy(solve(*arrays)).to(arguments[0])


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().to("cpu", torch.float64).numpy()
    return array
