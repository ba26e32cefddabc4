"""For each term the others in a random order: the order of methods that compare pair by pair."""

from __future__ import annotations

import torch

Tensor = torch.Tensor


def shuffled_pairs(count: int, generator: torch.Generator) -> Tensor:
    """For each of ``count`` terms all others, each row in a random order of its own.

    Args:
        count: K, the number of terms.
        generator: what is drawn from, on the CPU.

    Returns:
        Positions, K x (K - 1).

    Example:
        >>> import torch
        >>> from lossproof.terms.balance.shuffled_pairs import shuffled_pairs
        >>> shuffled_pairs(3, torch.Generator().manual_seed(0)).sort(dim=1).values
        tensor([[1, 2],
                [0, 2],
                [0, 1]])
    """
    keys = torch.rand(count, count, generator=generator, dtype=torch.float64)
    keys.fill_diagonal_(2.0)  # a term comes last among its own, and is cut off
    return keys.argsort(dim=1)[:, :-1]
