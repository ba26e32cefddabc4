"""Losses of PyTorch in Keras: the order of the arguments, reductions, files, resumed training."""

import os
import sys
import tempfile
import types
import warnings
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from lossproof.integrations import keras as integration
from lossproof.integrations.keras import balanced_model, keras_loss
from lossproof.losses import CrossEntropyLoss, clip_loss, pinball_loss
from lossproof.terms import FixedWeights, ResidualAttention, UncertaintyWeights, UPGrad
from lossproof.write.reduction import reduce

# Keras chooses its backend once, when it is imported, and writes a file into its home. Whatever
# this process does afterwards sees an environment without a trace of it.
HOME = tempfile.TemporaryDirectory()
with mock.patch.dict(os.environ, KERAS_BACKEND="torch", KERAS_HOME=HOME.name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras = pytest.importorskip("keras")

if keras.config.backend() != "torch":
    pytest.skip("Keras was imported on another backend before", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
"""What numpy says of the variables of Keras."""


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def simplex(*shape, seed=0):
    return functional.softmax(torch.tensor(numbers(*shape, seed=seed)), -1).numpy()


def net(outputs=1, activation=None):
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(outputs, activation)]
    return keras.Sequential([keras.Input((3,)), *layers])


def twin(model):
    """The same network as a Module of PyTorch."""
    first, second = model.layers
    copied = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, second.units))
    with torch.no_grad():
        for layer, linear in zip((first, second), (copied[0], copied[2]), strict=True):
            linear.weight.copy_(layer.kernel.value.T)
            linear.bias.copy_(layer.bias.value)
    return copied


def outputs(model, x):
    return np.asarray(model.predict(x, verbose=0))


# ---- the order of the arguments

ASYMMETRIC = {
    "a quantile": (
        lambda: keras_loss(pinball_loss, quantiles=0.9),
        lambda out, y: torch.maximum(0.9 * (y - out), -0.1 * (y - out)).mean(),
        lambda: (net(), numbers(20, 1, seed=2)),
    ),
    "a divergence": (
        lambda: keras_loss(functional.kl_div),
        lambda out, y: (y * (y.log() - out.log_softmax(-1))).mean(),
        lambda: (net(5, "log_softmax"), simplex(20, 5, seed=2)),
    ),
    "a Module": (
        lambda: keras_loss(nn.SmoothL1Loss(beta=0.3)),
        lambda out, y: functional.smooth_l1_loss(out, y, beta=0.3),
        lambda: (net(2), numbers(20, 2, seed=2)),
    ),
}


