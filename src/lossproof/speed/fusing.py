"""Value and gradient of any loss in one compiled sweep over memory: ``fuse``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from lossproof.errors import UnsupportedGraphError
from lossproof.speed.captured import captured_leaves, now
from lossproof.speed.fuse_compiled import CompiledLoss, Refusal
from lossproof.speed.fuse_kinds import Call, Kind, looked_into, out_of_reach
from lossproof.speed.fuse_measuring import left_as_it_was, times
from lossproof.speed.owners import modules_of
from lossproof.write.accelerated import Accelerated
from lossproof.write.arguments import flag
from lossproof.write.hooks import hooks_held_back

Tensor = torch.Tensor
FUSED, COMPILED, PLAIN = "fused", "compiled", "plain"
MOST_KINDS = 16
"""For so many kinds of calls the fastest way is measured; others go the way of the most alike."""


@dataclass(frozen=True)
class Choice:
    """How a kind of call is computed, and why.

    Attributes:
        shapes: of the tensors of the first call of this kind.
        way: ``"fused"`` (value and gradient in one program), ``"compiled"`` (in two, as by
            ``torch.compile``) or ``"plain"`` (as the loss was written).
        seconds: what forward and backward took each way, where it was measured.
        reason: what kept other ways out, if anything did.
    """

    shapes: tuple[tuple[int, ...], ...]
    way: str
    seconds: dict[str, float] = field(default_factory=dict)
    reason: str | None = None

    def __str__(self) -> str:
        shapes = ", ".join(str(list(shape)) for shape in self.shapes) or "no tensors"
        taken = ", ".join(f"{way} {1000 * seconds:.3g} ms" for way, seconds in self.seconds.items())
        return " · ".join(part for part in (shapes, self.way, taken, self.reason) if part)


@dataclass(slots=True)
class Known:
    """What was found out about a fused loss, which is no part of its state: a copy has none."""

    choices: dict[Kind, Choice] = field(default_factory=dict)
    compiled: dict[tuple[str, Hashable], CompiledLoss] = field(default_factory=dict)
    told: bool = False

    def __reduce__(self) -> tuple[type[Known], tuple[()]]:
        return Known, ()


def fuse(
    loss: Callable[..., Tensor], *, measure: bool = True, dynamic: bool | None = None
) -> FusedLoss:
    r"""Compute a loss and its gradient in one sweep over memory.

    A loss is where the graph ends, and what arrives there from above is one number :math:`g`:

    .. math::
        \frac{\partial\, (g L)}{\partial x} = g\, \frac{\partial L}{\partial x}

    So the gradient can be computed together with the value, before :math:`g` is known, and scaled
    afterwards. For a loss that is pointwise up to a sum this is one loop, which reads each input
    once and writes each gradient once. ``torch.compile`` makes two programs, which read and write
    what lies between them, and eager PyTorch a dozen.

    The first call for each kind of input (dtypes, number of axes, sizes to a power of four)
    compiles the loss, which takes seconds, and runs it some times on these inputs: in one sweep, as
    ``torch.compile`` does, and as it is written. The fastest is kept; :meth:`FusedLoss.report`
    tells which, and why. Parameters and their ``.grad``, buffers, attributes of a Module and
    torch's random numbers are afterwards as they were before; what else a loss changes, such as a
    list outside of it, it changes as often as it is run.

    The value is that of the loss to rounding, and the gradients are right whatever becomes of it:
    scaled by a number or by another tensor, accumulated, sent backward twice (``retain_graph``; the
    second time computes anew), differentiated twice. Parameters of a Module and tensors that a
    function closes over get theirs. ``torch.func``, forward mode, an outer ``torch.compile`` and
    types of tensors with operations of their own get the plain loss.

    What it does not do: a loss that draws random numbers, changes a tensor in place, returns
    several tensors or talks to other processes is computed as it was written, as is one that the
    compiler refuses, or that would be compiled time and again because a number in Python differs
    from call to call (give it as a tensor); a warning tells why. Values for each item
    (``reduction="none"``) and losses without a gradient have nothing to fuse, and a gradient in
    float16 that is made before the loss scale is known would lose what is small: they are compiled
    in two programs, if that is faster. It gains nothing for products of matrices and convolutions.
    The gradient of an input takes its memory from the call of the loss on, not only from the
    backward pass on.

    Args:
        loss: a function, a Module, or anything else that is called with tensors and options and
            returns a scalar tensor.
        measure: whether the fastest way is looked for. Without, it is always the one sweep, where
            this can be had.
        dynamic: whether one program serves all shapes, as for ``torch.compile``. With ``None`` the
            second shape decides.

    Returns:
        A Module that is called as the loss is, with the parameters, buffers and names of the loss
        where that is a Module.

    Raises:
        TypeError: ``loss`` cannot be called, is a class, or is accelerated already; an option is
            neither ``True`` nor ``False``.

    Example:
        >>> import torch
        >>> import lossproof
        >>> def charbonnier(input, target):
        ...     return ((input - target).square() + 1e-6).sqrt().mean()
        >>> loss = lossproof.fuse(charbonnier)
        >>> input = torch.randn(1000, 1000, requires_grad=True)
        >>> loss(input, torch.zeros(1000, 1000)).backward()  # doctest: +SKIP
        >>> print(loss.report())  # doctest: +SKIP
        [1000, 1000], [1000, 1000] · fused · fused 0.9 ms, compiled 1.6 ms, plain 9.4 ms
    """
    return FusedLoss(loss, measure=measure, dynamic=dynamic)


class FusedLoss(Accelerated):
    """A loss that is computed together with its gradient; see :func:`fuse`.

    It has the parameters, the buffers and the parts of the loss, under the same names.
    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        *,
        measure: bool = True,
        dynamic: bool | None = None,
    ) -> None:
        super().__init__()
        if isinstance(loss, type) or not callable(loss):
            raise TypeError(f"`loss` must be a function or a Module, got {loss!r}")
        if isinstance(loss, Accelerated):
            raise TypeError(f"`loss` is a {type(loss).__name__} already, which cannot be fused")
        self.measure = flag("measure", measure)
        self.dynamic = None if dynamic is None else flag("dynamic", dynamic)
        self._function: Callable[..., Tensor]
        self._known = Known()
        vars(self)["_function"] = loss  # no part of ours: its own parts are
        if isinstance(loss, nn.Module):
            self._parameters, self._buffers = loss._parameters, loss._buffers
            self._modules = loss._modules
            self._non_persistent_buffers_set = loss._non_persistent_buffers_set
            self.training = loss.training

    def forward(self, *arguments: Any, **options: Any) -> Tensor:
        """The loss; takes what the loss takes."""
        if torch.compiler.is_compiling():
            return self.plain(*arguments, **options)
        call = Call(arguments, options)
        if looked_into(call.tensors) or out_of_reach(call.tensors):
            return self.plain(*arguments, **options)
        known = self._known
        kind = call.kind(self.training)
        choice = known.choices.get(kind)
        try:
            if choice is None:
                choice = known.choices[kind] = self._chosen(kind, call)
            if choice.way == PLAIN:
                return self.plain(*arguments, **options)
            return known.compiled[choice.way, kind.form](*arguments, **options)
        except Refusal as refusal:
            value = self.plain(*arguments, **options)  # where the call is wrong, this tells
            known.choices[kind] = Choice(call.shapes, PLAIN, reason=str(refusal))
            self._tell(str(refusal), "it is computed as it was written")
            return value

    def plain(self, *arguments: Any, **options: Any) -> Tensor:
        value: Tensor = self._function(*arguments, **options)
        return value

    @property
    def choices(self) -> tuple[Choice, ...]:
        """How each kind of call that was made so far is computed."""
        return tuple(self._known.choices.values())

    def report(self) -> str:
        """What is computed which way, and the times that were measured, a line for each kind."""
        return "\n".join(map(str, self.choices)) or "not called yet"

    # ---- the choice

    def _chosen(self, kind: Kind, call: Call) -> Choice:
        """Find out, on the tensors of a call, what is fastest.

        Raises:
            Refusal: the loss cannot be compiled, or the call is wrong.
        """
        choices = self._known.choices
        alike = [other for other in choices if other.form == kind.form]
        if len(choices) >= MOST_KINDS and alike:
            nearest = choices[min(alike, key=kind.far_from)]
            return Choice(call.shapes, nearest.way, reason="as the most alike, not measured")
        ways, reason = self._ways(kind, call)
        if not ways or not self.measure:
            return Choice(call.shapes, next(iter(ways), PLAIN), reason=reason)
        with left_as_it_was(modules_of(self._function), call.tensors):
            step = self._step(call)
            if step is None:
                return Choice(call.shapes, PLAIN, reason="no input has a gradient to measure")
            steps = {way: partial(step, loss) for way, loss in ways.items()}
            seconds = times({**steps, PLAIN: partial(step, self.plain)}, call.device)
        return Choice(call.shapes, min(seconds, key=seconds.__getitem__), seconds, reason)

    def _ways(self, kind: Kind, call: Call) -> tuple[dict[str, CompiledLoss], str | None]:
        """The compiled losses that there are, and why there are no others."""
        arguments, options, _ = call.cut_off()
        found: dict[str, CompiledLoss] = {}
        reason, surprising = None, False
        for way in (FUSED, COMPILED):
            if way == COMPILED and (FUSED in found and (not self.measure or call.small)):
                continue
            compiled = self._known.compiled.get((way, kind.form))
            if compiled is None:
                compiled = CompiledLoss(self._function, fused=way == FUSED, dynamic=self.dynamic)
                self._known.compiled[way, kind.form] = compiled
            try:
                with left_as_it_was(modules_of(self._function), call.tensors):
                    compiled(*arguments, **options)
            except Refusal as refusal:
                if way == COMPILED or not refusal.in_two:
                    raise
                reason, surprising = str(refusal), not refusal.expected
            else:
                found[way] = compiled
        if reason is not None and surprising:
            self._tell(reason, "it is compiled in two programs, forward and backward")
        return found, reason

    def _step(self, call: Call) -> Callable[[Callable[..., Tensor]], None] | None:
        """Forward and backward of a loss on the tensors of a call; ``None`` where it cannot be."""
        arguments, options, leaves = call.cut_off()
        if not leaves and torch.is_grad_enabled():
            since = now()
            value = self.plain(*arguments, **options)
            try:
                leaves = captured_leaves([value], [], since, "the loss") if value.grad_fn else []
            except UnsupportedGraphError:  # a backward pass would use up what others have to run
                return None

        def step(loss: Callable[..., Tensor]) -> None:
            value = loss(*arguments, **options)
            if value.requires_grad:
                with hooks_held_back(leaves):
                    torch.autograd.grad(value, leaves, torch.ones_like(value), allow_unused=True)

        return step

    def _tell(self, refusal: str, instead: str) -> None:
        if not self._known.told:
            self._known.told = True
            warnings.warn(f"{refusal}; {instead}", RuntimeWarning, stacklevel=5)

    # ---- what a Module does

    @property
    def compiles(self) -> bool:
        return True

    def cut(self, rows: int) -> None:
        """From now on compute in one sweep, also where the plain loss is faster."""
        del rows
        self.measure = False
        self._known = Known()

    def train(self, mode: bool = True) -> FusedLoss:
        super().train(mode)
        if isinstance(self._function, nn.Module):
            self._function.train(mode)
        return self

    def extra_repr(self) -> str:
        if isinstance(self._function, nn.Module):
            options = self._function.extra_repr()
            return f"{type(self._function).__name__}({options})"
        return getattr(self._function, "__name__", repr(self._function))
