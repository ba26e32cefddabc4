"""Whatever the command line is given: words and an exit code; no traceback, no hang, no change.

More examples: ``LOSSPROOF_FUZZ=5000 python -m pytest tests/fuzz/test_command_line.py``.
"""

import json
import os
import re
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fuzz.asking import MADE, TRACEBACK, Command, answer_here, contents
from tests.fuzz.broken_files import (
    DEADLY,
    DEADLY_AND_QUICK,
    DEADLY_IN_THE_LOSS,
    LOSS,
    NOT_A_LOSS,
    NOT_PYTHON,
    NOT_UTF8,
    WRONG_WHEN_IMPORTED,
    make_odd_places,
)
from tests.fuzz.broken_words import (
    ARGUMENTS,
    BROKEN_SETTINGS,
    KEYS,
    KEYS_OF_A_LOSS,
    NAMES,
    OPTIONS,
    REFERENCES,
    SPECIFICATIONS,
    TARGETS,
    VALUES,
)

from lossproof.checks import process
from lossproof.checks.inputs import KINDS
from lossproof.checks.report import Report

USUAL_EXAMPLES = 40
EXAMPLES = int(os.environ.get("LOSSPROOF_FUZZ", USUAL_EXAMPLES))
HERE = settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
QUICK = ("--select", "LP101,LP408")
"""Few rules: what is asked here is not what a check finds."""

pytestmark = pytest.mark.filterwarnings("ignore")  # what broken code warns of is not ours


