"""What a target names is found, or the message says what to write instead."""

import sys
import textwrap

import pytest

from lossproof.checks.loading import load, neighbour_inputs
from lossproof.errors import UsageError

LOSSES = """
import math
from functools import partial
from math import sqrt

ALPHA = 0.25

def focal_loss(input, target):
    return 'focal'

class Outer:
    class Inner:
        @staticmethod
        def loss(input, target):
            return 'inner'

halved = partial(focal_loss, 2)

def focal_loss_inputs():
    return 'float[3]', 'float[3]'
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty current folder; imports made from it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    known = dict(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - set(known):
        del sys.modules[name]
    sys.path_importer_cache.clear()


@pytest.fixture
def write(folder):
    def write(name, source):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        return path

    return write


def refusal(target):
    with pytest.raises(UsageError) as caught:
        load(target)
    message = str(caught.value)
    assert not message.endswith(".")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("form", ["{}:focal_loss", "{}::focal_loss", "./{}:focal_loss"])
def test_a_function_in_a_file(write, form):
    write("mine.py", LOSSES)
    loss, module = load(form.format("mine.py"))
    assert loss(1, 2) == "focal"
    assert module.ALPHA == 0.25


def test_an_absolute_path(write):
    loss, _ = load(f"{write('mine.py', LOSSES)}:focal_loss")
    assert loss.__name__ == "focal_loss"


def test_a_nested_name(write):
    write("mine.py", LOSSES)
    assert load("mine.py:Outer.Inner.loss")[0](1, 2) == "inner"


def test_a_module_in_the_current_folder(write):
    write("package/__init__.py", "")
    write("package/losses.py", LOSSES)
    assert load("package.losses:focal_loss")[0](1, 2) == "focal"


def test_an_installed_module():
    assert load("math:hypot")[0](3, 4) == 5


def test_a_file_may_import_its_neighbours(write):
    write("deep/helper.py", "TWO = 2")
    write("deep/mine.py", "import helper\ndef loss(): return helper.TWO")
    assert load("deep/mine.py:loss")[0]() == 2


def test_a_file_of_a_package_may_import_relatively(write):
    write("package/__init__.py", "")
    write("package/sub/__init__.py", "")
    write("package/helper.py", "TWO = 2")
    write("package/sub/mine.py", "from ..helper import TWO\ndef loss(): return TWO")
    loss, module = load("package/sub/mine.py:loss")
    assert loss() == 2
    assert module.__name__ == "package.sub.mine"


def test_a_file_named_like_an_imported_module_does_not_replace_it(write):
    write("textwrap.py", "def loss(): return 'mine'")
    assert load("textwrap.py:loss")[0]() == "mine"
    assert sys.modules["textwrap"] is textwrap


def test_the_same_file_is_run_once(write):
    write("mine.py", LOSSES)
    assert load("mine.py:focal_loss")[1] is load("mine.py:Outer")[1]


def test_the_file_is_not_there(write):
    write("losses.py", LOSSES)
    assert refusal("losess.py:f") == "the file `losess.py` is not there; did you mean `losses.py`?"
    assert refusal("no/such.py:f") == "the file `no/such.py` is not there"


def test_the_file_is_a_folder(folder):
    (folder / "odd.py").mkdir()
    assert refusal("odd.py:f") == "the file `odd.py` is a folder"


def test_a_syntax_error_is_located(write):
    write("mine.py", "x = 1\ndef f(:\n    pass\n")
    assert refusal("mine.py:f").startswith("`mine.py` line 2 is not valid Python: ")


def test_a_missing_package_is_named_with_the_line_that_needs_it(write):
    write("mine.py", "import math\nimport surely_not_installed\n")
    expected = "`mine.py` line 2 needs the module `surely_not_installed`, which is not here"
    assert refusal("mine.py:f") == expected
    assert refusal("mine:f") == expected


def test_an_error_in_the_users_import_has_its_line(write):
    write("mine.py", "x = 1\n\n\ny = {}['key']\n")
    assert refusal("mine.py:f") == "`mine.py` line 4 raises `KeyError` when it is imported: 'key'"


def test_a_script_that_ends_the_program_when_imported(write):
    write("mine.py", "import sys\nsys.exit(3)\n")
    message = refusal("mine.py:f")
    assert message.startswith("`mine.py` line 2 ends the program (`SystemExit: 3`)")
    assert '`if __name__ == "__main__":`' in message


def test_no_such_module(write):
    write("mine.py", LOSSES)
    assert "there is no module `surely_not_installed`" in refusal("surely_not_installed:f")
    assert "did you mean `math:hypot`?" in refusal("math.hypot")
    assert "is neither a file nor a module" in refusal("what is this:f")


def test_a_path_without_its_ending(write):
    write("deep/mine.py", LOSSES)
    assert refusal("deep/mine:f").endswith("did you mean `deep/mine.py`?")


def test_no_name_lists_what_there_is(write):
    write("mine.py", LOSSES)
    message = refusal("mine.py")
    assert "names no loss" in message
    assert "`mine.py` has `focal_loss`, `Outer`" in message
    assert "sqrt" not in message
    assert "focal_loss_inputs" not in message


def test_a_misspelt_name_is_corrected(write):
    write("mine.py", LOSSES)
    assert refusal("mine.py:focal_los") == (
        "`mine.py` has no `focal_los`; did you mean `focal_loss`?"
    )
    assert refusal("mine.py:Outer.Iner.loss") == (
        "`mine.py:Outer` has no `Iner`; did you mean `Inner`?"
    )


def test_an_unlike_name_lists_what_there_is(write):
    write("mine.py", LOSSES)
    assert refusal("mine.py:zzz").endswith("; `mine.py` has `focal_loss`, `Outer`")
    write("empty.py", "")
    assert refusal("empty.py:zzz").endswith("`empty.py` defines nothing that could be a loss")


def test_what_cannot_be_called(write):
    write("mine.py", LOSSES)
    assert refusal("mine.py:ALPHA").startswith(
        "`mine.py:ALPHA` is of type `float` and cannot be called"
    )


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("focal", "focal_inputs"),
        ("FocalLoss", "FocalLoss_inputs"),
        ("FocalLoss", "focal_loss_inputs"),
        ("DiceCELoss", "dice_ce_loss_inputs"),
        ("L1Loss", "l1_loss_inputs"),
        ("Outer.Inner", "inner_inputs"),
        ("anything", "inputs"),
        ("anything", "example_inputs"),
    ],
)
def test_inputs_beside_the_loss(write, name, beside):
    _, module = load(f"{write('mine.py', f'def {beside}(): return 1, [2]')}:{beside}")
    assert neighbour_inputs(module, name) == (1, [2])


def test_a_losses_own_inputs_come_before_the_shared_ones(write):
    path = write("mine.py", "INPUTS = 'float[1]'\ndef f_inputs(): return 'float[2]'")
    _, module = load(f"{path}:f_inputs")
    assert neighbour_inputs(module, "f") == ("float[2]",)
    assert neighbour_inputs(module, "g") == ("float[1]",)


def test_no_inputs_beside_the_loss(write):
    _, module = load(f"{write('mine.py', 'def f(): pass')}:f")
    assert neighbour_inputs(module, "f") is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", "must give the inputs as a tuple of tensors or specifications, got `None"),
        ("return {'a': 1}", "got `dict`"),
        ("\n    return 1 / 0", "raises `ZeroDivisionError` at `mine.py` line 2: division by zero"),
    ],
)
def test_inputs_that_cannot_be_used(write, body, message):
    _, module = load(f"{write('mine.py', f'def inputs(): {body}')}:inputs")
    with pytest.raises(UsageError) as caught:
        neighbour_inputs(module, "f")
    assert message in str(caught.value)
