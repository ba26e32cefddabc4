"""Any aggregator or weighting of TorchJD as a balancer."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any, TypeVar, get_type_hints

import torch
from torch import nn

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.foreign_state import ForeignState
from lossproof.terms.gradients import TermGradients, Want
from lossproof.write.arguments import choice

Tensor = torch.Tensor

FED = ("gramian", "matrix")
OF_TWO_BATCHES = ("MoDoWeighting", "SDMGradWeighting")


def as_balancer(method: Any) -> Balancer:
    """A balancer, from a balancer or from an aggregator or weighting of TorchJD.

    Args:
        method: a :class:`Balancer`, which is returned as it is, or an object of TorchJD.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(method, Balancer):
        return method
    if _is_torchjd(method):
        return FromTorchJD(method)
    what = f"the class {method.__name__}" if isinstance(method, type) else type(method).__name__
    raise TypeError(
        "`balancer` must be a Balancer, or an Aggregator or Weighting of torchjd.aggregation, "
        f"got {what}"
    )


class FromTorchJD(Balancer):
    """A method of TorchJD on named terms: with everything that ``Balancer.backward`` does.

    A weighting is given the Gramian, or the matrix of all gradients where it asks for that, and
    its weights are those of the step. An aggregator that has a weighting of the Gramian is taken by
    that weighting, so that no matrix is needed. Any other aggregator is given the matrix, and what
    it returns is the gradient of the step; the weights that are told are then ones.

    The Gramian is float64, or what tensors among the method's options are; the matrix has the dtype
    of the gradients, or float32 where these are of half precision. What the method keeps between
    steps is in ``state_dict()``, which TorchJD's own modules do not load again. Methods that draw
    random numbers take them from torch's global generator. Where several ranks train together, the
    weights are the mean of what the method says on each. TorchJD's thresholds are absolute, for
    example UPGrad's on the trace of the Gramian: lossproof's own methods have none.

    Args:
        method: an aggregator or a weighting, such as ``torchjd.aggregation.UPGrad()``.
        names: the names of the terms, in their order. Without them they are taken from the first
            step.
        fed: what a weighting is given, ``"gramian"`` or ``"matrix"``; without it what the
            annotation of its ``forward`` says. ``MoDoWeighting`` and ``SDMGradWeighting`` take
            products of the gradients of two independent batches, and need a choice.
        every: the weights are computed anew in every n-th step; 1 for an aggregator without
            weights.

    Raises:
        TypeError: it is no aggregator or weighting of TorchJD.
        ValueError: an option is out of range, or it cannot be told what a weighting is given.

    Example:
        .. code-block:: python

            from torchjd.aggregation import UPGrad

            balancer = FromTorchJD(UPGrad())
            balancer.backward({"data": data_loss, "pde": pde_loss}, model)

    Source:
        Quinton and Rey (2024), Jacobian descent for multi-objective optimization, arXiv 2406.16232;
        the library at https://github.com/SimplexLab/TorchJD.
    """

    def __init__(
        self,
        method: Any,
        names: Sequence[str] | None = None,
        *,
        fed: str | None = None,
        every: int = 1,
    ) -> None:
        if not _is_torchjd(method):
            what = f"the class {method.__name__}" if isinstance(method, type) else repr(method)
            raise TypeError(
                f"`method` must be an Aggregator or Weighting of torchjd.aggregation, got {what}"
            )
        weighting, self._fed = _weighting_of(method, fed)
        super().__init__(names, every=every)
        if weighting is None and self.every != 1:
            raise ValueError(
                f"`every` must be 1: {type(method).__name__} has no weights that could be held, "
                f"got {every}"
            )
        self.state = ForeignState(method, method if weighting is None else weighting)
        self._dtype = self.state.dtype or torch.float64
        self._whole = weighting is None

    @property
    def needs(self) -> tuple[Want, ...]:  # type: ignore[override]
        """What the method is given."""
        return ("gramian",) if self._fed == "gramian" else ("gradients",)

    @property
    def combines(self) -> bool:
        return self._whole

    def weights_of(self, figures: TermGradients) -> Tensor:
        self.state.expect(figures.names)
        if self._whole:
            return torch.ones_like(figures.values)
        count = len(figures.names)
        return self.over_ranks(lambda: self._weights(figures), count).to(figures.values)

    def _weights(self, figures: TermGradients) -> Tensor:
        stat = figures.gramian.to(self._dtype) if self._fed == "gramian" else _matrix(figures)
        return self._called(stat, figures, len(figures.names), "weight for each term")

    def gradients_of(self, figures: TermGradients, weights: Tensor) -> dict[str, Tensor]:
        if not self._whole:
            return super().gradients_of(figures, weights)
        rows = figures.gradient_rows()
        matrix = _matrix(figures)
        step = self._called(matrix, figures, matrix.shape[1], "entry for each column")
        sizes = [part[0].numel() for part in rows.values()]
        return {
            name: part.view(like.shape[1:]).to(like)
            for (name, like), part in zip(rows.items(), torch.split(step, sizes), strict=True)
        }

    def _called(self, stat: Tensor, figures: TermGradients, count: int, what: str) -> Tensor:
        try:
            found: Tensor = self.state.method(stat)
        except (RuntimeError, TypeError, ValueError) as error:
            raise RuntimeError(
                f"torchjd's {self.state.title} failed on the {self._fed} of the terms "
                f"{list(figures.names)}, of shape {list(stat.shape)}: {error}"
            ) from error
        if found.shape != (count,):
            raise RuntimeError(
                f"torchjd's {self.state.title} must return one {what}, {count} numbers, got the "
                f"shape {list(found.shape)}"
            )
        return found.detach()

    def extra_repr(self) -> str:
        return f"{self.state.title}, fed={self._fed!r}"


