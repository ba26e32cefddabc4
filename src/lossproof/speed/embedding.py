"""Embeddings of a batch that is larger than memory, in micro-batches that are computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from lossproof.speed.owners import modules_of
from lossproof.write.arguments import integer
from lossproof.write.sweeping import observed

Tensor = torch.Tensor


def embed(
    encoder: Callable[..., Any], *inputs: Any, chunk_size: int = 256, **named_inputs: Any
) -> Any:
    """Encode a batch in micro-batches, of which none but the one at work is kept for the gradient.

    The result is that of ``encoder(*inputs, **named_inputs)``, and any loss may follow it: one that
    compares all samples with each other gets its whole batch, while activations take the memory of
    ``chunk_size`` samples. The backward pass computes each micro-batch once more, about a third
    more time for a step. Together with :func:`lossproof.pairs` neither the encoder nor the loss
    grows with the square of the batch.

    Random numbers (dropout) and autocast are the same the second time; the parameters must be, so
    the optimizer's step comes after the backward pass. The encoder must treat each sample by
    itself: batch normalisation in training is refused, as is whatever else writes to the buffers of
    a Module (also of one that a function uses); another coupling of samples goes unnoticed, as in
    any training in micro-batches. Inside transforms of ``torch.func`` and in forward mode the
    encoder sees the whole batch. A compiled graph is broken here; the encoder may itself be
    compiled.

    Args:
        encoder: a Module or a function of the inputs. It returns a tensor (N, ...), or a tuple or
            dict of such tensors.
        inputs: tensors (N, ...), or tuples, lists and dicts of them. Every tensor that has an axis
            is cut along its first; anything else is given as it is.
        chunk_size: how many samples are encoded at a time.
        named_inputs: further inputs of the encoder by name, cut in the same way.

    Returns:
        What the encoder returns for the whole batch.

    Raises:
        TypeError: the encoder returns something other than tensors.
        ValueError: there is no batch, the tensors have different numbers of rows, a result has
            another number of rows than the micro-batch, or the samples of a batch are coupled.
        RuntimeError: in the backward pass: a parameter of a Module was changed meanwhile.

    Example:
        >>> import torch
        >>> from lossproof.speed import embed
        >>> encoder = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.GELU())
        >>> batch = torch.randn(1000, 8)
        >>> embed(encoder, batch, chunk_size=100).shape
        torch.Size([1000, 64])

    Source:
        Chen, Xu, Zhang, Guestrin (2016), Training deep nets with sublinear memory cost; Gao, Zhang,
        Han, Callan (2021), Scaling deep contrastive learning batch size under memory limited setup
        (GradCache).
    """
    if torch.compiler.is_compiling():
        outside = torch.compiler.disable(embed)  # type: ignore[no-untyped-call]
        return outside(encoder, *inputs, chunk_size=chunk_size, **named_inputs)
    integer("chunk_size", chunk_size, minimum=1)
    if not callable(encoder):
        raise TypeError(f"`encoder` must be a function or a Module, got {encoder!r}")
    leaves, form = pytree.tree_flatten((inputs, named_inputs))
    rows = _rows(leaves)
    _refuse_batch_statistics(encoder)

    parameters = _parameters(encoder)
    given = [_version(one) for one in parameters]

    def encoded(*some: Any) -> Any:
        if [_version(one) for one in parameters] != given:
            raise RuntimeError(
                "a parameter of `encoder` was changed in place before the backward pass, which "
                "computes the embeddings again: take the step of its optimizer afterwards"
            )
        arguments, named = pytree.tree_unflatten(some, form)
        return encoder(*arguments, **named)

    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if rows <= chunk_size or observed(tensors):
        return _checked(encoder(*inputs, **named_inputs), rows)
    buffers = _buffers(encoder)
    before = [_version(one) for _, _, one in buffers]
    parts: list[Any] = []
    for start in range(0, rows, chunk_size):
        some = [_cut(leaf, start, chunk_size) for leaf in leaves]
        part = checkpoint(encoded, *some, use_reentrant=False)
        if not parts:
            _refuse_written(buffers, before)
        parts.append(_checked(part, min(chunk_size, rows - start)))
    return _joined(parts)


def _rows(leaves: Sequence[Any]) -> int:
    """How many samples the batch has."""
    counts = {leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim}
    if not counts:
        raise ValueError("`inputs` must hold a tensor with a batch as its first axis")
    if len(counts) > 1:
        shapes = [list(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim]
        raise ValueError(
            "all tensors of `inputs` must have the batch as their first axis, got the shapes "
            f"{', '.join(map(str, shapes))}"
        )
    return counts.pop()


def _cut(leaf: Any, start: int, count: int) -> Any:
    return leaf[start : start + count] if isinstance(leaf, Tensor) and leaf.ndim else leaf


def _checked(part: Any, count: int) -> Any:
    for leaf in pytree.tree_leaves(part):
        if not isinstance(leaf, Tensor) and leaf is not None:
            raise TypeError(
                f"`encoder` must return tensors, got {type(leaf).__name__}, which cannot be put "
                "together from micro-batches"
            )
        if leaf is not None and (not leaf.ndim or leaf.shape[0] != count):
            raise ValueError(
                f"`encoder` must return a row for each of its {count} samples, got the shape "
                f"{list(leaf.shape)}"
            )
    return part


def _joined(parts: Sequence[Any]) -> Any:
    flat = [pytree.tree_flatten(part) for part in parts]
    columns = zip(*(leaves for leaves, _ in flat), strict=True)
    joined = [None if column[0] is None else torch.cat(column) for column in columns]
    return pytree.tree_unflatten(joined, flat[0][1])


def _refuse_batch_statistics(encoder: Any) -> None:
    for name, part in encoder.named_modules() if isinstance(encoder, nn.Module) else ():
        if isinstance(part, _BatchNorm) and (part.training or part.running_mean is None):
            raise ValueError(
                f"`encoder` must treat each sample by itself, but `{name or type(part).__name__}` "
                f"({type(part).__name__}) normalises by the statistics of the batch, which "
                "micro-batches do not have: put it into evaluation mode, or use another "
                "normalisation (GroupNorm, LayerNorm)"
            )


def _parameters(encoder: Any) -> list[nn.Parameter]:
    parameters: Iterable[Any] = encoder.parameters() if isinstance(encoder, nn.Module) else ()
    return [one for one in parameters if not is_lazy(one)]  # those are written when first used


def _buffers(encoder: Any) -> list[tuple[nn.Module, str, Tensor]]:
    """The buffers that it may write to, each with its owner and name there."""
    return [
        (part, name, buffer)
        for module in modules_of(encoder)
        for part in module.modules()
        for name, buffer in part.named_buffers(recurse=False)
    ]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _refuse_written(
    buffers: Sequence[tuple[nn.Module, str, Tensor]], before: Sequence[int]
) -> None:
    """Refuse an encoder that was seen to write to a buffer, in place or not."""
    for (part, name, buffer), version in zip(buffers, before, strict=True):
        if part._buffers.get(name) is not buffer or _version(buffer) != version:
            raise ValueError(
                f"`encoder` writes to the buffer `{name}` of its {type(part).__name__} in the "
                "forward pass, which is computed twice here and does not see the whole batch: put "
                "the part that does so into evaluation mode"
            )
