"""`lossproof check` on files and folders, its settings and formats, and `lossproof init`."""

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import pytest
from typer.testing import CliRunner

from lossproof.checks import process
from lossproof.checks.cache import FOLDER
from lossproof.checks.report import Finding, Outcome, Report, Severity, Status
from lossproof.cli import app
from lossproof.errors import UsageError

LOSSES = """\
def right_loss(p, t):
    return ((p - t) ** 2).mean()

def cut_loss(p, t):
    return ((p - t).detach() ** 2).mean()
"""
FAULT = Finding("LP201", "graph-cut", Severity.ERROR, "no gradient reaches `p`")


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def project(**files):
        for name, text in (files or {"losses": LOSSES}).items():
            (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        return tmp_path

    return project


@pytest.fixture
def answers(monkeypatch):
    """Stands in for the processes: a finding for `cut`, a refusal for `bad`, else nothing."""
    jobs = []

    def run_isolated(job):
        jobs.append(job)
        name = job.target.rpartition(":")[2]
        if name.startswith("bad"):
            raise UsageError(f"`{name}` takes no tensors")
        if name.startswith("interrupted"):
            raise KeyboardInterrupt
        outcomes = (Outcome("LP408", "crash", Status.PROVED, "ran"),)
        found = (FAULT,) if name.startswith("cut") else ()
        return Report(name, None, ("p: float32[4]",), found, outcomes, job.seed, 0.1,
                      inferred=() if job.inputs else ("float[4]", "float[4]"))  # fmt: skip

    monkeypatch.setattr(process, "run_isolated", run_isolated)
    return jobs


def run(*words):
    return CliRunner().invoke(app, words)


def command(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "lossproof", *words], capture_output=True, text=True, **options
    )


# ------------------------------------------------------------------ a sweep, end to end


