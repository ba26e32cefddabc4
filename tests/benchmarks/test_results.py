from pathlib import Path

from benchmarks.harness.results import digest_of, installed, share, source_digest, table


def test_table_is_markdown() -> None:
    assert table(["", "found"], [["mse", 3]]) == "|  | found |\n|---|---:|\n| mse | 3 |"


def test_share_says_both() -> None:
    assert share(3, 4) == "3/4 (75.0 %)"
    assert share(0, 0) == "-"


def test_the_digest_names_one_state_of_the_source() -> None:
    assert source_digest() == source_digest()


def test_what_is_installed_and_what_is_not() -> None:
    versions, absent = installed(["torch", "a-distribution-that-is-nowhere"])
    assert list(versions) == ["torch"]
    assert absent == ["a-distribution-that-is-nowhere"]


def test_the_digest_of_files_changes_with_them(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    first = digest_of([path])
    path.write_text("other")
    assert digest_of([path]) != first
    path.write_text("one")
    assert digest_of([path]) == first
