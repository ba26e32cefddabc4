"""Losses over a big output layer: which are measured, at which sizes, and what was aimed at."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORED = -100
MIB = 2**20
CHUNK = 256
"""Rows at once, where a library wants to be told."""


def cross_entropy_rows(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of each row; an ignored one gives 0."""
    return F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="none")


def capped_rows(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy with soft-capped logits, label smoothing and a z-loss, as Gemma's heads ask."""
    counts = target != IGNORED
    logits = 30 * torch.tanh(logits / 30)
    normalizer = torch.logsumexp(logits, -1)
    of_target = logits.gather(-1, target.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    values = normalizer - 0.9 * of_target - 0.1 * logits.mean(-1) + 1e-4 * normalizer**2
    return torch.where(counts, values, 0.0)


def jsd_rows(student: Tensor, teacher: Tensor) -> Tensor:
    """The Jensen-Shannon divergence of two rows of logits, as distillation takes it."""
    log_q, log_p = F.log_softmax(student, -1), F.log_softmax(teacher, -1)
    middle = torch.logaddexp(log_q, log_p) - math.log(2)
    to_teacher = F.kl_div(middle, log_p, reduction="none", log_target=True).sum(-1)
    to_student = F.kl_div(middle, log_q, reduction="none", log_target=True).sum(-1)
    return (to_teacher + to_student) / 2


ROWS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "CE": cross_entropy_rows,
    "capped": capped_rows,
    "JSD": jsd_rows,
}
WORDS = {
    "CE": "cross entropy",
    "capped": "cross entropy, soft cap, smoothing, z-loss",
    "JSD": "JSD to a teacher's head",
}


@dataclass(frozen=True)
class HeadCase:
    """One loss at one size."""

    loss: str
    rows: int
    classes: int
    hidden: int = 1024
    head: str = "linear"
    eager: bool = True
    """Whether the eager loss and the whole of it compiled fit into an ordinary machine."""
    penalty: bool = False
    """Whether the square of the gradient in the hidden states is added."""

    @property
    def name(self) -> str:
        head = "" if self.head == "linear" else f", {self.head} head"
        penalty = ", gradient penalty" if self.penalty else ""
        size = f"{self.rows:,} x {self.classes:,}, hidden {self.hidden:,}"
        return f"{self.loss} {size}{head}{penalty}"

    @property
    def words(self) -> str:
        return self.name.replace(self.loss, WORDS[self.loss], 1)

    @property
    def floor(self) -> float:
        """MB of the gradients and of one chunk: 128 rows, or as many as 32 MB hold."""
        chunk = min(self.rows, max(128, 32 * MIB // (4 * self.classes)))
        inside = self.hidden**2 if self.head == "MLP" else 0
        gradients = self.hidden * (self.rows + self.classes) + inside
        return 4 * (gradients + chunk * self.classes) / MIB


@dataclass
class Setting:
    """What a step works on: the tensors of one case, drawn anew from the same seed."""

    case: HeadCase
    hidden: Tensor
    head: nn.Module
    target: Tensor
    """Classes, or the hidden states of a teacher."""
    teacher: nn.Linear | None = None

    @property
    def weight(self) -> nn.Parameter:
        """The weight of the output layer."""
        last = self.head if isinstance(self.head, nn.Linear) else self.head[-1]
        return last.weight

    def counted(self) -> Tensor:
        """How many rows count."""
        if self.teacher is not None:
            return torch.tensor(len(self.target))
        return (self.target != IGNORED).sum()

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden)

    def aims(self, target: Tensor) -> Tensor:
        """What the loss takes as its target."""
        return target if self.teacher is None else self.teacher(target)

    def leaves(self) -> list[Tensor]:
        return [self.hidden, *self.head.parameters()]

    def clear(self) -> None:
        for leaf in self.leaves():
            leaf.grad = None

    def first(self, rows: int) -> Setting:
        """The same with the first rows alone."""
        hidden = self.hidden.detach()[:rows].requires_grad_()
        return Setting(self.case, hidden, self.head, self.target[:rows], self.teacher)


def drawn(case: HeadCase, dtype: torch.dtype = torch.float32, seed: int = 0) -> Setting:
    """The tensors of a case; every seventh row is ignored."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:  # the same numbers in every precision
        return torch.randn(*shape, generator=generator).to(dtype)

    def linear(inside: int, outside: int) -> nn.Linear:
        layer = nn.utils.skip_init(nn.Linear, inside, outside, bias=False)
        with torch.no_grad():
            layer.weight.normal_(std=inside**-0.5, generator=generator)
        return layer.to(dtype)

    hidden = normal(case.rows, case.hidden).requires_grad_()
    head: nn.Module = linear(case.hidden, case.classes)
    if case.head == "MLP":
        head = nn.Sequential(linear(case.hidden, case.hidden), nn.GELU(), head)
    if case.loss == "JSD":
        teacher = linear(case.hidden, case.classes).requires_grad_(False)
        return Setting(case, hidden, head, normal(case.rows, case.hidden), teacher)
    target = torch.randint(case.classes, (case.rows,), generator=generator)
    target[::7] = IGNORED
    return Setting(case, hidden, head, target)


def plain(setting: Setting) -> Tensor:
    """The mean as one writes it: all logits at once."""
    logits, target = setting.logits(setting.hidden), setting.aims(setting.target)
    if setting.case.loss == "CE":
        return F.cross_entropy(logits, target, ignore_index=IGNORED)
    return ROWS[setting.case.loss](logits, target).sum() / setting.counted()
