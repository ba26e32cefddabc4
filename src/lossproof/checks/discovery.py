"""From what the command line names to the losses to check: files, folders, packages, losses.

A folder is searched for Python files; nothing is imported. Left out are hidden folders, virtual
environments, build products, tests, what git ignores, and what the configuration excludes. A file
that is named itself is always looked at.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib.machinery
import os
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lossproof.checks.loss_definitions import WORTH_PARSING, losses_in
from lossproof.errors import UsageError

SKIPPED_FOLDERS = {
    "__pycache__", "node_modules", "site-packages", "build", "dist", "tests", "test", "venv",
}  # fmt: skip
SKIPPED_FILES = ("test_*.py", "*_test.py", "conftest.py", "setup.py", "noxfile.py")


@dataclass(frozen=True)
class FoundLoss:
    """A loss to check."""

    target: str
    """What ``lossproof check`` calls it: ``FILE.py:NAME``, from the current folder where it lies in
    it, or ``package.module:NAME``."""
    file: Path | None
    """The file it was found in; ``None`` for one that was named by its module."""
    name: str
    line: int | None = None


@dataclass(frozen=True)
class UnreadableFile:
    """A file that could not be searched."""

    file: Path
    why: str
    line: int | None = None


@dataclass(frozen=True)
class Discovery:
    """What a search found, in the order of the targets and of the files' names."""

    losses: tuple[FoundLoss, ...]
    unreadable: tuple[UnreadableFile, ...] = ()
    files: frozenset[Path] = frozenset()
    """The files that were looked at."""


def names_one_loss(target: str) -> bool:
    """Whether a target names a loss itself: ``FILE.py:NAME`` or ``package.module:NAME``."""
    return ":" in os.path.splitdrive(target)[1]


def discover(targets: Sequence[str], *, root: Path, exclude: Iterable[str] = ()) -> Discovery:
    """Find the losses that the targets hold.

    Args:
        targets: files, folders, packages, modules, and losses.
        root: the folder that ``exclude`` is relative to.
        exclude: paths, names or patterns (``legacy``, ``src/*/generated_*.py``) to leave out.

    Raises:
        UsageError: a target is neither a path nor a module.
    """
    patterns = tuple(exclude)
    losses: dict[str, FoundLoss] = {}
    unreadable: dict[Path, UnreadableFile] = {}
    files: set[Path] = set()
    for target in targets:
        if names_one_loss(target):
            losses.setdefault(target, _named(target))
            continue
        for file in _files(target, root.resolve(), patterns):
            if file in files:
                continue
            files.add(file)
            try:
                found = _losses_in_file(file)
            except UnreadableError as error:
                unreadable[file] = UnreadableFile(file, str(error), error.line)
                continue
            for loss in found:
                losses.setdefault(loss.target, loss)
    return Discovery(tuple(losses.values()), tuple(unreadable.values()), frozenset(files))


def _named(target: str) -> FoundLoss:
    place, _, name = target.rpartition(":")
    place = place.removesuffix(":")
    path = Path(place)
    is_file = place.endswith(".py") or os.path.isfile(place)
    return FoundLoss(target, Path(os.path.realpath(path)) if is_file else None, name.strip())


def shown(path: Path) -> str:
    """A path from the current folder where it lies in it, else as it is, with forward slashes."""
    folder = Path.cwd()
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


# ------------------------------------------------------------------ files


def _files(target: str, root: Path, patterns: Sequence[str]) -> Iterator[Path]:
    path = Path(target)
    if os.path.isfile(target):
        yield path.resolve()
    elif os.path.isdir(target):
        yield from _files_in(path.resolve(), root, patterns)
    else:
        place = _module_place(target)
        yield from [place] if place.is_file() else _files_in(place, root, patterns)


def _files_in(folder: Path, root: Path, patterns: Sequence[str]) -> list[Path]:
    found = [file for file in _walk(folder) if not _excluded(file, root, patterns)]
    ignored = _ignored_by_git(folder, found)
    return [file for file in found if file not in ignored]


