"""The class that makes a ``keras.losses.Loss`` of a loss of PyTorch."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from lossproof.write.module import LossModule

Tensor = torch.Tensor

HOMES = ("lossproof.losses", "torch.nn.functional")
"""Whose losses are saved by their address, and loaded without being registered."""
OWN = "own"
"""The reduction that is left to the loss."""


def make_class(keras: Any) -> Any:
    """The class, a subclass of that Keras's ``Loss``."""

    class KerasLoss(keras.losses.Loss):  # type: ignore[misc]
        """A loss of ``(input, target)`` for Keras, made by ``keras_loss``."""

        def __init__(
            self,
            loss: Callable[..., Tensor],
            options: Mapping[str, Any] | None = None,
            *,
            reduction: str | None = "sum_over_batch_size",
            name: str | None = None,
            dtype: Any = None,
        ) -> None:
            self.function, self.options = unwrapped(loss, options or {})
            self.own = reduction == OWN
            super().__init__(
                name=name or called(self.function),
                reduction="sum_over_batch_size" if self.own else reduction,
                dtype=dtype,
            )

        def call(self, y_true: Any, y_pred: Any) -> Any:
            """The values of the items, or the loss's own number."""
            return values_of(self.function, self.options, y_pred, y_true, own=self.own)

        def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            prediction = keras.tree.map_structure(
                lambda one: keras.ops.convert_to_tensor(one, dtype=self.dtype), y_pred
            )
            target = keras.tree.map_structure(keras.ops.convert_to_tensor, y_true)
            if isinstance(prediction, Tensor) and isinstance(target, Tensor):
                target = aligned(target, prediction)
            values = self.call(target, prediction)
            if sample_weight is not None:
                sample_weight = keras.ops.convert_to_tensor(sample_weight, dtype=self.dtype)
                sample_weight = weights_of_items(sample_weight, values)
            masked = getattr(y_pred, "_keras_mask", None) is not None
            weighed = masked or sample_weight is not None
            refuse_form(self.name, values, own=self.own, weighed=weighed)
            return Reduced(values, self.name, self.reduction, self.dtype)(
                y_pred, y_pred, sample_weight
            )

        def get_config(self) -> dict[str, Any]:
            config = super().get_config()
            config["reduction"] = OWN if self.own else self.reduction
            config["loss"] = address_of(keras, self.function)
            config["options"] = keras.saving.serialize_keras_object(self.options)
            config["dtype"] = self.dtype
            return config  # type: ignore[no-any-return]

        @classmethod
        def from_config(cls, config: dict[str, Any]) -> Any:
            config = dict(config)
            loss = loss_at(keras, config.pop("loss"))
            options = keras.saving.deserialize_keras_object(config.pop("options"))
            return cls(loss, options, **config)

    class Reduced(keras.losses.Loss):  # type: ignore[misc]
        """Values that are there already; the mask, the weights and the reduction are Keras's."""

        def __init__(self, values: Tensor, name: str, reduction: str | None, dtype: Any) -> None:
            super().__init__(name, reduction, dtype)
            self.values = values

        def call(self, y_true: Any, y_pred: Any) -> Any:
            return self.values

    KerasLoss.__module__ = "lossproof.integrations.keras"
    KerasLoss.__qualname__ = "KerasLoss"
    return KerasLoss


# --------------------------------------------------------------- the loss


def unwrapped(
    loss: Callable[..., Tensor], options: Mapping[str, Any]
) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """What computes the values, and its options; the Module of a function is that function.

    Raises:
        TypeError: it is not callable, or has parameters.
    """
    if isinstance(loss, type) or not callable(loss):
        raise TypeError(f"`loss` must be a function or a Module, got {loss!r}")
    if not isinstance(loss, nn.Module):
        return loss, dict(options)
    if any(True for _ in loss.parameters()):
        raise TypeError(
            f"`loss` must have no parameters, which Keras would not train, got {loss!r}"
        )
    if isinstance(loss, LossModule) and "function" in vars(type(loss)):
        held = {name: getattr(loss, name) for name in loss.defaults if name != "reduction"}
        given = {name: one for name, one in held.items() if one is not loss.defaults[name]}
        return type(loss).function, {**given, **options}
    return loss, dict(options)


