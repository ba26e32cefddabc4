"""Hooks of a tensor, and gradients that are only looked at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

Tensor = torch.Tensor


@contextmanager
def hooks_held_back(leaves: Iterable[Tensor]) -> Iterator[None]:
    """Inside, the hooks of these leaves do not see their gradients.

    ``torch.autograd.grad`` runs the hooks of the tensors it differentiates in. Where a gradient is
    found in parts, or is only looked at, that is none of the hooks' business: they are run once, on
    the gradient that fills ``.grad``, as in plain training.
    """
    hooks = [leaf._backward_hooks for leaf in leaves if leaf._backward_hooks]
    held = [dict(one) for one in hooks]
    for one in hooks:
        one.clear()
    try:
        yield
    finally:
        for one, kept in zip(hooks, held, strict=True):
            one.update(kept)