@pytest.mark.parametrize("which", ASYMMETRIC)
def test_a_loss_trains_as_in_a_loop_of_pytorch(which):
    make, formula, setting = ASYMMETRIC[which]
    (model, y), x = setting(), numbers(20, 3, seed=1)
    module = twin(model)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.3)
    values = []
    for _ in range(4):
        loss = formula(module(torch.tensor(x)), torch.tensor(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())

    model.compile(optimizer=keras.optimizers.SGD(0.3), loss=make())
    history = model.fit(x, y, batch_size=20, epochs=4, verbose=0).history
    assert history["loss"] == pytest.approx(values, rel=1e-5)
    expected = module(torch.tensor(x)).detach()
    if which == "a divergence":
        expected = expected.log_softmax(-1)
    np.testing.assert_allclose(outputs(model, x), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("which", ["a quantile", "a divergence"])
def test_the_order_is_told_from_its_reverse(which):
    make = ASYMMETRIC[which][0]
    y_true, y_pred = simplex(6, 3, seed=3), np.log(simplex(6, 3, seed=4))
    function, options = make().function, make().options
    right = function(torch.tensor(y_pred), torch.tensor(y_true), reduction="none", **options).mean()
    swapped = function(
        torch.tensor(y_true), torch.tensor(y_pred), reduction="none", **options
    ).mean()
    assert not torch.isclose(right, swapped, equal_nan=False)
    assert float(make()(y_true, y_pred)) == pytest.approx(right.item(), rel=1e-5)


# ---- reductions, weights and masks

KERAS_REDUCTIONS = ["sum_over_batch_size", "mean", "sum", "mean_with_sample_weight", "none", None]


@pytest.mark.parametrize("reduction", KERAS_REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(6,), (6, 3), (4, 5, 3)])
def test_the_mean_squared_error_is_that_of_keras(reduction, weighted, shape):
    y_true, y_pred = numbers(*shape, seed=1), numbers(*shape, seed=2)
    sample_weight = np.abs(numbers(*shape[: len(shape) - 1] or (6,), seed=3)) if weighted else None
    if len(shape) == 1:  # Keras takes the last axis for features
        y_true, y_pred = y_true[:, None], y_pred[:, None]
    theirs = keras.losses.MeanSquaredError(reduction=reduction)
    ours = keras_loss(functional.mse_loss, reduction=reduction)
    found = ours(y_true, y_pred, sample_weight=sample_weight)
    expected = theirs(y_true, y_pred, sample_weight=sample_weight)
    torch.testing.assert_close(found, expected)


def test_a_weight_for_each_sample_goes_to_all_its_items():
    y_true, y_pred, weight = numbers(4, 5, 3), numbers(4, 5, 3, seed=2), np.arange(4, dtype="f")
    squares = ((y_true - y_pred) ** 2).mean(-1)
    for reduction, divisor in (("sum_over_batch_size", 20), ("mean_with_sample_weight", 6 * 5)):
        found = keras_loss(functional.mse_loss, reduction=reduction)(y_true, y_pred, weight)
        expected = (squares * weight[:, None]).sum() / divisor
        assert float(found) == pytest.approx(expected, rel=1e-5)


def test_a_mask_of_keras_leaves_items_out():
    y_true = numbers(2, 4, 3)
    y_pred = torch.tensor(numbers(2, 4, 3, seed=2))
    mask = torch.tensor([[True, True, False, False], [True, False, False, False]])
    y_pred._keras_mask = mask
    found = keras_loss(functional.l1_loss)(y_true, y_pred)
    expected = (y_pred - torch.tensor(y_true)).abs().mean(-1)[mask].mean()
    torch.testing.assert_close(found, expected)


def test_the_own_reduction_is_the_mean_of_pytorch():
    logits, labels = numbers(6, 3), np.array([0, 1, 2, 1, 1, -100])
    weight = torch.tensor([1.0, 5.0, 0.5])
    own = keras_loss(functional.cross_entropy, weight=weight, reduction="own")
    expected = functional.cross_entropy(torch.tensor(logits), torch.tensor(labels), weight=weight)
    torch.testing.assert_close(own(labels, logits), expected)
    items = keras_loss(functional.cross_entropy, weight=weight)
    values = functional.cross_entropy(
        torch.tensor(logits), torch.tensor(labels), weight=weight, reduction="none"
    )
    torch.testing.assert_close(items(labels, logits), values.mean())


def test_a_loss_of_the_whole_batch_reduces_by_itself():
    image, text = numbers(6, 4), numbers(6, 4, seed=1)

    def similarity_loss(input, target):
        return clip_loss(input, target)

    found = keras_loss(similarity_loss, reduction="own")(text, image)
    torch.testing.assert_close(found, clip_loss(torch.tensor(image), torch.tensor(text)))
    with pytest.raises(ValueError, match=r"'similarity_loss' gives one number .* reduction='own'"):
        keras_loss(similarity_loss)(text, image)
    with pytest.raises(ValueError, match="cannot apply a mask or sample weights"):
        keras_loss(similarity_loss, reduction="own")(text, image, sample_weight=np.ones(6))


# ---- the target


@pytest.mark.parametrize("form", [(5,), (5, 1)])
@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_class_indices_stay_integers(form, dtype):
    logits, labels = numbers(5, 3), np.array([0, 2, 1, 1, 0])
    found = keras_loss(functional.cross_entropy)(labels.reshape(form).astype(dtype), logits)
    torch.testing.assert_close(
        found, functional.cross_entropy(torch.tensor(logits), torch.tensor(labels))
    )


@pytest.mark.parametrize("form", [(5,), (5, 1)])
@pytest.mark.parametrize("output", [(5,), (5, 1)])
@pytest.mark.parametrize("dtype", ["int64", "bool", "float64"])
def test_labels_of_one_score_are_values_and_nothing_is_broadcast(form, output, dtype):
    scores, labels = numbers(5), np.array([0, 1, 1, 0, 1])
    loss = keras_loss(functional.binary_cross_entropy_with_logits)
    found = loss(labels.reshape(form).astype(dtype), scores.reshape(output))
    expected = functional.binary_cross_entropy_with_logits(
        torch.tensor(scores), torch.tensor(labels, dtype=torch.float32)
    )
    torch.testing.assert_close(found, expected)


def test_several_quantiles_are_for_one_target():
    y_true, y_pred = numbers(5), numbers(5, 2, seed=1)
    found = keras_loss(pinball_loss, quantiles=(0.1, 0.9))(y_true, y_pred)
    error = y_true[:, None] - y_pred
    expected = np.maximum(error * [0.1, 0.9], error * [-0.9, -0.1]).mean()
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [None, "float64", "mixed_float16"])
def test_the_dtype_is_that_of_a_loss_of_keras(dtype):
    y_true, y_pred = numbers(4, 2), torch.tensor(numbers(4, 2, seed=1)).half()
    found = keras_loss(functional.mse_loss, dtype=dtype)(y_true, y_pred)
    expected = keras.losses.MeanSquaredError(dtype=dtype)(y_true, y_pred)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(
        found, expected, rtol=1e-6 if dtype != "mixed_float16" else 1e-3, atol=0
    )


