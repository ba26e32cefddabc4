"""A balancer in Lightning's automatic optimisation does what a plain loop does, to the last bit."""

import copy
import csv
import pickle
import sys
import warnings

import pytest
import torch
from torch import nn

pytest.importorskip("lightning")

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of what Lightning imports
    import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision

from lossproof.errors import TrainingAlarmError, TrainingAlarmWarning
from lossproof.integrations.lightning import PROBLEMS, BalancedTerms, watch_callback
from lossproof.terms import (
    DWA,
    DualProj,
    FixedWeights,
    LearningRateAnnealing,
    ResidualAttention,
    UncertaintyWeights,
    UPGrad,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*log_every_n_steps"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]

NAMES = ("near", "far")
BALANCERS = {
    "from values": lambda: DWA(NAMES, window=2),
    "learned": lambda: UncertaintyWeights(NAMES),
    "from the Gramian": lambda: UPGrad(NAMES),
    "from statistics": lambda: LearningRateAnnealing(NAMES, reference="near", every=3),
}


class Net(BalancedTerms, L.LightningModule):
    def __init__(self, balancer, lr=1e-2):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
        self.heads = nn.ModuleList([nn.Linear(8, 1) for _ in NAMES])
        self.balancer = balancer
        self.lr = lr

    def terms(self, batch):
        x, y = batch
        hidden = self.trunk(x)
        near, far = (head(hidden).float()[:, 0] for head in self.heads)
        return {"near": (near - y[:, 0]).square().mean(), "far": 5 * (far - y[:, 1]).abs().mean()}

    def training_step(self, batch, _):
        return self.balance(self.balancer, self.terms(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)

    @property
    def own(self):
        return [*self.trunk.parameters(), *self.heads.parameters()]


def net(make=BALANCERS["from the Gramian"], kind=Net, **options):
    torch.manual_seed(0)
    return kind(make(), **options)


def batches(count=12, size=4):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count * size, 4, generator=generator)
    y = torch.randn(count * size, 2, generator=generator)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=size)


