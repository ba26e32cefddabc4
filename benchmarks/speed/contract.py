"""What a loss over a big output layer must stand, and which ways of computing it do.

Every way computes the mean cross entropy of hidden states under a weight (Liger's distillation loss
has one within it), in float64 and at a small size, and is asked the same questions. An answer is
`None` where it is right, else what happened.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

from benchmarks.speed.heads import IGNORED, cross_entropy_rows

ROWS, CLASSES, HIDDEN, CHUNK = 9, 7, 3, 4
CLOSE = 1e-5
"""Relative: what is a slip of the contract is larger than any rounding, float32's among them."""
EXACT = 1e-12
Loss = Callable[[Tensor, Tensor], Tensor]
"""From hidden states and a weight to the mean over the targets that count."""


def targets(ignored: bool = True) -> Tensor:
    target = torch.arange(ROWS) * 3 % CLASSES
    if ignored:
        target[::4] = IGNORED
    return target


def plain(hidden: Tensor, weight: Tensor) -> Tensor:
    return F.cross_entropy(hidden @ weight.T, targets(), ignore_index=IGNORED)


def given() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(  # type: ignore[return-value]
        torch.randn(n, HIDDEN, generator=generator, dtype=torch.float64).requires_grad_()
        for n in (ROWS, CLASSES)
    )


# ---- the ways


def of_chunk(*, compile: bool = False, rows: bool = False) -> Loss:
    """Ours; the weight is given as it is, so that no Module stands between."""
    from lossproof import chunk

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        made = chunk(
            cross_entropy_rows,
            weight,
            reduction="none" if rows else "mean",
            ignore_index=IGNORED,
            chunk_size=CHUNK,
            compile=compile,
        )
        values: Tensor = made(hidden, targets())
        return values.sum() / (targets() != IGNORED).sum() if rows else values

    return loss


def of_torch(*, retain: bool) -> Loss:
    options = nn.LinearCrossEntropyOptions(allow_retain_graph=retain, batch_chunk_size=CHUNK)

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return F.linear_cross_entropy(hidden, weight, targets(), options=options)

    return loss


def of_liger(hidden: Tensor, weight: Tensor) -> Tensor:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(1.0, 0.0, compiled=False, chunk_size=CHUNK)
    teacher = hidden.new_zeros(len(hidden), 1), weight.new_zeros(len(weight), 1)
    value: Tensor = loss(hidden, weight, *teacher, targets())
    return value


def of_liger_logarithms(hidden: Tensor, weight: Tensor) -> Tensor:
    from liger_kernel.chunked_loss import fused_linear_ppo

    function = fused_linear_ppo._ChunkedSelectiveLogProbFunction
    counts = targets() != IGNORED
    logarithms = function.apply(hidden, weight, targets().clamp(min=0), None, 1.0, 4)
    return -torch.where(counts, logarithms, 0.0).sum() / counts.sum()


def of_checkpoint(hidden: Tensor, weight: Tensor) -> Tensor:
    def total(part: Tensor, target: Tensor) -> Tensor:
        return cross_entropy_rows(part @ weight.T, target).sum()

    parts = zip(hidden.split(CHUNK), targets().split(CHUNK), strict=True)
    sums = [checkpoint(total, *part, use_reentrant=False) for part in parts]
    return torch.stack(sums).sum() / (targets() != IGNORED).sum()


WAYS: Mapping[str, Callable[[], Loss]] = {
    "eager": lambda: plain,
    "lossproof chunk": of_chunk,
    "lossproof chunk, compile=True": lambda: of_chunk(compile=True),
    "lossproof chunk, reduction='none'": lambda: of_chunk(rows=True),
    "torch linear_cross_entropy": lambda: of_torch(retain=False),
    "torch linear_cross_entropy, allow_retain_graph": lambda: of_torch(retain=True),
    "Liger chunked loop": lambda: of_liger,
    "Liger log-probabilities": lambda: of_liger_logarithms,
    "checkpoint of each chunk": lambda: of_checkpoint,
}


# ---- the questions


def wrong(found: Any, wanted: Any, bound: float = CLOSE) -> str | None:
    """The worst relative error, where it is above the bound."""
    if isinstance(found, Tensor):
        found, wanted = [found], [wanted]
    worst = max(
        float((f.double() - w.double()).norm() / w.double().norm())
        for f, w in zip(found, wanted, strict=True)
    )
    return None if worst <= bound else f"off by {worst:.1e}"


def _gradients(loss: Loss, factor: Callable[..., Any] = lambda value, *_: value) -> list[Tensor]:
    leaves = given()
    factor(loss(*leaves), *leaves).backward()
    return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]


def equal(loss: Loss) -> str | None:
    """Value and gradients in float64 are those of the plain loss, to 1e-12."""
    found, wanted = ([f(*given()).detach(), *_gradients(f)] for f in (loss, plain))
    return wrong(found, wanted, EXACT)


