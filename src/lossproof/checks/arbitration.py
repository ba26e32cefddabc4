"""Whether a hand-written backward is right: the witnesses are heard, and the verdict is given.

Two witnesses that agree with each other against the backward convict it; one alone leaves the
question open. Finite differences can acquit a backward that the two exact witnesses accuse: a
``forward`` that is no differentiable code (a bisection) misleads both of them in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from lossproof.checks.examination import Examination
from lossproof.checks.finite_differences import Judgement, Value, direction, judge
from lossproof.checks.trace import FunctionCall
from lossproof.checks.witness import (
    CustomFunction,
    Derivation,
    Measure,
    Scene,
    double_precision,
    filled,
    random_upstream,
)

Tensor = torch.Tensor

EXACT = 1e-7
"""A relative difference up to here is agreement: the limit that a proof states."""
SMALL_ERROR = 1e-6
"""Between ``EXACT`` and this nothing is said: badly conditioned float64 can do that."""
ROUNDING = 1e-3
"""Up to here a difference may come from a backward that computes in float32 or narrower."""
LARGE = 100_000
"""Above this many elements the exact witnesses alone decide."""
ONE_BY_ONE = 256
"""Up to this many elements a gradient is measured one element at a time."""

Status = Literal["proved", "wrong", "surrogate", "unproved", "unused", "raises"]


@dataclass(eq=False)
class FunctionVerdict:
    """What the witnesses say of one hand-written backward."""

    function: CustomFunction
    status: Status
    detail: str
    errors: tuple[float, ...] = ()
    """The relative error of each wanted argument's gradient."""
    wrong: tuple[int, ...] = ()
    """Which of the wanted arguments have a wrong gradient."""
    scene: Scene | None = None
    witnesses: tuple[str, ...] = ()
    """Who says so."""
    narrow: bool = False
    """Whether the backward computes in less than float64, whatever it is given."""


def judge_function(case: Examination, call: FunctionCall, used: Sequence[int]) -> FunctionVerdict:
    """Decide whether one hand-written backward is right.

    Args:
        case: the check it belongs to.
        call: the Function with its arguments.
        used: which of its outputs the loss is made from; empty for all.
    """
    with double_precision(case):
        function = CustomFunction(case, call)
        if not function.wanted:
            return FunctionVerdict(function, "unused", "no gradient is wanted from it")
        return _Hearing(function, case.seed, tuple(used)).verdict()


