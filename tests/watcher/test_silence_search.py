"""Why no gradient arrives: the cut, the zero derivative, the module that nobody calls."""

import pytest
import torch
from torch import nn

from lossproof.watcher.alarm import AlarmKind
from lossproof.watcher.diagnosis import diagnose


def of_term(recording, model, term=None):
    return diagnose(AlarmKind.DEAD_TERM, recording.record, model, term=term)


def of_gradient(recording, model):
    return diagnose(AlarmKind.VANISHED_GRADIENT, recording.record, model)


def of_parameters(recording, model):
    return diagnose(AlarmKind.UNREACHED_PARAMETER, recording.record, model)


def detached(out):
    return {"fit": out.square().mean(), "size": out.detach().abs().mean()}  # <-- here


def as_a_number(out):
    fit = out.square().mean()
    return {"fit": fit, "size": torch.tensor(out.abs().mean().item())}  # <-- here


def by_index(out):
    chosen = out.argmax(1)  # <-- here
    return {"fit": out.square().mean(), "size": chosen.float().mean()}


def by_comparison(out):
    wrong = (out > 0).float()  # <-- here
    return {"fit": out.square().mean(), "size": wrong.mean()}


def without_gradients(out):
    with torch.no_grad():
        size = out.abs().mean()  # <-- here
    return {"fit": out.square().mean(), "size": size}


@pytest.mark.parametrize(
    ("terms_of", "operation", "piece"),
    [
        (detached, "detach", "`.detach()`"),
        (as_a_number, "item", "`.item()`"),
        (by_index, "argmax", "`softmax`"),
        (by_comparison, "__gt__", None),
        (without_gradients, "no_grad", "`no_grad`"),
    ],
)
def test_where_the_graph_of_a_term_ends(recording, network, marked, terms_of, operation, piece):
    model = network(out=2)
    terms = recording.terms(terms_of, recording.model(model, torch.randn(8, 3)))
    assert not terms["size"].requires_grad
    found = of_term(recording, model, "size")
    assert (found.part, found.operation) == ("loss", operation.replace("__gt__", "gt"))
    assert found.location.line == marked(terms_of)
    assert piece is None or piece in found.help


def test_a_logged_number_is_not_the_cut(recording, network, marked):
    def terms_of(out):
        size = out.detach().abs().mean()  # <-- here
        size.item(), out.sum().item()
        return {"fit": out.square().mean(), "size": size}

    model = network()
    recording.terms(terms_of, recording.model(model, torch.randn(8, 3)))
    found = of_term(recording, model, "size")
    assert (found.operation, found.location.line) == ("detach", marked(terms_of))


def test_detached_between_the_model_and_the_loss(recording, network):
    model = network()
    out = recording.model(model, torch.randn(8, 3))
    recording.terms(nn.MSELoss(), out.detach(), torch.zeros(8, 1))
    found = of_term(recording, model)
    assert (found.part, found.operation) == ("between", "detach")
    assert "`input` is a result of the model without its graph" in found.notes[0]


def test_a_term_that_is_made_from_nothing_that_is_trained(recording, network):
    model = network()
    recording.model(model, torch.randn(8, 3))
    recording.terms(lambda x: x.square().mean(), torch.randn(8))
    found = of_term(recording, model)
    assert found.notes[0] == "nothing that `loss` is made from requires a gradient"


def clamped(out):
    return (out.clamp(5.0, 6.0) - 7.0).square().mean()  # <-- here


def saturated(out):
    return (torch.sigmoid(out + 200.0) - 0.5).square().mean()  # <-- here


def flat_tanh(out):
    return (torch.tanh(out * 0 - 50.0) - out.detach()).square().mean()  # <-- here


@pytest.mark.parametrize(
    ("loss", "operation"), [(clamped, "clamp"), (saturated, "sigmoid"), (flat_tanh, "tanh")]
)
def test_a_derivative_that_is_0_everywhere(recording, network, marked, loss, operation):
    model = network()
    recording.terms(loss, recording.model(model, torch.randn(8, 3)))
    found = of_gradient(recording, model)
    assert (found.part, found.phase, found.operation) == ("loss", "backward", operation)
    assert found.location.line == marked(loss)
    assert found.notes[0].endswith("is 0 for each of the 8 numbers here")
    assert found.evidence["leaving"] == 0
    assert found.help is not None


@pytest.mark.parametrize(
    "between", [lambda out: out, lambda out: out[:, :1]], ids=["joined", "view"]
)
def test_a_layer_whose_units_are_all_dead(recording, between):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    out = between(recording.model(model, torch.randn(8, 3)))
    recording.terms(nn.MSELoss(), out, torch.ones(8, 1))
    found = of_parameters(recording, model)
    assert (found.part, found.phase, found.operation) == ("model", "backward", "relu")
    assert "the derivative of `relu` is 0 for each of the 32 numbers here" in found.notes
    assert "`0.weight` is behind it" in found.notes
    assert "in the module `1` of the model" in found.notes
    assert "leaky_relu" in found.help


def test_where_a_gradient_shrinks_most(recording, marked):
    class Small(nn.Module):
        def forward(self, x):
            return x * 1e-12  # <-- here

    model = nn.Sequential(nn.Linear(3, 1), Small())
    recording.terms(nn.MSELoss(), recording.model(model, torch.randn(8, 3)), torch.ones(8, 1))
    found = of_gradient(recording, model)
    assert (found.part, found.operation) == ("model", "mul")
    assert found.location.line == marked(Small)
    assert found.notes[0].startswith("the gradient shrinks most in `mul`")


class Parts(nn.Module):
    """A trunk, and parts that a step may leave out in several ways."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(3, 2)
        self.frozen = nn.Linear(3, 2)
        self.idle = nn.Linear(3, 2)
        self.unheard = nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x):
        with torch.no_grad():
            other = self.frozen(x)  # <-- here
        return self.trunk(x) + other, self.unheard(x)


def test_what_becomes_of_the_parameters_that_get_no_gradient(recording, marked):
    model = Parts()
    out = recording.model(model, torch.randn(8, 3))
    loss = recording.terms(lambda outs: outs[0].square().mean(), out)
    found = of_parameters(recording, model)
    assert (found.part, found.operation) == ("model", "no_grad")
    assert found.location.line == marked(Parts)
    assert "`frozen.weight` is behind it" in found.notes
    assert "the module `idle` was not called in this step" in found.notes
    assert "no operation of this step uses `scale`" in found.notes
    assert "what is made with `unheard.weight` is no part of any term" in found.notes
    loss.backward()
    without = {name.split(".")[0] for name, one in model.named_parameters() if one.grad is None}
    assert without == {"frozen", "idle", "unheard", "scale"}


def test_a_part_that_is_not_called_alone(recording):
    model = nn.ModuleDict({"used": nn.Linear(3, 1), "idle": nn.Linear(3, 1)})
    model.forward = lambda x: model["used"](x)
    recording.terms(nn.MSELoss(), recording.model(model, torch.randn(8, 3)), torch.ones(8, 1))
    found = of_parameters(recording, model)
    assert found.notes == ("the module `idle` was not called in this step",)
    assert "requires_grad_(False)" in found.help


def test_a_gradient_that_is_there(recording, network):
    model = network()
    recording.terms(nn.MSELoss(), recording.model(model, torch.randn(8, 3)), torch.ones(8, 1))
    assert of_gradient(recording, model).caveat
    assert of_parameters(recording, model).caveat
