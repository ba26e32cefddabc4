"""The command line: what it prints where, and its exit codes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

import lossproof
from lossproof.checks import process
from lossproof.checks.process import InternalError
from lossproof.checks.report import Finding, Outcome, Report, Severity, Status
from lossproof.checks.rules import RULES
from lossproof.cli import app
from lossproof.errors import UsageError

LOSSES = """\
import os, sys, time
INPUTS = "float[4], float[4]"

def right(p, t):
    print("said by the loss")
    return ((p - t) ** 2).mean()

def cut(p, t):
    return ((p - t).detach() ** 2).mean()

def waits(p, t):
    with open("started.part", "w") as file:
        file.write(str(os.getpid()))
    os.rename("started.part", "started")
    time.sleep(1e6)
"""


@pytest.fixture
def losses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "losses.py").write_text(LOSSES)
    return tmp_path


@pytest.fixture
def answers(monkeypatch):
    """Stands in for the process: notes the job, and answers with what it is given."""

    def answers(answer):
        jobs = []

        def run_isolated(job):
            jobs.append(job)
            if isinstance(answer, BaseException):
                raise answer
            return answer

        monkeypatch.setattr(process, "run_isolated", run_isolated)
        return jobs

    return answers


def report(*findings):
    outcomes = (
        Outcome("LP101", "non-scalar", Status.PROVED, "one element"),
        Outcome("LP203", "grad-output-ignored", Status.NOT_APPLICABLE, "no own backward"),
    )
    return Report("f", None, ("x: float32[3]",), findings, outcomes, 0, 0.3)


FAULT = Finding("LP201", "graph-cut", Severity.WARNING, "no gradient reaches `x`")


def run(*words, **options):
    return CliRunner().invoke(app, words, **options)


def command(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "lossproof", *words], capture_output=True, text=True, **options
    )


# ------------------------------------------------------------------ a check, end to end


def test_a_right_loss(losses):
    done = command("check", "losses.py:right")
    assert done.returncode == 0
    assert done.stdout.startswith("checked ")
    assert done.stdout.rstrip().split("\n")[-1].startswith("0 errors, 0 warnings, ")
    assert "said by the loss" not in done.stdout
    assert "said by the loss" in done.stderr
    assert "\x1b" not in done.stdout


def test_a_wrong_loss_as_json(losses):
    done = command("check", "losses.py:cut", "--output-format", "json", "--seed", "3")
    assert done.returncode == 1
    data = json.loads(done.stdout)
    assert [finding["code"] for finding in data["findings"]] == ["LP201"]
    assert data["findings"][0]["location"]["line"] == 9
    assert data["reproduce"] == "lossproof check losses.py:cut --seed 3"


def test_usage_errors_leave_standard_output_empty(losses):
    done = command("check", "losses.py:wrigth")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: `losses.py` has no `wrigth`; did you mean `right`?\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sends signals, reads /proc")
def test_ctrl_c_ends_the_check_and_says_so(losses):
    running = subprocess.Popen(
        [sys.executable, "-m", "lossproof", "check", "losses.py:waits"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (losses / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert (running.returncode, out, err) == (130, "", "interrupted\n")
    assert not os.path.exists(f"/proc/{(losses / 'started').read_text()}")


def test_two_losses_side_by_side(losses):
    done = command("compare", "losses.py:right", "torch.nn:MSELoss")
    assert done.returncode == 0, done.stderr
    assert "MSELoss" in done.stdout
    assert "said by the loss" not in done.stdout


def test_two_losses_that_differ_as_json(losses):
    done = command("compare", "losses.py:right", "losses.py:cut", "--output-format", "json")
    assert done.returncode == 1
    data = json.loads(done.stdout)
    assert data["same"] is False
    assert data["b"]["name"] == "cut"


# ------------------------------------------------------------------ exit codes and options


@pytest.mark.parametrize(
    ("findings", "options", "code"),
    [((), [], 0), ((FAULT,), [], 1), ((FAULT,), ["--exit-zero"], 0)],
)
def test_exit_codes(answers, findings, options, code):
    answers(report(*findings))
    assert run("check", "m:f", *options).exit_code == code


def test_every_option_reaches_the_job(answers):
    (jobs, done) = answers(report(FAULT)), run(
        "check", "m:f", "--inputs", "float[3]", "--reference", "m:g", "--seed", "7",
        "--time-limit", "2.5",
    )  # fmt: skip
    (job,) = jobs
    assert (job.target, job.inputs, job.reference) == ("m:f", "float[3]", "m:g")
    assert (job.seed, job.time_limit) == (7, 2.5)
    expected = "lossproof check m:f --seed 7 --inputs 'float[3]' --reference m:g\n"
    assert f"reproduce  {expected}" in done.stdout


def test_a_comparison_is_asked_for(answers):
    jobs = answers(report(FAULT))
    done = run("compare", "m:f", "m:g", "--inputs", "float[3]", "--seed", "2")
    assert done.exit_code == 1
    assert (jobs[0].target, jobs[0].other, jobs[0].inputs) == ("m:f", "m:g", "float[3]")
    assert "reproduce  lossproof compare m:f m:g --seed 2 --inputs 'float[3]'\n" in done.stdout


def test_formats(answers):
    answers(report(FAULT))
    assert run("check", "m:f", "--output-format", "concise").stdout == (
        "f: LP201 graph-cut: no gradient reaches `x`\n"
    )
    full = run("check", "m:f").stdout
    assert full.startswith("warning[LP201] graph-cut: no gradient reaches `x`\n")
    assert "grad-output-ignored" not in full
    assert "grad-output-ignored: no own backward" in run("check", "m:f", "-v").stdout
    assert run("check", "m:f", "-q").stdout == (
        "warning[LP201] graph-cut: no gradient reaches `x`\n"
    )


def test_quiet_says_nothing_of_a_right_loss(answers):
    answers(report())
    done = run("check", "m:f", "--quiet")
    assert (done.exit_code, done.output) == (0, "")


def test_colours_come_and_go_as_asked(answers, monkeypatch):
    answers(report(FAULT))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[1;33mwarning[LP201]" in run("check", "m:f").stdout
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in run("check", "m:f").stdout


def test_a_fault_of_lossproof_is_not_blamed_on_the_loss(answers):
    answers(InternalError("RuntimeError: oh", "Traceback: deep inside"))
    done = run("check", "m:f")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: lossproof itself failed: RuntimeError: oh\n")
    assert "`--verbose`" in done.stderr
    assert "deep inside" not in done.stderr
    assert "deep inside" in run("check", "m:f", "--verbose").stderr


def test_a_usage_error_is_one_line_on_standard_error(answers):
    answers(UsageError("there is \x1b[31mno such thing"))
    done = run("check", "m:f")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "error: there is \\x1b[31mno such thing\n"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["check", "m:f", "--input", "x"], "--inputs"),
        (["chek", "m:f"], "check"),
        (["check"], "TARGET"),
        (["compare", "m:f"], "TARGET"),
        (["compare", "m:f", "m:g", "--output-format", "concise"], "full"),
        (["check", "m:f", "--time-limit", "0"], "--time-limit"),
        (["check", "m:f", "--time-limit", "soon"], "--time-limit"),
        (["check", "m:f", "--seed", "-1"], "--seed"),
        (["check", "m:f", "--output-format", "ful"], "full"),
        (["explain", "LP999"], "no rule is called `LP999`"),
        (["explain", "graph-cutt"], "graph-cut"),
    ],
)
def test_a_mistyped_command_is_no_finding(words, hint):
    done = run(*words)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert hint in done.stderr


# ------------------------------------------------------------------ the other commands


def test_a_rules_page():
    page = run("explain", "lp201").stdout
    assert page.startswith("# LP201 graph-cut\n\n")
    assert RULES["LP201"].page in page
    assert run("explain", "graph-cut").stdout == page


def test_all_rules():
    lines = run("explain").stdout.rstrip("\n").split("\n")
    assert [line.split()[:2] for line in lines] == [
        [rule.code, rule.name] for rule in RULES.values()
    ]
    assert all(line.endswith(RULES[line.split()[0]].summary) for line in lines)


def test_version():
    assert run("--version").stdout == f"lossproof {lossproof.__version__}\n"


@pytest.mark.parametrize(
    "words", [["--help"], ["check", "--help"], ["explain"], ["explain", "LP201"]]
)
def test_what_needs_no_check_needs_no_torch(words):
    code = (
        "import sys\n"
        f"sys.argv = ['lossproof', *{words!r}]\n"
        "from lossproof.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    heavy = {'torch', 'numpy'} & set(sys.modules)\n"
        "    sys.exit(f'imported {heavy}' if heavy or end.code else 0)\n"
        "sys.exit('did not end')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_letters_that_the_terminal_lacks_do_not_stop_the_report(losses):
    (losses / "losses.py").write_text(
        LOSSES + "\ndef verlust(p, t): return (p - t).detach().mean()  # 损失\n", encoding="utf-8"
    )
    latin = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    done = command("check", "losses.py:verlust", env=latin)
    assert done.returncode == 1
    assert "# \\u635f\\u5931" in done.stdout
