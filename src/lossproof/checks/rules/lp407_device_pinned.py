"""The loss works on the CPU only: it makes or keeps a tensor there that meets its inputs.

## What it does
Calls the loss as if its inputs lay on a GPU, without needing one: the loss is told so where it asks
for `.device`, and what it computes from the inputs counts as being there, too. A tensor that is
made without `device=`, or that a module keeps as a plain attribute where `.to(device)` does not
find it, stays on the CPU. Where the two meet in an operation that takes tensors of one device only,
that is a finding. `.numpy()` on a tensor that would lie on a GPU is reported, too, and so is a
`.cuda()` or `device="cuda"` that raises because there is no such device.

## Why it matters
*Expected all tensors to be on the same device* comes on the first step on the GPU, after every
test on the CPU has passed. The quick mend, `.cuda()`, then fails on the second GPU and on the CPU.

## Example
```python
def signed_return_loss(pred, target):
    penalty = torch.ones(pred.size(0))
    penalty = torch.where(pred * target < 0, 2 * penalty, penalty)
    return (penalty * (pred - target) ** 2).mean()
```

## Use instead
```python
def signed_return_loss(pred, target):
    penalty = torch.ones_like(pred)
    penalty = torch.where(pred * target < 0, 2 * penalty, penalty)
    return (penalty * (pred - target) ** 2).mean()
```
or `torch.arange(n, device=pred.device)`, `pred.new_zeros(n)`; and in a module
`self.register_buffer("weight", torch.tensor(...))`.

## Not reported
On a machine without an accelerator, where the loss runs as it is: a function that nowhere speaks of
devices, and of a module so written its indices, masks and plain attributes. The report then says
under *unproved* that the loss runs on the CPU only, and why. A reference that leaves nothing there
convicts it.

What torch allows: a CPU tensor with no dimension (`torch.tensor(2.0)`), an index on the CPU into a
tensor elsewhere, an assignment `x[i] = value` between devices. Tensors that the caller hands over:
in a `functools.partial`, in a variable the loss closes over, in a constructor argument that is
stored as it is; they lie where the caller put them. Tensors that `.cpu()` or `device="cpu"` put
there by name. Tensors of which it cannot be told where they come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lossproof.checks.as_written import as_written
from lossproof.checks.cpu_tensors import UNSEEN, held_by_globals, held_by_module, speaks_of_devices
from lossproof.checks.pretended_device import DEVICE, Meeting, Origin, PretendedDevice
from lossproof.checks.report import Finding, Number, Severity
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.trace import tensors_in

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

RULE = RULES["LP407"]
NO_DEVICE = ("Torch not compiled with CUDA", "Found no NVIDIA driver", "No CUDA GPUs")
"""What torch says where a device is asked for that is not there."""


def examine(case: Examination) -> Iterable[Verdict]:
    """Call the loss as if its inputs lay elsewhere, and report what would raise there."""
    error = case.base.error
    if error is not None:
        yield (
            _asked_for(case, error)
            if _is_missing_device(error)
            else RULE.unproved("the loss raised an exception")
        )
        return
    if not any(True for value in case.inputs.values for _ in tensors_in(value)):
        yield RULE.not_applicable("no input is a tensor")
        return
    if any(tensor.device.type != "cpu" for tensor in tensors_in(list(case.inputs.values))):
        yield RULE.not_applicable("the inputs lie on another device already")
        return
    mode, error = _pretend(as_written(case))
    places: set[Any] = set()
    only_here = [meeting for meeting in mode.meetings if not _meant_for_others(case, meeting)]
    if only_here and _reference_runs_elsewhere(case):
        only_here = []
    for meeting in mode.meetings:
        if meeting in only_here:
            continue
        finding = _finding(case, meeting)
        if (finding.location, finding.cause) not in places:
            places.add((finding.location, finding.cause))
            yield finding
    if places:
        return
    if only_here:
        first = _finding(case, only_here[0])
        yield RULE.unproved(f"runs on the CPU only: {first.message} ({first.location})")
    elif error is not None:
        yield RULE.unproved(f"with inputs on a pretended device: {type(error).__name__}: {error}")
    else:
        yield RULE.proved("nothing on the CPU met inputs that were taken to lie on a GPU")


def _is_missing_device(error: Exception) -> bool:
    return any(text in str(error) for text in NO_DEVICE)


def _asked_for(case: Examination, error: Exception) -> Finding:
    """The finding for a loss that asks by name for a device which is not there."""
    return RULE.finding(
        f"`{case.subject.name}` needs a CUDA device, wherever its inputs are",
        location=case.where(error),
        cause="asks-for-cuda",
        evidence={"exception": f"{type(error).__name__}: {error}"},
        notes=("there is none here, so nothing else could be checked",),
        help="let tensors follow the inputs: `device=input.device`, `tensor.to(input)`, "
        "`torch.zeros_like(input)`",
    )


def _meant_for_others(case: Examination, meeting: Meeting) -> bool:
    """Whether the loss is to run elsewhere than here, where it does run.

    There is an accelerator in this machine; or the loss asks for devices in other lines; or it is a
    module, whose `.to(device)` promises it, and computes with what it made.
    """
    if _has_accelerator() or speaks_of_devices(case.subject.call, case.subject.sources):
        return True
    module = isinstance(getattr(case.subject.call, "__self__", case.subject.call), nn.Module)
    return module and meeting.floating and meeting.origin.kind in ("maker", "numpy")


def _reference_runs_elsewhere(case: Examination) -> bool:
    """Whether a reference was given that leaves nothing on the CPU: this loss is to do as well."""
    if case.reference is None:
        return False
    mode, error = _pretend(type(case)(case.reference, case.inputs, case.seed))
    return error is None and not mode.meetings


def _has_accelerator() -> bool:
    return bool(torch.cuda.is_available() or torch.backends.mps.is_available())


def _pretend(case: Examination) -> tuple[PretendedDevice, Exception | None]:
    subject = case.subject
    made: list[PretendedDevice] = []

    def call(*arguments: Any) -> Any:
        moved = [*tensors_in(arguments), *_own(subject.call)]
        mode = PretendedDevice(subject.sources, moved, _left(case))
        made.append(mode)
        with mode:
            return subject.call(*arguments)

    found = case.evaluate(backward=False, subject=replace(subject, call=call))
    return made[-1], found.error


def _own(call: Any) -> Iterator[torch.Tensor]:
    """What `.to(device)` moves: parameters and buffers."""
    module = getattr(call, "__self__", call)
    if isinstance(module, nn.Module):
        yield from module.parameters()
        yield from module.buffers()


def _left(case: Examination) -> Iterator[tuple[torch.Tensor, Origin]]:
    """The tensors that the loss made for itself and keeps where `.to(device)` does not look."""
    sources = case.subject.sources
    module = getattr(case.subject.call, "__self__", case.subject.call)
    if isinstance(module, nn.Module):
        for name, tensor, location in held_by_module(module, sources):
            yield tensor, Origin(name, location, "attribute")
    for name, tensor, location in held_by_globals(case.subject.call, sources):
        yield tensor, Origin(name, location, "global")


def _finding(case: Examination, meeting: Meeting) -> Finding:
    origin = meeting.origin
    where = meeting.site.location
    if origin.kind == "numpy":
        return RULE.finding(
            f"`.{meeting.operation}()` on a tensor that lies where the inputs do: on a GPU this "
            "raises",
            severity=Severity.WARNING,
            location=where or case.subject.location,
            cause="numpy",
            evidence={"device": str(DEVICE)},
            help="compute with torch operations; for logging alone: `x.detach().cpu().numpy()`",
        )
    related = (("it meets the inputs here", where),) if where else ()
    evidence: dict[str, Number] = {"operation": meeting.operation}
    if origin.kind == "attribute":
        attribute = origin.what.rpartition(".")[2]
        return RULE.finding(
            f"`self.{origin.what}` is a plain attribute: `.to(device)` leaves it on the CPU, where "
            f"`{meeting.operation}` cannot use it with inputs on a GPU",
            severity=Severity.WARNING,
            location=origin.location or where,
            cause="plain-attribute",
            evidence=evidence,
            related=related,
            help=f'`self.register_buffer("{attribute}", ...)` in the constructor',
        )
    if origin.kind == "global":
        return RULE.finding(
            f"the global `{origin.what}` lies on the CPU, where `{meeting.operation}` cannot use "
            "it with inputs on a GPU",
            severity=Severity.WARNING,
            location=origin.location or where,
            cause="global",
            evidence=evidence,
            related=related,
            help=f"`{origin.what}.to({_input(case)}.device)` where it is used, or a buffer of a "
            "module",
        )
    return RULE.finding(
        f"`{origin.what}` makes a tensor on the CPU, and `{meeting.operation}` cannot use it with "
        "inputs on a GPU",
        location=origin.location or where or case.subject.location,
        cause="made-on-cpu",
        evidence=evidence,
        related=related,
        help=_mend(origin.what, _input(case)),
    )


def _mend(maker: str, name: str) -> str:
    if maker.rpartition(".")[2] in UNSEEN:
        return f"make it where the inputs are: `torch.tensor(..., device={name}.device)`"
    return f"give it the device of an input: `{maker}(..., device={name}.device)`"


def _input(case: Examination) -> str:
    positions = case.inputs.differentiable or (0,)
    name = case.inputs.arguments[positions[0]].name
    return name if name.isidentifier() else "input"
