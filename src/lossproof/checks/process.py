"""Run a check in a process of its own, so that whatever the loss does, there is a report.

This is the side that asks; it imports no torch. The side that checks is
:mod:`lossproof.checks.worker`. The question goes to its standard input as JSON, the answer comes
back in a file, and what the user's code prints goes to standard error. If the process dies before
it has answered, the traceback that ``faulthandler`` left says where it was.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossproof.checks.report import Finding, Location, Number, Report
from lossproof.checks.rule_selection import selected
from lossproof.checks.rules import RULES
from lossproof.checks.suppressions import sorted_out
from lossproof.errors import ImportFailedError, LossproofError, UsageError

if TYPE_CHECKING:
    from lossproof.checks.comparison import Comparison

WORKER = "lossproof.checks.worker"
NO_LIMIT_SECONDS = 1e6
"""Eleven days: more than that is no limit, and the clocks of the system would overflow."""
STARTUP_SECONDS = 180.0
"""For Python to start and torch to be imported; minutes on a cold network drive."""

# What `faulthandler` writes.
FAULT = re.compile(r"^(?:Fatal Python error|Windows fatal exception): (.*)$", re.MULTILINE)
TIMEOUT = re.compile(r"^Timeout \(", re.MULTILINE)
THREAD = re.compile(r"^(?=(?:Current thread|Thread) 0x|Stack \(most)", re.MULTILINE)
FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)


@dataclass(frozen=True)
class Job:
    """What is to be checked, as it was asked for on the command line."""

    target: str
    inputs: str | None = None
    reference: str | None = None
    other: str | None = None
    """Compare ``target`` with this instead of checking it."""
    seed: int = 0
    time_limit: float = 60.0
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    charts: bool = False
    """Measure what an HTML report draws, once the verdict is safe."""
    show_output: bool = True
    """Pass on what the loss prints, to standard error."""
    threads: int | None = None
    """How many threads torch starts with; ``None`` leaves that to torch."""
    loading_time: float = 60.0
    """How long importing the file and making its inputs may take."""
    grace: float = 5.0
    """How long after the time limit a process that has not ended by itself is killed."""
    charting_time: float = 20.0
    """How long measuring the charts may take, after the verdict."""

    @property
    def verdict_time(self) -> float:
        """How long the verdict may take before the process is killed.

        A comparison has the time limit three times: for the first call of either side, and for
        everything after.
        """
        return self.time_limit * (1 if self.other is None else 3) + self.grace

    @property
    def longest(self) -> float | None:
        """The time after which the process cannot be running unless something is badly wrong."""
        seconds = STARTUP_SECONDS + self.loading_time + self.verdict_time + self.grace
        seconds += self.charting_time if self.charts else 0.0
        return seconds if seconds < NO_LIMIT_SECONDS else None


class InternalError(LossproofError):
    """Lossproof itself failed. ``traceback`` says where."""

    def __init__(self, message: str, traceback: str) -> None:
        super().__init__(message)
        self.traceback = traceback


def run_isolated(job: Job) -> Report | Comparison:
    """Run the job in a process of its own.

    A check gives a report. So does a comparison whose process died: on how it did.

    Raises:
        UsageError: the job cannot be carried out as it was asked for.
        InternalError: lossproof itself failed.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="lossproof-", ignore_cleanup_errors=True) as folder:
        answer, trace = Path(folder, "answer.json"), Path(folder, "trace.txt")
        code = _run(job, answer, trace)
        if answer.is_file():
            return _read(job, json.loads(answer.read_text(encoding="utf-8")), started)
        if not trace.is_file():
            raise InternalError(f"the process for the check did not start (exit code {code})", "")
        text = trace.read_text(encoding="utf-8", errors="replace")
    return _report(job, _death(job, code, Trace.parse(text)), started)


def _run(job: Job, answer: Path, trace: Path) -> int | None:
    """Run the worker to its end; the exit code, or ``None`` if it had to be killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", WORKER, str(answer), str(trace)],
        stdin=subprocess.PIPE,
        # Results alone go to standard output, and this is not one.
        stdout=2 if job.show_output else subprocess.DEVNULL,
        stderr=None if job.show_output else subprocess.DEVNULL,
        env=_environment(job),
        **own_group(),
    )
    _running.add(process)
    try:
        process.communicate(json.dumps(asdict(job)).encode(), timeout=job.longest)
        return process.returncode
    except subprocess.TimeoutExpired:
        return None
    finally:
        _running.discard(process)
        kill(process)


_running: set[subprocess.Popen[bytes]] = set()


def end_running() -> None:
    """Kill every check that is running in a process of its own, in whatever thread."""
    for process in tuple(_running):
        _signal_group(process)


def _environment(job: Job) -> dict[str, str] | None:
    """The environment of the process; ``None`` for an unchanged one."""
    if job.threads is None or "OMP_NUM_THREADS" in os.environ:
        return None
    return {**os.environ, "OMP_NUM_THREADS": str(job.threads)}


def own_group() -> dict[str, Any]:
    """Out of reach of the terminal's Ctrl-C, which is ours to handle, and killed as a whole."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever it has started, if anything still runs."""
    _signal_group(process)
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def _signal_group(process: subprocess.Popen[bytes]) -> None:
    if sys.platform != "win32":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _read(job: Job, answer: Mapping[str, Any], started: float) -> Report | Comparison:
    if "import" in answer:
        raise ImportFailedError(answer["import"])
    if "usage" in answer:
        raise UsageError(answer["usage"])
    if "internal" in answer:
        raise InternalError(answer["internal"], answer["traceback"])
    if "ended" in answer:
        return _report(job, _ended(job, **answer["ended"]), started)
    if "comparison" in answer:
        from lossproof.checks.comparison import Comparison

        return Comparison.from_dict(answer["comparison"])
    return Report.from_dict(answer["report"])


