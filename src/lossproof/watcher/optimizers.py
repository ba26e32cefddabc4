"""What each optimizer of a training trains, by the names that the model gives it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from lossproof.watcher.reading import runs_ahead
from lossproof.write.sharding import is_sharded

Tensor = torch.Tensor


class Trained:
    """The parameters that one optimizer updates.

    Attributes:
        key: tells it from other optimizers.
        names: the name of each parameter.
        parameters: the parameters.
        ahead: whether their device runs ahead of the processor.
    """

    def __init__(self, key: int, names: list[str], parameters: list[Tensor]) -> None:
        self.key = key
        self.names = names
        self.parameters = parameters
        self.ahead = runs_ahead(parameters[0])

    @property
    def device(self) -> torch.device:
        """The device of the first parameter."""
        return self.parameters[0].device

    def wanted(self) -> list[str]:
        """The parameters that require a gradient now."""
        return [n for n, p in zip(self.names, self.parameters, strict=True) if p.requires_grad]

    @staticmethod
    def scale(optimizer: torch.optim.Optimizer | None) -> float:
        """The factor of a loss scale that a fused optimizer divides by itself."""
        scale = getattr(optimizer, "grad_scale", None)
        return float(scale) if isinstance(scale, Tensor) and scale.device.type == "cpu" else 1.0

    @staticmethod
    def left_out(optimizer: torch.optim.Optimizer | None) -> bool:
        """Whether a fused optimizer is told that it leaves this step out."""
        found = getattr(optimizer, "found_inf", None)
        if not isinstance(found, Tensor):
            return False
        return found.device.type != "cpu" or bool(found)  # to ask another device would be to wait


class Training:
    """The optimizers that update parameters of a model.

    Args:
        model: what is trained.
        loss: a loss that may hold parameters of its own.
    """

    def __init__(self, model: nn.Module, loss: nn.Module | None) -> None:
        self._model = model
        self._loss = loss
        self._known: dict[int, tuple[torch.optim.Optimizer, int, Trained | None]] = {}

    def of(self, optimizer: torch.optim.Optimizer) -> Trained | None:
        """What an optimizer trains; ``None`` if that is another model."""
        known = self._known.get(id(optimizer))
        groups = len(optimizer.param_groups)
        if known is None or known[1] != groups:
            # The optimizer is kept, so that no other one can get its number.
            known = self._known[id(optimizer)] = (optimizer, groups, self._look(optimizer))
        return known[2]

    def all(self) -> Trained:
        """All parameters of the model and the loss, whatever updates them."""
        found = dict(self._named())
        return Trained(0, list(found), list(found.values()))

    def release(self) -> None:
        """Let go of the optimizers."""
        self._known.clear()

    def parameters(self) -> list[Tensor]:
        """The parameters of the model that require a gradient."""
        return [one for one in self._model.parameters() if one.requires_grad]

    def local_parameters(self) -> list[Tensor] | None:
        """All of them, where a copy of each can be set in its place; ``None`` where not."""
        found: list[Tensor] = list(self._model.parameters())
        if any(is_sharded(one) or one.is_sparse for one in found):
            return None
        return found if len({one.device for one in found}) == 1 else None

    def has_backward_hooks(self) -> bool:
        """Whether a backward pass calls hooks of somebody else."""
        modules = list(self._model.modules())
        tensors = [one for module in modules for one in module._parameters.values()]
        return any(one._backward_hooks or one._backward_pre_hooks for one in modules) or any(
            one is not None and one._backward_hooks for one in tensors
        )

    def _look(self, optimizer: torch.optim.Optimizer) -> Trained | None:
        names = {id(parameter): name for name, parameter in self._named()}
        given = [one for group in optimizer.param_groups for one in group["params"]]
        own = {id(parameter) for parameter in self._model.parameters()}
        if not any(id(one) in own for one in given):
            return None
        words = [names.get(id(one), f"parameter {place}") for place, one in enumerate(given)]
        return Trained(id(optimizer), words, given)

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        if self._loss is not None:
            for name, parameter in self._loss.named_parameters():
                yield f"loss.{name}", parameter
        yield from self._model.named_parameters()
