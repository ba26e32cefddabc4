"""One run of the whole demo, which the tests of this folder look at from all sides."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

TITLES = (
    "Function or layer?",
    "A catalogue, and a base of one's own",
    "A linear regression that explodes",
    "My cross entropy against the library's",
    "A loss of several terms",
)
PATIENCE = 300
"""Seconds that one test process waits for the run of another."""


def demo(*words, cwd, **environment):
    """The command, run in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "lossproof", "demo", *map(str, words)],
        capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment},
    )  # fmt: skip


class Whole(NamedTuple):
    code: int
    out: str
    err: str
    page: Path


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """What the demo says and writes; run once, also where test processes run side by side."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "whole-demo"
    said = folder / "said.json"
    try:
        folder.mkdir()
    except FileExistsError:
        deadline = time.monotonic() + PATIENCE
        while not said.exists():
            assert time.monotonic() < deadline, "the run in another test process did not end"
            time.sleep(0.1)
    else:
        done = demo(cwd=folder, COLUMNS="80", NO_COLOR="1", PYTHONWARNINGS="error")
        part = said.with_suffix(".part")
        part.write_text(json.dumps([done.returncode, done.stdout, done.stderr]), encoding="utf-8")
        part.rename(said)
    code, out, err = json.loads(said.read_text(encoding="utf-8"))
    return Whole(code, out, err, folder / "lossproof-demo.html")
