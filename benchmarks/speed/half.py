"""The gradient of a big output layer in half precision, under a loss scale and in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.harness import results
from benchmarks.speed.heads import CHUNK

ROWS, CLASSES, HIDDEN = 4096, 32000, 128
SCALES = (1024, 4096, 16384, 32768, 65536)
CHUNKS = (1, 2, 4, 8, 16, 32, 64)
EAGER, OURS = "eager, float32 logits", "lossproof chunk"
OURS_COMPILED = f"{OURS}, compile=True"


@dataclass
class Problem:
    """Hidden states, an output layer and targets, in half precision, and the true gradients."""

    hidden: Tensor
    weight: Tensor
    target: Tensor
    truth: tuple[Tensor, Tensor]
    kept: dict[float, Tensor] = field(default_factory=dict)

    def kept_by_eager(self, scale: float) -> Tensor:
        """Where the head's gradient of eager is not zero, and should not be.

        An entry whose true value is below the smallest number of the precision may round to either.
        """
        return self._of_eager(scale) & self._representable(scale)

    def flushed_by_eager(self, scale: float) -> Tensor:
        """Where the head's gradient of eager is zero, and should not be."""
        return ~self._of_eager(scale) & self._representable(scale)

    def _of_eager(self, scale: float) -> Tensor:
        """Where the head's gradient of eager is not zero."""
        if scale not in self.kept:
            self.kept[scale] = eager(self, scale, CHUNK)[1] != 0
        return self.kept[scale]

    def _representable(self, scale: float) -> Tensor:
        precision = torch.finfo(self.hidden.dtype)
        return self.truth[1].abs() * scale >= precision.smallest_normal * precision.eps

    def head(self) -> nn.Linear:
        layer = nn.utils.skip_init(nn.Linear, *reversed(self.weight.shape), bias=False)
        layer.weight = nn.Parameter(self.weight.clone())
        return layer

    def leaf(self) -> Tensor:
        return self.hidden.clone().requires_grad_()


def problem(
    dtype: torch.dtype, rows: int = ROWS, classes: int = CLASSES, hidden: int = HIDDEN
) -> Problem:
    """Draw a problem; its gradients come from the formula, in float64 and in pieces."""
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(rows, hidden, generator=generator).to(dtype)
    w = (0.02 * torch.randn(classes, hidden, generator=generator)).to(dtype)
    target = torch.randint(classes, (rows,), generator=generator)
    wide = w.double()
    of_hidden, of_weight = torch.empty(rows, hidden).double(), torch.zeros_like(wide)
    for start in range(0, rows, CHUNK):
        part = slice(start, start + CHUNK)
        chunk = h[part].double()
        slope = (chunk @ wide.T).softmax(-1)
        slope[torch.arange(len(chunk)), target[part]] -= 1
        slope /= rows
        of_hidden[part] = slope @ wide
        of_weight += slope.T @ chunk
    return Problem(h, w, target, (of_hidden, of_weight))


Gradients = Callable[[Problem, float, int], tuple[Tensor, Tensor]]
"""From a problem, the scale of the loss and the rows at once to the scaled gradients."""


def _backward(loss: Tensor, scale: float, *leaves: Tensor) -> tuple[Tensor, Tensor]:
    (loss * scale).backward()
    hidden, weight = (leaf.grad for leaf in leaves)
    assert hidden is not None
    assert weight is not None
    return hidden, weight


def wide_cross_entropy(logits: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """Cross entropy of logits in half precision, computed in float32."""
    return F.cross_entropy(logits.float(), target, reduction=reduction)


def eager(p: Problem, scale: float, rows: int) -> tuple[Tensor, Tensor]:
    hidden, head = p.leaf(), p.head()
    return _backward(wide_cross_entropy(head(hidden), p.target), scale, hidden, head.weight)


def of_chunk(*, compile: bool) -> Gradients:
    def gradients(p: Problem, scale: float, rows: int) -> tuple[Tensor, Tensor]:
        from lossproof import chunk

        hidden, head = p.leaf(), p.head()
        loss = chunk(wide_cross_entropy, head, chunk_size=rows, compile=compile)
        return _backward(loss(hidden, p.target), scale, hidden, head.weight)

    return gradients


def of_torch(policy: str) -> Gradients:
    def gradients(p: Problem, scale: float, rows: int) -> tuple[Tensor, Tensor]:
        hidden, head = p.leaf(), p.head()
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=rows, acc_policy=policy)
        loss = F.linear_cross_entropy(hidden, head.weight, p.target, options=options)
        return _backward(loss.float(), scale, hidden, head.weight)

    return gradients


