"""A report is kept until something it depends on changes, and no longer."""

import os
import subprocess

import pytest

from lossproof.checks import cache as caching
from lossproof.checks.cache import FOLDER, Cache, imported_files, key_of
from lossproof.checks.process import Job
from lossproof.checks.report import Finding, Location, Report, Severity


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A package whose losses import some of its other files."""
    monkeypatch.chdir(tmp_path)
    files = {
        "pkg/__init__.py": "",
        "pkg/losses.py": "from . import helper\nfrom .sub.deep import f\n",
        "pkg/helper.py": "import pkg.further\n",
        "pkg/further.py": "",
        "pkg/sub/__init__.py": "",
        "pkg/sub/deep.py": "from ..helper import x\n",
        "pkg/unrelated.py": "",
        "reference.py": "import torch\nimport beside\n",
        "beside.py": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.fixture
def file(project):
    return project / "pkg/losses.py"


JOB = Job("pkg/losses.py:a_loss")


def finding(cause=None):
    place = Location("pkg/losses.py", 3, 1, source="def a_loss")
    return Finding("LP201", "graph-cut", Severity.ERROR, "cut", place, cause, {"x": 1.5})


def report(*findings, **changes):
    return Report("a_loss", None, ("p: float32[4]",), findings, (), 0, 0.1).replace(**changes)


def test_a_report_comes_back(project, file):
    cache = Cache(project)
    assert cache.get(JOB, file) is None
    cache.put(JOB, file, report(finding()))
    assert Cache(project).get(JOB, file) == report(finding())
    assert cache.trouble is None


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("pkg/losses.py", True),
        ("pkg/__init__.py", True),
        ("pkg/helper.py", True),
        ("pkg/further.py", True),  # by way of the helper
        ("pkg/sub/__init__.py", True),
        ("pkg/sub/deep.py", True),
        ("pkg/unrelated.py", False),
        ("beside.py", False),
    ],
)
def test_a_change_of_what_it_imports_counts(project, file, name, counts):
    cache = Cache(project)
    cache.put(JOB, file, report())
    (project / name).write_text((project / name).read_text() + "# changed\n")
    assert (cache.get(JOB, file) is None) is counts


@pytest.mark.parametrize("name", ["reference.py", "beside.py"])
def test_a_change_of_the_reference_counts(project, file, name):
    job = Job("pkg/losses.py:a_loss", reference="reference.py:loss")
    cache = Cache(project)
    cache.put(job, file, report())
    assert cache.get(job, file) is not None
    (project / name).write_text("# changed\n")
    assert cache.get(job, file) is None


@pytest.mark.parametrize(
    "options",
    [
        {"inputs": "float[4]"}, {"reference": "torch.nn:MSELoss"}, {"seed": 1}, {"time_limit": 5.0},
        {"select": ("LP2",)}, {"ignore": ("LP2",)}, {"charts": True},
    ],
)  # fmt: skip
def test_other_options_are_another_report(project, file, options):
    cache = Cache(project)
    cache.put(JOB, file, report())
    assert cache.get(Job(JOB.target, **options), file) is None


def test_how_it_was_run_is_no_matter(project, file):
    assert key_of(Job(JOB.target, threads=3, show_output=False), file) == key_of(JOB, file)
    assert key_of(Job(f"{file}:a_loss"), file) == key_of(JOB, file)


@pytest.mark.parametrize("name", ["torch", "lossproof", "python"])
def test_other_versions_are_another_report(project, file, monkeypatch, name):
    cache = Cache(project)
    cache.put(JOB, file, report())
    versions = {**caching._environment(), name: "0.0"}
    monkeypatch.setattr(caching, "_environment", lambda: versions)
    assert cache.get(JOB, file) is None


def test_two_losses_of_a_file_are_kept_side_by_side(project, file):
    cache = Cache(project)
    other = Job("pkg/losses.py:other_loss")
    cache.put(JOB, file, report(finding()))
    cache.put(other, file, report())
    assert cache.get(JOB, file).findings
    assert not cache.get(other, file).findings


def test_what_is_out_of_date_is_replaced(project, file):
    cache = Cache(project)
    for text in ("one", "two", "three"):
        file.write_text(f"# {text}\n")
        cache.put(JOB, file, report())
    assert len(list((project / FOLDER).glob("*.json"))) == 1
    assert not list((project / FOLDER).glob("*.part"))


@pytest.mark.parametrize(
    ("kept", "because"),
    [
        (report(not_checked="no torch"), "nothing was checked"),
        (report(finding("time-limit")), "the machine may have been busy"),
        (report(finding("process-died")), "memory may have run out"),
    ],
)
def test_what_another_run_may_decide_otherwise_is_not_kept(project, file, kept, because):
    cache = Cache(project)
    cache.put(JOB, file, kept)
    assert cache.get(JOB, file) is None, because


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"key": 1}', '{"key": "KEY", "report": {"a": 1}}']
)
def test_a_damaged_file_is_as_good_as_none(project, file, text):
    cache = Cache(project)
    cache.put(JOB, file, report())
    (kept,) = (project / FOLDER).glob("*.json")
    kept.write_text(text.replace("KEY", key_of(JOB, file)))
    assert cache.get(JOB, file) is None


def test_git_does_not_see_it(project, file):
    Cache(project).put(JOB, file, report())
    subprocess.run(["git", "init", "-q", "."], check=True)
    seen = subprocess.run(["git", "status", "--short"], capture_output=True, text=True, check=True)
    assert FOLDER not in seen.stdout


def test_a_folder_that_cannot_be_written_is_told(project, file):
    (project / FOLDER).write_text("a file is in the way")
    cache = Cache(project)
    cache.put(JOB, file, report())
    assert "cannot be written" in cache.trouble
    assert cache.get(JOB, file) is None


def test_a_loss_without_a_file_is_not_kept(project):
    cache = Cache(project)
    cache.put(Job("torch.nn:MSELoss"), None, report())
    assert not (project / FOLDER).exists()


def test_imports_are_resolved_as_python_does(project):
    def imported(text, name="pkg/losses.py"):
        found = imported_files(project / name, text.encode())
        return [os.path.relpath(path, project).replace(os.sep, "/") for path in found]

    package, sub = "pkg/__init__.py", "pkg/sub/__init__.py"
    assert imported("import pkg.helper as h") == [package, "pkg/helper.py"]
    assert imported("from pkg import helper, nothing") == [package, "pkg/helper.py"]
    assert imported("from .sub import deep") == [package, sub, "pkg/sub/deep.py"]
    deep = imported("from .. import helper", "pkg/sub/deep.py")
    assert deep == [package, "pkg/helper.py", sub]
    assert imported("from . import deep", sub) == [package, "pkg/sub/deep.py"]
    assert imported("def f():\n    import beside", "reference.py") == ["beside.py"]
    assert imported("x = 1") == [package]  # importing the module runs it
    assert imported("import torch, os.path", "beside.py") == []
    assert imported("from ..... import x", "beside.py") == []
    assert imported("def (", "beside.py") == []


def test_other_installed_packages_count_by_their_versions(project):
    for name in ("mine/__init__.py", "mine/losses.py", "mine/base.py", "other/__init__.py"):
        path = project / "site-packages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    losses = project / "site-packages/mine/losses.py"
    found = imported_files(losses, b"import mine.base, other")
    assert [path.name for path in found] == ["__init__.py", "base.py"]