def test_a_project(project):
    folder = project(
        losses=LOSSES, broken="import surely_not_installed\ndef a_loss(p, t): return p"
    )
    (folder / "worse.py").write_text("def loss(:")
    first = command("check", ".", "--select", "LP201,LP101", "--jobs", "2")
    assert first.returncode == 1, first.stderr
    assert first.stdout.count("error[LP201]") == 1
    assert "--> losses.py:5" in first.stdout
    assert (
        "reproduce  lossproof check losses.py:cut_loss --seed 0 --select LP201,LP101"
        in first.stdout
    )
    words = " ".join(first.stdout.split())
    assert "broken.py:2: a_loss: `broken.py` line 1 needs the module `surely_not" in words
    assert "not checked  worse.py: line 1 is not valid Python" in first.stdout
    last = first.stdout.rstrip().split("\n")[-1]
    assert last.startswith(
        "2 losses checked: 1 with findings (1 error, 0 warnings); 2 not checked; "
    )
    assert first.stderr == ""
    again = command("check", ".", "--select", "LP201,LP101")
    assert "; 2 unchanged since the last time; " in again.stdout
    assert "error[LP201]" in again.stdout


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sends signals, reads /proc")
def test_ctrl_c_prints_what_is_done(project):
    folder = project(
        a="def quick_loss(p, t):\n    return ((p - t).detach() ** 2).mean()\n",
        b="import os, time\ndef slow_loss(p, t):\n"
        "    open('part', 'w').write(str(os.getpid())); os.rename('part', 'started')\n"
        "    time.sleep(1e6)\n    return p.mean()\n",
        c="def never_loss(p, t): return p.mean()\n",
    )
    running = subprocess.Popen(
        [sys.executable, "-m", "lossproof", "check", ".", "--jobs", "1", "--select", "LP201"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (folder / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (130, "interrupted\n")
    assert "error[LP201]" in out
    assert "1 loss checked: 1 with findings (1 error, 0 warnings); 2 left over; " in out
    assert not os.path.exists(f"/proc/{(folder / 'started').read_text()}")


# ------------------------------------------------------------------ what is checked, with what


def test_every_loss_of_a_folder_is_checked(project, answers):
    project()
    done = run("check", ".", "--seed", "3", "--no-cache")
    assert sorted(job.target for job in answers) == ["losses.py:cut_loss", "losses.py:right_loss"]
    assert {job.seed for job in answers} == {3}
    assert done.exit_code == 1
    assert not (project() / FOLDER).exists()


def test_several_targets(project, answers):
    project(a=LOSSES, b=LOSSES)
    run("check", "a.py:right_loss", "b.py", "other.module:loss", "--jobs", "1")
    assert [job.target for job in answers] == [
        "a.py:right_loss", "b.py:right_loss", "b.py:cut_loss", "other.module:loss",
    ]  # fmt: skip


def test_one_named_loss_is_no_sweep(project, answers):
    project()
    data = json.loads(run("check", "losses.py:right_loss", "--output-format", "json").stdout)
    assert data["subject"] == "right_loss"
    assert not (project() / FOLDER).exists()


@pytest.mark.parametrize(
    ("files", "words", "code"),
    [
        ({"a": "def right_loss(p, t): return p"}, ["."], 0),
        ({"a": "def cut_loss(p, t): return p"}, ["."], 1),
        ({"a": "def cut_loss(p, t): return p"}, [".", "--exit-zero"], 0),
        ({"a": "def bad_loss(p, t): return p\ndef right_loss(p, t): return p"}, ["."], 0),
        ({"a": "def bad_loss(p, t): return p"}, ["."], 2),
        ({"a": "def bad_loss(p, t): return p"}, [".", "--exit-zero"], 2),
        ({"a": "def loss(:"}, ["."], 2),
        ({"a": "x = 1"}, ["."], 2),
        ({"a": "x = 1"}, ["a.py"], 0),  # a hook names all files that were changed
    ],
)
def test_exit_codes(project, answers, files, words, code):
    project(**files)
    assert run("check", *words).exit_code == code


def test_where_there_is_no_loss_it_is_said_how_to_name_one(project, answers):
    project(a="x = 1")
    done = run("check", ".")
    assert (done.stdout, answers) == ("", [])
    assert done.stderr.startswith(
        "error: no loss was found in `.`; one that is not told by its name"
    )
    assert run("check", "a.py").stderr.startswith("note: no loss was found in `a.py`")
    assert run("check", "a.py", "--quiet").output == ""
    assert run("check", "a.py", "--output-format", "json").stdout == "[]\n"


def test_an_interruption_of_the_sweep_keeps_the_exit_code(project, answers):
    project(a="def interrupted_loss(p, t): return p")
    assert run("check", ".").exit_code == 130


# ------------------------------------------------------------------ settings


SETTINGS = """
[tool.lossproof]
seed = 7
time-limit = 5
ignore = ["LP503"]
exclude = ["old*"]

[tool.lossproof.losses."losses.py:cut_loss"]
inputs = "float[3], float[3]"
ignore = ["LP2"]
"""


@pytest.fixture
def configured(project, answers):
    folder = project(losses=LOSSES, older=LOSSES)
    (folder / "pyproject.toml").write_text(SETTINGS)

    def configured(*words):
        answers.clear()
        done = run("check", *words, "--no-cache")
        assert done.exit_code in (0, 1), done.output
        return {job.target: job for job in answers}

    return configured


def test_settings_of_the_project_hold(configured):
    jobs = configured(".")
    assert set(jobs) == {"losses.py:right_loss", "losses.py:cut_loss"}
    right, cut = jobs["losses.py:right_loss"], jobs["losses.py:cut_loss"]
    assert (right.seed, right.time_limit, right.ignore) == (7, 5.0, ("LP503",))
    assert (cut.inputs, cut.ignore) == ("float[3], float[3]", ("LP503", "LP2"))


def test_they_hold_for_a_single_loss_too(configured):
    (job,) = configured("losses.py:cut_loss").values()
    assert (job.seed, job.inputs, job.ignore) == (7, "float[3], float[3]", ("LP503", "LP2"))


def test_the_command_line_counts_for_more(configured):
    (job,) = configured(
        "losses.py:cut_loss", "--seed", "0", "--time-limit", "9", "--inputs", "float[5], float[5]",
        "--ignore", "LP1",
    ).values()  # fmt: skip
    assert (job.seed, job.time_limit, job.inputs) == (0, 9.0, "float[5], float[5]")
    assert job.ignore == ("LP503", "LP1", "LP2")


def test_what_is_asked_for_is_not_ignored(configured):
    (job,) = configured("losses.py:cut_loss", "--select", "LP503,LP2").values()
    assert (job.select, job.ignore) == (("LP503,LP2",), ())


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["check", ".", "--select", "LP999"], "no rule is called `LP999`"),
        (["check", ".", "--ignore", "grpah-cut"], "`graph-cut`"),
        (["check", "losses.py:right_loss", "--select", "LP999"], "no rule is called `LP999`"),
        (["check", "nowhere/"], "is neither a file, nor a folder, nor a module"),
        (["check", ".", "--jobs", "0"], "--jobs"),
        (["check", ".", "--output-format", "xml"], "sarif"),
        (["check", ".", "--html", "no/such/folder/report.html"], "cannot be written"),
        (["init", "nowhere"], "does not exist"),
    ],
)
def test_a_wrong_request_is_no_finding(project, answers, words, hint):
    project()
    done = run(*words)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert hint in done.stderr


