"""What logits say of probabilities, to full precision at both ends.

A probability near 1 leaves nothing of ``1 - p``: in float32 it is 0 from a logit of 17 on. So the
losses here never subtract a probability from 1. All they need of a binary logit comes from one
exponential (:func:`binary`), and what they need of a softmax comes from one number for each class,
its *margin* (:func:`margin`): by how much the other classes together beat it,

    m_c = log(sum of exp(x_j) over j != c) - x_c,
    p_c = sigmoid(-m_c),  1 - p_c = sigmoid(m_c),  -log p_c = softplus(m_c).

A softmax loss is thereby a function of one binary logit, ``-m_c``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from lossproof.write.arguments import transformed
from lossproof.write.sweeping import Gradient

Tensor = torch.Tensor
OfMargin = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From margins to the loss of the class and its derivative in the margin."""


class Binary(NamedTuple):
    """What a binary logit says of its two outcomes."""

    p: Tensor
    """The probability of 1, sigmoid(x)."""
    q: Tensor
    """The probability of 0, sigmoid(-x)."""
    cost_1: Tensor
    """-log p, softplus(-x)."""
    cost_0: Tensor
    """-log q, softplus(x)."""


def binary(input: Tensor) -> Binary:
    """Both probabilities of a logit, and the negative logarithm of each."""
    if torch.compiler.is_compiling() and not transformed() and not _exporting():
        return Binary(*_BinaryWithDerivative.apply(input))  # type: ignore[no-untyped-call]
    return _binary(input)


def _binary(input: Tensor) -> Binary:
    # At 0 every line takes the branch of x >= 0, so that the derivatives there belong together;
    # those of abs and relu would not.
    negative = input < 0
    size = torch.where(negative, -input, input)
    small = torch.exp(-size)
    tail = torch.log1p(small)
    likelier = 1 / (1 + small)
    unlikelier = small * likelier
    return Binary(
        torch.where(negative, unlikelier, likelier),
        torch.where(negative, likelier, unlikelier),
        torch.where(negative, size, 0.0) + tail,
        torch.where(negative, 0.0, size) + tail,
    )


def _exporting() -> bool:
    """Whether the graph is to leave Python; it would lose the derivatives of a ``Function``."""
    exporting: bool = getattr(torch.compiler, "is_exporting", bool)()  # torch 2.6 does not tell
    return exporting


class _BinaryWithDerivative(torch.autograd.Function):
    """The same with derivatives that are products of p and q.

    What autograd derives from the operations one by one has more steps, and a compiled graph would
    take all of them.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor) -> tuple[Tensor, ...]:
        found = _binary(input)
        ctx.save_for_backward(found.p, found.q)
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        p, q = ctx.saved_tensors
        of_p, of_q, of_cost_1, of_cost_0 = grads
        slope: Tensor = (of_p - of_q) * p * q - of_cost_1 * q + of_cost_0 * p
        return slope


def binary_constant(input: Tensor) -> Binary:
    """The same in half the time, in fresh memory, for where no derivative is taken."""
    tail = input.abs().neg_().exp_().log1p_()
    cost_0 = torch.relu(input).add_(tail)
    cost_1 = tail.sub_(input.clamp_max(0))
    return Binary(torch.sigmoid(input), input.neg().sigmoid_(), cost_1, cost_0)


def power(probability: Tensor, cost: Tensor, exponent: float) -> Tensor:
    """A probability to a power, of which also the derivatives stay finite as it goes to 0.

    Args:
        probability: the probability.
        cost: its negative logarithm.
        exponent: not negative.
    """
    if exponent == 0:
        return torch.ones_like(probability)
    if exponent == 1:
        return probability
    if exponent == 2:
        return probability.square()
    return torch.exp(-exponent * cost)  # the derivative of p ** 0.5 at p = 0 is infinite


def class_numbers(input: Tensor, dtype: torch.dtype = torch.int64) -> Tensor:
    r"""0 to C - 1 along the class axis of (N, C, \*)."""
    numbers = torch.arange(input.shape[1], dtype=dtype, device=input.device)
    return numbers.view(-1, *[1] * (input.ndim - 2))


def one_hot(label: Tensor, input: Tensor) -> Tensor:
    r"""Which class each label is: (N, \*) to bool, (N, C, \*)."""
    return label.unsqueeze(1) == class_numbers(input, label.dtype)


def margin(input: Tensor, label: Tensor) -> Tensor:
    r"""By how much the other classes together beat the label's: (N, C, \*) to (N, \*)."""
    is_label = one_hot(label, input)
    lead = input - input.detach().amax(1, keepdim=True)
    others = torch.where(is_label, 0.0, torch.exp(lead)).sum(1)
    return _log(others) - torch.where(is_label, lead, 0.0).sum(1)


def margins(input: Tensor) -> Tensor:
    r"""The margin of every class, (N, C, \*)."""
    lead = input - input.detach().amax(1, keepdim=True)
    share = torch.exp(lead)
    is_top = lead == 0
    top = torch.where(is_top, share, 0.0).sum(1, keepdim=True)
    below = torch.where(is_top, 0.0, share).sum(1, keepdim=True)
    # The likeliest class is taken from itself first: what is left is 0, and no rounded 1 - p.
    return _log(below + (top - share)) - lead


def _log(others: Tensor) -> Tensor:
    """The logarithm of a sum that may underflow: the class then costs less than can be written."""
    return others.clamp_min(torch.finfo(others.dtype).tiny).log()


def cost_of_label(margin: Tensor) -> Tensor:
    """-log p of the label, softplus(m): cross entropy."""
    return -torch.nn.functional.logsigmoid(-margin)


def cross_entropy_gradient(margin: Tensor) -> tuple[Tensor, Tensor]:
    """The same and its derivative in the margin, 1 - p."""
    label = binary_constant(-margin)
    return label.cost_1, label.q


def margin_gradient(of_margin: OfMargin) -> Gradient:
    """From logits and labels to the values and their derivative in the logits.

    The derivative of the margin is written out: it is the softmax over the other classes, and -1
    for the class itself.

    Args:
        of_margin: the values and their derivative in the margin.
    """

    def values_and_gradient(input: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        place = label.unsqueeze(1)
        lead = input - input.amax(1, keepdim=True)
        own = lead.gather(1, place)
        share = lead.exp_().scatter_(1, place, 0.0)
        others = share.sum(1, keepdim=True).clamp_min_(torch.finfo(share.dtype).tiny)
        values, slope = of_margin(others.log().sub_(own))
        share.mul_(slope / others).scatter_(1, place, -slope)
        return values.squeeze(1), share

    return values_and_gradient
