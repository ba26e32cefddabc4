"""What LP203 says of a loss as a whole: a factor in front of it, and one that is a variable."""

from __future__ import annotations

from collections.abc import Iterable

from lossproof.checks.backward_graph import BackwardGraph
from lossproof.checks.causes import Diagnosis, examine_functions
from lossproof.checks.examination import Examination
from lossproof.checks.factors import EXACT, LARGE, FactorStudy, Misscaled, finite_ratio, study_of
from lossproof.checks.report import Finding, Location, Severity
from lossproof.checks.rules import Rule, Verdict
from lossproof.checks.second_order import Missing, first_missing

OWN = (
    "compute the gradient in backward from what was saved, as torch operations; or put "
    "`@torch.autograd.function.once_differentiable` on backward, so that the request raises"
)
FOREIGN = (
    "take the plain loss where its gradient is differentiated; over an output layer "
    "`lossproof.chunk(loss, head)` has the same memory bound and a right second derivative"
)


def judge_factor(case: Examination, rule: Rule) -> Iterable[Verdict]:
    """Whether a factor in front of the loss is a factor of every gradient."""
    twin = case.twin
    if twin.failed or twin.upstream is None:
        yield rule.not_applicable("the loss has no gradient")
        return
    has_gradient = any(gradient is not None for gradient in twin.gradients)
    if not (has_gradient or twin.written):
        yield rule.not_applicable("the loss has no gradient")
        return
    study = study_of(case)
    surrogates = [d.name for d in examine_functions(case) if d.verdict.status == "surrogate"]
    if study.fault is not None and study.fault.kind == "disproportionate" and surrogates:
        yield rule.unproved(f"`{surrogates[0]}` treats `grad_output` in its own way, on purpose")
    elif study.fault is not None:
        yield _misscaled(case, rule, study.fault, study)
    elif study.undecided is not None:
        yield rule.unproved(study.undecided)
    else:
        yield from _second_order(case, rule, study)


def _second_order(case: Examination, rule: Rule, study: FactorStudy) -> Iterable[Verdict]:
    missing = first_missing(case, study.own_nodes) if study.own_nodes else None
    if missing is not None:
        yield _constant(case, rule, missing, study)
    elif study.own_nodes:
        again = "a second backward pass raises" if study.refused else "at a second pass, too"
        yield rule.proved(
            f"k times the loss has k times the gradient for k from 1/{LARGE:g} to {LARGE:g}, "
            f"to {EXACT:.0e}, by `torch.autograd.grad` and in `.grad`; {again}"
        )
    else:
        yield rule.proved(
            f"3 times the loss has 3 times the gradient, to {EXACT:.0e}, and every node of its "
            "graph is a derivative of torch's own"
        )


# ---------------------------------------------------------------------- a wrong multiple
def _misscaled(case: Examination, rule: Rule, fault: Misscaled, study: FactorStudy) -> Finding:
    names = " and ".join(f"`{name}`" for name in fault.wrong)
    message, cause, notes, help_ = {
        "written": _written,
        "repeated": _repeated,
        "disproportionate": _disproportionate,
    }[fault.kind](fault, names)
    place = fault.location or _place(case, study)
    return rule.finding(
        message,
        location=place,
        cause=cause,
        evidence={
            "factor": fault.factor,
            **{f"gradient of {name}": times for name, times in fault.times.items()},
        },
        notes=[*([_in_words(fault)] if fault.times else []), *notes],
        help=help_,
    )


Words = tuple[str, str, list[str], str]


def _written(fault: Misscaled, names: str) -> Words:
    follows = all(fault.times.get(name) == fault.factor for name in fault.wrong)
    rest = "before `backward` is called" if follows else "where no factor reaches it"
    return (
        f"the gradient of {names} is written to `.grad` in the forward pass, {rest}",
        "written-in-forward",
        [
            "it is there when the loss is only looked at, as in a validation, and "
            "`torch.autograd.grad` does not give it"
        ],
        f"give {names} to the Function's `apply`, save the gradient and return "
        "`grad_output * gradient` from backward; `lossproof.chunk(loss, head)` does that for a "
        "loss over an output layer",
    )


def _repeated(fault: Misscaled, names: str) -> Words:
    return (
        f"a second backward pass through one graph scales the gradient of {names} again",
        "scaled-in-place",
        ["what was saved is multiplied in place, which torch does not notice"],
        "multiply into a new tensor, `grad_output * gradient`, not `gradient.mul_(grad_output)`",
    )


def _disproportionate(fault: Misscaled, names: str) -> Words:
    return (
        f"a factor in front of the loss is not a factor of the gradient of {names}",
        "not-proportional",
        ["each Function by itself was found to be right, or there is none"],
        "multiply everything that backward returns by `grad_output`, and let nothing else depend "
        "on it",
    )


def _in_words(fault: Misscaled) -> str:
    times = [f"{finite_ratio(times)} times for `{name}`" for name, times in fault.times.items()]
    again = " the second time" if fault.kind == "repeated" else ""
    return (
        f"{finite_ratio(fault.factor)} times the loss gives the gradient "
        f"{' and '.join(times)}{again}"
    )


# ---------------------------------------------------------------------- a factor that varies
def _constant(case: Examination, rule: Rule, missing: Missing, study: FactorStudy) -> Finding:
    own = missing.diagnosis is not None and _is_own(case, missing.diagnosis)
    name = _called(case, study) if missing.diagnosis is None else missing.diagnosis.name
    return rule.finding(
        f"the gradient of `{name}` is a constant where it is differentiated, without an error",
        severity=Severity.WARNING,
        location=_place(case, study)
        if missing.diagnosis is None
        else _place_of(case, missing.diagnosis),
        cause="constant-gradient",
        evidence={
            "second derivative": missing.claimed,
            "should be": missing.true,
            "relative error": missing.error,
        },
        notes=[
            "where `grad_output` depends on a parameter (`loss ** 2`, a learned weight, a gradient "
            "penalty), the second derivative is that of the factor alone; where it does not, the "
            "same request raises",
            "finite differences of the gradient agree against it",
        ],
        help=OWN if own else FOREIGN,
    )


def _is_own(case: Examination, diagnosis: Diagnosis) -> bool:
    source = diagnosis.source
    return source is not None and case.subject.sources.owns(source.file)


def _place_of(case: Examination, diagnosis: Diagnosis) -> Location | None:
    """A backward of the user's own; the call of one of a library's."""
    if _is_own(case, diagnosis):
        return diagnosis.definition(case)
    return diagnosis.call.site.location or case.subject.location


def _called(case: Examination, study: FactorStudy) -> str:
    """The operation behind the first node that is not torch's own, as the user called it."""
    operation = BackwardGraph(case.twin).operation(study.own_nodes[0])
    if operation is not None:
        return operation.name
    return type(study.own_nodes[0]).__name__.removesuffix("Backward")


def _place(case: Examination, study: FactorStudy) -> Location | None:
    """Where the one backward is defined, else where its Function or operation is called."""
    diagnoses = examine_functions(case)
    if len(diagnoses) == 1:
        return _place_of(case, diagnoses[0])
    graph = BackwardGraph(case.twin)
    sites = [one.site for one in map(graph.operation, study.own_nodes) if one is not None]
    return next((site.location for site in sites if site.location), case.subject.location)