def trainer_in(folder, **options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    defaults = {"max_epochs": 1, "log_every_n_steps": 1, "enable_checkpointing": False}
    logger = CSVLogger(folder, flush_logs_every_n_steps=1)
    return L.Trainer(
        accelerator="cpu", devices=1, logger=logger, **{**quiet, **defaults, **options}
    )


def rows_of(trainer):
    with open(f"{trainer.logger.log_dir}/metrics.csv", encoding="utf-8") as file:
        return [
            {key: float(one) for key, one in row.items() if one} for row in csv.DictReader(file)
        ]


def state_of(module):
    return {name: one for name, one in module.state_dict().items() if isinstance(one, torch.Tensor)}


def assert_same(found, expected):
    torch.testing.assert_close(state_of(found), state_of(expected), rtol=0.0, atol=0.0)
    assert found.balancer.get_extra_state() == expected.balancer.get_extra_state()


def plain_loop(
    model, loader, *, epochs=1, accumulate=1, clip=None, dtype=None, scaler=None, scale=1.0
):
    """The same training by hand; returns the model and what each step of the balancer told."""
    model = copy.deepcopy(model)
    optimizer, told = model.configure_optimizers(), []
    for _ in range(epochs):
        for k, batch in enumerate(loader):
            first, last = k % accumulate == 0, (k + 1) % accumulate == 0 or k + 1 == len(loader)
            if first:
                optimizer.zero_grad()
            with torch.autocast("cpu", dtype, enabled=dtype is not None, cache_enabled=False):
                terms = model.terms(batch)
            step = model.balancer.backward(
                terms,
                model.own,
                scaler=scaler,
                factor=scale / accumulate,
                refresh=None if first else False,
            )
            told += [step] if first else []
            if last:
                if scaler is not None:
                    scaler.unscale_(optimizer)
                if clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                if scaler is None:
                    optimizer.step()
                else:
                    scaler.step(optimizer)
                    scaler.update()
    return model, told


# ---- training


@pytest.mark.parametrize("make", BALANCERS.values(), ids=BALANCERS)
@pytest.mark.parametrize(("accumulate", "clip"), [(1, 0.5), (4, None)])
def test_it_is_the_plain_loop_to_the_last_bit(tmp_path, make, accumulate, clip):
    model = net(make)
    expected, told = plain_loop(model, batches(), epochs=2, accumulate=accumulate, clip=clip)
    trainer = trainer_in(
        tmp_path, max_epochs=2, accumulate_grad_batches=accumulate, gradient_clip_val=clip
    )
    before = copy.deepcopy(model)
    trainer.fit(model, batches())
    assert_same(model, expected)
    assert not torch.equal(model.own[0], before.own[0])
    rows = rows_of(trainer)
    assert [row["step"] for row in rows] == list(range(24 // accumulate))
    for row, step in zip(rows, told, strict=True):
        figures = step.as_dict()
        same = ["weight", "norm", "cosine", "max_abs", *(["value", "total"] * (accumulate == 1))]
        for key in [key for key in figures if key.split("/")[1] in same]:
            assert row[key] == pytest.approx(figures[key], rel=1e-6), key
        if step.refreshed:
            for kind in PROBLEMS:
                assert row[f"terms/{kind}"] == sum(key.split("/")[1] == kind for key in figures)
    conflicts = [row["terms/conflicting"] for row in rows if "terms/conflicting" in row]
    assert len(set(conflicts)) == 2 or not isinstance(model.balancer, UPGrad)  # there, and gone


def test_the_values_of_a_step_are_the_means_over_its_micro_batches(tmp_path):
    model = net(lambda: FixedWeights({"near": 2.0, "far": 0.5}), lr=0.0)
    trainer = trainer_in(tmp_path, accumulate_grad_batches=3)
    trainer.fit(model, batches())
    with torch.no_grad():
        values = [model.terms(batch) for batch in batches()]
    for k, row in enumerate(rows_of(trainer)):
        near, far = (
            sum(float(one[name]) for one in values[3 * k : 3 * k + 3]) / 3 for name in NAMES
        )
        assert row["terms/value/near"] == pytest.approx(near, rel=1e-6)
        assert row["terms/total"] == pytest.approx(2 * near + far / 2, rel=1e-6)


def test_bfloat16(tmp_path):
    model = net()
    expected, _ = plain_loop(model, batches(), dtype=torch.bfloat16)
    trainer_in(tmp_path, precision="bf16-mixed").fit(model, batches())
    assert_same(model, expected)


@pytest.mark.parametrize("init_scale", [2.0**10, 2.0**126])
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")
def test_float16_with_a_scaler(tmp_path, init_scale):
    """A scale under which everything overflows at first is lowered, and no step is lost to it."""

    def scaler():
        return torch.amp.GradScaler("cpu", init_scale=init_scale, backoff_factor=2.0**-30)

    model, ours, theirs = net(), scaler(), scaler()
    expected, _ = plain_loop(
        model, batches(), dtype=torch.float16, scaler=theirs, clip=0.5, accumulate=2
    )
    plugin = MixedPrecision("16-mixed", "cpu", scaler=ours)
    trainer_in(tmp_path, plugins=[plugin], gradient_clip_val=0.5, accumulate_grad_batches=2).fit(
        model, batches()
    )
    assert_same(model, expected)
    assert ours.get_scale() == theirs.get_scale()
    assert (ours.get_scale() < init_scale) == (init_scale > 2.0**100)
    assert model.balancer.steps < 6 or init_scale < 2.0**100


def test_weights_are_held_where_an_optimizer_evaluates_twice(tmp_path):
    class Twice(torch.optim.Optimizer):
        def __init__(self, parameters):
            super().__init__(parameters, {})

        def step(self, closure):
            for _ in "ab":
                loss = closure()
                with torch.no_grad():
                    for parameter in self.param_groups[0]["params"]:
                        parameter.sub_(0.01 * parameter.grad)
            return loss

    class Sharp(Net):
        def configure_optimizers(self):
            return Twice(self.parameters())

    model = net(kind=Sharp)
    expected = copy.deepcopy(model)
    optimizer = expected.configure_optimizers()
    for batch in list(batches())[:3]:
        first = expected.balancer.closure(lambda: expected.terms(batch), optimizer, expected.own)  # noqa: B023
        optimizer.step(first)
    trainer = trainer_in(tmp_path, max_steps=3)
    trainer.fit(model, batches())
    assert_same(model, expected)
    assert model.balancer.steps == 3


def test_a_line_search_is_refused(tmp_path):
    """It compares values of what is minimised, which is not what Lightning was given."""

    class Searching(Net):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), line_search_fn="strong_wolfe")

    with pytest.raises(ValueError, match="LBFGS .* manual optimisation and balancer.closure"):
        trainer_in(tmp_path).fit(net(kind=Searching), batches())


def test_a_factor_of_the_users_own_is_one_of_the_gradient(tmp_path):
    class Halved(Net):
        def training_step(self, batch, number):
            return 0.5 * super().training_step(batch, number)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-2)

    model = net(kind=Halved)
    expected, _ = plain_loop(model, batches(), scale=0.5)
    trainer_in(tmp_path).fit(model, batches())
    assert_same(model, expected)


