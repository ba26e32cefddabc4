"""Which parameters a term depends on, for means that leave out the others."""

from __future__ import annotations

import torch

from lossproof.terms.gradients import TermGradients

Tensor = torch.Tensor


def reached(figures: TermGradients) -> Tensor:
    """1 where a term depends on a parameter and 0 where it does not, parameters x K.

    A layer that a term never meets says nothing about the size of its gradient.

    Example:
        >>> import torch
        >>> from lossproof.terms import term_gradients
        >>> from lossproof.terms.balance.reached import reached
        >>> head, trunk = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
        >>> reached(term_gradients({"a": trunk.sum(), "b": (2 * head).sum()}, [trunk, head]))
        tensor([[1., 0.],
                [0., 1.]], dtype=torch.float64)
    """
    unreached = figures.unreached
    unmet = [set(unreached[name]) for name in figures.names]
    return figures.values.new_tensor(
        [[float(name not in absent) for absent in unmet] for name in figures.parameters]
    )


def entries(figures: TermGradients) -> Tensor:
    """How many entries each parameter has, as a column."""
    return figures.values.new_tensor([[shape.numel()] for shape in figures.shapes])
