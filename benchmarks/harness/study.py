"""What a study is: cases, methods, and how a step of a method is made for a case."""

from __future__ import annotations

import enum
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

WHOLE = "step"
"""The name of all phases of a step together."""
TIMES, MEMORY = "times", "memory"
"""What may be measured of a case."""


class LeftOut(Exception):
    """Raised by ``make`` where a method cannot do a case; its words go into the tables."""


class Kind(str, enum.Enum):
    """What a method is beside the others."""

    ours = "ours"
    plain = "plain"
    peer = "peer"
    floor = "floor"


@dataclass(frozen=True)
class Case:
    """One problem at one size: ``case["rows"]`` is a setting of it."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    methods: tuple[str, ...] = ()
    """Which methods are measured; none named: all."""
    measures: tuple[str, ...] = (TIMES, MEMORY)
    baseline: tuple[str, ...] = ()
    """Compared with the fastest of these, in place of the study's baseline."""

    def __getitem__(self, setting: str) -> Any:
        return self.settings[setting]


@dataclass(frozen=True)
class Method:
    """One way to do what a case asks."""

    name: str
    kind: Kind = Kind.peer
    needs: tuple[str, ...] = ()
    """Distributions that must be installed; their versions are kept with the figures."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of its process, over those of the study."""


@dataclass
class Step:
    """What is measured, again and again.

    Args:
        phases: what to call, one after another; each is timed for itself, and all together.
        before: called before each step, and neither timed nor counted as memory: to forget
            gradients, for instance.
        facts: called once, after all else; what it returns is kept beside the times: the value,
            an error, a count.
        warm: called instead of the first steps, where a step takes long: it compiles and loads
            what the step needs. Both peaks of its memory are then taken from one step.
    """

    phases: Mapping[str, Callable[[], Any]]
    before: Callable[[], Any] = lambda: None
    facts: Callable[[], Mapping[str, Any]] = dict
    warm: Callable[[], Any] | None = None

    @classmethod
    def of(cls, made: Step | Callable[[], Any]) -> Step:
        """What ``make`` has returned, as a step."""
        return made if isinstance(made, Step) else cls({WHOLE: made})

    def take(self) -> None:
        """Take the step, without a clock."""
        self.before()
        self.run()

    def run(self) -> None:
        """All phases."""
        for phase in self.phases.values():
            phase()


Make = Callable[[Case, Method], "Step | Callable[[], Any]"]


@dataclass(frozen=True)
class Study:
    """Cases, methods, and what is measured of them.

    A study lives in a module as a global, so that a new process can find it; ``make`` is called in
    that process, and all that it needs (a peer, large tensors) is imported and made there.

    Args:
        name: the name of its command, its results and its page.
        title: the title of its page.
        asks: one question.
        takes: how long a run takes, in words.
        cases: what is done.
        methods: how it is done.
        make: makes the step of a method for a case; it may raise :class:`LeftOut`.
        baseline: the method to whose time those of the others are compared, round by round.
        rounds: how often each method takes its turn.
        seconds: after so many no new round of a case begins, once there are five.
        patience: seconds after which a process that does not answer is ended, and the method has
            failed.
        environment: environment variables of the processes.
        estimate: bytes that a method will need for a case, at most; what does not fit is not run.
        sources: other modules that its figures depend on.
        page: makes the blocks of its page from its results, where what every study's page shows
            is not enough.
    """

    name: str
    title: str
    asks: str
    takes: str
    cases: tuple[Case, ...]
    methods: tuple[Method, ...]
    make: Make
    baseline: str
    rounds: int = 15
    seconds: float = 300.0
    patience: float = 600.0
    environment: Mapping[str, str] = field(default_factory=dict)
    estimate: Callable[[Case, Method], int | None] = lambda case, method: None
    sources: tuple[str, ...] = ()
    page: Callable[[dict[str, Any]], Iterable[Any]] | None = None

    def __post_init__(self) -> None:
        names = [method.name for method in self.methods]
        cases = [case.name for case in self.cases]
        if len(set(names)) < len(names) or len(set(cases)) < len(cases):
            raise ValueError(f"study `{self.name}`: two cases or two methods have one name")
        named = {name for case in self.cases for name in case.methods + case.baseline}
        unknown = named - set(names)
        if unknown or self.baseline not in names:
            raise ValueError(f"study `{self.name}` has no method {unknown or self.baseline}")

    def of(self, case: Case) -> list[Method]:
        """The methods that are measured on a case."""
        return [m for m in self.methods if not case.methods or m.name in case.methods]

    def baseline_of(self, case: Case) -> tuple[str, ...]:
        """With the fastest of which the methods are compared."""
        return case.baseline or (self.baseline,)

    @property
    def module(self) -> str:
        """Where the study is found again."""
        return self.make.__module__


@dataclass(frozen=True)
class Address:
    """By what a new process finds what it is to measure."""

    module: str
    study: str
    case: str
    method: str

    def find(self) -> tuple[Study, Case, Method]:
        """Import the module of the study, and look there."""
        study = found(self.module, self.study)
        (case,) = [case for case in study.cases if case.name == self.case]
        (method,) = [method for method in study.methods if method.name == self.method]
        return study, case, method


def found(module: str, name: str) -> Study:
    """The study of a name in a module."""
    everything = vars(importlib.import_module(module)).values()
    studies = [thing for thing in everything if isinstance(thing, Study) and thing.name == name]
    if not studies:
        raise LookupError(f"{module} has no study `{name}` among its globals")
    return studies[0]