@pytest.fixture
def lossproof(tmp_path, monkeypatch):
    """The command, in a folder with one right loss, its process this one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process, "run_isolated", answer_here)
    monkeypatch.setattr("typer.testing._get_command", lambda app: MADE, raising=False)
    (tmp_path / "right.py").write_bytes(LOSS)
    return Command(tmp_path)


@pytest.fixture
def no_process(monkeypatch):
    """Fail where a check would begin: what is wrong must be told before."""

    def never(job):
        raise AssertionError(f"began to check {job}")

    monkeypatch.setattr(process, "run_isolated", never)


@pytest.fixture
def empty_answer(monkeypatch):
    """Every check is clean at once: the question is what is made of it."""

    def answer(job):
        return Report(job.target, None, (), (), (), job.seed, 0.0)

    monkeypatch.setattr(process, "run_isolated", answer)


def each(table):
    return pytest.mark.parametrize("name", table, ids=lambda name: name.replace(" ", "_"))


# ------------------------------------------------------------------ files


@each(NOT_PYTHON)
def test_what_is_not_python(lossproof, name):
    text = NOT_PYTHON[name]
    (lossproof.folder / "given.py").write_bytes(text)
    lossproof("check", "given.py")
    lossproof("check", "given.py:some_loss", *QUICK)
    lossproof("check", ".", *QUICK, "--output-format", "json")
    lossproof("check", "right.py:some_loss", "--reference", "given.py:some_loss", *QUICK)
    lossproof("compare", "given.py:some_loss", "torch.nn:MSELoss", "--inputs", "float[3],float[3]")


@each(WRONG_WHEN_IMPORTED)
def test_what_goes_wrong_when_it_is_imported(lossproof, name):
    text = WRONG_WHEN_IMPORTED[name].replace("{name}", "given")
    (lossproof.folder / "given.py").write_text(f"{text}\n{LOSS.decode()}", encoding="utf-8")
    done = lossproof("check", "given.py:some_loss", *QUICK, codes=(1, 2))
    assert "given.py" in done.output or "SystemExit" in done.output or "some_loss" in done.output
    lossproof("check", "given.py", "--output-format", "concise", *QUICK)
    lossproof("compare", "torch.nn:MSELoss", "given.py:some_loss", codes=(1, 2))


@each(NOT_A_LOSS)
def test_what_is_no_loss(lossproof, name):
    (lossproof.folder / "given.py").write_text(NOT_A_LOSS[name] + "\n", encoding="utf-8")
    lossproof("check", "given.py:some_loss", *QUICK)
    lossproof("check", "given.py:some_loss", "--inputs", "float[3], float[3]", *QUICK)


def test_a_folder_of_all_of_them(lossproof):
    for number, text in enumerate(NOT_PYTHON.values()):
        (lossproof.folder / f"bytes_{number}.py").write_bytes(text)
    done = lossproof("check", ".", "--output-format", "json", *QUICK, "--jobs", "1")
    assert len(json.loads(done.stdout)) > len(NOT_PYTHON) // 2


@pytest.mark.skipif(sys.platform == "win32", reason="makes pipes and links")
def test_odd_places(lossproof):
    make_odd_places(lossproof.folder)
    names = os.listdir(lossproof.folder)
    lossproof("check", ".", *QUICK)
    (lossproof.folder / NOT_UTF8).unlink()  # what stands in for the terminal cannot write it
    lossproof("check", ".", "--output-format", "sarif", *QUICK)
    names.remove(NOT_UTF8)
    for name in names:
        lossproof("check", name, *QUICK)
        lossproof("check", f"{name}:some_loss", *QUICK)
        lossproof("init", name, "--output", "loop.py")
    for name in ("loop.py", "pipe.py", "to_zeros.py", "is_a_folder.py"):
        lossproof("check", "right.py", "--html", name, *QUICK, codes=(2,))


@pytest.mark.skipif(sys.platform == "win32", reason="ends processes by signals")
def test_what_only_a_process_of_its_own_survives(tmp_path):
    names = DEADLY if EXAMPLES > USUAL_EXAMPLES else DEADLY_AND_QUICK
    for number, name in enumerate(names):
        text = DEADLY[name]
        text += "" if "def some_loss" in text else LOSS.decode()
        (tmp_path / f"deadly_{number:02}.py").write_text(text, encoding="utf-8")
    before = contents(tmp_path)
    words = ("check", ".", "--jobs", "2", "--time-limit", "3", "--output-format", "json")
    done = subprocess.run(
        [sys.executable, "-m", "lossproof", *words, "--inputs", "float[3], float[3]", *QUICK],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert TRACEBACK not in done.stdout + done.stderr
    reports = dict(zip(names, json.loads(done.stdout), strict=True))
    assert contents(tmp_path) == before
    for name, report in reports.items():
        found = [finding["code"] for finding in report["findings"]]
        if name in ("kills itself", "leaves at once"):
            assert "some_loss" in report["not_checked"]
        elif name in DEADLY_IN_THE_LOSS:
            assert found == ["LP408"], name
        elif name in ("leaves a thread", "leaves a handler", "moves away", "a right one"):
            assert not found, name
            assert not report.get("not_checked"), name


# ------------------------------------------------------------------ targets


@pytest.mark.parametrize("number", range(len(TARGETS)))
def test_targets(lossproof, number):
    target = TARGETS[number]
    if target not in ("..", "/", "//", "~", "lossproof", "torch", "os"):  # much to look through
        lossproof("check", *QUICK, "--", target)
    lossproof("check", *QUICK, "--reference", target, "--", "right.py:some_loss")
    lossproof("compare", "--", "right.py:some_loss", target)
    if target not in ("..", "/", "//", "~"):
        lossproof("init", "--", target, writes=("tests/test_losses.py", "tests"))


# ------------------------------------------------------------------ specifications


@pytest.mark.parametrize("number", range(len(SPECIFICATIONS)))
def test_specifications(lossproof, number):
    given_text = SPECIFICATIONS[number]
    lossproof("check", "right.py:some_loss", f"--inputs={given_text}", *QUICK)
    lossproof("compare", "right.py:some_loss", "torch.nn:MSELoss", f"--inputs={given_text}")


sizes = st.one_of(
    st.integers(-3, 5).map(str),
    st.sampled_from(["", " ", "x", "²", "1e9", "10" * 12, "9" * 30, "99999999999", "3 3"]),
)
shapes = st.lists(sizes, max_size=4).map(",".join)
kinds = st.one_of(st.sampled_from(KINDS), st.sampled_from(["", "flaot", "Int", "π", "0", "a b"]))
bounds = st.sampled_from(["", "", "<3", "<0", "<-1", ">1<3", "<²", ">3", f"<{'9' * 20}", "<>"])
lefts, rights = st.sampled_from(["[", "[", "[", "(", ""]), st.sampled_from(["]", "]", "]", ")", ""])
item = st.builds(
    lambda name, kind, left, shape, right, bound: f"{name}{kind}{left}{shape}{right}{bound}",
    st.sampled_from(["", "p ", "t: ", "p=", "q ", "1 "]), kinds, lefts, shapes, rights, bounds,
)  # fmt: skip
specifications = st.one_of(
    st.lists(item, max_size=3).map(", ".join),
    st.text("float[]<>0123,; ='\"(){}-x²\n", max_size=40),
    st.text(max_size=20),
)


@HERE
@given(text=specifications)
def test_any_specification(lossproof, text):
    lossproof("check", "right.py:some_loss", f"--inputs={text}", *QUICK)


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize("number", range(len(BROKEN_SETTINGS)))
def test_broken_settings(lossproof, no_process, number):
    (lossproof.folder / "pyproject.toml").write_bytes(BROKEN_SETTINGS[number])
    for words in (["check", "right.py:some_loss"], ["check", "."], ["init", "."]):
        done = lossproof(*words, codes=(2,))
        assert done.stdout == ""


def test_settings_of_other_tools_alone(lossproof, empty_answer):
    for text in (b"", b"tool = 3", b"tool = []", b"[[tool]]", b"[" + b"a." * 5000 + b"b]"):
        (lossproof.folder / "pyproject.toml").write_bytes(text)
        lossproof("check", "right.py:some_loss", codes=(0,))


@pytest.mark.parametrize("key", KEYS)
def test_every_kind_of_value_for_every_setting(lossproof, empty_answer, key):
    for value in VALUES:
        (lossproof.folder / "lossproof.toml").write_text(f"{key} = {value}\n", encoding="utf-8")
        for words in (["right.py:some_loss"], ["."]):
            lossproof("check", *words, "--no-cache")


@pytest.mark.parametrize("key", KEYS_OF_A_LOSS)
def test_every_kind_of_value_for_the_settings_of_a_loss(lossproof, empty_answer, key):
    for value in VALUES:
        text = f'[losses."right.py:some_loss"]\n{key} = {value}\n'
        (lossproof.folder / "lossproof.toml").write_text(text, encoding="utf-8")
        lossproof("check", ".", "--no-cache")


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_names_of_losses_in_the_settings(lossproof, empty_answer, number):
    text = f'[losses."{NAMES[number]}"]\ninputs = "float[3]"\n'
    (lossproof.folder / "lossproof.toml").write_text(text, encoding="utf-8")
    lossproof("check", ".", "--no-cache")
    lossproof("check", "right.py:some_loss")


@pytest.mark.parametrize("number", range(len(REFERENCES)))
def test_references_in_the_settings(lossproof, number):
    text = f'[losses."right.py:some_loss"]\nreference = "{REFERENCES[number]}"\n'
    (lossproof.folder / "lossproof.toml").write_text(text, encoding="utf-8")
    lossproof("check", "right.py:some_loss", *QUICK)
    lossproof("check", ".", *QUICK)


toml_values = st.recursive(
    st.one_of(
        st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=8),
        st.sampled_from(["LP1", "LP9", "overflow", "*", "[", "float[3]", "right.py:some_loss"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)  # fmt: skip


def toml(value):
    """A value as TOML writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, str) else repr(value)


