"""What a check costs: in seconds on a small loss, and in backward passes on a large one.

``python -m benchmarks.cost`` (``--help`` lists the options).
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.overrides import TorchFunctionMode

import lossproof
from benchmarks.harness import results

SMALL = (32, 10)
LARGE = (100_000, 10)
OPERATIONS = 17


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


def timed(action: Callable[[], Any]) -> float:
    """The seconds that one call takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def backward_pass(prediction: Tensor, target: Tensor) -> None:
    """One forward and one backward."""
    torch.autograd.grad(seventeen(prediction, target), prediction)


def small_check(runs: int) -> dict[str, Any]:
    """Seconds for a whole check at 320 elements; the first one loads what is loaded on use."""
    given = drawn(SMALL, torch.float32)
    first = timed(lambda: lossproof.check(seventeen, *given))
    return {"first": first, **spread([timed(lambda: lossproof.check(seventeen, *given))
                                      for _ in range(runs)])}  # fmt: skip


def large_check(runs: int) -> dict[str, Any]:
    """A whole check at a million elements, and passes timed before and after each.

    The unit of a check is the median of the passes beside it, so that a machine which slows down
    slows both.
    """
    given = drawn(LARGE, torch.float32)
    backward_pass(*given)
    seconds, units, ratios = [], [], []
    for _ in range(runs):
        passes = [timed(lambda: backward_pass(*given)) for _ in range(5)]
        whole = timed(lambda: lossproof.check(seventeen, *given))
        passes += [timed(lambda: backward_pass(*given)) for _ in range(5)]
        seconds.append(whole)
        units.append(median(passes))
        ratios.append(whole / median(passes))
    return {"seconds": spread(seconds), "pass": spread(units), "passes": spread(ratios)}


def command_line(runs: int) -> dict[str, Any]:
    """Seconds from the start of ``lossproof --help`` to its end; and of an empty interpreter."""
    command = [str(Path(sysconfig.get_path("scripts")) / "lossproof"), "--help"]
    empty = [sys.executable, "-c", "pass"]
    return {
        "help": spread([timed(lambda: _run(command)) for _ in range(runs)]),
        "python": spread([timed(lambda: _run(empty)) for _ in range(runs)]),
    }


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {
        "median": median(values),
        "least": min(values),
        "most": max(values),
        "runs": len(values),
    }


def page(data: dict[str, Any]) -> list[str]:
    """The study as blocks of markdown."""
    f = data["figures"]
    rows = [
        ("whole check, 320 elements, s", f["small"], "0.5"),
        ("whole check, a million elements, forward+backward passes", f["large"]["passes"], "60"),
        ("whole check, a million elements, s", f["large"]["seconds"], ""),
        ("one forward+backward pass, a million elements, s", f["large"]["pass"], ""),
        ("`lossproof --help`, s", f["command_line"]["help"], "0.3"),
        ("an empty Python, s", f["command_line"]["python"], ""),
    ]
    return [
        "# Cost",
        f"What a whole check costs, on a loss of {OPERATIONS} operations in float32.",
        results.setting(data) + " Again: `python -m benchmarks.cost`.",
        results.table(
            ["", "median", "least", "most", "runs", "aim"],
            [[name, *_rounded(group), aim] for name, group, aim in rows],
        ),
        f"The first check of a process took {f['small']['first']:.2f} s: it loads what is loaded "
        "on first use. The passes are timed before and after each check, in the same process.",
    ]


def _rounded(group: dict[str, float]) -> list[str]:
    return [f"{group[key]:.3g}" for key in ("median", "least", "most")] + [str(group["runs"])]


def main(
    runs: Annotated[int, typer.Option(min=1, help="How often each is measured.")] = 9,
) -> None:
    """Measure, write the results and their page."""
    torch.set_num_threads(1)
    assert operations(seventeen) == OPERATIONS
    figures = {
        "small": small_check(runs),
        "large": large_check(runs),
        "command_line": command_line(runs),
    }
    data = {"machine": results.machine(), "figures": figures}
    table = Table("", "median", "least", "most", "runs")
    for name, group in (
        ("check, n = 320, s", figures["small"]),
        ("check, n = 1e6, passes", figures["large"]["passes"]),
        ("lossproof --help, s", figures["command_line"]["help"]),
    ):
        table.add_row(name, *_rounded(group))
    Console().print(table)
    if runs >= 7:
        print(results.save("cost", data))
        print(results.save_page("cost", page(data)))


if __name__ == "__main__":
    typer.run(main)
