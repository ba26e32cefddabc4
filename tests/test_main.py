import os
import subprocess
import sys
from pathlib import Path

import pytest

INTERRUPTED = """
import sys
from lossproof import __main__

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "lossproof.cli":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting())
__main__.main()
"""


@pytest.mark.skipif(os.name == "nt", reason="codes of signals")
def test_an_interruption_while_it_is_loaded_shows_no_traceback():
    result = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True)
    assert result.returncode == 130
    assert result.stderr == ""


def test_the_program_and_the_module_are_the_same():
    program = Path(sys.executable).parent / "lossproof"
    for command in ([program], [sys.executable, "-m", "lossproof"]):
        result = subprocess.run([*command, "--version"], capture_output=True, text=True)
        assert (result.returncode, result.stdout[:10]) == (0, "lossproof ")
