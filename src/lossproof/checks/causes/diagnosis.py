"""Which cause to name: the hypotheses in the order of how much they mean to a reader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from lossproof.checks.arbitration import FunctionVerdict, judge_function
from lossproof.checks.causes.arrangement import broadcast_sum, swapped, transposed
from lossproof.checks.causes.cause import Cause, Kind
from lossproof.checks.causes.factors import constant_factor, mean_repeated
from lossproof.checks.causes.paths import Paths, two_wrong_paths, wrong_path
from lossproof.checks.causes.regions import wrong_region
from lossproof.checks.causes.repair import Effort, Repair, find_repairs
from lossproof.checks.causes.source import FunctionSource, backward_of, source_of
from lossproof.checks.causes.study import Study
from lossproof.checks.causes.upstream import reduced, take_out, usage
from lossproof.checks.causes.values import chain_rule, factor_or_term, quantities
from lossproof.checks.examination import Examination, primary
from lossproof.checks.report import Location
from lossproof.checks.trace import FunctionCall
from lossproof.checks.witness import double_precision

Tensor = torch.Tensor

CALLS = 4
"""So many different calls of one Function are judged."""
PATH_KINDS = (Kind.MISSING_PATH, Kind.PATH_SIGN, Kind.PATH_WEIGHT)


@dataclass(eq=False)
class Fault:
    """One fault of a backward: the rule it belongs to, its cause, the arguments it concerns."""

    rule: str
    cause: Cause | None
    arguments: tuple[int, ...]
    """Which of the arguments that want a gradient."""
    repair: Repair | None = None


@dataclass(eq=False)
class Diagnosis:
    """What was found out about one hand-written backward."""

    call: FunctionCall
    verdict: FunctionVerdict
    source: FunctionSource | None
    faults: list[Fault] = field(default_factory=list)
    linear: bool | None = None
    """Whether its gradient grows with ``grad_output`` as it must; ``None``: could not be tried."""

    @property
    def name(self) -> str:
        """The Function's name."""
        return self.call.cls.__name__

    def definition(self, case: Examination) -> Location | None:
        """Where its backward is defined, else where it is called."""
        if self.source is not None:
            return self.source.definition
        return self.call.site.location or case.subject.location


def examine_functions(case: Examination) -> list[Diagnosis]:
    """Judge every hand-written backward that the loss goes through, and explain the wrong ones."""
    known = case.notes.get("functions")
    if known is None:
        known = case.notes["functions"] = [
            _diagnosed(probe, call, used) for probe, call, used in _calls(case)
        ]
    assert isinstance(known, list)
    return known


def probe_of(case: Examination) -> Examination:
    """The same check at fewer rows, where the inputs are large: wrong is wrong at any size."""
    probe = case.notes.get("probe")
    if probe is None:
        probe = case
        if case.small is not case.inputs:
            probe = Examination(case.subject, case.small, case.seed)
        case.notes["probe"] = probe
    assert isinstance(probe, Examination)
    return probe


def _calls(case: Examination) -> Iterator[tuple[Examination, FunctionCall, tuple[int, ...]]]:
    """Each different call of a user's Function that the loss is made from, and its outputs used."""
    probe = probe_of(case)
    seen: dict[object, int] = {}
    reached = _reached(primary(probe.twin.output))
    for call in probe.calls:
        if call.inside is not None or not any(call.needs):
            continue
        signature = (call.cls, tuple(_kind_of(value) for value in call.args), call.needs)
        if signature in seen or seen.get(call.cls, 0) >= CALLS:
            continue
        seen[signature] = 1
        seen[call.cls] = seen.get(call.cls, 0) + 1
        outputs = call.output if isinstance(call.output, (tuple, list)) else (call.output,)
        used = tuple(
            i
            for i, out in enumerate(outputs)
            if isinstance(out, Tensor) and (out.grad_fn, out.output_nr) in reached
        )
        if used or not reached:
            yield probe, call, used


def _kind_of(value: object) -> object:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    return repr(value)


