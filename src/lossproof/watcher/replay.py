"""The calls of a step, performed again under the trace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from lossproof.checks.sources import Site, Sources
from lossproof.checks.trace import tensors_in
from lossproof.watcher.batch import batch_size, given_tensors, mapped
from lossproof.watcher.kept import set_generator
from lossproof.watcher.lines import Lines, nodes_from
from lossproof.watcher.record import Call, StepRecord
from lossproof.watcher.step_watch import StepWatch

Tensor = torch.Tensor

CLOSE = {torch.float64: 1e-9, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""How far a replayed result may be from the recorded one, relative to its largest number: on some
devices the order of a sum is not fixed. Any other type: 1e-4."""

MOST_WORDS = 200
"""How many characters of an exception are told."""


@dataclass(frozen=True, eq=False)
class Leaf:
    """An argument that carries a derivative, cut off from what it was made by."""

    name: str
    original: Tensor
    tensor: Tensor


@dataclass(eq=False)
class Performed:
    """A call that was performed again."""

    call: Call
    result: Any = None
    failed: bool = False
    """Whether it raised."""

    def at(self, place: int) -> Tensor | None:
        """The tensor at this place of the result, in the order of ``tensors_in``."""
        found = list(tensors_in(self.result))
        return found[place] if place < len(found) else None


@dataclass(eq=False)
class Gradients:
    """The gradient of a term."""

    parameters: dict[str, Tensor | None]
    leaves: list[tuple[Leaf, Tensor | None]]
    results: list[Tensor | None] = field(default_factory=list)
    """For what the model returned to the loss."""
    complete: bool = True
    """Whether the gradients of the parameters hold every way through the code in between."""
    failed: bool = False
    """Whether the backward pass raised."""


class _Inside:
    """Which part of the step is being called.

    No part of the replay itself: a circle of references would keep a whole step alive.
    """

    def __init__(self, model: nn.Module) -> None:
        self.role = "model"
        self.stack: list[nn.Module] = []
        self._names = {module: name for name, module in model.named_modules()}

    def __call__(self) -> tuple[str, str | None]:
        """The part and the innermost module of the model that is being called."""
        inside = [self._names[module] for module in self.stack if module in self._names]
        part = "model" if self.role == "model" or inside else "loss"
        return part, inside[-1] or None if inside else None


