"""The names of the terms, and a state with entries for each of them that is saved and resumed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

import torch
from torch import nn

from lossproof.terms.balance.presence import Axes, axes_of_terms
from lossproof.terms.terms import Terms, named_terms, solving_dtype

Tensor = torch.Tensor


class NamedState(nn.Module):
    """What a balancer keeps: the names of its terms, their weights, and the state of its method.

    All of it is in ``state_dict()``. It is made when the names are known: given, taken from the
    first step, or from the checkpoint that is loaded. It stays float64 under ``.half()`` and
    ``.to(dtype)``, and follows the terms to their device.

    Args:
        names: the names of the terms, in their order.
    """

    weights: Tensor
    """The last weight of each term, K numbers (a buffer; ones before the first refresh)."""

    def __init__(self, names: Sequence[str] | None) -> None:
        super().__init__()
        self.names: tuple[str, ...] | None = None
        self.steps = 0
        if names is not None:
            self._bind(checked_names(names))

    def initial_state(self, count: int) -> dict[str, Tensor]:
        """The buffers that the method keeps for K terms, at their first values."""
        return {}

    def axes_of_state(self) -> Axes:
        """The axes of each buffer and parameter that have one entry for each term.

        The base finds them by asking for the state of one term more; override it for a state whose
        shape says something else.
        """
        count = len(self.names or ())
        axes = axes_of_terms(self.initial_state(count), self.initial_state(count + 1), count)
        others = {
            name: tuple(axis for axis, size in enumerate(tensor.shape) if size == count)
            for held in (self._buffers, self._parameters)
            for name, tensor in held.items()
            if tensor is not None and name not in axes
        }
        return {**others, **axes}

    def _expected(self, terms: Mapping[str, Any]) -> Terms:
        """The terms of this step in the order of the names, which the first step fixes."""
        named = named_terms(terms)
        device = named.tensors[0].device
        if self.names is None:
            self._bind(tuple(terms), device)
        names = self.names or ()
        missing = [name for name in names if name not in terms]
        unknown = [name for name in terms if name not in names]
        if missing or unknown:
            what = f"{missing} missing" if missing else f"{unknown} unknown"
            raise ValueError(
                f"the terms of this balancer are {list(names)}, but {what}; give None for a term "
                "that is absent in this step"
            )
        if self.weights.device != device:
            self.to(device)
        return named.among([name for name in names if terms[name] is not None])

    def _bind(self, names: tuple[str, ...], device: torch.device | None = None) -> None:
        """Fix the names of the terms, and make the state for them."""
        self.names = names
        try:
            state = self.initial_state(len(names))
        except Exception:
            self.names = None  # an option does not fit these terms: others may still be given
            raise
        place = device or torch.device("cpu")
        dtype = solving_dtype(place)
        self.register_buffer("weights", torch.ones(len(names), dtype=dtype, device=place))
        for name, first in state.items():
            self.register_buffer(
                name, first.to(place, dtype if first.is_floating_point() else None)
            )

    def extra_repr(self) -> str:
        """The names of the terms, and the options that are not the defaults."""
        shown = [] if self.names is None else [f"names={list(self.names)}"]
        for name, option in inspect.signature(type(self)).parameters.items():
            held = repr(vars(self).get(name, option.default))
            if name != "names" and held != repr(option.default):
                shown.append(f"{name}={held}")
        return ", ".join(shown)

    def get_extra_state(self) -> dict[str, Any]:
        return {"names": list(self.names) if self.names else None, "steps": self.steps}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        extra = state_dict.get(prefix + "_extra_state") or {}
        names = tuple(extra.get("names") or ())
        if names and self.names is None:
            self._bind(names, state_dict[prefix + "weights"].device)
        if names and names != self.names:
            error_msgs.append(
                f"{type(self).__name__}: the checkpoint is of the terms {list(names)}, this "
                f"balancer of {list(self.names or ())}"
            )
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NamedState:
        """Move the state, and keep its precision: weights of a half model are no half numbers."""
        widest = solving_dtype(fn(torch.empty(0)).device)
        exact = {
            name: buffer.to(widest) if buffer.dtype == torch.float64 else buffer
            for name, buffer in self._buffers.items()
            if buffer is not None
        }
        self._buffers.update(exact)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in exact.items():
            moved = self._buffers[name]
            if moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        return self


def checked_names(names: Any) -> tuple[str, ...]:
    """The names of the terms, as they were given.

    Raises:
        TypeError: it is no sequence of strings.
        ValueError: there is none, or two are the same.

    Example:
        >>> from lossproof.terms.balance.state import checked_names
        >>> checked_names("data")
        Traceback (most recent call last):
        ...
        TypeError: `names` must be a sequence of the names of the terms, got 'data'
    """
    without_order = isinstance(names, Set) and not isinstance(names, type({}.keys()))
    no_names = isinstance(names, str | Mapping | Tensor)
    if no_names or without_order or not isinstance(names, Iterable):
        raise TypeError(f"`names` must be a sequence of the names of the terms, got {names!r}")
    found = tuple(names)
    for name in found:
        if not isinstance(name, str):
            raise TypeError(f"`names` must hold strings, got {name!r}")
    if len(set(found)) != len(found) or not found:
        raise ValueError(f"`names` must be different names of terms, got {list(found)}")
    return found
