"""Small models with named terms, each built from one forward pass."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

Tensor = torch.Tensor


@dataclass
class Built:
    """One forward pass: its terms, the parameters by name, and what went in."""

    terms: dict[str, Tensor]
    params: dict[str, Tensor]
    inputs: tuple[Tensor, ...] = ()
    module: nn.Module | None = None


@dataclass(frozen=True)
class Architecture:
    """How to build a model, and how exact its gradients can be.

    Attributes:
        factory: builds the model, runs it forward and returns its terms.
        single: the relative error allowed where the model is float32.
        reach_is_vague: the graph leads to parameters that then get no gradient.
    """

    factory: Callable[[], Built]
    single: float = 1e-4
    reach_is_vague: bool = False

    def build(self, dtype: torch.dtype = torch.float64) -> Built:
        """The model with its terms, the same each time."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            torch.manual_seed(11)
            return self.factory()
        finally:
            torch.set_default_dtype(before)


ARCHITECTURES: dict[str, Architecture] = {}


def register(
    name: str,
    factory: Callable[[], Built],
    *,
    single: float = 1e-4,
    reach_is_vague: bool = False,
) -> None:
    """Add a model under a name."""
    assert name not in ARCHITECTURES, name
    ARCHITECTURES[name] = Architecture(factory, single, reach_is_vague)


def architecture(
    factory: Callable[[], Built] | None = None,
    *,
    single: float = 1e-4,
    reach_is_vague: bool = False,
) -> Callable[..., object]:
    """Add a model under the name of the function that builds it."""

    def add(factory: Callable[[], Built]) -> Callable[[], Built]:
        register(factory.__name__, factory, single=single, reach_is_vague=reach_is_vague)
        return factory

    return add if factory is None else add(factory)


def built(
    terms: Mapping[str, Tensor],
    owner: nn.Module | Mapping[str, Tensor],
    *inputs: Tensor,
) -> Built:
    """The terms with the parameters of a module, or with parameters by name."""
    if isinstance(owner, nn.Module):
        return Built(dict(terms), dict(owner.named_parameters()), inputs, owner)
    return Built(dict(terms), dict(owner), inputs)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) / 2)


def mlp(*sizes: int, activation: Callable[[], nn.Module] = nn.Tanh, bias: bool = True) -> nn.Module:
    """Linear layers with an activation after each but the last."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after, bias=bias), activation()]
    return nn.Sequential(*layers[:-1])


def squares(*predictions: Tensor) -> dict[str, Tensor]:
    """A term for each prediction: the mean square of what differs from a number of its own."""
    return {f"term {k}": (one - 0.3 * k - 0.1).square().mean() for k, one in enumerate(predictions)}


def losses(prediction: Tensor) -> dict[str, Tensor]:
    """Four terms of one prediction, none of which is a multiple of another."""
    return {
        "square": (prediction - 0.4).square().mean(),
        "absolute": (prediction + 0.2).abs().sum() * 3,
        "smooth": torch.logaddexp(prediction, -prediction).mean(),
        "sine": prediction.sin().sum() * 1e-3,
    }
