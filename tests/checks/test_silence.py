import contextlib
import sys

from lossproof.checks.silence import Nowhere


def test_what_is_written_to_nowhere_counts_as_written(capsys):
    with contextlib.redirect_stdout(Nowhere()) as nowhere:
        assert sys.stdout is nowhere
        assert nowhere.write("bcd") == 3
    assert capsys.readouterr().out == ""
