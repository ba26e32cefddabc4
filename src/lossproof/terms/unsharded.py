"""The whole copies that FSDP2 (``fully_shard``) puts in the place of its parameters.

For the forward pass a module holds copies, and the outermost one keeps them until the backward
pass: who asks for its parameters in between gets the copies, from which FSDP takes every gradient
away. It is the sharded parameters that train.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch

Tensor = torch.Tensor


def sharded_originals() -> dict[int, Tensor]:
    """The sharded parameter of every copy that there is, by the identity of the copy."""
    fsdp = sys.modules.get("torch.distributed.fsdp._fully_shard._fsdp_state")
    states = sys.modules.get("torch.distributed._composable_state")
    if fsdp is None or states is None:
        return {}
    found: dict[int, Tensor] = {}
    for kept in states._module_state_mapping.values():
        state = kept()
        for group in _groups(state) if isinstance(state, fsdp.FSDPState) else ():
            for one in group.fsdp_params:
                for copy in ("_unsharded_param", "_sharded_post_forward_param"):
                    if getattr(one, copy, None) is not None:
                        found[id(getattr(one, copy))] = one.sharded_param
    return found


def _groups(state: Any) -> Sequence[Any]:
    """The groups of parameters that a module shards; older versions of torch have one at most."""
    if hasattr(state, "_fsdp_param_groups"):
        return state._fsdp_param_groups  # type: ignore[no-any-return]
    return () if state._fsdp_param_group is None else (state._fsdp_param_group,)
