"""A loss of another library beside ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

Tensor = torch.Tensor

MEAN_HERE = ("no items",)
"""Not asked where our own lines take the mean of what a library gives item by item."""
JOINED_HERE = ("wrong shapes",)
"""Not asked where our own lines join two inputs before a library sees them, or two calls."""


@dataclass(frozen=True)
class Peer:
    """A copy of one of our losses in another library.

    Both callables take the same tensors, those of ``inputs``, and give a scalar. What is of the
    library is imported when it is first called (``imported.py``), so that this table can be read
    where it is not installed.
    """

    loss: str
    """The name in our catalogue, such as ``"dice_loss"``."""
    library: str
    """The distribution, such as ``"monai"``."""
    name: str
    """The call in that library as a user would write it, such as ``"DiceLoss(softmax=True)"``."""
    ours: Callable[..., Tensor]
    theirs: Callable[..., Tensor]
    inputs: str
    """The inputs, as a specification: ``"input float[4,3,16]; target int[4,16]<3"``."""
    difference: str | None = None
    """Why the values differ, where they do; without it they must agree to 1e-6."""
    not_asked: tuple[str, ...] = ()
    """Checks that would try our own lines in ``theirs``, and not the library."""
    only_compared: bool = False
    """Whether the inputs are made to show how the values differ, and nothing else is tried."""
