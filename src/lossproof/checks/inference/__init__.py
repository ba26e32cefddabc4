"""Inputs for a loss that is given none, from what its author wrote and from trial.

The names of the arguments, their annotations, the docstring's shapes, the name of the loss, what
its code calls and the sizes it was made with give candidates in the order of their likelihood.
They are tried until one runs and no likelier one could do better: it gives a finite value that
depends on every tensor, with a gradient, and without an accidental broadcast.
"""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from lossproof.checks.inference.candidates import Candidate, candidates
from lossproof.checks.inference.code_words import words_of
from lossproof.checks.inference.docstring_shapes import describe
from lossproof.checks.inference.meanings import Slot, slots_of
from lossproof.checks.inference.trial import NO_GRADIENT, ZERO_GRADIENT, Trial, Trials
from lossproof.checks.inputs import Inputs
from lossproof.checks.subject import Subject
from lossproof.errors import UsageError

MOST_TRIALS = 160
TRIALS_AFTER_ONE_THAT_RUNS = 50
"""A loss with a fault may give a good result nowhere: the search for a better one has an end."""
SECONDS = 4.0
"""How long the search may take in all; it ends after the trial in which the time is up."""
HOPELESS = 12
"""After how many failures with one and the same error the search ends."""
SHOWN = 4
"""How many failed candidates a message lists."""
NO_INPUT = re.compile(r"^('(tuple|list|dict|function|type)' object|module '.*') has no")
"""Attribute errors on what is never given: all that is tried are tensors and numbers."""


def infer_inputs(subject: Subject, seed: int) -> Inputs:
    """Find inputs that a loss runs on.

    Args:
        subject: the loss.
        seed: seeds the tensors.

    Returns:
        The inputs; their ``assumptions`` say what was inferred and how to give better ones.

    Raises:
        UsageError: the loss runs on none of the candidates; the message lists what was tried.

    Example:
        >>> from lossproof.checks.subject import subject_of
        >>> import torch
        >>> subject = subject_of(torch.nn.functional.cross_entropy)
        >>> [str(argument) for argument in infer_inputs(subject, 0).arguments]
        ['input: float32[8, 5], requires grad', 'target: int64[8]']
    """
    search = _Search(subject, seed)
    failed: list[_Tried] = []
    for optional in (False, True):
        slots = _slots(subject, optional)
        if not slots or (optional and len(slots) == len(_slots(subject, False))):
            continue
        best = search.best(slots)
        if best is not None:
            return _said(subject, best)
        failed = failed or search.failed
    raise UsageError(_nothing_fits(subject, failed))


@dataclass(frozen=True)
class _Tried:
    candidate: Candidate
    trial: Trial


class _Search:
    """Tries candidates until none that is left could be better than the best so far."""

    def __init__(self, subject: Subject, seed: int) -> None:
        self.subject = subject
        self.seed = seed
        self.failed: list[_Tried] = []
        self.end = time.perf_counter() + SECONDS

    def best(self, slots: Sequence[Slot]) -> _Tried | None:
        words = words_of(self.subject)
        trials = Trials(self.subject, slots, self.seed)
        best: _Tried | None = None
        lowest, enough = float("inf"), MOST_TRIALS
        self.failed = []
        for count, candidate in enumerate(candidates(slots, words)):
            if candidate.cost >= lowest or count >= (MOST_TRIALS if best is None else enough):
                break
            tried = _Tried(candidate, trials.run(candidate.items))
            if tried.trial.error is not None:
                self.failed.append(tried)
                if best is None and _always_the_same(self.failed):
                    break
            elif candidate.cost + tried.trial.penalty < lowest:
                lowest = candidate.cost + tried.trial.penalty
                enough = count + TRIALS_AFTER_ONE_THAT_RUNS if best is None else enough
                best = tried
            if time.perf_counter() > self.end:
                break
        if best is not None and best.trial.penalty >= NO_GRADIENT:
            best = self._with_other_leaves(best, slots, trials)
        return best or self._crash_of_its_own()

    def _with_other_leaves(self, best: _Tried, slots: Sequence[Slot], trials: Trials) -> _Tried:
        """Want the gradient for a weight where there is none for what is only called `x`."""
        meant = trials.wanted
        named = any(wants and len(slot.name) > 1 for slot, wants in zip(slots, meant, strict=True))
        for position, slot in enumerate(slots):
            if not named and slot.meaning in ("weight", "unknown"):
                trials.wanted = [i == position for i in range(len(slots))]
                trial = trials.run(best.candidate.items)
                if trial.error is None and trial.penalty < ZERO_GRADIENT:
                    return _Tried(best.candidate, trial)
        return best

    def _crash_of_its_own(self) -> _Tried | None:
        """The likeliest candidate on which the loss fails through no fault of the inputs."""
        misused = self.subject.kind == "autograd.Function" and self.subject.signature is None
        if misused and self.failed:
            return self.failed[0]
        return next((tried for tried in self.failed if _own_fault(tried.trial.error)), None)


