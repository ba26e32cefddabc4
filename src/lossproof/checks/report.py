"""What a check found out: plain data, no drawing and no torch.

Everything here survives ``to_dict`` / ``from_dict`` unchanged, which is how a report leaves the
isolated process in which the command line runs a check.
"""

from __future__ import annotations

import enum
import linecache
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lossproof.checks.chart import Chart, chart_from_dict, chart_to_dict
from lossproof.errors import FindingsError

Number = int | float | str | bool | None


class Severity(str, enum.Enum):
    """How much a finding matters: wrong, doubtful, or only slow."""

    ERROR = "error"
    WARNING = "warning"
    PERFORMANCE = "performance"


class Status(str, enum.Enum):
    """What a rule can say of a loss when it has no finding."""

    PROVED = "proved"
    UNPROVED = "unproved"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Location:
    """A span of source code. Lines and columns count from 1; ``end_column`` is exclusive."""

    file: str
    line: int
    column: int | None = None
    end_line: int | None = None
    end_column: int | None = None
    function: str | None = None
    source: str | None = None
    """The text of the first line, kept so that a report can be read where the file is not."""

    @classmethod
    def at(
        cls,
        file: str,
        line: int,
        column: int | None = None,
        end_line: int | None = None,
        end_column: int | None = None,
        function: str | None = None,
    ) -> Location:
        """A location with its source line looked up (also for notebook cells)."""
        text = _line_of(file, line)
        return cls(file, line, column, end_line, end_column, function, text)

    def __str__(self) -> str:
        column = "" if self.column is None else f":{self.column}"
        return f"{self.file}:{self.line}{column}"


def _line_of(file: str, line: int) -> str | None:
    try:
        return linecache.getline(file, line).rstrip("\n") or None
    except LookupError:  # the file says that it is encoded as bytes are, such as in base64
        return None


@dataclass(frozen=True)
class Finding:
    """One fault: what is wrong, where, why, with which numbers, and how to mend it."""

    code: str
    name: str
    severity: Severity
    message: str
    """One sentence fragment: lower case, no full stop, code in backticks, says *what* is wrong."""
    location: Location | None = None
    cause: str | None = None
    """A fixed word for the cause where one was named, such as ``"missing-path"``."""
    evidence: Mapping[str, Number] = field(default_factory=dict)
    """The numbers that convict, by name."""
    notes: tuple[str, ...] = ()
    """What the evidence says in words, one line each."""
    help: str | None = None
    """The mend, as code where it could be derived. May span lines."""
    related: tuple[tuple[str, Location], ...] = ()
    """Other places that matter, each with a word on why."""


