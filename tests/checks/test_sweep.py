"""A sweep checks every loss, however others end, and gives back what it has when interrupted."""

import threading
from dataclasses import replace

import pytest

from lossproof.checks import process
from lossproof.checks.cache import Cache
from lossproof.checks.configuration import configuration_for
from lossproof.checks.discovery import Discovery, FoundLoss, discover
from lossproof.checks.process import InternalError, Job
from lossproof.checks.report import Finding, Location, Report, Severity
from lossproof.checks.sweep import Task, sweep, tasks_for, unreadable
from lossproof.errors import ImportFailedError, UsageError

FAULT = Finding("LP201", "graph-cut", Severity.ERROR, "cut")


def report(name, *findings):
    return Report(name, None, (), findings, (), 0, 0.1)


def name_of(job):
    return job.target.rpartition(":")[2]


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """Tasks for losses by ``file:name``."""
    monkeypatch.chdir(tmp_path)

    def tasks(*targets):
        made = []
        for target in targets:
            file, _, name = target.partition(":")
            (tmp_path / file).touch()
            made.append(Task(FoundLoss(target, tmp_path / file, name, 1), Job(target)))
        return made

    return tasks


def test_reports_are_in_the_order_of_the_losses(tasks):
    wanted = [f"a.py:loss_{n}" for n in range(20)]
    seen = []
    done = sweep(
        tasks(*wanted),
        parallel=4,
        run=lambda job: report(job.target),
        on_done=lambda one: seen.append(one.subject),
    )
    assert [one.subject for one in done.reports] == wanted
    assert sorted(seen) == sorted(wanted)
    assert [task.loss.target for task in done.tasks] == wanted
    assert (done.interrupted, done.left_over, done.from_cache) == (False, 0, 0)


def test_several_at_once(tasks):
    together = threading.Barrier(3, timeout=30)

    def run(job):
        together.wait()  # breaks unless three are there
        return report(job.target)

    assert len(sweep(tasks("a.py:a", "a.py:b", "a.py:c"), parallel=3, run=run).reports) == 3


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (UsageError("it takes 3 inputs"), "it takes 3 inputs"),
        (
            InternalError("KeyError: 1", "trace"),
            "lossproof itself failed: KeyError: 1; please report",
        ),
        (ImportFailedError("needs the module `x`"), "needs the module `x`"),
    ],
)
def test_one_bad_loss_does_not_end_the_sweep(tasks, error, why):
    def run(job):
        if name_of(job) == "bad":
            raise error
        return report(name_of(job), FAULT)

    done = sweep(tasks("a.py:good", "b.py:bad", "c.py:last"), run=run)
    good, bad, last = done.reports
    assert good.findings == last.findings == (FAULT,)
    assert bad.not_checked.startswith(why)
    assert not bad.ok
    assert (bad.subject, bad.location.line) == ("bad", 1)


def test_a_file_that_cannot_be_imported_is_tried_once(tasks):
    tried = []

    def run(job):
        tried.append(job.target)
        if job.target.startswith("bad"):
            raise ImportFailedError("needs the module `x`")
        return report(job.target)

    done = sweep(tasks("bad.py:a", "bad.py:b", "good.py:c", "bad.py:d"), run=run)
    assert tried == ["bad.py:a", "good.py:c"]
    reasons = [one.not_checked for one in done.reports]
    assert reasons == ["needs the module `x`"] * 2 + [None] + ["needs the module `x`"]


def test_an_import_that_dies_is_no_finding(tasks):
    death = Finding(
        "LP408", "crash", Severity.ERROR, "the import of `a` was still running after 60 s",
        Location("a.py", 3), "time-limit", {"phase": "import", "time_limit": 60},
    )  # fmt: skip
    (one,) = sweep(tasks("a.py:a"), run=lambda job: report("a", death)).reports
    assert one.not_checked == "the import of `a` was still running after 60 s, at `a.py` line 3"
    assert not one.findings
    killed = replace(death, evidence={"time_limit": 60})
    (one,) = sweep(tasks("a.py:a"), run=lambda job: report("a", killed)).reports
    assert one.findings == (killed,)


def test_what_is_unchanged_is_not_run_again(tasks, tmp_path):
    ran = []

    def run(job):
        ran.append(name_of(job))
        return report(name_of(job), FAULT)

    for _ in range(2):
        done = sweep(tasks("a.py:a", "b.py:b"), run=run, cache=Cache(tmp_path))
        assert all(one.findings == (FAULT,) for one in done.reports)
    assert ran == ["a", "b"]
    assert done.from_cache == 2
    (tmp_path / "a.py").write_text("# changed")
    assert sweep(tasks("a.py:a", "b.py:b"), run=run, cache=Cache(tmp_path)).from_cache == 1
    assert ran == ["a", "b", "a"]


