"""Tensors that a function uses without being given them: parameters it closes over.

A function that is run inside of an ``autograd.Function`` loses the way to what it closes over: its
gradient would silently stay away. So the graph of one run is read, and what it leads to is given to
the ``autograd.Function`` as an input like the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from lossproof.errors import UnsupportedGraphError

Tensor = torch.Tensor


def now() -> int:
    """A mark in time: the nodes of the graph that are made from here on have a higher number."""
    number: int = torch._C._autograd._get_sequence_nr()
    return number


def captured_leaves(
    outputs: Iterable[Tensor], known: Iterable[Tensor], since: int, role: str
) -> list[Tensor]:
    """The leaves that require a gradient, lead to the outputs and were not given.

    Args:
        outputs: what the function returned, with gradients enabled.
        known: the tensors that it was given.
        since: :func:`now`, before the function ran.
        role: what the function is called in an error, such as "`pair_fn`".

    Raises:
        UnsupportedGraphError: the function closes over a tensor that was itself computed from
            others that require a gradient: that part of the graph lies outside of the function.
    """
    seen: set[Any] = set()
    given = {id(tensor) for tensor in known}
    found: dict[int, Tensor] = {}
    waiting = [output.grad_fn for output in outputs if output.grad_fn is not None]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)  # only an AccumulateGrad has one
        if leaf is not None:
            if id(leaf) not in given:
                found[id(leaf)] = leaf
            continue
        if node._sequence_nr() < since:
            raise UnsupportedGraphError(
                f"{role} uses a tensor that was computed from others outside of it (by "
                f"{node.name()}), so their gradients could not be found: give it that tensor as an "
                "argument, or compute it inside"
            )
        waiting += [following for following, _ in node.next_functions if following is not None]
    return list(found.values())
