"""What the rules on hand-written gradients share: the words of a finding."""

from __future__ import annotations

import ast

from lossproof.checks.causes import Diagnosis, Fault
from lossproof.checks.examination import Examination
from lossproof.checks.report import Location, Number


def in_function(message: str, name: str) -> str:
    """A clause about a backward, with the Function it is about."""
    head, colon, rest = message.partition(": ")
    return f"{head} in `{name}`{colon}{rest}"


def fault_location(case: Examination, diagnosis: Diagnosis, fault: Fault) -> Location | None:
    """The line of backward at fault: what is to be changed, else where it is computed."""
    if fault.repair is not None:
        return fault.repair.location
    source = diagnosis.source
    if source is None:
        return diagnosis.definition(case)
    positions = [diagnosis.verdict.function.wanted[k] for k in fault.arguments]
    node = source.defining(positions[0]) if len(positions) == 1 else None
    return source.return_location(positions) if node is None else source.location(node)


def related_places(diagnosis: Diagnosis, fault: Fault) -> list[tuple[str, Location]]:
    """The call of the Function, and what the cause points to."""
    places = list(fault.cause.related) if fault.cause is not None else []
    call = diagnosis.call.site.location
    if call is not None:
        places.append((f"`{diagnosis.name}` is applied here", call))
    return places


def as_factor(node: ast.expr) -> str:
    """An expression that something is to be multiplied by, in brackets if need be."""
    text = ast.unparse(node)
    sum_ = isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub))
    return f"({text})" if sum_ or isinstance(node, ast.IfExp) else text


def evidence(diagnosis: Diagnosis, fault: Fault) -> dict[str, Number]:
    """The numbers: how wrong it is, and the worst element."""
    scene = diagnosis.verdict.scene
    assert scene is not None
    found: dict[str, Number] = dict(fault.cause.evidence) if fault.cause is not None else {}
    k = max(fault.arguments, key=lambda k: diagnosis.verdict.errors[k])
    claim, truth = scene.claim[k], scene.truth[k]
    difference = (claim - truth).abs().nan_to_num(float("inf"))
    worst = int(difference.argmax())
    scale = max(float(truth.abs().max()), float(claim.abs().max()))
    found["relative error"] = diagnosis.verdict.errors[k]
    found["backward returns"] = float(claim.flatten()[worst])
    found["derivative"] = float(truth.flatten()[worst])
    found["element"] = _index(worst, tuple(truth.shape))
    found["elements that differ"] = int((difference > 1e-8 * scale).sum())
    found["elements"] = truth.numel()
    return found


def _index(flat: int, shape: tuple[int, ...]) -> str:
    place = []
    for size in reversed(shape):
        place.append(flat % size)
        flat //= size
    return f"[{', '.join(map(str, reversed(place)))}]"


def notes(diagnosis: Diagnosis, fault: Fault) -> list[str]:
    """The evidence in words."""
    scene, verdict = diagnosis.verdict.scene, diagnosis.verdict
    assert scene is not None
    numbers = evidence(diagnosis, fault)
    k = max(fault.arguments, key=lambda k: verdict.errors[k])
    function = verdict.function
    name = function.name_of(function.wanted[k])
    place = numbers["element"] if scene.truth[k].dim() else ""
    found = [
        f"backward returns {numbers['backward returns']:.6g} for `{name}{place}` where the "
        f"derivative is {numbers['derivative']:.6g} ({numbers['elements that differ']} of "
        f"{numbers['elements']} differ)"
    ]
    if fault.cause is not None:
        found += fault.cause.notes
    others = [function.name_of(function.wanted[o]) for o in fault.arguments if o != k]
    if others:
        found.append("the same holds for " + ", ".join(f"`{other}`" for other in others))
    found.append(f"{' and '.join(verdict.witnesses)} agree on the derivative")
    return found