@dataclass(frozen=True)
class Trace:
    """What the worker left behind: how far it was, and where it was when it ended."""

    loading: bool = True
    timed_out: bool = False
    fault: str | None = None
    place: Location | None = None

    @classmethod
    def parse(cls, text: str) -> Trace:
        """Read the worker's marks and what ``faulthandler`` wrote after them."""
        fault = FAULT.search(text)
        return cls(
            loading=not text.startswith("checking\n"),
            timed_out=TIMEOUT.search(text) is not None,
            fault=fault[1].strip() if fault else None,
            place=_user_place(text),
        )


def _user_place(text: str) -> Location | None:
    """The user's innermost line: in the thread that failed, else in the one that checked."""
    threads = THREAD.split(text)[1:]
    threads.sort(key=lambda thread: thread.startswith("Thread"))
    for thread in threads:
        frames = FRAME.findall(thread)
        others = [frame for frame in frames if not _is_ours(frame[0])]
        own = [frame for frame in others if not _is_library(frame[0])]
        for file, line, function in own or others:
            return Location.at(_unescaped(file), int(line), function=function)
    return None


def _is_ours(file: str) -> bool:
    frozen = file.startswith("<frozen")
    return frozen or file.startswith(os.path.dirname(os.path.dirname(__file__)) + os.sep)


def _is_library(file: str) -> bool:
    """Whether the file is one of the standard library or of an installed package."""
    paths = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    return file.startswith(tuple(path + os.sep for path in paths))


def _unescaped(file: str) -> str:
    """Undo what ``faulthandler`` does to letters outside ASCII."""
    return re.sub(
        r"\\x([0-9a-f]{2})|\\u([0-9a-f]{4})|\\U([0-9a-f]{8})",
        lambda found: chr(int(found[1] or found[2] or found[3], 16)),
        file,
    )


def _death(job: Job, code: int | None, trace: Trace) -> Finding:
    """The finding for a process that did not answer."""
    if trace.timed_out or code is None:
        return _still_running(job, trace)
    who = _who(job, trace.loading)
    evidence: dict[str, Number] = {**_phase(trace.loading), "exit_code": code}
    if code < 0:
        how = _signal_name(-code)
        evidence = {**_phase(trace.loading), "signal": how.partition(" ")[0]}
        message = f"the interpreter dies of {how} in {who}"
    elif trace.fault is not None:
        message = f"the interpreter dies in {who}: {trace.fault}"
    else:
        message = f"{who} ends the process with exit code {code}"
    return RULES["LP408"].finding(
        message, location=trace.place, cause="process-died", evidence=evidence,
        notes=("the check ran in a process of its own, which ended before it could answer",),
        help=_advice(code, trace),
    )  # fmt: skip


def _advice(code: int, trace: Trace) -> str:
    if sys.platform != "win32" and code == -signal.SIGKILL:
        return (
            "something outside the process ended it, most often the system when memory runs out; "
            "give smaller inputs"
        )
    if code >= 0 and trace.fault is None:
        return "raise an exception instead of ending the process"
    return "look at the code outside Python that is called at this line"


def _still_running(job: Job, trace: Trace) -> Finding:
    allowed = job.loading_time if trace.loading else job.verdict_time - job.grace
    return RULES["LP408"].finding(
        f"{_who(job, trace.loading)} was still running after {allowed:g} s",
        location=trace.place,
        cause="time-limit",
        evidence={**_phase(trace.loading), "time_limit": allowed},
        notes=("it was in a call that Python cannot interrupt, so the process was killed",),
        help="if the call at this line is only slow, give smaller inputs or a longer "
        "`--time-limit`",
    )


def _ended(job: Job, exception: str, loading: bool, place: Mapping[str, Any] | None) -> Finding:
    """The finding for an exception that is no error but ends the program."""
    return RULES["LP408"].finding(
        f"{_who(job, loading)} raises `{exception}`, which ends the program",
        location=None if place is None else Location(**place),
        cause="ends-program",
        evidence={**_phase(loading), "exception": exception},
        notes=("it is no error, so what handles errors does not stop it",),
        help="raise an error, such as `ValueError`, where the inputs are at fault",
    )


def _phase(loading: bool) -> dict[str, Number]:
    return {"phase": "import"} if loading else {}


def died_on_import(report: Report) -> bool:
    """Whether the process of a check ended before the loss was called at all."""
    return any(finding.evidence.get("phase") == "import" for finding in report.findings)


def _who(job: Job, loading: bool) -> str:
    names = f"`{_names(job).replace(' and ', '` and `')}`"
    if loading:
        return f"the import of {names}"
    return names if job.other is None else f"the comparison of {names}"


def _names(job: Job) -> str:
    both = (job.target,) if job.other is None else (job.target, job.other)
    return " and ".join(target.rpartition(":")[2] for target in both)


def _signal_name(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    words = (signal.strsignal(number) or "").lower()
    return f"{name} ({words})" if words else name


def _report(job: Job, finding: Finding, started: float) -> Report:
    """A report of which nothing is known but how the process ended."""
    rules = selected(job.select, job.ignore)
    wanted = any(rule.code == finding.code for rule in rules) or job.other is not None
    findings, silenced = sorted_out((finding,) if wanted else (), None)
    why = "the process ended before" if wanted else f"the process ended before: {finding.message}"
    return Report(
        subject=_names(job),
        location=finding.location,
        inputs=() if job.inputs is None else (job.inputs,),
        findings=findings,
        outcomes=tuple(
            rule.unproved(why) for rule in rules if rule.code != finding.code and job.other is None
        ),
        seed=job.seed,
        seconds=time.perf_counter() - started,
        suppressed=silenced,
    )
