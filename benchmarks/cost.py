"""What a check costs: in seconds on a small loss, and in backward passes on a large one."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import lossproof
from benchmarks.harness import results
from benchmarks.harness.study import TIMES, WHOLE, Case, Kind, Method, Step, Study
from benchmarks.harness.tables import again, setting, shown

SMALL, LARGE = "320 elements", "a million elements"
COMMAND = "the command line"
CHECK, PASS = "whole check", "forward and backward"
HELP, EMPTY = "lossproof --help", "an empty Python"
COMMANDS = {
    HELP: [str(Path(sysconfig.get_path("scripts")) / "lossproof"), "--help"],
    EMPTY: [sys.executable, "-c", "pass"],
}


def seventeen(input: Tensor, target: Tensor) -> Tensor:
    """A focal, smoothed and clipped log-cosh: 17 operations of torch from input to loss."""
    size = (input - target).abs()
    log_cosh = size + torch.log1p(torch.exp(-2.0 * size)) - 0.6931471805599453
    focus = (1.0 - torch.exp(-log_cosh)) ** 1.5
    bounded = torch.tanh(focus * log_cosh / 3.0)
    return torch.sqrt(bounded + 1e-6).mean()


class Count(TorchFunctionMode):
    """Counts the torch functions that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def operations(loss: Callable[[Tensor, Tensor], Tensor]) -> int:
    """How many operations a call of the loss makes."""
    given = torch.ones(2, 2), torch.zeros(2, 2)
    with Count() as count:
        loss(*given)
    return count.calls


def drawn(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A prediction that wants a gradient, and a target."""
    generator = torch.Generator().manual_seed(3)
    prediction = torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()
    return prediction, torch.randn(shape, generator=generator, dtype=dtype)


def backward_pass(prediction: Tensor, target: Tensor) -> None:
    """One forward and one backward."""
    torch.autograd.grad(seventeen(prediction, target), prediction)


def make(case: Case, method: Method) -> Step | Callable[[], Any]:
    """A check, a backward pass, or a command."""
    if method.name in COMMANDS:
        command = COMMANDS[method.name]
        return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    given = drawn(case["shape"], torch.float32)
    if method.name == PASS:
        return lambda: backward_pass(*given)

    def check() -> None:
        lossproof.check(seventeen, *given)

    return Step({WHOLE: check}, facts=lambda: {"operations": operations(seventeen)})


def page(data: dict[str, Any]) -> Iterable[str]:
    """The page of the study."""
    methods = {case["case"]: case["methods"] for case in data["cases"]}
    small, large, command = methods[SMALL][CHECK], methods[LARGE], methods[COMMAND]
    rows = (
        ("whole check, 320 elements, s", _seconds(small), "0.5"),
        ("whole check, a million elements, forward+backward passes",
         shown(large[CHECK]["ratio"][WHOLE]), "60"),
        ("whole check, a million elements, s", _seconds(large[CHECK]), ""),
        ("one forward+backward pass, a million elements, s", _seconds(large[PASS]), ""),
        ("`lossproof --help`, s", _seconds(command[HELP]), "0.3"),
        ("an empty Python, s", _seconds(command[EMPTY]), ""),
    )  # fmt: skip
    yield "# Cost"
    count = small["facts"]["operations"]
    yield (
        f"What a whole check costs, on a loss of {count} operations in float32, on one thread: the "
        "time that passes, with its quartiles. A check and a pass take turns, and their quotient "
        "is the median of the rounds' quotients."
    )
    yield from setting(data)
    yield results.table(("", "median", "aim"), rows)
    yield (
        f"The first check of a process takes {small['first_call_s']:.2f} s: it loads what is "
        "loaded on first use."
    )
    yield again(data)


def _seconds(figures: dict[str, Any]) -> str:
    found = dict(figures["wall_ms"][WHOLE])
    if "quartiles" in found:
        found["quartiles"] = [quartile / 1000 for quartile in found["quartiles"]]
    return shown(found | {"median": found["median"] / 1000})


STUDY = Study(
    name="cost",
    title="Cost",
    asks="what does a check cost?",
    takes="1 min",
    cases=(
        Case(SMALL, {"shape": (32, 10)}, (CHECK,), (TIMES,), baseline=(CHECK,)),
        Case(LARGE, {"shape": (100_000, 10)}, (CHECK, PASS), (TIMES,)),
        Case(COMMAND, {}, (HELP, EMPTY), (TIMES,), baseline=(EMPTY,)),
    ),
    methods=(
        Method(CHECK, Kind.ours),
        Method(PASS, Kind.plain),
        Method(HELP, Kind.ours),
        Method(EMPTY, Kind.plain),
    ),
    make=make,
    baseline=PASS,
    page=page,
)
