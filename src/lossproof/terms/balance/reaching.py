"""Which terms depend on a parameter, for methods that let only those vote."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lossproof.terms.gradients import TermGradients

Tensor = torch.Tensor


def voting_rows(figures: TermGradients) -> Iterator[tuple[str, Tensor]]:
    """For each parameter the stacked gradients of the terms that depend on it, at least one.

    A head belongs to one term: that the others do not depend on it is no vote against its gradient.
    """
    unreached = {name: set(missing) for name, missing in figures.unreached.items()}
    for parameter, rows in figures.gradient_rows().items():
        voters = [k for k, name in enumerate(figures.names) if parameter not in unreached[name]]
        if len(voters) == len(rows):
            yield parameter, rows
        elif voters:
            yield parameter, rows[voters]
