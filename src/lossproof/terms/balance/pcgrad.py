"""PCGrad and GradVac: gradients that conflict are changed pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.random_stream import RandomStream
from lossproof.terms.balance.shuffled_pairs import shuffled_pairs
from lossproof.terms.gradients import TermGradients, Want
from lossproof.write.arguments import number

Tensor = torch.Tensor

NEARLY_PARALLEL = 1 - 1e-6
"""To turn one gradient all the way into another takes infinitely much of it."""


class PCGrad(Balancer):
    r"""Projecting conflicting gradients: what of a gradient opposes another term is taken away.

    .. math::
        \sum_k w_k g_k = \sum_i g_i', \qquad
        g_i' \leftarrow g_i' - \frac{\min(\langle g_i', g_j \rangle, 0)}{\lVert g_j \rVert^2} \, g_j
        \quad \text{for all } j \ne i \text{ in a random order, from } g_i' = g_i

    The gradient :math:`g_j` is always the original one. With two terms no term is opposed by the
    step; with more a later projection may bring back a conflict that an earlier one removed, which
    :class:`UPGrad` avoids. Without a conflict all weights are 1, the plain sum; they are at least 1
    and sum to nothing fixed. A term without a gradient keeps the weight 1.

    The order is drawn for each term in each step, as in the paper, in TorchJD and in LibMTL. The
    authors' TensorFlow code draws one and does not use it, and ConFIG's PCGrad has none either:
    there the order of the terms decides. The changed gradients are added up, as in the paper.

    Args:
        names: the names of the terms, in their order. Without them they are taken from the first
            step.
        seed: of the method's own generator, whose state is in the checkpoint.
        every: the weights are computed anew in every n-th step.

    Raises:
        TypeError: an option is no integer.
        ValueError: an option is out of range.

    Example:
        >>> import torch
        >>> from lossproof.terms import PCGrad
        >>> x = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> step = PCGrad().backward({"a": x[0] - x[1], "b": x[1]}, [x])
        >>> step.weights, x.grad
        (tensor([1.5000, 2.0000], dtype=torch.float64), tensor([1.5000, 0.5000]))

    Source:
        Yu, Kumar, Gupta, Levine, Hausman and Finn (2020), Gradient surgery for multi-task learning,
        NeurIPS, algorithm 1.
    """

    needs: ClassVar[tuple[Want, ...]] = ("gramian",)

    def __init__(
        self, names: Sequence[str] | None = None, *, seed: int = 0, every: int = 1
    ) -> None:
        super().__init__(names, every=every)
        self.stream = RandomStream(seed)

    def weights_of(self, figures: TermGradients) -> Tensor:
        order = shuffled_pairs(len(figures.names), self.stream.generator)
        return projected(figures.gramian, order.to(figures.values.device))


class GradVac(Balancer):
    r"""Gradient vaccine: the cosine between two gradients is raised to what it is on average.

    .. math::
        g_i' \leftarrow g_i' + \lVert g_i' \rVert \,
        \frac{\hat\phi_{ij} \sqrt{1 - \phi_{ij}^2} - \phi_{ij} \sqrt{1 - \hat\phi_{ij}^2}}
        {\lVert g_j \rVert \sqrt{1 - \hat\phi_{ij}^2}} \, g_j
        \quad \text{where} \quad
        \phi_{ij} = \frac{\langle g_i', g_j \rangle}{\lVert g_i' \rVert \lVert g_j \rVert}
        < \hat\phi_{ij}

    for all j other than i in a random order, and then
    :math:`\hat\phi_{ij} \leftarrow (1 - \beta) \hat\phi_{ij} + \beta \phi_{ij}` whether or not it
    was changed. The step is :math:`\sum_i g_i'`. At first :math:`\hat\phi` is 0, which is
    :class:`PCGrad`. Terms whose cosine is usually high act on each other without a conflict: the
    weights are then above 1 and the step is longer. They are at least 1 and sum to nothing fixed. A
    term without a gradient keeps the weight 1, and the averages of its pairs.

    The paper compares layer by layer or for the whole model; this is the whole model, or what is
    measured (``on=``). The paper's beta is 0.01; LibMTL and TorchJD have 0.5. LibMTL updates the
    average of a pair only when its gradients are changed, so that it never rises above 0: there
    the method is a weaker PCGrad. An average above 1 - 1e-6 is taken as that.

    Args:
        names: the names of the terms, in their order. Without them they are taken from the first
            step.
        beta: the share of the new cosine in its average, from 0 to 1.
        seed: of the method's own generator, whose state is in the checkpoint.
        every: the weights are computed anew in every n-th step.

    Raises:
        TypeError: an option is no number.
        ValueError: an option is out of range.

    Example:
        >>> import torch
        >>> from lossproof.terms import GradVac
        >>> balancer = GradVac(beta=0.5)
        >>> x = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> for slope in (1.0, 0.0):  # the cosine is 0.71 at first, and then 0
        ...     step = balancer.backward({"a": x[0] + slope * x[1], "b": x[1]}, [x])
        ...     step.weights
        tensor([1., 1.], dtype=torch.float64)
        tensor([1.3780, 1.3780], dtype=torch.float64)

    Source:
        Wang, Tsvetkov, Firat and Cao (2021), Gradient vaccine: investigating and improving
        multi-task optimization in massively multilingual models, ICLR, algorithm 1.
    """

    needs: ClassVar[tuple[Want, ...]] = ("gramian",)
    target_cosine: Tensor
    """The average cosine of each pair, K x K; the diagonal means nothing."""

    def __init__(
        self,
        names: Sequence[str] | None = None,
        *,
        beta: float = 0.01,
        seed: int = 0,
        every: int = 1,
    ) -> None:
        super().__init__(names, every=every)
        self.beta = number("beta", beta, minimum=0, maximum=1)
        self.stream = RandomStream(seed)

    def initial_state(self, count: int) -> dict[str, Tensor]:
        return {"target_cosine": torch.zeros(count, count, dtype=torch.float64)}

    def weights_of(self, figures: TermGradients) -> Tensor:
        order = shuffled_pairs(len(figures.names), self.stream.generator)
        weights, self.target_cosine = vaccinated(
            figures.gramian, order.to(figures.values.device), self.target_cosine, self.beta
        )
        return weights


def projected(gramian: Tensor, order: Tensor) -> Tensor:
    """The weights of PCGrad, where each term meets the others in this order, K x (K - 1)."""
    norms, cosine = _norms_and_cosines(gramian)
    # Row i holds g_i' in units of the norm of g_i, as a combination of the unit gradients.
    parts = torch.eye(len(gramian), dtype=gramian.dtype, device=gramian.device)
    for others in order.T:
        dots = (parts * cosine[others]).sum(1)
        parts.scatter_add_(1, others[:, None], -dots.clamp_max(0.0)[:, None])
    return _weights(parts, norms)


def vaccinated(
    gramian: Tensor, order: Tensor, target: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """The weights of GradVac, and the averages of the cosines after this step."""
    norms, cosine = _norms_and_cosines(gramian)
    parts = torch.eye(len(gramian), dtype=gramian.dtype, device=gramian.device)
    target = target.clone()
    for others in order.T:
        at = others[:, None]
        length = (parts * (parts @ cosine)).sum(1).clamp_min(0.0).sqrt()
        both = (norms > 0) & (norms[others] > 0)
        inner = (parts * cosine[others]).sum(1)
        phi = (inner / torch.where(length > 0, length, 1.0)).clamp(-1.0, 1.0)
        average = target.gather(1, at)[:, 0]
        goal = average.clamp(-NEARLY_PARALLEL, NEARLY_PARALLEL)
        added = length * (goal * ((1 - phi**2) / (1 - goal**2)).sqrt() - phi)
        added = torch.where(both & (phi < goal), added, 0.0)
        parts.scatter_add_(1, at, added[:, None])
        moved = torch.where(both, (1 - beta) * average + beta * phi, average)
        target.scatter_(1, at, moved[:, None])
    return _weights(parts, norms), target


def _norms_and_cosines(gramian: Tensor) -> tuple[Tensor, Tensor]:
    """The norm of each gradient, and the cosines, which are 0 beside a gradient of zero."""
    norms = gramian.diagonal().clamp_min(0.0).sqrt()
    inverse = torch.where(norms > 0, 1 / norms, 0.0)
    return norms, (gramian * inverse[:, None] * inverse).clamp(-1.0, 1.0)


def _weights(parts: Tensor, norms: Tensor) -> Tensor:
    """From combinations of unit gradients to the weights of the gradients in their sum."""
    # Divided, not multiplied by an inverse: without a conflict the weights are 1 to the last bit.
    ratios = norms[:, None] / torch.where(norms > 0, norms, 1.0)
    # A gradient of zero is no part of any other, and all of itself.
    own = torch.diag((norms == 0).to(parts))
    return (parts * ratios + own).sum(0)