# ---- files


@keras.saving.register_keras_serializable("tests")
def quartic_loss(input, target, *, scale=1.0, reduction="mean"):
    return reduce(((input - target) / scale) ** 4, None, reduction)


SAVED = {
    "of the catalogue": lambda: keras_loss(pinball_loss, quantiles=0.8, name="eighty"),
    "of torch": lambda: keras_loss(functional.huber_loss, delta=0.5, reduction="sum"),
    "registered": lambda: keras_loss(quartic_loss, scale=2.0),
    "a Module of the catalogue": lambda: keras_loss(
        CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])), reduction="own"
    ),
}


@pytest.mark.parametrize("which", SAVED)
def test_a_saved_model_trains_on_with_its_loss(tmp_path, which):
    classes = which == "a Module of the catalogue"
    model, x = net(2 if classes else 1), numbers(12, 3, seed=1)
    y = (x[:, 0] > 0).astype("int64") if classes else numbers(12, 1, seed=2)
    model.compile(optimizer=keras.optimizers.Adam(0.05), loss=SAVED[which]())
    fit = {"batch_size": 4, "shuffle": False, "verbose": 0}
    model.fit(x, y, epochs=2, **fit)
    model.save(tmp_path / "model.keras")
    straight = model.fit(x, y, epochs=2, **fit).history

    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.loss, integration.KerasLoss)
    assert loaded.loss.name == model.loss.name
    assert loaded.fit(x, y, epochs=2, **fit).history == straight
    assert all(map(np.array_equal, loaded.get_weights(), model.get_weights()))


def test_a_loss_without_a_name_is_not_saved(tmp_path):
    model = net()
    model.compile(loss=keras_loss(lambda input, target: (input - target) ** 2))
    with pytest.raises(ValueError, match=r"`loss` cannot be saved: <function .*<lambda>"):
        model.save(tmp_path / "model.keras")


@pytest.mark.parametrize("address", ["os.system", "nobody", "torch.nn.functional.Tensor"])
def test_a_file_cannot_name_any_function(address):
    config = keras_loss(pinball_loss).get_config() | {"loss": address}
    with pytest.raises(ValueError, match=rf"the saved loss '{address}' is not known"):
        integration.KerasLoss.from_config(config)


class Stopped(Exception):
    pass