def _reached(value: Tensor | None) -> set[tuple[object, int]]:
    """Every output of a node that the loss is made from."""
    if value is None or value.grad_fn is None:
        return set()
    found: set[tuple[object, int]] = {(value.grad_fn, value.output_nr)}
    waiting, seen = [value.grad_fn], {value.grad_fn}
    while waiting:
        for node, output in waiting.pop().next_functions:
            if node is not None:
                found.add((node, output))
                if node not in seen:
                    seen.add(node)
                    waiting.append(node)
    return found


def _diagnosed(case: Examination, call: FunctionCall, used: tuple[int, ...]) -> Diagnosis:
    verdict = judge_function(case, call, used)
    found = Diagnosis(call, verdict, source_of(backward_of(call.cls)))
    if verdict.status in ("unused", "raises"):
        return found
    with double_precision(case):
        kinds = _usage(verdict)
        if kinds is not None:
            found.linear = not any(kinds)
        if verdict.status == "wrong" and verdict.scene is not None:
            found.faults = _explained(verdict, found.source, kinds)
        elif kinds is not None and any(kinds) and verdict.status != "surrogate":
            # Right for one `grad_output`, or undecided, but no linear function of it.
            found.faults = [
                Fault("LP203", _upstream_cause(verdict, kind, None, ks), ks)
                for kind, ks in _grouped(kinds)
            ]
    return found


def _usage(verdict: FunctionVerdict) -> list[Kind | None] | None:
    function = verdict.function
    try:
        outputs = function.differentiable_outputs()
        values, _ = function.run()
        upstream = (
            verdict.scene.upstream
            if verdict.scene is not None
            else {i: torch.rand_like(values[i]) + 0.5 for i in outputs}
        )
        return usage(function, function.args, upstream)
    except Exception:  # the user's code may refuse another `grad_output`
        return None


def _grouped(kinds: Sequence[Kind | None]) -> list[tuple[Kind, tuple[int, ...]]]:
    found: dict[Kind, list[int]] = {}
    for k, kind in enumerate(kinds):
        if kind is not None:
            found.setdefault(kind, []).append(k)
    return [(kind, tuple(ks)) for kind, ks in found.items()]


# ---------------------------------------------------------------------- explaining
def _explained(
    verdict: FunctionVerdict, source: FunctionSource | None, kinds: Sequence[Kind | None] | None
) -> list[Fault]:
    assert verdict.scene is not None
    study = Study(verdict.scene, verdict.wrong, verdict.narrow)
    if kinds is not None and any(kinds):
        faults, rest = _upstream_first(study, verdict, source, kinds)
    else:
        how = {k: reduced(study, k) for k in verdict.wrong}
        affected = [k for k in verdict.wrong if how[k] is not None]
        repairs = find_repairs(study, source, affected, "upstream")
        faults = _reduced_faults(study, verdict)
        _add_repairs(faults, repairs)
        rest = tuple(k for k in study.still_wrong() if k in verdict.wrong)
    return [*faults, *_gradient_faults(study, source, rest)] if rest else faults


def _upstream_first(
    study: Study,
    verdict: FunctionVerdict,
    source: FunctionSource | None,
    kinds: Sequence[Kind | None],
) -> tuple[list[Fault], tuple[int, ...]]:
    """The misuse of ``grad_output``, and the arguments that are wrong besides."""
    repairs = find_repairs(study, source, study.still_wrong(), "upstream")
    faults, unknown = _upstream_faults(study, verdict, kinds)
    _add_repairs(faults, repairs)
    # Nothing can be compared where it is unknown what `grad_output` does, until that is mended.
    rest = tuple(k for k in study.still_wrong() if k in verdict.wrong and k not in unknown)
    if any(set(rest) <= set(repair.arguments) for repair in repairs):
        return faults, ()  # one change mends it all: one fault
    return faults, rest


