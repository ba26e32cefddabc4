"""Weights by tensor operations alone, so that a compiled step holds them, too.

Between two graphs a solver in numpy takes as long as half a step of a small network. What is here
does the same for few terms that are not nearly dependent, and says whether it did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.upgrad import UPGrad

Tensor = torch.Tensor
Solve = Callable[[Tensor], tuple[Tensor, Tensor]]

MOST_TERMS = 8
"""Elimination is written out for each entry, in each guess: for more terms it is long code."""
_GUESSES = 4
_LEAST_PIVOT = 1e-4
_ROUNDING = 4.0 * torch.finfo(torch.float64).eps


def solver_in_graph(balancer: Balancer, names: Sequence[str]) -> Solve | None:
    """What computes the weights of a balancer within a graph, if there is such a thing.

    Args:
        balancer: the balancer.
        names: the names of the terms.

    Returns:
        A function from the Gramian to the weights and to whether they are right; where they are
        not, the balancer is asked.
    """
    if type(balancer) is not UPGrad or not 2 <= len(names) <= MOST_TERMS:
        return None
    preference = balancer.preference.shares(names)

    def solve(gramian: Tensor) -> tuple[Tensor, Tensor]:
        return _upgrad(gramian, gramian.new_tensor(preference))

    return solve


def _upgrad(gramian: Tensor, preference: Tensor) -> tuple[Tensor, Tensor]:
    """UPGrad: each gradient is raised by those it opposes, in units of its own length."""
    own = torch.eye(len(gramian), dtype=torch.bool, device=gramian.device)
    norms = torch.where(own, gramian, 0.0).sum(0).clamp_min(0.0).sqrt()
    reached = norms > 0
    lengths = torch.where(reached, norms, 1.0)
    cosines = gramian / lengths[:, None] / lengths
    raised, solved = _raised(torch.where(own, 1.0, cosines))
    lifts = (preference * lengths * reached) @ raised
    return preference + lifts / lengths * reached, solved & gramian.isfinite().all()


def _raised(cosines: Tensor) -> tuple[Tensor, Tensor]:
    r"""For each i the :math:`y \ge 0` that makes :math:`(e_i + y)^\top C (e_i + y)` least.

    The positive entries are guessed, the equations solved, and all entries exchanged that turn out
    to be wrong. In training few are, and rarely does it take more than two guesses.
    """
    positive = cosines < 0
    right, solution = torch.ones_like(positive[0, 0]), torch.zeros_like(cosines)
    for _ in range(_GUESSES):
        solution, least = _solved(cosines, positive)
        slope = solution @ cosines + cosines
        rounding = _ROUNDING * len(cosines) * solution.abs().amax(1, keepdim=True).clamp_min(1.0)
        wrong = torch.where(positive, solution < 0, slope < -rounding)
        right = ~wrong.any() & (least > _LEAST_PIVOT)
        positive = positive ^ wrong
    return solution, right


def _solved(cosines: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """The entries at which the slopes of the positive ones are zero, and the least pivot."""
    own = torch.eye(len(cosines), dtype=cosines.dtype, device=cosines.device)
    both = positive[:, :, None] & positive[:, None, :]
    system, right = torch.where(both, cosines, own), torch.where(positive, -cosines, 0.0)
    pivots = []
    for k, here in enumerate(own.unbind()):  # columns that are eliminated are left out
        pivots.append(system[:, k, 0])
        row, number = system[:, k, 1:] / pivots[k][:, None], right[:, k] / pivots[k]
        # Of row k itself (pivot - 1) times the new row is taken away, which leaves the new row.
        column = system[:, :, 0] - here
        system = system[:, :, 1:] - column[:, :, None] * row[:, None]
        right = right - column * number[:, None]
    return right, torch.stack(pivots).amin()
