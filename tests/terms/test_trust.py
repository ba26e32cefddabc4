from collections import OrderedDict

import pytest
import torch
from torch import nn

from lossproof.terms import term_gradients, trust
from lossproof.terms.graph import read_graph
from lossproof.terms.held import OfSingleTerms, Rows
from lossproof.terms.parameters import chosen_parameters
from lossproof.terms.trust import agrees, structure_of, telling_weights

CPU = torch.device("cpu")


def rows(*gradients):
    matrix = torch.tensor(gradients)
    return [Rows([0], [matrix[0]], matrix)]


def verdict(groups, plain, positions=(0,)):
    return agrees(groups, torch.tensor([2.0, 1.0]), plain, positions)


def test_verdicts():
    groups = rows([1.0, 2.0], [0.0, 3.0])
    assert verdict(groups, [torch.tensor([2.0, 7.0])]) is True
    assert verdict(groups, [torch.tensor([2.0, 7.0]) * (1 + 1e-5)]) is True
    assert verdict(groups, [torch.tensor([2.0, 6.9])]) is False
    assert verdict(groups, [torch.tensor([-2.0, 7.0])]) is False
    assert verdict(groups, [None]) is False
    assert verdict([], [torch.tensor([2.0, 7.0])]) is False
    spectral = [OfSingleTerms([0], [torch.tensor([1j, 2.0])], [0], 2)]
    assert verdict(spectral, [torch.tensor([2j, 4.0])]) is True
    assert verdict(spectral, [torch.tensor([-2j, 4.0])]) is False


def test_what_shows_nothing_is_no_verdict():
    zero = torch.zeros(2)
    assert verdict(rows([0.0, 0.0], [0.0, 0.0]), [zero]) is None
    assert verdict(rows([0.0, 0.0], [0.0, 0.0]), [None]) is None
    assert verdict(rows([float("nan"), 0.0], [0.0, 0.0]), [zero * float("nan")]) is None
    assert verdict(rows([1.0, 0.0], [0.0, 0.0]), [zero]) is False


def test_only_the_doubtful_are_compared():
    groups = [*rows([1.0, 2.0], [0.0, 3.0]), OfSingleTerms([1], [torch.tensor([1e-9])], [0], 2)]
    noise = [torch.tensor([2.0, 7.0]), torch.tensor([-3e-9])]
    assert verdict(groups, noise, (0, 1)) is False
    assert verdict(groups, noise, (0,)) is True


def test_weights_make_all_terms_count():
    matrix = torch.tensor([[1e-9, 0.0], [1e9, 1e9], [0.0, 0.0], [float("nan"), 0.0]])
    weights = telling_weights([Rows([0], [matrix[0]], matrix)], 4, CPU)
    lengths = weights[:2] * matrix[:2].double().norm(dim=1)
    assert bool(((lengths >= 0.5) & (lengths <= 1.5)).all())
    assert float((lengths[0] - lengths[1]).abs()) > 0.1
    assert bool((weights.isfinite() & (weights > 0)).all())


def structure(model, head, way="factored"):
    terms = [model(torch.ones(1, 2)).sum(), head(model(torch.ones(1, 2))).sum()]
    return structure_of(read_graph(terms), chosen_parameters(model), way)


def test_a_structure_is_that_of_one_model_and_way():
    model = nn.Linear(2, 2)
    assert structure(model, torch.sin) == structure(model, torch.sin)
    assert structure(model, torch.sin) != structure(model, torch.cos)
    assert structure(model, torch.sin) != structure(model, torch.sin, "batched")
    assert structure(model, torch.sin) != structure(nn.Linear(2, 2), torch.sin)


def test_the_oldest_verdict_is_forgotten(monkeypatch):
    monkeypatch.setattr(trust, "_verdicts", OrderedDict())
    monkeypatch.setattr(trust, "_MOST", 2)
    for n in range(3):
        trust.remember(n, n != 1)
    assert [trust.verdict_on(n) for n in range(3)] == [None, False, True]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_rounding_of_each_precision(dtype):
    allowed = trust._ROUNDING[dtype]
    matrix = torch.tensor([[1.0, 1.0], [0.0, 0.0]], dtype=dtype)
    groups = [Rows([0], [matrix[0]], matrix)]
    weights = torch.tensor([1.0, 1.0])
    for factor, wanted in ((0.3, True), (3.0, False)):
        plain = torch.tensor([1.0, 1.0 - factor * allowed], dtype=dtype)
        assert agrees(groups, weights, [plain], [0]) is wanted


def test_a_hook_that_comes_later_is_found_out_and_said():
    """A network that is taken apart by rows; from the third step on a hook mixes them."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))

    def figures(hooked):
        middle = net[1](net[0](torch.randn(12, 3)))
        if hooked:
            middle.register_hook(lambda gradient: gradient - gradient.mean(0))
        parts = net[2](middle).split(4)
        terms = {str(k): part.square().mean() for k, part in enumerate(parts)}
        found = term_gradients(terms, net, want="gramian").gramian
        wanted = []
        for term in terms.values():
            parts = torch.autograd.grad(term, list(net.parameters()), retain_graph=True)
            wanted.append(torch.cat([part.reshape(-1) for part in parts]).double())
        rows = torch.stack(wanted)
        return bool(torch.allclose(found, rows @ rows.T, rtol=1e-4))

    assert all(figures(hooked=False) for _ in range(3))
    with pytest.warns(UserWarning, match="differed from a plain backward pass"):
        outcomes = [figures(hooked=True) for _ in range(10)]
    assert outcomes[-1]  # once it is found out, the gradients are right
