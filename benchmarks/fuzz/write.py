"""Calls of what makes losses: `reduce`, `as_module`, `from_numpy`, and the surrogates."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from random import Random
from typing import Any

import torch

import lossproof
from benchmarks.fuzz import odd, users_own
from benchmarks.fuzz.examine import Call, with_gradients
from lossproof.write import from_numpy, perturbed, straight_through

Tensor = torch.Tensor
SHAPES = ((), (1,), (0,), (5,), (4, 3), (4, 0), (2, 3, 4))
METRICS = (users_own.errors, users_own.error_of_each)
QUARTIC = "Quartic"
REDUCTION_OPTIONS = ("weight", "reduction", "mask", "normalizer")


def call_of_reduce(random: Random) -> Callable[[], Call]:
    """The values of items, weights, masks and a reduction."""
    values, ordinary = tensor_of(random, random.choice(SHAPES))
    options, usual = _reduction_options(random, values)
    names = frozenset({"values", *REDUCTION_OPTIONS, *options})
    dtype = values.dtype if ordinary and usual else None

    def make() -> Call:
        return Call(
            lambda: with_gradients(lossproof.reduce(values, **options), [values]),
            [values, options],
            names,
            ordinary=ordinary and usual,
            dtype=dtype,
        )

    return make


def call_of_as_module(random: Random) -> Callable[[], Call]:
    """A class of a function, an object of it, and a call of that."""
    function = random.choice(
        (*(users_own.quartic,) * 6, users_own.squared, Tensor, odd.option(random))
    )
    name = random.choice((*(None,) * 4, QUARTIC, odd.option(random)))
    input, ordinary = tensor_of(random, random.choice(SHAPES))
    target = torch.zeros_like(input) if isinstance(input, Tensor) and ordinary else input
    options, usual = _reduction_options(random, input)
    if random.random() < 0.3:
        options["scale"], usual = odd.option(random), False
    usual = usual and function is users_own.quartic and (name is None or name is QUARTIC)

    def run() -> Any:
        kind = lossproof.as_module(function, name=name)
        layer = kind(**options)
        repr(layer)
        copy.deepcopy(layer).load_state_dict(layer.state_dict())
        if usual:
            layer = pickle.loads(pickle.dumps(layer))
        return with_gradients(layer(input, target), [input])

    def make() -> Call:
        return Call(
            run,
            [input, target, options],
            frozenset({"function", "name", "values", "scale", *REDUCTION_OPTIONS, *options}),
            warns=("__torch_function__",),  # of a class in place of a number
            ordinary=ordinary and usual,
        )

    return make


def call_of_from_numpy(random: Random) -> Callable[[], Call]:
    """A loss in numpy, with its own gradient or with none."""
    functions = (users_own.cosh, users_own.plain_square, users_own.wrong_shape)
    value = random.choice((*functions, *(users_own.cosh,) * 5, odd.no_function(random)))
    slopes = (users_own.sinh, None, users_own.wrong_slope, users_own.wrong_shape)
    slope = random.choice((*slopes, *(users_own.sinh,) * 5, odd.no_function(random)))
    given = {} if random.random() < 0.8 else {"verify": odd.option(random)}
    if random.random() < 0.1:
        given["hessian_vector_product"] = odd.option(random)
    x, ordinary = tensor_of(random, random.choice(SHAPES))
    y = torch.zeros_like(x) if ordinary else x
    options, usual = _reduction_options(random, x)
    right = value is users_own.cosh and slope is users_own.sinh and not given

    def make() -> Call:
        return Call(
            lambda: with_gradients(from_numpy(value, slope, **given)(x, y, **options), [x]),
            [x, y, options],
            frozenset({"value", "gradient", "hessian_vector_product", "verify", "values",
                       "first input", "the inputs", "input", *REDUCTION_OPTIONS, *options}),
            ordinary=ordinary and usual and right,
            errors=((RuntimeError, "gradient in its first input alone"),),
            warns=("encountered in",),  # numpy's own
        )  # fmt: skip

    return make


def call_of_straight_through(random: Random) -> Callable[[], Call]:
    """A metric with the gradient of another."""
    hard = random.choice(
        (*(users_own.errors,) * 6, users_own.error_of_each, odd.no_function(random))
    )
    soft = random.choice((*(users_own.soft_errors,) * 6, odd.no_function(random)))
    score, ordinary = tensor_of(random, random.choice(SHAPES[1:]))
    label = torch.ones_like(score) if isinstance(score, Tensor) else score
    right = hard is users_own.errors and soft is users_own.soft_errors and ordinary

    def make() -> Call:
        return Call(
            lambda: with_gradients(straight_through(hard, soft)(score, label), [score]),
            [score, label],
            frozenset({"hard", "soft"}),
            ordinary=right and score.numel() > 0,
        )

    return make


def call_of_perturbed(random: Random) -> Callable[[], Call]:
    """The mean of a metric over noise."""
    function = random.choice((*METRICS * 4, odd.no_function(random)))
    options: dict[str, Any] = {"samples": 3}
    usual = True
    for name in ("sigma", "samples", "generator"):
        if random.random() < 0.2:
            options[name], usual = odd.option(random), False
    if isinstance(options["samples"], int) and options["samples"] > 1000:
        options["samples"] = 12
    input, ordinary = tensor_of(random, random.choice(SHAPES[1:]))
    label = torch.ones_like(input) if isinstance(input, Tensor) else input
    right = ordinary and usual and any(function is one for one in METRICS)

    def make() -> Call:
        return Call(
            lambda: with_gradients(perturbed(function, **options)(input, label), [input]),
            [input, label, options],
            frozenset({"function", "sigma", "samples", "generator", "input"}),
            ordinary=right and input.numel() > 0,
            draws=True,
        )

    return make


def tensor_of(random: Random, shape: tuple[int, ...]) -> tuple[Any, bool]:
    """A tensor of numbers, maybe changed; and whether it is still one of ordinary numbers."""
    generator = torch.Generator().manual_seed(random.randrange(2**16))
    dtype = random.choice((torch.float32, torch.float32, torch.float64, torch.bfloat16))
    tensor = torch.randn(shape, generator=generator).to(dtype)
    for _ in range(random.randint(0, 2)):
        tensor = odd.unusual_layout(random, tensor)
    if random.random() < 0.35:
        return odd.changed(random, tensor), False
    return tensor, True


def _reduction_options(random: Random, values: Any) -> tuple[dict[str, Any], bool]:
    """Options of `reduce`, and whether they are right and finite for these values."""
    options: dict[str, Any] = {}
    usual = True
    shape = values.shape if isinstance(values, Tensor) else (3,)
    for name in random.sample(REDUCTION_OPTIONS, random.choice((0, 1, 1, 2, 3))):
        if random.random() < 0.3:
            options[name], usual = odd.option(random), False
        elif name == "weight":
            options[name] = torch.full(shape, random.choice((0.0, 1.0, 0.25)))
        elif name == "mask":
            options[name] = torch.full(shape, random.random() < 0.5)
        elif name == "reduction":
            options[name] = random.choice(("none", "mean", "sum"))
        else:
            options[name] = random.choice((1, 3.5, torch.tensor(2.0), torch.tensor([4])))
    return options, usual
