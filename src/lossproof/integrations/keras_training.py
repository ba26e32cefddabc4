"""The Keras model that trains another one by a loss of terms."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from lossproof.integrations._stand_in import plain_sum, squared
from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.point_balancer import PointBalancer
from lossproof.terms.balance.step import BalanceStep

Tensor = torch.Tensor

REGULARISATION = "regularisation"
"""The term of what the layers add to the loss."""
STORED = "lossproof_balancer"
"""The name of the balancer's state among the weights of the model."""


def make_class(keras: Any) -> Any:
    """The class, a subclass of that Keras's ``Model``."""

    class BalancedModel(keras.Model):  # type: ignore[misc]
        """Trains ``net`` by terms and a balancer, made by ``balanced_model``."""

        def __init__(
            self,
            net: Any,
            terms_fn: Callable[..., Mapping[str, Any]],
            balancer: Balancer,
            learned: torch.optim.Optimizer | None = None,
            **options: Any,
        ) -> None:
            super().__init__(**options)
            if not isinstance(net, keras.Model):
                raise TypeError(f"`model` must be a keras.Model, got {type(net).__name__}")
            if not net.built:
                raise ValueError("`model` must be built: give it an Input, or call it once")
            self.net = net
            # Keras would make a layer of an attribute that is a Module of torch.
            self._balancing = Balancing(terms_fn, balancer, learned)
            self.built = True

        def call(self, x: Any, training: bool = False) -> Any:
            return self.net(x, training=training)

        def train_step(self, data: Any) -> dict[str, Any]:
            x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
            y_pred = self(x, training=True)
            terms = self._terms(y_pred, y, weight)
            variables = list(self.trainable_variables)
            self.zero_grad()
            step = self._balancing.backward(
                terms,
                [variable.value for variable in variables],
                self.optimizer.scale_loss(torch.ones(())),
            )
            with torch.no_grad():
                gradients = [variable.value.grad for variable in variables]
                self.optimizer.apply(gradients, variables)
            figures = {"loss": float(step.total), **step.report().figures()}
            del figures["total"]
            return self._logs(figures, x, y, y_pred, weight)

        def test_step(self, data: Any) -> dict[str, Any]:
            x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
            y_pred = self(x, training=False)
            terms = self._terms(y_pred, y, weight)
            return self._logs(self._balancing.figures(terms), x, y, y_pred, weight)

        def _terms(self, y_pred: Any, y: Any, weight: Any) -> dict[str, Any]:
            y, weight = keras.tree.map_structure(lambda one: on_device(keras, one), (y, weight))
            return self._balancing.terms(y_pred, y, weight, self.losses)

        def _logs(
            self, figures: Mapping[str, float], x: Any, y: Any, y_pred: Any, weight: Any
        ) -> dict[str, Any]:
            means = self._balancing.averaged(figures, len(keras.tree.flatten(y_pred)[0]))
            metrics = self.compute_metrics(x, y, y_pred, sample_weight=weight)
            return {**metrics, **means}

        def reset_metrics(self) -> None:
            self._balancing.forget_means()
            super().reset_metrics()

        def save_own_variables(self, store: Any) -> None:
            super().save_own_variables(store)
            store[STORED] = self._balancing.packed()

        def load_own_variables(self, store: Any) -> None:
            own = {key: store[key] for key in list(store.keys()) if key != STORED}
            super().load_own_variables(own)
            self._balancing.unpack(store[STORED])

        def get_config(self) -> dict[str, Any]:
            raise NotImplementedError(
                "what trains a model is not saved as a .keras file: save `net`, the model that "
                "was trained, and the state of the training by save_weights or BackupAndRestore"
            )

    BalancedModel.__module__ = "lossproof.integrations.keras"
    BalancedModel.__qualname__ = "BalancedModel"
    return BalancedModel


def on_device(keras: Any, one: Any) -> Any:
    """An array or a tensor as a tensor where the model is.

    ``train_on_batch`` and loaders of PyTorch hand data on as they are.
    """
    if isinstance(one, Tensor):
        return keras.ops.convert_to_tensor(one)
    if not isinstance(one, np.ndarray):
        return one
    real = np.issubdtype(one.dtype, np.floating)
    return keras.ops.convert_to_tensor(one, dtype=keras.config.floatx() if real else None)


