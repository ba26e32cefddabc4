"""What the tests of the guide share: the site, built once, however many processes test it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONGEST = 300
"""Seconds that a process waits for another to have built the site."""


def built(folder: Path) -> str:
    """Build the site; what the build says if it fails."""
    run = subprocess.run(
        [Path(sys.executable).parent / "mkdocs", "build", "--strict", "--site-dir", folder],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    return "" if run.returncode == 0 else run.stdout + run.stderr


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The site, and what its build complained of."""
    pytest.importorskip("material")
    pytest.importorskip("math_core")
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    site, said = shared / "site", shared / "site.txt"
    try:
        (shared / "site.lock").mkdir()
    except FileExistsError:
        until = time.monotonic() + LONGEST
        while not said.exists() and time.monotonic() < until:
            time.sleep(0.2)
    else:
        part = shared / "site.part"
        part.write_text(built(site), encoding="utf-8")
        part.rename(said)
    return site, said.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def site(build: tuple[Path, str]) -> Path:
    """The site, whatever its build complained of."""
    return build[0]
