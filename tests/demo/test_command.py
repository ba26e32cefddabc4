"""The command: its options, its exit codes, its file, Ctrl-C."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from tests.demo.conftest import TITLES, demo
from typer.testing import CliRunner

from lossproof.cli import app
from lossproof.demo import command
from lossproof.demo.messages import Begun, Page, Request, Told
from lossproof.demo.page_file import GENERATOR
from lossproof.demo.story import Claim, Part, Story
from lossproof.demo.worker import drawn

OURS = f'<!doctype html>\n{GENERATOR}0.1">\n'


def run(*words):
    return CliRunner().invoke(app, ["demo", *map(str, words)])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def told(folder, monkeypatch):
    """Stands in for the process that tells the stories; notes what it is asked for."""
    told = SimpleNamespace(
        requests=[],
        answers=[
            Begun(0, 2, "one"),
            Told("the whole of one", "1  one: 2 of 2 hold", True),
            Page(OURS, True),
        ],
    )

    @contextlib.contextmanager
    def worker(request):
        told.requests.append(request)
        yield iter(told.answers)

    monkeypatch.setattr(command, "worker", worker)
    return told


# ------------------------------------------------------------------ what is told


def test_the_whole_demo_is_told_in_order(whole):
    places = [whole.out.index(f"Story {n} of 5: {title}") for n, title in enumerate(TITLES, 1)]
    assert places == sorted(places)
    assert whole.out.endswith("\nwritten to lossproof-demo.html\n")
    assert "\x1b" not in whole.out
    assert not [line for line in whole.out.split("\n") if line != line.rstrip()]


def test_one_story_alone(folder):
    done = demo("--story", 1, "--html", "one.html", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Story 1 of 5" in done.stdout and "Story 2" not in done.stdout
    assert os.listdir(folder) == ["one.html"]
    text = (folder / "one.html").read_text(encoding="utf-8")
    assert "lossproof demo: 1 story" in text and 'id="story-2"' not in text


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ((), (1, 2, 3, 4, 5)),
        (("--story", 4), (4,)),
        (("--story", 5, "--story", 2, "--story", 5), (2, 5)),
    ],
)
def test_which_stories_are_wanted(told, words, numbers):
    assert run(*words).exit_code == 0
    assert [request.numbers for request in told.requests] == [numbers]


@pytest.mark.parametrize("value", ["0", "6", "-1", "one", "1.5", ""])
def test_a_story_that_there_is_not(told, value):
    done = run("--story", value)
    assert done.exit_code == 2 and done.stdout == ""
    assert "--story" in done.stderr
    assert told.requests == [] and os.listdir() == []


def test_quiet_shows_a_line_for_each_story(told):
    assert run("--quiet").stdout == "1  one: 2 of 2 hold\n\nwritten to lossproof-demo.html\n"
    assert "the whole of one" in run().stdout


def test_without_matplotlib_it_says_what_is_missing(told):
    told.answers[-1] = Page(OURS, False)
    assert "pip install 'lossproof[plots]'" in run().stdout


def test_colours_are_asked_for_as_the_terminal_has_them(told, monkeypatch):
    for name, value, color in (
        ("NO_COLOR", "1", False), ("FORCE_COLOR", "1", True), ("COLUMNS", "72", False),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.delenv("NO_COLOR", raising=False)
            patch.delenv("FORCE_COLOR", raising=False)
            patch.setenv(name, value)
            run()
        assert told.requests[-1].color is color
    assert told.requests[-1].width == 72


@pytest.mark.parametrize("color", [True, False])
def test_colours_change_no_word(color):
    story = Story(
        2, "name", "A title", "a `question`?", "an answer",
        (Part("part", ("a paragraph",), (Claim("it is so", True),)),), 1.0,
    )  # fmt: skip
    text = drawn(story, Request((2,), color, 60)).text
    assert ("\x1b[" in text) is color
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert plain == drawn(story, Request((2,), False, 60)).text
    assert "Story 2 of 5: A title" in plain and "holds  it is so" in plain


# ------------------------------------------------------------------ what does not come out


def test_a_claim_that_does_not_hold_fails_the_command(told):
    story = Story(
        3, "name", "A title", "?", "an answer",
        (Part("part", (), (Claim("right", True), Claim("wrong one convicted", False))),), 1.0,
    )  # fmt: skip
    told.answers[1] = drawn(story, Request((3,), False, 80))
    done = run("-q", "--story", 3)
    assert done.exit_code == 1
    assert "3  A title: 1 of 2 hold" in done.stdout
    assert "FAILS  wrong one convicted" in done.stdout
    assert os.path.exists("lossproof-demo.html")


def test_a_process_that_ends_before_is_told(folder, monkeypatch):
    monkeypatch.setattr(command, "WORKER", "lossproof.no_such_module")
    done = run()
    assert done.exit_code == 2
    assert "the process that tells the stories ended (exit code 1)" in done.stderr
    assert os.listdir() == []


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
@pytest.mark.parametrize("early", [True, False], ids=["at once", "after a story"])
def test_ctrl_c_ends_it_and_says_so(folder, early):
    running = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, "early" if early else "late"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    out, err = running.communicate(timeout=120)
    assert (running.returncode, err) == (130, "interrupted\n")
    assert "written to" not in out
    assert os.listdir() == []


INTERRUPTED = f"""
import os, signal, sys
from lossproof.cli import app
from lossproof.demo import command
from lossproof.demo.messages import Told

