"""One check in progress: the loss, its inputs, and everything measured about it so far.

The rules read from an :class:`Examination`. What several of them need (the recorded call, the
float64 twin, the captured ``autograd.Function`` calls) is measured once, when it is first asked
for. Every evaluation works on fresh copies of the inputs, with the random number generators
seeded, and leaves the loss's state as it found it.
"""

from __future__ import annotations

import contextlib
import copy as copying
import functools
import random
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lossproof.checks.exception_words import as_code, presentable
from lossproof.checks.finite_differences import Point, Value
from lossproof.checks.global_state import global_settings, kept_settings, untouched_globals
from lossproof.checks.inputs import Argument, Inputs
from lossproof.checks.report import Location
from lossproof.checks.state import Change
from lossproof.checks.subject import Subject
from lossproof.checks.trace import FunctionCall, Recorder, Replay, Stop, tensors_in

Tensor = torch.Tensor

SMALL = 4096
"""Inputs with more elements are cut down along the batch for the probes that need many calls."""
ALLOWANCE = 0.6
"""Seconds that one rule may spend on calls that it could do without."""
SLOW = 0.6
"""A call that takes so many seconds is timed once: what a second one would correct is small.

The first call of a process may take 0.4 s by itself.
"""


@dataclass(eq=False)
class Evaluation:
    """One call of the loss, and the backward pass after it."""

    output: Any = None
    """What the loss returned."""
    value: Tensor | None = None
    """The tensor in it that is taken as the loss, if there is one."""
    leaves: tuple[Tensor, ...] = ()
    """The leaves that a gradient is wanted for: inputs first, then parameters."""
    gradients: tuple[Tensor | None, ...] = ()
    """The gradient for each leaf; ``None`` where the graph does not reach it."""
    upstream: Tensor | None = None
    """The gradient that was sent backward."""
    error: Exception | None = None
    backward_error: Exception | None = None
    trace: Recorder | None = None
    passed: tuple[Any, ...] = ()
    """The arguments as the loss got them, after the call."""
    changes: list[Change] = field(default_factory=list)
    """What the call left different in the loss's state."""
    settings: tuple[str, ...] = ()
    """The process-wide settings that the call left different."""
    written: tuple[int, ...] = ()
    """The leaves whose ``.grad`` the call itself wrote, before any backward pass."""

    @property
    def failed(self) -> bool:
        """Whether anything was raised."""
        return self.error is not None or self.backward_error is not None

    @property
    def scalar(self) -> float:
        """The value as one number: weighted by ``upstream`` where it has several elements."""
        assert self.value is not None
        value = self.value.detach()
        if self.upstream is not None and value.numel() != 1:
            return float((value * self.upstream).sum())
        return float(value.sum())

    def gradient(self, leaf: int) -> Tensor:
        """The gradient for a leaf, zeros where the graph does not reach it."""
        found = self.gradients[leaf]
        return torch.zeros_like(self.leaves[leaf]) if found is None else found