class StopAfter(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise Stopped


def test_backup_and_restore_goes_on_to_the_last_bit(tmp_path):
    x, y = numbers(12, 3, seed=1), numbers(12, 1, seed=2)

    def fit(*callbacks):
        model = net()
        model.compile(optimizer="adam", loss=keras_loss(pinball_loss, quantiles=0.9))
        model.fit(x, y, batch_size=4, epochs=4, shuffle=False, verbose=0, callbacks=callbacks)
        return model

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    best = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor="loss")
    straight = fit(best)
    with pytest.raises(Stopped):
        fit(backup(), StopAfter(2))
    resumed = fit(backup())
    assert all(map(np.array_equal, resumed.get_weights(), straight.get_weights()))
    best = keras.saving.load_model(tmp_path / "best.keras")
    np.testing.assert_array_equal(outputs(best, x), outputs(straight, x))


# ---- terms and a balancer

NAMES = ("error", "bias")


def terms_of(y_pred, y_true, sample_weight=None):
    error = y_pred - y_true
    squares = error.square()
    if sample_weight is not None:
        squares = squares * sample_weight[:, None]
    return {"error": squares.mean(), "bias": error.mean().square()}


METHODS = {
    "FixedWeights": lambda: (FixedWeights({"error": 1.0, "bias": 0.5}), None),
    "UPGrad": lambda: (UPGrad(), None),
    "UncertaintyWeights": lambda: _learned(UncertaintyWeights(NAMES)),
}


def _learned(balancer):
    return balancer, torch.optim.Adam(balancer.parameters(), lr=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_a_balanced_model_trains_as_in_a_loop_of_pytorch(method):
    x, y = numbers(12, 3, seed=1), numbers(12, 1, seed=2)
    model = net()
    module = twin(model)
    balancer, learned = METHODS[method]()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.2)
    seen = []
    for _ in range(3):
        for rows in (slice(0, 6), slice(6, 12)):
            for one in (optimizer, *([learned] if learned else [])):
                one.zero_grad()
            terms = terms_of(module(torch.tensor(x[rows])), torch.tensor(y[rows]))
            step = balancer.backward(terms, module)
            for one in (optimizer, *([learned] if learned else [])):
                one.step()
            seen.append([*step.values.tolist(), *step.weights.tolist(), step.total.item()])

    balancer, learned = METHODS[method]()
    training = balanced_model(model, terms_of, balancer, learned=learned)
    training.compile(optimizer=keras.optimizers.SGD(0.2), metrics=["mae"])
    fit = {"batch_size": 6, "shuffle": False, "verbose": 0}
    history = training.fit(x, y, epochs=3, **fit).history
    keys = [*(f"value/{name}" for name in NAMES), *(f"weight/{name}" for name in NAMES), "loss"]
    expected = np.array(seen).reshape(3, 2, -1).mean(1)
    for position, key in enumerate(keys):
        assert history[key] == pytest.approx(expected[:, position].tolist(), rel=1e-4)
    assert len(history["mae"]) == 3
    np.testing.assert_allclose(
        outputs(training.net, x), module(torch.tensor(x)).detach(), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_balanced_training_that_is_resumed_is_the_uninterrupted_one(tmp_path, method):
    x, y = numbers(12, 3, seed=1), numbers(12, 1, seed=2)

    def fit(*callbacks):
        balancer, learned = METHODS[method]()
        training = balanced_model(net(), terms_of, balancer, learned=learned)
        training.compile(optimizer=keras.optimizers.Adam(0.05))
        fit = {"batch_size": 4, "epochs": 4, "shuffle": False, "verbose": 0}
        history = training.fit(x, y, **fit, callbacks=callbacks).history
        return training, balancer, history

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    straight, balancer, history = fit()
    with pytest.raises(Stopped):
        fit(backup(), StopAfter(2))
    resumed, other, later = fit(backup())
    assert all(map(np.array_equal, resumed.get_weights(), straight.get_weights()))
    assert torch.equal(other.weights, balancer.weights)
    assert all(map(torch.equal, other.parameters(), balancer.parameters()))
    assert later == {key: values[2:] for key, values in history.items()}


def test_validation_shows_the_terms_and_learns_nothing():
    x, y = numbers(8, 3, seed=1), numbers(8, 1, seed=2)
    balancer = FixedWeights({"error": 1.0, "bias": 0.5})
    training = balanced_model(net(), terms_of, balancer)
    training.compile(optimizer="sgd")
    training.fit(x, y, batch_size=8, verbose=0)
    before = training.get_weights()
    found = training.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)
    error = outputs(training.net, x) - y
    assert found["value/error"] == pytest.approx((error**2).mean(), rel=1e-5)
    assert found["loss"] == pytest.approx((error**2).mean() + 0.5 * error.mean() ** 2, rel=1e-5)
    assert balancer.steps == 1
    assert all(map(np.array_equal, training.get_weights(), before))