telling = command._messages

def interrupted(process, answers):
    for message in telling(process, answers):
        if sys.argv[1] == "early" or isinstance(message, Told):
            os.kill(os.getpid(), signal.{signal.SIGINT.name})
        yield message

command._messages = interrupted
app(["demo", "--story", "1", "--story", "2"])
"""


# ------------------------------------------------------------------ the file


def test_the_page_is_written_where_it_was_asked_for(told):
    os.mkdir("reports")
    done = run("--html", "reports/page.html")
    assert done.exit_code == 0
    assert done.stdout.endswith("\nwritten to reports/page.html\n")
    with open("reports/page.html", encoding="utf-8") as file:
        assert file.read() == OURS
    assert os.listdir("reports") == ["page.html"]


def test_its_own_page_is_written_again(told):
    with open("lossproof-demo.html", "w", encoding="utf-8") as file:
        file.write(f"{OURS}of an earlier run")
    assert run().exit_code == 0
    with open("lossproof-demo.html", encoding="utf-8") as file:
        assert file.read() == OURS


def test_the_page_of_a_run_is_known_as_its_own(whole):
    assert command.is_ours(whole.page)


@pytest.mark.parametrize(
    "content", [b"my notes", b"", b"\xff\xfe\x00", b"x" * 9000 + OURS.encode()]
)
def test_another_file_is_left_alone(told, content):
    with open("notes.html", "wb") as file:
        file.write(content)
    done = run("--html", "notes.html")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "`notes.html` is there already" in done.stderr and "`--force`" in done.stderr
    assert told.requests == []
    with open("notes.html", "rb") as file:
        assert file.read() == content
    assert run("--html", "notes.html", "--force").exit_code == 0


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (".", "is a folder"),
        ("missing/page.html", "there is no folder `missing`"),
        ("plain/page.html", "there is no folder `plain`"),
    ],
)
def test_a_page_that_cannot_be_written_is_told_before_anything_runs(told, file, why):
    with open("plain", "w", encoding="utf-8"):
        pass
    done = run("--html", file)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and why in done.stderr
    assert told.requests == []


def test_a_read_only_folder_is_told_before_anything_runs(told, monkeypatch):
    # The superuser may write everywhere, so the folder's mode alone would test nothing for them.
    monkeypatch.setattr(command.os, "access", lambda path, mode: False)
    done = run()
    assert (done.exit_code, done.stdout) == (2, "")
    assert "its folder is read-only; `--html FILE` names another" in done.stderr
    assert told.requests == []


def test_a_disk_that_fills_up_meanwhile_is_told(told, monkeypatch):
    def full(text, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "write_whole", full)
    done = run()
    assert done.exit_code == 2
    assert "`lossproof-demo.html` cannot be written: No space left on device" in done.stderr
