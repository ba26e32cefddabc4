"""lossproof: write a loss, and know that it is right.

This module is the public face. Nothing is defined here, and nothing heavy is imported until it is
asked for: ``import lossproof`` costs a few milliseconds, ``lossproof.check`` loads torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from lossproof.checks.assertion import assert_right
    from lossproof.checks.compare import compare
    from lossproof.checks.comparison import Comparison
    from lossproof.checks.report import Finding, Location, Outcome, Report, Severity
    from lossproof.checks.run import check
    from lossproof.errors import FindingsError, LossproofError, UsageError
    from lossproof.speed.chunking import chunk
    from lossproof.speed.fusing import fuse
    from lossproof.speed.pairing import pairs
    from lossproof.terms.gradients import term_gradients
    from lossproof.watcher.guard import watch
    from lossproof.write.module import as_module
    from lossproof.write.reduction import reduce

_HOMES = {
    "assert_right": "lossproof.checks.assertion",
    "check": "lossproof.checks.run",
    "compare": "lossproof.checks.compare",
    "Comparison": "lossproof.checks.comparison",
    "Finding": "lossproof.checks.report",
    "Location": "lossproof.checks.report",
    "Outcome": "lossproof.checks.report",
    "Report": "lossproof.checks.report",
    "Severity": "lossproof.checks.report",
    "FindingsError": "lossproof.errors",
    "LossproofError": "lossproof.errors",
    "UsageError": "lossproof.errors",
    "as_module": "lossproof.write.module",
    "chunk": "lossproof.speed.chunking",
    "fuse": "lossproof.speed.fusing",
    "pairs": "lossproof.speed.pairing",
    "reduce": "lossproof.write.reduction",
    "term_gradients": "lossproof.terms.gradients",
    "watch": "lossproof.watcher.guard",
}

__all__ = [
    "Comparison",
    "Finding",
    "FindingsError",
    "Location",
    "LossproofError",
    "Outcome",
    "Report",
    "Severity",
    "UsageError",
    "as_module",
    "assert_right",
    "check",
    "chunk",
    "compare",
    "fuse",
    "pairs",
    "reduce",
    "term_gradients",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
