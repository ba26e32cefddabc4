"""The battery: what any loss should stand, tried on ours and on the copies of other libraries.

A check takes a subject and returns nothing where it holds, or says in one line what is wrong;
:class:`NotApplicable` where it asks nothing of this loss. ``COMMON`` is asked of every library,
``CONTRACT`` of the catalogue alone, which promises more.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.catalogue.subject import Call, Subject, kinds, value_and_gradients

Tensor = torch.Tensor
Check = Callable[[Subject], str | None]

UNBOUNDED = {"float", "positive", "boxes", "logprob"}
"""Types of inputs that remain what they are when they are multiplied."""
HALVES = (torch.float16, torch.bfloat16)
# Their value is e to the prediction, or to a few times that, which beyond 88 is no float32.
EXPONENTIAL = {"poisson_nll_loss": 80.0, "tweedie_loss": 80.0, "weibull_nll_loss": 30.0}


class NotApplicable(Exception):
    """The check asks nothing of this loss."""


def failures(subject: Subject, checks: dict[str, Check]) -> dict[str, str | None]:
    """The verdict of each check that applies: ``None`` where it holds."""
    found: dict[str, str | None] = {}
    for name, check in checks.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found[name] = check(subject)
        except NotApplicable:
            continue
        except Exception as error:
            line = (str(error).strip() or "no message").splitlines()[0]
            found[name] = f"{type(error).__name__}: {line[:200]}"
    return found


def _finite(tensors: list[Tensor]) -> bool:
    return all(bool(torch.isfinite(t).all()) for t in tensors)


def worst(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest wanted number."""
    if not found.numel():
        return 0.0
    scale = float(wanted.double().abs().max().clamp(min=1e-12))
    return float((found.double() - wanted.double()).abs().max()) / scale


def average(found: Tensor, wanted: Tensor) -> float:
    """The mean difference, relative to the mean wanted size.

    What is rounded over a kink changes one number of a gradient altogether, and this only a little.
    """
    if not found.numel():
        return 0.0
    scale = float(wanted.double().abs().sum().clamp(min=1e-12))
    return float((found.double() - wanted.double()).abs().sum()) / scale


def same(
    found: tuple[Tensor, list[Tensor]],
    wanted: tuple[Tensor, list[Tensor]],
    tolerance: float,
    distance: Callable[[Tensor, Tensor], float] = worst,
) -> str | None:
    """What differs of two results."""
    error = distance(found[0], wanted[0])
    if not error <= tolerance:
        return f"the value is {found[0].tolist()}, not {wanted[0].tolist()}"[:200]
    for i, (one, other) in enumerate(zip(found[1], wanted[1], strict=True)):
        error = distance(one, other)
        if not error <= tolerance:
            return f"gradient {i} is off by a relative {error:.1e}"
    return None


# -- asked of every library --------------------------------------------------------------------


def smoke(subject: Subject) -> str | None:
    """A scalar, finite, with finite gradients."""
    value, gradients = value_and_gradients(subject.call, subject.draw())
    if value.numel() != 1:
        return f"shape {list(value.shape)}, not a scalar"
    return None if _finite([value, *gradients]) else "not finite on ordinary inputs"


def gradient(subject: Subject) -> str | None:
    """Gradcheck in float64, and float64 in gives float64 out; not where a gradient is stopped."""
    given = _fixed_gradient(subject)
    leaves = given.leaves()
    value = subject.call(*leaves.tensors)
    if value.dtype != torch.float64:
        return f"float64 in, {value.dtype} out"
    torch.autograd.gradcheck(
        _of_predicted(subject, given), _predicted(leaves), fast_mode=_large(leaves)
    )
    return None


def second_gradient(subject: Subject) -> str | None:
    """Gradgradcheck in float64, asked where the first gradient is right."""
    given = _fixed_gradient(subject)
    _needs(gradient, subject)
    torch.autograd.gradgradcheck(
        _of_predicted(subject, given), _predicted(given.leaves()), atol=1e-4,
        fast_mode=_large(given),
    )  # fmt: skip
    return None


def _needs(check: Check, subject: Subject) -> None:
    """What fails here because it failed there is counted once."""
    if failures(subject, {"needed": check}).get("needed") is not None:
        raise NotApplicable


def _large(given: Call) -> bool:
    """Whether derivatives are compared along random directions, not number by number."""
    return sum(tensor.numel() for tensor in _predicted(given)) > 200


