"""An honest gradient for what has none: declared surrogates.

A metric that counts (accuracy, a rank, a word error rate) is flat almost everywhere, so its
gradient is zero and training stands still. A surrogate keeps the metric as the *value* and takes
the gradient from something else, and says so: :func:`lossproof.check` knows declared surrogates,
and does not take them for wrong gradients.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch

from lossproof.write.arguments import integer, number, tensor
from lossproof.write.items import over_items

Tensor = torch.Tensor
Function = Callable[..., Tensor]


def straight_through(hard: Function, soft: Function) -> Function:
    r"""The value of one function with the gradient of another.

    .. math::
        f(x) = \text{hard}(x) \qquad \nabla f(x) := \nabla \text{soft}(x)

    Args:
        hard: what is wanted, such as an accuracy, or a rounding inside a loss; it needs no
            gradient.
        soft: what it stands for, differentiable; called with the same arguments, it gives the same
            shape.

    Returns:
        A function of the same arguments. It works under ``torch.compile`` and ``torch.func``, and
        its second derivative is that of ``soft``.

    Raises:
        TypeError: an argument is no function.

    Calling the function raises:
        ValueError: the two results have different shapes.

    Example:
        >>> import torch
        >>> from lossproof.write import straight_through
        >>> errors = straight_through(
        ...     lambda score, label: ((score > 0) != (label > 0)).float().mean(),
        ...     lambda score, label: torch.sigmoid(-score * label).mean(),
        ... )
        >>> score = torch.tensor([2.0, -1.0], requires_grad=True)
        >>> value = errors(score, torch.tensor([1.0, 1.0]))
        >>> value
        tensor(0.5000, grad_fn=<...>)
        >>> torch.autograd.grad(value, score)
        (tensor([-0.0525, -0.0983]),)

    Source:
        Bengio, Leonard, Courville (2013), Estimating or propagating gradients through stochastic
        neurons for conditional computation.
    """
    for name, function in (("hard", hard), ("soft", soft)):
        if not callable(function):
            raise TypeError(f"`{name}` must be a function, got {function!r}")
    declared = Surrogate("straight-through", _name(hard), f"the gradient is that of {_name(soft)}")

    @functools.wraps(hard)
    def loss(*args: Any, **options: Any) -> Tensor:
        value = soft(*args, **options)
        if _met(declared):
            return value
        with torch.no_grad():
            wanted = hard(*args, **options)
        if wanted.shape != value.shape:
            raise ValueError(
                f"`hard` and `soft` must give the same shape, got {list(wanted.shape)} and "
                f"{list(value.shape)}"
            )
        compiling = torch.compiler.is_compiling()
        function = _StraightThrough if compiling else _StraightThroughForward
        result: Tensor = function.apply(  # type: ignore[no-untyped-call]
            wanted.detach().to(value.dtype), value
        )
        return result

    return loss


class _StraightThrough(torch.autograd.Function):
    """Gives the first, differentiates the second."""

    generate_vmap_rule = True

    @staticmethod
    def forward(hard: Tensor, soft: Tensor) -> Tensor:
        return hard.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """There is nothing to remember."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad


class _StraightThroughForward(_StraightThrough):
    """The same with forward mode, which a compiled graph cannot hold."""

    @staticmethod
    def jvp(ctx: Any, hard: Tensor | None, soft: Tensor) -> Tensor:
        return soft.clone()


