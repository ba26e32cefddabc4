"""GradDrop: at each coordinate one sign survives, drawn at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.named_numbers import NamedNumbers
from lossproof.terms.balance.random_stream import RandomStream
from lossproof.terms.gradients import TermGradients, Want
from lossproof.write.arguments import number

Tensor = torch.Tensor


class GradDrop(Balancer):
    r"""Gradient sign dropout: at each coordinate the gradients of one sign are dropped.

    .. math::
        P = \frac12 \Bigl( 1 + \frac{\sum_k g_k}{\sum_k |g_k|} \Bigr), \qquad
        M_k = [P > U] \, [g_k > 0] + [P < U] \, [g_k < 0], \qquad U \sim \mathcal U(0, 1)

    .. math:: \Delta = \sum_k (\ell_k + (1 - \ell_k) M_k) \, g_k

    coordinate by coordinate. Where all signs agree nothing is dropped; else the sign with the
    larger sum is the likelier to stay, and in expectation the step grows with the conflict instead
    of shrinking. It depends on the parametrisation, and balances no magnitudes. The weights that
    are told are ones: the step is the plain sum, of which something is dropped.

    This is the rule on the gradients of the parameters, as in TorchJD. The paper (and LibMTL) also
    applies it to the gradients of a layer's activations, summed over the batch after a product with
    the activations' signs.

    Args:
        names: the names of the terms, in their order. Without them they are taken from the first
            step.
        leak: the part of a term's gradient that is never dropped, from 0 to 1: one number, or a
            mapping from the name of each term.
        seed: of the method's own generator, whose state is in the checkpoint.

    Raises:
        TypeError: an option is of the wrong type.
        ValueError: a number is out of range, or a term has none.

    Example:
        >>> import torch
        >>> from lossproof.terms import GradDrop
        >>> x = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> _ = GradDrop().backward({"a": 3 * x[0] + x[1], "b": x[1] - x[0]}, [x])
        >>> x.grad.tolist() in ([3.0, 2.0], [-1.0, 2.0])
        True

    Source:
        Chen, Ngiam, Huang, Luong, Kretzschmar, Chai and Anguelov (2020), Just pick a sign:
        optimizing deep multitask models with gradient sign dropout, NeurIPS, algorithm 1.
    """

    needs: ClassVar[tuple[Want, ...]] = ("gradients",)

    def __init__(
        self,
        names: Sequence[str] | None = None,
        *,
        leak: float | Mapping[str, float] = 0.0,
        seed: int = 0,
    ) -> None:
        given, default = (leak, 0.0) if isinstance(leak, Mapping) else (None, leak)
        number("leak", default, minimum=0, maximum=1)
        self.leak = leak
        self.leaks = NamedNumbers("leak", given, default=default, minimum=0)
        for name, part in (self.leaks.given or {}).items():
            number(f"leak[{name!r}]", part, maximum=1)
        super().__init__(names)
        self.stream = RandomStream(seed)

    def initial_state(self, count: int) -> dict[str, Tensor]:
        self.leaks.fits(self.names or ())
        return {}

    def weights_of(self, figures: TermGradients) -> Tensor:
        return torch.ones_like(figures.values)

    def gradients_of(self, figures: TermGradients, weights: Tensor) -> dict[str, Tensor]:
        leak = self.leaks.of(figures.names, figures.values)
        # The stream is on the CPU; from one number of it each device draws its own.
        seed = int(torch.randint(2**62, (), generator=self.stream.generator))
        generators: dict[torch.device, torch.Generator] = {}
        found = {}
        for name, rows in figures.gradient_rows().items():
            if rows.device not in generators:
                generators[rows.device] = torch.Generator(rows.device).manual_seed(seed)
            found[name] = _dropped(rows, leak.to(rows.device), generators[rows.device])
        return found


def _dropped(rows: Tensor, leak: Tensor, generator: torch.Generator) -> Tensor:
    """The sum of the gradients of one parameter, without those of the sign that is dropped."""
    exact = torch.promote_types(rows.dtype, torch.float32)
    total = torch.zeros(rows.shape[1:], dtype=exact, device=rows.device)
    magnitude = torch.zeros_like(total)
    for row in rows:
        total += row
        magnitude += row.abs()
    purity = 0.5 * (1 + total / torch.where(magnitude > 0, magnitude, 1.0))
    drawn = torch.rand(total.shape, generator=generator, dtype=exact, device=rows.device)
    positive = purity > drawn
    step, whole = torch.zeros_like(total), torch.ones_like(leak[0])
    for row, part in zip(rows, leak, strict=True):
        step += row * torch.where((row > 0) == positive, whole, part).to(exact)
    return step.to(rows.dtype)