def _gradient_faults(
    study: Study, source: FunctionSource | None, wrong: tuple[int, ...]
) -> list[Fault]:
    """What is wrong with the gradient itself."""
    causes: dict[int, Cause | None] = dict(swapped(study, source))
    for k in wrong:
        causes.setdefault(k, _plain_cause(study, k))
    effort: Effort = "full" if any(causes[k] is None for k in wrong) else "plain"
    repairs = [
        repair
        for repair in find_repairs(study, source, wrong, effort)
        if all(_goes_with(causes[k], repair) for k in repair.arguments)
    ]
    pool = None
    for k in wrong:
        if causes[k] is not None:
            continue
        repair = _repair_of(k, repairs)
        causes[k] = _path_cause(study, k) or (repair.cause if repair is not None else None)
        if causes[k] is None:
            pool = pool if pool is not None else quantities(study)
            causes[k] = (
                chain_rule(study, k) or factor_or_term(study, k, pool) or _last_resort(study, k)
            )
    found = _one_per_cause({k: causes[k] for k in wrong}, repairs)
    for repair in repairs:
        together = [fault for fault in found if set(fault.arguments) <= set(repair.arguments)]
        if len(together) > 1:
            found = [fault for fault in found if fault not in together]
            found.append(_merged(together, repair))
    return found


def _upstream_faults(
    study: Study, verdict: FunctionVerdict, kinds: Sequence[Kind | None]
) -> tuple[list[Fault], set[int]]:
    """Faults in the use of ``grad_output``; what they explain is taken out of the study.

    The second result are the arguments for which that could not be done.
    """
    faults: list[Fault] = []
    unknown: set[int] = set()
    for kind, ks in _grouped(kinds):
        unknown.update(k for k in ks if not take_out(study, k, kind))
        faults.append(Fault("LP203", _upstream_cause(verdict, kind, None, ks), ks))
    return [*faults, *_reduced_faults(study, verdict, kinds)], unknown


def _reduced_faults(
    study: Study, verdict: FunctionVerdict, kinds: Sequence[Kind | None] = ()
) -> list[Fault]:
    """Where only the mean or the sum of ``grad_output`` is used: linear, but wrong."""
    by_reduction: dict[str, list[int]] = {}
    for k in verdict.wrong:
        if k < len(kinds) and kinds[k] is not None:
            continue
        how = reduced(study, k)
        if how is not None:
            take_out(study, k, Kind.GRAD_OUTPUT_REDUCED, how)
            by_reduction.setdefault(how, []).append(k)
    return [
        Fault(
            "LP203",
            _upstream_cause(verdict, Kind.GRAD_OUTPUT_REDUCED, how, found),
            tuple(found),
        )
        for how, found in by_reduction.items()
    ]


def _upstream_cause(
    verdict: FunctionVerdict, kind: Kind, how: str | None, ks: Sequence[int]
) -> Cause:
    function = verdict.function
    everything = len(ks) == len(function.wanted)
    names = ", ".join(f"`{function.name_of(function.wanted[k])}`" for k in ks)
    of = "" if everything else f" in the gradient of {names}"
    clause = {
        Kind.GRAD_OUTPUT_IGNORED: f"backward ignores `grad_output`{of}",
        Kind.GRAD_OUTPUT_TWICE: f"backward multiplies by `grad_output` twice{of}",
        Kind.GRAD_OUTPUT_INVERTED: f"backward divides by `grad_output`{of}",
        Kind.GRAD_OUTPUT_PARTLY: f"backward multiplies only a part by `grad_output`{of}",
        Kind.GRAD_OUTPUT_NONLINEAR: f"backward is no linear function of `grad_output`{of}",
        Kind.GRAD_OUTPUT_REDUCED: (
            f"backward uses only the {how} of `grad_output`, not one value per element{of}"
        ),
    }[kind]
    return Cause(kind, clause)


def _add_repairs(faults: Sequence[Fault], repairs: Sequence[Repair]) -> None:
    for fault in faults:
        for repair in repairs:
            if set(fault.arguments) & set(repair.arguments):
                fault.repair = repair


def _goes_with(cause: Cause | None, repair: Repair) -> bool:
    """Whether a change can be shown as the mend of a cause that was named without it."""
    if cause is None:
        return True
    if cause.kind is Kind.SWAPPED:
        return False  # its own mend says both
    if cause.kind is Kind.BROADCAST_SUM:
        return repair.kind is Kind.WRONG_REDUCTION
    return True


def _repair_of(k: int, repairs: Sequence[Repair]) -> Repair | None:
    return next((repair for repair in repairs if k in repair.arguments), None)


def _plain_cause(study: Study, k: int) -> Cause | None:
    zero = _zero(study, k)
    if zero is not None:
        return zero
    return _first(
        study, k, (_not_finite, _phantom, constant_factor, broadcast_sum, mean_repeated, transposed)
    )


