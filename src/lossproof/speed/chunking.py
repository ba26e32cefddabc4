"""Any loss over a huge output layer, with the memory of a few rows of logits."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch._C._functorch import TransformType
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad

from lossproof.speed.chunk_call import Call, Ignoring, read_call, refuse_unlike
from lossproof.speed.chunk_captured import captured_by, captures_any
from lossproof.speed.chunk_compiled import CompiledLoss
from lossproof.speed.chunk_counting import counting_of, denominator_of
from lossproof.speed.chunk_functions import ChunkedSum, ChunkedValues, values_of
from lossproof.speed.chunk_plan import LEAST_ROWS, Plan, with_axes
from lossproof.speed.gathered import gathered
from lossproof.speed.heads import AnyHead, Head, LinearHead, head_of, usable_head
from lossproof.speed.item_loss import Counting, ItemLoss
from lossproof.speed.separability import refuse_coupled_rows
from lossproof.speed.softmax_slope import SoftmaxSlope
from lossproof.speed.surroundings import surroundings
from lossproof.write.accelerated import Accelerated
from lossproof.write.arguments import (
    choice,
    flag,
    integer,
    transformed,
    visible,
)
from lossproof.write.reduction import divide

Tensor = torch.Tensor
REDUCTIONS = ("none", "mean", "sum", "batchmean")


class ChunkedLoss(Accelerated):
    """A loss over an output layer that is computed a chunk of rows at a time; see :func:`chunk`."""

    def __init__(
        self,
        loss: Callable[..., Tensor],
        head: AnyHead,
        *,
        target_head: AnyHead | None = None,
        reduction: str | None = None,
        ignore_index: int | None = None,
        chunk_size: int | None = None,
        chunk_bytes: int = 1 << 25,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(loss, type) or not callable(loss):
            raise TypeError(f"`loss` must be a function or a Module, got {loss!r}")
        usable_head(head)
        if target_head is not None:
            usable_head(target_head, "target_head")
        self.loss = loss
        self.head = head
        self.target_head = target_head
        self._item = ItemLoss(loss)
        own = "mean" if self._item.reduction is None else self._item.reduction
        given = own if reduction is None else reduction
        self.reduction = choice("reduction", given, REDUCTIONS)
        self.ignore_index = ignore_index
        if ignore_index is not None:
            integer("ignore_index", ignore_index)
        if ignore_index is not None and target_head is not None:
            raise ValueError(
                "`ignore_index` is about a target of indices, and `target_head` makes another "
                "one: give `mask` for the rows that count"
            )
        self._ignoring = Ignoring.of(self._item, ignore_index)
        self.chunk_size = chunk_size
        if chunk_size is not None:
            integer("chunk_size", chunk_size, minimum=1)
        self.chunk_bytes = integer("chunk_bytes", chunk_bytes, minimum=1)
        self.compile_loss = flag("compile", compile)
        self._counting: dict[Any, Counting] = {}
        self._programs: dict[Any, CompiledLoss] = {}
        self._row_bytes = 0
        self._overwrites = False

    @property
    def compiles(self) -> bool:
        return self.compile_loss

    def extra_repr(self) -> str:
        shown = [] if isinstance(self.loss, nn.Module) else [getattr(self.loss, "__name__", "loss")]
        shown.append(f"reduction={self.reduction!r}")
        if self.ignore_index is not None:
            shown.append(f"ignore_index={self.ignore_index}")
        return ", ".join(shown)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(
        self,
        hidden: Tensor,
        *arguments: Tensor,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
        **shared: Any,
    ) -> Tensor:
        """The loss of a batch; the arguments are those of :func:`chunk`."""
        call = read_call(hidden, arguments, weight, mask, normalizer, shared, self._ignoring)
        plan, tensors = self._planned(call)
        if _needs_plain(tensors):
            return self._plain(call, plan, tensors)
        self._tried(call, plan, tensors)
        if torch.is_grad_enabled() and not _closes_over_nothing(plan):
            if transformed():
                if captures_any(plan, tensors):
                    return self._plain(call, plan, tensors)
            else:
                plan.captured = captured_by(plan, tensors)
                tensors = (*tensors, *plan.captured)
        if self.compile_loss and plan.slope is None:
            plan.compiled = self._compiled(plan)
        return self._computed(call, plan, tensors)

    def plain(
        self,
        hidden: Tensor,
        *arguments: Tensor,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
        **shared: Any,
    ) -> Tensor:
        """The same loss of the whole batch at once, through all of its logits."""
        call = read_call(hidden, arguments, weight, mask, normalizer, shared, self._ignoring)
        return self._plain(call, *self._planned(call))

    def _planned(self, call: Call) -> tuple[Plan, tuple[Tensor, ...]]:
        """How the call is computed, and from which tensors."""
        head = head_of(self.head)
        refuse_unlike(call, head)
        target_head = None if self.target_head is None else head_of(self.target_head, "target_head")
        module = self._item.module
        parameters = dict(module.named_parameters()) if module is not None else {}
        index, hidden, mask = None, call.hidden, call.mask
        if call.keep is not None and visible(call.keep):
            index = call.keep.nonzero().squeeze(1)
        elif call.keep is not None:
            # Where rows cannot be counted they are computed, and must do no harm.
            hidden = torch.where(call.keep.unsqueeze(1), hidden, 0.0)
            mask = call.keep if mask is None else mask & with_axes(call.keep, mask)
        rows = [hidden, *call.arguments]
        rows += [one for one in (call.weight, mask) if one is not None]
        shared = [*head.tensors, *(() if target_head is None else target_head.tensors)]
        shared += [*parameters.values(), *call.shared.values()]
        tensors = (*rows, *map(gathered, shared))
        options = dict(call.options)
        if self.ignore_index is not None and self._item.takes("ignore_index"):
            options["ignore_index"] = self.ignore_index
        plan = Plan(
            item=self._item,
            head=head,
            target_head=target_head,
            loss_parameters=tuple(parameters),
            shared_names=tuple(call.shared),
            options=options,
            captured=(),
            arguments=len(call.arguments),
            weighted=call.weight is not None,
            masked=mask is not None,
            index=index,
            rows=self._rows(head, hidden),
            surroundings=surroundings(tensors),
            slope=self._slope(call, options),
            count=len(hidden),
        )
        return plan, tensors

    def _rows(self, head: Head, hidden: Tensor) -> int:
        """How many rows a chunk has: enough for fast products, then as many as the bytes allow."""
        if self.chunk_size is not None:
            return self.chunk_size
        size = max(4, hidden.element_size())
        row = head.weight.shape[0] * size if isinstance(head, LinearHead) else self._row_bytes
        return max(LEAST_ROWS, self.chunk_bytes // row) if row else LEAST_ROWS

    def _slope(self, call: Call, options: Mapping[str, Any]) -> SoftmaxSlope | None:
        """The formula of the gradient, for torch's own cross entropy of class indices."""
        target = call.target
        if not self._item.is_cross_entropy() or len(call.arguments) != 1 or call.shared:
            return None
        if target is None or target.is_floating_point() or target.ndim != 1:
            return None
        if self.target_head is not None or set(options) - {"ignore_index"}:
            return None
        weights = self._item.option("weight")
        if weights is not None and weights.requires_grad:
            return None
        ignored = options.get("ignore_index", self._item.option("ignore_index"))
        return SoftmaxSlope(float(self._item.option("label_smoothing")), weights, int(ignored))

    def _compiled(self, plan: Plan) -> CompiledLoss | None:
        if plan.captured:
            warnings.warn(
                "the loss or the head closes over parameters, whose gradients a compiled loss "
                "would not have: it is computed uncompiled; give them by name to compile it",
                RuntimeWarning,
                stacklevel=4,
            )
            return None
        if plan.loss_draws:
            warnings.warn(
                "the loss draws random numbers, and a compiled one would draw others than its "
                "values and its second derivatives are computed with: it is computed uncompiled",
                RuntimeWarning,
                stacklevel=4,
            )
            return None
        key = (
            *(plan.arguments, plan.weighted, plan.masked, plan.shared_names, repr(plan.options)),
            *(one.training for one in self._modules_of_call()),
        )
        if key not in self._programs:
            self._programs[key] = CompiledLoss(plan)
        return self._programs[key]

    def _tried(self, call: Call, plan: Plan, tensors: Sequence[Tensor]) -> None:
        """At the first call of a kind, see that rows are separate and what the mean divides by."""
        key = self._kind(call)
        rows = len(call.hidden) if plan.index is None else len(plan.index)
        if key in self._counting or not rows or not _has_values(call.hidden):
            plan.overwrites = self._overwrites
            return
        company = refuse_coupled_rows(plan, tensors, self._modules_of_call())
        logits = company.logits
        self._overwrites = plan.overwrites = self._overwrites or company.overwritten
        self._row_bytes = logits[:1].numel() * max(4, logits.element_size())
        own = self._item.reduction is not None and self._ignoring.by_loss
        if self.reduction == "mean" and own and call.normalizer is None:
            self._counting[key] = counting_of(
                call, plan, self._ignoring, logits, company.rows, company.of_loss
            )
        else:
            self._counting[key] = self._item.counting(call.target)[0]

    def _modules_of_call(self) -> list[nn.Module]:
        return [
            one for one in (self.loss, self.head, self.target_head) if isinstance(one, nn.Module)
        ]

    def _kind(self, call: Call) -> Any:
        shapes = [(one.dtype, one.shape[1:]) for one in (call.hidden, *call.arguments)]
        training = [one.training for one in self._modules_of_call()]
        return (*shapes, call.weight is None, call.mask is None, *training)

    def _computed(self, call: Call, plan: Plan, tensors: Sequence[Tensor]) -> Tensor:
        recorded = transformed() or any(one.requires_grad for one in tensors)
        if recorded and torch.is_grad_enabled() and self.reduction != "none" and not transformed():
            total: Tensor = ChunkedSum.apply(plan, *tensors)  # type: ignore[no-untyped-call]
            return self._reduced(call, plan, total)
        values: Tensor = (
            ChunkedValues.apply(plan, *tensors)  # type: ignore[no-untyped-call]
            if recorded
            else values_of(plan, tensors)
        )
        if self.reduction == "none":
            return values.reshape((*call.lead, *values.shape[1:]))
        return self._reduced(call, plan, values.sum())

    def _reduced(self, call: Call, plan: Plan, total: Tensor) -> Tensor:
        if self.reduction == "sum":
            return total
        if self.reduction == "batchmean":
            by = len(call.hidden) if call.normalizer is None else call.normalizer
            return divide(total, by).to(total.dtype)
        counting = self._counting.get(self._kind(call)) or self._item.counting(call.target)[0]
        return divide(total, denominator_of(call, plan, self._ignoring, counting)).to(total.dtype)

    def _plain(self, call: Call, plan: Plan, tensors: Sequence[Tensor]) -> Tensor:
        rows, shared = plan.split(tensors)
        logits = plan.head.logits(rows[0], plan.of_head(shared))
        rows, of_loss = plan.through_target_head(rows, shared), plan.beyond_heads(shared)
        if call.counts_itself and self._item.reduction is not None:
            found = plan.called(logits, rows, of_loss, self.reduction)
            of_items = self.reduction == "none"
            return found.reshape((*call.lead, *found.shape[1:])) if of_items else found
        values = plan.counted(plan.values(logits, rows, of_loss), rows)
        if call.keep is not None:
            values = torch.where(with_axes(call.keep, values), values, 0.0)
        if self.reduction == "none":
            return values.reshape((*call.lead, *values.shape[1:]))
        return self._reduced(call, plan, values.sum())


