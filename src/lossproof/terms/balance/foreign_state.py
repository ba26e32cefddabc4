"""The state of an object of another library, in the checkpoint of the balancer that holds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

Tensor = torch.Tensor

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device)


class ForeignState(nn.Module):
    """Holds a method whose own ``state_dict`` is incomplete or cannot be loaded again.

    What changed since the method was made is saved: buffers, and attributes that are tensors,
    arrays or plain numbers. Its options are not, as in every module.

    Args:
        owner: the object that the user made, which errors name.
        method: the part of it that is called.
    """

    def __init__(self, owner: nn.Module, method: nn.Module) -> None:
        super().__init__()
        # In a tuple it is no submodule, whose buffers would be saved a second time.
        self._held = (method,)
        self.title = type(owner).__name__
        self._at_first = _values(method)
        self._names: tuple[str, ...] | None = None

    @property
    def method(self) -> nn.Module:
        return self._held[0]

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype of the tensors among the options, if there are any."""
        for value in self._at_first.values():
            if isinstance(value, Tensor) and value.is_floating_point():
                return value.dtype
        return None

    def expect(self, names: Sequence[str]) -> None:
        """The terms are those of the steps before, where something is kept of these.

        Raises:
            ValueError: they are others.
        """
        if self._names is None:
            self._names = tuple(names)
        if tuple(names) != self._names and self._changed():
            raise ValueError(
                f"{self.title} keeps a state for the terms {list(self._names)}, got {list(names)}: "
                "give all of them in every step"
            )

    def _changed(self) -> dict[str, Any]:
        return {
            key: value
            for key, value in _values(self.method).items()
            if key not in self._at_first or not _equal(value, self._at_first[key])
        }

    def get_extra_state(self) -> dict[str, Any]:
        changed = self._changed()
        for key, value in changed.items():
            if not _can_be_saved(value):
                raise TypeError(
                    f"the state of {self.title} cannot be saved: `{key}` is of the type "
                    f"{type(value).__name__}"
                )
        names = None if self._names is None else list(self._names)
        return {"names": names, "changed": {key: _saved(value) for key, value in changed.items()}}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self._names = None if state["names"] is None else tuple(state["names"])
        modules = dict(self.method.named_modules())
        loaded = {key: _loaded(value) for key, value in state["changed"].items()}
        back = {key: self._at_first.get(key) for key in self._changed()}
        for key, value in {**back, **loaded}.items():
            path, _, name = key.rpartition(".")
            setattr(modules[path], name, _copied(value))


def _values(method: nn.Module) -> dict[str, Any]:
    """All attributes and buffers of a module and its submodules, by their path."""
    found = {}
    for path, module in method.named_modules():
        own = {name: one for name, one in vars(module).items() if name not in _OF_EVERY_MODULE}
        for name, value in {**own, **module._buffers}.items():
            found[f"{path}.{name}"] = _copied(value)
    return found


def _copied(value: Any) -> Any:
    """Tensors and arrays change in place."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    return value.copy() if isinstance(value, np.ndarray) else value


def _equal(value: Any, other: Any) -> bool:
    if isinstance(value, Tensor) and isinstance(other, Tensor):
        return value.dtype == other.dtype and torch.equal(value.cpu(), other.cpu())
    if isinstance(value, np.ndarray) and isinstance(other, np.ndarray):
        return bool(np.array_equal(value, other))
    if isinstance(value, _PLAIN) and isinstance(other, _PLAIN):
        return type(value) is type(other) and value == other
    if isinstance(value, tuple | list) and isinstance(other, tuple | list):
        return len(value) == len(other) and all(map(_equal, value, other))
    return value is other


def _can_be_saved(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_can_be_saved, value))
    return isinstance(value, (Tensor, np.ndarray, *_PLAIN))


def _saved(value: Any) -> Any:
    """Arrays as tensors: with ``weights_only=True`` nothing else of numpy's is loaded."""
    if isinstance(value, np.ndarray):
        return {"array": torch.from_numpy(value.copy())}
    if isinstance(value, tuple | list):
        return type(value)(map(_saved, value))
    return value


def _loaded(value: Any) -> Any:
    if isinstance(value, dict):
        return value["array"].numpy()
    if isinstance(value, tuple | list):
        return type(value)(map(_loaded, value))
    return value