@dataclass(frozen=True)
class Outcome:
    """What a rule says where it has no finding; ``detail`` holds the limit, or why not."""

    code: str
    name: str
    status: Status
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """The verdicts of one check.

    ``bool(report)`` and ``report.ok`` are true when there is no finding of any severity (and the
    loss was looked at: a sweep has reports of losses that it could not load).
    ``report.unproved`` names what could not be decided, and why: an empty list of findings with
    a long list there is not a proof.
    """

    subject: str
    location: Location | None
    inputs: tuple[str, ...]
    findings: tuple[Finding, ...]
    outcomes: tuple[Outcome, ...]
    seed: int
    seconds: float
    assumptions: tuple[str, ...] = ()
    """What the check took for granted, such as which input is the prediction."""
    reproduce: str | None = None
    """A command line or Python line that runs the same check again."""
    suppressed: tuple[Finding, ...] = ()
    """The findings that a ``# lossproof: ignore`` comment silences."""
    inferred: tuple[str, ...] = ()
    """The specifications of the inputs, where none were given and these were inferred."""
    not_checked: str | None = None
    """Why the loss could not be looked at, where it could not: then there are no verdicts."""
    charts: tuple[Chart, ...] = ()
    """The pictures, where they were measured: see :meth:`with_charts`."""
    measure: Callable[[], tuple[Chart, ...]] | None = field(default=None, compare=False, repr=False)
    """Measures the charts, which most readers of a report never ask for. No part of the data: it
    is not compared, not serialised and not pickled."""

    @property
    def ok(self) -> bool:
        """Whether the loss was looked at, and nothing was found."""
        return not self.findings and self.not_checked is None

    def __bool__(self) -> bool:
        return self.ok

    @property
    def proved(self) -> tuple[Outcome, ...]:
        """What was shown to hold, each with the limit it was shown to."""
        return self._with_status(Status.PROVED)

    @property
    def unproved(self) -> tuple[Outcome, ...]:
        """What could not be decided, each with the reason."""
        return self._with_status(Status.UNPROVED)

    @property
    def not_applicable(self) -> tuple[Outcome, ...]:
        """What does not concern this loss, each with the reason."""
        return self._with_status(Status.NOT_APPLICABLE)

    def _with_status(self, status: Status) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.status is status)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def count(self, severity: Severity) -> int:
        """How many findings have this severity."""
        return sum(finding.severity is severity for finding in self.findings)

    def raise_for_findings(self) -> None:
        """Raise :class:`~lossproof.errors.FindingsError` (an ``AssertionError``) on any finding."""
        __tracebackhide__ = True
        if self.findings:
            raise FindingsError(f"\n{self}")

    def __str__(self) -> str:
        from lossproof.show.terminal import render

        return render(self)

    def with_charts(self) -> Report:
        """The report with its charts, which are measured now if they were not before.

        That takes about a second at most. A report that came out of :meth:`from_dict` or a pickle
        has the charts that it was stored with.
        """
        if self.charts or self.measure is None:
            return self
        return replace(self, charts=self.measure())

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write the report as one HTML file that needs no network, and give back its path.

        Args:
            path: the file to write. It is replaced whole or not at all.

        Example:
            >>> import tempfile, lossproof
            >>> report = lossproof.check(lambda input, target: (input - target).pow(2).mean(),
            ...                          "float[4]", "float[4]")
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     report.to_html(folder + "/report.html").read_text()[:15]
            '<!doctype html>'
        """
        from lossproof.show.html import write

        return write([self], Path(path))

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from lossproof.show.notebook import render

        return render(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "measure": None}

    def to_dict(self, *, charts: bool = False) -> dict[str, Any]:
        """The report as JSON-safe data; :meth:`from_dict` gives it back.

        Args:
            charts: measure the charts first, so that they are part of the data.
        """
        if charts:
            return self.with_charts().to_dict()
        data = asdict(replace(self, charts=(), measure=None))
        del data["measure"]
        data["charts"] = [chart_to_dict(chart) for chart in self.charts]
        data["ok"] = self.ok
        for name in ("findings", "suppressed"):
            for finding, plain in zip(getattr(self, name), data[name], strict=True):
                plain["severity"] = finding.severity.value
                plain["evidence"] = dict(finding.evidence)
        for outcome, plain in zip(self.outcomes, data["outcomes"], strict=True):
            plain["status"] = outcome.status.value
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """Rebuild a report from :meth:`to_dict`."""
        plain = {key: value for key, value in data.items() if key != "ok"}
        plain["location"] = _location(plain["location"])
        for name in ("findings", "suppressed"):
            plain[name] = tuple(_finding(item) for item in plain[name])
        plain["outcomes"] = tuple(
            Outcome(**{**item, "status": Status(item["status"])}) for item in plain["outcomes"]
        )
        plain["inputs"] = tuple(plain["inputs"])
        plain["assumptions"] = tuple(plain["assumptions"])
        plain["inferred"] = tuple(plain["inferred"])
        plain["charts"] = tuple(chart_from_dict(chart) for chart in plain["charts"])
        return cls(**plain)

    def replace(self, **changes: Any) -> Report:
        """A copy with some fields changed."""
        return replace(self, **changes)


def _location(data: Mapping[str, Any] | None) -> Location | None:
    return None if data is None else Location(**data)


def _finding(data: Mapping[str, Any]) -> Finding:
    related: Iterable[tuple[str, Mapping[str, Any]]] = data["related"]
    return Finding(
        **{
            **data,
            "severity": Severity(data["severity"]),
            "location": _location(data["location"]),
            "notes": tuple(data["notes"]),
            "related": tuple((why, Location(**place)) for why, place in related),
        }
    )
