import sys

import pytest

from lossproof.checks.silence import Nowhere, output_restored


def test_the_output_is_what_it_was_however_the_block_ends():
    before = sys.stdout
    with pytest.raises(KeyboardInterrupt), output_restored():
        sys.stdout = Nowhere()
        raise KeyboardInterrupt
    assert sys.stdout is before


def test_what_is_written_to_nowhere_counts_as_written(capsys):
    with output_restored():
        sys.stdout = Nowhere()
        assert sys.stdout.write("bcd") == 3
    assert capsys.readouterr().out == ""
