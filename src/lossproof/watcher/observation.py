"""What a guard sees of a training, step by step.

What is done in every step is kept short: it costs some tens of microseconds, and a small step
takes a few hundred. Raw tuples are gathered, and made into what others read only when something
goes wrong.
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
from lossproof.checks.trace import tensors_in
from lossproof.watcher.alarm import Alarm, AlarmKind, Diagnosis, StepFigures
from lossproof.watcher.budget import Budget
from lossproof.watcher.gradient_norms import local_gradients, norms_now, total
from lossproof.watcher.isolation import is_alone, replaying
from lossproof.watcher.judge import Judge, Suspicion
from lossproof.watcher.lagging import Lagging, Late
from lossproof.watcher.optimizers import Trained, Training
from lossproof.watcher.reading import runs_ahead
from lossproof.watcher.record import Call, Held, autocast_now, versions_of
from lossproof.watcher.snapshot import bytes_of
from lossproof.watcher.terms import are_terms, terms_of, value_of

if TYPE_CHECKING:
    from lossproof.terms.balance.step import BalanceStep

Tensor = torch.Tensor
Generators = dict[torch.device, Tensor]

EXAMINED_IN = 2
"""The step in which hand-written backwards are examined: the first may still build things."""
SHOWN = 8
"""How many steps an alarm tells of."""
USUAL = 2
"""How many calls a step usually has: they hold what the training itself holds."""
SIZED_EVERY = 64
"""How many steps go by until somebody asks again how much one holds."""
MOST = 256
"""How many calls of one step are held, however small they are."""
UNUSED = 32
"""How many calls of the model are held that no loss has followed: each holds what it computed, as
nobody does who plays or evaluates with a model in training mode."""
CPU = torch.device("cpu")
NON_FINITE = (AlarmKind.NON_FINITE_LOSS, AlarmKind.NON_FINITE_GRADIENT)
MOVED_ON = "the parameters have been updated since, and the replay uses them as they are now"
GOES_ON: Generators = {}
"""The generators of a call that draws where the one before it ended."""


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
        self._ring: deque[tuple[Any, ...]] = deque(maxlen=ring)
        self._model = model
        self._memory = memory
        self._budget = budget
        self._judge = Judge(ring)
        self._training = Training(model, loss)
        self._late = Lagging(self._training, memory)
        self._held = Held(1)
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
        self._sized = self._small = False
        self._stepped: set[int] = set()

    @property
    def is_training(self) -> bool:
        """Whether this is no evaluation. Some train in evaluation mode; their steps show it."""
        return self._model.training or self._steps_in_evaluation

    @property
    def step(self) -> int:
        """The number of the step in progress."""
        return self._held.step

    # What the guard sees in every step.

    def before_model(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """The model is about to be called."""
        if self.is_training and torch.is_grad_enabled():
            self._state = self.generators()

    def after_model(self, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        """The model was called."""
        state, self._state = self._state, None
        if state is not None:
            self._gather("model", "model", module, args, kwargs, state, result)

    def after_loss(self, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        """The loss was called, a Module of its own."""
        if self.is_training and torch.is_grad_enabled():
            self.returned("loss", module, args, kwargs, GOES_ON, result)

    def returned(
        self, name: str, function: Callable[..., Any], args: tuple[Any, ...],
        kwargs: dict[str, Any], state: Generators, result: Any,
    ) -> None:  # fmt: skip
        """Something returned terms that are to be minimised."""
        self._gather("terms", name, function, args, kwargs, state, result)
        if _is_a_term(result):
            self._held.terms[name] = result
            self._value(name, result)
        else:
            self._several(result if are_terms(result) else dict(terms_of(result, name)))
        if self._held.step >= EXAMINED_IN and id(function) not in self._examined:
            self._examined.add(id(function))
            self._examine(Call(*self._held.calls[-1]))

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
        if self._stepping in (None, optimizer) and self._training.of(optimizer) is not None:
            self._stepping = None
            self._next()

    def update(self) -> None:
        """Parameters are about to be updated by something that is no optimizer of torch."""
        self._before_update(self._training.all(), None)
        self._next()

    # What it may be told besides.

    def generators(self) -> Generators:
        """The states of the random number generators that a step may draw from."""
        found = {CPU: torch.get_rng_state()}
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            device = torch.device("cuda", torch.cuda.current_device())
            found[device] = torch.cuda.get_rng_state(device)
        return found

    def generators_of_terms(self) -> Generators:
        """Those states before terms are computed, which go on where the model ended."""
        calls = self._held.calls
        return GOES_ON if calls and calls[-1][0] == "model" else self.generators()

    def noted(self, terms: Any, name: str) -> None:
        """Values were given; nobody knows what they were made by."""
        for key, term in terms_of(terms, name):
            self._held.terms[key] = term
            self._value(key, term)

    def balanced(self, step: BalanceStep) -> None:
        """A balancer weighed the terms, and may know the gradient of each."""
        from lossproof.terms.report import magnitudes

        for name, value in zip(step.names, step.values, strict=True):
            if name not in self._held.terms:
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
        self._held, self._state = Held(self._held.step), None
        self._late.release()
        self._training.release()

    # Calls and terms.

    def _gather(
        self, role: str, name: str, function: Callable[..., Any], args: Any, kwargs: Any,
        state: Generators, result: Any,
    ) -> None:  # fmt: skip
        self._stepping = None  # an optimizer whose step raised has not said that it ended
        versions = versions_of(args, kwargs)
        autocast = autocast_now() if torch._C._is_any_autocast_enabled() else {}
        calls = self._held.calls
        calls.append((role, name, function, args, kwargs, versions, state, result, autocast))
        if len(calls) > USUAL:
            self._let_go(calls)

    def _let_go(self, calls: list[tuple[Any, ...]]) -> None:
        """Drop the oldest calls, as under gradient accumulation, if they hold too much."""
        sizes = [_bytes(call) for call in calls]
        while (sum(sizes) > self._memory and len(calls) > USUAL) or len(calls) > MOST:
            del calls[0], sizes[0]
            words = f"{self._memory / 2**20:.0f} MiB, or {MOST} calls of one step"
            self._held.dropped = f"no more than {words}, are held"
        if len(calls) > UNUSED and all(call[0] == "model" for call in calls[-UNUSED - 1 :]):
            del calls[-UNUSED - 1]
            self._held.dropped = f"no more than {UNUSED} calls of the model before a loss are held"

    def _value(self, name: str, term: Tensor) -> None:
        if runs_ahead(term):
            self._late.values[name] = term.detach()
            return
        value = self._values[name] = value_of(term)
        suspicion = self._judge.value(self._held.step, name, value)
        if suspicion is not None:
            self._suspect(suspicion)

    def _several(self, terms: dict[str, Tensor]) -> None:
        """Several terms, or one that carries no gradient."""
        self._held.terms |= terms
        carrying = {name: term for name, term in terms.items() if term.requires_grad}
        if len(carrying) > 1:
            self._look_at_terms(carrying)
        for name, term in terms.items():
            self._value(name, term)
            if name not in carrying and (not carrying or name in self._carrying):
                more = " any more" if name in self._carrying else ""
                words = f"no gradient comes from `{name}`{more}"
                self._suspect(self._judge.dead_term(self._held.step, name, words))
        self._carrying |= carrying.keys()

    def _look_at_terms(self, terms: Mapping[str, Tensor]) -> None:
        """Now and then take the gradient of each of several terms, which costs a pass or more."""
        if self._held.step < EXAMINED_IN or self._no_term_norms or not self._due("terms"):
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
        self._budget.looked("terms", self._held.step, time.perf_counter() - begun)

    def _norms_of_terms(self, norms: Mapping[str, Tensor]) -> None:
        for name, norm in norms.items():
            if runs_ahead(norm):
                self._late.norms[name] = norm.detach()
            else:
                self._norms[name] = float(norm)

    def _due(self, kind: str) -> bool:
        return self._budget.due(kind, self._held.step)

    # Gradients.

    def _before_update(self, trained: Trained, optimizer: torch.optim.Optimizer | None) -> None:
        self._go_on(trained.key)
        if trained.ahead:
            self._step_later(trained, optimizer)
        elif self._look_at_norms():
            self._step_now(trained, optimizer)
        else:
            self._enter(self._held, self._values, None, self._norms)

    def _go_on(self, key: int) -> None:
        """Another optimizer's step, with nothing computed since, belongs to the same step."""
        if self._held.calls or self._held.terms or key in self._stepped:
            self._stepped = set()
        elif self._stepped:
            self._held.step -= 1
            self._held.continued = True
        self._stepped.add(key)

    def _look_at_norms(self) -> bool:
        """Whether it is time for that; all optimizers of one step are looked at, or none."""
        if self._held.continued:
            return self._looked_at == self._held.step
        if self._due("norms"):
            self._looked_at = self._held.step
        return self._looked_at == self._held.step

    def _enter(
        self, held: Held, values: dict[str, float], norm: float | None, norms: dict[str, float]
    ) -> dict[str, float]:
        """Add figures to the ring, to those of the same step's other optimizers if there are.

        Returns:
            The values of all terms of the step.
        """
        if self._ring and self._ring[-1][0] == held.step:
            _, known, other, more = self._ring.pop()
            if held.continued:
                values, norms = {**known, **values}, {**more, **norms}
                parts = [one for one in (norm, other) if one is not None]
                norm = math.hypot(*parts) if parts else None
        self._ring.append((held.step, values, norm, norms))
        return values

    def _next(self) -> None:
        self._held = Held(self._held.step + 1, self._still_needed())
        self._values, self._norms = {}, {}
        self._budget.stepped()

    def _still_needed(self) -> Held | None:
        """The step that ends, if a gradient that nobody looked at may show in the next one."""
        held = self._held
        held.before = None
        if self._looked_at == held.step:
            return None
        if held.step % SIZED_EVERY == 0 or not self._sized:
            self._sized = True
            self._small = sum(map(_bytes, held.calls)) <= self._memory
        return held if self._small else None

    def _step_now(self, trained: Trained, optimizer: torch.optim.Optimizer | None) -> None:
        begun = time.perf_counter()
        norms = None
        if not trained.left_out(optimizer):
            gradients = local_gradients(trained.parameters)
            norms = norms_now(trained.names, gradients, trained.scale(optimizer))
        values = self._enter(self._held, self._values, total(norms), self._norms)
        if norms is not None:
            self._judge_gradients(self._held.step, trained, norms, values)
        self._budget.looked("norms", self._held.step, time.perf_counter() - begun)

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
        self._late.send(self._held, self._values, self._norms, trained, gradients, optimizer)
        self._settle(self._late.arrived())
        if look:
            self._budget.looked("norms", self._held.step, time.perf_counter() - begun)

    def _settle(self, steps: Sequence[Late]) -> None:
        """Judge steps whose numbers have arrived, as if they were still going on."""
        for late in steps:
            now, self._held = self._held, late.held
            self._moved_on = True
            try:
                self._judge_late(late)
            finally:
                self._held, self._moved_on = now, False

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
            record = self._held.record()
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
            self._wrong[call.name] = self._held.step
            self._raise(
                Suspicion(AlarmKind.WRONG_BACKWARD, findings[0].message, term=call.name),
                Diagnosis("loss", "backward", location=findings[0].location, findings=findings),
            )
        self._budget.paused(time.perf_counter() - begun)

    def _raise(self, suspicion: Suspicion, diagnosis: Diagnosis | None) -> None:
        shown = list(self._ring)[-SHOWN:]
        if not shown or shown[-1][0] != self._held.step:
            shown.append((self._held.step, dict(self._values), None, {}))
        self.raised.append(
            Alarm(
                self._held.step, suspicion.kind, suspicion.message, suspicion.term,
                suspicion.parameters, diagnosis,
                tuple([StepFigures(*one) for one in shown[-SHOWN:]]), suspicion.help,
            )
        )  # fmt: skip


def _bytes(call: tuple[Any, ...]) -> int:
    """How much memory the tensors of a raw call take."""
    return bytes_of(list(tensors_in(call)))


def _is_a_term(result: Any) -> bool:
    """Whether a result is a single term that can be minimised: the usual case."""
    if not isinstance(result, Tensor) or not result.requires_grad:
        return False
    return result.is_floating_point() and result.numel() > 0
