"""A loop of one's own: trained, stopped, resumed to the last bit, and its terms read back."""

import csv

import pytest
import torch
from torch import nn
from torch.nn import functional

import lossproof
from lossproof.terms import (
    RLW,
    FixedWeights,
    LearningRateAnnealing,
    TermHistory,
    UncertaintyWeights,
    UPGrad,
)

NAMES = ("value", "label")
BALANCERS = {
    "FixedWeights": lambda: FixedWeights({"value": 1.0, "label": 0.3}),
    "UPGrad": UPGrad,
    "LearningRateAnnealing": lambda: LearningRateAnnealing(reference="value", every=3),
    "RLW": RLW,
    "UncertaintyWeights": lambda: UncertaintyWeights(NAMES),
}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.2))
        self.heads = nn.ModuleList([nn.Linear(8, 1), nn.Linear(8, 2)])

    def forward(self, x):
        hidden = self.trunk(x)
        return [head(hidden) for head in self.heads]


class Training:
    """A training with everything that a checkpoint must hold."""

    def __init__(self, balancer):
        torch.manual_seed(3)
        self.model = Net()
        self.balancer = BALANCERS[balancer]()
        self.optimizer = torch.optim.Adam(
            [*self.model.parameters(), *self.balancer.parameters()], lr=0.02
        )
        self.history = TermHistory()
        self.norms = []

    def terms_of(self, x):
        value, logits = self.model(x)
        return {
            "value": functional.mse_loss(value, x[:, :1]),
            "label": functional.cross_entropy(logits, (x[:, 1] > 0).long()),
        }

    def run(self, steps, guard=None):
        seen = []
        compute = guard.wrap(self.terms_of) if guard else self.terms_of
        for _ in range(steps):
            terms = compute(torch.randn(16, 3))
            self.optimizer.zero_grad()
            step = self.balancer.backward(terms, self.model)
            if guard:
                guard.note_step(step)
            gradient = torch.cat([one.grad.flatten() for one in self.model.parameters()])
            self.norms.append(gradient.norm().item())
            self.optimizer.step()
            self.history.add(step)
            seen.append([term.item() for term in terms.values()])
        return seen

    @property
    def parts(self):
        return {name: getattr(self, name) for name in ("model", "balancer", "optimizer", "history")}

    def save(self, path):
        state = {name: part.state_dict() for name, part in self.parts.items()}
        torch.save({**state, "random": torch.get_rng_state()}, path)

    def load(self, path, forgotten=None):
        state = torch.load(path, weights_only=True)
        for name, part in self.parts.items():
            if name != forgotten:
                part.load_state_dict(state[name])
        torch.set_rng_state(state["random"])

    def bits(self):
        tensors = [*self.model.parameters(), *self.balancer.parameters(), self.balancer.weights]
        return [tensor.detach().clone() for tensor in tensors]


@pytest.mark.parametrize("balancer", BALANCERS)
def test_a_resumed_training_is_the_uninterrupted_one_to_the_last_bit(tmp_path, balancer):
    straight = Training(balancer)
    straight.run(5)
    straight.save(tmp_path / "checkpoint.pt")
    at_the_stop = straight.bits()
    straight.run(6)

    resumed = Training(balancer)
    resumed.load(tmp_path / "checkpoint.pt")
    resumed.run(6)
    assert all(map(torch.equal, resumed.bits(), straight.bits()))
    assert not all(map(torch.equal, resumed.bits(), at_the_stop))
    assert resumed.history.to_dict() == straight.history.to_dict()


@pytest.mark.parametrize("part", ["balancer", "optimizer", "model"])
def test_a_part_that_is_forgotten_changes_the_training(tmp_path, part):
    straight = Training("LearningRateAnnealing")
    straight.run(5)
    straight.save(tmp_path / "checkpoint.pt")
    straight.run(3)
    resumed = Training("LearningRateAnnealing")
    resumed.load(tmp_path / "checkpoint.pt", forgotten=part)
    resumed.run(3)
    assert not all(map(torch.equal, resumed.bits(), straight.bits()))


def test_the_terms_are_read_back(tmp_path):
    training = Training("UncertaintyWeights")
    seen = training.run(7)
    columns = training.history.to_dict()
    for position, name in enumerate(NAMES):
        assert columns[f"value/{name}"] == pytest.approx([row[position] for row in seen])
    training.history.to_csv(tmp_path / "terms.csv")
    with (tmp_path / "terms.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["value/label"]) for row in rows] == columns["value/label"]


def test_a_watched_training_is_the_same_and_its_figures_are_read_back():
    plain, watched = Training("UPGrad"), Training("UPGrad")
    plain.run(12)
    with lossproof.watch(watched.model) as guard:
        torch.manual_seed(3)
        Net()  # draws what the model drew
        seen = watched.run(12, guard)
    assert all(map(torch.equal, watched.bits(), plain.bits()))
    assert guard.alarms == []
    figures = guard.as_dict("")
    norms = watched.history.to_dict()
    for position, name in enumerate(NAMES):
        assert figures[name] == pytest.approx(seen[-1][position], rel=1e-6)
        assert figures[f"gradient_norm/{name}"] == pytest.approx(
            norms[f"norm/{name}"][-1], rel=1e-5
        )
    # the norm of the whole gradient is measured where that is cheap enough, from the first step on
    measured = {step.step: step.norm for step in guard.history if step.norm is not None}
    assert measured
    assert measured == pytest.approx({step: watched.norms[step - 1] for step in measured})
    assert figures["gradient_norm"] == measured[max(measured)]


def test_a_term_that_goes_wrong_is_named_with_its_sample():
    training, alarms = Training("UPGrad"), []
    with lossproof.watch(training.model, on_alarm=alarms.append) as guard:
        training.run(5, guard)
        compute = guard.wrap(lambda x: {**training.terms_of(x), "log": (x[:, 2] - 1).log().mean()})
        x = torch.full((8, 3), 2.0)
        x[5, 2] = 1.0
        with pytest.raises(lossproof.LossproofError, match="'log'"):
            Training("UPGrad").balancer.backward(compute(x), training.model)
    assert [(alarm.term, alarm.step) for alarm in alarms] == [("log", 6)]
    assert alarms[0].diagnosis.operation == "log"
    assert alarms[0].diagnosis.samples == (5,)