def test_a_loss_that_is_no_set_of_terms_goes_its_own_way(tmp_path):
    class Warming(Net):
        def training_step(self, batch, number):
            if number < 6:
                return sum(self.terms(batch).values())
            return super().training_step(batch, number)

    model = net(kind=Warming)
    trainer = trainer_in(tmp_path)
    trainer.fit(model, batches())
    assert model.balancer.steps == 6
    assert [row["step"] for row in rows_of(trainer)] == [6, 7, 8, 9, 10, 11]


@pytest.mark.filterwarnings("ignore:.training_step. returned .None.")
def test_a_step_that_is_left_out_leaves_nothing_behind(tmp_path):
    class Skipping(Net):
        def training_step(self, batch, number):
            if number == 2:  # an ordinary loss after terms that nobody sent backward
                return self.own[0].square().sum()
            loss = self.balance(self.balancer, self.terms(batch))
            return None if number in (1, 5) else loss

    model = net(kind=Skipping)
    trainer_in(tmp_path).fit(model, batches(6))
    assert model.balancer.steps == 3
    copied = pickle.loads(pickle.dumps(copy.deepcopy(model).own))
    assert all(map(torch.equal, copied, model.own))


def test_residuals_at_points_are_squared_in_what_is_compared(tmp_path):
    class Points(Net):
        def terms(self, batch):
            x, y = batch
            hidden = self.trunk(x)
            ends = [head(hidden)[:, 0] - y[:, k] for k, head in enumerate(self.heads)]
            return dict(zip(NAMES, ends, strict=True))

        def validation_step(self, batch, _):
            self.log("compared", self.balance(self.balancer, self.terms(batch)))

    model = net(lambda: ResidualAttention(dict.fromkeys(NAMES, 4)), kind=Points)
    loader = batches(1)
    (found,) = trainer_in(tmp_path).validate(model, loader, verbose=False)
    ends = model.terms(next(iter(loader))).values()
    expected = sum(one.detach().double().square().mean().item() for one in ends)
    assert found["compared"] == pytest.approx(expected, rel=1e-6)


def test_a_validation_sees_the_plain_sum_and_changes_nothing(tmp_path):
    class Validated(Net):
        def validation_step(self, batch, _):
            self.log("val_loss", self.balance(self.balancer, self.terms(batch)))

    model = net(kind=Validated)
    expected = copy.deepcopy(model)
    trainer = trainer_in(tmp_path)
    (found,) = trainer.validate(model, batches(), verbose=False)
    with torch.no_grad():
        values = [sum(expected.terms(batch).values()).item() for batch in batches()]
    assert found["val_loss"] == pytest.approx(sum(values) / len(values), rel=1e-6)
    assert_same(model, expected)


# ---- a checkpoint


@pytest.mark.parametrize("make", [BALANCERS["learned"], BALANCERS["from statistics"]])
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path, make):
    options = {"max_epochs": 3, "accumulate_grad_batches": 2}
    whole = net(make)
    keep = ModelCheckpoint(tmp_path / "kept", save_top_k=-1, filename="{epoch}")
    first = trainer_in(tmp_path / "whole", **options, callbacks=[keep], enable_checkpointing=True)
    first.fit(whole, batches())
    resumed = net(make)
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.add_(1.0)
    second = trainer_in(tmp_path / "resumed", **options)
    kept = tmp_path / "kept" / "epoch=0.ckpt"
    assert torch.load(kept, weights_only=True)["global_step"] == 6
    second.fit(resumed, batches(), ckpt_path=kept)
    assert_same(resumed, whole)
    for ours, theirs in zip(
        second.optimizers[0].state.values(), first.optimizers[0].state.values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=0.0)
    after = [row for row in rows_of(first) if row["epoch"] > 0]
    assert len(after) == 12
    assert rows_of(second) == after


