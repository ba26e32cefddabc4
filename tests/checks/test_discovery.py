"""Files, folders and packages are searched without importing anything."""

import os
import shutil
import subprocess
import sys

import pytest

from lossproof.checks.discovery import discover, names_one_loss
from lossproof.errors import UsageError

LOSS = "def a_loss(p, t): return p\nraise RuntimeError('imported')\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Writes files, all with one loss unless they are told otherwise."""
    monkeypatch.chdir(tmp_path)

    def project(*files, **texts):
        for name in files:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(texts.get(path.stem, LOSS), encoding="utf-8")
        return tmp_path

    return project


def targets(*words, exclude=(), root="."):
    from pathlib import Path

    return [loss.target for loss in discover(words, root=Path(root), exclude=exclude).losses]


def test_a_file(project):
    project("deep/losses.py")
    assert targets("deep/losses.py") == ["deep/losses.py:a_loss"]
    (loss,) = discover(["deep/losses.py"], root=project()).losses
    assert (loss.file, loss.name, loss.line) == (project() / "deep/losses.py", "a_loss", 1)


def test_a_folder_in_order(project):
    project("b.py", "a/z.py", "a/b.py", "ä ö/损失.py")
    assert targets(".") == [
        "b.py:a_loss", "a/b.py:a_loss", "a/z.py:a_loss", "ä ö/损失.py:a_loss",
    ]  # fmt: skip


def test_a_file_outside_of_the_current_folder(project, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "losses.py"
    elsewhere.write_text(LOSS)
    assert targets(str(elsewhere)) == [f"{elsewhere.as_posix()}:a_loss"]


def test_what_nobody_means_is_left_out(project):
    project(
        "losses.py", "tests/losses.py", "test_losses.py", "losses_test.py", "conftest.py",
        "setup.py", ".hidden/losses.py", ".losses.py", "myenv/lib/losses.py", "notes.txt",
        "node_modules/losses.py", "build/lib/losses.py", "x.egg-info/losses.py",
        "__pycache__/losses.py",
    )  # fmt: skip
    (project() / "myenv/pyvenv.cfg").write_text("")
    assert targets(".") == ["losses.py:a_loss"]


def test_what_is_named_itself_is_looked_at(project):
    project("tests/losses.py", "tests/test_losses.py")
    assert targets("tests/test_losses.py") == ["tests/test_losses.py:a_loss"]
    assert targets("tests") == ["tests/losses.py:a_loss"]


@pytest.mark.parametrize(
    "pattern",
    ["old", "old/", "./old", "o?d", "src/pkg/old", "src/*/old/losses.py", "src/pkg/old/*"],
)
def test_what_is_excluded(project, pattern):
    project("src/pkg/losses.py", "src/pkg/old/losses.py")
    assert targets("src", exclude=[pattern]) == ["src/pkg/losses.py:a_loss"]


def test_patterns_are_relative_to_the_root(project, monkeypatch):
    project("src/losses.py", "src/old/losses.py")
    monkeypatch.chdir(project() / "src")
    found = discover(["."], root=project(), exclude=["src/old/*"])
    assert [loss.target for loss in found.losses] == ["losses.py:a_loss"]


@pytest.mark.skipif(shutil.which("git") is None, reason="asks git")
def test_what_git_ignores(project, tmp_path):
    project("losses.py", "generated/losses.py", "sub/skip me.py", "sub/keep.py")
    (tmp_path / ".gitignore").write_text("generated/\nskip*\n")
    assert len(targets(".")) == 4
    subprocess.run(["git", "init", "-q", "."], check=True, cwd=tmp_path)
    assert targets(".") == ["losses.py:a_loss", "sub/keep.py:a_loss"]
    assert targets("generated") == ["generated/losses.py:a_loss"]


def test_links_to_folders_are_not_followed(project, tmp_path):
    project("src/losses.py")
    try:
        os.symlink(tmp_path / "src", tmp_path / "src" / "again", target_is_directory=True)
    except OSError:
        pytest.skip("no links here")
    assert targets("src") == ["src/losses.py:a_loss"]


def test_a_package_and_its_modules(project, monkeypatch):
    project("src/pkg/__init__.py", "src/pkg/losses.py", "src/pkg/sub/deep.py", __init__="")
    monkeypatch.syspath_prepend(project() / "src")
    losses, deep = "src/pkg/losses.py:a_loss", "src/pkg/sub/deep.py:a_loss"
    assert targets("pkg") == [losses, deep]
    assert targets("pkg.losses") == [losses]
    assert targets("pkg.sub") == [deep]
    assert "pkg" not in sys.modules


def test_losses_that_are_named(project):
    project("losses.py")
    named = ("losses.py:other", "losses.py::third", "some.module:loss")
    assert targets(*named) == list(named)
    files = [loss.file for loss in discover(named, root=project()).losses]
    assert files == [project() / "losses.py"] * 2 + [None]


def test_nothing_is_found_twice(project):
    project("a/losses.py", "a/more.py")
    assert targets("a/losses.py:a_loss", "a", "a/more.py", ".") == [
        "a/losses.py:a_loss", "a/more.py:a_loss",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("losess.py", "did you mean `losses.py`?"),
        ("no/such/place", "is neither a file, nor a folder, nor a module"),
        ("surely_not_installed", "is neither a file"),
        ("sys", "is neither a file"),  # it has no source
    ],
)
def test_what_is_not_there(project, target, said):
    project("losses.py")
    with pytest.raises(UsageError, match=f"`{target}`") as caught:
        targets(target)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"x = 1\ndef loss(:\n", "line 2 is not valid Python"),
        (b"# loss\n\xff\xfe\n", "is not valid Python"),
        (b"# -*- coding: klingon -*-\nloss = 1\n", "is not valid Python"),
        (b"loss = '\x00'\n", "is not valid Python"),
        (b"loss = " + b"(" * 3000, "is not valid Python"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_and_ends_nothing(project, content, why):
    folder = project("good.py")
    (folder / "bad.py").write_bytes(content)
    found = discover(["."], root=folder)
    assert [loss.target for loss in found.losses] == ["good.py:a_loss"]
    (bad,) = found.unreadable
    assert bad.file == folder / "bad.py"
    assert why in bad.why


def test_bad_files_without_a_loss_are_nobodys_concern(project):
    folder = project("good.py")
    (folder / "bad.py").write_text("print 'hello'")
    assert not discover(["."], root=folder).unreadable


def test_another_encoding(project):
    (project() / "latin.py").write_bytes(
        "# -*- coding: latin-1 -*-\ndef größen_loss(p, t): return p\n".encode("latin-1")
    )
    assert targets(".") == ["latin.py:größen_loss"]


@pytest.mark.parametrize(
    ("target", "one"),
    [("a.py:f", True), ("a.py::f", True), ("m.n:f", True), ("a.py", False), ("src/", False)],
)
def test_what_names_one_loss(target, one):
    assert names_one_loss(target) is one