keys = st.one_of(st.sampled_from(KEYS), st.text(max_size=6))


@HERE
@given(data=st.dictionaries(keys, toml_values, max_size=4))
def test_any_settings(lossproof, empty_answer, data):
    text = "".join(f"{json.dumps(key)} = {toml(value)}\n" for key, value in data.items())
    (lossproof.folder / "lossproof.toml").write_text(text, encoding="utf-8", errors="replace")
    lossproof("check", "right.py:some_loss")


# ------------------------------------------------------------------ options


@pytest.mark.parametrize("number", range(len(OPTIONS)))
def test_options_of_a_check(lossproof, number):
    chosen = OPTIONS[number]
    quick = () if "--select" in chosen or "--ignore" in chosen else QUICK
    shape = () if "--inputs" in chosen else ("--inputs", "float[3], float[3]")
    if chosen[0] == "--ignore" and chosen[1] != "LP":
        quick = ("--select", "LP101,LP408,LP999")
    for target in ("right.py:some_loss", "right.py"):
        lossproof("check", target, *shape, *quick, *chosen)
    if chosen[0] in ("--seed", "--time-limit", "--output-format"):
        lossproof("compare", "right.py:some_loss", "torch.nn:MSELoss", *shape, *chosen)


@pytest.mark.parametrize("number", range(len(ARGUMENTS)))
def test_arguments(lossproof, empty_answer, number):
    lossproof(*ARGUMENTS[number], writes=("tests", "tests/test_losses.py"))


