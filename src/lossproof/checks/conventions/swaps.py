"""Prediction and target in each other's place."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import torch

from lossproof.checks.conventions import Call, Fault, distinct, sums_to_one
from lossproof.checks.dataflow import Operand
from lossproof.checks.report import Location
from lossproof.checks.roles import role_by_name
from lossproof.checks.trace import Operation

Tensor = torch.Tensor

ASYMMETRIC = frozenset(
    """
    cross_entropy binary_cross_entropy binary_cross_entropy_with_logits kl_div nll_loss
    poisson_nll_loss soft_margin_loss multilabel_soft_margin_loss
    """.split()
)
ACTIVATIONS = frozenset("softmax log_softmax sigmoid log_sigmoid logsigmoid".split())


def arguments_in_each_others_place(call: Call) -> Iterator[Fault]:
    """A loss of torch or a helper of the user's that got prediction and target the wrong way."""
    found = [*_given_to_losses(call), *_given_to_helpers(call)]
    yield from found
    if not found:
        yield from _activated_targets(call)


# ---------------------------------------------------------------------- torch's own losses
def _given_to_losses(call: Call) -> Iterator[Fault]:
    losses = [operation for operation in call.operations if operation.name in ASYMMETRIC]
    straight = {o.name for o in losses if not _is_swapped(call, o)}
    for operation in losses:
        # Both directions are computed: a symmetric divergence.
        if _is_swapped(call, operation) and operation.name not in straight:
            given = call.flow.operand(operation, 0, "input")
            if given is not None and (
                _belongs_on_the_other_side(operation, given)
                or _is_given_label(call, operation, given)
            ):
                yield Fault(
                    f"`{operation.name}` gets the target as `input` and the prediction as `target`",
                    call.location(operation),
                    "swapped-arguments",
                    f"`{operation.name}` takes (input, target): the prediction first",
                )


def _is_swapped(call: Call, operation: Operation) -> bool:
    given = call.flow.operand(operation, 0, "input")
    target = call.flow.operand(operation, 1, "target")
    if given is None or target is None:
        return False
    return call.is_target(given) and call.is_predicted(target)


def _is_given_label(call: Call, operation: Operation, given: Operand) -> bool:
    """Whether a target, soft perhaps, is itself the input of a cross entropy of two classes.

    Nobody computes that one in reverse on purpose but from one network to another.
    """
    if operation.name not in ("binary_cross_entropy", "binary_cross_entropy_with_logits"):
        return False
    names = [
        call.case.inputs.arguments[origin.position].name
        for origin in call.flow.origins(given)
        if origin.position is not None
    ]
    networks = re.compile(r"teacher|student|logit|pred|prob|out|ema|other", re.I)
    return call.is_label(given) and not any(networks.search(name) for name in names)


def _belongs_on_the_other_side(operation: Operation, given: Operand) -> bool:
    """Whether the numbers themselves are a target's: labels, or a distribution for logits.

    A teacher's log-probabilities as the input of `kl_div` are the reverse divergence, on purpose.
    """
    values = given.value.detach()
    if distinct(values) in ((0.0,), (1.0,), (0.0, 1.0), (-1.0, 1.0)):
        return True
    if operation.name in ("kl_div", "binary_cross_entropy"):
        return False
    return any(values.shape[axis] > 1 and sums_to_one(values, axis) for axis in range(values.dim()))


# ---------------------------------------------------------------------- an activated target
def _activated_targets(call: Call) -> Iterator[Fault]:
    """A softmax of what is a distribution already, while the raw prediction takes its place."""
    activated = [o for o in call.operations if o.name in ACTIVATIONS]
    if any(call.predictions & operation.inputs for operation in activated):
        return
    for operation in activated:
        given = call.flow.operand(operation, 0, "input")
        if given is None or not call.is_target(given) or not _is_distribution(given.value):
            continue
        if _is_linear_in_prediction(call):
            yield Fault(
                f"`{operation.name}` is applied to {call.name(given)}, which holds probabilities "
                "already, and the prediction takes the place of the target",
                call.location(operation),
                "swapped-arguments",
                "exchange the two arguments where this is called",
                notes=("the loss is linear in the prediction: it has no lower bound",),
            )
            return


def _is_distribution(values: Tensor) -> bool:
    if distinct(values) == (0.0, 1.0):
        return True
    return any(values.shape[axis] > 1 and sums_to_one(values, axis) for axis in range(values.dim()))