def test_names_that_were_taken_from_the_first_step_come_back(tmp_path):
    model = net(UPGrad)
    trainer = trainer_in(tmp_path)
    trainer.fit(model, batches())
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    found = Net.load_from_checkpoint(tmp_path / "model.ckpt", balancer=UPGrad())
    assert found.balancer.names == NAMES
    assert_same(found, model)


# ---- what is logged


def test_figures_are_fetched_for_the_steps_that_are_written_alone(tmp_path, monkeypatch):
    fetched = []
    from lossproof.terms.balance.step import BalanceStep

    original = BalanceStep.as_dict
    monkeypatch.setattr(
        BalanceStep, "as_dict", lambda *arguments: fetched.append(1) or original(*arguments)
    )
    trainer = trainer_in(tmp_path, log_every_n_steps=5)
    trainer.fit(net(), batches())
    assert len(fetched) == 2 + 1  # the last is for callbacks at the end of the epoch
    assert [row["step"] for row in rows_of(trainer)] == [4, 9]


def test_an_epoch_of_fewer_steps_than_loggers_wait_for_can_be_monitored(tmp_path):
    best = ModelCheckpoint(tmp_path / "best", monitor="terms/total")
    stopping = EarlyStopping("terms/total", patience=1)
    options = {"log_every_n_steps": 50, "enable_checkpointing": True, "max_epochs": 2}
    trainer = trainer_in(tmp_path, callbacks=[best, stopping], **options)
    model = net()
    trainer.fit(model, batches(3))
    assert stopping.best_score == best.best_model_score
    assert best.best_model_score <= model.balance_step.total.float()


def test_another_prefix_or_none(tmp_path):
    model = net()
    model.terms_prefix = "train/"
    trainer = trainer_in(tmp_path / "other", max_steps=2)
    trainer.fit(model, batches())
    assert "train/value/near" in rows_of(trainer)[0]
    model.terms_prefix = None
    trainer = trainer_in(tmp_path / "none", max_steps=2)
    trainer.fit(model, batches())
    assert not trainer.logged_metrics
    assert model.balance_step.weights.shape == (2,)


# ---- what does not work is refused


def test_several_optimizers_are_refused(tmp_path):
    class Two(Net):
        def configure_optimizers(self):
            return [torch.optim.SGD(one.parameters(), lr=0.1) for one in (self.trunk, self.heads)]

    with pytest.raises(RuntimeError, match="multiple optimizers is only supported with manual"):
        trainer_in(tmp_path).fit(net(kind=Two), batches())


def test_manual_optimisation_is_refused(tmp_path):
    class Manual(Net):
        automatic_optimization = False

        def training_step(self, batch, number):
            self.manual_backward(super().training_step(batch, number))

    with pytest.raises(ValueError, match=r"several optimizers, call balancer.backward"):
        trainer_in(tmp_path).fit(net(kind=Manual), batches())


def test_what_is_added_to_the_loss_would_be_lost(tmp_path):
    class Penalised(Net):
        def training_step(self, batch, number):
            return super().training_step(batch, number) + self.own[0].square().sum()

    with pytest.raises(ValueError, match="give what you added"):
        trainer_in(tmp_path).fit(net(kind=Penalised), batches())


def test_another_loss_than_that_of_the_terms(tmp_path):
    class Other(Net):
        def training_step(self, batch, number):
            super().training_step(batch, number)
            return self.own[0].square().sum()

    with pytest.raises(ValueError, match="the loss must be what `balance` returned"):
        trainer_in(tmp_path).fit(net(kind=Other), batches())