def test_validation_of_residuals_at_points_compares_their_squares():
    x, y = numbers(8, 3, seed=1), numbers(8, 1, seed=2)
    balancer = ResidualAttention({"error": 8})
    training = balanced_model(net(), lambda y_pred, y_true: {"error": y_pred - y_true}, balancer)
    training.compile(optimizer="sgd")
    training.fit(x, y, batch_size=8, verbose=0)
    error = outputs(training.net, x[:6]) - y[:6]  # of other points than those it has weights for
    found = training.evaluate(x[:6], y[:6], verbose=0, return_dict=True)
    expected = pytest.approx((error.astype("float64") ** 2).mean(), rel=1e-5)
    assert found == {"loss": expected, "value/error": expected}


def test_a_batch_that_is_given_as_an_array_trains_as_in_fit():
    x, y = numbers(8, 3, seed=1).astype("float64"), numbers(8, 1, seed=2).astype("float64")
    one, other = (balanced_model(net(), terms_of, FixedWeights()) for _ in range(2))
    for training in (one, other):
        training.compile(optimizer="sgd")
    one.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    other.train_on_batch(x, y)
    assert all(map(np.array_equal, one.get_weights(), other.get_weights()))


def test_sample_weights_go_to_the_terms():
    x, y, weight = numbers(8, 3, seed=1), numbers(8, 1, seed=2), np.arange(8, dtype="float32")
    training = balanced_model(net(), terms_of, FixedWeights())
    training.compile(optimizer="sgd")
    error = outputs(training.net, x) - y
    history = training.fit(x, y, sample_weight=weight, batch_size=8, verbose=0).history
    assert history["value/error"] == [pytest.approx((error**2 * weight[:, None]).mean(), rel=1e-5)]