def _is_torchjd(method: Any) -> bool:
    library = sys.modules.get("torchjd.aggregation")  # imported by whoever made one
    return library is not None and isinstance(method, (library.Aggregator, library.Weighting))


def _weighting_of(method: Any, fed: str | None) -> tuple[nn.Module | None, str]:
    """What gives the weights, if anything does, and what it is given."""
    library = sys.modules["torchjd.aggregation"]
    if isinstance(method, library.Weighting):
        return method, choice("fed", fed, FED) if fed is not None else _given_to(method)
    if fed not in (None, "matrix"):
        raise ValueError(f"`fed` of an aggregator must be 'matrix' or None, got {fed!r}")
    plain = type(method).forward is library.WeightedAggregator.forward
    if plain and fed is None and isinstance(method, library.GramianWeightedAggregator):
        return method.gramian_weighting, "gramian"
    return (method.weighting, "matrix") if plain else (None, "matrix")


def _given_to(weighting: Any) -> str:
    """What a weighting is given, by the annotation of its ``forward``."""
    linalg: Any = importlib.import_module("torchjd.linalg")

    if type(weighting).__name__ in OF_TWO_BATCHES:
        raise ValueError(
            f"`fed` must be chosen for {type(weighting).__name__}, which takes the products of the "
            "gradients of two independent batches: 'gramian' gives it those of one batch with "
            "themselves"
        )
    try:
        hints = get_type_hints(type(weighting).forward)
    except NameError:  # an annotation as text, of a name that its module does not have
        hints = {}
    hints.pop("return", None)
    given = next(iter(hints.values()), None)
    inner = getattr(weighting, "weighting", None)
    if isinstance(given, TypeVar) and inner is not None and not hasattr(weighting, "fn"):
        return _given_to(inner)  # a wrapper passes on what it is given
    if given is linalg.PSDMatrix:
        return "gramian"
    if given in (linalg.Matrix, Tensor):
        return "matrix"
    raise ValueError(
        f"`fed` must be 'gramian' or 'matrix': the annotation of {type(weighting).__name__}.forward"
        " does not say what it is given"
    )


def _matrix(figures: TermGradients) -> Tensor:
    """The gradients as a matrix with a row for each term."""
    rows = list(figures.gradient_rows().values())
    dtype = torch.float32
    for part in rows:
        dtype = torch.promote_types(dtype, part.dtype)
    return torch.cat([part.reshape(len(part), -1).to(dtype) for part in rows], 1)
