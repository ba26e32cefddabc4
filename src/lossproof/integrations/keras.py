"""PyTorch's losses in Keras 3, on its torch backend.

Keras calls a loss as ``loss(y_true, y_pred)``, PyTorch as ``loss(input, target)``, where the input
is the prediction. Both take two tensors of one shape, so that the wrong order is seldom an error:
it is another loss.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from lossproof.terms.balance.base import Balancer

__all__ = ["balanced_model", "keras_loss"]  # and `KerasLoss`, which is made when it is asked for

PACKAGE = "lossproof"
"""The name under which our classes are registered with Keras."""


def keras_loss(
    loss: Callable[..., Any],
    *,
    reduction: str | None = "sum_over_batch_size",
    name: str | None = None,
    dtype: Any = None,
    **options: Any,
) -> Any:
    r"""A loss that is called as PyTorch's are, as a ``keras.losses.Loss``.

    The loss computes the values of the items (``reduction="none"``), averaged over the last axis
    where they have the shape of the prediction, as Keras's own losses do; masks, sample weights and
    the reduction are Keras's. A mean is so over *items*: class weights among the options do not
    enter its denominator, as they do in PyTorch's mean. ``reduction="own"`` leaves the reduction to
    the loss, for that mean, or for a loss that has one number for a batch.

    The target of shape ``[N]`` or ``[N, 1]`` follows the prediction. Integers stay integers (class
    indices), unless they have the prediction's shape: then they are values. Scores of classes lie
    on the last axis in Keras; a PyTorch loss of sequences or images wants them on the second.

    It is saved with the model where the loss is one of ``lossproof.losses`` or
    ``torch.nn.functional``, or registered by ``keras.saving.register_keras_serializable``. To load
    it, import ``KerasLoss`` from here before.

    Args:
        loss: a function of ``(input, target)``, or a Module without parameters.
        reduction: ``"sum_over_batch_size"``, ``"mean"``, ``"sum"``, ``"mean_with_sample_weight"``,
            ``"none"`` as in Keras, or ``"own"``.
        name: what Keras calls it; the loss's own name by default.
        dtype: what the loss is computed in, or a policy of Keras; by default
            ``keras.config.floatx()``.
        **options: what else the loss is called with.

    Returns:
        A ``KerasLoss``, for ``model.compile(loss=...)``.

    Raises:
        ImportError: Keras is not installed, or runs on another backend.
        TypeError: the loss is not callable, or has parameters, which Keras would not train.
        ValueError: ``reduction`` is none of the above; at the first call, the loss gives one number
            where values are wanted.

    Example:
        .. code-block:: python

            from lossproof.integrations.keras import keras_loss
            from lossproof.losses import pinball_loss

            model.compile(optimizer="adam", loss=keras_loss(pinball_loss, quantiles=0.9))
    """
    return loss_class()(loss, options, reduction=reduction, name=name, dtype=dtype)


def balanced_model(
    model: Any,
    terms_fn: Callable[..., Mapping[str, Any]],
    balancer: Balancer,
    *,
    learned: torch.optim.Optimizer | None = None,
) -> Any:
    r"""A Keras model that trains another one by a loss of terms, weighed by a balancer.

    ``compile`` it with an optimiser and metrics, without a loss, and ``fit`` it. The value and the
    weight of each term, and what else a step knows, are in its logs and its ``history``, as means
    over the steps of the epoch: ``value/NAME``, ``weight/NAME``, and ``loss``, what is minimised.
    Losses that layers add (regularisers, ``add_loss``) are a term called ``regularisation``.

    ``save_weights``, ``ModelCheckpoint(save_weights_only=True)`` and ``BackupAndRestore`` hold the
    state of the balancer, too. What predicts is ``net``, the model that was given: save that one as
    a ``.keras`` file. ``lossproof.watch`` does not see the steps of a Keras optimiser.

    Args:
        model: the Keras model to train, built (it has an input, or was called once).
        terms_fn: computes the terms by name from ``(y_pred, y_true)``, in PyTorch's order, and
            from ``(y_pred, y_true, sample_weight)`` where ``fit`` was given weights.
        balancer: weighs them; :class:`lossproof.terms.FixedWeights` for weights of one's own.
        learned: the optimiser of ``torch.optim`` of a balancer whose weights are learned.

    Returns:
        A ``BalancedModel``.

    Raises:
        ImportError: Keras is not installed, or runs on another backend.
        TypeError: an argument is of the wrong type, or the weights are learned and ``learned`` is
            missing.
        ValueError: the model is not built.

    Example:
        .. code-block:: python

            from lossproof.integrations.keras import balanced_model
            from lossproof.terms import UPGrad

            def terms_of(y_pred, y_true):
                error = y_pred - y_true
                return {"error": error.square().mean(), "bias": error.mean().square()}

            training = balanced_model(model, terms_of, UPGrad())
            training.compile(optimizer="adam")
            training.fit(x, y, epochs=3)
    """
    return model_class()(model, terms_fn, balancer, learned)


@cache
def loss_class() -> Any:
    """The class of :func:`keras_loss`, known to Keras from now on."""
    from lossproof.integrations.keras_losses import make_class

    keras = on_torch()
    return keras.saving.register_keras_serializable(PACKAGE)(make_class(keras))


@cache
def model_class() -> Any:
    """The class of :func:`balanced_model`."""
    from lossproof.integrations.keras_training import make_class

    return make_class(on_torch())


def on_torch() -> Any:
    """Keras, which must run on torch.

    Raises:
        ImportError: it is not installed, or runs on something else.
    """
    mend = "set the environment variable KERAS_BACKEND=torch before Keras is imported"
    try:
        keras = importlib.import_module("keras")
    except ModuleNotFoundError as error:
        if error.name == "keras":
            raise ImportError(
                "lossproof.integrations.keras needs Keras 3: pip install 'lossproof[keras]', and "
                + mend
            ) from error
        raise ImportError(f"Keras cannot load its backend ({error}): {mend}") from error
    backend = keras.config.backend() if hasattr(keras, "config") else "tensorflow"
    if backend != "torch":
        raise ImportError(f"Keras runs on {backend!r}, and the losses are PyTorch's: {mend}")
    return keras


def __getattr__(name: str) -> Any:
    if name == "KerasLoss":
        return loss_class()
    if name == "BalancedModel":
        return model_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
