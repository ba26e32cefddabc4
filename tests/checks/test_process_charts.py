"""Charts come back from the process of their own, and cost no verdict where they go wrong."""

import pytest

from lossproof.checks.process import Job, run_isolated

LOSSES = """\
import os, sys

def right(p, t):
    return ((p - t) ** 2).mean()

def is_charted():
    frame = sys._getframe()
    while frame is not None:
        if os.path.basename(frame.f_code.co_filename) == "curves.py":
            return True
        frame = frame.f_back

def dies_when_charted(p, t):
    if is_charted():
        os._exit(3)
    return right(p, t)

"""


@pytest.fixture(autouse=True)
def losses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "losses.py").write_text(LOSSES)


def check(name, **options):
    spec = "float[4], float[4]"
    return run_isolated(Job(f"losses.py:{name}", spec, select=("LP1",), **options))


def test_charts_come_back_where_they_are_asked_for():
    titles = [chart.title for chart in check("right", charts=True).charts]
    assert titles[:2] == ["Value", "Derivative"]


def test_a_process_that_ends_over_its_charts_has_answered_before():
    report = check("dies_when_charted", charts=True)
    assert report.charts == ()
    assert report.ok and report.proved
