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
    "half": (
        lambda p, t, go: (go * p * t, go * p**2),
        Truth("real", ((Relation("factor", 0.5),),)),
    ),
    "none": (
        lambda p, t, go: (None, go * p**2),
        Truth("real", ((Relation("none-returned", 0.0),),)),
    ),
    "zero": (lambda p, t, go: (0 * p, go * p**2), Truth("real", ((Relation("zero", 0.0),),))),
    "swapped": (
        lambda p, t, go: (go * p**2, go * 2 * p * t),
        Truth("real", ((Relation("swapped"),), (Relation("swapped"),))),
    ),
    "ignored": (
        lambda p, t, go: (2 * p * t, go * p**2),
        Truth("real", ((Relation("grad-output-ignored"),),)),
    ),
    "mean": (
        lambda p, t, go: ((go * 2 * p * t).mean().expand_as(p), go * p**2),
        Truth("real", ((Relation("mean-repeated"),),)),
    ),
    "no word": (lambda p, t, go: (go * 2 * p, go * p**2), Truth("real", ((),))),
    "two words": (
        lambda p, t, go: (-go * 2 * p * t, go * p),
        Truth("real", ((Relation("factor", -1.0),), ())),
    ),
    "not a number": (
        lambda p, t, go: (torch.log(0 * go * p - 1), go * p**2),
        Truth("real", ((),)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_mutant_gets_its_class_and_its_word(name: str) -> None:
    backward, wanted = CASES[name]
    found = classify(loaded(backward), RIGHT)
    assert found.label == wanted.label
    assert len(found.relations) == len(wanted.relations)
    for one, other in zip(found.relations, wanted.relations, strict=True):
        assert [relation.word for relation in one] == [relation.word for relation in other]
        factors = [relation.factor for relation in other]
        assert [relation.factor for relation in one] == pytest.approx(factors)


def test_all_that_is_true_is_said() -> None:
    """Of p - t, the gradients are each other's negative: swapped or with the wrong sign."""

    def of(backward_of: Gradients) -> Loaded:
        class Difference(Function):
            @staticmethod
            def forward(ctx, p, t):
                ctx.save_for_backward(p, t)
                return (p - t).sum(1)

            @staticmethod
            def backward(ctx, grad_output):
                return backward_of(*ctx.saved_tensors, grad_output.unsqueeze(1).expand(-1, 3))

        return Loaded(Difference, lambda p, t: p.sum(1) - t.sum(1), RIGHT.inputs)

    found = classify(of(lambda p, t, go: (-go, go)), of(lambda p, t, go: (go, -go)))
    both = (Relation("factor", -1.0), Relation("swapped"))
    assert found.relations == (both, both)


def test_a_wrong_second_derivative_does_not_cancel_between_inputs() -> None:
    def of(backward_of: Gradients) -> Loaded:
        class Square(Function):
            @staticmethod
            def forward(ctx, p, t):
                ctx.save_for_backward(p, t)
                return ((p - t) ** 2).sum(1)

            @staticmethod
            def backward(ctx, grad_output):
                return backward_of(*ctx.saved_tensors, grad_output.unsqueeze(1))

        return Loaded(Square, lambda p, t: (p - t).square().sum(1), RIGHT.inputs)

    right = of(lambda p, t, go: (go * 2 * (p - t), go * 2 * (t - p)))
    found = classify(
        of(lambda p, t, go: (go * 2 * (p.detach() - t), go * 2 * (t - p.detach()))), right
    )
    assert found.label == "second-order"


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
