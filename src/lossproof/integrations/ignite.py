"""Terms and a balancer in the training step of an Ignite engine."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from lossproof.terms.balance.base import Balancer
from lossproof.write.arguments import integer

if TYPE_CHECKING:
    from lossproof.terms.balance.step import BalanceStep

__all__ = ["supervised_training_step"]

Tensor = torch.Tensor
HALF = (torch.float16, torch.bfloat16)


def supervised_training_step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    terms_fn: Callable[[Any, Any], Mapping[str, Any]],
    balancer: Balancer,
    *,
    device: str | torch.device | None = None,
    non_blocking: bool = False,
    prepare_batch: Callable[..., tuple[Any, Any]] | None = None,
    model_fn: Callable[[torch.nn.Module, Any], Any] | None = None,
    model_transform: Callable[[Any], Any] | None = None,
    output_transform: Callable[[Any, Any, Any, BalanceStep], Any] | None = None,
    gradient_accumulation_steps: int = 1,
    amp_dtype: torch.dtype | None = None,
    scaler: torch.amp.GradScaler | None = None,
    guard: Any = None,
    **backward: Any,
) -> Callable[[Any, Any], Any]:
    r"""The training step of a composite loss, for ``ignite.engine.Engine``.

    It is ``ignite.engine.supervised_training_step`` with ``balancer.backward`` in the place of
    ``loss.backward()``. The output of a step, ``engine.state.output``, is ``step.as_dict()``: a
    flat dictionary of floats, as the metrics, handlers and loggers of Ignite take it. With gradient
    accumulation the weights are computed in the first batch of a step and held in the others, the
    figures are those of each batch, and the gradient is the mean over the batches. What is left at
    the end of a run, where the number of batches does not divide, is not stepped, as in Ignite.

    Args:
        model: the model; it is not moved to the device.
        optimizer: the optimiser; it holds the parameters of a balancer whose weights are learned.
        terms_fn: computes the terms by name from ``(y_pred, y)``.
        balancer: weighs them; :class:`lossproof.terms.FixedWeights` for weights of one's own.
        device: where each batch is moved to.
        non_blocking: whether the copy to the device may be asynchronous.
        prepare_batch: makes ``(x, y)`` of a batch, called with ``device=`` and ``non_blocking=``;
            by default a batch is a pair.
        model_fn: ``model_fn(model, x)``, where it is not ``model(x)``.
        model_transform: makes of the model's output what ``terms_fn`` takes.
        output_transform: the output of a step from ``(x, y, y_pred, step)``.
        gradient_accumulation_steps: over how many batches the gradient is the mean.
        amp_dtype: the dtype of ``torch.autocast`` for the model and the terms; without it there is
            none.
        scaler: scales the gradients in float16.
        guard: of ``lossproof.watch``: it sees the terms, and the figures of each step.
        **backward: more for :meth:`lossproof.terms.Balancer.backward`, such as ``on`` or ``clip``.

    Returns:
        The function of ``(engine, batch)`` that an ``Engine`` is made of.

    Raises:
        ImportError: Ignite is not installed.
        TypeError: an argument is of the wrong type.
        ValueError: ``gradient_accumulation_steps`` is below 1, or ``backward`` holds ``params``,
            ``factor`` or ``refresh``.

    Example:
        >>> import torch
        >>> from ignite.engine import Engine
        >>> from lossproof.integrations.ignite import supervised_training_step
        >>> from lossproof.terms import FixedWeights
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.ones_(model.weight)
        >>> def terms_of(y_pred, y):
        ...     return {"data": (y_pred - y).square().mean(), "size": y_pred.square().mean()}
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> balancer = FixedWeights({"data": 1.0, "size": 0.5})
        >>> trainer = Engine(supervised_training_step(model, optimizer, terms_of, balancer))
        >>> state = trainer.run([(torch.ones(4, 1), torch.zeros(4, 1))])
        >>> state.output["terms/total"], round(model.weight.item(), 6)
        (1.5, 0.7)
    """
    _is_a("model", model, torch.nn.Module)
    _is_a("optimizer", optimizer, torch.optim.Optimizer)
    _is_a("balancer", balancer, Balancer)
    if not callable(terms_fn):
        raise TypeError(f"`terms_fn` must be callable, got {type(terms_fn).__name__}")
    if amp_dtype is not None:
        _is_a("amp_dtype", amp_dtype, torch.dtype)
    prepare = prepare_batch or _pair_of(_ignite("ignite.utils"))
    accumulated = integer("gradient_accumulation_steps", gradient_accumulation_steps, minimum=1)
    taken = [name for name in ("params", "factor", "refresh") if name in backward]
    if taken:
        raise ValueError(f"`{taken[0]}` is given to the balancer by the step itself")
    compute = terms_fn if guard is None else guard.wrap(terms_fn)

    def update(engine: Any, batch: Any) -> Any:
        place = (engine.state.iteration - 1) % accumulated
        if place == 0:
            optimizer.zero_grad()
        model.train()
        x, y = prepare(batch, device=device, non_blocking=non_blocking)
        with _autocast(model, amp_dtype):
            output = model(x) if model_fn is None else model_fn(model, x)
            y_pred = output if model_transform is None else model_transform(output)
            terms = compute(y_pred, y)
        step = balancer.backward(
            _widened(terms),
            model,
            scaler=scaler,
            factor=1 / accumulated,
            refresh=None if place == 0 else False,
            **backward,
        )
        if guard is not None:
            guard.note_step(step)
        if place == accumulated - 1:
            _step(optimizer, scaler)
        return step.as_dict() if output_transform is None else output_transform(x, y, y_pred, step)

    return update


def _is_a(name: str, value: object, wanted: type) -> None:
    if not isinstance(value, wanted):
        raise TypeError(
            f"`{name}` must be of the type {wanted.__name__}, got {type(value).__name__}"
        )


def _ignite(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            "lossproof.integrations.ignite needs PyTorch-Ignite: pip install 'lossproof[ignite]'"
        ) from error


def _pair_of(utils: Any) -> Callable[..., tuple[Any, Any]]:
    """What makes ``(x, y)`` of a batch that is a pair, as Ignite does by default."""

    def prepare(batch: Any, device: Any, non_blocking: bool) -> tuple[Any, Any]:
        x, y = batch
        there = {"device": device, "non_blocking": non_blocking}
        return utils.convert_tensor(x, **there), utils.convert_tensor(y, **there)

    return prepare


def _autocast(model: torch.nn.Module, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    if dtype is None:
        return nullcontext()
    parameter = next(model.parameters(), None)
    return torch.autocast("cpu" if parameter is None else parameter.device.type, dtype=dtype)


def _widened(terms: Any) -> Any:
    """The terms in float32, where autocast left them in half precision."""
    if not isinstance(terms, Mapping):
        return terms  # which the balancer refuses in words
    return {
        name: term.float() if isinstance(term, Tensor) and term.dtype in HALF else term
        for name, term in terms.items()
    }


def _step(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> None:
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