def _always_the_same(failed: Sequence[_Tried]) -> bool:
    """Whether the loss fails whatever it is given, as where an argument has been left out."""
    errors = {f"{type(tried.trial.error)} {tried.trial.error}" for tried in failed}
    return len(failed) >= HOPELESS and len(errors) == 1


def _own_fault(error: Exception | None) -> bool:
    """Whether no other inputs would mend this error."""
    if isinstance(error, (NameError, ImportError)):
        return True
    return isinstance(error, AttributeError) and NO_INPUT.match(str(error)) is not None


def _slots(subject: Subject, optional: bool) -> tuple[Slot, ...]:
    """The arguments to fill: those without a default, or with those that default to ``None``."""
    parameters = _parameters(subject)
    if parameters is None:
        return slots_of(("input", "target"), [inspect.Parameter.empty] * 2, {})
    needed = [p for p in parameters if p.default is inspect.Parameter.empty]
    if optional:
        last = max(
            (i for i, p in enumerate(parameters) if p.default is None and _may_be_tensor(p)),
            default=-1,
        )
        first = next(
            (
                i
                for i in range(len(needed), len(parameters))
                if parameters[i].default is None and _may_be_tensor(parameters[i])
            ),
            -1,
        )
        needed = parameters[: min(first, last) + 1] if first >= 0 else needed
    names = [parameter.name for parameter in needed]
    annotations = [parameter.annotation for parameter in needed]
    return slots_of(names, annotations, describe(subject, names))


def _may_be_tensor(parameter: inspect.Parameter) -> bool:
    kind = str(parameter.annotation)
    return "Tensor" in kind or parameter.annotation is inspect.Parameter.empty


def _parameters(subject: Subject) -> list[inspect.Parameter] | None:
    """The positional parameters; ``None`` where the signature leaves them open."""
    if subject.signature is None:
        return None
    parameters = list(subject.signature.parameters.values())
    named = [p for p in parameters if p.name in subject.parameter_names]
    open_ended = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return None if open_ended and not named else named


def _said(subject: Subject, found: _Tried) -> Inputs:
    inputs = found.trial.inputs
    shown = ", ".join(
        f"`{argument.name}: {_readable(item)}`"
        for argument, item in zip(inputs.arguments, found.candidate.items, strict=True)
    )
    specification = ", ".join(found.candidate.items)
    own = snake(subject.name)
    beside = f" or a function `{own}_inputs()` beside the loss" if own.isidentifier() else ""
    said = (
        f"no inputs were given; from names, documentation and trial these were inferred: {shown}; "
        f'give better ones with `--inputs "{specification}"`{beside}'
    )
    return Inputs(inputs.arguments, (*subject.assumptions, said), found.candidate.items)


def _readable(item: str) -> str:
    return item.replace(",", ", ")


def snake(name: str) -> str:
    """``FocalLoss`` as people write it in the name of a function.

    Example:
        >>> snake("module.FocalLoss")
        'focal_loss'
    """
    last = name.rpartition(".")[2]
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", last).lower()


def _nothing_fits(subject: Subject, failed: Sequence[_Tried]) -> str:
    takes = ", ".join(subject.parameter_names) or "its inputs"
    lines = []
    seen: set[str] = set()
    for tried in failed:
        error = tried.trial.error
        text = f"{type(error).__name__}: {error}".splitlines()[0][:100]
        if text not in seen:
            seen.add(text)
            lines.append(f"  {', '.join(tried.candidate.items)}: {text}")
        if len(lines) == SHOWN:
            break
    example = ", ".join(failed[0].candidate.items) if failed else "float[8,10], int[8]<10"
    own = snake(subject.name)
    beside = f", or write a function `{own}_inputs()` beside it" if own.isidentifier() else ""
    tries = "\n".join(("", f"{len(failed)} kinds of inputs were tried:", *lines)) if lines else ""
    return (
        f"no inputs were given for `{subject.name}`, which takes ({takes}), and none could be "
        f'inferred; give tensors, or specifications such as `--inputs "{example}"`{beside}{tries}'
    )