def _fixed_gradient(subject: Subject) -> Call:
    if subject.entry.stops_gradient is not None:
        raise NotApplicable  # the published gradient is not the derivative of the value
    return subject.draw(dtype=torch.float64)


def _predicted(given: Call) -> tuple[Tensor, ...]:
    return tuple(given.tensors[i] for i in given.predicted)


def _of_predicted(subject: Subject, given: Call) -> Callable[..., Tensor]:
    """The loss as a function of the predicted tensors alone."""

    def loss(*predicted: Tensor) -> Tensor:
        tensors = list(given.tensors)
        for i, tensor in zip(given.predicted, predicted, strict=True):
            tensors[i] = tensor
        return subject.call(*tensors)

    return loss


def extreme(subject: Subject) -> str | None:
    """Finite value and gradient for predictions times 30, 100 and 1e4."""
    for factor in (30.0, 100.0, 1e4):
        given = _scaled(subject, subject.draw(), factor)
        value, gradients = value_and_gradients(subject.call, given)
        if not _finite([value, *gradients]):
            return f"not finite where the prediction is multiplied by {factor:g}"
    return None


def accuracy(subject: Subject) -> str | None:
    """Float32 within 1 % of float64, also times 30, 100 and 1e4; where it is finite."""
    return float32_beside_float64(subject, 1e-2)


def float32_beside_float64(subject: Subject, tolerance: float) -> str | None:
    """The same numbers in both."""
    for factor in (1.0, 30.0, 100.0, 1e4):
        given = _scaled(subject, subject.draw(), factor)
        found = value_and_gradients(subject.call, given)
        if not _finite([found[0], *found[1]]):
            continue  # what `extreme` reports
        try:
            exact = value_and_gradients(subject.call, given.to(torch.float64))
        except Exception:
            raise NotApplicable from None  # it takes no float64, as `gradient` reports
        if not _finite([exact[0], *exact[1]]):
            return f"not finite in float64, predictions times {factor:g}"
        wrong = same(found, exact, tolerance)
        if wrong:
            return f"{wrong} (float32 beside float64, predictions times {factor:g})"
    return None


def _scaled(subject: Subject, given: Call, factor: float) -> Call:
    """Larger predictions, where these may be any number; what is bounded goes to its ends."""
    first_kind = kind(subject)
    first = given.tensors[0]
    if first_kind in UNBOUNDED:
        scaled = first * factor
        limit = EXPONENTIAL.get(subject.entry.name)
        return given.replaced(0, scaled if limit is None else scaled.clamp(-limit, limit))
    if first_kind in {"unit", "binary"}:
        return given if factor == 1 else given.replaced(0, (first > 0.5).to(first.dtype))
    return given


def kind(subject: Subject) -> str:
    """The type of the first input in the specification."""
    return kinds(subject)[0]


def half(subject: Subject) -> str | None:
    """Float16 and bfloat16: finite, on average within 5 % of the float32 of the same numbers."""
    return in_half(subject, dict.fromkeys(HALVES, 5e-2), average)


def in_half(
    subject: Subject,
    tolerances: dict[torch.dtype, float],
    distance: Callable[[Tensor, Tensor], float] = worst,
) -> str | None:
    """Inputs in half precision beside the same numbers in float32."""
    for dtype, tolerance in tolerances.items():
        given = subject.draw(times=8).to(dtype)
        value, gradients = value_and_gradients(subject.call, given)
        if not _finite([value, *gradients]):
            return f"not finite in {dtype}"
        exact = value_and_gradients(subject.call, given.to(torch.float32))
        wrong = same((value, gradients), exact, tolerance, distance)
        if wrong:
            return f"{wrong} ({dtype} beside float32)"
    return None


def autocast(subject: Subject) -> str | None:
    """Under autocast to either: finite, and on average within 5 % of float32."""
    return under_autocast(subject, 5e-2, average)


def under_autocast(
    subject: Subject, tolerance: float, distance: Callable[[Tensor, Tensor], float] = worst
) -> str | None:
    """Autocast beside none."""
    for dtype in HALVES:
        given = subject.draw(times=8)
        leaves = given.leaves()
        with torch.autocast("cpu", dtype):
            value = subject.call(*leaves.tensors)
        gradients = torch.autograd.grad(
            value.sum(), _predicted(leaves), materialize_grads=True
        )  # outside, as torch says it should be
        found = (value.detach(), list(gradients))
        if not _finite([found[0], *found[1]]):
            return f"not finite under autocast to {dtype}"
        exact = value_and_gradients(subject.call, given)
        wrong = same(found, exact, tolerance, distance)
        if wrong:
            return f"{wrong} (autocast to {dtype})"
    return None