class Replay:
    """Performs calls of one step again.

    Args of a call that are the result of an earlier one are replaced by the replayed result, so the
    graph is joined; the others are fresh leaves with the recorded numbers.

    Args:
        record: what was held of the step.
        model: the model, whose modules are known by their names.
        measure: whether to note how large operands and results are.
        sources: tells the user's files from the rest.
    """

    def __init__(
        self,
        record: StepRecord,
        model: nn.Module,
        *,
        measure: bool = False,
        sources: Sources | None = None,
    ) -> None:
        self.record = record
        self.model = model
        self.caveats: list[str] = []
        self.called: set[nn.Module] = set()
        self.leaves: list[Leaf] = []
        self._inside = _Inside(model)
        self._performed: dict[Call, Performed] = {}
        self._stands_in: dict[int, Tensor] = {}
        sources = sources or Sources()
        self.lines = Lines(sources, self._inside)
        self.watch = StepWatch(sources, BOUNDARY, self._inside, measure=measure)

    # ------------------------------------------------------------------ calls
    def put(self, original: Tensor, other: Tensor) -> None:
        """Use another tensor in the place of a recorded one in the calls that follow."""
        self._stands_in[id(original)] = other

    def site_of(self, node: Any) -> Site | None:
        """Where the forward operation was called that made a node of the graph."""
        line = self.lines.nodes.get(node)
        return None if line is None else line.site

    def perform(self, call: Call) -> Performed:
        """Perform a call again, once, joined to those before it that were performed again."""
        if call not in self._performed:
            self._note_writes(call)
            names = {id(given.tensor): given.name for given in given_tensors(call)}
            args, kwargs = mapped(
                (call.args, call.kwargs), lambda tensor: self._stand_in(tensor, names[id(tensor)])
            )
            self.watch.samples = batch_size([call])
            done = self._performed[call] = Performed(call)
            try:
                with self._watched(call):
                    done.result = _performed_again(call, args, kwargs)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                done.failed = True
                self.caveats.append(
                    f"`{call.name}` raised when it was called again: {in_brief(error)}"
                )
            self._join(call, done.result)
        return self._performed[call]

    def perform_joined(self, call: Call) -> Performed:
        """The same, with the calls of the model before it whose results it is made from."""
        for earlier in self.needed(call):
            self.perform(earlier)
        return self.perform(call)

    def needed(self, call: Call) -> list[Call]:
        """The earlier calls whose results the arguments of a call were made from."""
        makers: dict[Any, Call] = {}
        for earlier in self.record.calls:
            if earlier is call:
                break
            for tensor in tensors_in(earlier.result):
                if tensor.grad_fn is not None:
                    makers[tensor.grad_fn] = earlier
        if not makers:
            return []
        roots = [given.tensor.grad_fn for given in given_tensors(call)]
        found = {makers[node] for node in nodes_from(roots, makers) if node in makers}
        return [earlier for earlier in self.record.calls if earlier in found]

    def _stand_in(self, original: Tensor, name: str) -> Tensor:
        if isinstance(original, nn.Parameter):
            return original
        other = self._stands_in.get(id(original))
        if other is None:
            leaf = original.detach()
            if original.requires_grad:
                self.leaves.append(Leaf(name, original, leaf.requires_grad_()))
            # A copy, which the call may write to as it wrote to the original.
            with torch.enable_grad():
                other = self._stands_in[id(original)] = leaf.clone()
        return other

    def _join(self, call: Call, result: Any) -> None:
        """Let later calls use what was replayed, where it is what was recorded."""
        recorded, replayed = list(tensors_in(call.result)), list(tensors_in(result))
        if len(recorded) != len(replayed):
            if result is not None:
                self.caveats.append(f"`{call.name}` returned another number of tensors")
            return
        for old, new in zip(recorded, replayed, strict=True):
            if is_close(old, new):
                self._stands_in[id(old)] = new
            else:
                self.caveats.append(_other_result(call, old, new))

    def _note_writes(self, call: Call) -> None:
        for given, version in zip(given_tensors(call), call.versions, strict=False):
            if not given.tensor.is_inference() and given.tensor._version != version:
                self.caveats.append(f"`{given.name}` was written to after `{call.name}` got it")

    @contextlib.contextmanager
    def _watched(self, call: Call) -> Iterator[None]:
        self._inside.role = call.role
        with contextlib.ExitStack() as stack:
            for device, state in call.generators.items():
                set_generator(device, state)
            stack.enter_context(torch.enable_grad())
            for device_type, dtype in call.autocast.items():
                stack.enter_context(torch.autocast(device_type, dtype, cache_enabled=False))
            stack.enter_context(self._modules_noted())
            stack.enter_context(self.watch)
            stack.enter_context(self.lines)
            yield

    @contextlib.contextmanager
    def _modules_noted(self) -> Iterator[None]:
        stack = self._inside.stack

        def before(module: nn.Module, args: Any) -> None:
            stack.append(module)
            self.called.add(module)

        def after(module: nn.Module, args: Any, output: Any) -> None:
            if stack and stack[-1] is module:
                stack.pop()

        first = register_module_forward_pre_hook(before)
        last = register_module_forward_hook(after, always_call=True)
        try:
            yield
        finally:
            first.remove()
            last.remove()
            stack.clear()

    # ------------------------------------------------------------------ gradients
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained: the model's parameters, and those of losses that are Modules."""
        found = dict(self.model.named_parameters())
        known = set(found.values())
        for call in self.record.calls:
            if isinstance(call.function, nn.Module):
                own = call.function.named_parameters()
                found |= {f"{call.name}.{name}": one for name, one in own if one not in known}
        return {name: one for name, one in found.items() if one.requires_grad}

    def gradients(self, term: Tensor, call: Call) -> Gradients:
        """The gradient of a replayed term, for the parameters and for the fresh leaves.

        Nothing is accumulated. Where code stands between the model and the loss, its own graph is
        used, if that is still alive.
        """
        parameters = self.parameters()
        leaves = list(self.leaves)
        results = [new for _, new in self.results_before(call)]
        targets = [*parameters.values(), *(leaf.tensor for leaf in leaves), *results]
        nothing = Gradients(dict.fromkeys(parameters), [(leaf, None) for leaf in leaves])
        if not term.requires_grad or not targets:
            return nothing
        try:
            with self.watch:
                found = _differentiated([term], targets, [torch.ones_like(term)])
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self.caveats.append(f"the backward pass raised: {in_brief(error)}")
            nothing.failed = True
            return nothing
        rest = found[len(parameters) :]
        gradients = Gradients(
            dict(zip(parameters, found, strict=False)),
            list(zip(leaves, rest, strict=False)),
            list(rest[len(leaves) :]),
        )
        self._go_on(gradients, call, parameters)
        return gradients

    def _go_on(self, gradients: Gradients, call: Call, parameters: dict[str, nn.Parameter]) -> None:
        """Send the gradient at the leaves on through what they were made by, into the model."""
        from_model = [
            (leaf.original, gradient)
            for leaf, gradient in gradients.leaves
            if gradient is not None and leaf.original.grad_fn is not None
        ]
        if not from_model:
            return
        pairs = self.results_before(call)
        if not pairs:
            gradients.complete = False
            return
        originals, arriving = zip(*from_model, strict=True)
        recorded, replayed = zip(*pairs, strict=True)
        try:
            with self.watch:
                between = _differentiated(originals, recorded, arriving)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            gradients.complete = False
            self.caveats.append(
                "the code between the model and the loss cannot be differentiated again: its graph "
                "was freed"
            )
            return
        known = [(new, grad) for new, grad in zip(replayed, between, strict=True)
                 if grad is not None]  # fmt: skip
        if not known or not parameters:
            return
        outputs, sent = zip(*known, strict=True)
        with self.watch:
            found = _differentiated(outputs, list(parameters.values()), sent)
        for name, more in zip(parameters, found, strict=True):
            own = gradients.parameters[name]
            if more is not None:
                gradients.parameters[name] = more if own is None else own + more
        gradients.results = [
            more if own is None else own if more is None else own + more
            for own, more in zip(gradients.results, between, strict=True)
        ]

    def results_before(self, call: Call) -> list[tuple[Tensor, Tensor]]:
        """What the calls before one returned with a derivative, recorded and replayed."""
        found: list[tuple[Tensor, Tensor]] = []
        for earlier in self.needed(call):
            done = self.perform(earlier)
            for old, new in zip(tensors_in(earlier.result), tensors_in(done.result), strict=False):
                if old.grad_fn is not None and new.requires_grad and old.shape == new.shape:
                    found.append((old, new))
        return found