def test_bases_in_the_wrong_order(tmp_path):
    class Wrong(L.LightningModule, BalancedTerms):
        terms, configure_optimizers = Net.terms, Net.configure_optimizers
        __init__, training_step = L.LightningModule.__init__, Net.training_step

    model = Wrong()
    model.trunk, model.heads, model.balancer = (
        nn.Linear(4, 8), nn.ModuleList([nn.Linear(8, 1), nn.Linear(8, 1)]), UPGrad(NAMES)
    )  # fmt: skip
    model.lr = 0.1
    with pytest.raises(RuntimeError, match="BalancedTerms must come before LightningModule"):
        trainer_in(tmp_path).fit(model, batches())


def test_a_balancer_outside_of_the_module_would_not_be_in_the_checkpoint():
    model = net()
    with pytest.raises(ValueError, match="must be an attribute of the LightningModule"):
        model.balance(UPGrad(NAMES), {})
    with pytest.raises(TypeError, match="`balancer` must be a Balancer, got Linear"):
        model.balance(nn.Linear(2, 2), {})
    with pytest.raises(TypeError, match="`terms` must map names to tensors, got Tensor"):
        model.balance(model.balancer, torch.zeros(2))
    with pytest.raises(ValueError, match="`terms` must hold a term"):
        model.balance(model.balancer, {"near": None})


@pytest.mark.parametrize("name", ["DeepSpeedStrategy", "FSDPStrategy", "XLAStrategy"])
def test_strategies_that_take_the_backward_pass_are_refused(tmp_path, monkeypatch, name):
    trainer = trainer_in(tmp_path)
    strategy = type(name, (type(trainer.strategy),), {})
    monkeypatch.setattr(trainer.strategy, "__class__", strategy)
    with pytest.raises(ValueError, match=f"does not work with {name}"):
        trainer.fit(net(), batches())


def test_a_static_graph_is_refused(tmp_path):
    model = net()
    trainer = trainer_in(tmp_path)

    class Checking(L.Callback):
        def on_train_start(self, trainer, module):
            module.static_graph = True  # as DistributedDataParallel(static_graph=True) has it

    trainer.callbacks.append(Checking())
    with pytest.raises(ValueError, match="static_graph=True"):
        trainer.fit(model, batches())


def test_projections_may_look_at_a_part_of_the_module(tmp_path):
    class Partly(Net):
        def training_step(self, batch, _):
            return self.balance(self.balancer, self.terms(batch), on=self.trunk)

    model = net(DualProj, Partly)
    expected = copy.deepcopy(model)
    trainer_in(tmp_path, max_steps=1).fit(model, batches())
    expected.balancer.backward(
        expected.terms(next(iter(batches()))), expected.own, on=expected.trunk
    )
    torch.testing.assert_close(model.balancer.weights, expected.balancer.weights)


# ---- the training guard


class Rooted(BalancedTerms, L.LightningModule):
    """The root of a line through 0, which has no finite gradient where the line is 0."""

    def __init__(self, balancer=None):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.5))
        self.balancer = balancer

    def training_step(self, batch, number):
        x = batch[0] if number < 6 else 0 * batch[0]
        root = (self.slope * x).abs().sqrt().mean()
        self.log("root", root)
        if self.balancer is None:
            return {"loss": root, "other": 3}
        return self.balance(self.balancer, {"root": root, "size": self.slope.abs()})

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def test_a_fit_is_watched(tmp_path):
    alarms = []
    watching = watch_callback(on_alarm=alarms.append, share=1.0)
    trainer = trainer_in(tmp_path, callbacks=[watching], max_steps=8)
    model = Rooted()
    trainer.fit(model, batches())
    alarm = alarms[0]
    assert (alarm.kind.value, alarm.step) == ("non-finite-gradient", 7)
    assert alarm.diagnosis.operation == "sqrt"
    assert alarm.diagnosis.location.file.endswith("test_lightning.py")
    rows = rows_of(trainer)
    assert [row["watch/loss"] for row in rows[:6]] == [row["root"] for row in rows[:6]]
    assert rows[0]["watch/gradient_norm"] > 0
    assert [row["watch/alarms"] for row in rows[:6]] == [0] * 6
    assert rows[6]["watch/alarms"] == 1
    assert "training_step" not in vars(model)
    assert watching.guard.retired is None


