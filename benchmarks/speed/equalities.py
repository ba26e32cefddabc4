"""How near `chunk` and `pairs` come to the plain loss in float64, up to the second derivative."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.speed.heads import IGNORED, capped_rows, jsd_rows

ROWS, CLASSES, HIDDEN, CHUNK, BLOCK = 23, 17, 5, 6, 7
Number = Callable[[], Tensor]


@dataclass(frozen=True)
class Equality:
    """Two ways to compute one number from the same leaves."""

    leaves: Sequence[Tensor]
    ours: Number
    plain: Number

    def errors(self) -> dict[str, float]:
        """Relative errors; the worst leaf's, for gradients and second derivatives."""
        found, wanted = self._derivatives(self.ours), self._derivatives(self.plain)
        return {
            key: max(_error(f, w) for f, w in zip(found[key], wanted[key], strict=True))
            for key in found
        }

    def _derivatives(self, number: Number) -> dict[str, Sequence[Tensor]]:
        value = number()
        first = torch.autograd.grad(value, self.leaves, retain_graph=True)
        with_graph = torch.autograd.grad(value, self.leaves, create_graph=True)
        along = sum((g * (1 + w)).sum() for g, w in zip(with_graph, first, strict=True))
        second = torch.autograd.grad(along, self.leaves, materialize_grads=True)
        return {"value": [value.detach()], "gradient": first, "Hessian-vector product": second}


def _error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-300))


def _drawn(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]


def _targets() -> Tensor:
    target = torch.arange(ROWS) * 5 % CLASSES
    target[::4] = IGNORED
    return target


def _along(values: Tensor) -> Tensor:
    """A number from the values of the rows, each with another factor; a number as it is."""
    return (values * torch.linspace(-1, 2, len(values)).to(values)).sum() if values.ndim else values


def _chunk(loss: Any, head: Any, **options: Any) -> Any:
    from lossproof import chunk

    return chunk(loss, head, chunk_size=CHUNK, **options)


HEAD = (ROWS, HIDDEN), (CLASSES, HIDDEN)


def cross_entropy(reduction: str, **options: Any) -> Equality:
    """torch's own, with ignored targets; the head is a matrix."""
    h, w = _drawn(*HEAD)
    loss = _chunk(F.cross_entropy, w, reduction=reduction, **options)
    return Equality(
        (h, w),
        lambda: _along(loss(h, _targets())),
        lambda: _along(F.cross_entropy(h @ w.T, _targets(), reduction=reduction)),
    )


def function_as_head() -> Equality:
    """A head that closes over its weight and bias."""
    h, w, b = _drawn(*HEAD, (CLASSES,))
    loss = _chunk(F.cross_entropy, lambda rows: F.linear(rows, w, b).tanh())
    return Equality(
        (h, w, b),
        lambda: loss(h, _targets()),
        lambda: F.cross_entropy(F.linear(h, w, b).tanh(), _targets()),
    )


def module_as_head() -> Equality:
    """A small MLP with a bias and a LayerNorm."""
    (h,) = _drawn((ROWS, HIDDEN))
    layers = nn.Linear(HIDDEN, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, CLASSES)
    head = nn.Sequential(*layers).double()
    loss = _chunk(F.cross_entropy, head)
    return Equality(
        (h, *head.parameters()),
        lambda: loss(h, _targets()),
        lambda: F.cross_entropy(head(h), _targets()),
    )


def tied_embedding() -> Equality:
    """The head is the embedding that the hidden states came from."""
    table = nn.Embedding(CLASSES, HIDDEN).double()
    words = torch.arange(ROWS) * 3 % CLASSES
    loss = _chunk(F.cross_entropy, table)
    return Equality(
        (table.weight,),
        lambda: loss(table(words).sin(), _targets()),
        lambda: F.cross_entropy(table(words).sin() @ table.weight.T, _targets()),
    )


def class_weights() -> Equality:
    """Weights of the classes that are learned, which torch's own does not allow."""
    h, w, c = _drawn(*HEAD, (CLASSES,))

    def weighted(logits: Tensor, target: Tensor, *, classes: Tensor) -> Tensor:
        own = target.clamp(min=0).unsqueeze(1)
        values = -logits.log_softmax(1).gather(1, own) * classes[own].exp()
        return torch.where(target == IGNORED, 0.0, values.squeeze(1))

    loss = _chunk(weighted, w, reduction="mean", ignore_index=IGNORED)
    return Equality(
        (h, w, c),
        lambda: loss(h, _targets(), classes=c),
        lambda: weighted(h @ w.T, _targets(), classes=c).sum() / (_targets() != IGNORED).sum(),
    )


def row_weights() -> Equality:
    """A weight for each row, over whose sum the mean is taken."""
    h, w, f = _drawn(*HEAD, (ROWS,))
    loss = _chunk(F.cross_entropy, w)

    def plain() -> Tensor:
        target = _targets()
        values, factors = F.cross_entropy(h @ w.T, target, reduction="none"), f.exp()
        return (values * factors).sum() / factors[target != IGNORED].sum()

    return Equality((h, w), lambda: loss(h, _targets(), weight=f.detach().exp()), plain)


