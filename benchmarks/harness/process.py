"""A method in a process of its own, which sleeps until it is asked for a turn."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, TypeVar

from benchmarks.harness.clock import Turn, Warmth, turn_of, warmed_up
from benchmarks.harness.study import Address, LeftOut, Step

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # else the compiler's helpers outlive the warm-up
    "KINETO_LOG_LEVEL": "99",  # the profiler says nothing of itself
}
TURN, MEMORY, FACTS, END = "turn", "memory", "facts", "end"


class Failure(Exception):
    """Why a method has no figures for a case.

    Args:
        words: the reason.
        left_out: whether it said itself that it cannot do this case.
    """

    def __init__(self, words: str, left_out: bool = False) -> None:
        super().__init__(words)
        self.words, self.left_out = words, left_out


class Worker:
    """A new process that has made the step and warmed it up.

    Args:
        address: what it measures.
        environment: its environment variables, over those of this process.
        patience: seconds that it may take for an answer.

    Raises:
        Failure: the step cannot be made or taken.
    """

    def __init__(self, address: Address, environment: Mapping[str, str], patience: float) -> None:
        self._patience = patience
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, address), daemon=True)
        with _environment({**ONE_THREAD, **environment}):
            self._process.start()
        theirs.close()
        try:
            self.warmth: Warmth = self._answer()
        except BaseException:
            self.end()
            raise

    def turn(self) -> Turn:
        """Wake it for one turn."""
        return self._ask(TURN)

    def memory(self) -> dict[str, float]:
        """The memory of a step."""
        return self._ask(MEMORY)

    def facts(self) -> dict[str, Any]:
        """What the step tells of itself."""
        return self._ask(FACTS)

    def end(self) -> None:
        """End the process."""
        with suppress(OSError):  # it may have ended before
            self._connection.send(END)
        self._process.join(timeout=2.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._connection.close()

    def _ask(self, order: str) -> Any:
        try:
            self._connection.send(order)
        except OSError:
            raise Failure(self._how_it_ended()) from None
        return self._answer()

    def _answer(self) -> Any:
        if not self._connection.poll(self._patience):
            raise Failure(f"no answer within {self._patience:g} s")
        try:
            answer = self._connection.recv()
        except (EOFError, OSError):
            raise Failure(self._how_it_ended()) from None
        if isinstance(answer, tuple):
            raise Failure(*answer)
        return answer

    def _how_it_ended(self) -> str:
        self._process.join(timeout=10.0)
        code = self._process.exitcode
        if code is not None and code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        return f"its process ended with status {code}"


@dataclass
class Made:
    """A step that is ready to be measured."""

    step: Step
    warmth: Warmth


Answer = TypeVar("Answer")
Given = ParamSpec("Given")
Refusal = tuple[str, bool]
"""The words of a failure, and whether the method has left itself out."""


def serve(connection: Connection, address: Address) -> None:
    """What the process does: make the step, warm it up, and answer until it is told to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the business of who has started it
    with suppress(EOFError, OSError):  # who may be gone
        made = tried(ready, address)
        connection.send(made.warmth if isinstance(made, Made) else made)
        while isinstance(made, Made) and (order := connection.recv()) != END:
            connection.send(tried(done, order, made))


def tried(
    action: Callable[Given, Answer], *args: Given.args, **kwargs: Given.kwargs
) -> Answer | Refusal:
    """What an action returns, or why it does not."""
    try:
        return action(*args, **kwargs)
    except LeftOut as reason:
        return str(reason), True
    except Exception as error:  # whatever a library raises is its answer
        return words_of(error), False


def ready(address: Address) -> Made:
    """Make the step of a method for a case, and warm it up."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    study, case, method = address.find()
    torch.manual_seed(0)
    step = Step.of(study.make(case, method))
    return Made(step, warmed_up(step))


def done(order: str, made: Made) -> Any:
    """What an order asks for."""
    if order == TURN:
        return turn_of(made.step, made.warmth.repeats)
    if order == MEMORY:
        from benchmarks.harness.memory import of_step

        return of_step(made.step)
    return dict(made.step.facts())


def words_of(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}".removesuffix(": ")


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """What a process inherits that starts here."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
