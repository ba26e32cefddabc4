"""How ``.grad`` is filled with gradients that are already there.

``loss.backward()`` fills it through autograd's accumulation nodes, where hooks and the reducer of
``DistributedDataParallel`` listen. So does :func:`fill` wherever somebody may listen; where nobody
does, it does the same by itself, without the copy that these nodes make.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

Tensor = torch.Tensor


def fill(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Add the gradients to ``.grad``, as ``backward()`` would.

    Args:
        parameters: leaf tensors, each once.
        gradients: the gradient of each, of its shape; ``None`` leaves its ``.grad`` as it is.

    Example:
        >>> import torch
        >>> from lossproof.terms.filling import fill
        >>> parameter = torch.zeros(2, requires_grad=True)
        >>> fill([parameter], [torch.tensor([1.0, 2.0])])
        >>> fill([parameter], [torch.tensor([1.0, 2.0])])
        >>> parameter.grad
        tensor([2., 4.])
    """
    pairs = [
        (parameter, gradient)
        for parameter, gradient in zip(parameters, gradients, strict=True)
        if gradient is not None
    ]
    if not pairs:
        return
    pushed: list[tuple[Tensor, Tensor]] = []
    added: list[tuple[Tensor, Tensor]] = []
    for pair in pairs:  # asked once: a hook may remove itself when it has run, or set others
        (pushed if listened_to(pair[0]) else added).append(pair)
    if pushed:
        torch.autograd.backward([pair[0] for pair in pushed], [pair[1] for pair in pushed])
    taken: set[int] = set()
    with torch.no_grad():
        for parameter, gradient in added:
            _add(parameter, gradient, taken)


def _add(parameter: Tensor, gradient: Tensor, taken: set[int]) -> None:
    before = parameter.grad
    if before is None:
        parameter.grad = _owned(parameter, gradient, taken)
    elif before.layout == torch.strided:
        before.add_(gradient)
    else:
        parameter.grad = gradient + before


def _owned(parameter: Tensor, gradient: Tensor, taken: set[int]) -> Tensor:
    """The gradient as ``.grad`` must be: laid out like the parameter, and nobody else's memory.

    Autograd may hand the same tensor out as the gradient of two parameters (of ``a + b``).
    """
    if gradient.layout != torch.strided:
        return gradient.detach()
    place = gradient.data_ptr()
    right = gradient.dtype == parameter.dtype and gradient.stride() == parameter.stride()
    if right and place not in taken and not gradient.requires_grad:
        taken.add(place)
        return gradient
    return torch.empty_like(parameter, requires_grad=False).copy_(gradient)


def listened_to(parameter: Tensor) -> bool:
    """Whether somebody may listen for the gradient of this parameter.

    Hooks that were set on the accumulation node itself cannot be seen from here; those of torch's
    own reducers are only there where processes train together.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return True
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


def norm_of(gradients: Sequence[Tensor | None]) -> Tensor:
    """The Euclidean norm of all gradients together; half precision is summed in float32."""
    norms = []
    for gradient in gradients:
        if gradient is not None:
            half = gradient.dtype in (torch.float16, torch.bfloat16)
            dtype = torch.float32 if half else gradient.dtype
            norms.append(torch.linalg.vector_norm(gradient, dtype=dtype))
    if not norms:
        return torch.zeros(())
    total: Tensor = torch.linalg.vector_norm(torch.stack([one.to(norms[0]) for one in norms]))
    return total


def shrinking(norm: Tensor, limit: float | Tensor) -> Tensor:
    """What a gradient of this norm is multiplied by, so that the norm is at most the limit."""
    return limit / norm.clamp_min(limit)
