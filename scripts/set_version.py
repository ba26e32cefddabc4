"""Write a version everywhere it stands: ``python scripts/set_version.py 0.1.0``.

It stands in ``src/lossproof/__init__.py``, from where the package takes it, and in
``CITATION.cff``. A release (no ``.dev``) gets a heading with its date in ``CHANGELOG.md``, over
what stood under *Unreleased*, and the links of the comparison.
"""

from __future__ import annotations

import datetime
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSION = re.compile(r"\d+\.\d+\.\d+((a|b|rc)\d+)?(\.dev\d+)?")
REPOSITORY = "https://github.com/lossproof/lossproof"
UNRELEASED = "## [Unreleased]\n"
LINK = re.compile(r"^\[Unreleased\]: .*$", re.MULTILINE)


def changelog(text: str, version: str, day: str) -> str:
    """The changelog with a heading for the release."""
    if f"## [{version}]" in text:
        raise ValueError(f"CHANGELOG.md has {version} already")
    before, found, after = text.partition(UNRELEASED)
    own, _, _ = after.partition("\n## [")
    if not found or not LINK.sub("", own).strip():
        raise ValueError("CHANGELOG.md says nothing under Unreleased")
    links = (
        f"[Unreleased]: {REPOSITORY}/compare/v{version}...main\n"
        f"[{version}]: {REPOSITORY}/releases/tag/v{version}"
    )
    return LINK.sub(links, f"{before}{UNRELEASED}\n## [{version}] - {day}\n{after}")


def notes(text: str, version: str) -> str:
    """What the changelog says of a version."""
    _, found, after = text.partition(f"## [{version}]")
    if not found:
        raise ValueError(f"CHANGELOG.md has no {version}")
    own = re.split(r"^(?:## \[|\[Unreleased\]:)", after.partition("\n")[2], flags=re.MULTILINE)[0]
    return own.strip() + "\n"


def citation(text: str, version: str, day: str) -> str:
    """The citation of the version; only a release has a day."""
    text = re.sub(r"^date-released: .*\n", "", text, flags=re.MULTILINE)
    released = "" if ".dev" in version else f"\ndate-released: {day}"
    return re.sub(r"^version: .*$", f"version: {version}{released}", text, flags=re.MULTILINE)


def package(text: str, version: str) -> str:
    """The public face, with the version."""
    return re.sub(
        r'^__version__ = ".*"$', f'__version__ = "{version}"', text, count=1, flags=re.MULTILINE
    )


def set_version(root: Path, version: str, day: str) -> None:
    """Write the version into the files below a folder: into all, or, where one refuses, none."""
    if not VERSION.fullmatch(version):
        raise ValueError(f"`{version}` is no version such as 0.1.0, 0.1.0rc1 or 0.2.0.dev0")
    face, cited, log = (
        root / name for name in ("src/lossproof/__init__.py", "CITATION.cff", "CHANGELOG.md")
    )
    written = {
        face: package(face.read_text(encoding="utf-8"), version),
        cited: citation(cited.read_text(encoding="utf-8"), version, day),
    }
    if ".dev" not in version:
        written[log] = changelog(log.read_text(encoding="utf-8"), version, day)
    for file, text in written.items():
        file.write_text(text, encoding="utf-8")


def main() -> None:
    """Set the version, or print what the changelog says of one."""
    match sys.argv[1:]:
        case ["--notes", version]:
            text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
            sys.stdout.write(notes(text, version))
        case [version] if not version.startswith("-"):
            today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
            set_version(ROOT, version, today)
        case _:
            sys.exit("python scripts/set_version.py VERSION, or --notes VERSION")


if __name__ == "__main__":
    main()