def _walk(folder: Path) -> Iterator[Path]:
    """The Python files of a folder, in order. Links to folders are not followed.

    A pipe or a device with such a name is none: reading it would not end.
    """
    for current, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _skipped(Path(current, name)))
        for name in sorted(names):
            skipped = any(fnmatch.fnmatch(name, pattern) for pattern in SKIPPED_FILES)
            if name.endswith(".py") and not name.startswith(".") and not skipped:
                file = Path(current, name)
                if file.is_file() or not file.exists():  # of a link to nowhere, it is told
                    yield file


def _skipped(folder: Path) -> bool:
    name = folder.name
    return (
        name.startswith(".")
        or name in SKIPPED_FOLDERS
        or name.endswith(".egg-info")
        or (folder / "pyvenv.cfg").is_file()
        or (folder / "conda-meta").is_dir()
    )


def _excluded(file: Path, root: Path, patterns: Sequence[str]) -> bool:
    """Whether a pattern fits the file, or a folder it is in: by its name, or by its path."""
    if not patterns:
        return False
    inside = file.relative_to(root) if file.is_relative_to(root) else file
    places = [place for place in (inside, *inside.parents) if place.name]
    names = {name for place in places for name in (place.name, place.as_posix())}
    return any(
        fnmatch.fnmatch(name, pattern.removeprefix("./").rstrip("/"))
        for pattern in patterns
        for name in names
    )


def _ignored_by_git(folder: Path, files: Sequence[Path]) -> set[Path]:
    """What git ignores of these files; nothing where there is no git or no repository.

    A folder that is ignored itself was named all the same, and git is not asked.
    """
    if not files:
        return set()
    asked = [str(folder), *map(str, files)]
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), "check-ignore", "-z", "--stdin"],
            input="\0".join(asked).encode(errors="surrogateescape"),
            capture_output=True,
            check=False,
        )
    except OSError:
        return set()
    if answer.returncode != 0:
        return set()
    names = answer.stdout.decode(errors="surrogateescape").split("\0")
    ignored = {Path(name) for name in names if name}
    return set() if folder in ignored else ignored


def _module_place(name: str) -> Path:
    """The file or folder of a module, found without importing it."""
    parts = name.split(".")
    if all(part.isidentifier() for part in parts):
        found = _top_level(parts[0])
        for part in parts[1:]:
            found = None if found is None else _below(found, part)
        if found is not None:
            return found
    raise UsageError(f"`{name}` is neither a file, nor a folder, nor a module{_similar(name)}")


def _top_level(name: str) -> Path | None:
    spec = importlib.machinery.PathFinder.find_spec(name, [os.getcwd(), *sys.path])
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin).resolve() if spec.origin and spec.origin.endswith(".py") else None


def _below(package: Path, name: str) -> Path | None:
    for place in (package / name, package / f"{name}.py"):
        if place.exists():
            return place
    return None


def _similar(name: str) -> str:
    path = Path(name)
    folder = path.parent
    names = os.listdir(folder) if os.path.isdir(folder) else []
    near = difflib.get_close_matches(path.name, names, 1)
    return f"; did you mean `{(folder / near[0]).as_posix()}`?" if near else ""


# ------------------------------------------------------------------ losses


class UnreadableError(Exception):
    """A file is not Python, or cannot be read."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def _losses_in_file(file: Path) -> list[FoundLoss]:
    try:
        if not WORTH_PARSING.search(file.read_bytes()):
            return []
        with tokenize.open(file) as opened:
            text = opened.read()
        definitions = losses_in(text)
    except SyntaxError as error:  # an unknown encoding is one, too
        line = f"line {error.lineno} " if error.lineno else ""
        raise UnreadableError(f"{line}is not valid Python: {error.msg}", error.lineno) from error
    except (RecursionError, MemoryError) as error:  # the parser's own limit is a MemoryError
        raise UnreadableError("is not valid Python: it is nested too deeply") from error
    except (ValueError, LookupError) as error:  # a null byte; a codec that is not one of text
        raise UnreadableError(f"is not valid Python: {error}") from error
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from error
    return [
        FoundLoss(f"{shown(file)}:{found.name}", file, found.name, found.line)
        for found in definitions
    ]
