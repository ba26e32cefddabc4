"""A wrong gradient at two points, so that no cause is named by coincidence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from lossproof.checks.witness import (
    CustomFunction,
    Scene,
    random_upstream,
    relative_error,
)

Tensor = torch.Tensor

AGREES = 1e-8
"""A hypothesis holds if it predicts the wrong gradient to this relative error."""
AGREES_NARROW = 1e-4
"""The same for a backward that computes in float32."""


class Study:
    """The truth and the claim for each argument, at the inputs and at a second point.

    ``truth[s][k]`` and ``claim[s][k]`` belong to scene ``s`` and the ``k``-th argument that wants
    a gradient. They are what is to be explained: a fault in the use of ``grad_output`` that has
    been named already is taken out of them (:mod:`~lossproof.checks.causes.upstream`).
    """

    def __init__(self, scene: Scene, wrong: Sequence[int], narrow: bool = False) -> None:
        self.function = scene.function
        self.wrong = tuple(wrong)
        self.tolerance = AGREES_NARROW if narrow else AGREES
        second = _second_scene(scene)
        self.scenes: tuple[Scene, ...] = (scene,) if second is None else (scene, second)
        self.upstream = [[s.upstream] * len(s.truth) for s in self.scenes]
        """The gradient sent backward that each argument's claim is to be compared under."""
        self.truth = [list(s.truth) for s in self.scenes]
        self.claim = [list(s.claim) for s in self.scenes]

    @property
    def derived(self) -> bool:
        """Whether the graph of ``forward`` is there at every point."""
        return all(scene.derivation is not None for scene in self.scenes)

    def same(self, found: Tensor | None, s: int, k: int) -> bool:
        """Whether a prediction is the claim."""
        if found is None or found.shape != self.claim[s][k].shape:
            return False
        return relative_error(self.claim[s][k], found, self.scenes[s].floor) <= self.tolerance

    @property
    def points(self) -> range:
        """The numbers of the scenes."""
        return range(len(self.scenes))

    def explains(self, k: int, predictions: Iterable[Tensor | None]) -> bool:
        """Whether predictions of the claim hold, one for each point; lazy ones save work."""
        return all(self.same(found, s, k) for s, found in enumerate(predictions))

    def still_wrong(self) -> tuple[int, ...]:
        """The arguments whose claim differs from the truth it is compared with."""
        return tuple(
            k
            for k in range(len(self.truth[0]))
            if not self.explains(k, (truth[k] for truth in self.truth))
        )

    def name(self, k: int) -> str:
        """The name of the argument in ``forward``."""
        return self.function.name_of(self.function.wanted[k])

    def position(self, k: int) -> int:
        """The position of the argument in ``forward``."""
        return self.function.wanted[k]


def _second_scene(scene: Scene) -> Scene | None:
    """The same Function a little away, under another gradient sent backward, and smaller.

    A size that is smaller by one tells a factor that is a size from a plain number.
    """
    function, found = scene.function, None
    for size in (0.2, 0.01):
        point = [_shifted(tensor, size, i) for i, tensor in enumerate(scene.point)]
        args = function.at(point)
        found = _scene_at(function, args, scene)
        if found is not None:
            break
    if found is None:
        return None
    for size in _sizes(scene.point):
        args = tuple(_narrowed(value, size) for value in found.args)
        found = _scene_at(function, args, scene) or found
    return found


def _sizes(point: Sequence[Tensor]) -> list[int]:
    """The different sizes of the axes, the batch first."""
    sizes = dict.fromkeys(
        size for axis in range(4) for t in point for size in t.shape[axis : axis + 1]
    )
    return [size for size in sizes if size > 2]


def _narrowed(value: object, size: int) -> object:
    """A tensor without the last element of every axis of this size."""
    if not isinstance(value, Tensor):
        return value
    for axis, length in enumerate(value.shape):
        if length == size:
            value = value.narrow(axis, 0, size - 1)
    return value.contiguous()


def _scene_at(function: CustomFunction, args: tuple[object, ...], first: Scene) -> Scene | None:
    """The truth and the claim at other arguments; ``None`` where the Function refuses them."""
    try:
        values, _ = function.run(args)
        upstream = random_upstream({i: values[i] for i in first.upstream}, function.seed + 1)
        derivation = None if first.derivation is None else function.derive(args)
        claim = function.gradient(args, upstream)
        found = Scene(function, args, upstream, claim, claim, derivation, first.measure)
        truth = found.truth_for(upstream)
    except Exception:  # the user's code may refuse the point
        return None
    if truth is None or not all(bool(torch.isfinite(g).all()) for g in truth):
        return None
    return replace(found, truth=truth)


def _shifted(tensor: Tensor, size: float, tag: int) -> Tensor:
    """Elements moved by up to a share of themselves: signs, zeros and domains stay as they are."""
    generator = torch.Generator().manual_seed(4_256_233 + tag)
    noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) * 2 - 1
    return tensor.detach() * (1 + size * noise)
