"""What the workflow and the hook to copy run, is run."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORKFLOW = (ROOT / "examples" / "ci" / "github-actions.yml").read_text(encoding="utf-8")
HOOKS = (ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")
LOSS = "def mean_square_loss(input, target):\n    return ((input - target) ** 2).mean()\n"


@pytest.fixture
def project(tmp_path):
    (tmp_path / "losses.py").write_text(LOSS, encoding="utf-8")
    (tmp_path / "notes.py").write_text("TEXT = 'no loss here'\n", encoding="utf-8")
    return tmp_path


def run(command, folder):
    program = Path(sys.executable).parent
    path = f"{program}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command, cwd=folder, shell=True, capture_output=True, text=True,
        env={**os.environ, "PATH": path},
    )  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="the workflow runs on Linux")
def test_the_workflow_checks_and_reports(project):
    commands = re.findall(r"run: (lossproof .*)", WORKFLOW)
    assert len(commands) == 2
    for command in commands:
        result = run(command, project)
        assert result.returncode == 0, result.stderr
    log = json.loads((project / "lossproof.sarif").read_text(encoding="utf-8"))
    assert log["version"] == "2.1.0"
    assert "mean_square_loss" in (project / "lossproof.html").read_text(encoding="utf-8")


def test_the_hook_takes_changed_files_with_and_without_losses(project):
    entry = re.search(r"entry: (.*)", HOOKS)[1]
    arguments = re.search(r"args: \[(.*)\]", HOOKS)[1]
    result = run(f"{entry} {shlex.join(arguments.split(', '))} losses.py notes.py", project)
    assert result.returncode == 0, result.stderr
    result = run(f"{entry} {shlex.join(arguments.split(', '))} notes.py", project)
    assert result.returncode == 0, result.stderr
