"""An `autograd.Function` is written or used in a way that torch does not support.

## What it does

Looks at the `autograd.Function` classes that the loss uses, and at what went wrong when the loss
was called and differentiated: a class without `backward`, a `backward` that returns the wrong
number of gradients, a gradient of the wrong shape or type, or raises an error; a `forward` without
`ctx`, or one that returns no tensor; an instance called where the class's `apply` is meant; an
output kept on `ctx` as an attribute.

## Why it matters

torch's messages name the class but no line, and most appear only when `backward` runs, far from
the mistake. An output stored as `ctx.output = output` refers to the graph that refers to it: the
memory of every step is kept.

## Example

```python
class WeightedL2(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, target, weight):
        ctx.save_for_backward(input, target)
        ctx.weight = weight
        return weight * (input - target).pow(2).sum()

    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        grad = 2 * ctx.weight * (input - target) * grad_output
        return grad, -grad
```

## Use instead

```python
class WeightedL2(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, target, weight):
        ctx.save_for_backward(input, target)
        ctx.weight = weight
        return weight * (input - target).pow(2).sum()

    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        grad = 2 * ctx.weight * (input - target) * grad_output
        return grad, -grad, None  # one value for each argument of forward
```

## Not reported

Input tensors kept on `ctx` as attributes: that skips torch's check for later writes, but is right
as long as nothing writes. A gradient of a shape that broadcasts to the input's: torch sums it. An
input changed in place: that is LP401 and LP402.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from lossproof.checks.causes.diagnosis import CALLS
from lossproof.checks.causes.edits import broadcasts
from lossproof.checks.causes.source import FunctionSource, backward_of, source_of
from lossproof.checks.examination import Examination
from lossproof.checks.report import Finding, Location, Severity
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.subject import separate_setup
from lossproof.checks.trace import FunctionCall, tensors_in
from lossproof.checks.witness import CustomFunction, double_precision, random_upstream

Tensor = torch.Tensor

RULE = RULES["LP207"]


def examine(case: Examination) -> Iterable[Verdict]:
    """At most one finding for every Function, besides outputs that it keeps alive."""
    first = _instantiated(case) or _refused(case)
    if first is not None:
        yield first
        return
    calls = _different_calls(case)
    if not calls:
        yield RULE.not_applicable("the loss uses no `autograd.Function` of its own")
        return
    found = [finding for call in calls for finding in _findings(case, call)]
    yield from found
    if not found:
        names = ", ".join(dict.fromkeys(f"`{call.cls.__name__}`" for call in calls))
        yield RULE.proved(f"{names} can be called and differentiated")


def _different_calls(case: Examination) -> list[FunctionCall]:
    """One call of every Function; the last one where the loss failed."""
    trace = case.base.trace
    if trace is None:
        return []
    found: dict[type, FunctionCall] = {}
    for call in trace.calls[: 64 * CALLS]:
        if call.cls not in found or call.output is None:
            found[call.cls] = call
    return list(found.values())


def _instantiated(case: Examination) -> Finding | None:
    """`MyLoss()(input, target)` instead of `MyLoss.apply(input, target)`."""
    error = case.base.error
    if not isinstance(error, RuntimeError) or "Legacy autograd function" not in str(error):
        return None
    return RULE.finding(
        "an `autograd.Function` is made and called like a module",
        location=case.where(error),
        cause="instantiated",
        help="call the class's `apply`: `MyFunction.apply(input, target)`",
    )


def _refused(case: Examination) -> Finding | None:
    """A `forward` with `ctx` in a class with a `setup_context`: `apply` does not even begin."""
    error = case.base.error
    trace = error.__traceback__ if isinstance(error, TypeError) else None
    while trace is not None:
        cls = trace.tb_frame.f_locals.get("cls")
        if trace.tb_frame.f_code.co_name == "apply" and isinstance(cls, type):
            source = source_of(getattr(cls, "forward", None))
            names = [] if source is None else [a.arg for a in source.tree.args.args]
            if issubclass(cls, torch.autograd.Function) and separate_setup(cls):
                if source is not None and names[:1] == ["ctx"]:
                    return _extra_context(cls, source)
        trace = trace.tb_next
    return None


def _extra_context(cls: type, source: FunctionSource) -> Finding:
    names = ", ".join(argument.arg for argument in source.tree.args.args[1:])
    return RULE.finding(
        f"`forward` of `{cls.__name__}` takes `ctx` although the class has a `setup_context`",
        location=source.definition,
        cause="extra-ctx",
        help=f"`def forward({names})`: `setup_context` gets the `ctx`",
    )


def _findings(case: Examination, call: FunctionCall) -> Iterator[Finding]:
    error = case.base.error
    if error is not None and call.output is None:
        yield from _wrong_signature(call, error)
        return
    if not list(tensors_in(call.output)):
        yield _no_tensor(case, call)
        return
    if any(call.needs) and backward_of(call.cls) is None:
        yield _no_backward(case, call)
        return
    if case.base.backward_error is not None and call.inside is None:
        yield from _backward_fails(case, call, case.base.backward_error)
    yield from _outputs_kept(case, call)


def _class_location(cls: type) -> Location | None:
    try:
        file = inspect.getsourcefile(cls)
        _, line = inspect.getsourcelines(cls)
    except (OSError, TypeError):
        return None
    return None if file is None else Location.at(file, max(line, 1), function=cls.__qualname__)


# ---------------------------------------------------------------------- forward
def _wrong_signature(call: FunctionCall, error: Exception) -> Iterator[Finding]:
    """`forward` without `ctx`."""
    if not isinstance(error, TypeError):
        return
    source = source_of(getattr(call.cls, "forward", None))
    if source is None or source.tree.args.vararg is not None:
        return
    name, takes = call.cls.__name__, len(source.tree.args.args)
    if not separate_setup(call.cls) and takes == len(call.args):
        names = ", ".join(argument.arg for argument in source.tree.args.args)
        yield RULE.finding(
            f"`forward` of `{name}` does not take `ctx`",
            location=source.definition,
            cause="missing-ctx",
            notes=[f"torch passes `ctx` first, so {takes + 1} arguments arrive for ({names})"],
            help=f"`def forward(ctx, {names})`",
        )


def _no_tensor(case: Examination, call: FunctionCall) -> Finding:
    source = source_of(getattr(call.cls, "forward", None))
    kind = type(call.output).__name__
    location = _class_location(call.cls) or call.site.location
    if source is not None and source.returns:
        location = source.location(source.returns[-1])
    return RULE.finding(
        f"`forward` of `{call.cls.__name__}` returns `{kind}`, so its `backward` is never called",
        location=location,
        cause="no-tensor-returned",
        help="return a tensor",
    )


# ---------------------------------------------------------------------- backward
def _no_backward(case: Examination, call: FunctionCall) -> Finding:
    name = call.cls.__name__
    return RULE.finding(
        f"`{name}` has no `backward`",
        location=_class_location(call.cls) or call.site.location,
        cause="no-backward",
        notes=["inside `forward` of an `autograd.Function` autograd is switched off"],
        help="where `forward` is made of torch operations, write a function or an `nn.Module` "
        "instead: autograd derives its gradient; else write `backward`",
    )


def _backward_fails(case: Examination, call: FunctionCall, error: Exception) -> Iterator[Finding]:
    """Find the reason by calling `backward` with a context to look into."""
    if "modified by an inplace operation" in str(error):
        return
    source, name = source_of(backward_of(call.cls)), call.cls.__name__
    place = _place_inside(case, call, error)
    if place is not None:
        yield RULE.finding(
            f"`backward` of `{name}` raises {type(error).__name__}: {_first_line(error)}",
            location=place,
            cause="backward-raises",
        )
        return
    if f"{name}Backward" not in str(error) and "Variable or None" not in str(error):
        return
    returned = _returned(case, call)
    if returned is None:
        return
    if len(returned) != len(call.args):
        yield _wrong_count(call, source, len(returned))
        return
    for position, gradient in enumerate(returned):
        finding = _wrong_gradient(call, source, position, gradient)
        if finding is not None:
            yield finding
            return


def _place_inside(case: Examination, call: FunctionCall, error: Exception) -> Location | None:
    """Where in this Function's backward an exception was raised."""
    function = backward_of(call.cls)
    code = getattr(function, "__code__", None)
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is code:
            return case.subject.sources.of_exception(error)
        trace = trace.tb_next
    return None


