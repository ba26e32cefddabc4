"""The true gradient of a hand-written backward, by witnesses that do not know of each other.

An ``autograd.Function`` claims a gradient. Three witnesses say what it should be:

* **re-derivation** runs ``forward`` as ordinary differentiable code, so that autograd itself
  derives the gradient, exactly and for every element;
* **forward mode** carries dual numbers through the same Python: a directional derivative, exact;
* **finite differences** call ``forward`` as a function of numbers and trust no derivative at all.

:func:`judge_function` hears them and decides. Two that agree with each other against the backward
convict it; one alone leaves the question open.
"""

from __future__ import annotations

import contextlib
import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch.autograd import forward_ad

from lossproof.checks.examination import Examination, untouched_globals
from lossproof.checks.finite_differences import Judgement, Point, judge
from lossproof.checks.sources import Sources
from lossproof.checks.subject import separate_setup
from lossproof.checks.trace import (
    HALVES,
    FunctionCall,
    Recorder,
    _Interceptor,
    branch_taken,
    tensors_in,
)

Tensor = torch.Tensor
Gradients = tuple["Tensor | None", ...]

EXACT = 1e-7
"""A relative difference up to here is agreement: the limit that a proof states."""
ROUNDING = 1e-3
"""Up to here a difference may come from a backward that computes in float32 or narrower."""
SMALL_ERROR = 1e-6
"""Between ``EXACT`` and this nothing is said: badly conditioned float64 can do that."""
LARGE = 100_000
"""Above this many elements the exact witnesses alone decide."""
MAKERS = frozenset(
    """
    zeros_like ones_like empty_like full_like rand_like randn_like new_zeros new_ones new_empty
    new_full new_tensor empty_strided new_empty_strided
    """.split()
)
"""Operations that take only the shape of their operand: no number leaves through them."""
FULL_DUAL = 256
"""Up to this many elements forward mode gives the whole gradient, one element at a time."""


