"""The gradient of the loss as a whole, against finite differences and forward mode."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.autograd import forward_ad

from lossproof.checks.arbitration import EXACT
from lossproof.checks.causes.diagnosis import probe_of
from lossproof.checks.examination import Evaluation, Examination, primary
from lossproof.checks.factors import has_hooks
from lossproof.checks.finite_differences import Judgement, direction, judge
from lossproof.checks.ordinary_code import AsOrdinaryCode
from lossproof.checks.rules import Rule, Verdict
from lossproof.checks.witness import double_precision

Tensor = torch.Tensor


def judge_whole_loss(case: Examination, rule: Rule) -> Verdict:
    """Proved, convicted by two witnesses, or undecided."""
    probe = probe_of(case)
    twin = probe.twin
    if twin.failed or twin.value is None or not twin.value.requires_grad:
        return rule.not_applicable("the loss has no gradient in float64")
    differs, silent = [], []
    for leaf, name in enumerate(probe.leaf_names):
        said = _finite_differences(probe, twin, leaf)
        if any(j.verdict == "differs" for j in said):
            differs.append((leaf, name, said[-1]))
        elif not any(j.verdict == "agrees" for j in said):
            silent.append(name)
    if differs:
        return _accused(probe, rule, *differs[0])
    if silent:
        return rule.unproved(
            f"finite differences say nothing on {', '.join(f'`{name}`' for name in silent)}: "
            "no step stays inside the domain and clear of kinks"
        )
    return rule.proved(
        f"would have seen a relative gradient error above {EXACT:.0e} "
        "(float64, finite differences along 4 directions)"
    )


def _finite_differences(case: Examination, twin: Evaluation, leaf: int) -> Sequence[Judgement]:
    gradient = twin.gradient(leaf).detach()
    if not bool(torch.isfinite(gradient).all()):
        return []
    assert twin.trace is not None
    point = [tensor.detach() for tensor in twin.leaves]
    steps = len(twin.trace.operations)
    directions = 4 if steps < 100 else 2 if steps < 300 else 1
    return judge(
        case.value_at(twin.trace.stops),
        point,
        leaf,
        gradient,
        seed=case.seed,
        directions=directions,
    )


def _accused(case: Examination, rule: Rule, leaf: int, name: str, said: Judgement) -> Verdict:
    """Finite differences accuse; forward mode is the second witness."""
    twin = case.twin
    why = "finite differences differ from the gradient"
    if leaf in twin.written:
        return rule.unproved(f"{why} of `{name}`, which the forward pass writes itself: see LP203")
    if has_hooks(twin):
        return rule.unproved(f"{why} of `{name}`, which a hook of the loss changes")
    if twin.trace is not None and any(w.input is not None for w in twin.trace.writes):
        return rule.unproved(f"{why} of `{name}`, but the loss writes to its inputs")
    if twin.trace is not None and any(not stop.discrete for stop in twin.trace.stops):
        return rule.unproved(f"{why} of `{name}`, and values leave the graph on the way")
    number = _forward_mode(case, leaf)
    expected = float((twin.gradient(leaf) * _tangent(case, leaf)).sum())
    if number is None:
        return rule.unproved(f"{why} of `{name}`, but no second witness could be heard")
    scale = float(twin.gradient(leaf).norm() * _tangent(case, leaf).norm())
    if abs(number - expected) <= 1e-6 * max(scale, abs(number)):
        return rule.unproved(f"{why} of `{name}`, but forward mode agrees with it")
    return rule.finding(
        f"the gradient of `{name}` is not the derivative of the loss",
        location=case.subject.location,
        evidence={
            "derivative along a direction": said.derivative,
            "the gradient promises": said.expected,
        },
        notes=["finite differences and forward mode agree on the derivative"],
    )


def _tangent(case: Examination, leaf: int) -> Tensor:
    return direction(case.twin.leaves[leaf].detach(), case.seed, leaf, 77)


def _forward_mode(case: Examination, leaf: int) -> float | None:
    """The derivative along a direction, with every Function run as ordinary code."""
    twin, positions = case.twin, case.inputs.differentiable
    if leaf >= len(positions) or twin.upstream is None:
        return None
    values = [
        v.detach().to(torch.float64).clone() if isinstance(v, Tensor) and v.is_floating_point()
        else v
        for v in case.inputs.values
    ]  # fmt: skip
    try:
        with double_precision(case), forward_ad.dual_level(), torch.no_grad():
            position = positions[leaf]
            tangent = _tangent(case, leaf)
            values[position] = forward_ad.make_dual(values[position], tangent)  # type: ignore[no-untyped-call]
            inputs = [v if isinstance(v, Tensor) else None for v in values]
            with AsOrdinaryCode(case.subject.sources, inputs, graph=False):
                output = case.subject.call(*values)
            value = primary(output)
            moved = forward_ad.unpack_dual(value).tangent  # type: ignore[no-untyped-call]
            if moved is None:
                return None
            number = float((moved * twin.upstream).sum())
    except Exception:  # an operation without forward mode
        return None
    return number if math.isfinite(number) else None
