"""A loss of what a Hugging Face model returns, divided by the items of the whole batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

from lossproof.speed.item_loss import ItemLoss
from lossproof.write.arguments import choice, flag

Tensor = torch.Tensor
Classes = Literal["last", "first"]

IGNORED = -100
"""The label that ``Trainer`` leaves out when it counts the items of a batch; it has no option."""


class LossFunction:
    """A loss as ``Trainer(compute_loss_func=...)`` takes it; see :func:`loss_function`."""

    def __init__(
        self,
        loss: Callable[..., Tensor],
        *,
        output: str | int,
        causal: bool,
        classes: Classes | None,
    ) -> None:
        if isinstance(loss, type) or not callable(loss):
            raise TypeError(f"`loss` must be a function or a Module, got {loss!r}")
        if isinstance(output, bool) or not isinstance(output, str | int):
            raise TypeError(f"`output` must be a name or a position, got {output!r}")
        if classes is not None:
            choice("classes", classes, ("last", "first"))
        self.loss = loss
        self.output = output
        self.causal = flag("causal", causal)
        self.classes = classes
        self._item = ItemLoss(loss)
        self._takes = _options_of(loss)
        own = self._item.option("ignore_index")
        if isinstance(own, int) and own != IGNORED and "ignore_index" not in self._takes:
            raise ValueError(
                f"`loss` ignores the label {own}, and Trainer counts all labels but {IGNORED}: "
                f"make it with ignore_index={IGNORED}, and label so"
            )
        self._labels_per_value: dict[Any, float] = {}

    def __repr__(self) -> str:
        name = getattr(self.loss, "__name__", None) or repr(self.loss)
        return f"loss_function({name}, output={self.output!r}, causal={self.causal})"

    def __call__(
        self, outputs: Any, labels: Tensor | None, num_items_in_batch: float | Tensor | None = None
    ) -> Tensor:
        """The loss of a micro-batch: its part of that of the whole batch.

        Args:
            outputs: what the model returned.
            labels: the labels, with -100 where there is none.
            num_items_in_batch: how many labels the whole batch has, over all micro-batches and
                processes; without it the mean over this micro-batch is returned.
        """
        if not isinstance(labels, Tensor):
            raise ValueError(
                "`labels` must be a tensor: the batch needs a column named 'labels', which Trainer "
                "counts and hands over (with remove_unused_columns=False, where the model does not "
                f"take it), got {type(labels).__name__}"
            )
        prediction, labels = self._aligned(_picked(outputs, self.output), labels)
        keep = None if labels.is_floating_point() else labels != IGNORED
        if num_items_in_batch is None:
            num_items_in_batch = labels.numel() if keep is None else keep.sum()
        prediction, labels, options = self._without_ignored(prediction, labels, keep)
        items = torch.as_tensor(num_items_in_batch, device=prediction.device).reshape(-1)[0]
        items = items / self._ratio(prediction, labels, options)  # a replica has one of its own
        if "normalizer" in self._takes and self._item.reduction in {"mean", None}:
            options = {**options, "normalizer": items}
            return self._item.values({}, (prediction, labels), options, "mean")
        return self._item.values({}, (prediction, labels), options, "sum") / items

    def _aligned(self, prediction: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The prediction and the labels as the loss takes them: of sequences the rows."""
        if self.causal:
            if prediction.ndim != labels.ndim + 1 or prediction.shape[:-1] != labels.shape:
                raise ValueError(
                    "with `causal` the logits must have the shape of the labels and an axis of "
                    f"classes at the end, got {list(prediction.shape)} and {list(labels.shape)}"
                )
            prediction, labels = prediction[..., :-1, :], labels[..., 1:]
        if labels.is_floating_point():
            if prediction.shape == (*labels.shape, 1):  # a regression head for one number
                prediction = prediction.squeeze(-1)
            return prediction, labels
        if labels.ndim > 1 and self._classes_last(prediction, labels):
            return prediction.flatten(0, -2), labels.flatten()
        return prediction, labels

    def _classes_last(self, prediction: Tensor, labels: Tensor) -> bool:
        last = prediction.shape[:-1] == labels.shape
        first = (*prediction.shape[:1], *prediction.shape[2:]) == labels.shape
        if last and first and self.classes is None and not self.causal:
            raise ValueError(
                f"the logits {list(prediction.shape)} may have their classes on the second axis or "
                "on the last: say which by classes='first' or classes='last'"
            )
        return last and (self.causal or self.classes != "first")

    def _without_ignored(
        self, prediction: Tensor, labels: Tensor, keep: Tensor | None
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """The same for a loss that ignores -100, one that takes a mask, and one that does neither.

        The first two do not wait for the device.
        """
        if keep is None or self._item.option("ignore_index") == IGNORED:
            return prediction, labels, {}
        if "ignore_index" in self._takes:
            return prediction, labels, {"ignore_index": IGNORED}
        if "mask" in self._takes:
            return prediction, torch.where(keep, labels, 0), {"mask": keep}
        if labels.ndim == 1:
            return prediction[keep], labels[keep], {}
        if not keep.all():
            raise ValueError(
                f"there are labels {IGNORED}, and `loss` takes neither ignore_index nor mask"
            )
        return prediction, labels, {}

    def _ratio(self, prediction: Tensor, labels: Tensor, options: Mapping[str, Any]) -> float:
        """How many labels there are for each value: Trainer counts labels, a mean values.

        A loss of whole vectors, sequences or images has one value for many of them.
        """
        if labels.ndim == 1:
            return 1.0
        kind = (prediction.shape[1:], labels.shape[1:])
        if kind not in self._labels_per_value:
            with torch.no_grad():
                values = self._item.values({}, (prediction, labels), options)
            if not values.ndim:
                raise ValueError(
                    "`loss` must follow the contract, loss(input, target, *, reduction='mean'), so "
                    "that its values can be added up over micro-batches"
                )
            self._labels_per_value[kind] = labels.numel() / values.numel()
        return self._labels_per_value[kind]


def loss_function(
    loss: Callable[..., Tensor],
    *,
    output: str | int = "logits",
    causal: bool = False,
    classes: Classes | None = None,
) -> LossFunction:
    """Make a loss fit for ``Trainer(compute_loss_func=...)``.

    Under gradient accumulation and data parallelism ``Trainer`` hands over how many labels the
    whole batch has, and the loss is divided by that: micro-batches with uneven numbers of tokens
    add up to the one large batch. With weights of classes it still divides by the number of labels.

    Args:
        loss: a function or a Module that follows the contract (of lossproof, torch or anyone), or
            what :func:`lossproof.chunk` makes. It is called with rows of logits and labels where
            the labels are those of sequences.
        output: the name (or position) of what it takes of the model's output. Of a tuple, such as
            ``"hidden_states"``, it takes the last.
        causal: whether a position predicts the label of the next one, as in a language model.
            ``Trainer`` must count so, too: it does for models of transformers whose loss is that
            of a causal language model.
        classes: the axis of the classes, ``"last"`` or ``"first"`` (the second, after the batch),
            where the shapes leave it open.

    Returns:
        A function of ``outputs, labels, num_items_in_batch``. Labels of -100 do not count.

    Raises:
        TypeError: an argument is not of the type above.
        ValueError: ``loss`` ignores another label than -100.

    Example:
        >>> import torch
        >>> from lossproof.integrations.transformers import loss_function
        >>> from lossproof.losses import focal_loss
        >>> compute = loss_function(focal_loss, causal=True)
        >>> labels = torch.tensor([[1, 2, 3, 4, 5], [1, 2, -100, -100, -100]])
        >>> logits = torch.zeros(2, 5, 7)
        >>> whole = compute({"logits": logits}, labels)
        >>> parts = [
        ...     compute({"logits": logits[k : k + 1]}, labels[k : k + 1], num_items_in_batch=5)
        ...     for k in (0, 1)
        ... ]
        >>> bool(torch.isclose(sum(parts), whole))
        True
    """
    return LossFunction(loss, output=output, causal=causal, classes=classes)


def _picked(outputs: Any, which: str | int) -> Tensor:
    """One output of a model: of a mapping, an object or a tuple; of several layers the last."""
    try:
        if isinstance(outputs, Mapping) or isinstance(which, int):
            found = outputs[which]
        else:
            found = getattr(outputs, which)
    except (KeyError, IndexError, AttributeError):
        found = None
    if isinstance(found, tuple | list) and found:
        found = found[-1]
    if not isinstance(found, Tensor):
        raise ValueError(f"the model returned no tensor called {which!r}: {_choice(outputs)}")
    return found


def _choice(outputs: Any) -> str:
    if isinstance(outputs, Mapping):
        return f"choose `output` from {list(outputs)}"
    if isinstance(outputs, tuple | list):
        return f"it is a {type(outputs).__name__}, give `output` as a position below {len(outputs)}"
    return f"choose `output` from what {type(outputs).__name__} has"


def _options_of(loss: Callable[..., Tensor]) -> frozenset[str]:
    """The options that the loss can be called with, by name."""
    base: Any = loss
    while hasattr(base, "func") and hasattr(base, "keywords"):  # a partial one
        base = base.func
    function = getattr(type(base), "function", None) or getattr(base, "forward", base)
    try:
        return frozenset(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # a builtin
        return frozenset()