def primary(output: Any) -> Tensor | None:
    """The tensor of a loss's output that is the loss: itself, ``["loss"]``, or the first.

    A Python number counts as a tensor without a graph.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, (float, int, np.number)) and not isinstance(output, bool):
        return torch.tensor(float(output), dtype=torch.float64)
    if isinstance(output, dict) and isinstance(output.get("loss"), Tensor):
        return output["loss"]  # type: ignore[no-any-return]
    return next(tensors_in(output), None)


class EndsProgramError(Exception):
    """The loss raised ``SystemExit``: an error of the loss, and no reason to end the check."""


def _held_gradients(leaves: Sequence[Tensor]) -> list[tuple[int, int] | None]:
    """Which ``.grad`` every leaf has, and how often it was written in place."""
    gradients = [leaf.grad for leaf in leaves]
    return [None if one is None else (id(one), one._version) for one in gradients]


def fresh_copy(value: Any, dtype: torch.dtype | None = None) -> Any:
    """A copy of an argument that shares nothing the loss could change.

    Tensors come without history, in ``dtype`` where they are floating; random generators in the
    state they were found in; lists, tuples and dictionaries with copies of what they hold.
    """
    if isinstance(value, Tensor):
        copy = value.detach().clone()
        return copy.to(dtype) if dtype is not None and copy.is_floating_point() else copy
    if isinstance(value, torch.Generator):
        return torch.Generator(value.device).set_state(value.get_state())
    if isinstance(value, (random.Random, np.random.Generator, np.random.RandomState, np.ndarray)):
        return copying.deepcopy(value)
    if isinstance(value, tuple):
        items = [fresh_copy(item, dtype) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if type(value) is list:
        return [fresh_copy(item, dtype) for item in value]
    if isinstance(value, dict):
        copies = copying.copy(value)
        copies.update({key: fresh_copy(item, dtype) for key, item in value.items()})
        return copies
    return value


def weights_like(value: Tensor) -> Tensor:
    """A fixed upstream gradient: 1 for one element, else positive numbers that all differ."""
    if value.numel() == 1:
        return torch.ones_like(value)
    generator = torch.Generator().manual_seed(27_182)
    weights = torch.rand(value.shape, generator=generator, dtype=torch.float64) + 0.5
    return weights.to(value)


class Examination:
    """A check in progress.

    Args:
        subject: the loss.
        inputs: the arguments to call it with.
        seed: seeds every direction, every probe and the loss's own random numbers.
        reference: a loss known to be right, to compare with.
    """

    def __init__(
        self, subject: Subject, inputs: Inputs, seed: int = 0, reference: Subject | None = None
    ) -> None:
        self.subject = subject
        self.inputs = inputs
        self.seed = seed
        self.reference = reference
        self.notes: dict[str, Any] = {}
        """What one rule leaves for later ones, such as which gradient was convicted."""
        self.asked: frozenset[str] = frozenset()
        """The rules that were asked for by their code: they may take seconds."""

    @contextlib.contextmanager
    def left_as_found(self) -> Iterator[None]:
        """Put the state of both losses back at the end, wherever the block was interrupted.

        Every evaluation does, but what ends a check (its time limit, Ctrl-C) may come amid that.
        """
        other = self.reference or self.subject
        with self.subject.state.lent(None), other.state.lent(None):
            yield

    # ------------------------------------------------------------------ calling the loss
    def evaluate(
        self,
        values: Sequence[Any] | None = None,
        *,
        dtype: torch.dtype | None = None,
        record: bool = False,
        replay: Sequence[Stop | None] | None = None,
        backward: bool = True,
        upstream: Callable[[Tensor], Tensor] = weights_like,
        seed: int | None = None,
        reseed: bool = True,
        prelude: int = 0,
        subject: Subject | None = None,
        parameters: Sequence[Tensor] | None = None,
        then: Callable[[Evaluation], None] | None = None,
        compiled: bool = False,
    ) -> Evaluation:
        """Call the loss once on fresh copies of ``values`` and take its gradient.

        Nothing is raised for what the user's code does: it is in ``error``/``backward_error``.

        Args:
            values: the arguments; by default the inputs of the check.
            dtype: turn every floating tensor, the loss's own included, into this type.
            record: record the call; the recording is in ``trace``.
            replay: perform the call with these recorded stops held fixed.
            backward: whether to take the gradient.
            upstream: makes the gradient that is sent backward from the value.
            seed: seeds the random numbers of the call; by default the check's seed.
            reseed: whether to seed at all (without, the generators go on from where they are).
            prelude: how many calls to make first, in the same state, as in training.
            subject: another loss to call, such as the reference.
            parameters: values for the loss's own parameters, in the order of their names.
            then: is done with the result in the place of taking the gradient, while the loss still
                has the tensors that were lent to it.
            compiled: whether to let it compile itself; compiled code cannot be recorded.
        """
        subject = subject or self.subject
        values = self.inputs.values if values is None else values
        lift = dtype is torch.float64
        # Asked here: it may call the loss, which must not happen while tensors are lent to it.
        record_casts = lift and (subject is not self.subject or self.casts)
        guard = untouched_globals(self.seed if seed is None else seed, compiled=compiled)
        with guard if reseed else kept_settings(compiled=compiled), subject.state.lent(dtype):
            if lift:
                torch.set_default_dtype(torch.float64)
            with torch.enable_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for _ in range(prelude):
                    earlier = self._call(
                        subject, values, dtype, record_casts, None, lift, parameters
                    )
                    self._differentiate(earlier, weights_like, retain=False)
                found = self._call(
                    subject, values, dtype, record or record_casts, replay, lift, parameters
                )
                found.changes = subject.state.changes() if record or prelude else []
                if then is not None:
                    then(found)
                elif backward:
                    self._differentiate(found, upstream, retain=True)
                elif found.value is not None:
                    found.upstream = upstream(found.value.detach())
        return found

    def _call(
        self,
        subject: Subject,
        values: Sequence[Any],
        dtype: torch.dtype | None,
        record: bool,
        replay: Sequence[Stop | None] | None,
        lift: bool,
        parameters: Sequence[Tensor] | None,
    ) -> Evaluation:
        arguments, leaves = self.fresh(values, dtype)
        own = subject.state.parameters()
        if parameters is not None:
            with torch.no_grad():
                for parameter, new in zip(own.values(), parameters, strict=True):
                    parameter.copy_(new)
        found = Evaluation(leaves=(*leaves, *own.values()), passed=arguments)
        mode: Any = contextlib.nullcontext()
        if replay is not None:
            mode = Replay(replay, lift)
        elif record:
            tensors = [a if isinstance(a, Tensor) else None for a in arguments]
            mode = Recorder(subject.sources, tensors, lift)
            found.trace = mode
        settings = global_settings()
        held = _held_gradients(found.leaves)
        try:
            with mode:
                found.output = subject.call(*arguments)
            left = global_settings()
            found.settings = tuple(name for name in settings if settings[name] != left[name])
        except SystemExit as error:
            ended = EndsProgramError(as_code(error))
            found.error = ended.with_traceback(error.__traceback__)
            return found
        except Exception as error:
            found.error = presentable(error)
            return found
        finally:
            if isinstance(mode, Replay):
                self._branches = mode.branches
        now = _held_gradients(found.leaves)
        found.written = tuple(leaf for leaf, one in enumerate(now) if one != held[leaf])
        found.value = primary(found.output)
        return found

    def fresh(
        self, values: Sequence[Any], dtype: torch.dtype | None
    ) -> tuple[tuple[Any, ...], list[Tensor]]:
        """Copies of the arguments: no leaves (as a network's output is none), nothing shared."""
        arguments: list[Any] = []
        leaves: list[Tensor] = []
        for argument, value in zip(self.inputs.arguments, values, strict=True):
            copy = fresh_copy(value, dtype)
            if argument.differentiable:
                leaves.append(copy.requires_grad_())
                copy = copy.clone()
            arguments.append(copy)
        return tuple(arguments), leaves

    def _differentiate(
        self, found: Evaluation, upstream: Callable[[Tensor], Tensor], retain: bool
    ) -> None:
        found.gradients = (None,) * len(found.leaves)
        value = found.value
        if value is None or not (value.is_floating_point() or value.is_complex()):
            return
        found.upstream = upstream(value.detach())
        if not value.requires_grad or not found.leaves:
            return
        try:
            found.gradients = torch.autograd.grad(
                value, found.leaves, found.upstream, allow_unused=True, retain_graph=retain
            )
        except Exception as error:
            found.backward_error = presentable(error)

    # ------------------------------------------------------------------ measured once
    @functools.cached_property
    def base(self) -> Evaluation:
        """The call as the user makes it, recorded."""
        return self.evaluate(record=True)

    @functools.cached_property
    def twin(self) -> Evaluation:
        """The same call in float64, recorded."""
        return self.evaluate(dtype=torch.float64, record=True)

    @functools.cached_property
    def casts(self) -> bool:
        """Whether the loss asks for a floating type by name (then float64 runs lift that)."""
        trace = self.base.trace
        return trace is not None and bool(trace.casts)

    @property
    def trace(self) -> Recorder:
        """The recording of the call as the user makes it."""
        assert self.base.trace is not None
        return self.base.trace

    @functools.cached_property
    def calls(self) -> tuple[FunctionCall, ...]:
        """Every ``autograd.Function`` the loss applied, with its arguments in float64."""
        trace = self.twin.trace if self.twin.error is None else self.base.trace
        return tuple(trace.calls) if trace is not None else ()

    @property
    def leaf_names(self) -> tuple[str, ...]:
        """The names of what a gradient is wanted for: inputs first, then parameters."""
        inputs = [a.name for a in self.inputs.arguments if a.differentiable]
        return (*inputs, *self.subject.state.parameters())

    def argument_of_leaf(self, leaf: int) -> Argument | None:
        """The argument behind a leaf; ``None`` for a parameter of the loss."""
        positions = self.inputs.differentiable
        return self.inputs.arguments[positions[leaf]] if leaf < len(positions) else None

    @functools.cached_property
    def small(self) -> Inputs:
        """The inputs, cut down along the batch where they are large and the loss allows it."""
        if self.inputs.numel <= SMALL:
            return self.inputs
        for rows in (8, 4, 2):
            cut = _fewer_rows(self.inputs, rows)
            if cut is not None and cut.numel < self.inputs.numel:
                tried = self.evaluate(cut.values)
                if not tried.failed and tried.value is not None:
                    return cut
        return self.inputs

    @functools.cached_property
    def few_rows(self) -> Examination:
        """The same examination on the small inputs; this one where they are the given ones."""
        if self.small is self.inputs:
            return self
        fewer = Examination(self.subject, self.small, self.seed, self.reference)
        fewer.asked = self.asked
        return fewer

    @functools.cached_property
    def call_seconds(self) -> float:
        """How long one call on the small inputs takes, with the backward pass after it.

        In float64, in which most calls are made: a convolution takes ten times longer there.
        """
        times: list[float] = []
        while len(times) < 2 and min(times, default=0.0) < SLOW:
            start = time.perf_counter()
            self.evaluate(self.small.values, dtype=torch.float64)
            times.append(time.perf_counter() - start)
        return min(times)

    def affordable(self, calls: int) -> bool:
        """Whether a rule may make so many calls of this loss beyond the ones it cannot spare.

        The calls are reckoned on the small inputs. A rule that may not makes fewer of them, and
        says so in its verdict.
        """
        return calls * self.call_seconds <= ALLOWANCE

    # ------------------------------------------------------------------ as a function of numbers
    def value_at(self, stops: Sequence[Stop | None] | None) -> Value:
        """The float64 loss as a function of its leaves, with ``stops`` held fixed.

        The function takes the leaves (inputs that want a gradient, then parameters) and returns
        the value as one number with the branches that the call took.
        """

        def value(point: Point) -> tuple[float, list[Tensor]]:
            found = self.evaluate_at(point, replay=stops, backward=False)
            if found.error is not None:
                raise found.error
            return found.scalar, self._branches if stops is not None else []

        return value

    def evaluate_at(self, point: Point, **options: Any) -> Evaluation:
        """Call the loss in float64 with its leaves at ``point``; options as for ``evaluate``."""
        positions = self.inputs.differentiable
        values = list(self.inputs.values)
        for position, tensor in zip(positions, point, strict=False):
            values[position] = tensor
        own = list(point[len(positions) :])
        return self.evaluate(values, dtype=torch.float64, parameters=own or None, **options)

    @functools.cached_property
    def point(self) -> tuple[Tensor, ...]:
        """The leaves of the float64 twin, without their history."""
        return tuple(leaf.detach() for leaf in self.twin.leaves)

    # ------------------------------------------------------------------ places
    def where(self, error: BaseException | None) -> Location | None:
        """Where in the user's code an exception came from, else where the loss is defined."""
        found = self.subject.sources.of_exception(error) if error is not None else None
        return found or self.subject.location


def _fewer_rows(inputs: Inputs, rows: int) -> Inputs | None:
    """The first rows of every tensor that shares the first axis of the prediction."""
    first = next(
        (inputs.values[i] for i in inputs.differentiable if inputs.values[i].dim() > 0), None
    )
    if first is None or first.shape[0] <= rows:
        return None
    batch = first.shape[0]
    values = [
        value[:rows]
        if isinstance(value, Tensor) and value.dim() and value.shape[0] == batch
        else value
        for value in inputs.values
    ]
    return inputs.with_values(values)
