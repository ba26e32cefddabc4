"""Steps of a training that were recorded by hand, as a guard records them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lossproof.checks.trace import tensors_in
from lossproof.watcher.record import Call, StepRecord


class Recording:
    """One step: calls are made as a training makes them, and written down."""

    def __init__(self, number: int = 12) -> None:
        self.record = StepRecord(number)

    def model(self, model: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the model."""
        return self._call("model", "model", model, args, kwargs)

    def terms(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call something that returns terms."""
        result = self._call("terms", "loss", function, args, kwargs)
        found = result if isinstance(result, dict) else {"loss": result}
        self.record.terms |= found
        return result

    def _call(
        self, role: Any, name: str, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        state = {torch.device("cpu"): torch.get_rng_state()}
        autocast = (
            {"cpu": torch.get_autocast_dtype("cpu")} if torch.is_autocast_enabled("cpu") else {}
        )
        result = function(*args, **kwargs)
        versions = tuple(tensor._version for tensor in tensors_in([args, kwargs]))
        call = Call(role, name, function, args, kwargs, versions, state, result, autocast)
        self.record.calls.append(call)
        return result


@pytest.fixture
def recording() -> Recording:
    """A step to be recorded."""
    return Recording()


@pytest.fixture
def next_recording() -> Recording:
    """The step after it."""
    return Recording(13)


def two_layers(width: int = 4, out: int = 1) -> nn.Sequential:
    """A small network, the same every time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, out))


@pytest.fixture
def network() -> Callable[..., nn.Sequential]:
    """Makes small networks."""
    return two_layers
