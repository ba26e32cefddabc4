"""Losses and models put together at random around one known fault: it is the one that is named."""

import random

import pytest
import torch
from torch import nn

from lossproof.watcher.alarm import AlarmKind
from lossproof.watcher.diagnosis import diagnose

# `f` is 1 for the samples at fault, and only there the line leaves the finite numbers.
VALUES = [
    ("log", "v = torch.log(u * (1 - f))"),
    ("log", "v = (u * (1 - f)).log()"),
    ("log1p", "v = torch.log1p(u * (1 - f) - f)"),
    ("div", "v = u / (1 - f)"),
    ("div", "v = (1 - f) * u / ((1 - f) * u)"),
    ("sqrt", "v = torch.sqrt(u - 1e6 * f)"),
    ("rsqrt", "v = torch.rsqrt(u * (1 - f))"),
    ("exp", "v = torch.exp(u + 1000.0 * f)"),
    ("pow", "v = (u - 1e5 * f) ** 0.5"),
    ("pow", "v = (u + 1e30 * f) ** 2"),
    ("acos", "v = torch.acos(torch.tanh(u) + 3 * f)"),
]
GRADIENTS = [
    ("sqrt", "v = torch.sqrt(u.square() * (1 - f))"),
    ("sqrt", "v = torch.sqrt((u - u.detach()) * f + u * (1 - f))"),
    ("pow", "v = ((1 - f) * u) ** 0.5"),
    ("log", "v = torch.where(f > 0, torch.zeros_like(u), torch.log(u * (1 - f)))"),
    ("div", "v = torch.where(f > 0, torch.zeros_like(u), u / (1 - f))"),
    ("acos", "v = torch.acos(f + (1 - f) * torch.tanh(u))"),
]
BEFORE = [
    "u = torch.sigmoid(o)",
    "u = torch.softmax(o, 1)",
    "u = o.exp().clamp(max=5.0)",
    "u = torch.nn.functional.softplus(o)",
    "u = o.abs() + 0.1",
]
AFTER = [
    "return {'a': o.square().mean(), 'b': v.mean()}",
    "return {'b': v.square().sum() + u.mean(), 'z': u.sum()}",
    "return {'b': (v * torch.arange(1.0, v.shape[1] + 1)).sum(1).mean()}",
    "return v.flatten()[torch.randperm(v.numel())].mean()",
]
# An infinity that is dealt with at once is no fault.
HARMLESS = [
    "pass",
    "u = u + 0 * torch.softmax(o.masked_fill(torch.arange(o.shape[1]) == 0, -torch.inf), 1)",
    "u = u + torch.exp(torch.log(torch.zeros(())))",
]


def source_of(chosen, fault, in_model):
    body = [chosen.choice(BEFORE), chosen.choice(HARMLESS), fault]
    after = chosen.choice(AFTER)
    lines = ["import torch", ""]
    if in_model:
        lines += ["def layer(o, f):", *body, "return v", "", "def loss(v, f):", "o = u = v", after]
    else:
        lines += ["def loss(o, f):", *body, after]
    outer = ("import", "def", "")
    return "\n".join(one if one.split(" ")[0] in outer else f"    {one}" for one in lines) + "\n"


class Net(nn.Module):
    """Batch norm, dropout, and perhaps a layer of the user's at the end."""

    def __init__(self, width, layer):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, width)
        )
        self.layer = layer

    def forward(self, x, f):
        out = self.body(x)
        return out if self.layer is None else self.layer(out, f)


@pytest.mark.parametrize("seed", range(40))
def test_the_fault_is_named_with_its_line_and_its_samples(recording, tmp_path, seed):
    chosen = random.Random(seed)
    torch.manual_seed(seed)
    kind = AlarmKind.NON_FINITE_GRADIENT if seed % 2 else AlarmKind.NON_FINITE_LOSS
    operation, fault = chosen.choice(GRADIENTS if seed % 2 else VALUES)
    in_model, size, width = chosen.random() < 0.3, chosen.choice([4, 16, 33]), chosen.choice([2, 3])
    source = source_of(chosen, fault, in_model)
    file = tmp_path / "faulty.py"
    file.write_text(source)
    scope = {}
    exec(compile(source, str(file), "exec"), scope)
    samples = tuple(sorted(chosen.sample(range(size), chosen.choice([1, 2]))))
    f = torch.zeros(size, 1)
    f[list(samples)] = 1.0
    model = Net(width, scope.get("layer"))
    out = recording.model(model, torch.randn(size, 3), f)
    if chosen.random() < 0.5:
        out = out.view(size, 1, width).squeeze(1)
    terms = recording.terms(scope["loss"], out, f)
    total = sum(terms.values()) if isinstance(terms, dict) else terms
    assert bool(total.isfinite()) is bool(seed % 2)
    total.backward()
    found = diagnose(kind, recording.record, model)
    assert found.operation == operation
    assert found.location.file == str(file)
    assert found.location.line == source.splitlines().index(f"    {fault}") + 1
    assert found.samples == samples
    assert found.part == ("model" if in_model else "loss")
    assert found.caveat is None
