"""Whatever a loss does to its interpreter, there is a report that says what and where."""

import os
import signal
import sys
import textwrap
import time

import pytest

from lossproof.checks.process import InternalError, Job, Trace, run_isolated
from lossproof.errors import UsageError

LOSSES = """\
import ctypes, os, subprocess, sys, time, threading
INPUTS = "float[4], float[4]"

def right(p, t):
    return ((p - t) ** 2).mean()

def segfault(p, t):
    ctypes.string_at(0)

def segfault_in_a_thread(p, t):
    thread = threading.Thread(target=lambda: ctypes.string_at(0))
    thread.start(); thread.join()

def leaves(p, t):
    os._exit(3)

def killed(p, t):
    os.kill(os.getpid(), 9)

def quits(p, t):
    sys.exit("bye")

def interrupts(p, t):
    raise KeyboardInterrupt("bye")

def sleeps(p, t):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open("child", "w").write(str(child.pid))
    time.sleep(1e6)

def endless(p, t):
    while True:
        pass

def rude(p, t):
    print("printed")
    try:
        os.write(1, b"written")
        os.close(1)
    except OSError:
        pass
    sys.stdin.close()
    return ((p - t) ** 2).mean()

def reads(p, t):
    assert sys.stdin.read() == ""
    return ((p - t) ** 2).mean()

def leaves_a_thread(p, t):
    threading.Thread(target=time.sleep, args=(1e6,)).start()
    return ((p - t) ** 2).mean()
"""


@pytest.fixture(autouse=True)
def losses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "losses.py"
    path.write_text(LOSSES)
    return str(path)


def line_of(text):
    return 1 + next(n for n, line in enumerate(LOSSES.split("\n")) if text in line)


def check(name, **options):
    return run_isolated(Job(f"losses.py:{name}", **options))


def crash(name, **options):
    report = check(name, **options)
    (finding,) = report.findings
    assert finding.code == "LP408"
    assert report.subject == name
    assert not report.proved
    assert len(report.unproved) > 5
    return finding


@pytest.mark.parametrize("time_limit", [60.0, float("inf")])
def test_a_right_loss(time_limit):
    report = check("right", time_limit=time_limit)
    assert report.ok
    assert report.proved
    assert report.subject == "right"


def test_the_torch_free_side_passes_everything_on(losses):
    with open(losses, "a") as file:
        file.write("def doubled(p, t): return 2 * right(p, t)\n")
    job = Job(
        "losses.py:doubled", "p float[3]; t float[3]", "losses.py:right", seed=5, time_limit=30
    )
    report = run_isolated(job)
    assert [finding.code for finding in report] == ["LP103"]
    assert report.seed == 5
    assert report.inputs[0].startswith("p: float32[3]")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to die of")
@pytest.mark.parametrize("name", ["segfault", "segfault_in_a_thread"])
def test_a_segmentation_fault(name, losses):
    finding = crash(name)
    assert finding.message.startswith("the interpreter dies of SIGSEGV (")
    assert finding.message.endswith(f"in `{name}`")
    assert finding.location.file == losses
    assert "ctypes.string_at(0)" in finding.location.source


