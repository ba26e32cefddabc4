"""What `chunk` and `pairs` keep of the plain loss: every derivative, and the contract of a loss."""

from __future__ import annotations

import warnings
from importlib import metadata
from typing import Any

import torch
import typer

from benchmarks.harness import results
from benchmarks.speed.contract import QUESTIONS, WAYS, answer
from benchmarks.speed.equalities import EQUALITIES


def measured() -> dict[str, Any]:
    """All relative errors, and all answers; `None` is a right one."""
    warnings.simplefilter("ignore")
    return {
        "equalities": {name: make().errors() for name, make in EQUALITIES.items()},
        "contract": {
            way: {question: answer(way, question) for question in QUESTIONS} for way in WAYS
        },
    }


def main() -> None:
    """Ask everything, and write the results and their page."""
    from benchmarks import studies
    from benchmarks.speed.tables import exactness_summary

    torch.set_num_threads(1)
    digest = results.source_digest()
    data = {
        "machine": results.machine(),
        "versions": {"liger_kernel": metadata.version("liger_kernel")},
        **measured(),
    }
    print(exactness_summary(data))
    results.refuse_if_changed(digest)
    print(results.save("speed_exactness", data))
    studies.write_pages_of("speed_exactness")


if __name__ == "__main__":
    typer.run(main)