def _returned(case: Examination, call: FunctionCall) -> tuple[Any, ...] | None:
    """What `backward` returns when it is called as plain Python."""
    backward = backward_of(call.cls)
    if backward is None:
        return None
    try:
        with double_precision(case), torch.no_grad():
            outputs, ctx = CustomFunction(case, call).run()
            tensors = {i: out for i, out in enumerate(outputs) if isinstance(out, Tensor)}
            weights = random_upstream(tensors, case.seed)
            found = backward(ctx, *weights.values())
    except Exception:  # it needs what only torch's own `ctx` has
        return None
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)


def _wrong_count(call: FunctionCall, source: FunctionSource | None, count: int) -> Finding:
    name, wants = call.cls.__name__, len(call.args)
    location = source.return_location([]) if source is not None else _class_location(call.cls)
    missing = wants - count
    if missing > 0:
        mend = f"return {wants} values, with `None` for what needs no gradient"
        if source is not None and source.returns and source.returns[-1].value is not None:
            text = ast.unparse(source.returns[-1].value).removeprefix("(").removesuffix(")")
            if isinstance(source.returns[-1].value, (ast.Tuple, ast.Name, ast.BinOp)):
                mend = f"`return {text}{', None' * missing}`"
    else:
        mend = f"return {wants} values, one for each argument of `forward` after `ctx`"
    return RULE.finding(
        f"`backward` of `{name}` returns {count} gradient{'s' * (count != 1)} for {wants} "
        "arguments of `forward`",
        location=location,
        cause="gradient-count",
        evidence={"returned": count, "arguments": wants},
        help=mend,
    )


