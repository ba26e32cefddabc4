"""Many losses, each checked in a process of its own, several at once."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

from lossproof.checks import process
from lossproof.checks.cache import Cache
from lossproof.checks.comparison import Comparison
from lossproof.checks.configuration import Configuration, LossSettings
from lossproof.checks.discovery import Discovery, FoundLoss, shown
from lossproof.checks.loading import package_of
from lossproof.checks.process import InternalError, Job, died_on_import
from lossproof.checks.report import Location, Report
from lossproof.errors import ImportFailedError, UsageError

POLL_SECONDS = 0.1
"""How often the sweep looks whether it was interrupted, and ends what is still running."""

Runner = Callable[[Job], Report | Comparison]


@dataclass(frozen=True)
class Task:
    """A loss of a sweep, and how it is to be checked."""

    loss: FoundLoss
    job: Job


@dataclass
class Sweep:
    """What came of a sweep. The reports are in the order of the losses, however they ended."""

    tasks: tuple[Task, ...]
    """The losses that there are reports of."""
    reports: tuple[Report, ...]
    from_cache: int = 0
    interrupted: bool = False
    left_over: int = 0
    """How many losses were not looked at because the sweep was interrupted."""
    seconds: float = 0.0


def tasks_for(
    found: Discovery, configuration: Configuration, job: Job, parallel: int = 1
) -> tuple[Task, ...]:
    """How each loss is to be checked: as the job says, and where it says nothing, as configured.

    A loss of a searched file that has settings of its own is checked even if nothing in the file
    says that it is one.

    Args:
        found: the losses.
        configuration: the project's settings.
        job: what is common to all; ``target`` does not matter.
        parallel: how many are checked at once, and share the processor's cores.

    Raises:
        UsageError: a file that has settings is not there.
    """
    settings = {_place(name, configuration): own for name, own in configuration.losses.items()}
    losses = [*found.losses, *_configured(found, configuration)]
    threads = None if len(losses) == 1 else max(1, cores() // parallel)
    return tuple(
        Task(
            loss,
            _with_settings(
                replace(job, target=loss.target, threads=threads),
                next((settings[i] for i in _identities(loss) if i in settings), LossSettings()),
                configuration,
            ),
        )
        for loss in losses
    )


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def _with_settings(job: Job, own: LossSettings, configuration: Configuration) -> Job:
    return replace(
        job,
        inputs=own.inputs if job.inputs is None else job.inputs,
        reference=_reference(own.reference, configuration)
        if job.reference is None
        else job.reference,
        ignore=(*job.ignore, *own.ignore),
    )


def _reference(reference: str | None, configuration: Configuration) -> str | None:
    """A file that the settings name is relative to them."""
    place, _, name = (reference or "").rpartition(":")
    if not place.removesuffix(":").endswith(".py"):
        return reference
    return f"{configuration.root / place.removesuffix(':')}:{name}"


def _place(name: str, configuration: Configuration) -> tuple[str, str]:
    """What a name in the settings means: a file or a module, and a name in it."""
    place, _, loss = name.rpartition(":")
    place = place.removesuffix(":")
    if not (place.endswith(".py") or "/" in place):
        return place, loss
    file = configuration.root / place
    if not os.path.isfile(file):
        raise UsageError(f"`{configuration.file}`: the file of `losses.{name}` is not there")
    return str(file.resolve()), loss


def _identities(loss: FoundLoss) -> tuple[tuple[str, str], ...]:
    """By what pairs of file or module and name the settings may mean a loss."""
    if loss.file is None:
        return ((loss.target.rpartition(":")[0], loss.name),)
    return (str(loss.file), loss.name), (package_of(loss.file)[1], loss.name)


def _configured(found: Discovery, configuration: Configuration) -> Iterator[FoundLoss]:
    """The losses with settings that lie in a searched file and were not found."""
    known = {identity for loss in found.losses for identity in _identities(loss)}
    for name in configuration.losses:
        place, loss = _place(name, configuration)
        file = Path(place)
        if (place, loss) not in known and file in found.files:
            yield FoundLoss(f"{shown(file)}:{loss}", file, loss)


@dataclass
class _Progress:
    """What the threads of a sweep tell each other."""

    stopped: threading.Event = field(default_factory=threading.Event)
    broken: dict[Path, str] = field(default_factory=dict)
    """Files that could not be imported: their other losses are not tried."""
    from_cache: int = 0


def sweep(
    tasks: Sequence[Task],
    *,
    parallel: int = 1,
    cache: Cache | None = None,
    run: Runner | None = None,
    on_done: Callable[[Report], None] = lambda report: None,
) -> Sweep:
    """Check every loss; whatever becomes of one, the others are checked.

    Ctrl-C ends what is running, and the reports that are there are given back.

    Args:
        tasks: the losses and how to check them.
        parallel: how many at once.
        cache: where reports are kept; ``None`` for nowhere.
        run: what does one job; by default :func:`~lossproof.checks.process.run_isolated`.
        on_done: called with each report as it comes.
    """
    started = time.perf_counter()
    progress = _Progress()
    runner = run or process.run_isolated
    reports: dict[int, Report] = {}
    interrupted = False
    with ThreadPoolExecutor(max_workers=max(1, parallel)) as pool:
        futures = {
            pool.submit(_check, task, runner, cache, progress): place
            for place, task in enumerate(tasks)
        }
        try:
            for future in _as_they_come(futures):
                report = reports[futures[future]] = future.result()
                on_done(report)
        except KeyboardInterrupt:
            interrupted = True
            progress.stopped.set()
            _end(futures)
    done = sorted(reports)
    return Sweep(
        tuple(tasks[place] for place in done),
        tuple(reports[place] for place in done),
        progress.from_cache,
        interrupted,
        len(tasks) - len(reports),
        time.perf_counter() - started,
    )


def _as_they_come(futures: Iterable[Future[Report]]) -> Iterator[Future[Report]]:
    """The futures in the order they end; unlike the library's own, it can be interrupted."""
    pending = set(futures)
    while pending:
        done, pending = wait(pending, POLL_SECONDS, "FIRST_COMPLETED")
        yield from done


