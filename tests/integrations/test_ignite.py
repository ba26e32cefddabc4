"""The training step within Ignite's engine: trained, checkpointed, resumed, read back."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("ignite")

from ignite.engine import DeterministicEngine, Engine, Events
from ignite.engine import supervised_training_step as plain_step
from ignite.handlers import Checkpoint, DiskSaver, TensorboardLogger
from ignite.handlers.tensorboard_logger import OutputHandler
from ignite.metrics import RunningAverage

import lossproof
from lossproof.integrations.ignite import supervised_training_step
from lossproof.terms import FixedWeights, TermHistory, UncertaintyWeights, UPGrad

WEIGHTS = {"error": 1.0, "size": 0.25}
NAMES = tuple(WEIGHTS)


def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 1))


def terms_of(y_pred, y):
    return {"error": functional.mse_loss(y_pred, y), "size": y_pred.square().mean()}


def weighted(y_pred, y):
    terms = terms_of(y_pred, y)
    return sum(WEIGHTS[name] * terms[name] for name in NAMES)


def dataset(size=24):
    x = torch.randn(size, 3, generator=torch.Generator().manual_seed(5))
    return TensorDataset(x, x.sum(1, keepdim=True))


def batches():
    return list(DataLoader(dataset(), batch_size=4))


def trained(make_step, epochs=2):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    torch.manual_seed(2)
    state = Engine(make_step(model, optimizer)).run(batches(), max_epochs=epochs)
    return list(model.parameters()), state


@pytest.mark.parametrize("accumulated", [1, 3])
def test_fixed_weights_train_as_ignite_itself_does(accumulated):
    theirs, state = trained(
        lambda model, optimizer: plain_step(
            model, optimizer, weighted, gradient_accumulation_steps=accumulated
        )
    )
    ours, ours_state = trained(
        lambda model, optimizer: supervised_training_step(
            model,
            optimizer,
            terms_of,
            FixedWeights(WEIGHTS),
            gradient_accumulation_steps=accumulated,
        )
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    assert ours_state.output["terms/total"] == pytest.approx(state.output, rel=1e-5)


def test_accumulated_batches_train_as_one_batch_under_a_balancer_that_looks_at_values():
    def train(data, accumulated):
        model = nn.Linear(3, 1)
        nn.init.ones_(model.weight), nn.init.zeros_(model.bias)
        balancer = UncertaintyWeights(NAMES)
        parameters = [*model.parameters(), *balancer.parameters()]
        step = supervised_training_step(
            model,
            torch.optim.SGD(parameters, lr=0.05),
            terms_of,
            balancer,
            gradient_accumulation_steps=accumulated,
        )
        Engine(step).run(data)
        return parameters

    x, y = dataset(8).tensors
    torch.testing.assert_close(
        train([(x[:4], y[:4]), (x[4:], y[4:])], 2), train([(x, y)], 1), rtol=1e-5, atol=1e-7
    )


class Random:
    """The state of the random number generator, for a checkpoint."""

    def state_dict(self):
        return {"torch": torch.get_rng_state()}

    def load_state_dict(self, state):
        torch.set_rng_state(state["torch"])


class Training:
    def __init__(self, make_balancer, **options):
        self.model = net()
        self.balancer = make_balancer()
        self.optimizer = torch.optim.Adam(
            [*self.model.parameters(), *self.balancer.parameters()], lr=0.05
        )
        self.history = TermHistory()
        step = supervised_training_step(
            self.model,
            self.optimizer,
            terms_of,
            self.balancer,
            output_transform=self.output,
            **options,
        )
        self.trainer = Engine(step)
        self.steps = []

    def output(self, x, y, y_pred, step):
        self.history.add(step)
        self.steps.append(step.as_dict())
        return self.steps[-1]

    @property
    def to_save(self):
        parts = ("trainer", "model", "optimizer", "balancer", "history")
        return {**{name: getattr(self, name) for name in parts}, "random": Random()}

    @property
    def tensors(self):
        return [*self.model.parameters(), *self.balancer.parameters(), *self.balancer.buffers()]

    def run(self, epochs):
        loader = DataLoader(dataset(), batch_size=4, shuffle=True)
        return self.trainer.run(loader, max_epochs=epochs)


@pytest.mark.parametrize("method", [UPGrad, UncertaintyWeights])
def test_a_training_that_is_resumed_from_a_checkpoint_is_the_uninterrupted_one(tmp_path, method):
    def balancer():
        return method(NAMES)

    torch.manual_seed(4)
    straight = Training(balancer)
    saver = DiskSaver(str(tmp_path), create_dir=True, require_empty=False)
    checkpoint = Checkpoint(straight.to_save, saver, n_saved=None, global_step_transform=_epoch)
    straight.trainer.add_event_handler(Events.EPOCH_COMPLETED, checkpoint)
    straight.run(4)

    resumed = Training(balancer)
    (file,) = tmp_path.glob("*_2.pt")
    Checkpoint.load_objects(resumed.to_save, torch.load(file, weights_only=True))
    resumed.run(4)
    assert resumed.trainer.state.iteration == straight.trainer.state.iteration == 24
    assert resumed.steps == straight.steps[12:]
    assert all(map(torch.equal, resumed.tensors, straight.tensors))
    assert resumed.history.to_dict() == straight.history.to_dict()


def _epoch(engine, _):
    return engine.state.epoch


def test_the_deterministic_engine_takes_the_step():
    seen = []
    for _ in range(2):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        step = supervised_training_step(model, optimizer, terms_of, UPGrad())
        torch.manual_seed(8)
        loader = DataLoader(dataset(), batch_size=4, shuffle=True)
        seen.append(DeterministicEngine(step).run(loader).output)
    assert seen[0] == seen[1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
def test_metrics_and_loggers_see_the_terms(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    training = Training(UPGrad)
    RunningAverage(output_transform=lambda output: output["terms/value/error"]).attach(
        training.trainer, "error"
    )
    with TensorboardLogger(log_dir=str(tmp_path)) as logger:
        logger.attach(
            training.trainer,
            OutputHandler("train", output_transform=lambda output: output),
            Events.ITERATION_COMPLETED,
        )
        state = training.run(1)
    values = [step["terms/value/error"] for step in training.steps]
    average = values[0]
    for value in values[1:]:
        average = 0.98 * average + 0.02 * value
    assert state.metrics["error"] == pytest.approx(average, rel=1e-6)
    read = EventAccumulator(str(tmp_path)).Reload().Scalars("train/terms/value/error")
    assert [event.value for event in read] == pytest.approx(values, rel=1e-6)


def test_a_guard_sees_the_terms_and_leaves_the_training_as_it_is():
    torch.manual_seed(4)
    plain = Training(UPGrad)
    plain.run(2)
    torch.manual_seed(4)
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    with lossproof.watch(model) as guard:
        step = supervised_training_step(model, optimizer, terms_of, UPGrad(), guard=guard)
        trainer = Engine(step)
        trainer.add_event_handler(
            Events.EPOCH_COMPLETED, lambda: trainer.state.metrics.update(guard.as_dict())
        )
        trainer.run(DataLoader(dataset(), batch_size=4, shuffle=True), max_epochs=2)
    assert all(map(torch.equal, model.parameters(), plain.model.parameters()))
    metrics = trainer.state.metrics
    for name in NAMES:
        assert metrics[f"watch/{name}"] == pytest.approx(plain.steps[-1][f"terms/value/{name}"])
        assert metrics[f"watch/gradient_norm/{name}"] == pytest.approx(
            plain.steps[-1][f"terms/norm/{name}"], rel=1e-5
        )
    assert metrics["watch/alarms"] == 0


def test_a_guard_names_the_term_that_went_wrong():
    def compute(y_pred, y):
        return {**terms_of(y_pred, y), "root": (y[:, 0] - 3).sqrt().mean()}

    model, alarms = net(), []
    with lossproof.watch(model, on_alarm=alarms.append) as guard:
        step = supervised_training_step(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            compute,
            FixedWeights(),
            guard=guard,
            nonfinite="drop",
        )
        batch = (torch.ones(4, 3), torch.tensor([[4.0], [5.0], [2.0], [6.0]]))
        state = Engine(step).run([batch])
    assert [(alarm.term, alarm.diagnosis.samples) for alarm in alarms] == [("root", (2,))]
    assert state.output["terms/dropped/root"] == 1


def test_half_precision_with_a_scaler_trains_as_full_precision_does():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    seen = []
    for options in ({}, {"amp_dtype": torch.bfloat16, "scaler": scaler}):
        dtypes = set()

        def compute(y_pred, y, dtypes=dtypes):
            dtypes.add(y_pred.dtype)
            return {"error": (y_pred - y).square().mean(), "size": y_pred.square().mean()}

        parameters, state = trained(
            lambda model, optimizer, compute=compute, options=options: supervised_training_step(
                model, optimizer, compute, UPGrad(), **options
            ),
            epochs=1,
        )
        seen.append((dtypes, torch.cat([one.detach().flatten() for one in parameters]), state))
    (full, exact, _), (half, rough, state) = seen
    assert full == {torch.float32}
    assert half == {torch.bfloat16}
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.02)
    assert math.isfinite(state.output["terms/norm/error"])


def test_a_batch_goes_to_the_device_and_may_be_of_any_form():
    model = nn.Linear(3, 1, device="meta")
    seen = []

    def look(y_pred, y):
        seen.append((y_pred.device.type, y.device.type))
        raise StopIteration

    update = supervised_training_step(
        model,
        torch.optim.SGD(model.parameters()),
        look,
        UPGrad(),
        device="meta",
        model_fn=lambda model, x: {"out": model(x)},
        model_transform=lambda output: output["out"],
    )
    engine = Engine(update)
    engine.state.iteration = 1
    with pytest.raises(StopIteration):
        update(engine, batches()[0])
    assert seen == [("meta", "meta")]


def test_options_of_the_balancer_are_passed_on():
    def step(model, optimizer):
        return supervised_training_step(
            model, optimizer, terms_of, UPGrad(), clip=1e-3, output_transform=_last
        )

    _, state = trained(step, epochs=1)
    assert state.output.norm > 1e-3


def _last(x, y, y_pred, step):
    return step


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"gradient_accumulation_steps": 0}, ValueError, "gradient_accumulation_steps"),
        ({"gradient_accumulation_steps": 1.5}, TypeError, "gradient_accumulation_steps"),
        ({"refresh": False}, ValueError, "`refresh` is given to the balancer by the step itself"),
        ({"model": terms_of}, TypeError, "`model` must be of the type Module, got function"),
        ({"optimizer": None}, TypeError, "`optimizer` must be of the type Optimizer, got NoneType"),
        ({"terms_fn": "mse"}, TypeError, "`terms_fn` must be callable, got str"),
        ({"balancer": UPGrad}, TypeError, "`balancer` must be of the type Balancer, got"),
        ({"amp_dtype": "float16"}, TypeError, "`amp_dtype` must be of the type dtype, got str"),
    ],
    ids=range(8),
)
def test_wrong_arguments_are_refused(options, error, words):
    model = nn.Linear(3, 1)
    right = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters()),
        "terms_fn": terms_of,
        "balancer": UPGrad(),
    }
    with pytest.raises(error, match=words):
        supervised_training_step(**{**right, **options})


def test_terms_without_names_are_refused():
    def step(model, optimizer):
        return supervised_training_step(model, optimizer, weighted, UPGrad())

    with pytest.raises(TypeError, match="`terms` must be a mapping from the name of each term"):
        trained(step)


def test_without_ignite_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ignite.utils", None)
    model = nn.Linear(3, 1)
    with pytest.raises(ImportError, match=r"pip install 'lossproof\[ignite\]'"):
        supervised_training_step(model, torch.optim.SGD(model.parameters()), terms_of, UPGrad())
