"""Which parameters the gradients of the terms are wanted for, and what they are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lossproof.terms.unsharded import sharded_originals

Tensor = torch.Tensor


@dataclass(frozen=True)
class Parameters:
    """The chosen parameters, each once, and the names of those that are frozen."""

    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    frozen: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def among(self, keep: Sequence[bool]) -> Parameters:
        """Only those that are kept."""
        kept = [
            pair
            for pair, yes in zip(zip(self.names, self.tensors, strict=True), keep, strict=True)
            if yes
        ]
        return Parameters(
            tuple(name for name, _ in kept), tuple(tensor for _, tensor in kept), self.frozen
        )


def chosen_parameters(params: Any, argument: str = "params") -> Parameters:
    """The parameters that were chosen, by name.

    Args:
        params: a module, a tensor, or an iterable or mapping of leaf tensors, of ``(name, tensor)``
            pairs as ``named_parameters()`` gives them, or of modules. A tensor that stands there
            twice (tied weights) is taken once, under its first name; one that requires no gradient
            is listed as frozen. A second tensor of the same name (of two models) gets a number. For
            a whole copy that ``fully_shard`` made, its sharded parameter is taken.
        argument: what the argument is called.

    Raises:
        TypeError: something in it is neither a tensor nor a module.
        ValueError: none of them requires a gradient, or a tensor is no leaf.

    Example:
        >>> from torch import nn
        >>> from lossproof.terms.parameters import chosen_parameters
        >>> layer = nn.Linear(3, 2)
        >>> _ = layer.bias.requires_grad_(False)
        >>> chosen = chosen_parameters(layer)
        >>> chosen.names, chosen.frozen
        (('weight',), ('bias',))
    """
    names: list[str] = []
    tensors: list[Tensor] = []
    frozen: list[str] = []
    alike: Counter[str] = Counter()
    seen: set[int] = set()
    originals = sharded_originals()
    for name, given in _named(params, argument):
        tensor = originals.get(id(given), given)
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if not tensor.requires_grad:
            frozen.append(name)
            continue
        if not tensor.is_leaf:
            raise ValueError(
                f"`{argument}` must be leaf tensors, but {name!r} was computed from others; give "
                "the parameters themselves"
            )
        alike[name] += 1
        names.append(name if alike[name] == 1 else f"{name} ({alike[name]})")
        tensors.append(tensor)
    if not tensors:
        what = "there is none (a generator such as model.parameters() can be read only once)"
        if frozen:
            what = f"all of them are frozen: {', '.join(map(repr, frozen[:3]))}"
        raise ValueError(f"`{argument}` must hold a parameter that requires a gradient, but {what}")
    return Parameters(tuple(names), tuple(tensors), tuple(frozen))


def reusable(params: Any) -> Any:
    """The same parameters in a form that can be read again and again: no generator."""
    return list(params) if isinstance(params, Iterator) else params


def _named(params: Any, argument: str) -> Iterable[tuple[str, Tensor]]:
    if isinstance(params, nn.Module):
        yield from params.named_parameters()
        return
    if isinstance(params, Tensor):
        yield "parameter 0", params
        return
    if isinstance(params, Mapping):
        params = params.items()
    if isinstance(params, str) or not isinstance(params, Iterable):
        raise TypeError(
            f"`{argument}` must be a module, a tensor or an iterable of either, got "
            f"{type(params).__name__}"
        )
    for position, entry in enumerate(params):
        yield from _entry(position, entry, argument)


def _entry(position: int, entry: Any, argument: str) -> Iterable[tuple[str, Tensor]]:
    if isinstance(entry, Tensor):
        yield f"parameter {position}", entry
    elif isinstance(entry, nn.Module):
        for name, tensor in entry.named_parameters():
            yield f"{position}.{name}", tensor
    elif isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str):
        name, value = entry
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, nn.Module):
            for inner, tensor in value.named_parameters():
                yield f"{name}.{inner}", tensor
        else:
            raise TypeError(f"`{argument}` {name!r} must be a tensor, got {type(value).__name__}")
    else:
        raise TypeError(
            f"`{argument}` must hold tensors or modules, got {type(entry).__name__} at {position}"
        )