def one_item(subject: Subject) -> str | None:
    """A batch of one sample is finite."""
    value, gradients = value_and_gradients(subject.call, subject.draw().rows(slice(0, 1)))
    return None if _finite([value, *gradients]) else "not finite for one sample"


def no_items(subject: Subject) -> str | None:
    """A batch without samples gives 0 and zero gradients: a convention of this catalogue.

    torch's documented mean of nothing is NaN, and counts as a failure, as an exception does.
    """
    value, gradients = value_and_gradients(subject.call, subject.draw().rows(slice(0, 0)))
    return None if _finite([value, *gradients]) and not value.any() else f"{value.tolist()}"


def degenerate(subject: Subject) -> str | None:
    """Equal and all-zero inputs are finite."""
    given = subject.draw()
    same = [
        given.replaced(0, given.tensors[i].clone())
        for i in _alike(given)
        if _can_be(kind(subject), kinds(subject)[i])
    ]
    first = given.tensors[0]
    variants = {"a prediction equal to the target": same}
    if kind(subject) == "float":
        equal_rows = first[:1].expand_as(first).clone()
        variants["a prediction of zeros"] = [given.replaced(0, torch.zeros_like(first))]
        variants["equal rows"] = [given.replaced(0, equal_rows)]
        variants["zeros everywhere"] = [
            given.replaced(0, torch.zeros_like(first)).replaced(i, torch.zeros_like(first))
            for i in _alike(given)
            if kinds(subject)[i] == "float"
        ]
    variants["one class"] = [
        given.each(lambda t: t if t.is_floating_point() else torch.zeros_like(t))
    ]
    for what, calls in variants.items():
        for call in calls:
            value, gradients = value_and_gradients(subject.call, call)
            if not _finite([value, *gradients]):
                return f"not finite for {what}"
    return None


def _can_be(prediction: str, target: str) -> bool:
    """Whether a prediction of this type can be equal to a target of that one: no mean is 0."""
    return prediction in {"float", target} or (prediction, target) == ("unit", "binary")


def _alike(given: Call) -> list[int]:
    """Other inputs of the first one's shape and dtype."""
    first = given.tensors[0]
    return [
        i
        for i, t in enumerate(given.tensors)
        if i and isinstance(t, Tensor) and t.shape == first.shape and t.dtype == first.dtype
    ]


def wrong_shapes(subject: Subject) -> str | None:
    """A sample less, or one alone, in one of the inputs is an error, not a broadcast."""
    given = subject.draw()
    batched = [i for i in range(len(given.tensors)) if given.batched(i)]
    if len(batched) < 2 or len(batched) < len(given.tensors):
        raise NotApplicable
    for i in batched:
        for rows in (slice(0, -1), slice(0, 1)):
            if len(given.tensors[i][rows]) == given.samples:
                continue
            tensors = given.replaced(i, given.tensors[i][rows]).tensors
            try:
                subject.call(*tensors)
            except Exception:
                continue
            return f"takes {[list(t.shape) for t in tensors]}"
    return None


def fullgraph(subject: Subject) -> str | None:
    """``torch.compile(fullgraph=True)`` gives the same value and gradient."""
    given = subject.draw()
    wanted = value_and_gradients(subject.call, given)  # first, so that nothing is left to import
    with _fresh_dynamo():
        compiled = torch.compile(subject.call, fullgraph=True, backend="aot_eager")
        found = value_and_gradients(compiled, given)
    return same(found, wanted, 1e-4)


def dynamic_shapes(subject: Subject) -> str | None:
    """A compiled loss takes batches of other sizes without compiling again, if it compiles."""
    if not subject.ours:  # ours are known to compile
        _needs(fullgraph, subject)
    with _fresh_dynamo(error_on_recompile=True):
        compiled = torch.compile(subject.call, fullgraph=True, backend="eager", dynamic=True)
        for times in (2, 3):
            given = subject.draw(times=times)
            wanted = value_and_gradients(subject.call, given)
            wrong = same(value_and_gradients(compiled, given), wanted, 1e-4)
            if wrong:
                return f"{wrong} ({times} times as many samples)"
    return None