class Balancing:
    """What a balanced model knows of its terms.

    Args:
        terms_fn: computes them.
        balancer: weighs them.
        learned: the optimiser of the balancer's own parameters.
    """

    def __init__(
        self,
        terms_fn: Callable[..., Mapping[str, Any]],
        balancer: Balancer,
        learned: torch.optim.Optimizer | None,
    ) -> None:
        if not callable(terms_fn):
            raise TypeError(f"`terms_fn` must be callable, got {type(terms_fn).__name__}")
        if not isinstance(balancer, Balancer):
            raise TypeError(f"`balancer` must be a Balancer, got {type(balancer).__name__}")
        self.terms_fn, self.balancer, self.learned = terms_fn, balancer, learned
        if learned is None and any(True for _ in balancer.parameters()):
            raise TypeError(
                f"the weights of {type(balancer).__name__} are learned: give "
                "learned=torch.optim.Adam(balancer.parameters())"
            )
        self._sums: dict[str, tuple[float, int]] = {}

    def terms(self, y_pred: Any, y: Any, weight: Any, added: list[Tensor]) -> dict[str, Any]:
        """The terms of a batch, and what the layers add to them."""
        given = (y_pred, y) if weight is None else (y_pred, y, weight)
        terms = self.terms_fn(*given)
        if not isinstance(terms, Mapping):
            raise TypeError(
                "`terms_fn` must return a mapping from the name of each term to a scalar tensor, "
                f"got {type(terms).__name__}"
            )
        if not added:
            return dict(terms)
        if REGULARISATION in terms:
            raise ValueError(
                f"the term {REGULARISATION!r} is what the layers of the model add to the loss: "
                "give yours another name"
            )
        return {**terms, REGULARISATION: torch.stack([one.reshape(()) for one in added]).sum()}

    def backward(
        self, terms: Mapping[str, Any], parameters: list[Tensor], factor: Tensor
    ) -> BalanceStep:
        """Fill ``.grad``, and learn what the balancer learns."""
        if self.learned is not None:
            self.learned.zero_grad()
        step = self.balancer.backward(terms, parameters, factor=factor)
        if self.learned is not None:
            for group in self.learned.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad /= factor.to(parameter.grad)
            self.learned.step()
        return step

    def figures(self, terms: Mapping[str, Any]) -> dict[str, float]:
        """What is minimised and the values, with the weights of the last step.

        Points are others than those of the training: they have no weights.
        """
        if isinstance(self.balancer, PointBalancer):
            scalars = squared(terms, self.balancer)
            total = float(plain_sum(terms, self.balancer))
        else:
            scalars, total = self.balancer.scalars(terms), self._minimised(terms)
        return {
            "loss": total,
            **{f"value/{name}": float(one) for name, one in scalars.items() if one is not None},
        }

    def _minimised(self, terms: Mapping[str, Any]) -> float:
        training = self.balancer.training
        self.balancer.eval()
        try:
            return float(self.balancer(terms, nonfinite="ignore"))
        finally:
            self.balancer.train(training)

    # ---- means over an epoch

    def averaged(self, figures: Mapping[str, float], samples: int) -> dict[str, float]:
        """The means since the epoch began, each over the samples of the steps that knew it."""
        for name, one in figures.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + one * samples, count + samples)
        return {name: total / count for name, (total, count) in self._sums.items()}

    def forget_means(self) -> None:
        self._sums = {}

    # ---- the state

    def packed(self) -> np.ndarray[Any, Any]:
        """The whole state as bytes, which is what Keras can store."""
        state = {"balancer": self.balancer.state_dict()}
        if self.learned is not None:
            state["learned"] = self.learned.state_dict()
        file = io.BytesIO()
        torch.save(state, file)
        return np.frombuffer(file.getvalue(), dtype=np.uint8)

    def unpack(self, stored: Any) -> None:
        """Go on from a state."""
        file = io.BytesIO(np.asarray(stored).tobytes())
        state = torch.load(file, weights_only=True)
        self.balancer.load_state_dict(state["balancer"])
        if self.learned is not None:
            self.learned.load_state_dict(state["learned"])