def _performed_again(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    function = call.function
    if isinstance(function, nn.parallel.DistributedDataParallel):
        function = function.module  # whose other ranks do not perform the step again
    return function(*args, **kwargs)


def _differentiated(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], sent: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(outputs, inputs, sent, retain_graph=True, allow_unused=True)


BOUNDARY: tuple[CodeType, ...] = (_performed_again.__code__, _differentiated.__code__)


def is_close(old: Tensor, new: Tensor) -> bool:
    """Whether a replayed result is the recorded one, up to the order of a sum."""
    if old.shape != new.shape or old.dtype != new.dtype:
        return False
    old, new = old.detach(), new.detach()
    if not (old.is_floating_point() or old.is_complex()):
        return bool(torch.equal(old, new))
    finite = old[torch.isfinite(old)].abs()
    size = float(finite.max()) if finite.numel() else 0.0
    slack = CLOSE.get(old.dtype, 1e-4) * size
    return bool(torch.allclose(old, new, rtol=0.0, atol=slack, equal_nan=True))


def _other_result(call: Call, old: Tensor, new: Tensor) -> str:
    if old.numel() == 1 and new.numel() == 1:
        return f"`{call.name}` gave {float(new):.6g} when it was called again, not {float(old):.6g}"
    return f"`{call.name}` gave other numbers when it was called again"


def in_brief(error: BaseException) -> str:
    """An exception in one line."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:MOST_WORDS]}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was no memory left."""
    kinds: tuple[type[BaseException], ...] = (MemoryError, torch.cuda.OutOfMemoryError)
    words = ("not enough memory", "can't allocate memory", "out of memory")
    return isinstance(error, kinds) or any(one in str(error) for one in words)