@contextmanager
def _fresh_dynamo(**settings: Any) -> Iterator[None]:
    import torch._dynamo
    from torch.fx.experimental import _config as shapes

    torch._dynamo.reset()
    # Axes that happen to be as long as the batch are not taken for it.
    with torch._dynamo.config.patch(**settings), shapes.patch(use_duck_shape=False):
        yield
    torch._dynamo.reset()


def vmap_of_grad(subject: Subject) -> str | None:
    """``vmap(grad(loss))`` over two batches gives the gradients of each."""
    one, other = subject.draw(0), subject.draw(1)
    places = tuple(i for i in one.predicted)
    both = [
        torch.stack([a, b]) if isinstance(a, Tensor) else a
        for a, b in zip(one.tensors, other.tensors, strict=True)
    ]
    in_dims = tuple(0 if isinstance(t, Tensor) else None for t in both)
    each = torch.func.vmap(torch.func.grad(subject.call, places), in_dims, randomness="different")
    gradients = each(*both)
    for row, given in enumerate((one, other)):
        _, wanted = value_and_gradients(subject.call, given)
        for i, gradient_ in enumerate(gradients):
            error = worst(gradient_[row], wanted[i])
            if not error <= 1e-4:
                return f"gradient {i} is off by a relative {error:.1e}"
    return None


def forward_mode(subject: Subject) -> str | None:
    """``torch.func.jvp`` agrees with the gradient, asked where that is right."""
    given = _fixed_gradient(subject)
    _needs(gradient, subject)
    points = _predicted(given)
    generator = torch.Generator().manual_seed(7)
    tangents = tuple(torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in points)
    _, found = torch.func.jvp(_of_predicted(subject, given), points, tangents)
    _, gradients = value_and_gradients(subject.call, given)
    wanted = sum((g * t).sum() for g, t in zip(gradients, tangents, strict=True))
    size = sum((g * t).abs().sum() for g, t in zip(gradients, tangents, strict=True))
    error = float(abs(found - wanted) / (size + 1e-30))
    return None if error < 1e-6 else f"off by a relative {error:.1e}"


def noncontiguous(subject: Subject) -> str | None:
    """The same for tensors that do not lie in one piece."""
    given = subject.draw()
    spread = given.each(_spread)
    wanted = value_and_gradients(subject.call, given)
    found = subject.call(*spread.tensors).detach()
    return same((found, []), (wanted[0], []), 1e-5)


def _spread(tensor: Tensor) -> Tensor:
    """The same numbers, in the order of the other axes or with gaps."""
    if tensor.ndim > 1:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    return torch.stack([tensor, tensor], -1)[..., 0] if tensor.ndim else tensor


def not_a_number(subject: Subject) -> str | None:
    """NaN in the prediction gives NaN, or an error."""
    given = subject.draw()
    first = given.tensors[0].clone()
    first.view(-1)[0] = float("nan")
    try:
        value = subject.call(*given.replaced(0, first).tensors)
    except Exception:
        return None
    return None if value.isnan().any() else f"NaN in, {value.tolist()} out"


def unchanged_inputs(subject: Subject) -> str | None:
    """The inputs are what they were."""
    given = subject.draw().leaves()
    before = given.each(lambda t: t.detach().clone())
    versions = [t._version for t in given.tensors if isinstance(t, Tensor)]
    subject.call(*given.tensors).sum().backward()
    for name, old, new in zip(given.names, before.tensors, given.tensors, strict=True):
        if isinstance(new, Tensor) and not torch.equal(old, new.detach()):
            return f"`{name}` was changed"
    if versions != [t._version for t in given.tensors if isinstance(t, Tensor)]:
        return "an input was written to"
    return None


COMMON: dict[str, Check] = {
    "smoke": smoke,
    "gradient": gradient,
    "second gradient": second_gradient,
    "extreme": extreme,
    "accuracy": accuracy,
    "half": half,
    "autocast": autocast,
    "one item": one_item,
    "no items": no_items,
    "degenerate": degenerate,
    "wrong shapes": wrong_shapes,
    "fullgraph": fullgraph,
    "dynamic shapes": dynamic_shapes,
    "vmap of grad": vmap_of_grad,
    "forward mode": forward_mode,
    "non-contiguous": noncontiguous,
    "NaN is seen": not_a_number,
    "inputs unchanged": unchanged_inputs,
}