def test_what_layers_add_to_the_loss_is_a_term():
    x, y = numbers(8, 3, seed=1), numbers(8, 1, seed=2)
    keras.utils.set_random_seed(1)
    regulariser = keras.regularizers.L2(0.1)
    layers = [
        keras.layers.Dense(4, kernel_regularizer=regulariser),
        keras.layers.ActivityRegularization(l1=0.01),
        keras.layers.Dense(1),
    ]
    plain = keras.Sequential([keras.Input((3,)), *layers])
    weights = plain.get_weights()
    fit = {"batch_size": 8, "epochs": 3, "verbose": 0}
    plain.compile(optimizer=keras.optimizers.SGD(0.1), loss=keras.losses.MeanSquaredError())
    expected = plain.fit(x, y, **fit).history["loss"]
    trained = plain.get_weights()

    plain.set_weights(weights)
    training = balanced_model(plain, lambda out, y: {"regularisation": out.mean()}, FixedWeights())
    training.compile(optimizer="sgd")
    with pytest.raises(ValueError, match="the term 'regularisation' is what the layers"):
        training.fit(x, y, **fit)
    training = balanced_model(
        plain, lambda out, y: {"error": (out - y).square().mean()}, FixedWeights()
    )
    training.compile(optimizer=keras.optimizers.SGD(0.1))
    history = training.fit(x, y, **fit).history
    assert history["loss"] == pytest.approx(expected, rel=1e-5)
    assert min(history["value/regularisation"]) > 0
    for ours, theirs in zip(plain.get_weights(), trained, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_a_scaled_loss_of_keras_trains_alike():
    x, y = numbers(8, 3, seed=1), numbers(8, 1, seed=2)
    found = []
    for scale in (None, 64.0):
        balancer, learned = _learned(UncertaintyWeights(NAMES))
        training = balanced_model(net(), terms_of, balancer, learned=learned)
        training.compile(optimizer=keras.optimizers.SGD(0.2, loss_scale_factor=scale))
        training.fit(x, y, batch_size=8, epochs=3, verbose=0)
        found.append([*training.get_weights(), balancer.log_variance.detach().numpy()])
    for plain, scaled in zip(*found, strict=True):
        np.testing.assert_allclose(scaled, plain, rtol=1e-5, atol=1e-7)


# ---- what is refused


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: keras_loss("mse"), TypeError, "`loss` must be a function or a Module, got 'mse'"),
        (lambda: keras_loss(nn.MSELoss), TypeError, "`loss` must be a function or a Module"),
        (lambda: keras_loss(nn.Linear(2, 1)), TypeError, "`loss` must have no parameters"),
        (lambda: keras_loss(pinball_loss, reduction="median"), ValueError, "reduction"),
        (lambda: balanced_model(nn.Linear(2, 1), terms_of, UPGrad()), TypeError, "`model` must be"),
        (
            lambda: balanced_model(keras.Sequential([keras.layers.Dense(1)]), terms_of, UPGrad()),
            ValueError,
            "`model` must be built",
        ),
        (lambda: balanced_model(net(), None, UPGrad()), TypeError, "`terms_fn` must be callable"),
        (lambda: balanced_model(net(), terms_of, "UPGrad"), TypeError, "`balancer` must be"),
        (
            lambda: balanced_model(net(), terms_of, UncertaintyWeights(NAMES)),
            TypeError,
            "the weights of UncertaintyWeights are learned",
        ),
        (
            lambda: keras_loss(functional.mse_loss, reduction="own")(
                numbers(2, 1), numbers(2, 1), sample_weight=np.ones(2)
            ),
            ValueError,
            "'mse_loss' reduces by itself",
        ),
    ],
    ids=range(10),
)
def test_wrong_calls_are_refused_in_words(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_terms_without_names_are_refused():
    training = balanced_model(net(), lambda out, y: (out - y).square().mean(), UPGrad())
    training.compile(optimizer="sgd")
    with pytest.raises(TypeError, match="`terms_fn` must return a mapping .*, got Tensor"):
        training.fit(numbers(8, 3), numbers(8, 1), verbose=0)


def test_the_training_itself_is_not_saved_as_a_model(tmp_path):
    training = balanced_model(net(), terms_of, UPGrad())
    with pytest.raises(NotImplementedError, match="save `net`"):
        training.save(tmp_path / "model.keras")
    training.net.save(tmp_path / "model.keras")


def test_a_missing_keras_is_told_in_words(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(ImportError, match=r"pip install 'lossproof\[keras\]', and set the environ"):
        integration.on_torch()


def test_another_backend_is_told_in_words(monkeypatch):
    other = types.ModuleType("keras")
    other.config = types.SimpleNamespace(backend=lambda: "jax")
    monkeypatch.setitem(sys.modules, "keras", other)
    with pytest.raises(ImportError, match=r"Keras runs on 'jax', .* KERAS_BACKEND=torch before"):
        integration.on_torch()


def test_a_backend_that_is_not_installed_is_told_in_words(monkeypatch, tmp_path):
    (tmp_path / "keras.py").write_text("import a_backend_that_nobody_has\n", encoding="utf-8")
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"cannot load its backend .*a_backend.* KERAS_BACKEND"):
        integration.on_torch()


def test_a_name_that_the_module_does_not_have():
    with pytest.raises(AttributeError, match="has no attribute 'Loss'"):
        _ = integration.Loss
