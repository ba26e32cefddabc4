"""Half precision: the modes, and what shows that one is meant."""

import pytest
import torch

from lossproof.checks.half import MODES, tried, use_of_half


def square(x, y):
    return ((x - y) ** 2).mean()


def inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(6, generator=generator) for _ in range(2))
    return x.to(dtype).requires_grad_(), y.to(dtype)


def test_under_autocast_only_the_prediction_is_half(examination):
    case = examination(square, *inputs())
    assert [value.dtype for value in MODES[0].values(case)] == [torch.float16, torch.float16]
    assert [value.dtype for value in MODES[2].values(case)] == [torch.float16, torch.float32]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.words)
def test_an_ordinary_loss_breaks_in_no_mode(mode, examination):
    trial = tried(examination(square, *inputs()), mode)
    assert trial.fault is None
    assert not trial.missing


def test_what_has_no_room_by_its_mathematics_is_not_tried(examination):
    case = examination(lambda x, y: (1000 * (x - y)).pow(2).sum(), *inputs())
    assert tried(case, MODES[0]) is None
    assert tried(case, MODES[1]).fault is None


def test_the_culprit_of_an_overflow_is_named(examination):
    trial = tried(
        examination(lambda x, y: (500 * (x - y)).pow(2).mean() / 500**2, *inputs()), MODES[0]
    )
    assert trial.fault == "not finite"
    assert trial.culprit.operation == "pow"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_show_the_use(dtype, examination):
    assert list(use_of_half(examination(square, *inputs(dtype)))) == [dtype]


def test_a_cast_shows_the_use(examination):
    assert list(use_of_half(examination(lambda x, y: square(x.half(), y), *inputs()))) == [
        torch.float16
    ]


def test_autocast_shows_the_use(examination):
    case = examination(square, *inputs())
    assert not use_of_half(case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert list(use_of_half(case)) == [torch.bfloat16]
