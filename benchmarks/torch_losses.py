"""PyTorch's own losses, as a user has them, with inputs drawn from a seed.

They are right, so that every finding on them is a false alarm, but for the defects in ``DEFECTS``,
each of which comes with code that shows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Make = Callable[["Data"], tuple[Callable[..., Tensor], tuple[Any, ...]]]

LOSSES: dict[str, Make] = {}


@dataclass(frozen=True)
class Data:
    """Random numbers for every loss; ``x`` is what a gradient is wanted for."""

    x: Tensor
    y: Tensor
    z: Tensor
    labels: Tensor
    positive: Tensor

    @property
    def signs(self) -> Tensor:
        """Targets that are -1 or 1."""
        return torch.where(self.y < 0, -1.0, 1.0).to(self.y.dtype)

    @property
    def probabilities(self) -> Tensor:
        """Targets between 0 and 1, each for itself."""
        return torch.sigmoid(self.y)

    @property
    def distributions(self) -> Tensor:
        """Targets that sum to one in each row."""
        return torch.softmax(self.y, dim=-1)

    @property
    def label_lists(self) -> Tensor:
        """For each row its classes, ended by -1."""
        lists = torch.full(self.x.shape, -1)
        lists[:, 0] = self.labels
        return lists


def data(seed: int, rows: int = 12, classes: int = 7, dtype: torch.dtype = torch.float64) -> Data:
    """Draw the numbers."""
    generator = torch.Generator().manual_seed(611953 * seed + 32452843)

    def normal() -> Tensor:
        return torch.randn(rows, classes, generator=generator, dtype=torch.float64).to(dtype)

    x, y, z = normal(), normal(), normal()
    labels = torch.randint(classes, (rows,), generator=generator)
    positive = torch.rand(rows, classes, generator=generator, dtype=torch.float64).to(dtype) + 0.1
    return Data(x, y, z, labels, positive)


def loss(name: str) -> Callable[[Make], Make]:
    """Register a loss under a name."""

    def add(make: Make) -> Make:
        LOSSES[name] = make
        return make

    return add


def arguments(make: Make, seed: int) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
    """The loss and its arguments; the first of them wants a gradient."""
    function, given = make(data(seed))
    return function, (given[0].detach().clone().requires_grad_(), *given[1:])


loss("l1")(lambda d: (nn.L1Loss(), (d.x, d.y)))
loss("mse")(lambda d: (nn.MSELoss(), (d.x, d.y)))
loss("smooth_l1")(lambda d: (nn.SmoothL1Loss(), (d.x, d.y)))
loss("huber")(lambda d: (nn.HuberLoss(delta=0.7), (d.x, d.y)))
loss("bce")(lambda d: (nn.BCELoss(), (torch.sigmoid(d.x), d.probabilities)))
loss("bce_with_logits")(lambda d: (nn.BCEWithLogitsLoss(), (d.x, d.probabilities)))
loss("kl_div")(
    lambda d: (nn.KLDivLoss(reduction="batchmean"), (d.x.log_softmax(-1), d.distributions))
)
loss("cross_entropy")(lambda d: (nn.CrossEntropyLoss(), (d.x, d.labels)))
loss("cross_entropy_weighted")(
    lambda d: (nn.CrossEntropyLoss(weight=d.positive[0], label_smoothing=0.1), (d.x, d.labels))
)
loss("cross_entropy_soft")(lambda d: (nn.CrossEntropyLoss(), (d.x, d.distributions)))
loss("cross_entropy_sum")(lambda d: (nn.CrossEntropyLoss(reduction="sum"), (d.x, d.labels)))
loss("nll")(lambda d: (nn.NLLLoss(), (d.x.log_softmax(-1), d.labels)))
loss("gaussian_nll")(lambda d: (nn.GaussianNLLLoss(), (d.x, d.y, d.positive)))
loss("poisson_nll")(lambda d: (nn.PoissonNLLLoss(), (d.x, d.positive)))
loss("hinge_embedding")(lambda d: (nn.HingeEmbeddingLoss(), (d.x, d.signs)))
loss("soft_margin")(lambda d: (nn.SoftMarginLoss(), (d.x, d.signs)))
loss("multilabel_margin")(lambda d: (nn.MultiLabelMarginLoss(), (d.x, d.label_lists)))
loss("multilabel_soft_margin")(lambda d: (nn.MultiLabelSoftMarginLoss(), (d.x, d.probabilities)))
loss("multi_margin")(lambda d: (nn.MultiMarginLoss(), (d.x, d.labels)))
loss("cosine_embedding")(lambda d: (nn.CosineEmbeddingLoss(), (d.x, d.y, d.signs[:, 0])))
loss("triplet_margin")(lambda d: (nn.TripletMarginLoss(), (d.x, d.y, d.z)))
loss("margin_ranking")(lambda d: (nn.MarginRankingLoss(margin=0.3), (d.x, d.y, d.signs)))


@loss("gaussian_nll_variance")
def _gaussian_nll_variance(d: Data) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
    def gaussian_nll_variance(raw: Tensor, mean: Tensor, target: Tensor) -> Tensor:
        return functional.gaussian_nll_loss(mean, target, functional.softplus(raw))

    return gaussian_nll_variance, (d.x, d.z, d.y)


@loss("ctc")
def _ctc(d: Data) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
    # torch's CTC gradient holds for log-probabilities that came from a log_softmax.
    def ctc(logits: Tensor, targets: Tensor) -> Tensor:
        steps, batch = logits.shape[0], targets.shape[0]
        log_probabilities = logits.log_softmax(-1).unsqueeze(1).expand(steps, batch, -1)
        lengths = torch.full((batch,), steps), torch.full((batch,), targets.shape[1])
        return functional.ctc_loss(log_probabilities, targets, *lengths)

    return ctc, (d.x, torch.tensor([[1, 2, 3], [2, 2, 4]]))


@dataclass(frozen=True)
class Defect:
    """A true fault of a torch loss: which rules may report it, and code that shows it."""

    codes: frozenset[str]
    what: str
    shows: Callable[[], bool]


def _soft_margin_overflows() -> bool:
    x = torch.tensor([-100.0], requires_grad=True)
    value = nn.SoftMarginLoss()(x, torch.ones(1))
    (gradient,) = torch.autograd.grad(value, x)
    return math.isinf(value.item()) and not math.isfinite(gradient.item())


DEFECTS = {
    "soft_margin": Defect(
        frozenset({"LP301", "LP302"}),
        "float32 overflows below input * target = -88: the value is inf (the true one is 100 at "
        "-100) and the gradient NaN",
        _soft_margin_overflows,
    ),
}
