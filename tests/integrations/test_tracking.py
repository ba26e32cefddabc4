"""A flat dictionary for any tracker: what MLflow and TensorBoard wrote is read back."""

import math
import os
from unittest import mock

import pytest
import torch

import lossproof
from lossproof.integrations.tensorboard import log_step
from lossproof.terms import FixedWeights, TermHistory, UPGrad

with mock.patch.dict(os.environ, MLFLOW_DISABLE_TELEMETRY="true"):
    mlflow = pytest.importorskip("mlflow")


@pytest.fixture
def store(tmp_path, monkeypatch):
    """MLflow's files, in a folder of the test's own."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    yield mlflow.MlflowClient()
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(before)


def read_back(store, run):
    """Every metric of a run, as the columns of its steps."""
    keys = store.get_run(run.info.run_id).data.metrics
    return {
        key: [(one.step, one.value) for one in store.get_metric_history(run.info.run_id, key)]
        for key in keys
    }


class Training:
    def __init__(self):
        torch.manual_seed(2)
        self.model = torch.nn.Linear(3, 1)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.1)
        self.balancer, self.history = UPGrad(), TermHistory()

    @property
    def parts(self):
        return {name: getattr(self, name) for name in ("model", "optimizer", "balancer", "history")}

    def run(self, steps):
        for _ in range(steps):
            x = torch.randn(8, 3)
            error = self.model(x) - x[:, :1]
            terms = {"error": error.square().mean(), "bias": error.mean().square()}
            self.optimizer.zero_grad()
            step = self.balancer.backward(terms, self.model)
            self.optimizer.step()
            n = len(self.history)
            self.history.add(step)
            mlflow.log_metrics(step.as_dict(), step=n)


def test_a_resumed_training_goes_on_in_its_run_of_mlflow(tmp_path, store):
    first = Training()
    with mlflow.start_run() as run:
        first.run(3)
    state = {name: part.state_dict() for name, part in first.parts.items()}
    torch.save({**state, "random": torch.get_rng_state()}, tmp_path / "checkpoint.pt")

    second = Training()
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    for name, part in second.parts.items():
        part.load_state_dict(state[name])
    torch.set_rng_state(state["random"])
    with mlflow.start_run(run_id=run.info.run_id):
        second.run(2)

    straight = Training()
    with mlflow.start_run() as other:
        straight.run(5)
    assert all(map(torch.equal, second.model.parameters(), straight.model.parameters()))
    resumed = read_back(store, run)
    assert resumed == read_back(store, other)
    columns = straight.history.to_dict()
    for name in ("value/error", "value/bias", "weight/error", "norm/bias", "total"):
        assert resumed[f"terms/{name}"] == list(zip(range(5), columns[name], strict=True))


def test_the_figures_of_a_guard_are_read_back_from_mlflow(store):
    torch.manual_seed(2)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seen = []
    with lossproof.watch(model) as guard, mlflow.start_run() as run:
        compute = guard.wrap(lambda x: {"error": (model(x) - x[:, :1]).square().mean()})
        for n in range(6):
            optimizer.zero_grad()
            terms = compute(torch.randn(8, 3))
            terms["error"].backward()
            optimizer.step()
            mlflow.log_metrics(guard.as_dict(), step=n)
            norm = torch.cat([one.grad.flatten() for one in model.parameters()]).norm()
            seen.append((terms["error"].item(), norm.item()))
    found = read_back(store, run)
    assert [value for _, value in found["watch/error"]] == pytest.approx([one for one, _ in seen])
    # the norm is measured where that is cheap enough, and the newest is told
    norms = [value for _, value in found["watch/gradient_norm"]]
    assert all(any(value == pytest.approx(one, rel=1e-5) for _, one in seen) for value in norms)
    assert norms[0] == pytest.approx(seen[found["watch/gradient_norm"][0][0]][1], rel=1e-5)
    assert found["watch/alarms"] == [(n, 0.0) for n in range(6)]


def broken_step():
    """A step with values that are not finite, and the number at which each term went wrong."""
    x = torch.ones(1, requires_grad=True)
    terms = {
        "nan": (x * math.nan).sum(),
        "up": (x * math.inf).sum(),
        "down": (x * -math.inf).sum(),
        "fine": x.sum(),
    }
    return FixedWeights().backward(terms, [x], nonfinite="ignore")


def same(found, expected):
    return found == expected or (math.isnan(found) and math.isnan(expected))


def test_mlflow_keeps_what_is_not_finite(store):
    figures = broken_step().as_dict("watched/")
    with mlflow.start_run() as run:
        mlflow.log_metrics(figures, step=7)
    found = read_back(store, run)
    assert math.isnan(figures["watched/value/nan"])
    assert (figures["watched/value/up"], figures["watched/value/down"]) == (math.inf, -math.inf)
    assert found.keys() == figures.keys()
    for key, ((step, value),) in found.items():
        assert step == 7
        assert same(value, figures[key]), key


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
def test_tensorboard_keeps_what_is_not_finite(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    step = broken_step()
    with SummaryWriter(tmp_path) as writer:
        log_step(writer, step, 7)
    read = EventAccumulator(str(tmp_path)).Reload()
    for key, value in step.as_dict().items():
        (event,) = read.Scalars(key)
        assert event.step == 7
        assert same(event.value, value), key


def test_mlflow_refuses_names_that_the_page_says_it_refuses(store):
    x = torch.ones(1, requires_grad=True)
    figures = FixedWeights().backward({"|u|": x.sum()}, [x]).as_dict()
    with mlflow.start_run():
        with pytest.raises(mlflow.exceptions.MlflowException, match="Invalid"):
            mlflow.log_metrics(figures, step=0)


def test_the_dictionary_is_flat_and_of_plain_floats():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    terms = {"a": x.sum(), "b": -x.square().sum()}
    figures = UPGrad().backward(terms, [x]).as_dict("")
    assert {type(key) for key in figures} == {str}
    assert {type(value) for value in figures.values()} == {float}
    assert figures["conflicting/a/b"] == 1.0