def normalizer() -> Equality:
    """What the mean divides by is given."""
    h, w = _drawn(*HEAD)
    loss = _chunk(F.cross_entropy, w)
    return Equality(
        (h, w),
        lambda: loss(h, _targets(), normalizer=100),
        lambda: F.cross_entropy(h @ w.T, _targets(), reduction="sum") / 100,
    )


def capped(**options: Any) -> Equality:
    """Soft cap, label smoothing, z-loss."""
    h, w = _drawn(*HEAD)
    loss = _chunk(capped_rows, w, reduction="mean", ignore_index=IGNORED, **options)
    return Equality(
        (h, w),
        lambda: loss(h, _targets()),
        lambda: capped_rows(h @ w.T, _targets()).sum() / (_targets() != IGNORED).sum(),
    )


def distilled(**options: Any) -> Equality:
    """The JSD to a teacher's head."""
    h, w, t, v = _drawn(*HEAD, *HEAD)
    t, v = t.detach(), v.detach()
    loss = _chunk(jsd_rows, w, target_head=v, reduction="mean", **options)
    return Equality((h, w), lambda: loss(h, t), lambda: jsd_rows(h @ w.T, t @ v.T).mean())


def learned_temperature() -> Equality:
    """A Module as loss, with a parameter of its own."""

    class Tempered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.temperature = nn.Parameter(torch.tensor(1.3, dtype=torch.float64))

        def forward(self, logits: Tensor, target: Tensor) -> Tensor:
            return F.cross_entropy(logits / self.temperature, target, reduction="none")

    h, w = _drawn(*HEAD)
    module = Tempered()
    loss = _chunk(module, w, reduction="sum")
    return Equality(
        (h, w, module.temperature),
        lambda: loss(h, _targets()),
        lambda: module(h @ w.T, _targets()).sum(),
    )


PLAIN_REDUCTIONS: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "sum": Tensor.sum,
    "mean": Tensor.mean,
    "logsumexp": torch.logsumexp,
    "max": torch.amax,
    "min": torch.amin,
}


def scaled_product(x: Tensor, y: Tensor, *, scale: Tensor) -> Tensor:
    """A pair function with a learned scale."""
    return (x @ y.T * scale.exp()).sin()


def over_pairs(reduce: str, dim: int) -> Equality:
    """One reduction of the values of all pairs."""
    from lossproof import pairs

    x, y, s = _drawn((ROWS, HIDDEN), (CLASSES, HIDDEN), ())
    rows = pairs(scaled_product, reduce, dim=dim, block_size=BLOCK)
    return Equality(
        (x, y, s),
        lambda: _along(rows(x, y, scale=s)),
        lambda: _along(PLAIN_REDUCTIONS[reduce](scaled_product(x, y, scale=s), dim)),
    )


def over_pairs_both_ways() -> Equality:
    """The log-sum-exp along rows and columns in one sweep."""
    from lossproof import pairs

    x, y, s = _drawn((ROWS, HIDDEN), (CLASSES, HIDDEN), ())
    both = pairs(scaled_product, "logsumexp", dim=(1, 0), block_size=BLOCK)

    def ours() -> Tensor:
        rows, columns = both(x, y, scale=s)
        return _along(rows) + _along(columns)

    def plain() -> Tensor:
        matrix = scaled_product(x, y, scale=s)
        return _along(matrix.logsumexp(1)) + _along(matrix.logsumexp(0))

    return Equality((x, y, s), ours, plain)


EQUALITIES: Mapping[str, Callable[[], Equality]] = {
    **{
        f"chunk, cross entropy, {reduction}": partial(cross_entropy, reduction)
        for reduction in ("mean", "sum", "none")
    },
    "chunk, cross entropy, mean, compiled": partial(cross_entropy, "mean", compile=True),
    "chunk, learned class weights": class_weights,
    "chunk, weights of rows": row_weights,
    "chunk, normalizer": normalizer,
    "chunk, head a function that closes over tensors": function_as_head,
    "chunk, head a Module": module_as_head,
    "chunk, head an embedding": tied_embedding,
    "chunk, loss a Module with a parameter": learned_temperature,
    "chunk, soft cap, smoothing, z-loss": capped,
    "chunk, soft cap, smoothing, z-loss, compiled": partial(capped, compile=True),
    "chunk, JSD to a teacher's head": distilled,
    "chunk, JSD to a teacher's head, compiled": partial(distilled, compile=True),
    **{
        f"pairs, {reduce}, dim={dim}": partial(over_pairs, reduce, dim)
        for reduce in PLAIN_REDUCTIONS
        for dim in (1, 0)
    },
    "pairs, logsumexp, dim=(1, 0)": over_pairs_both_ways,
}
