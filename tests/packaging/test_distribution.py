"""The wheel and the tarball: what is in them, and what they say of themselves."""

import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

import lossproof

pytest.importorskip("build")

ROOT = Path(__file__).parents[2]
REPOSITORY = "https://github.com/lossproof/lossproof"
if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Both files, the wheel made from the tarball; the tools are those that are installed."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (tarball,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, tarball


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def names_in(tarball):
    """The paths in a tarball, below its one folder."""
    with tarfile.open(tarball) as opened:
        return {member.name.partition("/")[2] for member in opened if member.isfile()}


def test_the_wheel_is_the_package_and_nothing_else(built):
    wheel, tarball = built
    sources = {name.removeprefix("src/") for name in names_in(tarball) if name.startswith("src/")}
    names = set(zipfile.ZipFile(wheel).namelist())
    about = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    assert names - about == sources
    assert {Path(name).name for name in about} == {
        "METADATA", "WHEEL", "RECORD", "LICENSE", "entry_points.txt",
    }  # fmt: skip
    assert {
        "lossproof/py.typed", "lossproof/losses/__init__.pyi",
        "lossproof/show/templates/report.html", "lossproof/show/templates/report.css",
    } < names  # fmt: skip
    assert wheel.name.endswith("-py3-none-any.whl")
    assert wheel.stat().st_size < 3_000_000


def test_tests_and_pages_can_be_made_from_the_tarball(built):
    _, tarball = built
    names = names_in(tarball)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("needs the repository, to know what is committed")
    committed = {name for name in listed.stdout.split("\0") if (ROOT / name).is_file()}
    assert committed <= names
    made_by_tools = re.compile(r"(^|/)(__pycache__|\..*_cache|site|dist|build)/|/\.[^/]*\.jsonl$")
    assert not [name for name in names if made_by_tools.search(name)]
    assert tarball.stat().st_size < 10_000_000


def test_the_metadata_says_what_the_project_says(built, project):
    wheel, _ = built
    (place,) = [n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("/METADATA")]
    metadata = message_from_string(zipfile.ZipFile(wheel).read(place).decode())
    assert metadata["Version"] == lossproof.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert (metadata["License-Expression"], metadata["License-File"]) == ("Apache-2.0", "LICENSE")
    assert set(metadata.get_all("Provides-Extra")) == set(project["optional-dependencies"])
    urls = dict(url.split(", ") for url in metadata.get_all("Project-URL"))
    assert urls == project["urls"]
    needed = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert {re.split(r"[>=]", line)[0] for line in needed} == {
        "torch", "numpy", "typer", "rich", "jinja2", "tomli",
    }  # fmt: skip


def test_links_lead_somewhere_on_pypi_too(built):
    wheel, _ = built
    (place,) = [n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("/METADATA")]
    text = message_from_string(zipfile.ZipFile(wheel).read(place).decode()).get_payload()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert len(targets) == len(re.findall(r"\]\(([^)\s]+)\)", readme)) > 20
    assert all(target.startswith(("https://", "#")) for target in targets)
    raw = REPOSITORY.replace("github.com", "raw.githubusercontent.com")
    tag = f"v{lossproof.__version__}"
    assert "![A report as a web page" in text
    assert f"({raw}/{tag}/docs/report.png)" in text
    assert f"[CHANGELOG.md]({REPOSITORY}/blob/{tag}/CHANGELOG.md)" in text


def test_pypi_would_take_both(built):
    pytest.importorskip("twine")
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


def test_every_python_that_is_named_is_one_that_torch_has(project):
    named = {c.rpartition(" ")[2] for c in project["classifiers"] if ":: 3." in c}
    assert named == {"3.10", "3.11", "3.12", "3.13"}
    assert project["requires-python"] == ">=3.10"
