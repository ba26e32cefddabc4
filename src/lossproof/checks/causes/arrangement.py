"""The right numbers in the wrong places: swapped, transposed, reordered, wrongly summed."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

import torch

from lossproof.checks.causes.cause import Cause, Kind
from lossproof.checks.causes.edits import broadcasts
from lossproof.checks.causes.source import FunctionSource
from lossproof.checks.causes.study import Study
from lossproof.checks.witness import filled

Tensor = torch.Tensor


def swapped(study: Study, source: FunctionSource | None) -> dict[int, Cause]:
    """Pairs of arguments with each other's gradient."""
    found: dict[int, Cause] = {}
    wrong = study.still_wrong()
    for i in wrong:
        for j in wrong:
            if i < j and _are_swapped(study, i, j):
                cause = Cause(
                    Kind.SWAPPED,
                    f"the gradients of `{study.name(i)}` and `{study.name(j)}` are returned in "
                    "each other's place",
                    help=_exchanged(study, source, i, j),
                )
                found[i] = found[j] = cause
    return found


def _exchanged(study: Study, source: FunctionSource | None, i: int, j: int) -> str:
    """The ``return`` with the two in their places."""
    value = source.returns[-1].value if source is not None and source.returns else None
    if not isinstance(value, ast.Tuple):
        return f"return the gradient of `{study.name(i)}` first"
    texts = [ast.unparse(item) for item in value.elts]
    one, other = study.position(i), study.position(j)
    texts[one], texts[other] = texts[other], texts[one]
    return f"`return {', '.join(texts)}`"


def _are_swapped(study: Study, i: int, j: int) -> bool:
    return (
        study.truth[0][i].shape == study.truth[0][j].shape
        and study.explains(i, (truth[j] for truth in study.truth))
        and study.explains(j, (truth[i] for truth in study.truth))
    )


def transposed(study: Study, k: int) -> Cause | None:
    """The transposed matrix, or the right numbers read in another order."""
    name = study.name(k)
    if study.truth[0][k].dim() < 2:
        return None
    if study.explains(k, (truth[k].transpose(-1, -2) for truth in study.truth)):
        return Cause(
            Kind.TRANSPOSED, f"the gradient of `{name}` is transposed",
            help="transpose it back with `.T`",
        )  # fmt: skip
    for first in range(study.truth[0][k].dim()):
        for second in range(first + 1, study.truth[0][k].dim()):
            if study.explains(k, (_reread(truth[k], first, second) for truth in study.truth)):
                return Cause(
                    Kind.REORDERED,
                    f"the gradient of `{name}` has the right numbers in the wrong order: "
                    "`view` or `reshape` where axes must be swapped",
                    help=f"use `.transpose({first}, {second})` instead of `view` or `reshape`",
                )
    return None


def _reread(truth: Tensor, first: int, second: int) -> Tensor:
    return truth.transpose(first, second).reshape(truth.shape)


def broadcast_sum(study: Study, k: int) -> Cause | None:
    """The gradient of an input that ``forward`` broadcasts must be summed over the copies."""
    if not study.derived:
        return None
    shape = study.scenes[0].point[k].shape
    for position in _larger(study, k):
        whole = _gradients_of_copies(study, k, position)
        if whole is None:
            continue
        larger = study.scenes[0].args[position].shape
        axes = tuple(
            axis
            for axis, size in enumerate(larger)
            if axis < len(larger) - len(shape) or shape[axis - (len(larger) - len(shape))] != size
        )
        shapes = [scene.point[k].shape for scene in study.scenes]
        for words, mend, form in _reductions(axes):
            if study.explains(k, (form(c, s) for c, s in zip(whole, shapes, strict=True))):
                return Cause(
                    Kind.BROADCAST_SUM,
                    f"the gradient of `{study.name(k)}`, which `forward` broadcasts from "
                    f"{tuple(shape)} to {tuple(larger)}, {words}",
                    help=mend,
                )
    return None


def _larger(study: Study, k: int) -> Iterator[int]:
    """The arguments that the ``k``-th can be broadcast to, one for each shape."""
    own, seen = study.scenes[0].point[k], set()
    for position, value in enumerate(study.scenes[0].args):
        if not isinstance(value, Tensor) or value.shape in seen:
            continue
        seen.add(value.shape)
        if value.numel() > own.numel() and broadcasts(own, value.shape):
            yield position


def _gradients_of_copies(study: Study, k: int, position: int) -> list[Tensor] | None:
    """The gradient of each copy that broadcasting makes of the argument, at each point."""
    function, found = study.function, []
    for s, scene in enumerate(study.scenes):
        point = list(scene.point)
        args = list(scene.args)
        try:
            point[k] = point[k].expand(scene.args[position].shape)
            args[function.wanted[k]] = point[k]
            derivation = function.derive(args)
            found.append(filled(derivation.gradient(study.upstream[s][k]), point)[k])
        except Exception:  # `forward` may not take the larger shape
            return None
    return found


def _reductions(
    axes: tuple[int, ...],
) -> list[tuple[str, str, Callable[[Tensor, torch.Size], Tensor]]]:
    along = f"axis {axes[0]}" if len(axes) == 1 else f"axes {axes}"
    mend = f"sum it: `.sum({axes[0] if len(axes) == 1 else axes}, keepdim=True)`"
    return [
        (
            f"is that of the first copy only: the sum over {along} is missing",
            mend,
            lambda g, shape: _first(g, axes).reshape(shape),
        ),
        (
            f"is averaged over {along} where it must be summed",
            mend,
            lambda g, shape: g.mean(axes).reshape(shape),
        ),
        (
            f"is summed over all axes where it must be summed over {along} only",
            mend,
            lambda g, shape: g.sum().expand(shape),
        ),
    ]


def _first(gradient: Tensor, axes: tuple[int, ...]) -> Tensor:
    for axis in axes:
        gradient = gradient.narrow(axis, 0, 1)
    return gradient
