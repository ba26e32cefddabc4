"""The losses of torch.nn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.libraries.draw import Draw, wanted
from benchmarks.libraries.entry import Entries

ENTRIES = Entries()
add = ENTRIES.add


def regression(d: Draw) -> tuple[Any, ...]:
    return wanted(d.normal(7, 3)), d.normal(7, 3)


def classes(d: Draw) -> tuple[Any, ...]:
    return wanted(d.normal(9, 5)), d.labels(5, 9)


def images(d: Draw) -> tuple[Any, ...]:
    return wanted(d.normal(2, 4, 5, 5)), d.labels(4, 2, 5, 5)


def binary(d: Draw) -> tuple[Any, ...]:
    return wanted(d.normal(7, 3)), d.bits(7, 3)


def triplets(d: Draw) -> tuple[Any, ...]:
    return wanted(d.normal(7, 4)), wanted(d.normal(7, 4)), wanted(d.normal(7, 4))


def label_lists(d: Draw) -> tuple[Any, ...]:
    lists = torch.tensor([[2, 0, -1, 1], [1, -1, 0, 3], [3, 2, 1, -1], [0, -1, 2, 0]])
    return wanted(d.normal(4, 4)), lists


def sequences(d: Draw) -> tuple[Any, ...]:
    lengths = torch.full((3,), 14), torch.tensor([5, 4, 2])
    return wanted(d.log_distributions(14, 3, 6, dim=2)), 1 + d.labels(5, 3, 5), *lengths


def cosine_distance(first: Tensor, second: Tensor) -> Tensor:
    return 1 - functional.cosine_similarity(first, second)


def ctc_of_logits(
    logits: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor
) -> Tensor:
    return functional.ctc_loss(logits.log_softmax(2), targets, input_lengths, target_lengths)


class AdaptiveLogSoftmax(nn.Module):
    """The loss of what torch's module returns as a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.AdaptiveLogSoftmaxWithLoss(6, 10, cutoffs=[3, 6])

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        loss: Tensor = self.inner(input, target).loss
        return loss


add("L1Loss", nn.L1Loss, regression)
add("L1Loss, sum", lambda: nn.L1Loss(reduction="sum"), regression)
add("MSELoss", nn.MSELoss, regression)
add("MSELoss, none", lambda: nn.MSELoss(reduction="none"), regression)
add("SmoothL1Loss", nn.SmoothL1Loss, regression)
add("HuberLoss", lambda: nn.HuberLoss(delta=0.6), regression)
add("CrossEntropyLoss", nn.CrossEntropyLoss, classes)
add("CrossEntropyLoss, images", nn.CrossEntropyLoss, images)
add(
    "CrossEntropyLoss, soft targets",
    nn.CrossEntropyLoss,
    lambda d: (wanted(d.normal(9, 5)), d.distributions(9, 5)),
)
add(
    "CrossEntropyLoss, weight",
    lambda: nn.CrossEntropyLoss(weight=torch.tensor([0.5, 1.0, 2.0, 1.5, 3.0])),
    classes,
)
add("CrossEntropyLoss, ignore_index", lambda: nn.CrossEntropyLoss(ignore_index=0), classes)
add("CrossEntropyLoss, smoothing", lambda: nn.CrossEntropyLoss(label_smoothing=0.1), classes)
add("NLLLoss", nn.NLLLoss, lambda d: (wanted(d.log_distributions(9, 5)), d.labels(5, 9)))
add(
    "NLLLoss, images",
    nn.NLLLoss,
    lambda d: (wanted(d.log_distributions(2, 4, 3, 3)), d.labels(4, 2, 3, 3)),
)
add("PoissonNLLLoss", nn.PoissonNLLLoss, lambda d: (wanted(d.normal(7, 3)), d.counts(7, 3)))
add(
    "PoissonNLLLoss, rates",
    lambda: nn.PoissonNLLLoss(log_input=False, full=True),
    lambda d: (wanted(d.uniform(7, 3)), d.counts(7, 3)),
)
add(
    "GaussianNLLLoss",
    nn.GaussianNLLLoss,
    lambda d: (wanted(d.normal(7, 3)), d.normal(7, 3), wanted(d.uniform(7, 3))),
)
add(
    "KLDivLoss",
    lambda: nn.KLDivLoss(reduction="batchmean"),
    lambda d: (wanted(d.log_distributions(7, 5)), d.distributions(7, 5)),
)
add(
    "KLDivLoss, log_target",
    lambda: nn.KLDivLoss(reduction="batchmean", log_target=True),
    lambda d: (wanted(d.log_distributions(7, 5)), d.log_distributions(7, 5)),
)
add("BCELoss", nn.BCELoss, lambda d: (wanted(d.uniform(7, 3)), d.bits(7, 3)))
add("BCEWithLogitsLoss", nn.BCEWithLogitsLoss, binary)
add(
    "BCEWithLogitsLoss, pos_weight",
    lambda: nn.BCEWithLogitsLoss(pos_weight=torch.tensor([0.5, 2.0, 4.0])),
    binary,
)
add("HingeEmbeddingLoss", nn.HingeEmbeddingLoss, lambda d: (wanted(d.normal(9)), d.signs(9)))
add("MultiLabelMarginLoss", nn.MultiLabelMarginLoss, label_lists)
add("SoftMarginLoss", nn.SoftMarginLoss, lambda d: (wanted(d.normal(7, 3)), d.signs(7, 3)))
add("MultiLabelSoftMarginLoss", nn.MultiLabelSoftMarginLoss, binary)
add(
    "CosineEmbeddingLoss",
    lambda: nn.CosineEmbeddingLoss(margin=0.3),
    lambda d: (wanted(d.normal(7, 4)), wanted(d.normal(7, 4)), d.signs(7)),
)
add(
    "MarginRankingLoss",
    lambda: nn.MarginRankingLoss(margin=0.4),
    lambda d: (wanted(d.normal(9)), wanted(d.normal(9)), d.signs(9)),
)
add("MultiMarginLoss", nn.MultiMarginLoss, classes)
add("TripletMarginLoss", nn.TripletMarginLoss, triplets)
add(
    "TripletMarginWithDistanceLoss",
    lambda: nn.TripletMarginWithDistanceLoss(distance_function=cosine_distance, swap=True),
    triplets,
)
add("CTCLoss", lambda: nn.CTCLoss(zero_infinity=True), sequences)
add(
    "CTCLoss, logits",
    lambda: ctc_of_logits,
    lambda d: (wanted(d.normal(14, 3, 6)), *sequences(d)[1:]),
)
add(
    "LinearCrossEntropyLoss",
    lambda: nn.LinearCrossEntropyLoss(6, 5),
    lambda d: (wanted(d.normal(9, 6)), d.labels(5, 9)),
)
add(
    "AdaptiveLogSoftmaxWithLoss",
    AdaptiveLogSoftmax,
    lambda d: (wanted(d.normal(9, 6)), d.labels(10, 9)),
)
