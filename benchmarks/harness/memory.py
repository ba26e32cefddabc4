"""The most memory that a step takes above what was there: torch's own bytes, and the system's view.

The first says what an allocator would have to hold at the least. The second sees what torch does
not know of (the buffers of a matrix product, what a peer allocates elsewhere) and what the
allocator wastes. All in MB of 2**20 bytes.
"""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.study import Step

MB = 2**20
STATUS = Path("/proc/self/status")
FREED_AT_ONCE = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_TOP_PAD_": "0",
    "MALLOC_MMAP_MAX_": "1000000",
}
"""What is freed goes back to the system at once, so that what is held can be told from outside."""
STEPS = 3
START, END, PHASE = "the step that counts", "the end of it", "its phase "


def of_step(step: Step) -> dict[str, float]:
    """Both peaks of a step that has been taken before, and what it leaves: gradients, for one."""
    resident: list[float] = []
    if step.warm is not None and STATUS.exists():
        peak, left = live_peak(step, lambda: resident.append(_resident_peak(step)))
    else:
        resident += [_resident_peak(step) for _ in range(STEPS)] if STATUS.exists() else []
        peak, left = live_peak(step)
    found = {"live_mb": round(peak / MB, 2), "left_mb": round(left / MB, 2)}
    if resident:
        found["resident_mb"] = round(statistics.median(resident), 1)
    return found


def live_peak(step: Step, run: Callable[[], Any] | None = None) -> tuple[int, int]:
    """The most bytes of torch's tensors that a step holds above its start, and what it leaves.

    Args:
        step: what is looked at; in place of a first long one, what warms it up is done.
        run: runs the step, if it is to be looked at in another way, too.
    """
    return peak_of(size for _, size in recorded(step, run).sizes)


@dataclass(frozen=True)
class Recording:
    """What a step took and gave back, in nanoseconds since its start."""

    sizes: list[tuple[int, int]]
    """When, and how many bytes; releases are negative."""
    phases: dict[str, int]
    """When each phase began."""
    end: int


def recorded(step: Step, run: Callable[[], Any] | None = None) -> Recording:
    """Every allocation and every release of a step that torch's profiler reports.

    It reports no release of what was allocated before it began: it sees the step twice, and the
    second counts, in which what the first had left can be released.

    Args:
        step: what is looked at; in place of a first long one, what warms it up is done.
        run: runs the step, if it is to be looked at in another way, too; its phases are not told
            apart then.
    """
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile, record_function

    def phase_by_phase() -> None:
        for name, phase in step.phases.items():
            with record_function(PHASE + name):
                phase()

    step.before()  # so that what earlier steps have left is not released under its eyes
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        (step.warm or step.take)()
        step.before()
        gc.collect()
        with record_function(START):
            pass
        (run or phase_by_phase)()
        with record_function(END):
            pass
    events = seen.profiler.kineto_results.events()
    marks = {e.name(): e.start_ns() for e in events if e.name().startswith((START, END, PHASE))}
    start = marks[START]
    sizes = [
        (event.start_ns() - start, event.nbytes())
        for event in events
        if event.name() == "[memory]"
        and event.device_type() == DeviceType.CPU
        and event.start_ns() >= start
    ]
    sizes.sort(key=lambda event: event[0])  # stable: of one instant, as they were reported
    phases = {name: marks[PHASE + name] - start for name in step.phases if PHASE + name in marks}
    return Recording(sizes, phases, marks[END] - start)


def peak_of(sizes: Iterable[int]) -> tuple[int, int]:
    """The highest and the last of the running sums; releases are negative."""
    live = peak = 0
    for size in sizes:
        live += size
        peak = max(peak, live)
    return peak, live


def _resident_peak(step: Step) -> float:
    step.before()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    if trim is not None:
        trim(0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the mark begins anew
    step.run()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> float:
    line = next(x for x in STATUS.read_text(encoding="ascii").splitlines() if x.startswith(key))
    return float(line.split()[1])


def available() -> int:
    """Bytes that new processes can have."""
    info = Path("/proc/meminfo")
    if info.exists():
        for line in info.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
