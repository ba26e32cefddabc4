import pytest

from lossproof.show.whole_file import write_whole


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "page.html"
    for text in ("first, and longer", "zweite ü"):
        write_whole(text, path)
        assert path.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "page.html"
    write_whole("kept", path)
    with pytest.raises(UnicodeEncodeError):
        write_whole("\ud800", path)
    assert path.read_text(encoding="utf-8") == "kept"
    assert list(tmp_path.iterdir()) == [path]