def perturbed(
    function: Function,
    sigma: float = 0.1,
    samples: int = 16,
    *,
    generator: torch.Generator | None = None,
) -> Function:
    r"""The mean of a function over Gaussian noise on its first input, which has a gradient.

    .. math::
        f_\sigma(x) = \mathbb{E}\, f(x + \sigma z), \qquad
        \nabla f_\sigma(x) = \mathbb{E}\, \frac{f(x + \sigma z) - f(x - \sigma z)}{2 \sigma} \, z,
        \qquad z \sim \mathcal{N}(0, I)

    Both means are estimated with the same pairs :math:`\pm z`. The function is not differentiated:
    it may count, sort, or leave PyTorch. The error of the gradient falls with the root of
    ``samples``. Where the function gives one value for each item, each is differentiated by the
    noise of its own item alone, which has far less variance than one number for the batch.

    Args:
        function: the metric; its first argument is a floating-point tensor.
        sigma: the standard deviation of the noise, in the unit of the first input.
        samples: how many pairs of noise are drawn; the function runs twice as often.
        generator: what the noise is drawn from; without it, the default of the device.

    Returns:
        A function of the same arguments. It gives the estimate of :math:`f_\sigma`. It cannot be
        differentiated twice.

    Raises:
        TypeError: an argument has another type.
        ValueError: ``sigma`` is not positive, or ``samples`` is less than 1.

    Calling the function raises:
        TypeError: the first input is no floating-point tensor.
        ValueError: the function gives a shape that the first input does not begin with.

    Example:
        >>> import torch
        >>> from lossproof.write import perturbed
        >>> step = perturbed(lambda x: (x > 0).float(), sigma=1.0, samples=4000,
        ...                  generator=torch.Generator().manual_seed(0))
        >>> x = torch.zeros(1, requires_grad=True)
        >>> step(x).sum().backward()
        >>> x.grad.round(decimals=1)  # the density of the normal distribution at 0, 0.399
        tensor([0.4000])

    Source:
        Nesterov, Spokoiny (2017), Random gradient-free minimization of convex functions; Berthet et
        al. (2020), Learning with differentiable perturbed optimizers.
    """
    if not callable(function):
        raise TypeError(f"`function` must be a function, got {function!r}")
    sigma = number("sigma", sigma, above=0)
    integer("samples", samples, minimum=1)
    if not isinstance(generator, torch.Generator | None):
        raise TypeError(f"`generator` must be a torch.Generator, got {generator!r}")
    declared = Surrogate(
        "perturbed", _name(function), f"the gradient is estimated with noise of {sigma:g}"
    )

    @functools.wraps(function)
    def loss(input: Tensor, *args: Any, **options: Any) -> Tensor:
        tensor("input", input)
        _met(declared)
        noise = [
            torch.randn(input.shape, dtype=input.dtype, device=input.device, generator=generator)
            for _ in range(samples)
        ]

        def metric(point: Tensor) -> Tensor:
            return function(point, *args, **options)

        value: Tensor = _Perturbed.apply(  # type: ignore[no-untyped-call]
            metric, sigma, torch.is_grad_enabled(), input, *noise
        )
        return value

    return loss


class _Perturbed(torch.autograd.Function):
    """The mean over pairs of perturbations, with the gradient that follows from the same pairs."""

    @staticmethod
    def forward(
        ctx: Any,
        metric: Function,
        sigma: float,
        with_gradient: bool,
        input: Tensor,
        *noise: Tensor,
    ) -> Tensor:
        total, slope = None, torch.zeros_like(input)
        for z in noise:
            up, down = metric(input + sigma * z), metric(input - sigma * z)
            if tuple(up.shape) != tuple(input.shape[: up.ndim]):
                raise ValueError(
                    "`function` must give one number, or one for each item: a shape that "
                    f"{list(input.shape)} begins with, got {list(up.shape)}"
                )
            up, down = up.to(input.dtype), down.to(input.dtype)
            total = up + down if total is None else total + up + down
            if with_gradient:
                slope += over_items((up - down) / (2 * sigma), z) * z
        ctx.save_for_backward(slope / len(noise))
        ctx.noises = len(noise)
        assert total is not None
        return total / (2 * len(noise))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return None, None, None, over_items(grad, slope) * slope, *[None] * ctx.noises


def _name(function: Function) -> str:
    return getattr(function, "__name__", type(function).__name__)


@dataclass(frozen=True)
class Surrogate:
    """A gradient that is declared not to be the derivative of its value."""

    kind: str
    """``"straight-through"`` or ``"perturbed"``."""
    function: str
    """Whose value it has."""
    gradient: str
    """Where its gradient comes from, in words."""

    def __str__(self) -> str:
        return f"{self.kind} `{self.function}`: {self.gradient}"


@dataclass
class SurrogatesMet:
    """The declared surrogates that a call went through, and whether they give their soft values."""

    soft: bool
    surrogates: list[Surrogate] = field(default_factory=list)


_WATCHED: ContextVar[SurrogatesMet | None] = ContextVar("surrogates", default=None)


@contextmanager
def surrogates_met(*, soft: bool = False) -> Iterator[SurrogatesMet]:
    """Collect the surrogates that calls in this context go through.

    Args:
        soft: whether they give the value that their gradient belongs to, so that value and gradient
            agree and everything around them can be checked. (What is perturbed has no other value.)
    """
    met = SurrogatesMet(soft)
    token = _WATCHED.set(met)
    try:
        yield met
    finally:
        _WATCHED.reset(token)


def _met(surrogate: Surrogate) -> bool:
    """Note that a call goes through this surrogate; whether its soft value is wanted."""
    if torch.compiler.is_compiling():
        return False
    watched = _WATCHED.get()
    if watched is None:
        return False
    if surrogate not in watched.surrogates:
        watched.surrogates.append(surrogate)
    return watched.soft
