"""Which operation has a kink between two points: the one that takes another branch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from lossproof.checks.examination import Examination
from lossproof.checks.sources import Site, Sources
from lossproof.checks.trace import branch_taken, operation_name

Tensor = torch.Tensor
COMPARISONS = frozenset(
    f"{start}{name}{end}"
    for name in ("gt", "lt", "ge", "le", "eq", "ne")
    for start, end in (("", ""), ("__", "__"))
)


class _Branches(TorchFunctionMode):
    """Notes every piecewise operation with the branch that it took."""

    def __init__(self, sources: Sources) -> None:
        super().__init__()
        self.sources = sources
        self.taken: list[tuple[str, Site, Tensor]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunction(), torch.no_grad():
            name = operation_name(func)
            branch = branch_taken(name, args, kwargs or {}, out)
            if isinstance(branch, Tensor):
                self.taken.append((name, self.sources.site(), branch.clone()))
        return out


def kink_between(
    case: Examination, behind: Sequence[Any], ahead: Sequence[Any]
) -> tuple[str, Site] | None:
    """The first operation that takes another branch at ``ahead`` than at ``behind``."""
    assert case.base.trace is not None  # recorded before, so that the mode sees this call alone
    one, other = (_branches(case, values) for values in (behind, ahead))
    flips = [
        (name, site)
        for (name, site, here), (_, _, there) in zip(one, other, strict=False)
        if here.shape != there.shape or not torch.equal(here, there)
    ]
    # A comparison has no derivative: the kink is where its answer is used.
    kinks = [(name, site) for name, site in flips if name not in COMPARISONS]
    return next(iter(kinks or flips), None)


def _branches(case: Examination, values: Sequence[Any]) -> list[tuple[str, Site, Tensor]]:
    mode = _Branches(case.subject.sources)
    with mode:
        case.evaluate(values, dtype=torch.float64, backward=False)
    return mode.taken