def _path_cause(study: Study, k: int) -> Cause | None:
    if not study.derived:
        return None
    paths = Paths(study, k)
    return wrong_path(study, k, paths) or two_wrong_paths(study, k, paths)


def _last_resort(study: Study, k: int) -> Cause | None:
    found = wrong_region(study, k)
    if found is None and study.derived:
        found = wrong_path(study, k, Paths(study, k), plain=False)
    return found


def _first(
    study: Study, k: int, hypotheses: Sequence[Callable[[Study, int], Cause | None]]
) -> Cause | None:
    for hypothesis in hypotheses:
        found = hypothesis(study, k)
        if found is not None:
            return found
    return None


def _zero(study: Study, k: int) -> Cause | None:
    if any(bool((claim[k] != 0).any()) for claim in study.claim):
        return None
    name, scene = study.name(k), study.scenes[0]
    raw = study.function.apply(scene.args, scene.upstream)[0].gradients[k]
    if raw is None:
        return Cause(
            Kind.NONE_RETURNED,
            f"backward returns `None` for `{name}`, which the loss depends on",
            help=f"return the gradient of `{name}`; `None` is for inputs that need no gradient",
        )
    return Cause(
        Kind.ZERO,
        f"backward returns zeros for `{name}`, which the loss depends on",
        help=f"return the gradient of `{name}`",
    )


def _not_finite(study: Study, k: int) -> Cause | None:
    bad = ~torch.isfinite(study.claim[0][k]) & torch.isfinite(study.truth[0][k])
    if not bool(bad.any()):
        return None
    return Cause(
        Kind.NOT_FINITE,
        f"backward gives `nan` or `inf` in the gradient of `{study.name(k)}` where the derivative "
        "is finite",
        evidence={"not finite": int(bad.sum()), "elements": bad.numel()},
    )


def _phantom(study: Study, k: int) -> Cause | None:
    """A gradient for elements that can be anything without changing the loss."""
    scene = study.scenes[0]
    bad = [
        (claim[k] - truth[k]).abs() > study.tolerance * claim[k].abs().max()
        for claim, truth in zip(study.claim, study.truth, strict=True)
    ]
    if any(bool((truth[k][b] != 0).any()) for truth, b in zip(study.truth, bad, strict=True)):
        return None
    here, _ = study.function.run(scene.args)
    for other in (1 - 2 * scene.point[k], 5 * scene.point[k] + 1, -7 * scene.point[k] - 2):
        point = list(scene.point)
        point[k] = torch.where(bad[0], other, point[k])
        there, _ = study.function.run(study.function.at(point))
        if not all(torch.equal(here[i], there[i]) for i in scene.upstream):
            return None
    name, count = study.name(k), int(bad[0].sum())
    return Cause(
        Kind.PHANTOM,
        f"backward gives a gradient to elements of `{name}` that the loss does not depend on",
        help=f"return zeros for these elements of `{name}`",
        evidence={"phantom": count, "elements": bad[0].numel()},
    )


# ---------------------------------------------------------------------- one fault, one finding
def _one_per_cause(causes: dict[int, Cause | None], repairs: Sequence[Repair]) -> list[Fault]:
    """Arguments that are wrong for the same reason share a fault."""
    groups: dict[object, list[int]] = {}
    for k, cause in causes.items():
        key = None if cause is None else (cause.kind, cause.location if _is_path(cause) else None)
        groups.setdefault(key, []).append(k)
    return [
        Fault(_rule(causes[ks[0]]), causes[ks[0]], tuple(ks), _repair_of(ks[0], repairs))
        for ks in groups.values()
    ]


def _merged(faults: Sequence[Fault], repair: Repair) -> Fault:
    """One change mends all of them: one fault, called by its most telling cause."""
    best = min(faults, key=lambda fault: _meaning(fault.cause))
    return Fault(best.rule, best.cause, repair.arguments, repair)


def _meaning(cause: Cause | None) -> int:
    order = list(Kind)
    return len(order) if cause is None else order.index(cause.kind)


def _is_path(cause: Cause) -> bool:
    return cause.kind in PATH_KINDS


def _rule(cause: Cause | None) -> str:
    return "LP206" if cause is not None and _is_path(cause) else "LP202"
