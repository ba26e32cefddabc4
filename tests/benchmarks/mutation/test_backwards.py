"""The unchanged backwards are right: else every figure of the study would be wrong."""

import pytest
import torch
from benchmarks.mutation.catalogue import Subject, drawn_holdout, subjects
from benchmarks.mutation.truth import equal, grad_output_for, gradients, leaves
from torch.autograd import gradcheck, gradgradcheck

SUBJECTS = subjects()
ids = [subject.name for subject in SUBJECTS]
each = pytest.mark.parametrize("subject", SUBJECTS, ids=ids)


@each
@pytest.mark.parametrize("seed", [0, 5])
def test_value_and_gradient_are_those_of_the_reference(subject: Subject, seed: int) -> None:
    loaded = subject.load()
    arguments = loaded.inputs(seed)
    value, wanted = loaded.loss.apply(*arguments), loaded.reference(*arguments)
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-13)

    grad_output = grad_output_for(value.detach(), seed)
    found = gradients(loaded.loss.apply, arguments, grad_output)
    right = gradients(loaded.reference, loaded.inputs(seed), grad_output)
    assert len(found) == len(right) == len(leaves(arguments)) > 0
    for one, other in zip(found, right, strict=True):
        assert one is not None
        assert other is not None
        assert float(other.norm()) > 0
        assert equal(one, other)


@each
def test_gradcheck_agrees(subject: Subject) -> None:
    loaded = subject.load()
    assert gradcheck(loaded.loss.apply, loaded.inputs(1))
    if "once_differentiable" not in subject.source:
        assert gradgradcheck(loaded.loss.apply, loaded.inputs(1))


@each
def test_inputs_are_the_same_for_the_same_seed_only(subject: Subject) -> None:
    inputs = subject.load().inputs
    first, again, other = leaves(inputs(3)), leaves(inputs(3)), leaves(inputs(4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_third_was_put_aside_by_lot() -> None:
    held = [subject.name for subject in subjects("holdout")]
    assert held == drawn_holdout(ids)
    assert len(ids) >= 24
    assert len(set(ids)) == len(ids)
