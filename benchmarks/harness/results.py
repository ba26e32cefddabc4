"""Where a study's figures go: a JSON file with the machine it ran on, and a page made from it."""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
import re
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.harness.plots import Picture

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ROOT / "docs" / "benchmarks"
LIST_OF_NUMBERS = re.compile(r"\[\s+([-+\d.eE,\s]+?)\s+\]")


def machine() -> dict[str, str | int]:
    """What the figures depend on besides the code: processor, versions, date."""
    import torch

    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "processor": _processor(),
        "cores": len(_usable_cores()),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": metadata.version("numpy"),
        "lossproof": metadata.version("lossproof"),
        "source": source_digest(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _usable_cores() -> Iterable[int]:
    import os

    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def source_digest() -> str:
    """A name for the state of the library's source: figures of two states do not mix."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "src" / "lossproof").rglob("*.py")):
        digest.update(str(path.relative_to(ROOT)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def installed(names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """The versions of the distributions that are there, and the names of those that are not."""
    versions, absent = {}, []
    for name in sorted(set(names)):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            absent.append(name)
    return versions, absent


def digest_of(files: Iterable[Path]) -> str:
    """A name for the state of some files."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def save(name: str, data: dict[str, Any]) -> Path:
    """Write ``benchmarks/results/<name>.json``."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(_on_one_line(json.dumps(data, indent=1)) + "\n", encoding="utf-8")
    return path


def _on_one_line(text: str) -> str:
    """The same JSON, each list of numbers on one line."""
    return LIST_OF_NUMBERS.sub(lambda found: "[" + " ".join(found[1].split()) + "]", text)


def save_records(name: str, records: Iterable[dict[str, Any]]) -> Path:
    """Write ``benchmarks/results/<name>.jsonl``: what the figures were counted from, one a line."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def refuse_if_changed(digest: str) -> None:
    """Stop if the library's source is no longer what it was when the run began."""
    if source_digest() != digest:
        raise SystemExit("the source of lossproof changed during the run: run it again")


def read(name: str) -> dict[str, Any] | None:
    """What was saved of a study, if it was run."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def save_page(name: str, blocks: Iterable[str | Picture]) -> Path:
    """Write ``docs/benchmarks/<name>.md`` from blocks of markdown, and the pictures on it."""
    PAGES.mkdir(parents=True, exist_ok=True)
    listed = list(blocks)
    for block in listed:
        if isinstance(block, Picture):
            folder = PAGES / "pictures"
            folder.mkdir(exist_ok=True)
            (folder / f"{block.name}.svg").write_text(block.draw(), encoding="utf-8")
    path = PAGES / f"{name}.md"
    path.write_text(page_text(listed), encoding="utf-8")
    return path


def page_text(blocks: Iterable[str | Picture]) -> str:
    """The markdown of a page."""
    texts = (block.markdown if isinstance(block, Picture) else block for block in blocks)
    return "\n\n".join(text.strip() for text in texts) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], *, texts: int = 1) -> str:
    """A markdown table; the first columns, one or as many as there are ``texts``, hold words."""
    sides = ["---"] * texts + ["---:"] * (len(header) - texts)
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join(sides) + "|"]
    return "\n".join([*lines, *rows_of(rows)])


def rows_of(rows: Iterable[Sequence[Any]]) -> list[str]:
    """Rows of a markdown table."""
    return ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]


def share(part: int, whole: int) -> str:
    """``part`` of ``whole``, and as a percentage."""
    if whole == 0:
        return "-"
    return f"{part}/{whole} ({100 * part / whole:.1f} %)"


def setting(data: dict[str, Any]) -> str:
    """One line on where the figures come from."""
    m = data["machine"]
    return (
        f"Measured on {m['date']}: {m['processor']}, {m['cores']} cores, {m['threads']} thread, "
        f"{m['system']}, Python {m['python']}, torch {m['torch']}, lossproof {m['lossproof']} "
        f"(source {m['source']})."
    )
