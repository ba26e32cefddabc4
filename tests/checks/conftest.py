"""What the tests of the checks share: pages, losses in files of their own."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lossproof.checks.examination import Examination
from lossproof.checks.inputs import inputs_for
from lossproof.checks.report import Finding, Outcome, Status
from lossproof.checks.rules import RULES
from lossproof.checks.subject import subject_of


@pytest.fixture(scope="session")
def examination() -> Callable[..., Examination]:
    """Make an examination of a loss on inputs."""

    def make(loss: Any, *inputs: Any, seed: int = 0, reference: Any = None) -> Examination:
        subject = subject_of(loss)
        other = None if reference is None else subject_of(reference)
        return Examination(subject, inputs_for(subject, inputs, seed), seed, other)

    return make


@pytest.fixture(scope="session")
def verdicts(examination: Callable[..., Examination]) -> Callable[..., list[Any]]:
    """What one rule says of a loss: never nothing."""

    def run(code: str, loss: Any, *inputs: Any, **options: Any) -> list[Any]:
        said = RULES[code].examine(examination(loss, *inputs, **options))
        assert said, f"{code} says nothing at all"
        return said

    return run


@pytest.fixture(scope="session")
def found(verdicts: Callable[..., list[Any]]) -> Callable[..., list[Finding]]:
    """The findings of one rule."""

    def run(code: str, loss: Any, *inputs: Any, **options: Any) -> list[Finding]:
        said = verdicts(code, loss, *inputs, **options)
        return [verdict for verdict in said if isinstance(verdict, Finding)]

    return run


@pytest.fixture(scope="session")
def silent(verdicts: Callable[..., list[Any]]) -> Callable[..., Status]:
    """Assert that a rule has no finding, and give the status of its last outcome."""

    def run(code: str, loss: Any, *inputs: Any, **options: Any) -> Status:
        said = verdicts(code, loss, *inputs, **options)
        assert all(isinstance(verdict, Outcome) for verdict in said), said
        status: Status = said[-1].status
        return status

    return run


@pytest.fixture
def module_of(tmp_path: Path) -> Iterator[Callable[..., ModuleType]]:
    """Import source text as a module from a file of its own."""
    names: list[str] = []

    def load(source: str, name: str = "losses_in_a_file", folder: Path = tmp_path) -> ModuleType:
        path = folder / f"{name}.py"
        path.write_text(source, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        names.append(name)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def page_code() -> Callable[[str, str], str]:
    """The first code block of a section of a rule's page."""

    def block(code: str, section: str) -> str:
        text = RULES[code].page.partition(f"## {section}\n")[2].partition("\n## ")[0]
        match = re.search(r"```python\n(.*?)```", text, re.S)
        assert match is not None, f"{code} has no code under {section}"
        return match[1]

    return block


@pytest.fixture(scope="session")
def lines_of() -> Callable[[Iterable[Finding]], list[int | None]]:
    """The lines of findings, in order."""

    def lines(findings: Iterable[Finding]) -> list[int | None]:
        return [f.location.line if f.location else None for f in findings]

    return lines
