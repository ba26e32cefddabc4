"""Ways to compute a loss over a big output layer: plain, ours, torch's own, Liger's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.speed.heads import CHUNK, IGNORED, ROWS, HeadCase, Setting, plain

Loss = Callable[[Setting], Tensor]
EAGER, COMPILED = "eager", "torch.compile"
OURS = "lossproof chunk"
OURS_COMPILED = "lossproof chunk, compile=True"
OURS_ROWS = "lossproof chunk, reduction='none'"
TORCH = "torch linear_cross_entropy"
TORCH_CHUNK = f"torch linear_cross_entropy, {CHUNK} rows"
OWN = (OURS, OURS_COMPILED, OURS_ROWS)


@dataclass(frozen=True)
class Way:
    """One way: how its loss is made, and for which cases it is there."""

    make: Callable[[HeadCase], Loss]
    serves: Callable[[HeadCase], bool] = lambda case: True
    compiles: bool = False
    whole: bool = False
    """Whether all logits exist at once, so that the largest cases do not fit."""


def ways_of(case: HeadCase) -> Mapping[str, Way]:
    """The ways that can compute this loss at this size."""
    return {
        name: way
        for name, way in WAYS.items()
        if way.serves(case) and (case.eager or not way.whole)
    }


def _of_linear(case: HeadCase) -> bool:
    return case.loss == "CE" and case.head == "linear"


def _chunked(*, compile: bool = False, rows: bool = False) -> Callable[[HeadCase], Loss]:
    """Ours, made at the first call as a user makes it: once for a head."""

    def make(case: HeadCase) -> Loss:
        from lossproof import chunk

        made = []

        def loss(setting: Setting) -> Tensor:
            if not made:
                made.append(
                    chunk(
                        ROWS[case.loss],
                        setting.head,
                        target_head=setting.teacher,
                        reduction="none" if rows else "mean",
                        ignore_index=None if setting.teacher else IGNORED,
                        compile=compile,
                    )
                )
            values: Tensor = made[0](setting.hidden, setting.target)
            return values.sum() / setting.counted() if rows else values

        return loss

    return make


def _plain(case: HeadCase) -> Loss:
    return plain


def _compiled(**options: object) -> Callable[[HeadCase], Loss]:
    """The plain loss compiled as a whole, a new function each time it is made."""

    def make(case: HeadCase) -> Loss:
        def loss(hidden: Tensor, head: nn.Module, setting: Setting) -> Tensor:
            logits, target = head(hidden), setting.aims(setting.target)
            if case.loss == "CE":
                return F.cross_entropy(logits, target, ignore_index=IGNORED)
            return ROWS[case.loss](logits, target).sum() / setting.counted()

        compiled = torch.compile(loss, options=options or None)
        return lambda setting: compiled(setting.hidden, setting.head, setting)

    return make


AUTO_CHUNKER = {
    "auto_chunker.enable": True,
    "auto_chunker.amplify_ratio_threshold": 1,
    "auto_chunker.num_chunk": 16,
}
"""Off by default; with its own threshold it leaves most of these cases alone."""


def _checkpointed(case: HeadCase) -> Loss:
    """Each chunk under `torch.utils.checkpoint`."""

    def of_chunk(setting: Setting, hidden: Tensor, target: Tensor) -> Tensor:
        return ROWS[case.loss](setting.logits(hidden), setting.aims(target)).sum()

    def loss(setting: Setting) -> Tensor:
        parts = zip(setting.hidden.split(CHUNK), setting.target.split(CHUNK), strict=True)
        total = sum(
            checkpoint(of_chunk, setting, hidden, target, use_reentrant=False)
            for hidden, target in parts
        )
        return total / setting.counted()

    return loss


def _torch_chunked(rows: int | None) -> Callable[[HeadCase], Loss]:
    """torch's own chunked cross entropy."""

    def make(case: HeadCase) -> Loss:
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=rows)

        def loss(setting: Setting) -> Tensor:
            return F.linear_cross_entropy(
                setting.hidden, setting.weight, setting.target, options=options
            )

        return loss

    return make


def _liger_logarithms(case: HeadCase) -> Loss:
    """Liger's chunked log-probabilities, in pure torch, and their mean."""
    from liger_kernel.chunked_loss import fused_linear_ppo

    function = fused_linear_ppo._ChunkedSelectiveLogProbFunction

    def loss(setting: Setting) -> Tensor:
        counts, weight = setting.target != IGNORED, setting.weight
        target = setting.target.clamp(min=0)
        logarithms = function.apply(setting.hidden, weight, target, None, 1.0, 4096)
        return -torch.where(counts, logarithms, 0.0).sum() / counts.sum()

    return loss


def _liger_jsd(*, compiled: bool, rows: int) -> Callable[[HeadCase], Loss]:
    """Liger's chunked distillation loss, without the cross entropy that it can add."""

    def make(case: HeadCase) -> Loss:
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        loss = LigerFusedLinearJSDLoss(0.0, 1.0, compiled=compiled, chunk_size=rows)

        def of(setting: Setting) -> Tensor:
            assert setting.teacher is not None
            labels = torch.zeros(len(setting.hidden), dtype=torch.long)
            weight, teacher = setting.weight, setting.teacher.weight
            value: Tensor = loss(setting.hidden, weight, setting.target, teacher, labels)
            return value

        return of

    return make


WAYS: Mapping[str, Way] = {
    EAGER: Way(_plain, whole=True),
    COMPILED: Way(_compiled(), compiles=True, whole=True),
    "torch.compile, auto_chunker": Way(
        _compiled(**AUTO_CHUNKER), lambda case: case.loss != "JSD", compiles=True, whole=True
    ),
    TORCH: Way(_torch_chunked(None), _of_linear),
    TORCH_CHUNK: Way(_torch_chunked(CHUNK), _of_linear),
    "Liger log-probabilities": Way(_liger_logarithms, _of_linear),
    f"Liger JSD, {CHUNK} rows": Way(
        _liger_jsd(compiled=False, rows=CHUNK), lambda case: case.loss == "JSD"
    ),
    f"Liger JSD, {CHUNK} rows, compiled": Way(
        _liger_jsd(compiled=True, rows=CHUNK), lambda case: case.loss == "JSD", compiles=True
    ),
    f"checkpoint of {CHUNK} rows": Way(_checkpointed),
    OURS: Way(_chunked()),
    OURS_COMPILED: Way(_chunked(compile=True), compiles=True),
    OURS_ROWS: Way(_chunked(rows=True)),
}
