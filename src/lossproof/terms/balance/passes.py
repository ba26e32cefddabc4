"""A plain backward pass, from the terms or from what a method minimises in their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lossproof.terms.sharded import gradients_by_backward
from lossproof.terms.terms import Terms
from lossproof.write.hooks import hooks_held_back
from lossproof.write.sharding import is_sharded

Tensor = torch.Tensor


@dataclass(frozen=True)
class Pass:
    """A backward pass: from these tensors, with a gradient of each, to these parameters.

    Without ``inputs`` it goes to all leaves, as ``loss.backward()`` does. So it does where one of
    them is sharded, for FSDP fills its ``.grad`` from a copy that is none of them.
    """

    tensors: Sequence[Tensor]
    gradients: Sequence[Tensor]
    inputs: Sequence[Tensor] | None

    def backward(self, retain_graph: bool) -> None:
        """Fill ``.grad``, with all that listens on the way."""
        torch.autograd.backward(
            self.tensors,
            self.gradients,
            inputs=None if self._sharded else self.inputs,
            retain_graph=retain_graph,
        )

    @property
    def _sharded(self) -> bool:
        return any(is_sharded(tensor) for tensor in self.inputs or ())

    def gradients_of_inputs(self, retain_graph: bool) -> Sequence[Tensor | None]:
        """The gradients themselves; ``.grad`` stays as it is."""
        inputs = self.inputs or ()
        if self._sharded:
            return gradients_by_backward(
                self.tensors, self.gradients, inputs, retain_graph=retain_graph
            )
        with hooks_held_back(inputs):
            return torch.autograd.grad(
                self.tensors, inputs, self.gradients, retain_graph=retain_graph, allow_unused=True
            )


def weighted_sum(terms: Terms, weights: Tensor, inputs: Sequence[Tensor] | None) -> Pass:
    """From the terms themselves, each with its weight: no node is added to their graph."""
    dtypes = {term.dtype for term in terms.tensors}
    each = {dtype: weights.to(dtype).unbind() for dtype in dtypes}
    roots = [(term, k) for k, term in enumerate(terms.tensors) if term.requires_grad]
    return Pass([term for term, _ in roots], [each[term.dtype][k] for term, k in roots], inputs)


def objective(
    values: Tensor,
    function: Callable[[Tensor], Tensor],
    factors: Tensor,
    scale: Tensor,
    inputs: Sequence[Tensor] | None,
) -> Pass:
    """From what a method minimises in place of the weighted sum.

    Args:
        values: the values of the terms, with their graph.
        function: what is minimised, from the values.
        factors: what the gradient of each term is multiplied by.
        scale: what the gradient of all is multiplied by, a scalar.
        inputs: the parameters.
    """
    total = function(values.detach() + factors * (values - values.detach()))
    return Pass([total], [scale.to(total).reshape(total.shape)], inputs)


def stacked(terms: Terms) -> Tensor:
    """The values of the terms with their graph, K numbers of the dtype of the weights."""
    own = torch.stack([term.to(terms.values.dtype) for term in terms.tensors])
    if terms.over_ranks is None:
        return own
    # The slope at the values of the whole batch, by the graph of this rank's part of it.
    return terms.over_ranks + (own - own.detach())
