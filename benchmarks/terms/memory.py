"""The most memory that a step takes above the resident model, in a process of its own."""

from __future__ import annotations

import ctypes
import gc
import statistics
from pathlib import Path
from typing import Any

from benchmarks.terms.backwards import BACKWARDS, OURS, PLAIN
from benchmarks.terms.heads import step_of
from benchmarks.terms.models import Heads

STATUS = Path("/proc/self/status")
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_TOP_PAD_": "0",
}
"""What is freed goes back to the system at once, so that what is held can be told from outside."""


def measured(model: str, count: int, name: str) -> dict[str, Any]:
    """The median of three steps, in megabytes; Linux alone tells."""
    setting = Heads(model, count)
    try:
        step = step_of(setting, BACKWARDS[name])
        step()
        peaks = [_peak(setting, step) for _ in range(3)]
    except Exception as error:  # whatever a library raises is its answer
        if name in (PLAIN, OURS):
            raise
        return {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"}
    gradient = sum(parameter.nbytes for parameter in setting.parameters) / 2**20
    peak = statistics.median(peaks)
    return {
        "gradient_mb": round(gradient, 2),
        "peak_mb": round(peak, 1),
        "gradients": round(peak / gradient, 2),
    }


def _peak(setting: Heads, step: Any) -> float:
    setting.clear()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    step()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> float:
    line = next(x for x in STATUS.read_text(encoding="ascii").splitlines() if x.startswith(key))
    return float(line.split()[1])