@HERE
@given(
    command=st.sampled_from(["check", "compare", "explain", "losses", "init"]),
    words=st.lists(
        st.one_of(
            st.text(st.characters(exclude_characters="\x00/"), max_size=8),
            st.sampled_from([option[0] for option in OPTIONS]),
            st.sampled_from(["right.py:some_loss", "right.py", "torch.nn:MSELoss"]),
        ),
        max_size=5,
    ),
)
def test_any_arguments(lossproof, empty_answer, command, words):
    written = ("tests", "tests/test_losses.py", *words)  # any word may be the value of `--html`
    lossproof(command, *words, writes=written)


# ------------------------------------------------------------------ surroundings


def run(words, **options):
    return subprocess.run(
        [sys.executable, "-m", "lossproof", *words], capture_output=True, text=True, timeout=120,
        **options,
    )  # fmt: skip


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
@pytest.mark.parametrize("words", [["explain"], ["explain", "LP203"], ["--help"]])
def test_standard_output_is_full_or_closed(words):
    for to in ("> /dev/full", ">&-", ">&- 2>&-", "| true"):
        shell = f"{sys.executable} -m lossproof {' '.join(words)} {to}"
        done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=60)
        assert TRACEBACK not in done.stderr, f"{shell}\n{done.stderr}"
        assert "Exception ignored" not in done.stderr, f"{shell}\n{done.stderr}"
        assert done.returncode in (0, 1, 2), shell


@pytest.mark.skipif(sys.platform == "win32", reason="removes its own folder")
def test_the_folder_is_gone(tmp_path):
    gone = tmp_path / "gone"
    for words in ("explain LP203", "check x.py:f", "check .", "init ."):
        gone.mkdir(exist_ok=True)
        shell = f"cd {gone} && rmdir {gone} && {sys.executable} -m lossproof {words}"
        done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=60)
        assert TRACEBACK not in done.stderr, f"{words}\n{done.stderr}"
        assert done.returncode in (0, 2), words


@pytest.mark.parametrize("name", ["NO_COLOR", "COLUMNS", "LANG", "TERM", "OMP_NUM_THREADS"])
def test_odd_environments(lossproof, empty_answer, monkeypatch, name):
    for value in ("", "0", "-1", "x", "9" * 30, "C", "dumb"):
        monkeypatch.setenv(name, value)
        lossproof("check", "right.py:some_loss")
        lossproof("losses", "ordinal")


def test_a_cache_that_is_spoiled(lossproof):
    cache = lossproof.folder / ".lossproof_cache"
    lossproof("check", "right.py", "--inputs", "float[3], float[3]", *QUICK, codes=(0,))
    (kept,) = cache.glob("*.json")
    for text in (b"", b"{", b"[]", b"3", b"\xff", b"{}", b'{"key": 1}', kept.read_bytes()[:200]):
        kept.write_bytes(text)
        lossproof("check", "right.py", "--inputs", "float[3], float[3]", *QUICK, codes=(0,))
    whole = json.loads(kept.read_text(encoding="utf-8"))
    spoiled = ({"findings": 3}, {"findings": [{}]}, {"location": []})
    reports = ({}, [], None, 3, {"subject": 3}, *(whole["report"] | part for part in spoiled))
    for report in reports:
        kept.write_text(json.dumps({"key": whole["key"], "report": report}), encoding="utf-8")
        lossproof("check", "right.py", "--inputs", "float[3], float[3]", *QUICK, codes=(0,))
    for path in cache.iterdir():
        path.unlink()
    cache.rmdir()
    cache.write_text("a file")
    done = lossproof("check", "right.py", "--inputs", "float[3], float[3]", *QUICK, codes=(0,))
    assert "cannot be written" in done.stderr


def test_there_are_hundreds_of_cases():
    counted = [NOT_PYTHON, WRONG_WHEN_IMPORTED, NOT_A_LOSS, DEADLY, TARGETS, SPECIFICATIONS]
    counted += [BROKEN_SETTINGS, VALUES, NAMES, REFERENCES, OPTIONS, ARGUMENTS]
    assert sum(map(len, counted)) > 400
    assert re.match("", "")
