"""The rooms import what they may, and the picture shows what they do."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("grimp")
pytest.importorskip("importlinter")
pytest.importorskip("matplotlib")

from docs.making import architecture, imports
from docs.making.imports import Kind

ROOT = Path(__file__).parents[2]
ON_USE = {("checks", "show"), ("terms", "show"), ("checks", "losses"), ("pytest_plugin", "show")}
"""Arrows that must stay within functions: they go up, or would load what few need."""


@pytest.fixture(scope="module")
def arrows():
    return imports.arrows()


def test_the_contracts_of_the_imports_are_kept():
    program = Path(sys.executable).parent / "lint-imports"
    run = subprocess.run([program, "--no-cache"], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "4 kept, 0 broken" in run.stdout


def test_what_goes_up_is_loaded_on_use(arrows):
    assert {ends for ends in ON_USE if arrows.get(ends) is not Kind.ON_USE} == set()


def test_what_is_loaded_at_once_goes_in_no_circle(arrows):
    below = {}
    for (who, to), kind in arrows.items():
        if kind is Kind.AT_ONCE:
            below.setdefault(who, set()).add(to)

    def reached(room, path):
        assert room not in path, " -> ".join([*path, room])
        for other in below.get(room, ()):
            reached(other, [*path, room])

    for room in below:
        reached(room, [])


def test_the_public_face_loads_nothing_at_once(arrows):
    assert {kind for (who, _), kind in arrows.items() if who == "face"} == {Kind.ON_USE}
    assert {to for who, to in arrows if who == "face"} >= {"checks", "write", "terms", "speed"}


def test_the_picture_shows_every_room_and_every_arrow(arrows):
    drawn = architecture.PICTURE.read_text(encoding="utf-8")
    inner = {ends for ends in arrows if ends[0] != "face"}
    assert drawn.count("<title>") == len(inner)
    for who, to in inner:
        assert f"<title>{who} imports {to}</title>" in drawn
    assert {room for ends in inner for room in ends} == set(architecture.ROOMS)


def test_every_module_of_the_package_is_in_a_room():
    modules = {path.stem for path in imports.SOURCE.iterdir() if path.suffix == ".py"}
    packages = {path.parent.name for path in imports.SOURCE.glob("*/__init__.py")}
    rooms = {imports.room_of(f"lossproof.{name}") for name in (modules | packages) - {"__init__"}}
    assert rooms - imports.NOT_DRAWN == set(architecture.ROOMS)


# --------------------------------------------------------------- how imports are told apart
def test_an_import_is_at_once_unless_a_function_makes_it():
    found = {(who, whom): kind for who, whom, kind in imports.imports()}
    assert found["lossproof.checks.report", "lossproof.show.html"] is Kind.ON_USE
    assert found["lossproof.show.html", "lossproof.checks.report"] is Kind.AT_ONCE
    assert ("lossproof.show.loss_page", "lossproof.losses.catalogue") not in found  # types alone


@pytest.mark.parametrize(
    ("module", "room"),
    [("lossproof", "face"), ("lossproof.checks.rules.lp101_non_scalar", "checks"),
     ("lossproof.console", "cli"), ("lossproof.write", "write")],
)  # fmt: skip
def test_the_room_of_a_module(module, room):
    assert imports.room_of(module) == room


def test_a_line_ends_at_the_frame_of_a_room():
    room = architecture.Room(100, 50, "", width=40, height=20)
    assert architecture.edge((100, 50), (200, 50), room) == (120, 50)
    assert architecture.edge((100, 50), (100, 0), room) == (100, 40)
    assert architecture.edge((100, 50), (0, 0), room) == (80, 40)
