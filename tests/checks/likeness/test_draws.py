"""Fresh inputs: of the kind that was given, and other ones each time."""

import pytest
import torch

from lossproof.checks.domain import domain_of
from lossproof.checks.likeness.draws import Draws
from lossproof.checks.likeness.options import Options
from lossproof.checks.subject import subject_of


def total(input, target):
    return input.sum() + target.double().sum()


GIVEN = torch.arange(3.0)


KINDS = {
    "real": torch.linspace(-2, 3, 12),
    "unit": torch.linspace(0.1, 0.9, 12),
    "binary": torch.tensor([1.0, 0, 0, 1, 1, 1]),
    "signs": torch.tensor([1.0, -1, -1, 1, -1, 1]),
    "probabilities": torch.softmax(torch.arange(12.0).reshape(3, 4), 1),
    "log-probabilities": torch.log_softmax(torch.arange(12.0).reshape(3, 4) / 3, 1),
    "one-hot": torch.eye(4)[torch.tensor([0, 2, 3, 1, 1])],
    "labels": torch.tensor([0, 3, 1, 1, 2, 5]),
    "vectors": torch.nn.functional.normalize(torch.arange(1.0, 13).reshape(3, 4), dim=1),
}


@pytest.mark.parametrize("value", KINDS.values(), ids=KINDS)
def test_draws_keep_the_kind(examination, value):
    draws = Draws(examination(total, GIVEN, value), {})
    assert torch.equal(draws[0][1], value)
    others = [draws[number][1] for number in range(1, 5)]
    wanted = domain_of(value.double()) if value.is_floating_point() else None
    for other in others:
        assert other.shape == value.shape
        assert other.dtype == value.dtype
        if wanted is not None:
            assert wanted.contains(other)
        else:
            assert torch.equal(other.sort().values, value.sort().values)
    assert any(not torch.equal(value, other) for other in others)
    assert torch.equal(draws[3][1], others[2])


def test_boxes_stay_boxes(examination):
    boxes = torch.tensor([[0.0, 1, 3, 4], [2, 2, 9, 5]])
    draws = Draws(examination(total, GIVEN, boxes), {})
    for number in range(1, 6):
        moved = draws[number][1]
        assert bool((moved[:, 2:] > moved[:, :2]).all())


class Configured(torch.nn.Module):
    def __init__(self, focusing=1.5, eps=1e-7, alpha=0.25):
        super().__init__()
        self.focusing, self.eps = focusing, eps
        self.register_buffer("alpha", torch.tensor([alpha, 1 - alpha]))

    def forward(self, input):
        return input.sum() * 0.125


def definition(input, *, gamma=(2.0,), smoothing=(), unnamed_gamma=(1.0,), made_with_alpha=()):
    return {}


def test_options_are_read_by_any_of_their_names():
    options = Options(subject_of(Configured()))
    assert options.named("gamma") == 1.5
    assert options.named("eps") == 1e-7
    assert options.named("made_with_alpha") == 0.25
    assert options.named("margin") is None or options.named("margin") != 0.125
    assert options.has(1.5)
    assert not options.has(0.7)


def test_named_values_come_first_and_numbers_in_the_code_last():
    def only_gamma(input, *, gamma=(2.0,)):
        return {}

    def with_temperature(input, *, temperature=(1.0,)):
        return {}

    options = Options(subject_of(Configured()))
    assert [choice["gamma"] for choice in options.choices(only_gamma)] == [1.5, 2.0]
    temperatures = [choice["temperature"] for choice in options.choices(with_temperature)]
    assert temperatures[0] == 1.0
    assert 0.125 in temperatures


def test_an_option_for_unnamed_ones_has_no_value_where_it_is_named():
    options = Options(subject_of(Configured()))
    assert list(options.choices(definition)) == []