def test_wrong_settings_are_a_wrong_request(project, answers):
    folder = project()
    (folder / "lossproof.toml").write_text("sed = 1")
    done = run("check", ".")
    assert (done.exit_code, answers) == (2, [])
    assert "`lossproof` has no key `sed`; did you mean `seed`?" in done.stderr


# ------------------------------------------------------------------ formats


@pytest.mark.parametrize("target", [".", "losses.py:cut_loss"])
def test_every_format_works_for_one_and_for_many(project, answers, target):
    project()

    def out(form):
        done = run("check", target, "--output-format", form)
        assert done.exit_code == 1
        return done.stdout

    many = target == "."
    assert len(ET.fromstring(out("junit")).findall("testsuite")) == 1 + many
    assert len(json.loads(out("sarif"))["runs"][0]["results"]) == 1
    assert out("github").startswith("::error title=LP201 graph-cut")
    assert out("concise") == "cut_loss: LP201 graph-cut: no gradient reaches `p`\n"
    data = json.loads(out("json"))
    assert (
        [one["subject"] for one in data] == ["right_loss", "cut_loss"] if many else data["findings"]
    )


def test_html_is_written_beside_the_answer(project, answers):
    folder = project()
    done = run("check", ".", "--html", "report.html", "--output-format", "concise")
    assert done.stdout.startswith("cut_loss: LP201")
    assert all(job.charts for job in answers)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "right_loss" in page
    assert "cut_loss" in page


# ------------------------------------------------------------------ init


def test_init_writes_a_test_of_every_loss(project, answers):
    folder = project(losses=LOSSES, bad="def bad_loss(p, t): return p")
    (folder / "pyproject.toml").write_text('[tool.lossproof]\nignore = ["LP503"]\n')
    done = run("init")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith(
        f"{os.path.join('tests', 'test_losses.py')}: 2 losses, 1 left out"
    )
    text = (folder / "tests/test_losses.py").read_text(encoding="utf-8")
    assert '"losses.py:right_loss": ("float[4]", "float[4]"),' in text
    assert "# left out: bad.py:bad_loss: `bad_loss` takes no tensors" in text
    assert 'lossproof.assert_right(loss, *inputs, ignore=["LP503"])' in text
    assert all(job.select == ("LP408",) for job in answers)


def test_init_never_overwrites_unless_told(project, answers):
    folder = project()
    (folder / "mine.py").write_text("x = 1")
    done = run("init", "--output", "mine.py")
    assert (done.exit_code, (folder / "mine.py").read_text()) == (2, "x = 1")
    assert "`--force`" in done.stderr
    assert run("init", "--output", "mine.py", "--force").exit_code == 0
    assert "right_loss" in (folder / "mine.py").read_text()


@pytest.mark.parametrize("text", ["x = 1", "def bad_loss(p, t): return p"])
def test_init_writes_nothing_where_there_is_nothing(project, answers, text):
    folder = project(a=text)
    assert run("init").exit_code == 2
    assert not (folder / "tests").exists()


def test_the_test_that_init_writes_runs(project):
    folder = project(
        losses=LOSSES,
        beside="import torch\ndef own_loss(p, t): return (p - t).abs().mean()\n"
        "def own_loss_inputs(): return torch.ones(3, requires_grad=True), torch.zeros(3)\n",
    )
    assert run("init", "--quiet").exit_code == 0
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_losses.py"],
        capture_output=True, text=True, cwd=folder,
    )  # fmt: skip
    assert "1 failed, 2 passed" in done.stdout, done.stdout
    assert "test_a_loss_is_right[losses.py:cut_loss]" in done.stdout
