"""The names that `import lossproof` offers, and what it costs."""

import subprocess
import sys

import pytest

import lossproof


@pytest.mark.parametrize("name", lossproof.__all__)
def test_every_public_name_resolves(name):
    assert getattr(lossproof, name) is not None
    assert name in dir(lossproof)


def test_star_import_gives_exactly_the_public_names():
    namespace = {}
    exec("from lossproof import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(lossproof.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'lossproof' has no attribute 'chekc'"):
        lossproof.chekc  # noqa: B018


@pytest.mark.parametrize(
    "statement",
    ["import lossproof", "import lossproof.cli", "import lossproof; lossproof.Report"],
)
def test_import_is_light(statement):
    program = f"{statement}; import sys; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stderr == ""
    assert run.stdout.strip() == "[]"
