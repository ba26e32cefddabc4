"""What a guard sees of a training, step by step.

What is done in every step is kept short, and in few functions: between the steps of a network the
processor has forgotten all of it, and each piece that it fetches again costs more than to run it.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lossproof.checks.report import Finding
from lossproof.watcher.alarm import Alarm, AlarmKind, Diagnosis, StepFigures
from lossproof.watcher.budget import Budget
from lossproof.watcher.gradient_norms import local_gradients, norms_now, total
from lossproof.watcher.isolation import is_alone, replaying
from lossproof.watcher.judge import Judge, Suspicion
from lossproof.watcher.lagging import Lagging, Late
from lossproof.watcher.optimizers import Trained, Training
from lossproof.watcher.reading import runs_ahead
from lossproof.watcher.record import Call, Held
from lossproof.watcher.series import Series
from lossproof.watcher.tape import GOES_ON, Generators, Tape, generators
from lossproof.watcher.terms import terms_of, value_of

if TYPE_CHECKING:
    from lossproof.terms.balance.step import BalanceStep

Tensor = torch.Tensor

EXAMINED_IN = 2
"""The step in which hand-written backwards are examined: the first may still build things."""
SHOWN = 8
"""How many steps an alarm tells of."""
NON_FINITE = (AlarmKind.NON_FINITE_LOSS, AlarmKind.NON_FINITE_GRADIENT)
MOVED_ON = "the parameters have been updated since, and the replay uses them as they are now"


class Observation:
    """Gathers the figures of each step, has them judged, and has a bad step replayed.

    Args:
        model: what is trained.
        loss: the loss, if it is a Module of its own.
        ring: how many steps are kept.
        memory: how many bytes may be held of a step.
        budget: says how often gradients are looked at.
    """

    def __init__(
        self, model: nn.Module, loss: nn.Module | None, ring: int, memory: int, budget: Budget
    ) -> None:
        self.raised: list[Alarm] = []
        self.tape = Tape(memory)
        self._ring: deque[tuple[Any, ...]] = deque(maxlen=ring)
        self._model = model
        self._budget = budget
        self._judge = Judge(ring)
        self._known: dict[str, Series] = {}
        """The values of the terms that carried a gradient, if their numbers are at hand."""
        self._training = Training(model, loss)
        self._late = Lagging(self._training, memory)
        self._moved_on = False
        self._values: dict[str, float] = {}
        self._norms: dict[str, float] = {}
        self._state: Generators | None = None
        self._carrying: set[str] = set()
        self._examined: set[int] = set()
        self._wrong: dict[str | None, int] = {}
        self._no_term_norms: str | None = None
        self._steps_in_evaluation = False
        self._looked_at = 0
        self._stepping: object = None
        self._stepped: set[int] = set()

    @property
    def is_training(self) -> bool:
        """Whether this is no evaluation. Some train in evaluation mode; their steps show it."""
        return self._model.training or self._steps_in_evaluation

    @property
    def step(self) -> int:
        """The number of the step in progress."""
        return self.tape.held.step

    # What the guard sees in every step.

    def before_model(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """The model is about to be called."""
        if (module.training or self._steps_in_evaluation) and torch.is_grad_enabled():
            self._state = generators()

    def after_model(self, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        """The model was called."""
        state = self._state
        if state is not None:
            self._state = self._stepping = None
            self.tape.gather("model", "model", module, args, kwargs, state, result)

    def after_loss(self, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        """The loss was called, a Module of its own."""
        if (self._model.training or self._steps_in_evaluation) and torch.is_grad_enabled():
            self.returned("loss", module, args, kwargs, GOES_ON, result)

    def returned(
        self, name: str, function: Callable[..., Any], args: tuple[Any, ...],
        kwargs: dict[str, Any], state: Generators, result: Any,
    ) -> None:  # fmt: skip
        """Something returned terms that are to be minimised."""
        self._stepping = None  # an optimizer whose step raised has not said that it ended
        tape = self.tape
        tape.gather("terms", name, function, args, kwargs, state, result)
        held = tape.held
        terms = self._usual(result, name)
        if terms is None:
            self._several(dict(terms_of(result, name)))
        else:
            held.terms |= terms
            if len(terms) > 1 and held.step >= self._budget.next["terms"]:
                self._look_at_terms(terms)
            for key, term in terms.items():
                value = self._values[key] = term.item()
                if not self._known[key].takes(value):
                    self._suspect(self._judge.value(held.step, key, value))
        if id(function) not in self._examined and held.step >= EXAMINED_IN:
            self._examined.add(id(function))
            self._examine(Call(*held.calls[-1]))

    def before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """An optimizer is about to update the parameters."""
        trained = self._training.of(optimizer)
        if trained is None or self._stepping not in (None, optimizer):
            return  # of another model, or within an optimizer that wraps it
        self._stepping = optimizer
        self._steps_in_evaluation = not self._model.training
        self._before_update(trained, optimizer)

    def after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """An optimizer has updated the parameters: the next step begins."""
        if self._stepping is optimizer or (
            self._stepping is None and self._training.of(optimizer) is not None
        ):
            self._stepping = None
            self._next()

    def update(self) -> None:
        """Parameters are about to be updated by something that is no optimizer of torch."""
        self._before_update(self._training.all(), None)
        self._next()

    # What it may be told besides.

    def noted(self, terms: Any, name: str) -> None:
        """Values were given; nobody knows what they were made by."""
        for key, term in terms_of(terms, name):
            self.tape.held.terms[key] = term
            self._value(key, term)

    def balanced(self, step: BalanceStep) -> None:
        """A balancer weighed the terms, and may know the gradient of each."""
        from lossproof.terms.report import magnitudes

        for name, value in zip(step.names, step.values, strict=True):
            if name not in self.tape.held.terms:
                self._value(name, value)
        if step.gradients is not None:
            known, norms = magnitudes(step.gradients)
            if known == "norm" and norms is not None:
                self._norms_of_terms(dict(zip(step.gradients.names, norms, strict=True)))

    def figures(self) -> tuple[StepFigures, ...]:
        """The figures of the last steps, the newest last."""
        return tuple([StepFigures(*entry) for entry in self._ring])

    def finish(self) -> None:
        """Read what is still under way."""
        self._settle(self._late.rest())

    def release(self) -> None:
        """Let go of everything that was held of a step."""
        self.tape.release()
        self._state = None
        self._late.release()
        self._training.release()

    # Terms.

    def _usual(self, result: Any, name: str) -> dict[str, Tensor] | None:
        """The terms if they are what they usually are: known numbers with a gradient, at hand."""
        terms = result if type(result) is dict else {name: result}
        for key, term in terms.items():
            if key not in self._known or type(term) is not Tensor or not term.is_cpu:
                return None
            if term.dim() or not term.requires_grad or not term.is_floating_point():
                return None
        return terms

    def _value(self, name: str, term: Tensor) -> None:
        if runs_ahead(term):
            self._late.values[name] = term.detach()
            return
        value = self._values[name] = value_of(term)
        self._suspect(self._judge.value(self.tape.held.step, name, value))
        if term.requires_grad:
            self._known[name] = self._judge.values[name]

    def _several(self, terms: dict[str, Tensor]) -> None:
        """Terms of any kind."""
        self.tape.held.terms |= terms
        carrying = {name: term for name, term in terms.items() if term.requires_grad}
        if len(carrying) > 1 and self.tape.held.step >= self._budget.next["terms"]:
            self._look_at_terms(carrying)
        for name, term in terms.items():
            self._value(name, term)
            if name not in carrying and (not carrying or name in self._carrying):
                more = " any more" if name in self._carrying else ""
                words = f"no gradient comes from `{name}`{more}"
                self._suspect(self._judge.dead_term(self.tape.held.step, name, words))
        self._carrying |= carrying.keys()

    def _look_at_terms(self, terms: Mapping[str, Tensor]) -> None:
        """Now and then take the gradient of each of several terms, which costs a pass or more."""
        if self.tape.held.step < EXAMINED_IN or self._no_term_norms:
            return
        if not is_alone():
            self._no_term_norms = "the gradients of single terms would need the other ranks"
            return
        if self._training.has_backward_hooks():
            self._no_term_norms = "hooks on the backward pass would be called more often"
            return
        from lossproof.terms.gradients import term_gradients

        begun = time.perf_counter()
        try:
            self._norms_of_terms(
                term_gradients(terms, self._training.parameters(), want="norm").norm
            )
        except (RuntimeError, ValueError, TypeError) as reason:
            self._no_term_norms = str(reason)
        self._budget.looked("terms", self.tape.held.step, time.perf_counter() - begun)

    def _norms_of_terms(self, norms: Mapping[str, Tensor]) -> None:
        self._norms = dict(self._norms)  # the ring holds the one before
        for name, norm in norms.items():
            if runs_ahead(norm):
                self._late.norms[name] = norm.detach()
            else:
                self._norms[name] = float(norm)

    # Gradients.

    def _before_update(self, trained: Trained, optimizer: torch.optim.Optimizer | None) -> None:
        self._go_on(trained.key)
        if trained.ahead:
            self._step_later(trained, optimizer)
        elif self._look_at_norms():
            self._step_now(trained, optimizer)
        else:
            self._enter(self.tape.held, self._values, None, self._norms)

    def _go_on(self, key: int) -> None:
        """Another optimizer's step, with nothing computed since, belongs to the same step."""
        held = self.tape.held
        if held.calls or held.terms or key in self._stepped:
            self._stepped = {key}
            return
        if self._stepped:
            held.step -= 1
            held.continued = True
        self._stepped.add(key)

    def _look_at_norms(self) -> bool:
        """Whether it is time for that; all optimizers of one step are looked at, or none."""
        held = self.tape.held
        if held.step >= self._budget.next["norms"] and not held.continued:
            self._looked_at = held.step
        return self._looked_at == held.step

    def _enter(
        self, held: Held, values: dict[str, float], norm: float | None, norms: dict[str, float]
    ) -> dict[str, float]:
        """Add figures to the ring, to those of the same step's other optimizers if there are.

        Returns:
            The values of all terms of the step.
        """
        ring = self._ring
        if ring and ring[-1][0] == held.step:
            _, known, other, more = ring.pop()
            if held.continued:
                values, norms = {**known, **values}, {**more, **norms}
                parts = [one for one in (norm, other) if one is not None]
                norm = math.hypot(*parts) if parts else None
        ring.append((held.step, values, norm, norms))
        return values

    def _next(self) -> None:
        tape = self.tape
        tape.next(keep=self._looked_at != tape.held.step)
        self._values = {}
        if self._norms:
            self._norms = {}
        self._budget.stepped()

    def _step_now(self, trained: Trained, optimizer: torch.optim.Optimizer | None) -> None:
        begun = time.perf_counter()
        norms = None
        if not trained.left_out(optimizer):
            gradients = local_gradients(trained.parameters)
            norms = norms_now(trained.names, gradients, trained.scale(optimizer))
        values = self._enter(self.tape.held, self._values, total(norms), self._norms)
        if norms is not None:
            self._judge_gradients(self.tape.held.step, trained, norms, values)
        self._budget.looked("norms", self.tape.held.step, time.perf_counter() - begun)

    def _judge_gradients(
        self, step: int, trained: Trained, norms: Mapping[str, float], values: Mapping[str, float]
    ) -> None:
        self._suspect(self._judge.norm(step, trained.key, norms))
        loss = max(map(abs, values.values()), default=float("nan"))
        for suspicion in self._judge.reach(step, trained.key, trained.wanted(), norms, loss):
            self._suspect(suspicion)

    def _step_later(self, trained: Trained, optimizer: torch.optim.Optimizer | None) -> None:
        begun = time.perf_counter()
        look = self._look_at_norms()
        gradients = local_gradients(trained.parameters) if look else []
        self._late.send(self.tape.held, self._values, self._norms, trained, gradients, optimizer)
        self._settle(self._late.arrived())
        if look:
            self._budget.looked("norms", self.tape.held.step, time.perf_counter() - begun)

    def _settle(self, steps: Sequence[Late]) -> None:
        """Judge steps whose numbers have arrived, as if they were still going on."""
        for late in steps:
            now, self.tape.held = self.tape.held, late.held
            self._moved_on = True
            try:
                self._judge_late(late)
            finally:
                self.tape.held, self._moved_on = now, False

    def _judge_late(self, late: Late) -> None:
        step = late.held.step
        for name in late.sent:
            self._suspect(self._judge.value(step, name, late.values[name]))
        values = self._enter(late.held, late.values, total(late.gradients), late.norms)
        if late.gradients is not None:
            self._judge_gradients(step, late.trained, late.gradients, values)

    # A step that went wrong.

    def _suspect(self, suspicion: Suspicion | None) -> None:
        if suspicion is None:
            return
        from lossproof.watcher.diagnosis import diagnose

        begun = time.perf_counter()
        restored = self._moved_on and suspicion.kind in NON_FINITE and self._late.has_copy
        with replaying(), self._late.as_it_was() if restored else nullcontext():
            record = self.tape.held.record()
            found = diagnose(suspicion.kind, record, self._model, term=suspicion.term)
        if suspicion.term in self._wrong:
            step = self._wrong[suspicion.term]
            found = replace(found, help=f"mend its backward first: see the alarm of step {step}")
        if self._moved_on and not restored:
            caveats = [MOVED_ON, *([found.caveat] if found.caveat else [])]
            found = replace(found, caveat="; ".join(caveats))
        self._raise(suspicion, found)
        self._budget.paused(time.perf_counter() - begun)

    def _examine(self, call: Call) -> None:
        """Whether what somebody wrote by hand in a loss's backward is right."""
        from lossproof.watcher.diagnosis import examine_backward, has_handwritten_backward

        begun = time.perf_counter()
        findings: tuple[Finding, ...] = ()
        if has_handwritten_backward(call.result):
            with replaying():
                findings = examine_backward(call)
        if findings:
            self._wrong[call.name] = self.tape.held.step
            self._raise(
                Suspicion(AlarmKind.WRONG_BACKWARD, findings[0].message, term=call.name),
                Diagnosis("loss", "backward", location=findings[0].location, findings=findings),
            )
        self._budget.paused(time.perf_counter() - begun)

    def _raise(self, suspicion: Suspicion, diagnosis: Diagnosis | None) -> None:
        shown = list(self._ring)[-SHOWN:]
        if not shown or shown[-1][0] != self.tape.held.step:
            shown.append((self.tape.held.step, dict(self._values), None, {}))
        self.raised.append(
            Alarm(
                self.tape.held.step, suspicion.kind, suspicion.message, suspicion.term,
                suspicion.parameters, diagnosis,
                tuple([StepFigures(*one) for one in shown[-SHOWN:]]), suspicion.help,
            )
        )  # fmt: skip
