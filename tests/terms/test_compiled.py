"""A compiled step does what `balancer.backward` does.

Most tests run the traced graph as it is: what is traced is ours. Few let Inductor make C++ of it.
"""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lossproof.terms.balance.annealing import LearningRateAnnealing
from lossproof.terms.balance.famo import FAMO
from lossproof.terms.balance.fixed import FixedWeights
from lossproof.terms.balance.geometric_mean import GeometricMean
from lossproof.terms.balance.grad_drop import GradDrop
from lossproof.terms.balance.gradnorm import GradNorm
from lossproof.terms.balance.imtl import IMTL, IMTLG
from lossproof.terms.balance.looking import NonFiniteTermError
from lossproof.terms.balance.rlw import RLW
from lossproof.terms.balance.stch import STCH
from lossproof.terms.balance.uncertainty import UncertaintyWeights
from lossproof.terms.balance.upgrad import UPGrad
from lossproof.terms.compiled import compiled_step
from lossproof.terms.gradients import term_gradients

NAMES = ("data", "slope", "head")
from_torch = pytest.mark.filterwarnings("ignore::DeprecationWarning")
"""Inductor uses what torch has deprecated."""


@pytest.fixture
def traced_only(monkeypatch):
    """The graph is run as it was traced."""
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, inputs, options: graph)


class Net(nn.Module):
    """A trunk with a batch norm, whose averages change in the forward pass, and two heads."""

    def __init__(self, norm=True) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Linear(2, 8), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.Tanh(),
            nn.Linear(8, 8), nn.Tanh(),
        )  # fmt: skip
        self.first, self.second = nn.Linear(8, 1), nn.Linear(8, 1)


def net(seed=0, **options):
    torch.manual_seed(seed)
    return Net(**options).double()


def batch(seed, count=16):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(count, 2, generator=generator, dtype=torch.float64),
        torch.rand(count, 1, generator=generator, dtype=torch.float64),
    )


def terms_of(model, x, y):
    hidden = model.trunk(x)
    return {
        "data": F.mse_loss(model.first(hidden), y),
        "slope": (model.first(hidden) - 2 * model.second(hidden)).square().mean(),
        "head": (model.second(hidden) + y).abs().mean(),
    }


def physics(model, x, y):
    """A residual with second derivatives, as `torch.autograd.grad` gives them in the forward."""
    points = x.clone().requires_grad_()
    u = model.first(model.trunk(points))
    (slope,) = torch.autograd.grad(u.sum(), points, create_graph=True)
    (curve,) = torch.autograd.grad(slope[:, 0].sum(), points, create_graph=True)
    return {
        "data": F.mse_loss(u, y),
        "slope": (curve[:, 0] + u[:, 0]).square().mean(),
        "head": model.second(model.trunk(x)).square().mean(),
    }