def called(loss: Callable[..., Tensor]) -> str:
    """What a loss is called."""
    return str(getattr(loss, "__name__", type(loss).__name__)).strip("<>")


def values_of(
    loss: Callable[..., Tensor],
    options: Mapping[str, Any],
    prediction: Any,
    target: Any,
    *,
    own: bool,
) -> Tensor:
    """The values of the items, as Keras wants them, or the loss's own number."""
    device = getattr(prediction, "device", None)
    options = {
        name: one.to(device) if isinstance(one, Tensor) else one for name, one in options.items()
    }
    if own:
        return loss(prediction, target, **options)
    if isinstance(loss, nn.Module):
        if hasattr(loss, "reduction"):
            unreduced: Any = copy.copy(loss)
            unreduced.reduction = "none"
            loss = unreduced
    elif "reduction" in inspect.signature(loss).parameters:
        options["reduction"] = "none"
    values = loss(prediction, target, **options)
    if isinstance(prediction, Tensor) and values.ndim > 1 and values.shape == prediction.shape:
        return values.mean(-1)
    return values


def refuse_form(name: str, values: Tensor, *, own: bool, weighed: bool) -> None:
    """Refuse one number where values are wanted, and values where the loss should reduce them.

    Raises:
        ValueError: so it is.
    """
    if own and weighed:
        raise ValueError(
            f"{name!r} reduces by itself, so that Keras cannot apply a mask or sample weights to "
            "its items: leave them out, or give another `reduction` than 'own'"
        )
    if own and values.ndim:
        raise ValueError(
            f"{name!r} should reduce by itself (reduction='own'), but gives values of the shape "
            f"{list(values.shape)}"
        )
    if not own and not values.ndim:
        raise ValueError(
            f"{name!r} gives one number for a batch, and Keras wants the values of the items: give "
            "the loss an option `reduction`, or keras_loss(..., reduction='own')"
        )


# --------------------------------------------------------------- the tensors


def aligned(target: Tensor, prediction: Tensor) -> Tensor:
    """The target with the axes and the dtype that go with the prediction."""
    one_score = prediction.ndim > 0 and prediction.shape[-1] == 1
    discrete = not target.is_floating_point()
    axes_more = target.ndim - prediction.ndim
    if axes_more == -1 and one_score:
        target = target.unsqueeze(-1)
    elif target.ndim and target.shape[-1] == 1:  # [N, 1] for predictions or classes of [N]
        if axes_more == 1 or (axes_more == 0 and discrete and not one_score):
            target = target.squeeze(-1)
    if discrete and target.shape != prediction.shape:
        return target.long()
    return target.to(prediction.dtype)


def weights_of_items(weight: Tensor, values: Tensor) -> Tensor:
    """A weight for each value, where there is one for each sample."""
    if weight.ndim >= values.ndim:
        return weight
    return weight.reshape(*weight.shape, *[1] * (values.ndim - weight.ndim)).expand_as(values)


# --------------------------------------------------------------- how it is saved


def address_of(keras: Any, loss: Callable[..., Tensor]) -> str:
    """Under which a loss is found again.

    Raises:
        ValueError: under none.
    """
    name = getattr(loss, "__name__", None)
    for home in HOMES:
        if name and getattr(importlib.import_module(home), name, None) is loss:
            return f"{home}.{name}"
    if not inspect.isfunction(loss) or name == "<lambda>":
        raise ValueError(
            f"`loss` cannot be saved: {loss!r} has no name under which it is found again; give a "
            "function of lossproof.losses or torch.nn.functional, or one of your own that is "
            "registered by keras.saving.register_keras_serializable"
        )
    return str(keras.saving.get_registered_name(loss))


def loss_at(keras: Any, address: str) -> Callable[..., Tensor]:
    """The loss that was saved under an address; nothing else is imported for it.

    Raises:
        ValueError: there is none.
    """
    home, _, name = address.rpartition(".")
    if home in HOMES:
        found = getattr(importlib.import_module(home), name, None)
    else:
        found = keras.saving.get_registered_object(address)
    if not callable(found) or isinstance(found, type):
        raise ValueError(
            f"the saved loss {address!r} is not known: import the module that registers it by "
            f"keras.saving.register_keras_serializable, or load with custom_objects={{{name!r}: "
            "...}"
        )
    return found  # type: ignore[no-any-return]
