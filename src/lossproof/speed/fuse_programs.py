"""The programs that a loss is compiled to, from the graph that torch's tracer found.

The tracer (the front half of ``torch.compile``) hands over a graph in which everything is an input:
arguments, parameters and buffers, and tensors that the loss closes over. So each of them has its
gradient, whatever the loss is: a function, a Module, or a closure.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._guards import detect_fake_mode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from lossproof.speed.compiling import inductor
from lossproof.speed.surroundings import autocast_as, autocast_now
from lossproof.write.arguments import transformed

Tensor = torch.Tensor
Found = Sequence[Tensor | None]
"""A gradient for each input, and ``None`` where there is none."""


class NotFusableError(Exception):
    """A loss cannot be replaced by a program; the message says why, after "the loss"."""


class NothingToFuseError(NotFusableError):
    """Value and gradient cannot be one program, though the loss can be compiled."""


class Program(Protocol):
    """A loss with its gradients."""

    def forward(self, inputs: Sequence[Any]) -> tuple[Tensor, Any]:
        """The value, and what the gradients are found from."""

    def backward(self, held: Any, inputs: Sequence[Any], grad: Tensor) -> Found:
        """The gradients; ``held`` is ``None`` where it was used up."""

    def differentiable(self, inputs: Sequence[Any], grad: Tensor) -> Found:
        """The gradients, which can be differentiated again."""


class Graph:
    """The graph of a loss, with what must be known before it is compiled.

    Args:
        module: the graph, as the tracer found it.
        inputs: what it was found with.

    Raises:
        NotFusableError: running it has another effect than to return one tensor.
    """

    def __init__(self, module: torch.fx.GraphModule, inputs: Sequence[Any]) -> None:
        self.module = module
        placeholders = module.graph.find_nodes(op="placeholder")
        # Tensors that have a shape but no values.
        self.inputs = [node.meta.get("example_value") for node in placeholders]
        self.value = self._only_output()
        self.wanted = [
            position
            for position, one in enumerate(self.inputs)
            if isinstance(one, Tensor) and one.requires_grad and torch.is_grad_enabled()
        ]
        self._autocast = autocast_now(one for one in inputs if isinstance(one, Tensor))
        _refuse_effects(self._forward_operations())

    def _only_output(self) -> Tensor:
        (output,) = self.module.graph.find_nodes(op="output")
        values = [getattr(node, "meta", {}).get("example_value") for node in output.args[0]]
        if len(values) != 1 or not isinstance(values[0], Tensor):
            raise NotFusableError("returns or changes more than one tensor")
        return values[0]

    def __call__(self, *inputs: Any) -> Tensor:
        """The loss as it was written, in operations that autograd knows."""
        with autocast_as(self._autocast):
            (value,) = self.module(*inputs)
        assert isinstance(value, Tensor)
        return value

    def differentiable(self, inputs: Sequence[Any], grad: Tensor) -> Found:
        """The gradients by autograd."""
        create_graph = torch.is_grad_enabled()
        places = list(inputs)
        with torch.enable_grad():
            # In views, which have no hooks, and of which none is computed from another.
            for position in self.wanted:
                places[position] = inputs[position].view_as(inputs[position])
            value = self(*places)
        gradients = torch.autograd.grad(
            value,
            [places[position] for position in self.wanted],
            grad,
            create_graph=create_graph,
            allow_unused=True,
        )
        return self.placed(gradients)

    def placed(self, gradients: Found) -> Found:
        """The gradients of the inputs that want one, each in its place among all inputs."""
        found = dict(zip(self.wanted, gradients, strict=True))
        return [found.get(position) for position in range(len(self.inputs))]

    def leaves(self, inputs: Sequence[Any]) -> list[Any]:
        """The inputs, cut off from what they were computed from."""
        leaves = [one.detach() if isinstance(one, Tensor) else one for one in inputs]
        for position in self.wanted:
            leaves[position].requires_grad_()
        return leaves

    def traced(self, function: Callable[..., Any], inputs: Sequence[Any]) -> torch.fx.GraphModule:
        """The operations that a function of tensors without values comes down to."""
        mode = detect_fake_mode(self.inputs)
        assert mode is not None
        real, mode.allow_non_fake_inputs = mode.allow_non_fake_inputs, True  # constants of the loss
        shapes = mode.shape_env
        assert shapes is not None
        try:
            # Without Python's dispatcher a broadcast of sizes that are symbols is an error.
            with mode, enable_python_dispatcher(), shapes.ignore_fresh_unbacked_symbols():
                found: torch.fx.GraphModule = make_fx(function)(*inputs)
        finally:
            mode.allow_non_fake_inputs = real
        return found

    def _forward_operations(self) -> torch.fx.GraphModule:
        before = [one._version if isinstance(one, Tensor) else 0 for one in self.inputs]

        def forward(*inputs: Any) -> Tensor:
            with torch.no_grad():
                return self(*inputs)

        found = self.traced(forward, [_detached(one) for one in self.inputs])
        after = [one._version if isinstance(one, Tensor) else 0 for one in self.inputs]
        if before != after:
            raise NotFusableError("changes a tensor in place")
        return found


def _detached(one: Any) -> Any:
    return one.detach() if isinstance(one, Tensor) else one


def _computed(node: torch.fx.Node) -> list[Tensor]:
    """The tensors, without values, that an operation returns."""
    if node.op != "call_function":
        return []
    return [one for one in pytree.tree_leaves(node.meta.get("val")) if isinstance(one, Tensor)]


def _refuse_effects(graph: torch.fx.GraphModule) -> None:
    """Raise if a second run does not give what the first gave."""
    given = {node for node in graph.graph.nodes if node.op in {"placeholder", "get_attr"}}
    for node in graph.graph.nodes:
        operation = node.target
        if not isinstance(operation, torch._ops.OpOverload):
            continue
        for declared, argument in zip(operation._schema.arguments, node.args, strict=False):
            if declared.alias_info is None or given.isdisjoint(pytree.tree_leaves(argument)):
                continue
            if declared.alias_info.is_write:  # by way of `.data`, which counts no versions
                raise NotFusableError("changes a tensor in place")
            given.add(node)  # a view
        if torch.Tag.nondeterministic_seeded in operation.tags:
            raise NotFusableError(f"draws random numbers ({operation})")
        if "c10d" in operation.namespace:
            raise NotFusableError(f"waits for other processes ({operation})")


class OneSweep:
    """Value and gradients in one program, which runs when the loss is called."""

    def __init__(self, graph: Graph) -> None:
        value = graph.value
        single = value.ndim == 0 and value.is_floating_point()
        if not (single and graph.wanted and value.requires_grad):
            raise NothingToFuseError("does not return one number with a gradient")
        self.graph = graph
        self._reached: list[bool] = []
        inputs = [_detached(one) for one in graph.inputs]
        operations = graph.traced(self._both, inputs)
        if any(graph.inputs[place].dtype == torch.float16 for place in graph.wanted) or any(
            one.dtype == torch.float16 for node in operations.graph.nodes for one in _computed(node)
        ):
            raise NothingToFuseError(
                "has gradients in float16, where small ones vanish before a loss scale comes"
            )
        with torch.no_grad():
            self._run = inductor(operations, inputs)

    def _both(self, *inputs: Any) -> list[Tensor]:
        graph = self.graph
        leaves = graph.leaves(inputs)
        with torch.enable_grad():
            value = graph(*leaves)
        wanted = [leaves[place] for place in graph.wanted]
        gradients: Found = torch.autograd.grad(value, wanted, allow_unused=True)
        self._reached = [one is not None for one in gradients]
        # The compiler puts a sum into the loop of a gradient, but no gradient into that of a sum:
        # it looks in the order of what is returned.
        return [*(one for one in gradients if one is not None), value.detach()]

    def forward(self, inputs: Sequence[Any]) -> tuple[Tensor, Any]:
        with torch.no_grad():
            found = self._run(*inputs)
        *gradients, value = _each_in_own_memory(found, inputs)
        return value, gradients

    def backward(self, held: Any, inputs: Sequence[Any], grad: Tensor) -> Found:
        gradients = self.forward(inputs)[1] if held is None else held
        # On an accelerator the host would have to wait for the number.
        if grad.device.type != "cpu" or grad.item() != 1.0:
            gradients = [gradient.mul_(grad.to(gradient.device)) for gradient in gradients]
        rest = iter(gradients)
        return self.graph.placed([next(rest) if one else None for one in self._reached])

    def differentiable(self, inputs: Sequence[Any], grad: Tensor) -> Found:
        return self.graph.differentiable(inputs, grad)


def _each_in_own_memory(found: Sequence[Tensor], inputs: Sequence[Any]) -> list[Tensor]:
    """The tensors, in memory that nothing else uses: they are changed in place and given away.

    The gradient of a sum is one number in all places, and that of ``x + y`` the same tensor twice.
    """
    used = {one.untyped_storage().data_ptr() for one in inputs if isinstance(one, Tensor)}
    own = []
    for tensor in found:
        place = tensor.untyped_storage().data_ptr()
        alone = place not in used and 0 not in tensor.stride()
        own.append(tensor if alone else tensor.clone(memory_format=torch.contiguous_format))
        used.add(place)
    return own


class TwoSweeps:
    """Forward and backward in a program each: what ``torch.compile`` makes of the loss."""

    def __init__(self, graph: Graph, inputs: Sequence[Any]) -> None:
        self.graph = graph
        self._run = inductor(copy.deepcopy(graph.module), inputs)

    def forward(self, inputs: Sequence[Any]) -> tuple[Tensor, Any]:
        leaves = self.graph.leaves(inputs)
        with torch.enable_grad():
            (value,) = self._run(*leaves)
        return value.detach(), (value, leaves)

    def backward(self, held: Any, inputs: Sequence[Any], grad: Tensor) -> Found:
        value, leaves = self.forward(inputs)[1] if held is None else held
        wanted = [leaves[place] for place in self.graph.wanted]
        return self.graph.placed(torch.autograd.grad(value, wanted, grad, allow_unused=True))

    def differentiable(self, inputs: Sequence[Any], grad: Tensor) -> Found:
        return self.graph.differentiable(inputs, grad)


class Differentiable(torch.autograd.Function):
    """A program in autograd's graph."""

    @staticmethod
    def forward(ctx: Any, program: Program, *inputs: Any) -> Tensor:
        value, ctx.held = program.forward(inputs)
        ctx.program = program
        # Sizes of tensors, where one program serves several, are inputs, too.
        ctx.others = [None if isinstance(one, Tensor) else one for one in inputs]
        ctx.save_for_backward(*(one for one in inputs if isinstance(one, Tensor)))
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors = iter(ctx.saved_tensors)  # raises if one was changed since, as autograd does
        inputs = [next(tensors) if one is None else one for one in ctx.others]
        many = transformed() or torch._C._functorch.is_legacy_batchedtensor(grad)
        if torch.is_grad_enabled() or many:
            return None, *ctx.program.differentiable(inputs, grad)
        held, ctx.held = ctx.held, None  # a second backward computes anew
        return None, *ctx.program.backward(held, inputs, grad)
