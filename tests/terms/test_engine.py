"""Which ways are taken, what is left of the graph, and what goes wrong in words."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lossproof.terms import engine, plan, term_gradients, trust
from lossproof.terms.gradients import computed
from lossproof.terms.parameters import chosen_parameters
from lossproof.terms.terms import named_terms

WAYS = ("_by_segments", "_batched", "_one_by_one")


@pytest.fixture
def ways(monkeypatch):
    """The ways that were taken."""
    monkeypatch.setattr(trust, "_verdicts", OrderedDict())
    taken = []

    def noting(way, before):
        def noted(*arguments, **options):
            taken.append(way)
            return before(*arguments, **options)

        return noted

    for way in WAYS:
        monkeypatch.setattr(engine, way, noting(way, getattr(engine, way)))
    return taken


@pytest.fixture
def many_factors(monkeypatch):
    monkeypatch.setattr(plan, "START", -(10**12))


def network(norm=None):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 20), norm or nn.Tanh(), nn.Linear(20, 20))


def terms_of(out):
    return {"a": out.square().mean(), "b": out.sin().sum()}


def gramian(terms, model):
    rows = [
        torch.cat(
            [
                part.flatten()
                for part in torch.autograd.grad(term, list(model.parameters()), retain_graph=True)
            ]
        )
        for term in terms.values()
    ]
    return torch.stack(rows) @ torch.stack(rows).T


def test_rows_of_their_own_need_one_pass(ways):
    model = network()
    first, second = model(torch.randn(6, 20)).split(3)
    terms = {"a": first.square().mean(), "b": second.sum()}
    found = term_gradients(terms, model, want=["gramian"])
    assert ways == ["_by_segments"]
    torch.testing.assert_close(found.gramian.float(), gramian(terms, model), rtol=1e-5, atol=1e-6)


def test_rows_that_a_batch_norm_mixes_need_a_pass_each(ways):
    model = network(nn.BatchNorm1d(20))
    first, second = model(torch.randn(6, 20)).split(3)
    term_gradients({"a": first.sum(), "b": second.sum()}, model)
    assert ways == ["_one_by_one"]


@pytest.mark.usefixtures("many_factors")
def test_noise_before_a_batch_norm_is_no_reason_against_factors(ways):
    """The gradient of a bias that a batch norm takes away is rounding, each time another."""
    model = network(nn.BatchNorm1d(20))
    for _ in range(3):
        term_gradients(terms_of(model(torch.randn(6, 20))), model, want=["gramian"])
    assert {verdict.right for verdict in trust._verdicts.values()} == {True}
    assert ways == ["_one_by_one"] * 3


def hook_on(out):
    out.register_hook(lambda gradient: gradient - gradient.mean(0))
    return out


def test_a_hook_that_mixes_rows_is_found_and_the_way_not_taken_again(ways):
    model = network()
    for turn in range(2):
        out = model[2](hook_on(model[:2](torch.randn(6, 20)))).split(3)
        terms = {"a": out[0].square().mean(), "b": out[1].sum()}
        found = term_gradients(terms, model, want=["gramian"])
        wanted = gramian(terms, model)
        torch.testing.assert_close(found.gramian.float(), wanted, rtol=1e-4, atol=1e-5)
        assert ways.count("_by_segments") == 1, turn


def test_zero_gradients_are_no_verdict(ways):
    model = network()
    for factor in (0.0, 1.0, 1.0):
        first, second = model(torch.randn(6, 20)).split(3)
        terms = {"a": factor * first.square().mean(), "b": factor * second.sum()}
        term_gradients(terms, model, want=["gramian"])
    assert ways == ["_by_segments", "_one_by_one", "_by_segments", "_by_segments"]


def test_a_graph_that_is_gone_is_not_held_against_a_way(ways):
    """The user's mistake in one step must not slow the next."""
    model = network()
    for gone in (True, False):
        first, second = model(torch.randn(6, 20)).split(3)
        terms = {"a": first.square().mean(), "b": second.sum()}
        if gone:
            sum(terms.values()).backward()
            with pytest.raises(RuntimeError, match="second time"):
                term_gradients(terms, model, want=["gramian"])
        else:
            term_gradients(terms, model, want=["gramian"])
    assert all(verdict.right for verdict in trust._verdicts.values())
    assert ways[-1] == "_by_segments"


