"""Losses computed outside PyTorch, in numpy or scipy, with their own gradient."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lossproof.write.arguments import flag
from lossproof.write.items import over_items
from lossproof.write.reduction import reduce

Tensor = torch.Tensor
Array = npt.NDArray[Any]
Values = Callable[..., Any]
Gradient = Callable[..., Any]
HessianVectorProduct = Callable[..., Any]

# A central difference with this step is exact to about 1e-9 where the values are of order 1.
_STEP = 1e-5
_AGREES = 1e-4


def from_numpy(
    value: Values,
    gradient: Gradient | None = None,
    *,
    hessian_vector_product: HessianVectorProduct | None = None,
    verify: bool = True,
) -> NumpyLoss:
    r"""Make a differentiable loss from code in numpy or scipy.

    .. math::
        v_i = \text{value}(x, \dots)_i \qquad
        \text{gradient}(x, \dots)_i = \frac{\partial v_i}{\partial x_i} \qquad
        \text{hessian\_vector\_product}(x, \dots, u)_i =
        \frac{\partial^2 v_i}{\partial x_i^2} \, u_i

    The result is called like any loss: with tensors, and with ``weight``, ``reduction``, ``mask``
    and ``normalizer`` as in :func:`lossproof.reduce`. The functions see numpy arrays in float64,
    whatever the dtype and the device of the tensors are; integers and bools stay what they are.

    Args:
        value: takes the arrays; gives the values of the items, whose axes are the first axes of
            ``x``, or one number for the whole batch.
        gradient: takes the same; gives the derivative of each item's value in its own part of the
            first array, so it has the shape of ``x``. Without it the derivative comes from
            autograd, where ``value`` also runs on tensors (plain arithmetic does, numpy's functions
            do not).
        hessian_vector_product: takes the same and an array ``u`` of the shape of ``x``; with it,
            the loss can be differentiated twice.
        verify: whether the first call that wants a gradient compares it with a central difference
            of ``value``.

    Returns:
        The loss. It can be given to :func:`lossproof.as_module`, and pickled where the functions
        can. ``torch.compile`` leaves it out of its graph, and ``vmap`` calls it once for each row.

    Raises:
        TypeError: an argument is no function, or ``verify`` neither ``True`` nor ``False``.

    Calling the loss raises:
        TypeError: ``gradient`` is wanted, was not given, and cannot be derived.
        ValueError: a function gives another shape than it should, or ``gradient`` is not the
            derivative of ``value``.
        RuntimeError: in the backward pass; a gradient in another input than the first is wanted.

    Example:
        >>> import numpy as np, torch
        >>> from lossproof.write import from_numpy
        >>> loss = from_numpy(lambda x, y: np.cosh(x - y) - 1, lambda x, y: np.sinh(x - y))
        >>> x = torch.tensor([0.0, 1.0], requires_grad=True)
        >>> loss(x, torch.zeros(2), reduction="sum").backward()
        >>> x.grad
        tensor([0.0000, 1.1752])
    """
    given: dict[str, Any] = {
        "value": value,
        "gradient": gradient,
        "hessian_vector_product": hessian_vector_product,
    }
    for name, function in given.items():
        if not callable(function) and (function is not None or name == "value"):
            raise TypeError(f"`{name}` must be a function, got {function!r}")
    return NumpyLoss(value, gradient, hessian_vector_product, flag("verify", verify))


class NumpyLoss:
    """A loss computed in numpy; made by :func:`from_numpy`."""

    def __init__(
        self,
        value: Values,
        gradient: Gradient | None,
        hessian_vector_product: HessianVectorProduct | None,
        verify: bool,
    ) -> None:
        self.value = value
        self.gradient = gradient
        self.hessian_vector_product = hessian_vector_product
        self.verify = verify
        self.__name__ = getattr(value, "__name__", type(value).__name__)
        self.__doc__ = value.__doc__
        self.__module__ = value.__module__

    @property
    def __signature__(self) -> inspect.Signature:
        own = [p for p in inspect.signature(reduce).parameters.values() if p.name != "values"]
        tensors = [
            p.replace(kind=p.POSITIONAL_OR_KEYWORD)
            for p in inspect.signature(self.value).parameters.values()
            if p.kind is not p.KEYWORD_ONLY
        ]
        options = [p.replace(kind=p.KEYWORD_ONLY) for p in own]
        return inspect.Signature([*tensors, *options], return_annotation=Tensor)

    def __call__(
        self,
        *inputs: Any,
        weight: Tensor | None = None,
        reduction: str = "mean",
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        if not inputs or not isinstance(inputs[0], Tensor) or not inputs[0].is_floating_point():
            got = inputs[0] if inputs else "nothing"
            what = got.dtype if isinstance(got, Tensor) else type(got).__name__
            raise TypeError(f"the first input must be a floating-point tensor, got {what}")
        if any(isinstance(one, Tensor) and one.is_meta for one in inputs):
            raise ValueError("the inputs must hold numbers, got a tensor on the device meta")
        if self.gradient is None:
            values = self._values_by_autograd(inputs)
        else:
            values = _External.apply(self, *inputs)  # type: ignore[no-untyped-call]
        return reduce(values, weight, reduction, mask=mask, normalizer=normalizer)

    # What `torch.compiler.disable` sets, without the seconds that importing TorchDynamo takes.
    __call__._torchdynamo_disable = True  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return f"from_numpy({self.__name__})"

    def _values_by_autograd(self, inputs: Sequence[Any]) -> Tensor:
        """The values where ``value`` runs on tensors, too; without a gradient, by numpy."""
        wanted = torch.is_grad_enabled() and any(
            isinstance(i, Tensor) and i.requires_grad for i in inputs
        )
        if not wanted:
            return self.values(inputs)
        try:
            values = self.value(*inputs)
        except Exception as error:
            raise TypeError(self._underivable(str(error).partition("\n")[0])) from error
        if not isinstance(values, Tensor) or not values.requires_grad:
            raise TypeError(self._underivable("its result is not connected to its input"))
        return values

    def _underivable(self, why: str) -> str:
        return (
            f"`gradient` must be given: the derivative of {self.__name__} cannot be derived, "
            f"because it does not run on tensors ({why})"
        )

    def values(self, inputs: Sequence[Any]) -> Tensor:
        """The values of the items, in the dtype and on the device of the first input."""
        first: Tensor = inputs[0]
        found = np.asarray(self.value(*_arrays(inputs)), dtype=np.float64)
        if found.shape != tuple(first.shape[: found.ndim]):
            raise ValueError(
                f"`value` must give one number for each item, a shape that {list(first.shape)} "
                f"begins with, got {list(found.shape)}"
            )
        return _tensor(found, first)

    def slope(self, inputs: Sequence[Any]) -> Tensor:
        """The derivative of each value in its own part of the first input."""
        assert self.gradient is not None
        arrays = _arrays(inputs)
        found = _shaped("gradient", self.gradient(*arrays), arrays[0])
        if self.verify and arrays[0].size:
            self._compare(arrays, found)
            self.verify = False
        return _tensor(found, inputs[0])

    def _compare(self, arrays: list[Any], found: Array) -> None:
        """Refuse a gradient that a central difference of the values contradicts."""
        x = arrays[0]
        direction = np.random.default_rng(0).standard_normal(x.shape)
        step = _STEP * max(1.0, float(np.abs(x).max()))
        ends = [
            np.asarray(self.value(x + sign * step * direction, *arrays[1:]), dtype=np.float64)
            for sign in (1, -1)
        ]
        measured = (ends[0] - ends[1]) / (2 * step)
        product = found * direction
        claimed = product.sum(axis=tuple(range(measured.ndim, product.ndim)))
        size = np.abs(product).sum(axis=tuple(range(measured.ndim, product.ndim)))
        off = np.abs(measured - claimed) > _AGREES * (np.abs(measured) + size) + 1e-7
        if np.any(off & np.isfinite(measured)):
            worst = np.unravel_index(np.argmax(np.where(off, 1, 0)), off.shape)
            raise ValueError(
                "`gradient` must be the derivative of `value`: along one direction it gives "
                f"{float(claimed[worst]):.6g}, a central difference {float(measured[worst]):.6g}"
                + (f" (item {tuple(int(i) for i in worst)})" if worst else "")
            )


def _arrays(inputs: Sequence[Any]) -> list[Any]:
    """The inputs as numpy sees them: copies, so that nothing it writes reaches a tensor."""
    return [_array(i) if isinstance(i, Tensor) else i for i in inputs]


def _array(tensor: Tensor) -> Array:
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    if plain.is_floating_point():
        plain = plain.double()
    array: Array = plain.numpy().copy()
    return array


def _tensor(array: Array, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(like)


def _shaped(name: str, found: Any, x: Array) -> Array:
    array: Array = np.asarray(found, dtype=np.float64)
    if array.shape != x.shape:
        raise ValueError(
            f"`{name}` must have the shape of the first input, {list(x.shape)}, "
            f"got {list(array.shape)}"
        )
    return array


class _External(torch.autograd.Function):
    """The values; the gradient is asked for when it is wanted."""

    @staticmethod
    def forward(loss: NumpyLoss, *inputs: Any) -> Tensor:
        return loss.values(inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.loss = inputs[0]
        _remember(ctx, inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = _remembered(ctx)
        _refuse_others(ctx.needs_input_grad[2:])
        slope = _Slope.apply(ctx.loss, *inputs)  # type: ignore[no-untyped-call]
        return None, over_items(grad, slope) * slope, *[None] * (len(inputs) - 1)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        return _row_by_row(_External, info, in_dims, inputs)


class _Slope(torch.autograd.Function):
    """The gradient of the values; its own derivative is the Hessian times a vector."""

    @staticmethod
    def forward(loss: NumpyLoss, *inputs: Any) -> Tensor:
        return loss.slope(inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.loss = inputs[0]
        _remember(ctx, inputs[1:])

    @staticmethod
    def backward(ctx: Any, vector: Tensor) -> tuple[Tensor | None, ...]:
        product = ctx.loss.hessian_vector_product
        if product is None:
            raise RuntimeError(
                f"`hessian_vector_product` must be given to differentiate {ctx.loss!r} twice"
            )
        inputs = _remembered(ctx)
        arrays = _arrays(inputs)
        found = _shaped("hessian_vector_product", product(*arrays, _array(vector)), arrays[0])
        return None, _tensor(found, inputs[0]), *[None] * (len(inputs) - 1)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        return _row_by_row(_Slope, info, in_dims, inputs)


def _remember(ctx: Any, inputs: Sequence[Any]) -> None:
    ctx.save_for_backward(*(i for i in inputs if isinstance(i, Tensor)))
    ctx.others = [None if isinstance(i, Tensor) else i for i in inputs]
    ctx.are_tensors = [isinstance(i, Tensor) for i in inputs]


def _remembered(ctx: Any) -> list[Any]:
    tensors = iter(ctx.saved_tensors)
    return [
        next(tensors) if is_tensor else other
        for is_tensor, other in zip(ctx.are_tensors, ctx.others, strict=True)
    ]


def _refuse_others(needed: Sequence[bool]) -> None:
    if any(needed):
        raise RuntimeError(
            "a loss from numpy has a gradient in its first input alone; "
            f"input {list(needed).index(True) + 1} requires one, too: detach it"
        )


def _row_by_row(
    function: Any, info: Any, in_dims: tuple[Any, ...], inputs: Sequence[Any]
) -> tuple[Tensor, int]:
    rows = [
        function.apply(
            *(
                i if dim is None else i.select(dim, row)
                for i, dim in zip(inputs, in_dims, strict=True)
            )
        )
        for row in range(info.batch_size)
    ]
    return torch.stack(rows), 0