def scaled(loss: Loss) -> str | None:
    """Half of the loss has half of each gradient: a micro-batch of two."""
    found, wanted = (_gradients(f, lambda value, *_: 0.5 * value) for f in (loss, plain))
    return wrong(found, wanted)


def scaled_by_a_parameter(loss: Loss) -> str | None:
    """The loss times a factor that depends on the hidden states."""

    def factor(value: Tensor, hidden: Tensor, weight: Tensor) -> Tensor:
        return value * hidden.square().mean()

    found, wanted = (_gradients(f, factor) for f in (loss, plain))
    return wrong(found, wanted)


def grad_of_each(loss: Loss) -> str | None:
    """`autograd.grad` of the weight alone, and no `.grad` that nobody asked for."""
    leaves = given()
    value = loss(*leaves)
    if any(leaf.grad is not None for leaf in leaves):
        return "writes `.grad` in forward"
    (found,) = torch.autograd.grad(value, leaves[1])
    if any(leaf.grad is not None for leaf in leaves):
        return "writes `.grad`"
    return wrong(found, _gradients(plain)[1])


def backward_twice(loss: Loss) -> str | None:
    """`retain_graph`: the second backward, with another factor, adds the right gradient."""
    leaves = given()
    value = loss(*leaves)
    (0.5 * value).backward(retain_graph=True)
    (2.0 * value).backward()
    found = [leaf.grad for leaf in leaves]
    return wrong(found, [2.5 * g for g in _gradients(plain)])


def checked(loss: Loss) -> str | None:
    """`torch.autograd.gradcheck`."""
    gradcheck(loss, given())
    return None


def checked_twice(loss: Loss) -> str | None:
    """`torch.autograd.gradgradcheck`."""
    gradgradcheck(loss, given())
    return None


def _products(loss: Loss) -> list[Tensor]:
    hidden, weight = given()
    first = torch.autograd.grad(loss(hidden, weight), (hidden, weight), create_graph=True)
    vectors = [torch.linspace(-1, 1, g.numel()).to(g).view_as(g) for g in first]
    along = sum((g * v).sum() for g, v in zip(first, vectors, strict=True))
    return list(torch.autograd.grad(along, (hidden, weight)))


def hessian(loss: Loss) -> str | None:
    """A Hessian-vector product."""
    return wrong(_products(loss), _products(plain))


def second_order_of_square(loss: Loss) -> str | None:
    """A gradient penalty on the square of the loss, whose gradient has the loss as a factor."""
    found, wanted = (_products(lambda h, w, f=f: f(h, w) ** 2) for f in (loss, plain))
    return wrong(found, wanted)


def functional(loss: Loss) -> str | None:
    """`torch.func.grad`."""
    leaves = [leaf.detach() for leaf in given()]
    found = torch.func.grad(loss, argnums=(0, 1))(*leaves)
    return wrong(found, _gradients(plain))


def forward_mode(loss: Loss) -> str | None:
    """`torch.func.jvp`."""
    leaves = tuple(leaf.detach() for leaf in given())
    tangents = tuple(torch.ones_like(leaf) for leaf in leaves)
    (_, found), (_, wanted) = (torch.func.jvp(f, leaves, tangents) for f in (loss, plain))
    return wrong(found, wanted)


def autocast(loss: Loss) -> str | None:
    """Under autocast it rounds as eager does: products in bfloat16, forward and backward."""
    exact = _gradients(plain)
    found, eager = (_error(_under_autocast(f), exact) for f in (loss, plain))
    if found < 1e-2 * eager:
        return f"computes in float32: off by {found:.0e}, eager by {eager:.0e}"
    return None if found < 2 * eager else f"off by {found:.1e}, eager by {eager:.1e}"


def _under_autocast(loss: Loss) -> list[Tensor]:
    leaves = [leaf.detach().float().requires_grad_() for leaf in given()]
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(*leaves)
    value.backward()
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


def _error(found: list[Tensor], exact: list[Tensor]) -> float:
    return max(float((f.double() - e).norm() / e.norm()) for f, e in zip(found, exact, strict=True))


def no_grad(loss: Loss) -> str | None:
    """The same value without gradients."""
    with torch.no_grad():
        return wrong(loss(*given()), plain(*given()))


QUESTIONS: Mapping[str, Callable[[Loss], str | None]] = {
    "equal in float64": equal,
    "0.5 x loss": scaled,
    "k x loss, k of a parameter": scaled_by_a_parameter,
    "autograd.grad": grad_of_each,
    "retain_graph": backward_twice,
    "gradcheck": checked,
    "gradgradcheck": checked_twice,
    "Hessian-vector product": hessian,
    "second order of loss²": second_order_of_square,
    "torch.func.grad": functional,
    "forward mode": forward_mode,
    "autocast": autocast,
    "no_grad": no_grad,
}


def answer(way: str, question: str) -> str | None:
    """What a way answers to a question: `None` if it is right."""
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, on what it uses itself
            return QUESTIONS[question](WAYS[way]())
    except ImportError:
        raise
    except Exception as error:  # whatever a library raises is its answer
        words = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {words[0][:160]}"