def of_liger(p: Problem, scale: float, rows: int) -> tuple[Tensor, Tensor]:
    """The cross entropy that Liger's distillation adds, alone; the teacher is a formality."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(1.0, 0.0, compiled=False, chunk_size=rows)
    hidden, head = p.leaf(), p.head()
    teacher = hidden.new_zeros(len(hidden), 1), hidden.new_zeros(len(p.weight), 1)
    value = loss(hidden, head.weight, *(t.detach() for t in teacher), p.target)
    return _backward(value, scale, hidden, head.weight)


def of_liger_logarithms(p: Problem, scale: float, rows: int) -> tuple[Tensor, Tensor]:
    from liger_kernel.chunked_loss import fused_linear_ppo

    function = fused_linear_ppo._ChunkedSelectiveLogProbFunction
    hidden, head = p.leaf(), p.head()
    logarithms = function.apply(hidden, head.weight, p.target, None, 1.0, 4096)
    return _backward(-logarithms.mean(), scale, hidden, head.weight)


def of_checkpoint(p: Problem, scale: float, rows: int) -> tuple[Tensor, Tensor]:
    hidden, head = p.leaf(), p.head()

    def total(part: Tensor, target: Tensor) -> Tensor:
        return wide_cross_entropy(head(part), target, reduction="sum")

    parts = zip(hidden.split(rows), p.target.split(rows), strict=True)
    loss = sum(checkpoint(total, *part, use_reentrant=False) for part in parts) / len(hidden)
    return _backward(loss, scale, hidden, head.weight)


WAYS: Mapping[str, Gradients] = {
    EAGER: eager,
    "torch linear_cross_entropy, accurate": of_torch("accurate"),
    "torch linear_cross_entropy, balanced": of_torch("balanced"),
    "torch linear_cross_entropy, compact": of_torch("compact"),
    "torch linear_cross_entropy, auto": of_torch("auto"),
    "Liger chunked loop": of_liger,
    "Liger log-probabilities": of_liger_logarithms,
    f"checkpoint of {CHUNK} rows": of_checkpoint,
    OURS: of_chunk(compile=False),
    OURS_COMPILED: of_chunk(compile=True),
}


def under_scales(p: Problem, way: str, scales: Iterable[float] = SCALES) -> list[dict[str, Any]]:
    """How many entries of the head's gradient are lost that eager keeps, and relative errors."""
    found = []
    for scale in scales:
        kept = p.kept_by_eager(scale)
        hidden, weight = WAYS[way](p, scale, CHUNK)
        found.append(
            {
                "scale": scale,
                "flushed": int(((weight == 0) & kept).sum()),
                "kept_by_eager": int(kept.sum()),
                "flushed_by_eager": int(((weight != 0) & p.flushed_by_eager(scale)).sum()),
                "hidden": error(hidden, p.truth[0], scale),
                "head": error(weight, p.truth[1], scale),
            }
        )
    return found


def over_chunks(p: Problem, way: str, chunks: Iterable[int] = CHUNKS) -> list[dict[str, Any]]:
    """The errors when the rows are cut into so many chunks."""
    found = []
    for count in chunks:
        hidden, weight = WAYS[way](p, 1.0, -(-len(p.hidden) // count))
        hidden_error, head_error = error(hidden, p.truth[0]), error(weight, p.truth[1])
        found.append({"chunks": count, "hidden": hidden_error, "head": head_error})
    return found


def error(found: Tensor, truth: Tensor, scale: float = 1.0) -> float:
    """The norm of the difference over that of the truth; not finite where it overflowed."""
    return float((found.double() / scale - truth).norm() / truth.norm())


def main(
    quick: Annotated[bool, typer.Option(help="A small problem; nothing is saved.")] = False,
) -> None:
    """Compute all gradients, and write the results and their page."""
    from benchmarks import studies
    from benchmarks.speed.tables import half_summary

    torch.set_num_threads(1)
    size = (512, 1000, 32) if quick else (ROWS, CLASSES, HIDDEN)
    digest = results.source_digest()
    p = problem(torch.float16, *size)
    scaled = {way: _said(under_scales, p, way) for way in WAYS}
    p = problem(torch.bfloat16, *size)
    cut = {way: _said(over_chunks, p, way) for way in WAYS if way != EAGER}
    data = {
        "machine": results.machine(),
        "versions": {"liger_kernel": metadata.version("liger_kernel")},
        "size": size,
        "float16": scaled,
        "bfloat16": cut,
        "bfloat16_eager": error(eager(p, 1.0, CHUNK)[1], p.truth[1]),
    }
    print(half_summary(data))
    if not quick:
        results.refuse_if_changed(digest)
        print(results.save("speed_half", data))
        studies.write_pages_of("speed_half")


def _said(
    ask: Callable[[Problem, str], list[dict[str, Any]]], p: Problem, way: str
) -> list[dict[str, Any]] | str:
    """The figures, or what was raised."""
    try:
        return ask(p, way)
    except RuntimeError as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}"


if __name__ == "__main__":
    typer.run(main)
