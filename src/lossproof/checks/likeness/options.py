"""The options of a loss as a known one reads them: by their usual names, or by their values.

A definition declares its options as keyword-only arguments whose defaults are tuples of usual
values. Where the loss under check has an option of that name (or of another name for the same
thing), its value comes first; numbers written in the code are tried last.
"""

from __future__ import annotations

import inspect
import itertools
import types
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch

from lossproof.checks.subject import Subject

ALIASES: Mapping[str, tuple[str, ...]] = {
    "gamma": ("focusing", "focusing_param", "focal_gamma", "focus"),
    "alpha": ("balance", "balance_param", "pos_alpha", "a"),
    "temperature": ("temp", "tau", "t", "T", "kd_T", "kd_temperature"),
    "margin": ("m", "alpha", "gap", "delta"),
    "smooth": ("smoothing", "eps", "epsilon", "smooth_nr"),
    "smoothing": ("label_smoothing", "eps", "epsilon", "alpha", "smooth_eps", "ls", "smooth"),
    "eps": ("epsilon", "smooth"),
    "delta": ("beta", "threshold", "thresh", "sigma", "d", "k"),
    "quantile": ("tau", "q", "alpha", "quantiles", "taus", "qs"),
    "omega": ("w", "width"),
    "epsilon": ("eps", "curvature"),
    "theta": ("thresh", "threshold"),
    "clip": ("clip_eps", "eps", "epsilon", "eps_clip", "clip_ratio", "clip_range", "clip_param"),
    "gamma_neg": ("gamma_negative", "gamma_n"),
    "gamma_pos": ("gamma_positive", "gamma_p"),
    "shift": ("clip", "prob_shift", "m", "margin"),
    "scale": ("s", "logit_scale"),
    "beta": ("b", "fbeta"),
    "power": ("p", "rho", "variance_power"),
    "peak": ("max_val", "data_range", "max_value"),
}
LISTS = ("quantile",)
"""The options that may hold several numbers."""
ONLY = ("quantile",)
"""The options that are meant wherever they are given; others may be called so by chance."""
MOST_VALUES = 7
MOST_CHOICES = 24


class Options:
    """The numbers a loss was made with."""

    def __init__(self, subject: Subject, given: Mapping[str, Any] | None = None) -> None:
        """Read them of a loss, and of the arguments it is called with where those are numbers."""
        self.subject = subject
        self.given = given or {}
        self.constants = _constants(subject)

    def named(self, name: str) -> Any:
        """The number, or list of numbers, of an option by any of its names; else ``None``.

        ``made_with_x`` asks for the constructor's default of ``x``; ``unnamed_x`` has a value
        only where the loss has no ``x``.
        """
        if name.startswith("made_with_"):
            return self._constructor_default(name.removeprefix("made_with_"))
        for spelling in (name, *ALIASES.get(name, ())):
            for variant in (spelling, f"_{spelling}"):
                value = _numeric(self.given.get(variant, self.subject.option(variant)))
                if value is not None:
                    return value
        return None

    def _constructor_default(self, name: str) -> Any:
        target = getattr(self.subject.call, "__self__", self.subject.call)
        if inspect.isroutine(target):
            return None
        parameter = inspect.signature(type(target)).parameters.get(name)
        return None if parameter is None else _numeric(parameter.default)

    def has(self, value: float) -> bool:
        """Whether some option has this value: then what it does is meant."""
        return any(abs(number - value) <= 1e-6 * abs(value) for number in self._numbers)

    @property
    def _numbers(self) -> list[float]:
        subject = self.subject
        found: list[Any] = list(self.given.values())
        target = getattr(subject.call, "__self__", subject.call)
        if not inspect.isroutine(target):
            found += vars(target).values() if hasattr(target, "__dict__") else ()
        if subject.signature is not None:
            found += [p.default for p in subject.signature.parameters.values()]
        found += getattr(subject.origin, "keywords", {}).values()
        return [value for value in map(_numeric, found) if isinstance(value, float)]

    def choices(self, definition: Callable[..., Any]) -> Iterator[dict[str, Any]]:
        """The values to try for the options of a definition, likeliest first."""
        usual = usual_options(definition)
        values = [self._values(name, default) for name, default in usual.items()]
        for combination in itertools.islice(itertools.product(*values), MOST_CHOICES):
            yield dict(zip(usual, combination, strict=True))

    def _values(self, name: str, usual: tuple[Any, ...]) -> list[Any]:
        if name.startswith("unnamed_"):
            return list(usual) if self.named(name.removeprefix("unnamed_")) is None else []
        named = self.named(name)
        ranked = [] if named is None else [named]
        if named is None or name not in ONLY:
            ranked += usual
        if named is None and usual and all(isinstance(value, (int, float)) for value in usual):
            ranked += self._numbers + self.constants
        unique: list[Any] = []
        for value in ranked:
            if value not in unique and (name in LISTS or not isinstance(value, list)):
                unique.append(value)
        return unique[:MOST_VALUES]


@lru_cache(maxsize=1024)
def usual_options(definition: Callable[..., Any]) -> dict[str, tuple[Any, ...]]:
    """The options that a definition declares, with their usual values."""
    return {
        parameter.name: parameter.default
        for parameter in inspect.signature(definition).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def _numeric(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return float(value.detach())
    if isinstance(value, torch.Tensor) and value.dim() == 1 and value.numel() <= 64:
        return [float(number) for number in value.detach()]
    if isinstance(value, (list, tuple)) and value and len(value) <= 64:
        if all(isinstance(item, (int, float)) for item in value):
            return [float(item) for item in value]
    return None


def _constants(subject: Subject) -> list[float]:
    """The numbers written in the code of the loss, larger than 0."""
    target = getattr(subject.call, "__self__", subject.call)
    codes: list[types.CodeType] = []
    if inspect.isfunction(target):
        codes.append(target.__code__)
    else:
        codes += [f.__code__ for f in vars(type(target)).values() if inspect.isfunction(f)]
    found: dict[float, None] = {}
    for code in codes:
        for constant in code.co_consts:
            if isinstance(constant, float) and constant > 0:
                found[constant] = None
    return list(found)[:4]
