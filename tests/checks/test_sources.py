"""Whose code a frame belongs to, and the text and span of a place in it."""

import inspect
import linecache
import os
import sys

import pytest
import torch

from lossproof.checks import sources
from lossproof.checks.report import Location
from lossproof.checks.sources import Site, Sources, excerpt, is_library, is_machinery, locate

OLD = sys.version_info < (3, 11)


def here():
    """The code and instruction of the caller's call."""
    frame = sys._getframe(1)
    return frame.f_code, frame.f_lasti


def test_machinery_is_torch_and_this_library():
    assert is_machinery(torch.__file__)
    assert is_machinery(sources.__file__)
    assert is_machinery("<frozen importlib._bootstrap>")
    assert not is_machinery(__file__)
    assert not is_machinery(os.__file__)


def test_a_folder_beside_torch_with_a_longer_name_is_not_torch():
    beside = os.path.dirname(torch.__file__) + "metrics_of_mine"
    assert not is_machinery(os.path.join(beside, "losses.py"))


def test_libraries_are_the_standard_one_and_installed_packages():
    assert is_library(os.__file__)
    assert is_library(pytest.__file__)
    assert not is_library(__file__)


def test_own_code_is_all_the_rest():
    own = Sources()
    assert own.owns(__file__)
    assert not own.owns(os.__file__)
    assert not own.owns(torch.__file__)
    assert Sources(os.path.dirname(pytest.__file__)).owns(pytest.__file__)
    assert not Sources(os.path.dirname(torch.__file__)).owns(torch.__file__)


def test_a_notebook_cell_is_the_users_own():
    name = "<ipython-input-3-of-a-test>"
    text = "def loss(x):\n    return x.detach()\n"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    is_machinery.cache_clear()
    space = {}
    exec(compile(text, name, "exec"), space)
    assert Sources().owns(name)
    location = locate(space["loss"].__code__, 0)
    assert location.file == name
    assert location.source == text.splitlines()[location.line - 1]
    del linecache.cache[name]
    is_machinery.cache_clear()


def test_code_without_a_source_is_nobodys():
    assert is_machinery("<string of nothing>")


def test_the_line_and_the_columns_of_a_call():
    def call():
        x = 1
        return x, (here())

    code, instruction = call()[1]
    location = locate(code, instruction)
    assert location.source.strip() == "return x, (here())"
    assert location.line == inspect.getsourcelines(call)[1] + 2
    assert location.file == __file__
    if not OLD:
        assert excerpt(location) == "here()"
        assert location.function.endswith("call")


def test_columns_count_characters_and_not_bytes():
    def call():
        return ("é", "日本", here())

    location = locate(*call()[2])
    if not OLD:
        assert excerpt(location) == "here()"
        assert location.column == location.source.index("here()") + 1


def test_an_expression_over_lines_has_its_span():
    def call():
        return dict(  # noqa: C408 - a call over several lines
            a=1,
            b=here(),
        )["b"]

    location = locate(*call())
    assert location.source.strip() == "b=here(),"
    if not OLD:
        assert excerpt(location) == "here()"


def test_without_positions_there_is_a_line(monkeypatch):
    class Bare:
        """A code object as Python 3.10 has it."""

        def __init__(self, code):
            self.co_filename, self.co_name = code.co_filename, code.co_name
            self.co_lines, self.co_firstlineno = code.co_lines, code.co_firstlineno

    def call():
        x = 1
        return x, here()

    code, instruction = call()[1]
    location = locate(Bare(code), instruction)
    assert location.line == inspect.getsourcelines(call)[1] + 2
    assert location.column is None
    assert excerpt(location) == "return x, here()"


def test_excerpts_of_little():
    assert excerpt(None) == "?"
    assert excerpt(Location("gone.py", 3)) == ""
    over_lines = Location("x.py", 1, 3, 4, 2, source="    a = f(")
    assert excerpt(over_lines) == "a = f("


def test_a_site_without_frames_has_no_place():
    assert Site(None, None).location is None
    assert Site(None, None).library_location is None
    assert Site(None, None).text == "?"


def test_an_exception_is_placed_in_the_users_own_code(marked):
    def loss(x):
        return torch.nn.functional.cross_entropy(x, "no tensor")  # <-- here

    with pytest.raises(TypeError) as caught:
        loss(torch.ones(2, 3))
    assert Sources().of_exception(caught.value).line == marked(loss)
    assert Sources().of_exception(ValueError("never raised")) is None


def test_equal_code_in_two_files_keeps_its_own_file():
    text = "def f():\n    return 1\n"
    places = []
    for file in ("one.py", "two.py"):
        namespace = {}
        exec(compile(text, file, "exec"), namespace)
        places.append(locate(namespace["f"].__code__, 0).file)
    assert places == ["one.py", "two.py"]
