"""Run the command line in this process, and hold it to what it promises whatever it is given."""

import contextlib
import faulthandler
import hashlib
import json
import os
import signal
import stat
import sys
import threading
import time
import traceback

import typer.main
from typer.testing import CliRunner

from lossproof.checks import process, worker
from lossproof.cli import app

LONGEST_SECONDS = 120
"""What takes so long hangs; most take milliseconds."""
OURS = {".lossproof_cache", "__pycache__"}
"""Folders that a check may write: its cache, and what Python compiles when it imports."""
TRACEBACK = "Traceback (most recent call last)"


def contents(folder):
    """What a folder holds, file by file."""
    found = {}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - OURS)
        for name in (*folders, *names):
            path = os.path.join(place, name)
            mode = os.lstat(path).st_mode
            said = ""
            if stat.S_ISLNK(mode):
                said = os.readlink(path)
            elif stat.S_ISREG(mode):
                with open(path, "rb") as file:
                    said = hashlib.sha256(file.read()).hexdigest()
            found[os.path.relpath(path, folder)] = (mode, said)
    return found


@contextlib.contextmanager
def no_longer_than(seconds):
    """Fail, instead of hanging, where the system has alarms."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def late(number, frame):
        raise AssertionError(f"hangs: {''.join(traceback.format_stack(frame)[-4:])}")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


ONE_AT_A_TIME = threading.Lock()


def answer_here(job):
    """What :func:`process.run_isolated` does, without the process.

    The job goes through JSON as it does there, and so does the answer; what the user's code has
    imported and changed of the interpreter is taken back. Those that are asked at once in several
    threads take turns: where each is a process of its own, it has all that to itself.
    """
    with ONE_AT_A_TIME:
        return _answer(job)


def _answer(job):
    started = time.perf_counter()
    modules, path, folder = dict(sys.modules), list(sys.path), os.getcwd()
    leave, was_on = os._exit, faulthandler.is_enabled()
    recursion, streams = sys.getrecursionlimit(), (sys.stdout, sys.stderr)
    with open(os.devnull, "w", encoding="utf-8") as trace:
        try:
            asked = process.Job(**json.loads(json.dumps(vars(job))))
            supervised = worker._Supervised(asked, trace)
            answer = json.loads(json.dumps(supervised.answer()))
        finally:
            faulthandler.cancel_dump_traceback_later()
            faulthandler.disable()
            if was_on:
                faulthandler.enable(sys.__stderr__)
            os._exit = leave
            sys.stdout, sys.stderr = streams  # an interruption may have come in a redirection
            os.chdir(folder)
            sys.setrecursionlimit(recursion)
            sys.path[:] = path
            for name in set(sys.modules) - set(modules):
                if not name.startswith(("lossproof", "torch", "numpy", "sympy")):
                    del sys.modules[name]
    return process._read(job, answer, started)


MADE = typer.main.get_command(app)
"""The command, made once: to make it takes longer than most of what it is asked."""


class Command:
    """``lossproof`` in a folder.

    Args:
        folder: the current folder, of which nothing may change.
    """

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, *words, codes=(0, 1, 2), writes=()):
        """Run it, and check what is true of every command; what it printed.

        Args:
            words: the arguments.
            codes: the exit codes that are right.
            writes: paths, from the folder, that it may write.
        """
        before, environment = contents(self.folder), dict(os.environ)
        with no_longer_than(LONGEST_SECONDS):
            done = CliRunner().invoke(app, [str(word) for word in words])
        shown = " ".join(repr(word)[:80] for word in words)
        said = f"lossproof {shown}\nexit code {done.exit_code}\n{done.output[-2000:]}"
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise AssertionError(f"{said}\nan exception gets out") from done.exception
        assert done.exit_code in codes, said
        assert TRACEBACK not in done.output, said
        assert "lossproof itself failed" not in done.output, said
        assert done.exit_code != 2 or done.stderr.strip() or done.stdout.strip(), said
        after = contents(self.folder)
        for name in writes:
            after.pop(name, None)
            before.pop(name, None)
        assert after == before, said
        assert dict(os.environ) == environment, said
        return done