def assert_same(one, two) -> None:
    """All parameters, gradients and buffers of two models are equal."""
    for (name, left), right in zip(one.named_parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12, msg=name)
        if left.grad is None or right.grad is None:
            assert left.grad is right.grad, name
        else:
            torch.testing.assert_close(left.grad, right.grad, rtol=1e-10, atol=1e-12)
    for left, right in zip(one.buffers(), two.buffers(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


def train(make, terms, *, counts=(16, 16, 9, 16), **options):
    """Some steps on a model and on its copy, compiled and not."""
    model = net(norm=terms is not physics)
    other, ours, theirs = copy.deepcopy(model), make(), make()
    step = compiled_step(terms, model, ours, **options)
    optimizers = [
        torch.optim.SGD([*m.parameters(), *b.parameters()], lr=0.1)
        for m, b in ((model, ours), (other, theirs))
    ]
    for t, count in enumerate(counts):
        for optimizer in optimizers:
            optimizer.zero_grad()
        done = step(*batch(t, count))
        expected = theirs.backward(terms(other, *batch(t, count)), other)
        assert done.names == expected.names
        assert done.refreshed == expected.refreshed
        torch.testing.assert_close(done.values, expected.values, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(done.weights, expected.weights, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(done.total, expected.total, rtol=1e-10, atol=1e-12)
        assert_same(model, other)
        assert_same(ours, theirs)
        for optimizer in optimizers:
            optimizer.step()
    return done, expected


@from_torch
def test_inductor_makes_the_same_step() -> None:
    done, expected = train(UPGrad, terms_of, counts=(16, 16))
    torch.testing.assert_close(
        done.gradients.gramian, expected.gradients.gramian, rtol=1e-10, atol=1e-14
    )


@from_torch
def test_inductor_makes_the_same_step_of_an_equation() -> None:
    train(lambda: LearningRateAnnealing(reference="slope", every=2), physics, counts=(8, 8, 8))


BALANCERS = {
    "fixed": lambda: FixedWeights({"data": 1.0, "slope": 0.3, "head": 2.0}),
    "uncertainty": lambda: UncertaintyWeights(NAMES),
    "geometric mean": GeometricMean,
    "rlw": RLW,
    "stch": lambda: STCH(warmup=2),
    "famo": FAMO,
    "imtl-g": IMTLG,
    "imtl": lambda: IMTL(NAMES),
    "upgrad": UPGrad,
    "upgrad, every second": lambda: UPGrad(every=2),
    "annealing": lambda: LearningRateAnnealing(reference="slope"),
    "gradnorm": lambda: GradNorm(NAMES),
    "graddrop": GradDrop,
}


@pytest.mark.usefixtures("traced_only")
@pytest.mark.parametrize("method", BALANCERS)
def test_every_balancer(method) -> None:
    train(BALANCERS[method], terms_of)


@pytest.mark.usefixtures("traced_only")
@pytest.mark.parametrize("method", ["upgrad", "annealing", "imtl"])
def test_derivatives_within_the_terms(method) -> None:
    train(BALANCERS[method], physics)


@pytest.mark.usefixtures("traced_only")
def test_all_figures() -> None:
    class Everything(UPGrad):
        needs = ("norm", "mean", "mean_abs", "max_abs", "gramian", "gradients")

    model = net()
    other = copy.deepcopy(model)
    figures = {}

    class Looking(Everything):
        def weights_of(self, found):
            figures["rows"] = found.gradient_rows()
            figures["gradients"] = found.gradients
            return super().weights_of(found)

    done = compiled_step(terms_of, model, Looking())(*batch(1))
    expected = term_gradients(terms_of(other, *batch(1)), other, want=Everything.needs)
    assert done.gradients is not None
    for name in ("norm", "mean", "mean_abs", "max_abs"):
        for one in ("vector", "by_parameter"):
            found = getattr(done.gradients, one)(name)
            torch.testing.assert_close(found, getattr(expected, one)(name), rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(done.gradients.gramian, expected.gramian)
    torch.testing.assert_close(figures["gradients"], expected.gradients)
    for name, rows in expected.gradient_rows().items():
        torch.testing.assert_close(figures["rows"][name], rows)
    assert done.gradients.unreached == expected.unreached
    assert "terms/value/data" in done.as_dict()


@pytest.mark.usefixtures("traced_only")
def test_frozen_tied_unused_and_strided_parameters() -> None:
    def make():
        model = net()
        model.trunk[0].weight.requires_grad_(False)
        model.second.weight = model.first.weight
        model.unused = nn.Linear(2, 2).double()
        with torch.no_grad():
            model.trunk[3].weight.data = model.trunk[3].weight.data.T.contiguous().T
        return model

    model, other = make(), make()
    compiled_step(terms_of, model, UPGrad())(*batch(0))
    UPGrad().backward(terms_of(other, *batch(0)), other)
    assert model.trunk[0].weight.grad is None
    assert model.unused.weight.grad is None
    assert model.trunk[3].weight.grad.stride() == model.trunk[3].weight.stride()
    assert_same(model, other)
    step = compiled_step(terms_of, model, UPGrad())
    step(*batch(0))
    model.trunk[3].weight.requires_grad_(False)  # another graph is made
    before = model.trunk[3].weight.grad.clone()
    step(*batch(0))
    assert torch.equal(model.trunk[3].weight.grad, before)


@pytest.mark.usefixtures("traced_only")
def test_absent_and_constant_terms_and_the_order_of_the_names() -> None:
    def some(model, x, y):
        terms = terms_of(model, x, y)
        return {"head": terms["head"], "slope": None, "data": terms["data"],
                "constant": torch.ones((), dtype=torch.float64)}  # fmt: skip

    model = net()
    other = copy.deepcopy(model)
    names = ("constant", "data", "slope", "head")
    ours, theirs = UPGrad(names), UPGrad(names)
    done = compiled_step(some, model, ours)(*batch(0))
    expected = theirs.backward(some(other, *batch(0)), other)
    assert done.names == expected.names == ("constant", "data", "head")
    assert done.gradients.constant == ("constant",)
    torch.testing.assert_close(done.weights, expected.weights)
    torch.testing.assert_close(ours.weights, theirs.weights)
    assert_same(model, other)


@pytest.mark.usefixtures("traced_only")
def test_gradients_add_up_and_hooks_listen() -> None:
    model = net(norm=False)
    other = copy.deepcopy(model)
    heard = []
    model.first.bias.register_hook(lambda gradient: heard.append(gradient.clone()))
    step, balancer = compiled_step(terms_of, model, UPGrad()), UPGrad()
    step(*batch(0))
    step(*batch(1), refresh=False)
    balancer.backward(terms_of(other, *batch(0)), other)
    balancer.backward(terms_of(other, *batch(1)), other, refresh=False)
    assert_same(model, other)
    assert len(heard) == 2
    torch.testing.assert_close(heard[0] + heard[1], model.first.bias.grad)


@pytest.mark.usefixtures("traced_only")
def test_numbers_and_nested_batches() -> None:
    def weighted(model, batch, factor, names):
        terms = terms_of(model, batch["x"], batch["y"])
        return {"data": factor * terms["data"], names[0]: terms["head"]}

    model = net()
    x, y = batch(0)
    step = compiled_step(weighted, model, FixedWeights())
    values = [step({"x": x, "y": y}, factor, ["head"]).values[0].item() for factor in (1, 2.0, 1)]
    assert values[1] == pytest.approx(2 * values[0])
    assert values[2] == pytest.approx(values[0])
    assert len(step._found) == 2


@pytest.mark.usefixtures("traced_only")
def test_training_and_evaluation_are_two_graphs() -> None:
    model = nn.Sequential(nn.Linear(2, 64), nn.Dropout(0.5), nn.Linear(64, 1)).double()
    step = compiled_step(
        lambda model, x, y: {"a": F.mse_loss(model(x), y), "b": model(x).square().mean()},
        model,
        FixedWeights(),
    )
    one, two = step(*batch(0)).values, step(*batch(0)).values
    assert (one != two).all()  # dropped anew
    model.eval()
    assert torch.equal(step(*batch(0)).values, step(*batch(0)).values)


@pytest.mark.usefixtures("traced_only")
def test_a_buffer_in_whose_place_another_tensor_is_put() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 1).double()
            self.register_buffer("mean", torch.zeros((), dtype=torch.float64))

        def forward(self, x):
            self.mean = 0.5 * self.mean + x.mean()
            return self.layer(x) - self.mean

    def terms(model, x, y):
        out = model(x)
        return {"a": F.mse_loss(out, y), "b": out.abs().mean()}

    model = Counting()
    other = copy.deepcopy(model)
    step, balancer = compiled_step(terms, model, UPGrad()), UPGrad()
    for t in range(3):
        step(*batch(t))
        balancer.backward(terms(other, *batch(t)), other)
    assert model.mean != 0
    assert_same(model, other)


@pytest.mark.usefixtures("traced_only")
def test_small_float32_gradients_have_a_gramian() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    scale = 1e-25
    step = compiled_step(
        lambda model, x: {"a": scale * model(x)[:, 0].sum(), "b": -scale * model(x)[:, 1].sum()},
        model,
        UPGrad(),
    )
    x = torch.randn(4, 3)
    gramian = step(x).gradients.gramian
    expected = scale**2 * (x.double().sum(0).square().sum() + 16)
    assert gramian[0, 0].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.usefixtures("traced_only")
def test_a_term_that_is_not_finite() -> None:
    def terms(model, x, y):
        all_terms = terms_of(model, x, y)
        return {**all_terms, "slope": all_terms["slope"] * y.mean().log()}

    model, balancer = net(norm=False), UPGrad()
    step = compiled_step(terms, model, balancer)
    x, y = batch(0)
    step(x, y)
    weights, gradient = balancer.weights.clone(), model.first.bias.grad.clone()
    with pytest.raises(NonFiniteTermError, match="'slope'") as caught:
        step(x, -y)
    assert caught.value.names == ("slope",)
    assert torch.equal(balancer.weights, weights)
    assert torch.equal(model.first.bias.grad, gradient)
    assert balancer.steps == 1
    looked_away = compiled_step(terms, model, FixedWeights(), nonfinite="ignore")
    assert math.isnan(looked_away(x, -y).total)


@pytest.mark.usefixtures("traced_only")
def test_what_no_graph_can_hold_is_refused() -> None:
    def branching(model, x, y):
        terms = terms_of(model, x, y)
        return terms if terms["data"] > 1 else {**terms, "data": 2 * terms["data"]}

    with pytest.raises(ValueError, match="look at the numbers of a tensor"):
        compiled_step(branching, net(), UPGrad())(*batch(0))

    class Keeping(nn.Linear):
        def forward(self, x):
            return F.linear(x, self.kept[0])

    model = Keeping(2, 3).double()
    model.kept = [model.weight]
    with pytest.raises(ValueError, match="parameter 'weight' from a place of its own"):
        compiled_step(simple, model, UPGrad())(*batch(0))
    # ... and nothing of the trace is left in the module
    assert all(type(one) is nn.Parameter for one in model.parameters())
    assert model(batch(0)[0]).isfinite().all()


def simple(model, x, y):
    out = model(x)
    return {"a": F.mse_loss(out, y.expand_as(out)), "b": out.square().mean()}


@pytest.mark.usefixtures("traced_only")
def test_other_layers() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(2, 3).double()

        def forward(self, x):
            return self.lstm(x)[0]

    torch.manual_seed(0)
    for model in (
        Recurrent(),
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 4)), nn.SiLU()).double(),
        nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Conv1d(1, 3, 1), nn.Flatten()).double(),
        nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 3)).double(),
    ):
        other = copy.deepcopy(model)
        compiled_step(simple, model, UPGrad())(*batch(0))
        UPGrad().backward(simple(other, *batch(0)), other)
        assert_same(model, other)


