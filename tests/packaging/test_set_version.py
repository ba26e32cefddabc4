"""A release's version stands everywhere it should, and the changelog is cut at the right places."""

import shutil
from pathlib import Path

import pytest
from scripts.set_version import changelog, notes, set_version

import lossproof

ROOT = Path(__file__).parents[2]
BEFORE = """\
# Changelog

## [Unreleased]

### Added

- A thing.

[Unreleased]: https://github.com/lossproof/lossproof/commits/main
"""


@pytest.fixture
def folder(tmp_path):
    for name in ("CITATION.cff", "CHANGELOG.md", "src/lossproof/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def read(folder, name):
    return (folder / name).read_text(encoding="utf-8")


def test_two_releases_one_after_the_other():
    first = changelog(BEFORE, "0.1.0", "2030-01-02")
    assert "## [Unreleased]\n\n## [0.1.0] - 2030-01-02\n\n### Added\n\n- A thing.\n" in first
    assert notes(first, "0.1.0") == "### Added\n\n- A thing.\n"
    second = first.replace("## [Unreleased]\n", "## [Unreleased]\n\n- Another.\n", 1)
    second = changelog(second, "0.2.0", "2030-02-03")
    assert notes(second, "0.2.0") == "- Another.\n"
    assert notes(second, "0.1.0") == "### Added\n\n- A thing.\n"
    assert second.endswith(
        "[Unreleased]: https://github.com/lossproof/lossproof/compare/v0.2.0...main\n"
        "[0.2.0]: https://github.com/lossproof/lossproof/releases/tag/v0.2.0\n"
        "[0.1.0]: https://github.com/lossproof/lossproof/releases/tag/v0.1.0\n"
    )


def test_nothing_to_tell_is_no_release():
    first = changelog(BEFORE, "0.1.0", "2030-01-02")
    with pytest.raises(ValueError, match="says nothing under Unreleased"):
        changelog(first, "0.2.0", "2030-02-03")
    with pytest.raises(ValueError, match="has 0.1.0 already"):
        changelog(first, "0.1.0", "2030-02-03")
    with pytest.raises(ValueError, match="has no 0.3.0"):
        notes(first, "0.3.0")


def test_a_release_of_the_project_as_it_is(folder):
    set_version(folder, "7.1.0", "2030-01-02")
    assert '__version__ = "7.1.0"\n' in read(folder, "src/lossproof/__init__.py")
    assert "\nversion: 7.1.0\ndate-released: 2030-01-02\n" in read(folder, "CITATION.cff")
    unreleased = notes(read(ROOT, "CHANGELOG.md"), "Unreleased")
    assert notes(read(folder, "CHANGELOG.md"), "7.1.0") == unreleased

    log = read(folder, "CHANGELOG.md")
    set_version(folder, "7.2.0.dev0", "2030-02-03")
    assert '__version__ = "7.2.0.dev0"\n' in read(folder, "src/lossproof/__init__.py")
    assert "date-released" not in read(folder, "CITATION.cff")
    assert read(folder, "CHANGELOG.md") == log


def test_where_one_file_refuses_none_is_written(folder):
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(ValueError, match="`one` is no version"):
        set_version(folder, "one", "2030-01-02")
    (folder / "CHANGELOG.md").write_text("# Changelog\n", encoding="utf-8")
    with pytest.raises(ValueError, match="says nothing"):
        set_version(folder, "7.1.0", "2030-01-02")
    del before[folder / "CHANGELOG.md"]
    assert before == {file: file.read_bytes() for file in before}


def test_the_version_is_the_same_everywhere():
    assert f"\nversion: {lossproof.__version__}\n" in read(ROOT, "CITATION.cff")
    if ".dev" not in lossproof.__version__:
        assert notes(read(ROOT, "CHANGELOG.md"), lossproof.__version__)
