from collections.abc import Callable

import pytest
import torch
from benchmarks.mutation.catalogue import Loaded
from benchmarks.mutation.truth import Relation, Truth, classify
from torch import Tensor
from torch.autograd import Function

Gradients = Callable[[Tensor, Tensor, Tensor], tuple[Tensor | None, ...]]


def loaded(backward_of: Gradients) -> Loaded:
    """The loss sum over columns of p**2 * t, with any backward."""

    class Product(Function):
        @staticmethod
        def forward(ctx, p, t):
            ctx.save_for_backward(p, t)
            return (p**2 * t).sum(1)

        @staticmethod
        def backward(ctx, grad_output):
            return backward_of(*ctx.saved_tensors, grad_output.unsqueeze(1))

    def reference(p: Tensor, t: Tensor) -> Tensor:
        return torch.einsum("nk,nk,nk->n", p, p, t)

    def inputs(seed: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
        return tuple(part.clone().requires_grad_() for part in drawn)

    return Loaded(Product, reference, inputs)


RIGHT = loaded(lambda p, t, go: (go * 2 * p * t, go * p**2))

EQUIVALENT: Gradients = lambda p, t, go: (go * (p * t + t * p), go * p * p)  # noqa: E731
CASES: dict[str, tuple[Gradients, Truth]] = {
    "other words": (EQUIVALENT, Truth("equivalent")),
    "wrong shape": (lambda p, t, go: ((go * 2 * p * t)[:3], go * p**2), Truth("loud")),
    "too few": (lambda p, t, go: (go * 2 * p * t,), Truth("loud")),
    "detached": (lambda p, t, go: (go * 2 * p.detach() * t, go * p**2), Truth("second-order")),
    "nan at zero": (lambda p, t, go: (go * 2 * p**2 * t / p, go * p**2), Truth("special-point")),
    "half": (lambda p, t, go: (go * p * t, go * p**2), Truth("real", (Relation("factor", 0.5),))),
    "none": (
        lambda p, t, go: (None, go * p**2),
        Truth("real", (Relation("none-returned", 0.0),)),
    ),
    "zero": (lambda p, t, go: (0 * p, go * p**2), Truth("real", (Relation("zero", 0.0),))),
    "swapped": (
        lambda p, t, go: (go * p**2, go * 2 * p * t),
        Truth("real", (Relation("swapped"), Relation("swapped"))),
    ),
    "ignored": (
        lambda p, t, go: (2 * p * t, go * p**2),
        Truth("real", (Relation("grad-output-ignored"),)),
    ),
    "mean": (
        lambda p, t, go: ((go * 2 * p * t).mean().expand_as(p), go * p**2),
        Truth("real", (Relation("mean-repeated"),)),
    ),
    "no word": (lambda p, t, go: (go * 2 * p, go * p**2), Truth("real", (None,))),
    "two words": (
        lambda p, t, go: (-go * 2 * p * t, go * p),
        Truth("real", (Relation("factor", -1.0), None)),
    ),
    "not a number": (
        lambda p, t, go: (torch.log(0 * go * p - 1), go * p**2),
        Truth("real", (None,)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_mutant_gets_its_class_and_its_word(name: str) -> None:
    backward, wanted = CASES[name]
    found = classify(loaded(backward), RIGHT)
    assert found.label == wanted.label
    assert len(found.relations) == len(wanted.relations)
    for one, other in zip(found.relations, wanted.relations, strict=True):
        assert (one and one.word) == (other and other.word)
        assert (one and one.factor) == pytest.approx(other and other.factor)


def test_a_fault_that_the_checked_inputs_do_not_show_is_real_but_not_visible() -> None:
    first = RIGHT.inputs(0)[0].detach()
    threshold = float(first.max())

    def beyond(p: Tensor, t: Tensor, go: Tensor) -> tuple[Tensor, Tensor]:
        return go * 2 * p.clamp(max=threshold) * t, go * p**2

    found = classify(loaded(beyond), RIGHT)
    shown = [bool((RIGHT.inputs(seed)[0] > threshold).any()) for seed in range(4)]
    assert any(shown)
    assert found.label == "real"
    assert not found.visible