@pytest.mark.usefixtures("traced_only")
def test_too_many_forms_are_told_and_not_compiled() -> None:
    model = net(norm=False)
    other = copy.deepcopy(model)
    step, balancer = compiled_step(terms_of, model, UPGrad(), graphs=1), UPGrad()
    step(*batch(0, 16))
    with pytest.warns(RuntimeWarning, match="more than 1 forms"):
        step(*batch(1, 8))
    step(*batch(2, 4))  # told once
    for t, count in enumerate((16, 8, 4)):
        balancer.backward(terms_of(other, *batch(t, count)), other)
    assert_same(model, other)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"terms_of": 3}, TypeError, "`terms_of` must be a function, got int"),
        ({"model": terms_of}, TypeError, "`model` must be a torch.nn.Module, got function"),
        ({"balancer": UPGrad}, TypeError, "`balancer` must be a Balancer"),
        ({"mode": "fast"}, ValueError, "`mode` must be one of 'default'"),
        ({"nonfinite": "drop"}, ValueError, "`nonfinite` must be one of 'raise', 'ignore'"),
        ({"graphs": 0}, ValueError, "`graphs` must be an integer of at least 1"),
    ],
)
def test_wrong_arguments(change, error, message) -> None:
    arguments = {"terms_of": terms_of, "model": net(), "balancer": UPGrad(), **change}
    with pytest.raises(error, match=message):
        compiled_step(**arguments)


@pytest.mark.usefixtures("traced_only")
def test_wrong_terms() -> None:
    with pytest.raises(ValueError, match="terms of this balancer are"):
        compiled_step(terms_of, net(), UPGrad(["a", "b"]))(*batch(0))
    with pytest.raises(ValueError, match="term 'a' must be a scalar"):
        compiled_step(lambda model, x, y: {"a": model.trunk(x)}, net(), UPGrad())(*batch(0))


def test_ranks_that_meet_after_the_step_was_made_are_refused(monkeypatch):
    step = compiled_step(lambda model, x: {"data": model.first(x).sum()}, net(), UPGrad())
    monkeypatch.setattr("lossproof.terms.compiled.Ranks.of", lambda group: "two ranks")
    with pytest.raises(ValueError, match="several ranks train together"):
        step(batch(0))