def _is_linear_in_prediction(call: Call) -> bool:
    """Whether the gradient is the same at another prediction, and not zero."""
    case = call.case
    values = [
        value * 3 if position in call.predictions and isinstance(value, Tensor) else value
        for position, value in enumerate(case.inputs.values)
    ]
    other = case.evaluate(values, dtype=torch.float64)
    here = case.twin
    if other.failed or here.failed or other.value is None:
        return False
    pairs = zip(here.gradients, other.gradients, strict=True)
    known = [(one, two) for one, two in pairs if one is not None and two is not None]
    return bool(known) and all(
        torch.allclose(one, two, rtol=1e-9, atol=1e-12) and bool((one != 0).any())
        for one, two in known
    )


# ---------------------------------------------------------------------- helpers of the user's own
def _given_to_helpers(call: Call) -> Iterator[Fault]:
    """`helper(logits, labels)` where it is defined as `helper(labels, logits)`."""
    for function, place in _functions(call):
        calls = list(_calls(function, place))
        straight = {name for name, crossed, _ in calls if not crossed}
        for name, crossed, location in calls:
            if crossed and name not in straight and _order_matters(call):
                yield Fault(
                    f"`{name}` takes ({', '.join(crossed[0])}) and is given "
                    f"({', '.join(crossed[1])})",
                    location,
                    "swapped-arguments",
                    "give them in the order of the definition, or by name: "
                    f"`{name}({', '.join(f'{p}={p}' for p in crossed[0])})`",
                )


Crossed = tuple[tuple[str, ...], tuple[str, ...]]


def _functions(call: Call) -> Iterator[tuple[Callable[..., Any], Any]]:
    """The loss's own function, and the object that its `self` is."""
    target = call.case.subject.call
    if isinstance(target, torch.nn.Module):
        forward = getattr(target.forward, "__func__", None)
        if inspect.isfunction(forward):  # TorchScript has no Python to read
            yield forward, target
    elif inspect.isfunction(inspect.unwrap(target)):
        yield inspect.unwrap(target), None


def _calls(
    function: Callable[..., Any], instance: Any
) -> Iterator[tuple[str, Crossed | None, Location]]:
    """The calls of helpers in a function that give both a prediction and a target by name."""
    try:
        lines, first = inspect.getsourcelines(function)
        file = inspect.getsourcefile(function) or ""
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return
    known = _names_known_to(function)
    # What a statement throws away is no part of the loss: a check of the arguments.
    discarded = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or len(node.args) < 2 or node in discarded:
            continue
        helper = _resolved(node.func, known, instance)
        parameters = _parameters(helper)
        given = [arg.id if isinstance(arg, ast.Name) else "" for arg in node.args]
        if parameters and any(given):
            location = Location.at(file, first + node.lineno - 1, function=function.__qualname__)
            name = ast.unparse(node.func)
            roles = _roles_of_call(parameters, given)
            if roles is not None:
                crossed = (tuple(parameters[: len(given)]), tuple(given)) if roles else None
                yield name, crossed, location


def _names_known_to(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        closure = inspect.getclosurevars(function)
    except ValueError:  # a name that is not bound yet
        return {}
    return {**closure.globals, **closure.nonlocals}


def _resolved(node: ast.expr, known: dict[str, Any], instance: Any) -> Any:
    """The user's function behind `helper` or `self.helper`."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        if node.value.id == "self" and instance is not None:
            return getattr(instance, node.attr, None)
    return None


def _parameters(helper: Any) -> list[str]:
    if isinstance(helper, torch.nn.Module):
        helper = helper.forward
    if not (inspect.isfunction(helper) or inspect.ismethod(helper)):
        return []
    if (helper.__module__ or "").startswith("torch."):  # code run by `exec` may have none
        return []  # `input` says little; what torch's own losses are given is looked at above
    return list(inspect.signature(helper).parameters)


def _roles_of_call(parameters: list[str], given: list[str]) -> bool | None:
    """Whether prediction and target are crossed; ``None`` where the names do not say."""
    wanted = [role_by_name(name) for name in parameters[: len(given)]]
    actual = [role_by_name(name) for name in given]
    if not {"prediction", "target"} <= set(wanted) & set(actual):
        return None
    first, second = wanted.index("prediction"), wanted.index("target")
    sides = (actual[first], actual[second])
    if sides == ("target", "prediction"):
        return True
    return False if sides == ("prediction", "target") else None


def _order_matters(call: Call) -> bool:
    """Whether the loss is another one when prediction and target are exchanged."""
    case = call.case
    if not call.predictions or not call.targets:
        return False
    first, second = min(call.predictions), min(call.targets)
    values = list(case.inputs.values)
    values[first], values[second] = values[second], values[first]
    if not all(isinstance(values[i], Tensor) for i in (first, second)):
        return False
    other = case.evaluate(values, dtype=torch.float64, backward=False)
    if other.error is not None or other.value is None or case.twin.value is None:
        return True
    here, there = case.twin.value.detach(), other.value.detach()
    return here.shape != there.shape or not torch.allclose(here, there, rtol=1e-6, atol=1e-9)
