r"""Which parameters are matrices of a product, so that their gradients have a factored form.

In :math:`y = x W^\top` the gradient of a term is :math:`C_k^\top X`, with the cotangent
:math:`C_k` of the output: from the cotangents and the input alone follow all inner products of the
gradients, without the gradients themselves (the "ghost" of Goodfellow 2015). autograd's graph keeps
the input, so a layer is recognised whatever module or function it was written with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.autograd.graph import GradientEdge

from lossproof.terms.graph import Graph, Node

Tensor = torch.Tensor

_TRANSPOSES = ("TBackward0", "TransposeBackward0", "PermuteBackward0")
_CASTS = ("ToCopyBackward0",)
"""What autocast puts between a parameter and the product."""


@dataclass(frozen=True)
class MatrixUse:
    """One product in which a parameter is a factor: its gradient is ``left.T @ right``.

    Attributes:
        edge: where the cotangent of the product arrives.
        node: the node of the product.
        cotangent_left: whether the cotangent is the left one of the two.
        flipped: whether both are transposed, as where the parameter is the first factor.
        rows: how many rows both have.
        fixed: how many columns the saved factor has.
        moving: how many columns the cotangent has.
        scale: what the product is multiplied by (``alpha`` of ``addmm``).
    """

    edge: GradientEdge
    node: Node
    cotangent_left: bool
    flipped: bool
    rows: int
    fixed: int
    moving: int
    scale: float

    def saved_factor(self) -> Tensor:
        """The factor that the forward pass kept, ``rows`` x ``fixed``."""
        factor: Tensor = getattr(self.node, f"_saved_{self._kept}").detach()
        return factor.T if self.flipped else factor

    @property
    def kept_as_it_is(self) -> bool:
        """Whether the factor lies there, and is not recomputed or fetched when it is asked for."""
        return is_kept(self.node, self._kept)

    @property
    def _kept(self) -> str:
        if self.flipped:
            return "mat2"
        return "mat1" if self.node.name() == "AddmmBackward0" else "self"

    def oriented(self, cotangent: Tensor) -> Tensor:
        """The cotangent as ``rows`` x ``moving``."""
        return cotangent.mT if self.flipped else cotangent

    def moving_factor(self, cotangent: Tensor) -> Tensor:
        """The cotangent as it enters the gradient: oriented, and multiplied by the scale."""
        oriented = self.oriented(cotangent)
        return oriented if self.scale == 1.0 else oriented * self.scale


@dataclass(frozen=True)
class BiasUse:
    """An addend of ``addmm``: its gradient is the sum of the cotangent over the rows."""

    edge: GradientEdge
    node: Node
    scale: float

    def of_rows(self, cotangent: Tensor) -> Tensor:
        """What each row of the cotangent adds to the gradient."""
        return cotangent if self.scale == 1.0 else cotangent * self.scale


@dataclass(frozen=True)
class NormalisationUse:
    """The factor or the addend of a layer norm."""

    edge: GradientEdge
    node: Node
    is_factor: bool

    def of_rows(self, cotangent: Tensor) -> Tensor:
        """What each row of the cotangent adds to the gradient."""
        if not self.is_factor:
            return cotangent
        given: Tensor = self.node._saved_input.detach()
        mean, inverse = self.node._saved_result1, self.node._saved_result2
        normalised: Tensor = (given - mean) * inverse
        return cotangent * normalised


def is_kept(node: Node, name: str) -> bool:
    """Whether a saved tensor lies there as it was saved, with no hook that must bring it."""
    kept = getattr(node, f"_raw_saved_{name}")
    return getattr(kept, "unpack_hook", kept) is None


def matrix_uses(graph: Graph, leaf: Tensor) -> list[MatrixUse] | None:
    """All uses of a matrix, or ``None`` where one of them is no product that we know."""
    if leaf.dim() != 2 or leaf.is_sparse or leaf._backward_hooks:
        return None
    uses = []
    for node, position, transposed in _ends(graph, graph.leaves[id(leaf)][1]):
        use = _product(node, position, transposed)
        if use is None or not use.kept_as_it_is:
            return None
        uses.append(use)
    return uses


def normalisation_uses(graph: Graph, leaf: Tensor) -> list[NormalisationUse] | None:
    """All uses as factor or addend of a layer norm, or ``None`` where one is another."""
    if leaf._backward_hooks:
        return None
    uses = []
    for node, position, transposed in _ends(graph, graph.leaves[id(leaf)][1]):
        if node.name() != "NativeLayerNormBackward0" or position not in (1, 2) or transposed:
            return None
        if not is_kept(node, "input"):
            return None
        uses.append(NormalisationUse(GradientEdge(node, 0), node, position == 1))
    return uses


def bias_uses(graph: Graph, leaf: Tensor) -> list[BiasUse] | None:
    """All uses of a vector that ``addmm`` adds to every row, or ``None`` where one is another."""
    if leaf.dim() != 1 or leaf._backward_hooks:
        return None
    uses = []
    for node, position, _ in _ends(graph, graph.leaves[id(leaf)][1]):
        if node.name() != "AddmmBackward0" or position != 0:
            return None
        output = node._input_metadata[0]
        if output.shape[-1] != leaf.numel() or output.dtype.is_complex:
            return None
        uses.append(BiasUse(GradientEdge(node, 0), node, float(node._saved_beta)))
    return uses


def gives_sparse_gradients(graph: Graph, leaf: Tensor) -> bool:
    """Whether the gradient of a leaf may be sparse, as that of an embedding can be asked to be."""
    uses = graph.consumers.get(graph.leaves[id(leaf)][1], ())
    return any(getattr(node, "_saved_sparse", False) is True for node, _, _ in uses)


def _ends(graph: Graph, start: Node) -> Iterator[tuple[Node, int, bool]]:
    """Where a leaf arrives behind a transposition and casts: node, position, whether transposed."""
    stack = [(start, False)]
    while stack:
        node, transposed = stack.pop()
        for consumer, position, _ in graph.consumers.get(node, ()):
            if transposed or not _is_view(consumer):
                yield consumer, position, transposed
            else:
                stack.append((consumer, consumer.name() not in _CASTS and _swaps(consumer)))


def _is_view(node: Node) -> bool:
    name = node.name()
    return name in _CASTS or (name in _TRANSPOSES and len(node._input_metadata[0].shape) == 2)


def is_view_of_leaf(node: Node) -> bool:
    """Whether a node is a leaf, or only turns or casts one."""
    while node.next_functions and _is_view(node):
        node = node.next_functions[0][0]
    return not node.next_functions


def _swaps(node: Node) -> bool:
    """Whether a transposition of a matrix exchanges its axes, and does not leave them."""
    if node.name() == "TBackward0":
        return True
    if node.name() == "TransposeBackward0":
        return (int(node._saved_dim0) - int(node._saved_dim1)) % 2 == 1
    return [axis % 2 for axis in node._saved_dims] == [1, 0]


def _product(node: Node, position: int, transposed: bool) -> MatrixUse | None:
    name = node.name()
    if node._input_metadata[0].dtype.is_complex:
        return None  # a real matrix that was made complex
    if name == "AddmmBackward0":
        first, second, scale = 1, 2, float(node._saved_alpha)
    elif name == "MmBackward0":
        first, second, scale = 0, 1, 1.0
    else:
        return None
    if position not in (first, second):
        return None
    out_rows, out_columns = (int(size) for size in node._input_metadata[0].shape)
    edge = GradientEdge(node, 0)
    if position == second:
        inner = _saved_sizes(node, first=True)[1]
        return MatrixUse(edge, node, transposed, False, out_rows, inner, out_columns, scale)
    inner = _saved_sizes(node, first=False)[0]
    return MatrixUse(edge, node, not transposed, True, out_columns, inner, out_rows, scale)


def _saved_sizes(node: Node, *, first: bool) -> tuple[int, int]:
    if node.name() == "AddmmBackward0":
        sizes = node._saved_mat1_sym_sizes if first else node._saved_mat2_sym_sizes
    else:
        sizes = node._saved_self_sym_sizes if first else node._saved_mat2_sym_sizes
    rows, columns = sizes
    return int(rows), int(columns)
