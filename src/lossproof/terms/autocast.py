"""Autocast is for the forward pass: what is computed of gradients is not rounded by it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def autocast_off(device: torch.device) -> AbstractContextManager[object]:
    """Inside, products of float32 on this device are products of float32.

    Terms are often handed over while ``torch.autocast`` is still on. It would multiply gradients in
    half precision.
    """
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
