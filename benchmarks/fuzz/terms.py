"""Calls of what composite losses are made with: `term_gradients` and every balancer."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import nn

import lossproof
from benchmarks.fuzz import odd
from benchmarks.fuzz.examine import Call
from lossproof.errors import NonFiniteTermError, UnsupportedGraphError
from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.listing import NAMES, OPTIONS, BalancerEntry, balancers
from lossproof.terms.balance.samples import SampledBalancer
from lossproof.terms.gradients import WANTS

Tensor = torch.Tensor
Form = Callable[[Tensor], Any]
POINTS = 32
"""How many residuals a term has that is weighted point by point."""
BACKWARD_OPTIONS = (
    *("on", "exclusive", "scaler", "factor", "clip", "clip_terms", "refresh", "retain_graph"),
    *("nonfinite", "group"),
)
USUAL: dict[str, tuple[Any, ...]] = {
    "exclusive": ("weighted", "plain"),
    "factor": (1.0, 0.5, torch.tensor(0.25)),
    "clip": (None, 1.0),
    "clip_terms": (None, 1.0, {"pde": 0.5}),
    "refresh": (None, True),
    "retain_graph": (True, False),
    "nonfinite": ("raise", "drop"),
    "group": (None, False),
    "on": ("shared",),
    "scaler": (None,),
}


@dataclass
class Setting:
    """A network, and the terms of a forward pass of it."""

    network: nn.Module
    terms: Any
    params: Any


def call_of_term_gradients(random: Random) -> Callable[[], Call]:
    """Terms of a small network, and what is asked of their gradients."""
    plan = _planned(random, lambda value: value.mean())
    options: dict[str, Any] = {}
    usual = True
    if random.random() < 0.5:
        options["want"] = random.choice((*WANTS, tuple(random.sample(WANTS, 2)), ["norm"]))
    for name in ("want", "retain_graph"):
        if random.random() < 0.1:
            options[name], usual = odd.option(random), False

    def make() -> Call:
        setting, names, ordinary = plan()

        def run() -> Any:
            found = lossproof.term_gradients(setting.terms, setting.params, **options)
            return [repr(found), found.nonfinite, {k: getattr(found, k) for k in found.known}]

        return Call(
            run,
            [setting.network, setting.terms, setting.params, options],
            names | {"want", "retain_graph"},
            ordinary=ordinary and usual and "cosine" not in options.get("want", "cosine"),
            errors=((UnsupportedGraphError, ""),),
        )

    return make


def call_of_balancer(random: Random) -> Callable[[], Call]:
    """A balancer that is made with options, and two steps of it."""
    entry = random.choice(_entries())
    plan = _planned(random, _form_of(entry))
    made, usual = _constructor_options(random, entry)
    asked: dict[str, Any] = {}
    for name in random.sample(BACKWARD_OPTIONS, random.choice((0, 0, 1, 2))):
        if random.random() < 0.8:
            asked[name] = random.choice(USUAL[name])
        else:
            asked[name], usual = odd.option(random), False
    if random.random() < 0.02:
        asked["no_such_option"], usual = 1, False

    def make() -> Call:
        setting, names, ordinary = plan()

        def run() -> Any:
            balancer = entry.balancer(**made)
            repr(balancer)
            step = balancer.backward(setting.terms, setting.params, **asked)
            found = {name: one.grad for name, one in setting.network.named_parameters()}
            balancer.load_state_dict(balancer.state_dict())
            return [str(step), step.as_dict(), found]

        return Call(
            run,
            [setting.network, setting.terms, setting.params, made, asked],
            names | {*BACKWARD_OPTIONS, *made, *asked, "names", "every", *_parameters(entry)},
            ordinary=ordinary and usual,
            fills=[*setting.network.parameters()],
            errors=(
                (NonFiniteTermError, ""),
                (UnsupportedGraphError, ""),
            ),
        )

    return make


@functools.lru_cache(maxsize=1)
def _entries() -> list[BalancerEntry]:
    return [entry for entry in balancers() if entry.kind != "adapter"]


def _form_of(entry: BalancerEntry) -> Form:
    """What the balancer takes as a term, made of the squares or residuals of single points."""
    example = entry.example()
    if isinstance(example, SampledBalancer):
        return lambda value: [part.mean() for part in value.chunk(example.samples)]
    if type(example).scalars is Balancer.scalars:
        return lambda value: value.mean()
    return lambda value: value


def _parameters(entry: BalancerEntry) -> list[str]:
    return list(inspect.signature(entry.balancer).parameters)


def _constructor_options(random: Random, entry: BalancerEntry) -> tuple[dict[str, Any], bool]:
    """Options, and whether they are the usual ones."""
    examples = {**OPTIONS, "points": {"pde": POINTS}, "names": NAMES}
    given: dict[str, Any] = {
        name: examples[name] for name in _parameters(entry) if name in examples
    }
    usual = True
    for _ in range(random.choice((0, 0, 0, 0, 1, 1, 2))):
        name = random.choice([*_parameters(entry), "no_such_option"])
        given[name], usual = odd.option(random), False
    return given, usual


def _planned(random: Random, form: Form) -> Callable[[], tuple[Setting, frozenset[str], bool]]:
    """How terms are made anew for each run: those of one seed, and what is wrong with them."""
    seed = random.randrange(2**16)
    of_terms = random.choice((*(None,) * 80, *TERM_CHANGES))
    of_params = random.choice((*(None,) * 40, *PARAM_CHANGES))
    unusual = random.choice((*(None,) * 4, "requires no gradient", "has gradients", "double"))
    value = odd.option(random)

    def make() -> tuple[Setting, frozenset[str], bool]:
        setting = _setting(seed, form, unusual)
        if of_terms is not None:
            setting.terms = TERM_CHANGES[of_terms](setting.terms, value)
        if of_params is not None:
            setting.params = PARAM_CHANGES[of_params](setting, value)
        names = {"terms", "params", *NAMES, "a", "residuals", "input", "parameters", "values"}
        ordinary = of_terms is None and of_params is None and unusual != "requires no gradient"
        return setting, frozenset(names), ordinary

    return make


def _setting(seed: int, form: Form, unusual: str | None) -> Setting:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3))
        if unusual == "double":
            network.double()
        network.requires_grad_(unusual != "requires no gradient")
        first = next(network.parameters())
        out = network(torch.randn(POINTS, 2, dtype=first.dtype))
    if unusual == "has gradients":
        for one in network.parameters():
            one.grad = torch.ones_like(one)
    of_points = {"data": out[:, 0] - 1, "pde": 100 * out[:, 1], "bc": out[:, 2] + 2}
    return Setting(network, {name: form(one.square()) for name, one in of_points.items()}, network)


TermChange = Callable[[dict[str, Any], Any], Any]


def _each(change: Callable[[Tensor], Tensor]) -> TermChange:
    """One term is changed, in whatever form it is given."""

    def changed(terms: dict[str, Any], value: Any) -> Any:
        one = terms["bc"]
        own = [change(part) for part in one] if isinstance(one, list) else change(one)
        return {**terms, "bc": own}

    return changed


TERM_CHANGES: dict[str, TermChange] = {
    "none": lambda terms, value: {},
    "one": lambda terms, value: {"pde": terms["pde"]},
    "another name": lambda terms, value: {**terms, "another": terms["bc"]},
    "another key": lambda terms, value: {**terms, 3: terms["bc"]},
    "a list": lambda terms, value: list(terms.values()),
    "a tensor": lambda terms, value: terms["data"],
    "an option": lambda terms, value: value,
    "a term that is none": lambda terms, value: {**terms, "bc": value},
    "an absent one": lambda terms, value: {**terms, "bc": None},
    "all absent": lambda terms, value: dict.fromkeys(terms),
    "the same twice": lambda terms, value: {**terms, "bc": terms["data"]},
    "a constant": _each(Tensor.detach),
    "not finite": _each(lambda one: one * float("nan")),
    "infinite": _each(lambda one: one / 0),
    "huge": _each(lambda one: one * 1e30),
    "tiny": _each(lambda one: one * 1e-40),
    "zero": _each(lambda one: one * 0),
    "negative": _each(torch.neg),
    "another axis": _each(lambda one: one.expand(3, *one.shape)),
    "of shape 1": _each(lambda one: one.reshape(-1)[:1]),
    "empty": _each(lambda one: one.reshape(-1)[:0]),
    "half": _each(Tensor.half),
    "a wider one": _each(Tensor.double),
    "complex": _each(lambda one: one * 1j),
}
ParamChange = Callable[[Setting, Any], Any]
PARAM_CHANGES: dict[str, ParamChange] = {
    "none": lambda setting, value: None,
    "a list": lambda setting, value: list(setting.network.parameters()),
    "an iterator": lambda setting, value: setting.network.parameters(),
    "named": lambda setting, value: setting.network.named_parameters(),
    "one": lambda setting, value: next(setting.network.parameters()),
    "some": lambda setting, value: list(setting.network.parameters())[2:],
    "twice": lambda setting, value: [*setting.network.parameters()] * 2,
    "nothing": lambda setting, value: [],
    "of no term": lambda setting, value: nn.Linear(2, 2),
    "an option": lambda setting, value: value,
    "a list of that": lambda setting, value: [value],
    "detached": lambda setting, value: [one.detach() for one in setting.network.parameters()],
    "computed": lambda setting, value: [one * 1 for one in setting.network.parameters()],
    "a mapping": lambda setting, value: dict(setting.network.named_parameters()),
}