def test_os_exit(losses):
    finding = crash("leaves")
    assert finding.message == "`leaves` ends the process with exit code 3"
    assert (finding.location.file, finding.location.line) == (losses, line_of("os._exit(3)"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to die of")
def test_killed_from_outside_as_when_memory_runs_out():
    finding = crash("killed")
    assert "SIGKILL" in finding.message
    assert "memory" in finding.help
    assert finding.location is None


def test_an_exception_that_is_no_error():
    finding = crash("interrupts")
    assert (
        finding.message == "`interrupts` raises `KeyboardInterrupt('bye')`, which ends the program"
    )
    assert finding.location.line == line_of("raise KeyboardInterrupt")


def test_system_exit_is_a_finding():
    (finding,) = check("quits").findings
    assert finding.code == "LP408"
    assert "SystemExit" in finding.message
    assert finding.location.line == line_of("sys.exit")


def is_running(pid):
    """Whether the process runs; a zombie that nobody has waited for does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_call_that_never_returns_is_killed_with_its_children(tmp_path):
    finding = crash("sleeps", time_limit=0.5, grace=0.5)
    assert finding.message == "`sleeps` was still running after 0.5 s"
    assert finding.location.line == line_of("time.sleep(1e6)")
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 10
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(child)


def test_an_endless_loop_in_python_needs_no_kill():
    finding = crash("endless", time_limit=0.5, grace=60)
    assert finding.message == "`endless` was still running after 0.5 s"
    assert line_of("while True") <= finding.location.line <= line_of("while True") + 1


def test_an_endless_import(losses):
    with open(losses, "w") as file:
        file.write("import time\ntime.sleep(1e6)\n")
    report = check("anything", loading_time=0.5)
    assert report.findings[0].message == ("the import of `anything` was still running after 0.5 s")
    assert report.findings[0].location.line == 2


def test_what_a_loss_does_to_the_streams_does_not_touch_the_answer(capfd):
    report = check("rude")
    assert report.subject == "rude"
    assert not [finding for finding in report if finding.code == "LP408"]
    out, err = capfd.readouterr()
    assert out == ""
    assert "printed" in err
    assert "written" in err


def test_a_loss_that_reads_input_gets_none():
    assert check("reads").ok


def test_a_thread_left_behind_does_not_hold_up_the_answer():
    assert check("leaves_a_thread").subject == "leaves_a_thread"


def test_a_comparison(losses):
    with open(losses, "a") as file:
        file.write("def doubled(p, t): return 2 * right(p, t)\n")
    comparison = run_isolated(Job("losses.py:doubled", other="losses.py:right", seed=4))
    assert (comparison.a.name, comparison.b.name) == ("doubled", "right")
    assert comparison.relation == "constant-factor"
    assert comparison.seed == 4


def test_a_comparison_takes_the_inputs_beside_either_loss():
    job = Job("torch.nn.functional:mse_loss", other="losses.py:right")
    assert run_isolated(job).same


def test_a_comparison_that_dies_leaves_a_report(losses):
    report = run_isolated(Job("losses.py:leaves", other="losses.py:right"))
    (finding,) = report.findings
    assert (
        finding.message
        == "the comparison of `leaves` and `right` ends the process with exit code 3"
    )
    assert finding.location.line == line_of("os._exit(3)")
    assert report.subject == "leaves and right"


def test_usage_errors_come_back():
    with pytest.raises(UsageError, match="`losses.py` has no `rigth`; did you mean `right`"):
        check("rigth")


def test_a_fault_of_lossproof_itself_comes_back_with_its_traceback(tmp_path, monkeypatch):
    # The worker meets a broken installation: a rule that raises.
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent(
            """
            import lossproof
            def check(*inputs, **options):
                raise RuntimeError("a rule is broken")
            lossproof.check = check
            """
        )
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(InternalError, match="RuntimeError: a rule is broken") as caught:
        check("right")
    assert "Traceback" in caught.value.traceback


def test_a_process_that_does_not_start_is_no_fault_of_the_loss(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(7)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(InternalError, match=r"did not start \(exit code 7\)"):
        check("right")


FRAMES = f"""\
checking
Timeout (0:00:01)!
Thread 0x00007f01 (most recent call first):
  <no Python frame>

Thread 0x00007f02 [python] (most recent call first):
  File "{os.path.dirname(os.__file__)}/ctypes/__init__.py", line 519 in string_at
  File "/home/u/m\\xeane/\\u635f.py", line 5 in loss
  File "/home/u/other.py", line 9 in outer
"""


def test_the_traceback_of_faulthandler_is_understood():
    trace = Trace.parse(FRAMES)
    assert trace.timed_out
    assert not trace.loading
    assert (trace.place.file, trace.place.line) == ("/home/u/mêne/损.py", 5)
    assert trace.place.function == "loss"


def test_the_thread_that_failed_comes_first():
    trace = Trace.parse(
        "Fatal Python error: Aborted\n\n"
        'Thread 0x01 (most recent call first):\n  File "/a.py", line 1 in a\n\n'
        'Current thread 0x02 (most recent call first):\n  File "/b.py", line 2 in b\n'
    )
    assert trace.fault == "Aborted"
    assert trace.loading
    assert trace.place.file == "/b.py"


def test_a_trace_that_says_nothing():
    assert Trace.parse("") == Trace(True, False, None, None)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to die of")
def test_an_unnamed_signal_has_its_number():
    from lossproof.checks.process import _signal_name

    assert _signal_name(250) == "signal 250"
    assert _signal_name(signal.SIGABRT).startswith("SIGABRT (")
