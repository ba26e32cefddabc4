"""What is written is read back from TensorBoard's own event files."""

import math

import pytest
import torch

pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from lossproof.integrations.tensorboard import log_history, log_step
from lossproof.terms.balance.step import BalanceStep
from lossproof.terms.gradients import TermGradients
from lossproof.terms.history import TermHistory


def step_of(rows, values):
    figures = TermGradients.from_matrix(torch.tensor(rows), ("data", "bc"), torch.tensor(values))
    ones = torch.ones(2, dtype=torch.float64)
    return BalanceStep(figures.names, figures.values, ones, figures.values.sum(), figures)


@pytest.fixture
def steps():
    return [
        step_of([[3.0, 4.0], [0.0, 2.0]], [1.0, 0.5]),
        step_of([[1.0, 0.0], [-1.0, 0.0]], [0.25, math.nan]),
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_figure_of_every_step_is_read_back(tmp_path, steps):
    with SummaryWriter(tmp_path) as writer:
        for number, step in enumerate(steps):
            log_step(writer, step, 10 * number, prefix="train/")
    read = EventAccumulator(str(tmp_path)).Reload()
    written = [step.as_dict("train/") for step in steps]
    assert set(read.Tags()["scalars"]) == set(written[0]) | set(written[1])
    for tag in read.Tags()["scalars"]:
        expected = [(10 * k, one[tag]) for k, one in enumerate(written) if tag in one]
        found = [(event.step, event.value) for event in read.Scalars(tag)]
        assert found == [(at, pytest.approx(value, nan_ok=True)) for at, value in expected]
    assert [event.step for event in read.Scalars("train/conflicting/data/bc")] == [10]
    assert [event.value for event in read.Scalars("train/norm/data")] == [5.0, 1.0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_picture_of_a_history_is_an_image(tmp_path, steps):
    pytest.importorskip("matplotlib")
    history = TermHistory()
    for step in steps:
        history.add(step)
    with SummaryWriter(tmp_path) as writer:
        log_history(writer, history, 7, tag="balance")
    read = EventAccumulator(str(tmp_path)).Reload()
    (event,) = read.Images("balance")
    assert event.step == 7
    assert event.encoded_image_string.startswith(b"\x89PNG")
    assert event.width > 500


def test_what_is_no_writer_is_refused_and_the_extra_named(steps):
    with pytest.raises(TypeError, match=r"`writer` must be .* 'lossproof\[tensorboard\]'\), got"):
        log_step("runs/", steps[0])
