"""What `import lossproof` loads; how long it takes is measured by benchmarks/import_time.py."""

import json
import subprocess
import sys

import pytest

import lossproof


def loaded(first, then):
    """The modules that a statement loads in a new process, after another."""
    program = (
        f"import json, sys\n{first}\nbefore = set(sys.modules)\n{then}\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_beside_torch_it_is_one_module():
    assert loaded("import torch", "import lossproof") == ["lossproof"]


def test_alone_it_is_one_module_and_what_python_needs_for_it():
    found = loaded("", "import lossproof")
    assert "lossproof" in found
    assert {name.partition(".")[0] for name in found} - {"lossproof"} <= sys.stdlib_module_names
    assert len(found) < 80


@pytest.mark.parametrize("name", ["Report", "Finding", "UsageError"])
def test_what_is_plain_data_needs_no_torch(name):
    assert not {"torch", "numpy"} & set(loaded("", f"import lossproof; lossproof.{name}"))


def test_a_name_that_is_not_used_is_not_loaded():
    found = loaded("", "import lossproof; lossproof.UsageError")
    ours = {name for name in found if name.startswith("lossproof.")}
    assert ours == {"lossproof.errors"}
    assert "UsageError" in lossproof.__all__