def held(terms, model, want=("gramian",), **options):
    return computed(named_terms(terms), chosen_parameters(model), want, hold=True, **options)


@pytest.mark.parametrize("times", [1, 2])
def test_a_graph_is_freed_or_kept(times):
    model = network()
    for _ in range(2):  # the first look at a graph keeps it
        terms = terms_of(model(torch.randn(6, 20)))
        for turn in range(times):
            figures = held(terms, model, retain_graph=turn + 1 < times)
    figures.combined({"a": 1.0, "b": 2.0})
    with pytest.raises(RuntimeError, match="second time"):
        terms["b"].backward()


def test_a_loss_scale_is_on_the_way_and_in_no_figure():
    model = network()
    terms = terms_of(model(torch.randn(6, 20)))
    seen = []
    terms["a"].register_hook(lambda gradient: seen.append(float(gradient)))
    scale = torch.tensor(1024.0)
    want = ("gramian", "norm", "mean", "max_abs", "gradients")
    scaled = held(terms, model, want, retain_graph=True, scale=scale)
    assert seen == [1024.0]
    plain = held(terms, model, want, retain_graph=True)
    torch.testing.assert_close(scaled.gramian, plain.gramian, rtol=1e-5, atol=0.0)
    for one in ("norm", "mean", "max_abs"):
        torch.testing.assert_close(scaled.vector(one), plain.vector(one), rtol=1e-4, atol=1e-9)
    weights = {"a": 0.5, "b": 2.0}
    for name, part in plain.combined(weights).items():
        torch.testing.assert_close(scaled.combined(weights)[name], part, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(scaled.gradient_rows()[name], plain.gradient_rows()[name])


def test_a_sparse_gradient_that_the_first_term_does_not_have_stays_sparse():
    table, other = nn.Embedding(1000, 3, sparse=True), nn.Linear(3, 2)
    at = torch.tensor([1, 2])
    terms = {
        "none": other(torch.ones(1, 3)).sum(),
        "first": table(at).square().sum(),
        "second": table(at + 1).sin().sum(),
    }
    figures = held(terms, [table, other], retain_graph=True)
    (group,) = [group for group in figures._groups if 0 in group.positions]
    assert all(group.gradient(term)[0].is_sparse for term in (1, 2))
    assert all(buffer.numel() < 1000 for buffer in figures._buffers)
    assert figures.combined(torch.ones(3))["0.weight"].is_sparse


class Row(torch.autograd.Function):
    """A row of a matrix, with a sparse gradient that nothing announces."""

    @staticmethod
    def forward(ctx, matrix, at):
        ctx.at, ctx.shape = at, matrix.shape
        return matrix[at].clone()

    @staticmethod
    def backward(ctx, gradient):
        at = torch.tensor([[ctx.at]])
        return torch.sparse_coo_tensor(at, gradient[None], ctx.shape, check_invariants=True), None


@pytest.mark.parametrize("order", [("row", "full"), ("full", "row"), ("row", "row too")])
def test_a_sparse_gradient_that_nothing_announces(order):
    matrix = nn.Parameter(torch.randn(4, 3))
    made = {
        "row": Row.apply(matrix, 1).square().sum(),
        "row too": Row.apply(matrix, 1).sin().sum(),
        "full": matrix.exp().sum(),
    }
    terms = {name: made[name] for name in order}
    found = [torch.autograd.grad(term, matrix, retain_graph=True)[0] for term in terms.values()]
    rows = torch.stack([one.to_dense() for one in found])
    figures = held(terms, matrix, ("gramian", "norm"), retain_graph=True)
    flat = rows.flatten(1)
    torch.testing.assert_close(figures.gramian.float(), flat @ flat.T)
    torch.testing.assert_close(figures.vector("norm").float(), flat.norm(dim=1))
    combined = figures.combined(torch.tensor([2.0, 3.0]))["parameter 0"]
    whole = combined.to_dense() if combined.is_sparse else combined
    torch.testing.assert_close(whole, 2 * rows[0] + 3 * rows[1])


@pytest.mark.parametrize("order", [("sparse", "full"), ("full", "sparse")])
def test_a_tied_embedding_is_sparse_in_one_term_and_full_in_another(order):
    table = nn.Embedding(6, 3, sparse=True)
    made = {
        "sparse": table(torch.tensor([1, 1, 4])).square().sum(),
        "full": F.linear(torch.ones(2, 3), table.weight).sin().sum(),
    }
    terms = {name: made[name] for name in order}
    rows = torch.stack(
        [
            torch.autograd.grad(term, table.weight, retain_graph=True)[0].to_dense()
            for term in terms.values()
        ]
    )
    figures = held(terms, table, retain_graph=True)
    flat = rows.flatten(1)
    torch.testing.assert_close(figures.gramian.float(), flat @ flat.T)
    torch.testing.assert_close(
        figures.combined(torch.tensor([2.0, 3.0]))["weight"], 2 * rows[0] + 3 * rows[1]
    )


@pytest.mark.usefixtures("many_factors")
def test_complex_parameters():
    """Spectral layers: a complex number counts as two real ones."""
    spectral = nn.Parameter(torch.randn(4, 4, dtype=torch.complex64))
    real = nn.Parameter(torch.randn(4, 4))
    modes = torch.fft.fft(torch.randn(5, 4) @ real) @ spectral @ real.to(torch.complex64)
    terms = {"a": modes.abs().sum(), "b": modes.real.square().sum()}
    flat = []
    for term in terms.values():
        first, second = torch.autograd.grad(term, [spectral, real], retain_graph=True)
        flat.append(torch.cat([torch.view_as_real(first).flatten(), second.flatten()]))
    rows = torch.stack(flat)
    figures = held(terms, [spectral, real], ("gramian", "norm"), retain_graph=True)
    torch.testing.assert_close(figures.gramian.float(), rows @ rows.T, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(
        figures.vector("norm").float(), rows.norm(dim=1), rtol=1e-4, atol=0.0
    )
    found = figures.combined(torch.tensor([1.0, -2.0]))
    wanted = rows[0] - 2 * rows[1]
    torch.testing.assert_close(
        torch.view_as_real(found["parameter 0"]).flatten(), wanted[:32], rtol=1e-4, atol=1e-3
    )
    torch.testing.assert_close(found["parameter 1"].flatten(), wanted[32:], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("sizes", [[0, 0], [0]])
def test_an_empty_batch(sizes):
    model = network()
    parts = model(torch.randn(0, 20)).split(sizes)
    terms = {"a": parts[0].sum(), "b": parts[-1].square().sum()}
    assert not term_gradients(terms, model).gramian.any()


def test_a_layer_without_inputs():
    with pytest.warns(UserWarning, match="zero-element"):
        model = nn.Linear(0, 3)
    found = term_gradients(terms_of(model(torch.randn(2, 0)) + 1), model)
    assert float(found.by_parameter("max_abs")[0].max()) == 0.0
    assert float(found.vector("max_abs")[0]) > 0.0


def test_one_term_is_its_own_gradient():
    model = network()
    terms = {"a": model(torch.randn(6, 20)).square().mean()}
    found = term_gradients(terms, model)
    torch.testing.assert_close(found.gramian.float(), gramian(terms, model), rtol=1e-5, atol=1e-7)
    assert found.cosine.tolist() == [[pytest.approx(1.0)]]