class StandInContext:
    """Stands in for torch's ``ctx`` while ``forward`` runs as ordinary code."""

    def __init__(self, needs: Sequence[bool]) -> None:
        self.needs_input_grad = tuple(needs)
        self.saved: tuple[Any, ...] = ()
        self.non_differentiable: tuple[Tensor, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved = tensors

    def save_for_forward(self, *tensors: Any) -> None:
        pass

    def mark_dirty(self, *tensors: Tensor) -> None:
        pass

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        self.non_differentiable = tensors

    def set_materialize_grads(self, value: bool) -> None:
        pass

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        return self.saved


def perform_forward(
    cls: type[torch.autograd.Function], args: Sequence[Any], needs: Sequence[bool]
) -> tuple[Any, StandInContext]:
    """Run ``forward`` (and ``setup_context`` where there is one) as plain Python."""
    ctx = StandInContext(needs)
    if separate_setup(cls):
        output = cls.forward(*args)
        cls.setup_context(ctx, tuple(args), output)
    else:
        output = cls.forward(ctx, *args)
    return output, ctx


class AsOrdinaryCode(Recorder):
    """Records a ``forward`` that runs as ordinary differentiable code.

    Inside a real ``forward`` no graph is built, so ``detach``, ``.data`` and ``no_grad`` mean
    nothing there; here they would hide a path, and so they do nothing. A Function called inside
    is run through its own ``forward`` in the same way: it is judged on its own.
    """

    def __init__(self, sources: Sources, inputs: Sequence[Tensor | None], graph: bool) -> None:
        super().__init__(sources, inputs, lift=True)
        self.graph = graph

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self.graph and func is torch.autograd.grad:
            return func(*args, **{**kwargs, "retain_graph": True})
        if self.graph and func is Tensor.backward:
            return func(*args, **{**kwargs, "retain_graph": True})
        if self.graph and func is Tensor.requires_grad_ and not args[0].is_leaf:
            # A detached piece that its author differentiates by itself, inside `forward`.
            args[0].retain_grad()
            return args[0]
        return super().__torch_function__(func, types, args, kwargs)

    def operate(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if name == "_set_grad_enabled" and self.graph:
            return None
        if name in ("detach", "data"):
            func, args, kwargs = torch.ops.aten.alias.default, args[:1], {}
        return super().operate(func, name, args, kwargs)

    def call_function(
        self, cls: type, apply: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        needs = [isinstance(value, Tensor) and value.requires_grad for value in args]
        return perform_forward(cls, args, needs)[0]


class _Branches(_Interceptor):
    """Notes which branch each element takes in a ``forward`` that runs on plain numbers."""

    def __init__(self) -> None:
        super().__init__(lift=True)
        self.taken: list[Tensor] = []

    def operate(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        out = func(*args, **kwargs)
        with torch._C.DisableTorchFunction(), torch.no_grad():
            branch = branch_taken(name, args, kwargs, out)
        if branch is not None:
            self.taken.append(branch)
        return out


@contextlib.contextmanager
def double_precision(case: Examination) -> Iterator[None]:
    """Everything the block computes is float64, and leaves no trace in the loss or in torch."""
    default = torch.get_default_dtype()
    with untouched_globals(case.seed), case.subject.state.lent(torch.float64):
        torch.set_default_dtype(torch.float64)
        try:
            with torch.enable_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            torch.set_default_dtype(default)


def _as_tuple(output: Any) -> tuple[Any, ...]:
    return tuple(output) if isinstance(output, (tuple, list)) else (output,)


@dataclass(eq=False)
class Derivation:
    """``forward`` run as ordinary code: the graph of derivatives that autograd built itself."""

    leaves: tuple[Tensor, ...]
    """The arguments that want a gradient."""
    outputs: tuple[Any, ...]
    recorder: Recorder
    saved: StandInContext

    def gradient(self, upstream: dict[int, Tensor], *, create_graph: bool = False) -> Gradients:
        """The gradient for each leaf of the outputs weighted by ``upstream``."""
        pairs = [
            (self.outputs[i], weight)
            for i, weight in upstream.items()
            if isinstance(self.outputs[i], Tensor) and self.outputs[i].requires_grad
        ]
        if not pairs or not self.leaves:
            return (None,) * len(self.leaves)
        return torch.autograd.grad(
            [output for output, _ in pairs],
            self.leaves,
            [weight for _, weight in pairs],
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
        )

    @property
    def blind(self) -> str | None:
        """Why the graph may lack a path, if a number left it on its way through ``forward``."""
        for stop in self.recorder.stops:
            if not stop.discrete and stop.operation.name not in MAKERS:
                return f"`{stop.operation.name}` takes numbers out of torch in `forward`"
        return None


@dataclass(eq=False)
class Claim:
    """What the hand-written backward says."""

    gradients: Gradients
    narrow: bool
    """Whether anything was computed in less than float64, in spite of float64 arguments."""


class CustomFunction:
    """An ``autograd.Function`` with arguments in float64, run in every way a witness needs.

    Use it inside :func:`double_precision`.
    """

    def __init__(self, case: Examination, call: FunctionCall) -> None:
        self.cls = call.cls
        self.site = call.site
        self.sources = case.subject.sources
        self.seed = case.seed
        self.args = tuple(_double(value) for value in call.args)
        self.needs = call.needs
        self.wanted = tuple(
            i
            for i, (value, needs) in enumerate(zip(self.args, call.needs, strict=True))
            if needs and isinstance(value, Tensor) and value.is_floating_point()
        )
        self.argument_names = _argument_names(self.cls, len(self.args))

    @property
    def numel(self) -> int:
        """How many elements want a gradient."""
        return sum(self.args[i].numel() for i in self.wanted)

    def name_of(self, position: int) -> str:
        """The name that ``forward`` gives to an argument."""
        return self.argument_names[position]

    def point(self, args: Sequence[Any]) -> list[Tensor]:
        """The wanted arguments alone."""
        return [args[i] for i in self.wanted]

    def at(self, point: Sequence[Tensor]) -> tuple[Any, ...]:
        """The arguments with the wanted ones replaced."""
        args = list(self.args)
        for i, value in zip(self.wanted, point, strict=True):
            args[i] = value
        return tuple(args)

    def _reseed(self) -> None:
        torch.manual_seed(self.seed)
        random.seed(self.seed)
        np.random.seed(self.seed % 2**32)

    def _copies(self, args: Sequence[Any], *, grad: bool) -> tuple[list[Any], list[Tensor]]:
        """Fresh arguments that are no leaves (``forward`` may write to them), and their leaves."""
        copies = [value.detach().clone() if isinstance(value, Tensor) else value for value in args]
        leaves = []
        if grad:
            for i in self.wanted:
                leaf = copies[i].requires_grad_()
                leaves.append(leaf)
                copies[i] = leaf.clone()
        return copies, leaves

    def derive(self, args: Sequence[Any] | None = None) -> Derivation:
        """Run ``forward`` as ordinary code under autograd."""
        copies, leaves = self._copies(self.args if args is None else args, grad=True)
        inputs = [value if isinstance(value, Tensor) else None for value in copies]
        recorder = AsOrdinaryCode(self.sources, inputs, graph=True)
        self._reseed()
        with recorder:
            output, ctx = perform_forward(self.cls, copies, self.needs)
        return Derivation(tuple(leaves), _as_tuple(output), recorder, ctx)

    def run(self, args: Sequence[Any] | None = None) -> tuple[tuple[Any, ...], StandInContext]:
        """Run ``forward`` on plain numbers, as ``apply`` does, with a context to look into."""
        copies, _ = self._copies(self.args if args is None else args, grad=False)
        self._reseed()
        with torch.no_grad(), _Branches():
            output, ctx = perform_forward(self.cls, copies, self.needs)
        return _as_tuple(output), ctx

    def apply(
        self, args: Sequence[Any], upstream: dict[int, Tensor], *, create_graph: bool = False
    ) -> tuple[Claim, tuple[Tensor, ...]]:
        """The hand-written gradient, through torch's own machinery, and the leaves it is for."""
        copies, leaves = self._copies(args, grad=True)
        recorder = Recorder(self.sources, (), lift=True)
        self._reseed()
        with recorder:
            outputs = _as_tuple(self.cls.apply(*copies))
            pairs = [
                (outputs[i], weight)
                for i, weight in upstream.items()
                if isinstance(outputs[i], Tensor) and outputs[i].requires_grad
            ]
            found: Gradients = (None,) * len(leaves)
            if pairs and leaves:
                found = torch.autograd.grad(
                    [output for output, _ in pairs],
                    leaves,
                    [weight for _, weight in pairs],
                    create_graph=create_graph,
                    allow_unused=True,
                )
        narrow = any(
            tensor.dtype in HALVES
            for _, result in recorder.results.values()
            for tensor in tensors_in(result)
        )
        return Claim(found, narrow), tuple(leaves)

    def gradient(self, args: Sequence[Any], upstream: dict[int, Tensor]) -> tuple[Tensor, ...]:
        """The hand-written gradient, with zeros where it is ``None``."""
        return filled(self.apply(args, upstream)[0].gradients, self.point(args))

    def differentiable_outputs(self) -> tuple[int, ...]:
        """Which outputs of ``apply`` carry a gradient."""
        copies, _ = self._copies(self.args, grad=True)
        self._reseed()
        with Recorder(self.sources, (), lift=True):
            outputs = _as_tuple(self.cls.apply(*copies))
        return tuple(
            i for i, out in enumerate(outputs) if isinstance(out, Tensor) and out.requires_grad
        )

    def directional(
        self, args: Sequence[Any], upstream: dict[int, Tensor], tangents: Sequence[Tensor | None]
    ) -> float:
        """The derivative along ``tangents`` by dual numbers through the Python of ``forward``."""
        copies, _ = self._copies(args, grad=False)
        self._reseed()
        with forward_ad.dual_level(), torch.no_grad():
            for i, tangent in zip(self.wanted, tangents, strict=True):
                if tangent is not None:
                    copies[i] = forward_ad.make_dual(copies[i], tangent)
            inputs = [value if isinstance(value, Tensor) else None for value in copies]
            with AsOrdinaryCode(self.sources, inputs, graph=False):
                output, _ = perform_forward(self.cls, copies, self.needs)
            total = 0.0
            for i, weight in upstream.items():
                moved = forward_ad.unpack_dual(_as_tuple(output)[i]).tangent
                if moved is not None:
                    total += float((moved * weight).sum())
        return total

    def value(self, upstream: dict[int, Tensor]) -> Callable[[Point], tuple[float, list[Tensor]]]:
        """``forward`` as a function of numbers: outputs weighted by ``upstream``, and branches."""

        def value(point: Point) -> tuple[float, list[Tensor]]:
            copies, _ = self._copies(self.at(point), grad=False)
            self._reseed()
            branches = _Branches()
            with torch.no_grad(), branches:
                output, _ = perform_forward(self.cls, copies, self.needs)
            outputs = _as_tuple(output)
            total = sum(float((outputs[i] * weight).sum()) for i, weight in upstream.items())
            return float(total), branches.taken

        return value


def _double(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().to(torch.float64)
    return value


def _argument_names(cls: type[torch.autograd.Function], count: int) -> tuple[str, ...]:
    import inspect

    try:
        parameters = list(inspect.signature(cls.forward).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    if parameters and not separate_setup(cls):
        parameters = parameters[1:]
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return tuple(names[i] if i < len(names) else f"input {i}" for i in range(count))


def filled(gradients: Gradients, like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Gradients with zeros in the place of ``None``."""
    return tuple(
        torch.zeros_like(tensor) if gradient is None else gradient.detach()
        for gradient, tensor in zip(gradients, like, strict=True)
    )


def relative_error(found: Tensor, right: Tensor, floor: float = 0.0) -> float:
    """The largest difference of two gradients, relative to the larger one's largest element.

    Elements where ``right`` itself is not finite are left out: a hand-written backward may well be
    finite where autograd is not, which is what people write one for.
    """
    if found.shape != right.shape:
        return math.inf
    finite = torch.isfinite(right)
    if not bool(finite.any()):
        return 0.0 if right.numel() else 0.0
    found, right = found[finite], right[finite]
    if not bool(torch.isfinite(found).all()):
        return math.inf
    scale = max(float(found.abs().max()), float(right.abs().max()), floor)
    return 0.0 if scale == 0 else float((found - right).abs().max()) / scale


def random_upstream(outputs: dict[int, Tensor], seed: int) -> dict[int, Tensor]:
    """A gradient to send backward in which no two elements are equal."""
    generator = torch.Generator().manual_seed(seed * 7919 + 31_337)
    return {
        i: torch.rand(output.shape, generator=generator, dtype=torch.float64) + 0.5
        for i, output in outputs.items()
    }


@dataclass(eq=False)
class Scene:
    """The truth and the claim at one point, for one gradient sent backward."""

    function: CustomFunction
    args: tuple[Any, ...]
    upstream: dict[int, Tensor]
    truth: tuple[Tensor, ...]
    claim: tuple[Tensor, ...]
    derivation: Derivation | None

    @property
    def point(self) -> list[Tensor]:
        """The arguments that want a gradient."""
        return self.function.point(self.args)

    def truth_for(self, upstream: dict[int, Tensor]) -> tuple[Tensor, ...] | None:
        """The true gradient for another gradient sent backward."""
        if self.derivation is None:
            return None
        return filled(self.derivation.gradient(upstream), self.point)

    def claim_for(self, upstream: dict[int, Tensor]) -> tuple[Tensor, ...]:
        """The hand-written gradient for another gradient sent backward."""
        return self.function.gradient(self.args, upstream)

    @property
    def floor(self) -> float:
        """Differences are rounding when they are tiny beside the largest gradient or the value."""
        largest = max(
            (float(g.abs().max()) for g in (*self.truth, *self.claim) if g.numel()), default=0.0
        )
        return 1e-6 * largest if math.isfinite(largest) else 0.0

    def error(self, k: int) -> float:
        """By how much the claim for the ``k``-th wanted argument is wrong, relatively."""
        return relative_error(self.claim[k], self.truth[k], self.floor)


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
    surrogate: bool = field(default=False)
    """Whether ``forward`` is of a kind whose backward is often not its derivative, on purpose."""


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
            why = "it computes in float32" if self.narrow else "rounding may be the reason"
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
                    self.function, "unproved",
                    "the re-derived gradient differs from it, and finite differences from both",
                    errors, scene=self.scene,
                )  # fmt: skip
            if any(j.verdict == "differs" for j in against) and any(
                j.verdict == "agrees" for j in beside
            ):
                witnesses.append("finite differences")
        if self._forward_mode_agrees(truth, wrong) and not self._forward_mode_agrees(
            self.claim, wrong
        ):
            witnesses.append("forward mode")
        if len(witnesses) == 1:
            return FunctionVerdict(
                self.function, "unproved",
                "the re-derived gradient differs from it, but no second witness could be heard",
                errors, scene=self.scene,
            )  # fmt: skip
        return FunctionVerdict(
            self.function, "wrong", "", errors, wrong, self.scene, tuple(witnesses)
        )

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
                surrogate=True,
            )  # fmt: skip
        dual = None if self._numbers_leave() else self._forward_mode_agrees(self.claim, None)
        if said and all(j.verdict == "agrees" for j in said):
            return self._proved((), ["finite differences along 4 directions"])
        if any(j.verdict == "differs" for j in said) and dual is False:
            truth = self._dual_gradient()
            if truth is not None:
                self.scene = self._scene(truth)
                errors = tuple(self.scene.error(k) for k in everything)
                wrong = tuple(k for k in everything if errors[k] > SMALL_ERROR)
                beside = self._finite_differences(truth, wrong, 2)
                if wrong and not any(j.verdict == "differs" for j in beside):
                    return FunctionVerdict(
                        self.function, "wrong", "", errors, wrong, self.scene,
                        ("forward mode", "finite differences"),
                    )  # fmt: skip
        if any(j.verdict == "differs" for j in said):
            return FunctionVerdict(
                self.function, "unproved",
                f"finite differences differ from it, but they stand alone: {self.silence}",
            )  # fmt: skip
        return FunctionVerdict(self.function, "unproved", self.silence)

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
            found += judge(value, self.point, k, gradient[k], seed=self.seed, directions=directions)
        return found

    def _tangent(self, tensor: Tensor, tag: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 104_729 + 7919 * tag + 15_485_863)
        signs = torch.randint(0, 2, tensor.shape, generator=generator).to(tensor.dtype) * 2 - 1
        return signs * (torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) + 0.5)

    def _forward_mode_agrees(
        self, gradient: Sequence[Tensor], which: Sequence[int] | None
    ) -> bool | None:
        """Whether forward mode gives the same; ``None`` where it cannot be run."""
        groups = [tuple(range(len(gradient)))] if which is None else [(k,) for k in which]
        for group in groups:
            tangents: list[Tensor | None] = [None] * len(gradient)
            for k in group:
                tangents[k] = self._tangent(self.point[k], k)
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

    def _dual_gradient(self) -> tuple[Tensor, ...] | None:
        """The whole gradient by forward mode, one element at a time."""
        if self.function.numel > FULL_DUAL:
            return None
        columns = []
        for k, tensor in enumerate(self.point):
            column = torch.zeros_like(tensor)
            flat = column.view(-1)
            for j in range(flat.numel()):
                tangents: list[Tensor | None] = [None] * len(self.point)
                unit = torch.zeros_like(tensor)
                unit.view(-1)[j] = 1.0
                tangents[k] = unit
                flat[j] = self.function.directional(self.function.args, self.upstream, tangents)
            columns.append(column)
        return tuple(columns)

    # ------------------------------------------------------------------ wrong on purpose
    def _flat(self) -> bool:
        """Whether ``forward`` stays exactly the same for small changes of its arguments."""
        value = self.function.value(self.upstream)
        try:
            here = value(self.point)[0]
            for sign in (1, -1):
                for size in (1e-6, 1e-4):
                    moved = [
                        t + sign * size * self._tangent(t, k) for k, t in enumerate(self.point)
                    ]
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
        """Whether ``forward`` returns the argument unchanged, or clamped: its backward is its point.

        Gradient reversal, gradient scaling and gradient clipping are written in this way.
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
        return FunctionVerdict(
            self.function, "surrogate", detail, errors, wrong, scene, surrogate=True
        )


def _short(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:160]
