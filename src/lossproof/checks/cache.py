"""The reports of earlier sweeps, kept for as long as nothing they depend on has changed.

A report is kept under everything that it was made from: the file of the loss and the files of the
same package that it imports, however indirectly; the same for the reference; lossproof itself,
torch, numpy and Python; and the options of the check. Installed packages count by the versions
named here alone, and data files that a loss reads do not count at all: ``--no-cache`` is for those.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import lossproof
from lossproof.checks.loading import package_of
from lossproof.checks.process import Job
from lossproof.checks.report import Report

FOLDER = ".lossproof_cache"
NOT_OF_THE_LOSS = ("show_output", "threads", "grace", "loading_time")
"""The parts of a job that the report does not depend on."""
INSTALLED = {"site-packages", "dist-packages"}
"""The names of folders of installed packages."""
UNREPEATABLE = {"time-limit", "process-died", "ends-program"}
"""The causes of findings that may be the machine's: they are looked at again."""


class Cache:
    """A folder of reports.

    Args:
        root: the folder to keep it in, usually the project's.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / FOLDER
        self.trouble: str | None = None
        """Why nothing could be written, once that has happened."""

    def get(self, job: Job, file: Path | None) -> Report | None:
        """The report of the same job on the same files, if it is kept."""
        if file is None:
            return None
        try:
            kept = json.loads(self._place(job, file).read_text(encoding="utf-8"))
            if kept["key"] == key_of(job, file):
                return Report.from_dict(kept["report"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # nothing there, or of another version
        return None

    def put(self, job: Job, file: Path | None, report: Report) -> None:
        """Keep a report, if the same job would give it again."""
        causes = {finding.cause for finding in report.findings}
        if file is None or report.not_checked is not None or causes & UNREPEATABLE:
            return
        place = self._place(job, file)
        part = place.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
        try:
            self._make_folder()
            text = json.dumps({"key": key_of(job, file), "report": report.to_dict()})
            part.write_text(text, encoding="utf-8")
            part.replace(place)
        except OSError as error:
            self.trouble = f"`{self.folder}` cannot be written: {error.strerror}"

    def _make_folder(self) -> None:
        if not (self.folder / ".gitignore").is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / ".gitignore").write_text("# made by lossproof\n*\n", encoding="utf-8")

    def _place(self, job: Job, file: Path) -> Path:
        """One file for each loss, so that what is out of date is replaced and does not pile up."""
        name = job.target.rpartition(":")[2]
        return self.folder / f"{_digest(f'{file}:{name}')[:32]}.json"


def key_of(job: Job, file: Path) -> str:
    """A digest of everything that the report of this job depends on."""
    options = {name: value for name, value in asdict(job).items() if name not in NOT_OF_THE_LOSS}
    sources = [file]
    if job.reference is not None:
        place = Path(job.reference.rpartition(":")[0].removesuffix(":"))
        sources += [place.resolve()] if os.path.isfile(place) else []
    options["target"] = f"{file}:{job.target.rpartition(':')[2]}"
    return _digest(json.dumps([options, _environment(), _contents(sources)], sort_keys=True))


@functools.cache
def _environment() -> Mapping[str, str]:
    versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy")}
    return {**versions, "python": platform.python_version(), "lossproof": _own_version()}


@functools.cache
def _own_version() -> str:
    """The version and the sources: between two releases the version stays the same."""
    folder = Path(lossproof.__file__).parent
    own = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        own.update(file.read_bytes())
    return f"{lossproof.__version__} {own.hexdigest()}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _contents(files: list[Path]) -> Mapping[str, str]:
    """The digest of every file that these files depend on."""
    found: dict[str, str] = {}
    waiting = list(files)
    while waiting:
        file = waiting.pop()
        if str(file) not in found:
            try:
                state = file.stat()
                digest, imported = _read(file, state.st_mtime_ns, state.st_size, Path.cwd())
            except OSError:
                found[str(file)] = "missing"
                continue
            found[str(file)] = digest
            waiting += imported
    return found


@functools.cache
def _read(file: Path, changed: int, size: int, folder: Path) -> tuple[str, list[Path]]:
    """The digest of a file and what it imports.

    It is read again when its time, its size or the current folder changes.
    """
    content = file.read_bytes()
    return hashlib.sha256(content).hexdigest(), imported_files(file, content)


def imported_files(file: Path, content: bytes) -> list[Path]:
    """The files of the same package (or folder) that a file imports, and their ``__init__.py``."""
    root, dotted = package_of(file)
    own = dotted.split(".")
    found = set(_module_files(root, own[:-1]))
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return sorted(found - {file})
    for names in _imported_names(tree, own[:-1]):
        for folder in {root, Path.cwd()}:
            # Among the installed packages stand others, which count by their versions.
            if names[:1] == own[:1] or folder.name not in INSTALLED:
                found.update(_module_files(folder, names))
    return sorted(found - {file})


def _imported_names(tree: ast.Module, package: list[str]) -> Iterator[list[str]]:
    """The dotted names, as lists, that import statements ask for; with ``from``, both readings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            start = [*above, *(node.module.split(".") if node.module else [])]
            yield from ([*start, alias.name] for alias in node.names)


def _module_files(folder: Path, names: list[str]) -> Iterator[Path]:
    """What importing this name runs below a folder: each package on the way, and the module."""
    for name in names:
        module, package = folder / f"{name}.py", folder / name
        if module.is_file():
            yield module
        if not package.is_dir():
            return
        folder = package
        if (folder / "__init__.py").is_file():
            yield folder / "__init__.py"