def _wrong_gradient(
    call: FunctionCall, source: FunctionSource | None, position: int, gradient: Any
) -> Finding | None:
    """A gradient of a type or shape that torch refuses."""
    value, name = call.args[position], call.cls.__name__
    if gradient is None or not call.needs[position]:
        return None
    argument = _argument_name(call, position)
    location = source.return_location([position]) if source is not None else None
    location = location or _class_location(call.cls)
    if not isinstance(gradient, Tensor):
        return RULE.finding(
            f"`backward` of `{name}` returns `{type(gradient).__name__}` for `{argument}`, "
            "not a tensor",
            location=location,
            cause="gradient-type",
            help="return a tensor of the shape of the input, or `None`",
        )
    if broadcasts(value, gradient.shape):  # torch itself sums what is a broadcast of the input
        return None
    return RULE.finding(
        f"`backward` of `{name}` returns a gradient of shape {tuple(gradient.shape)} for "
        f"`{argument}`, which has shape {tuple(value.shape)}",
        location=location,
        cause="gradient-shape",
        help=f"return one derivative for each element of `{argument}`",
    )


def _argument_name(call: FunctionCall, position: int) -> str:
    source = source_of(getattr(call.cls, "forward", None))
    if source is None:
        return f"input {position}"
    names = [argument.arg for argument in source.tree.args.args]
    names = names if separate_setup(call.cls) else names[1:]
    return names[position] if position < len(names) else f"input {position}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200]


# ---------------------------------------------------------------------- what ctx keeps
def _outputs_kept(case: Examination, call: FunctionCall) -> Iterator[Finding]:
    try:
        with double_precision(case):
            outputs, ctx = CustomFunction(case, call).run()
    except Exception:  # reported where the loss itself fails
        return
    for attribute, value in vars(ctx).items():
        if attribute in ("saved", "non_differentiable", "needs_input_grad"):
            continue
        if any(value is output for output in outputs if isinstance(output, Tensor)):
            yield RULE.finding(
                f"`ctx.{attribute}` keeps the output of `{call.cls.__name__}`: its memory is "
                "never freed",
                severity=Severity.WARNING,
                location=_attribute_location(call, attribute),
                cause="output-on-ctx",
                notes=["the output refers to the graph, the graph to `ctx`, `ctx` to the output"],
                help="`ctx.save_for_backward(...)` keeps outputs without such a circle",
            )


def _attribute_location(call: FunctionCall, attribute: str) -> Location | None:
    for method in ("forward", "setup_context"):
        source = source_of(getattr(call.cls, method, None))
        if source is None:
            continue
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Attribute) and node.attr == attribute:
                if isinstance(node.ctx, ast.Store):
                    return source.location(node)
    return _class_location(call.cls)