@pytest.mark.parametrize("action", ["raise", "warn"])
def test_terms_are_watched_with_their_gradients(tmp_path, action):
    watching = watch_callback(on_alarm=action, share=1.0)
    trainer = trainer_in(tmp_path, callbacks=[watching], max_steps=7)
    model = Rooted(FixedWeights({"root": 1.0, "size": 1.0}))
    expected = pytest.raises if action == "raise" else pytest.warns
    kind = TrainingAlarmError if action == "raise" else TrainingAlarmWarning
    with expected(kind, match=r"(?s)root.*sqrt"):
        trainer.fit(model, batches())
    assert "training_step" not in vars(model)
    assert watching.guard.alarms[0].step == 7
    rows = rows_of(trainer)
    assert rows[0]["watch/size"] == pytest.approx(0.5)
    assert model.slope.isfinite().all() == (action == "raise")
    assert model._pending is None


def test_the_gradients_that_a_balancer_measured_are_those_of_the_watch(tmp_path):
    watching = watch_callback(share=1.0)
    trainer = trainer_in(tmp_path, callbacks=[watching], max_steps=3)
    trainer.fit(net(), batches())
    for row in rows_of(trainer):
        for name in NAMES:
            assert row[f"watch/gradient_norm/{name}"] == pytest.approx(row[f"terms/norm/{name}"])


def test_a_watched_training_is_the_same_training(tmp_path):
    found = []
    for callbacks in ([], [watch_callback()]):
        model = net()
        options = {
            "accumulate_grad_batches": 2,
            "gradient_clip_val": 0.5,
            "precision": "bf16-mixed",
        }
        trainer_in(tmp_path, callbacks=callbacks, **options).fit(model, batches())
        found.append(model)
    assert_same(*found)


def test_a_loss_is_watched_as_it_was_computed(tmp_path):
    """Before it is scaled and divided."""

    class Plain(Net):
        def training_step(self, batch, _):
            return sum(self.terms(batch).values())

    model, watching = net(kind=Plain, lr=0.0), watch_callback()
    with torch.no_grad():
        expected = [sum(model.terms(batch).values()).item() for batch in batches()]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    options = {"accumulate_grad_batches": 2, "plugins": [plugin]}
    trainer = trainer_in(tmp_path, callbacks=[watching], **options)
    trainer.fit(model, batches())
    rows = [row["watch/loss"] for row in rows_of(trainer) if "watch/loss" in row]
    near = [pytest.approx(one, rel=0.01) for one in expected]
    assert all(row in near for row in rows)
    assert len(rows) == 6


def test_the_callback_goes_to_processes_that_are_spawned(tmp_path):
    watching = pickle.loads(pickle.dumps(watch_callback(prefix="seen/", ring=8)))
    trainer = trainer_in(tmp_path, callbacks=[watching])
    trainer.fit(net(), batches(3))
    assert len(watching.guard.history) == 3
    assert "seen/near" in trainer.callback_metrics


def test_with_manual_optimisation_the_gradients_are_watched(tmp_path):
    class Manual(Net):
        def __init__(self, balancer):
            super().__init__(balancer)
            self.automatic_optimization = False
            self.norms = []

        def training_step(self, batch, _):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            loss = watching.guard.note(self.terms(batch)["near"])
            self.manual_backward(loss)
            self.norms.append(
                torch.cat([one.grad.flatten() for one in self.own if one.grad is not None]).norm()
            )
            optimizer.step()

    watching, model = watch_callback(share=1.0), net(kind=Manual)
    trainer_in(tmp_path, callbacks=[watching]).fit(model, batches(4))
    found = [(step.norm, set(step.values)) for step in watching.guard.history]
    assert found == [(pytest.approx(float(norm)), {"loss"}) for norm in model.norms]
    assert "stopped" in repr(watching.guard)


def test_a_step_that_was_replaced_before_is_put_back(tmp_path):
    model = net()

    def replaced(batch, batch_idx):  # as torch.compile does
        return Net.training_step(model, batch, batch_idx)

    model.training_step = replaced
    trainer_in(tmp_path, callbacks=[watch_callback()]).fit(model, batches(2))
    assert model.training_step is replaced


def test_without_lightning_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(ImportError, match=r"pip install 'lossproof\[lightning\]'"):
        watch_callback()
