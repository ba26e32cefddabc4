"""The gradient of every term of a composite loss: ``term_gradients``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any, Literal, get_args

import torch

from lossproof.terms.autocast import autocast_off
from lossproof.terms.distributed import Ranks, synchronised
from lossproof.terms.engine import Found, compute
from lossproof.terms.held import Group, Rows, total_products
from lossproof.terms.parameters import Parameters, chosen_parameters
from lossproof.terms.sharded import compute_sharded, refuse_flattened, shards
from lossproof.terms.statistics import SINGLE, StatisticsTable
from lossproof.terms.terms import Terms, named_terms
from lossproof.terms.workspace import WORKSPACE
from lossproof.write.arguments import flag
from lossproof.write.sharding import is_sharded

Tensor = torch.Tensor
Want = Literal["norm", "mean", "mean_abs", "max_abs", "cosine", "gramian", "gradients"]
WANTS: tuple[Want, ...] = get_args(Want)
STATISTICS: tuple[Want, ...] = WANTS[:-1]


class TermGradients:
    """What is known of the gradients of the terms of one step.

    Attributes:
        names: the names of the terms, in their order.
        values: the values of the terms, K numbers.
        parameters: the names of the parameters that the gradients are of.
        shapes: their shapes.
        shards: into how many pieces each of them is divided over the ranks, 1 where it is whole.
        frozen: the chosen parameters that require no gradient.
        unused: the parameters that no term depends on.
        constant: the terms that depend on none of the parameters.
        nonfinite: the terms whose value or gradient holds NaN or an infinity.
        unreached: for each term, the parameters that it does not depend on.
    """

    def __init__(
        self,
        terms: Terms,
        parameters: Parameters,
        found: Found,
        scale: Tensor | None = None,
    ) -> None:
        self.names = terms.names
        self.values = terms.values
        self.parameters = parameters.names
        self.shapes = tuple(tensor.shape for tensor in parameters.tensors)
        self.shards = tuple(shards(tensor) for tensor in parameters.tensors)
        self.frozen = parameters.frozen
        self._chosen = parameters
        self._table = found.table
        self._gramian = found.gramian
        self._groups: tuple[Group, ...] = tuple(found.groups)
        self._let_go = False
        self._buffers = found.buffers
        self._reached = found.reached
        self._scale = scale
        if scale is not None:
            by = scale.to(self.values)
            self._table.rescale(by)
            self._gramian = None if self._gramian is None else self._gramian / by.square()

    def __repr__(self) -> str:
        known = ", ".join(self.known) or "nothing of the gradients"
        return (
            f"TermGradients of {', '.join(self.names)} over {len(self.parameters)} parameters: "
            f"{known}"
        )

    @classmethod
    def from_matrix(
        cls,
        matrix: Tensor,
        names: Sequence[str] | None = None,
        values: Tensor | None = None,
    ) -> TermGradients:
        """The figures of gradients that are already there, as K rows of P numbers.

        Args:
            matrix: shape (K, P), the gradient of each term as a row, floating point.
            names: the names of the K terms; without them ``"0"``, ``"1"``, ...
            values: the values of the K terms; without them ones.

        Example:
            >>> import torch
            >>> from lossproof.terms import TermGradients
            >>> figures = TermGradients.from_matrix(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
            >>> figures.vector("norm")
            tensor([5., 2.], dtype=torch.float64)
        """
        count, size = matrix.shape
        given = torch.ones(count) if values is None else values
        terms = Terms(
            tuple(names) if names is not None else tuple(str(k) for k in range(count)),
            tuple(given.to(matrix.device)),
        )
        parameters = Parameters(("parameter 0",), (matrix.new_zeros(size),))
        table = StatisticsTable(SINGLE, [size], count, matrix.device)
        for term, row in enumerate(matrix):
            table.add(term, [0], [row])
        rows = Rows([0], parameters.tensors, matrix)
        gramian = total_products([rows], count, matrix.device)
        return cls(terms, parameters, Found(table, gramian, [rows], [[True]] * count))

    @classmethod
    def of_values(cls, terms: Terms) -> TermGradients:
        """What is known where nothing was computed of the gradients: the values of the terms."""
        table = StatisticsTable((), (), len(terms), terms.tensors[0].device)
        return cls(terms, Parameters((), ()), Found(table, None, [], [[]] * len(terms)))

    @property
    def parts(self) -> dict[str, Tensor]:
        """All figures as tensors: values, sums or maxima of statistics, Gramian, reach."""
        found = {"values": self.values, **self._table.kept}
        if self._gramian is not None:
            found["gramian"] = self._gramian
        reached = torch.tensor([list(row) for row in self._reached], dtype=torch.bool)
        return {**found, "reached": reached.to(self.values.device)}

    def replaced(self, parts: Mapping[str, Tensor]) -> TermGradients:
        """The same gradients with other figures, such as those over all ranks (see `parts`)."""
        figures = copy(self)
        figures.values = parts["values"]
        figures._table = self._table.replaced({name: parts[name] for name in self._table.kept})
        figures._gramian = parts.get("gramian")
        figures._reached = parts["reached"].tolist()
        return figures

    def release(self) -> None:
        """Let the gradients go, and hand their memory on to the next step; the figures stay."""
        self._groups = ()
        self._let_go = True
        WORKSPACE.give_back(self._buffers)
        self._buffers.clear()

    def _give_away(self) -> None:
        """Whole gradients may be kept by who asked: no later step works in their memory."""
        self._buffers.clear()

    def _held(self) -> tuple[Group, ...]:
        if self._let_go:
            raise ValueError(
                "the gradients of this step were let go when `.grad` was filled; ask "
                "lossproof.term_gradients with want=['gradients'] for them"
            )
        return self._groups

    @property
    def known(self) -> tuple[str, ...]:
        """What was computed, and can be asked for: statistics, ``"gramian"`` and ``"cosine"``."""
        of_pairs = () if self._gramian is None else ("gramian", "cosine")
        return self._table.wanted + of_pairs

    def vector(self, statistic: str) -> Tensor:
        """A statistic of every term over all parameters: K numbers in the order of the names.

        Args:
            statistic: ``"norm"``, ``"mean"``, ``"mean_abs"`` or ``"max_abs"``.

        Raises:
            ValueError: it is no such statistic, or it was not asked for.
        """
        return self._table.over_all(self._asked(statistic))

    def by_parameter(self, statistic: str) -> Tensor:
        """A statistic of every parameter and term: a matrix of parameters x K.

        Args:
            statistic: ``"norm"``, ``"mean"``, ``"mean_abs"`` or ``"max_abs"``.

        Raises:
            ValueError: it is no such statistic, or it was not asked for.
        """
        return self._table.by_parameter(self._asked(statistic))

    def _asked(self, statistic: str) -> str:
        if statistic not in SINGLE:
            raise ValueError(f"`statistic` must be one of {', '.join(SINGLE)}, got {statistic!r}")
        if statistic not in self._table.wanted:
            raise ValueError(f"`{statistic}` was not asked for: add it to `want`")
        return statistic

    def _named(self, statistic: str) -> dict[str, Tensor]:
        return dict(zip(self.names, self.vector(statistic), strict=True))

    @property
    def norm(self) -> dict[str, Tensor]:
        """The Euclidean norm of each term's gradient."""
        return self._named("norm")

    @property
    def mean(self) -> dict[str, Tensor]:
        """The mean of each term's gradient over all its entries."""
        return self._named("mean")

    @property
    def mean_abs(self) -> dict[str, Tensor]:
        """The mean magnitude of the entries of each term's gradient."""
        return self._named("mean_abs")

    @property
    def max_abs(self) -> dict[str, Tensor]:
        """The largest magnitude in each term's gradient."""
        return self._named("max_abs")

    @property
    def gramian(self) -> Tensor:
        """The inner products of the gradients, K x K in the order of the names."""
        if self._gramian is None:
            raise ValueError("`gramian` was not asked for: add it to `want`")
        return self._gramian

    @property
    def cosine(self) -> Tensor:
        """The cosine between every two gradients, K x K; 0 beside a gradient of zero."""
        gramian = self.gramian
        norms = gramian.diagonal().clamp_min(0.0).sqrt()
        scale = torch.where(norms > 0, norms, 1.0)
        return gramian / scale[:, None] / scale

    def combined(self, weights: Tensor | Mapping[str, float]) -> dict[str, Tensor]:
        """The gradient of the weighted sum of the terms, without another backward pass.

        Args:
            weights: K numbers in the order of the names, or a mapping from the names.

        Returns:
            For each parameter that a term depends on, the gradient.
        """
        vector = self._unscaled(self._weights(weights))
        found: dict[int, Tensor] = {}
        for group in self._held():
            found.update(zip(group.positions, group.combined(vector), strict=True))
        return {self.parameters[position]: found[position] for position in sorted(found)}

    def _weights(self, weights: Tensor | Mapping[str, float]) -> Tensor:
        if isinstance(weights, Mapping):
            if set(weights) != set(self.names):
                raise ValueError(
                    f"`weights` must have a number for each of the terms {list(self.names)}, and "
                    f"no other, got {list(weights)}"
                )
            weights = torch.tensor([float(weights[name]) for name in self.names])
        return weights.to(self.values)

    def _unscaled(self, values: Tensor) -> Tensor:
        return values if self._scale is None else values / self._scale.to(values)

    @property
    def gradients(self) -> dict[str, dict[str, Tensor]]:
        """For each term the gradient of each parameter that it depends on."""
        found: dict[str, dict[str, Tensor]] = {name: {} for name in self.names}
        for parameter, rows in self.gradient_rows().items():
            position = self.parameters.index(parameter)
            for term, row, reached in zip(self.names, rows, self._reached, strict=True):
                if reached[position]:
                    found[term][parameter] = row
        return found

    def gradient_rows(self) -> dict[str, Tensor]:
        """For each parameter the gradients of all terms, K stacked tensors of its shape."""
        found: dict[int, Tensor] = {}
        for group in self._held():
            found.update(zip(group.positions, group.rows(), strict=True))
        self._give_away()  # at last: rows may have been written just now
        return {
            name: self._unscaled(found[position])
            for position, name in enumerate(self.parameters)
            if position in found
        }

    @property
    def constant(self) -> tuple[str, ...]:
        return tuple(
            name
            for name, reached in zip(self.names, self._reached, strict=True)
            if not any(reached)
        )

    @property
    def unused(self) -> tuple[str, ...]:
        used = [any(column) for column in zip(*self._reached, strict=True)]
        return tuple(name for name, use in zip(self.parameters, used, strict=True) if not use)

    @property
    def unreached(self) -> dict[str, tuple[str, ...]]:
        return {
            name: tuple(
                parameter
                for parameter, yes in zip(self.parameters, reached, strict=True)
                if not yes
            )
            for name, reached in zip(self.names, self._reached, strict=True)
        }

    @property
    def nonfinite(self) -> tuple[str, ...]:
        finite = torch.isfinite(self.values)
        if self._gramian is not None:
            finite = finite & torch.isfinite(self._gramian.diagonal())
        for statistic in self._table.wanted:
            finite = finite & torch.isfinite(self._table.over_all(statistic))
        return tuple(
            name for name, fine in zip(self.names, finite.tolist(), strict=True) if not fine
        )


def term_gradients(
    terms: Mapping[str, Tensor | None],
    params: Any,
    *,
    want: Want | Iterable[Want] = STATISTICS,
    retain_graph: bool = True,
) -> TermGradients:
    r"""The gradient of every term of a composite loss, or what one wants to know of it.

    For the gradients :math:`g_k = \nabla_\theta L_k` of K terms over P parameters:

    .. math::
        \text{norm}_k = \lVert g_k \rVert_2, \quad
        \text{mean}_k = \tfrac1P \textstyle\sum_p g_{kp}, \quad
        \text{mean\_abs}_k = \tfrac1P \sum_p |g_{kp}|, \quad
        \text{max\_abs}_k = \max_p |g_{kp}|, \quad
        G_{kl} = \langle g_k, g_l \rangle

    Nothing is filled: ``.grad`` stays as it is, and the graph can be used again. The structure of
    the network decides what it costs. Terms on rows of their own of one batch need one backward
    pass in all. Where sums and products are enough, wide layers are never turned into gradients:
    their inputs and cotangents hold all that is asked for. Otherwise it is one pass for each term,
    through nothing but what leads to the parameters. Every way gives the gradients that
    ``torch.autograd.grad`` gives.

    Args:
        terms: named scalar floating-point tensors of one forward pass, at least one. ``None``
            stands for a term that is absent; a constant has a gradient of zero, and is listed.
        params: a module, a tensor, or an iterable of tensors, of modules or of ``(name, tensor)``
            pairs: what the gradients are taken over. Frozen ones are listed, tied ones count once.
        want: one or several of ``"norm"``, ``"mean"``, ``"mean_abs"``, ``"max_abs"``, ``"cosine"``,
            ``"gramian"`` (K x K in the order of the names) and ``"gradients"`` (all of them, with
            K times the memory of one). By default all but the last. The cheapest is ``"gramian"``.
        retain_graph: ``False`` frees the graph, for the last use of it.

    Returns:
        The figures by name. Under ``DistributedDataParallel`` they are of this rank's own batch,
        and nothing is communicated. With parameters sharded by ``fully_shard`` all ranks must make
        the call, the figures are those of the whole batch, and whole gradients are this rank's
        shards.

    Raises:
        TypeError: ``terms`` is no mapping, or one of it or of ``params`` is no tensor.
        ValueError: a term is no scalar, ``params`` holds nothing that requires a gradient, or
            ``want`` asks for something else.
        UnsupportedGraphError: a part of the model runs under a reentrant activation checkpoint,
            where the gradients of single terms would silently be zero.

    Example:
        >>> import torch
        >>> from lossproof import term_gradients
        >>> weight = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> terms = {"data": (3 * weight).sum(), "decay": weight.square().sum()}
        >>> figures = term_gradients(terms, weight)
        >>> figures.norm["decay"]
        tensor(4.4721, dtype=torch.float64)
        >>> figures.cosine
        tensor([[1.0000, 0.9487],
                [0.9487, 1.0000]], dtype=torch.float64)
        >>> figures.combined({"data": 1.0, "decay": 0.5})
        {'parameter 0': tensor([4., 5.])}

    Source:
        I. Goodfellow (2015). Efficient Per-Example Gradient Computations, arXiv:1510.01799, for the
        norms of gradients from inputs and cotangents.
    """
    wanted = _wanted(want)
    flag("retain_graph", retain_graph)
    named, parameters = named_terms(terms), chosen_parameters(params)
    figures = computed(
        named, parameters, wanted, hold="gradients" in wanted, retain_graph=retain_graph
    )
    if any(is_sharded(tensor) for tensor in parameters.tensors):
        return synchronised(figures, Ranks.of(None), with_values=True)
    return figures


def _wanted(want: Any) -> tuple[Want, ...]:
    """What is asked for, as a tuple."""
    several = want if isinstance(want, Iterable) and not isinstance(want, str | Tensor) else (want,)
    wanted = tuple(several)
    for one in wanted:
        if not isinstance(one, str) or one not in WANTS:
            raise ValueError(f"`want` must be of {', '.join(WANTS)}, got {one!r}")
    return wanted


def computed(
    terms: Terms,
    parameters: Parameters,
    want: Sequence[Want],
    *,
    hold: bool,
    retain_graph: bool,
    scale: Tensor | None = None,
) -> TermGradients:
    """Compute what is wanted of the gradients, which are held for combining if asked for.

    Where several ranks train together, it is what this rank knows: the mean over the ranks is what
    all know (see :mod:`lossproof.terms.distributed`).

    Args:
        terms: the terms.
        parameters: what they are differentiated by.
        want: what must be known.
        hold: whether ``combined`` will be called.
        retain_graph: whether the graph can be gone through again afterwards.
        scale: a loss scale, a scalar: the gradients are computed with it, so that half precision
            does not lose them, and everything that is told of them is without it.
    """
    refuse_flattened(parameters)
    if any(is_sharded(tensor) for tensor in parameters.tensors):
        found = compute_sharded(terms, parameters, want, retain_graph=retain_graph, scale=scale)
    else:
        with autocast_off(terms.tensors[0].device):
            found = compute(
                terms, parameters, want, hold=hold, retain_graph=retain_graph, scale=scale
            )
    return TermGradients(terms, parameters, found, scale)