def test_an_interruption_ends_what_runs_and_keeps_what_is_done(tasks, tmp_path, monkeypatch):
    killed = threading.Event()
    monkeypatch.setattr(process, "end_running", killed.set)

    def run(job):
        if name_of(job) == "quick":
            return report("quick", FAULT)
        assert killed.wait(30)
        return report("killed", FAULT)

    def interrupt(one):
        raise KeyboardInterrupt

    cache = Cache(tmp_path)
    wanted = tasks("a.py:quick", "b.py:slow", "c.py:never", "d.py:never")
    done = sweep(wanted, parallel=2, run=run, cache=cache, on_done=interrupt)
    assert [one.subject for one in done.reports] == ["quick"]
    assert done.interrupted
    assert done.left_over == 3
    assert cache.get(wanted[0].job, tmp_path / "a.py") is not None
    assert cache.get(wanted[1].job, tmp_path / "b.py") is None


# ------------------------------------------------------------------ settings


@pytest.fixture
def configured(tmp_path, monkeypatch):
    """What the losses of a project are checked with, by target."""
    monkeypatch.chdir(tmp_path)

    def configured(text, job=None, *targets):
        (tmp_path / "lossproof.toml").write_text(text)
        (tmp_path / "losses.py").write_text(
            "def a_loss(p, t): return p\n\ndef unusual(p, t): return p\n"
        )
        configuration = configuration_for(tmp_path)
        found = discover(targets or ["."], root=tmp_path)
        job = job or Job("")
        return {task.loss.target: task.job for task in tasks_for(found, configuration, job)}

    return configured


SETTINGS = '[losses."losses.py:a_loss"]\ninputs = "float[4]"\nignore = ["LP1"]\n'


def test_a_loss_is_checked_with_its_own_settings(configured, tmp_path):
    reference = 'reference = "right.py:loss"\n'
    job = configured(SETTINGS + reference, Job("", seed=5, ignore=("LP2",)))["losses.py:a_loss"]
    assert (job.inputs, job.seed, job.ignore) == ("float[4]", 5, ("LP2", "LP1"))
    assert job.reference == f"{tmp_path / 'right.py'}:loss"
    module = SETTINGS + 'reference = "torch.nn:MSELoss"\n'
    assert configured(module)["losses.py:a_loss"].reference == "torch.nn:MSELoss"


def test_the_command_line_counts_for_more(configured):
    job = Job("", inputs="float[9]", reference="torch.nn:L1Loss")
    found = configured(SETTINGS + 'reference = "torch.nn:MSELoss"\n', job)["losses.py:a_loss"]
    assert (found.inputs, found.reference) == ("float[9]", "torch.nn:L1Loss")


@pytest.mark.parametrize("name", ["losses.py:a_loss", "./losses.py:a_loss", "losses:a_loss"])
def test_a_loss_has_several_names(configured, name):
    text = SETTINGS.replace("losses.py:a_loss", name)
    assert configured(text)["losses.py:a_loss"].inputs == "float[4]"
    assert configured(text, None, "losses.py:a_loss")["losses.py:a_loss"].inputs == "float[4]"


def test_a_loss_with_settings_is_checked_whatever_it_is_called(configured):
    text = SETTINGS.replace("a_loss", "unusual")
    assert set(configured(text)) == {"losses.py:a_loss", "losses.py:unusual"}
    assert set(configured(text, None, "losses.py:a_loss")) == {"losses.py:a_loss"}


def test_settings_for_a_file_that_is_not_there(configured):
    with pytest.raises(UsageError, match="the file of `losses.other.py:f` is not there"):
        configured('[losses."other.py:f"]\ninputs = "float[4]"\n')


def test_the_cores_are_shared_out(tmp_path):
    losses = tuple(FoundLoss(f"m:{n}", None, str(n)) for n in range(3))
    none = configuration_for(tmp_path)
    threads = {t.job.threads for t in tasks_for(Discovery(losses), none, Job(""), parallel=1000)}
    assert threads == {1}
    (alone,) = tasks_for(Discovery(losses[:1]), none, Job(""))
    assert alone.job.threads is None


def test_unreadable_files_are_reports_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.py").write_text("def loss(:")
    (one,) = unreadable(discover(["."], root=tmp_path), 3)
    assert (one.subject, one.seed, one.location.line) == ("bad.py", 3, 1)
    assert "is not valid Python" in one.not_checked
