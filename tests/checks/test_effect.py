"""Whether another value changes anything, and where the change is lost."""

import pytest
import torch
import torch.nn.functional as F

from lossproof.checks.effect import Effects, floating_result, scaled_result
from lossproof.checks.local_weights import local_weights
from lossproof.checks.options import with_keyword

PAIR = ("float[6,3]", "float[6,3]")


def cancelling(input, target, alpha=0.5):
    weight = torch.full_like(target, alpha)
    return (weight * (input - target) ** 2).sum() / weight.sum()


def effective(input, target, alpha=0.5):
    return alpha * F.mse_loss(input, target)


def at_a_kink(input, target, alpha=0.5):
    return F.relu(alpha - 1e6 * input.abs() - 1e6).mean() + F.mse_loss(input, target)


def compared(examination, loss):
    case = examination(loss, *PAIR)
    effects = Effects(case)
    variants = [with_keyword(case.subject, "alpha", value) for value in (0.7, 3.0)]
    return effects, variants


@pytest.mark.parametrize(("loss", "none"), [(cancelling, True), (effective, False)])
def test_an_effect_is_seen_in_value_and_gradient(loss, none, examination):
    effects, variants = compared(examination, loss)
    assert bool(effects.none(variants)) is none


def test_a_change_is_followed_to_where_it_cancels(examination):
    effects, variants = compared(examination, cancelling)
    gone = effects.vanishing(variants)
    assert (gone.seen.name, gone.by.name) == ("sum", "div")
    assert gone.location.source.strip().startswith("return (weight")


def test_a_change_that_stops_at_a_kink_does_not_cancel(examination):
    effects, variants = compared(examination, at_a_kink)
    assert effects.none(variants)
    assert effects.vanishing(variants) is None


def test_a_variant_that_raises_is_left_out(examination):
    def strict(input, target, alpha=0.5):
        if alpha > 1:
            raise ValueError(alpha)
        return F.mse_loss(input, target)

    effects, variants = compared(examination, strict)
    assert effects.none(variants) == effects.none(variants[:1])
    assert effects.none(variants[1:]) == 0


def uses_weight(input, target):
    weight = target.softmax(1)
    return (weight * (input - target) ** 2).mean()


def test_the_result_of_one_operation_is_scaled(examination):
    case = examination(uses_weight, *PAIR)
    ((name, operation),) = local_weights(case, case.twin.trace)
    made = floating_result(case.twin.trace, operation)
    assert (name, operation.name) == ("weight", "softmax")
    scaled = case.evaluate(dtype=torch.float64, subject=scaled_result(case, operation, made.shape))
    assert not torch.allclose(scaled.value, case.twin.value)
    assert 0.3 < float((scaled.value / case.twin.value).detach()) < 2.3