def _end(futures: Iterable[Future[Report]]) -> None:
    """Kill what runs, until nothing does: a thread may have been about to start one more."""
    pending = set(futures)
    for future in futures:
        future.cancel()
    while pending:
        process.end_running()
        _, pending = wait(pending, POLL_SECONDS)


def _check(task: Task, run: Runner, cache: Cache | None, progress: _Progress) -> Report:
    loss, job = task.loss, task.job
    kept = None if cache is None else cache.get(job, loss.file)
    if kept is not None:
        progress.from_cache += 1
        return kept
    if loss.file in progress.broken:
        return not_checked(loss, job, progress.broken[loss.file])
    if progress.stopped.is_set():
        return not_checked(loss, job, "interrupted")
    report = _isolated(loss, job, run, progress)
    if cache is not None and not progress.stopped.is_set():
        cache.put(job, loss.file, report)
    return report


def _isolated(loss: FoundLoss, job: Job, run: Runner, progress: _Progress) -> Report:
    try:
        report = run(job)
    except ImportFailedError as error:
        return _broken(loss, job, str(error), progress)
    except UsageError as error:
        return not_checked(loss, job, str(error))
    except InternalError as error:
        return not_checked(loss, job, f"lossproof itself failed: {error}; please report it")
    assert isinstance(report, Report)
    if died_on_import(report):
        (finding,) = report.findings
        found = finding.location
        place = "" if found is None else f", at `{shown(Path(found.file))}` line {found.line}"
        return _broken(loss, job, f"{finding.message}{place}", progress)
    return report


def _broken(loss: FoundLoss, job: Job, why: str, progress: _Progress) -> Report:
    if loss.file is not None:
        progress.broken[loss.file] = why
    return not_checked(loss, job, why)


def not_checked(loss: FoundLoss, job: Job, why: str) -> Report:
    """A report that says nothing but why there is none."""
    place = None
    if loss.file is not None and loss.line is not None:
        place = Location.at(str(loss.file), loss.line, function=loss.name)
    return Report(loss.name, place, (), (), (), job.seed, 0.0, not_checked=why)


def unreadable(found: Discovery, seed: int) -> tuple[Report, ...]:
    """The files that could not be searched, each as a report that says why."""
    return tuple(
        Report(
            shown(bad.file), Location.at(str(bad.file), bad.line or 1), (), (), (), seed, 0.0,
            not_checked=bad.why,
        )
        for bad in found.unreadable
    )  # fmt: skip