class _Hearing:
    """Hears the witnesses on one Function, cheapest first, until the question is decided."""

    def __init__(self, function: CustomFunction, seed: int, used: tuple[int, ...]) -> None:
        self.function = function
        self.seed = seed
        self.used = used

    def verdict(self) -> FunctionVerdict:
        function = self.function
        try:
            outputs = function.differentiable_outputs()
            outputs = tuple(i for i in outputs if not self.used or i in self.used) or outputs
            if not outputs:
                return FunctionVerdict(function, "unused", "none of its outputs has a gradient")
            values, _ = function.run()
            self.upstream = random_upstream({i: values[i] for i in outputs}, self.seed)
            claim, _ = function.apply(function.args, self.upstream)
        except Exception as error:
            return FunctionVerdict(function, "raises", f"{type(error).__name__}: {error}")
        self.values, self.narrow = values, claim.narrow
        self.claim = filled(claim.gradients, function.point(function.args))
        self.derivation, self.silence = self._derivation()
        if self.derivation is not None:
            truth = filled(self.derivation.gradient(self.upstream), self.point)
            self.scene = self._scene(truth)
            return self._beside_derivation()
        return self._without_derivation()

    @property
    def point(self) -> list[Tensor]:
        return self.function.point(self.function.args)

    def _scene(self, truth: tuple[Tensor, ...]) -> Scene:
        return Scene(
            self.function, self.function.args, self.upstream, truth, self.claim, self.derivation
        )

    def _derivation(self) -> tuple[Derivation | None, str]:
        try:
            found = self.function.derive()
            if found.blind is not None:
                return None, found.blind
            found.gradient(self.upstream)
        except Exception as error:
            return None, f"`forward` cannot be re-derived ({type(error).__name__}: {_short(error)})"
        return found, ""

    # ------------------------------------------------------------------ with the re-derivation
    def _beside_derivation(self) -> FunctionVerdict:
        scene = self.scene
        errors = tuple(scene.error(k) for k in range(len(scene.truth)))
        wrong = tuple(k for k, error in enumerate(errors) if error > EXACT)
        if not wrong:
            return self._acquitted(errors)
        if self._is_surrogate(scene, wrong):
            return self._surrogate(errors, wrong)
        limit = ROUNDING if self.narrow else SMALL_ERROR
        if max(errors) <= limit:
            why = (
                "it computes in float32 or narrower"
                if self.narrow
                else "rounding may be the reason"
            )
            return FunctionVerdict(
                self.function, "proved",
                f"right to a relative error of {max(errors):.0e} only: {why}",
                errors, scene=scene,
            )  # fmt: skip
        return self._accused(errors, wrong)

    def _acquitted(self, errors: tuple[float, ...]) -> FunctionVerdict:
        """The re-derivation agrees with the backward; one more witness is heard."""
        witnesses = ["re-derivation"]
        if self.function.numel <= LARGE:
            said = self._finite_differences(self.claim, range(len(self.claim)), 1)
            if any(j.verdict == "differs" for j in said):
                if self._forward_mode_agrees(self.claim, None) is not True:
                    return FunctionVerdict(
                        self.function, "unproved",
                        "the re-derived gradient agrees with it, finite differences do not",
                        errors, scene=self.scene,
                    )  # fmt: skip
                witnesses.append("forward mode")
            elif any(j.verdict == "agrees" for j in said):
                witnesses.append("finite differences")
        if len(witnesses) == 1 and self._forward_mode_agrees(self.claim, None):
            witnesses.append("forward mode")
        if len(witnesses) == 1:
            return FunctionVerdict(
                self.function, "unproved",
                "the re-derived gradient agrees with it, but no second witness could be heard",
                errors, scene=self.scene,
            )  # fmt: skip
        return self._proved(errors, witnesses)

    def _proved(self, errors: tuple[float, ...], witnesses: Sequence[str]) -> FunctionVerdict:
        return FunctionVerdict(
            self.function, "proved",
            f"would have seen a relative gradient error above {EXACT:.0e} "
            f"({' and '.join(witnesses)} agree)",
            errors, scene=getattr(self, "scene", None), witnesses=tuple(witnesses),
        )  # fmt: skip

    def _accused(self, errors: tuple[float, ...], wrong: tuple[int, ...]) -> FunctionVerdict:
        """The re-derivation accuses the backward; it needs a second witness, and none against."""
        truth = self.scene.truth
        witnesses = ["re-derivation"]
        against = self._finite_differences(self.claim, wrong, 4)
        if against and all(j.verdict == "agrees" for j in against):
            return FunctionVerdict(
                self.function, "proved",
                "finite differences agree with it along 4 directions (differentiating the Python "
                "of `forward` gives something else: it is no differentiable code)",
                errors, witnesses=("finite differences",),
            )  # fmt: skip
        if self.function.numel <= LARGE or not against:
            beside = self._finite_differences(truth, wrong, 2)
            if any(j.verdict == "differs" for j in beside):
                return FunctionVerdict(
                    self.function,
                    "unproved",
                    "the re-derived gradient differs from it, and finite differences from both",
                    errors,
                    scene=self.scene,
                )
            # What is not finite cannot be compared: that it differs is plain.
            differs = any(j.verdict == "differs" for j in against) or not self._finite(wrong)
            if differs and any(j.verdict == "agrees" for j in beside):
                witnesses.append("finite differences")
            against = against or beside
        # Forward mode is heard last: its first use in a process makes torch load its compiler.
        if (
            len(witnesses) == 1
            and self._forward_mode_agrees(truth, wrong)
            and not self._forward_mode_agrees(self.claim, wrong)
        ):
            witnesses.append("forward mode")
        # The two exact witnesses read the same Python; without finite differences they are one.
        if len(witnesses) == 1 or all(j.verdict == "silent" for j in against):
            return FunctionVerdict(
                self.function, "unproved",
                "the re-derived gradient differs from it, but no second witness could be heard",
                errors, scene=self.scene,
            )  # fmt: skip
        return FunctionVerdict(
            self.function, "wrong", "", errors, wrong, self.scene, tuple(witnesses), self.narrow
        )

    def _finite(self, which: Sequence[int]) -> bool:
        return all(bool(torch.isfinite(self.claim[k]).all()) for k in which)

    # ------------------------------------------------------------------ without it
    def _without_derivation(self) -> FunctionVerdict:
        """``forward`` cannot be re-derived: forward mode and finite differences remain."""
        everything = tuple(range(len(self.claim)))
        said = self._finite_differences(self.claim, everything, 4)
        flat = self._flat()
        if flat:
            return FunctionVerdict(
                self.function, "surrogate",
                "`forward` is piecewise constant, so its backward is a surrogate gradient",
            )  # fmt: skip
        if said and all(j.verdict == "agrees" for j in said):
            return self._proved((), ["finite differences along 4 directions"])
        if any(j.verdict == "differs" for j in said):
            function = self.function
            verdict = None
            if not self._numbers_leave() and self._forward_mode_agrees(self.claim, None) is False:
                verdict = self._measured(function.by_forward_mode, "forward mode")
            if verdict is None and self._integral_differs():
                verdict = self._measured(function.by_finite_differences, "the path integral")
            return verdict or FunctionVerdict(
                function, "unproved",
                f"finite differences differ from it, but they stand alone: {self.silence}",
            )  # fmt: skip
        return FunctionVerdict(self.function, "unproved", self.silence)

    def _measured(self, measure: Measure, witness: str) -> FunctionVerdict | None:
        """A conviction by finite differences and another witness, with the truth as measured."""
        if self.function.numel > ONE_BY_ONE:
            return None
        try:
            truth = measure(self.function.args, self.upstream)
        except Exception:  # the user's code may refuse the point
            return None
        self.scene = replace(self._scene(truth), measure=measure)
        everything = range(len(truth))
        errors = tuple(self.scene.error(k) for k in everything)
        exact = measure == self.function.by_forward_mode
        wrong = tuple(k for k in everything if errors[k] > (SMALL_ERROR if exact else ROUNDING))
        beside = self._finite_differences(truth, wrong, 2) if exact else []
        if not wrong or any(j.verdict == "differs" for j in beside):
            return None
        return FunctionVerdict(
            self.function, "wrong", "", errors, wrong, self.scene,
            (witness, "finite differences"), self.narrow or not exact,
        )  # fmt: skip

    def _integral_differs(self) -> bool:
        """Whether the gradient, summed up along a line, misses by how much the value changes.

        The fundamental theorem of calculus holds for every gradient, over steps that rounding and
        kinks do not touch: a witness that finite differences at one point know nothing of.
        """
        value = self.function.value(self.upstream)
        along = [direction(tensor, self.seed, k, 1_618) for k, tensor in enumerate(self.point)]

        def at(t: float) -> list[Tensor]:
            return [x + t * u for x, u in zip(self.point, along, strict=True)]

        def slope(t: float) -> float:
            args = self.function.at(at(t))
            gradients = self.function.gradient(args, self.upstream)
            return sum(float((g * u).sum()) for g, u in zip(gradients, along, strict=True))

        for length in (0.1, 0.01):
            try:
                change = value(at(length))[0] - value(at(0.0))[0]
                coarse, fine = (_integral(slope, length, nodes) for nodes in (8, 16))
            except Exception:  # the line leaves the domain
                continue
            scale = max(abs(change), abs(fine))
            if math.isfinite(scale) and abs(coarse - fine) <= 1e-4 * scale:
                return abs(change - fine) > 1e-2 * scale
        return False

    def _numbers_leave(self) -> bool:
        return "takes numbers out of torch" in self.silence

    # ------------------------------------------------------------------ the witnesses
    def _finite_differences(
        self, gradient: Sequence[Tensor], which: Sequence[int] | range, directions: int
    ) -> list[Judgement]:
        """What finite differences say of a gradient, argument by argument."""
        value = self.function.value(self.upstream)
        found: list[Judgement] = []
        for k in which:
            if not bool(torch.isfinite(gradient[k]).all()):
                continue
            said = self._judged(value, gradient[k], k, directions)
            if all(j.verdict == "silent" for j in said):
                # A search (bisection, sorting) takes other branches at every step, and may be
                # smooth all the same: let the error estimate alone decide.
                said = self._judged(lambda point: (value(point)[0], []), gradient[k], k, directions)
            found += said
        return found

    def _judged(self, value: Value, gradient: Tensor, k: int, directions: int) -> list[Judgement]:
        return judge(value, self.point, k, gradient, seed=self.seed, directions=directions)

    def _tangent(self, k: int) -> Tensor:
        return direction(self.point[k], self.seed, k, 15_485)

    def _forward_mode_agrees(
        self, gradient: Sequence[Tensor], which: Sequence[int] | None
    ) -> bool | None:
        """Whether forward mode gives the same; ``None`` where it cannot be run."""
        groups = [tuple(range(len(gradient)))] if which is None else [(k,) for k in which]
        for group in groups:
            tangents: list[Tensor | None] = [None] * len(gradient)
            for k in group:
                tangents[k] = self._tangent(k)
            try:
                found = self.function.directional(self.function.args, self.upstream, tangents)
            except Exception:  # an operation without forward mode
                return None
            expected, scale = 0.0, 0.0
            for k in group:
                tangent = tangents[k]
                assert tangent is not None
                expected += float((gradient[k] * tangent).sum())
                scale += float(gradient[k].norm() * tangent.norm())
            if not (math.isfinite(found) and math.isfinite(expected)):
                return None
            scale = max(scale, abs(found), 1e-300)
            if abs(found - expected) > EXACT * scale:
                return False
        return True

    # ------------------------------------------------------------------ wrong on purpose
    def _flat(self) -> bool:
        """Whether ``forward`` stays exactly the same for small changes of its arguments."""
        value = self.function.value(self.upstream)
        try:
            here = value(self.point)[0]
            for sign in (1, -1):
                for size in (1e-6, 1e-4):
                    moved = [t + sign * size * self._tangent(k) for k, t in enumerate(self.point)]
                    if value(moved)[0] != here:
                        return False
        except Exception:
            return False
        return any(bool((claim != 0).any()) for claim in self.claim)

    def _is_surrogate(self, scene: Scene, wrong: tuple[int, ...]) -> bool:
        return all(self._passes_through(scene, k) or self._is_flat(scene, k) for k in wrong)

    def _is_flat(self, scene: Scene, k: int) -> bool:
        """A zero derivative of an argument that is used all the same: rounded, compared."""
        if bool((scene.truth[k] != 0).any()):
            return False
        assert scene.derivation is not None
        position = self.function.wanted[k]
        return any(position in op.inputs for op in scene.derivation.recorder.operations)

    def _passes_through(self, scene: Scene, k: int) -> bool:
        """Whether ``forward`` returns the argument unchanged, or clamped.

        Its backward is then its point: gradient reversal, scaling and clipping are written so.
        """
        for i, weight in self.upstream.items():
            output, truth = self.values[i], scene.truth[k]
            if output.shape != truth.shape:
                continue
            through = truth == weight
            same = output == self.point[k]
            if bool((through | (truth == 0)).all()) and bool(through.any()):
                if bool((same | ~through).all()):
                    return True
        return False

    def _surrogate(self, errors: tuple[float, ...], wrong: tuple[int, ...]) -> FunctionVerdict:
        scene = self.scene
        if any(self._passes_through(scene, k) for k in wrong):
            detail = (
                "`forward` passes its input through, so a backward that is not its derivative "
                "(reversed, scaled or clipped) is taken to be on purpose"
            )
        else:
            names = ", ".join(f"`{self.function.name_of(self.function.wanted[k])}`" for k in wrong)
            detail = (
                f"`forward` is piecewise constant in {names}: its derivative is zero, and the "
                "backward a surrogate gradient that nothing can prove or refute"
            )
        return FunctionVerdict(self.function, "surrogate", detail, errors, wrong, scene)


def _integral(function: Callable[[float], float], length: float, nodes: int) -> float:
    """The integral from 0 to ``length`` by Gauss's rule."""
    places, weights = np.polynomial.legendre.leggauss(nodes)
    half = length / 2
    return half * sum(
        float(w) * function(half * (float(x) + 1)) for x, w in zip(places, weights, strict=True)
    )


def _short(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:160]
