"""What the loss and the head of a call take unasked: leaves they close over, random numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from lossproof.errors import UnsupportedGraphError
from lossproof.speed.captured import captured_leaves, now
from lossproof.speed.chunk_plan import Plan
from lossproof.speed.surroundings import drawn_between, surroundings

Tensor = torch.Tensor


def captured_by(plan: Plan, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Find the leaves in the graph of two rows, and tell the plan who draws numbers.

    This is done anew for each call: a function may close over something else than the last time.
    """
    rows, shared = plan.split(tensors)
    few = [row.detach()[:2] for row in rows]
    leaves = [tensor.detach() for tensor in shared]
    with plan.surroundings.again(), torch.enable_grad():
        since = now()
        logits = plan.head.logits(few[0], plan.of_head(leaves))
        found = captured_leaves(_of_all_levels(logits), (), since, "`head`")
        since = now()
        few = list(plan.through_target_head(few, leaves))
        between = surroundings(tensors)
        values = plan.values(logits.detach(), few, plan.beyond_heads(leaves))
        found += captured_leaves(_of_all_levels(values), (), since, "`loss`")
        plan.loss_draws = drawn_between(between, surroundings(tensors))
        plan.draws = plan.loss_draws or drawn_between(plan.surroundings, between)
    return tuple({id(leaf): leaf for leaf in found}.values())


def captures_any(plan: Plan, tensors: Sequence[Tensor]) -> bool:
    """Whether they close over anything that a gradient may be wanted in."""
    try:
        return bool(captured_by(plan, tensors))
    except UnsupportedGraphError:
        return True


def _of_all_levels(output: Tensor) -> Iterator[Tensor]:
    """The output, and what each transformation of ``torch.func`` has wrapped: each has a graph."""
    yield output
    while torch._C._functorch.is_gradtrackingtensor(output):
        output = torch._C._functorch.get_unwrapped(output)
        yield output
