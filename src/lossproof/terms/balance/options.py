"""What a step was asked for, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from lossproof.terms.distributed import Ranks
from lossproof.terms.parameters import reusable
from lossproof.terms.targets import EXCLUSIVE, Exclusive
from lossproof.write.arguments import choice, flag, number

Tensor = torch.Tensor
Nonfinite = Literal["raise", "drop", "ignore"]
NONFINITE: tuple[Nonfinite, ...] = get_args(Nonfinite)


@dataclass(frozen=True)
class StepOptions:
    """The options of ``Balancer.backward``, see there.

    Attributes:
        scale: the loss scale of the ``GradScaler``, a scalar tensor, where there is one.
        factor: what the gradient that is added is multiplied by, where it is not 1.
        limits: the largest norm of each term's gradient, infinite where it is not clipped.
        ranks: the processes that train together, if this one is not alone.
    """

    params: Any
    on: Any
    exclusive: Exclusive
    scale: Tensor | None
    factor: float | Tensor | None
    clip: float | None
    limits: Mapping[str, float] | None
    retain_graph: bool
    nonfinite: Nonfinite
    ranks: Ranks | None

    def filling_scale(self, like: Tensor) -> Tensor | None:
        """What the gradient that fills ``.grad`` is multiplied by, in the dtype of the weights."""
        if self.factor is None:
            return None if self.scale is None else self.scale.to(like)
        scale = like.new_ones(()) if self.scale is None else self.scale.to(like)
        return scale * self.factor

    @classmethod
    def checked(
        cls,
        names: Sequence[str],
        device: torch.device,
        *,
        params: Any,
        on: Any,
        exclusive: Any,
        scaler: Any,
        factor: Any,
        clip: Any,
        clip_terms: Any,
        retain_graph: Any,
        nonfinite: Any,
        ranks: Ranks | None,
    ) -> StepOptions:
        if isinstance(on, str):
            choice("on", on, ("shared",))
        choice("exclusive", exclusive, EXCLUSIVE)
        choice("nonfinite", nonfinite, NONFINITE)
        return cls(
            reusable(params),
            reusable(on),
            exclusive,
            _scale(scaler, device),
            _factor(factor),
            None if clip is None else number("clip", clip, above=0),
            _limits(clip_terms, names),
            flag("retain_graph", retain_graph),
            nonfinite,
            ranks,
        )


def _scale(scaler: Any, device: torch.device) -> Tensor | None:
    if scaler is None:
        return None
    if not isinstance(scaler, torch.amp.GradScaler):
        raise TypeError(f"`scaler` must be a torch.amp.GradScaler, got {type(scaler).__name__}")
    if not scaler.is_enabled():
        return None
    scale: Tensor = scaler.scale(torch.ones((), device=device))
    return scale


def _factor(given: Any) -> float | Tensor | None:
    if not isinstance(given, Tensor):
        return None if number("factor", given, above=0) == 1 else given
    if given.numel() != 1 or not given.is_floating_point():
        raise ValueError(
            f"`factor` must hold one number, got {given.dtype} of shape {list(given.shape)}"
        )
    return given.detach().reshape(())


def _limits(given: Any, names: Sequence[str]) -> dict[str, float] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        return dict.fromkeys(names, number("clip_terms", given, above=0))
    unknown = [name for name in given if name not in names]
    if unknown:
        raise ValueError(f"`clip_terms` must name terms of {list(names)}, got {unknown}")
    infinite = dict.fromkeys(names, float("inf"))
    given_limits = {
        name: number(f"clip_terms[{name!r}]", limit, above=0) for name, limit in given.items()
    }
    return infinite | given_limits
