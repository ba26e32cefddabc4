"""The process in which the command line runs a check: ``python -m lossproof.checks.worker``.

It reads a :class:`~lossproof.checks.process.Job` from standard input, writes its answer to the file
named first, and keeps in the file named second how far it is, and where it was should it die. The
user's code runs here and may do what it likes to the standard streams and to the process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from lossproof.checks.exception_words import as_code, words_of
from lossproof.checks.process import NO_LIMIT_SECONDS, Job
from lossproof.errors import ImportFailedError, UsageError

if TYPE_CHECKING:
    from lossproof.checks.report import Report


def main() -> NoReturn:
    """Answer one job."""
    answer, trace = sys.argv[1:]
    job = Job(**json.load(sys.stdin))
    _show_lines_at_once()
    _detach_standard_input()
    with open(trace, "w", encoding="utf-8") as file:
        supervised = _Supervised(job, file)
        _answer_to(Path(answer), supervised.answer())
        if job.charts and supervised.report is not None:
            # Whatever the loss does to the process now, its verdict is safe.
            _answer_to(Path(answer), supervised.answer_with_charts(supervised.report))
        _leave()


def _show_lines_at_once() -> None:
    """What a loss prints is seen, also if it closes the stream after that."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)


def _detach_standard_input() -> None:
    """A loss that asks for input gets none, instead of waiting for ever."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def _answer_to(path: Path, answer: dict[str, Any]) -> None:
    """Write the answer whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(answer), encoding="utf-8")
    part.replace(path)


def _leave() -> NoReturn:
    """End at once, past whatever threads and exit handlers the user's code has left behind."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    _end_process(0)


_end_process = os._exit


class _Supervised:
    """The job, and the file that tells its story if the process dies in the middle."""

    def __init__(self, job: Job, trace: TextIO) -> None:
        self.job = job
        self.trace = trace
        self.loading = True
        self.owner = os.getpid()
        self.report: Report | None = None
        """The verdict of a check, once there is one."""
        faulthandler.enable(trace)
        os._exit = self._exit

    def answer(self) -> dict[str, Any]:
        """The answer as JSON-safe data, under a key that says of which kind it is."""
        try:
            return self._verdict()
        except ImportFailedError as error:
            return {"import": str(error)}
        except UsageError as error:
            return {"usage": str(error)}
        except Exception as error:
            text = f"{type(error).__name__}: {words_of(error)}"
            return {"internal": text, "traceback": traceback.format_exc()}
        except BaseException as error:
            return {"ended": self._ended(error)}

    def answer_with_charts(self, report: Report) -> dict[str, Any]:
        """The answer with the charts of the report, which are measured now."""
        self._limit(self.job.charting_time)
        return {"report": report.to_dict(charts=True)}

    def _verdict(self) -> dict[str, Any]:
        import torch

        import lossproof
        from lossproof.checks.loading import load

        job = self.job
        self._limit(job.loading_time)
        torch.manual_seed(job.seed)
        loss, module = load(job.target)
        if job.other is not None:
            other, other_module = load(job.other)
            inputs = self._inputs((module, job.target), (other_module, job.other))
            self._mark_checking()
            comparison = lossproof.compare(
                loss, other, *inputs, seed=job.seed, time_limit=job.time_limit
            )
            return {"comparison": comparison.to_dict()}
        reference = None if job.reference is None else load(job.reference)[0]
        inputs = self._inputs((module, job.target))
        self._mark_checking()
        self.report = lossproof.check(
            loss,
            *inputs,
            reference=reference,
            seed=job.seed,
            time_limit=job.time_limit,
            select=job.select,
            ignore=job.ignore,
        )
        return {"report": self.report.to_dict()}

    def _inputs(self, *losses: tuple[ModuleType, str]) -> tuple[Any, ...]:
        """The inputs that were asked for, else those beside the first loss that has any."""
        from lossproof.checks.loading import neighbour_inputs

        if self.job.inputs is not None:
            return (self.job.inputs,)
        for module, target in losses:
            found = neighbour_inputs(module, target.rpartition(":")[2])
            if found is not None:
                return found
        return ()

    def _mark_checking(self) -> None:
        self._limit(self.job.verdict_time)
        self.loading = False
        self.trace.write("checking\n")
        self.trace.flush()

    def _limit(self, seconds: float) -> None:
        """Leave a traceback and end the process after this time, also in the middle of C code."""
        if seconds < NO_LIMIT_SECONDS:
            faulthandler.dump_traceback_later(seconds, exit=True, file=self.trace)
        else:
            faulthandler.cancel_dump_traceback_later()

    def _exit(self, status: int) -> NoReturn:
        """``os._exit``, which leaves no word of where it was called, with one."""
        if os.getpid() == self.owner:
            faulthandler.dump_traceback(self.trace, all_threads=False)
        _end_process(status)

    def _ended(self, error: BaseException) -> dict[str, Any]:
        from lossproof.checks.sources import Sources

        place = Sources(self.job.target.partition(":")[0]).of_exception(error)
        return {
            "exception": as_code(error),
            "loading": self.loading,
            "place": None if place is None else asdict(place),
        }


if __name__ == "__main__":
    main()
