"""Losses that learn vectors for each class: what they take, and how their values are reduced."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from lossproof.losses._embeddings import embeddings, kept_rows
from lossproof.write.arguments import (
    REDUCTIONS,
    choice,
    class_indices,
    integer,
    one_for_each_class,
    same_device,
    tensor,
)
from lossproof.write.precision import widened
from lossproof.write.reduction import reduce

Tensor = torch.Tensor


class ClassBatch(NamedTuple):
    """Embeddings with the class of each; one sample alone is a batch of one."""

    vectors: Tensor
    """(N, D); those that do not count are 0."""
    labels: Tensor
    """(N,), from 0 to C - 1; 0 for those that do not count."""
    counts: Tensor
    """Which count, (N,)."""


class ClassVectors(nn.Module):
    """What these losses share; the vectors themselves belong to each of them."""

    weight: Tensor | None

    def __init__(self, num_classes: int, embedding_size: int, ignore_index: int) -> None:
        super().__init__()
        self.num_classes = integer("num_classes", num_classes, minimum=1)
        self.embedding_size = integer("embedding_size", embedding_size, minimum=1)
        self.ignore_index = integer("ignore_index", ignore_index)

    def reduced_by(
        self, weight: Tensor | None, reduction: str, normalizer: float | Tensor | None
    ) -> None:
        """Keep how values are reduced."""
        if weight is not None:
            weight = one_for_each_class("weight", weight, self.num_classes, weight)
        self.register_buffer("weight", weight)
        self.reduction = choice("reduction", reduction, REDUCTIONS)
        self.normalizer = normalizer

    def new_vectors(self, count: int) -> nn.Parameter:
        """Vectors drawn from a standard normal distribution."""
        return nn.Parameter(torch.randn(count, self.embedding_size))

    def batch(self, input: Any, target: Any) -> ClassBatch:
        """The tensors of a call, checked."""
        embeddings("input", input, 1, 2, layout="(N, D) or (D)")
        tensor("target", target, "integer")
        same_device(input, target, ("input", "target"))
        if input.shape[-1] != self.embedding_size:
            raise ValueError(
                f"`input` must hold vectors of embedding_size={self.embedding_size} numbers, "
                f"got {list(input.shape)}"
            )
        if target.shape != input.shape[:-1]:
            raise ValueError(
                f"`target` must hold one label for each row of `input`, the shape "
                f"{list(input.shape[:-1])}, got {list(target.shape)}"
            )
        labels = class_indices("target", target, self.num_classes, ignore_index=self.ignore_index)
        labels, input = labels.reshape(-1), input.reshape(-1, self.embedding_size)
        counts = labels != self.ignore_index
        return ClassBatch(kept_rows(input, counts), torch.where(counts, labels, 0), counts)

    def reduced(
        self, values: Tensor, batch: ClassBatch, target: Tensor, normalizer: float | Tensor | None
    ) -> Tensor:
        """The loss, from the value of each sample."""
        weight = None
        if self.weight is not None:
            weight = self.weight.to(values.dtype).index_select(0, batch.labels)
        loss = reduce(
            values,
            weight,
            self.reduction,
            mask=batch.counts,
            normalizer=self.normalizer if normalizer is None else normalizer,
        )
        return loss.reshape(target.shape) if self.reduction == "none" else loss

    def extra_repr(self) -> str:
        named = {k: v for k, v in vars(self).items() if not k.startswith("_") and k != "training"}
        return ", ".join(f"{name}={value!r}" for name, value in named.items() if value is not None)


def in_one_dtype(vectors: Tensor, learned: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings and parameters in the wider of their dtypes; the parameters stay what they are."""
    learned = widened(learned)
    dtype = torch.promote_types(vectors.dtype, learned.dtype)
    return vectors.to(dtype), learned.to(dtype)
