"""The pytest plugin: a fixture that checks a loss, and a marker for one test per rule family.

Nothing heavy is imported when pytest loads this: torch comes with the first check.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from lossproof.checks.report import Report

FAMILIES = {
    "value": "LP1",
    "gradient": "LP2",
    "numerics": "LP3",
    "behaviour": "LP4",
    "speed": "LP5",
}
"""What the marker makes tests of: the name of each family and how the codes of its rules begin."""
CRASH = "LP408"
"""Runs with every family: where the loss raises, the others have nothing to say."""
SPEED = "lossproof: speed"
"""The user property under which a finding of severity ``performance`` travels to the summary."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the plugin."""
    group = parser.getgroup("lossproof", "checks of PyTorch losses")
    group.addoption(
        "--lossproof-seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of every random choice of the checks (default: 0)",
    )
    group.addoption(
        "--lossproof-time-limit",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long the check of one loss may take (default: 60)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        "lossproof(families=None, **options): run the test once per family of rules "
        f"({', '.join(FAMILIES)}); the fixture `lossproof` then checks that family. Options such "
        "as `ignore`, `seed` or `time_limit` go to `lossproof.check`.",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test per family where the marker asks for it."""
    marker = metafunc.definition.get_closest_marker("lossproof")
    if marker is None:
        return
    if marker.args:
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid}: the marker `lossproof` takes options by name, got "
            f"{marker.args!r}; give the loss and its inputs to the fixture: "
            "`lossproof(loss, *inputs)`"
        )
    if "lossproof" not in metafunc.fixturenames:
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid}: the marker `lossproof` needs the fixture of the same "
            f"name: `def {metafunc.function.__name__}(lossproof): lossproof(loss, *inputs)`"
        )
    families = _families(marker, metafunc.definition.nodeid)
    metafunc.parametrize("lossproof", families, indirect=True)


def _families(marker: pytest.Mark, nodeid: str) -> list[str]:
    chosen = marker.kwargs.get("families")
    families = list(FAMILIES) if chosen is None else [chosen] if isinstance(chosen, str) else chosen
    for family in families:
        if family not in FAMILIES:
            raise pytest.UsageError(
                f"{nodeid}: `families` must be of {', '.join(FAMILIES)}, got {family!r}"
            )
    return list(families)


@pytest.fixture
def lossproof(request: pytest.FixtureRequest) -> Iterator[Checker]:
    """Check a loss: ``lossproof(loss, *inputs, reference=None, **options)`` returns its report.

    The test fails on a finding of severity error or warning. What is only slow is listed at the end
    of the session.
    """
    checker = Checker(request)
    yield checker
    if checker.calls == 0 and request.node.get_closest_marker("lossproof") is not None:
        pytest.fail("the test has the marker `lossproof` but did not check any loss", pytrace=False)


class Checker:
    """What the fixture ``lossproof`` gives."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request
        self._family: str | None = getattr(request, "param", None)
        self.calls = 0
        """How many losses were checked."""

    def __call__(self, loss: Any, *inputs: Any, **options: Any) -> Report:
        """Check a loss as :func:`lossproof.assert_right` does.

        Args:
            loss: a function, an ``nn.Module`` or an ``autograd.Function``.
            inputs: tensors, other values, or specifications such as ``"float[8,10]"``.
            options: as for :func:`lossproof.check`; those of the marker count where none is given.

        Raises:
            FindingsError: an ``AssertionError`` with the report and how to run the test again.
        """
        __tracebackhide__ = True
        import lossproof
        from lossproof.errors import FindingsError

        self.calls += 1
        options = self._options(options)
        try:
            report = lossproof.assert_right(loss, *inputs, **options)
        except FindingsError as error:
            text = f"{error}\n{self._reproduction(options['seed'])}"
            raise FindingsError(text) from None
        self._note_speed(report)
        return report

    def _options(self, given: dict[str, Any]) -> dict[str, Any]:
        config = self._request.config
        marker = self._request.node.get_closest_marker("lossproof")
        marked = (
            {} if marker is None else {k: v for k, v in marker.kwargs.items() if k != "families"}
        )
        options = {
            "seed": config.getoption("--lossproof-seed"),
            "time_limit": config.getoption("--lossproof-time-limit"),
            **marked,
            **given,
        }
        if self._family is not None:
            options["select"] = (FAMILIES[self._family], CRASH)
        return options

    def _reproduction(self, seed: int) -> str:
        """The command that runs this very test again."""
        words = ["pytest", self._request.node.nodeid, "--lossproof-seed", str(seed)]
        return f"run it again: {shlex.join(words)}"

    def _note_speed(self, report: Report) -> None:
        from lossproof.show import concise

        # As text: user properties are what reaches the summary from another process, too.
        for line in concise.render(report).splitlines():
            self._request.node.user_properties.append((SPEED, line))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what is right but slow."""
    lines = {
        value: None
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == SPEED
    }
    if lines:
        terminalreporter.section("lossproof: right, but slow")
        for line in lines:
            terminalreporter.line(line)