def _closes_over_nothing(plan: Plan) -> bool:
    """Whether loss and head are of kinds that have no tensors but their own."""
    linear = isinstance(plan.head, LinearHead) and plan.head.body is None
    return linear and plan.slope is not None


def _has_values(value: Tensor) -> bool:
    return not (transformed() or value.is_meta or isinstance(value, FakeTensor))


def _needs_plain(tensors: Sequence[Tensor]) -> bool:
    """Whether something differentiates or batches in a way that goes through plain operations."""
    if transformed():
        stack = torch._C._functorch.get_interpreter_stack() or ()
        return any(one.key() != TransformType.Grad for one in stack)
    return any(
        forward_ad.unpack_dual(one).tangent is not None  # type: ignore[no-untyped-call]
        for one in tensors
    )


def chunk(
    loss: Callable[..., Tensor],
    head: AnyHead,
    *,
    target_head: AnyHead | None = None,
    reduction: str | None = None,
    ignore_index: int | None = None,
    chunk_size: int | None = None,
    chunk_bytes: int = 1 << 25,
    compile: bool = False,
) -> ChunkedLoss:
    r"""A loss over a huge output layer, with the memory of a few rows of logits.

    .. math::
        \frac{1}{D} \sum_i w_i \, \ell(f(h_i), t_i, \dots)

    where :math:`f` is the head, :math:`h_i` the hidden state of row :math:`i` and :math:`D` what
    the mean of the loss divides by. The rows go through head and loss a chunk at a time, and their
    gradient is made at once, so that neither the logits nor their gradient ever exist as a whole.
    Values and gradients are those of the plain computation but for rounding.

    Any loss will do whose value of a row does not depend on other rows; that is tried on a few rows
    at the first call, and so is what the loss's own mean divides by. Gradients reach the hidden
    states, the parameters of head and loss, every tensor that is given, and parameters that a
    function closes over. They are gradients of the sum, added up in float32, and divided in
    backward, so that float16 does not flush them to zero. ``.grad`` is written in backward alone.

    The gradient is made in forward for a scalar loss. ``reduction="none"``, ``torch.func.grad``, a
    second backward and double backward compute the chunks again. Under ``torch.func.vmap``, forward
    mode and third derivatives the result is right and the memory that of the plain loss.
    ``torch.compile`` breaks its graph here.

    Args:
        loss: ``loss(logits, *arguments, **shared)``. It follows the contract of torch's losses (a
            function, a partial one, or a Module, with ``reduction``), or it returns a value, or
            several, for each row. Logits of half precision are given to it in float32.
        head: what makes logits (N, C) of hidden states (N, H): an ``nn.Linear``, an
            ``nn.Embedding`` or its weight (C, H) for tied weights, an ``nn.Sequential``, any
            Module or function. One that ends in a linear layer needs least time and memory.
        target_head: what makes the first argument of the loss of the rows that are given for it,
            such as the head of a teacher of its hidden states.
        reduction: ``"none"``, ``"mean"``, ``"sum"`` or ``"batchmean"``; without it, the loss's own.
        ignore_index: the target of items that do not count; without it, the loss's own.
        chunk_size: rows in a chunk; without it, as many as ``chunk_bytes`` allow, at least 128.
        chunk_bytes: bytes of logits in a chunk. A loss in plain PyTorch holds a few such buffers.
        compile: whether the loss of a chunk is compiled together with its gradient by
            ``torch.compile``: less memory and time, after a first call that takes some seconds.
            (Torch's own cross entropy is computed by a formula and needs no compiler; a loss that
            draws random numbers is not compiled.)

    Returns:
        A Module to call as ``chunked(hidden, *arguments, weight=None, mask=None, normalizer=None,
        **shared)``:

        - ``hidden``: (\*, H), floating point.
        - ``arguments``: what the loss takes after the logits, the target first; each begins with
          the axes (\*), and is cut with the rows.
        - ``weight``: how much each row counts, (\*), or each of its items.
        - ``mask``: which rows, or items, count, bool.
        - ``normalizer``: what the mean divides by instead: the number of items of the whole batch
          where this is a part of it.
        - ``shared``: given by name to the loss, whole.

        It returns a scalar, or the values with ``reduction="none"``; at least float32. Head and
        loss are submodules where they are Modules.

    Raises:
        NotSeparableError: a row of the loss, or of the head, depends on the other rows.
        UsageError: what the loss's own mean divides by is not known.
        UnsupportedGraphError: a function closes over a tensor that was computed from others that
            require a gradient; give it by name.
        TypeError, ValueError: an argument is not as described.

    Example:
        >>> import torch
        >>> from torch.nn import functional as F
        >>> from lossproof import chunk
        >>> head = torch.nn.Linear(16, 1000)
        >>> loss = chunk(F.cross_entropy, head)
        >>> hidden, target = torch.randn(4, 32, 16), torch.randint(1000, (4, 32))
        >>> target[0] = -100
        >>> whole = F.cross_entropy(head(hidden).flatten(0, 1), target.flatten())
        >>> torch.testing.assert_close(loss(hidden, target), whole)
        >>> def soft_capped(logits, target, cap):
        ...     logits = cap * torch.tanh(logits / cap)
        ...     return logits.logsumexp(1) - logits.gather(1, target[:, None])[:, 0]
        >>> loss = chunk(soft_capped, head, ignore_index=-100)
        >>> loss(hidden, target, cap=torch.tensor(30.0)).shape
        torch.Size([])

    Source: the gradient of a loss over a large vocabulary in forward, in chunks: Hsu et al. (2024),
    "Liger Kernel: Efficient Triton Kernels for LLM Training", arXiv:2410.10989; Wijmans et al.
    (2025), "Cut Your Losses in Large-Vocabulary Language Models", ICLR.
    """
    return ChunkedLoss(
        loss,
        head,
        target_head=target_head,
        reduction=reduction,
        ignore_index=ignore_index,
        chunk_size=chunk_size,
        chunk_bytes=chunk_bytes,
        compile=compile,
    )
