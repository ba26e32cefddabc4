"""The settings of a project are found, read, and refused with the key that was meant."""

from pathlib import Path

import pytest

from lossproof.checks.configuration import Configuration, LossSettings, configuration_for
from lossproof.errors import UsageError

EVERYTHING = """
[tool.lossproof]
select = ["LP1", "graph-cut"]
ignore = ["LP102"]
exclude = ["legacy"]
seed = 3
time-limit = 5
jobs = 2

[tool.lossproof.losses."losses.py:FocalLoss"]
inputs = "float[8,10], int[8]<10"
reference = "torch.nn:CrossEntropyLoss"
ignore = ["LP101"]

[tool.lossproof.losses."mypkg.losses:dice"]
inputs = ["prob[8,3]", "int[8]<3"]
"""


@pytest.fixture
def configured(tmp_path):
    def configured(text, name="pyproject.toml", at="."):
        folder = tmp_path / at
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
        return configuration_for(folder)

    return configured


def test_everything_that_can_be_said(configured, tmp_path):
    assert configured(EVERYTHING) == Configuration(
        tmp_path.resolve() / "pyproject.toml",
        select=("LP1", "graph-cut"),
        ignore=("LP102",),
        exclude=("legacy",),
        seed=3,
        time_limit=5.0,
        jobs=2,
        losses={
            "losses.py:FocalLoss": LossSettings(
                "float[8,10], int[8]<10", "torch.nn:CrossEntropyLoss", ("LP101",)
            ),
            "mypkg.losses:dice": LossSettings("prob[8,3], int[8]<3"),
        },
    )


def test_its_own_file_says_the_same_at_the_top(configured):
    own = EVERYTHING.replace("[tool.lossproof]", "").replace("tool.lossproof.", "")
    assert configured(own, "lossproof.toml").seed == 3
    assert configured(EVERYTHING).file.name == "lossproof.toml"


def test_the_nearest_that_says_anything_counts(configured, tmp_path):
    configured("[tool.lossproof]\nseed = 1")
    configured("[tool.lossproof]\nseed = 2", at="a/b")
    assert configured("[tool.other]\nx = 1", at="a/b/c/d").seed == 2
    assert configured("[project]\nname = 'x'", at="a").seed == 1
    file = tmp_path / "a/b/losses.py"
    file.write_text("")
    assert configuration_for(file).root == (tmp_path / "a/b").resolve()


def test_where_nothing_is_said_paths_are_relative_to_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = configuration_for(tmp_path)
    assert found == Configuration()
    assert found.root == Path.cwd()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sed = 1", "`lossproof` has no key `sed`; did you mean `seed`?"),
        ("time_limit = 1", "did you mean `time-limit`?"),
        ("zzz = 1", "the keys are `select`, `ignore`"),
        ("seed = '1'", "`seed` must be an integer from 0 to 4294967295, got the text `1`"),
        ("seed = true", "got the boolean `True`"),
        ("seed = -1", "got the integer `-1`"),
        ("time-limit = 0", "`time-limit` must be a number of seconds above 0"),
        ("time-limit = nan", "got the float `nan`"),
        ("jobs = 0", "`jobs` must be an integer of at least 1"),
        ("select = 'LP1'", "`select` must be an array of texts"),
        ("ignore = [1]", "`ignore` must be an array of texts, such as `ignore"),
        ("select = ['LP999']", "no rule is called `LP999`"),
        ("ignore = ['grahp-cut']", "did you mean `graph-cut`?"),
        ("ignore = ['LP']", "no rule is left to run"),
        ("losses = 3", "`losses` must be a table"),
        ("[tool.lossproof.losses.focal]\n", "names no loss: write"),
        ("[tool.lossproof.losses]\n'a.py:f' = 1", "`losses.a.py:f` must be a table"),
        ("[tool.lossproof.losses.'a.py:f']\ninput = 'x'", "did you mean `inputs`?"),
        ("[tool.lossproof.losses.'a.py:f']\ninputs = 3", "`inputs` must be a text or an array"),
        ("[tool.lossproof.losses.'a.py:f']\nreference = 3", "`reference` must be a text"),
        ("[tool.lossproof.losses.'a.py:f']\nignore = ['LP999']", "no rule is called `LP999`"),
        ("seed = = 1", "is not valid TOML"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(configured, text, said):
    with pytest.raises(UsageError) as caught:
        configured(f"[tool.lossproof]\n{text}")
    assert said in str(caught.value)
    assert "pyproject.toml`" in str(caught.value)


def test_the_table_must_be_one(configured):
    with pytest.raises(
        UsageError, match=r"`tool.lossproof` in .* must be a table, got the integer"
    ):
        configured("[tool]\nlossproof = 1")


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "lossproof.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not valid TOML"):
        configuration_for(tmp_path)
