import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lossproof.terms.graph import read_graph
from lossproof.terms.layers import (
    bias_uses,
    gives_sparse_gradients,
    is_view_of_leaf,
    matrix_uses,
    normalisation_uses,
)

PRODUCTS = {
    "linear": lambda x, w: F.linear(x, w),
    "linear with a bias": lambda x, w: F.linear(x, w, torch.ones(4, dtype=w.dtype)),
    "right factor": lambda x, w: x @ w,
    "left factor": lambda x, w: w @ x.T,
    "turned left factor": lambda x, w: w.T @ x.T,
    "addmm": lambda x, w: torch.addmm(x, x, w, beta=0.3, alpha=-2.0),
    "addmm, left": lambda x, w: torch.addmm(x.T, w, x.T, alpha=0.5),
    "sequence": lambda x, w: F.linear(x.view(1, 3, 4), w),
    "cast": lambda x, w: x.float() @ w.float(),
}


@pytest.mark.parametrize("form", PRODUCTS)
def test_the_gradient_of_a_matrix_is_the_product_of_its_factors(form):
    w = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    out = PRODUCTS[form](x, w)
    term = out.sin().sum()
    (use,) = matrix_uses(read_graph([term]), w)
    (cotangent,) = torch.autograd.grad(term, use.edge, retain_graph=True)
    fixed, moving = use.saved_factor(), use.oriented(cotangent) * use.scale
    assert fixed.shape == (use.rows, use.fixed)
    assert moving.shape == (use.rows, use.moving)
    left, right = (moving, fixed) if use.cotangent_left else (fixed, moving)
    (wanted,) = torch.autograd.grad(term, w)
    rtol = 1e-5 if form == "cast" else 1e-12
    torch.testing.assert_close((left.T @ right).to(wanted), wanted, rtol=rtol, atol=1e-12)


NO_PRODUCTS = {
    "turned twice": lambda x, w: x @ w.T.T,
    "beside a product": lambda x, w: x @ w + w.sum(),
    "batched": lambda x, w: torch.bmm(x[None], w[None]),
    "an addend": lambda x, w: torch.addmm(w[:3], x, x.T @ x),
    "made complex": lambda x, w: (x.to(torch.complex128) @ w.to(torch.complex128)).real,
    "turned but not a view": lambda x, w: x @ (2 * w).T,
}


@pytest.mark.parametrize("form", NO_PRODUCTS)
def test_other_uses_of_a_matrix_have_no_factors(form):
    w = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, 4, dtype=torch.float64)
    assert matrix_uses(read_graph([NO_PRODUCTS[form](x, w).sum()]), w) is None


def test_what_a_hook_changes_or_must_bring_has_no_factors():
    w = torch.randn(4, 4, requires_grad=True)
    x = torch.randn(3, 4)
    graph = read_graph([(x @ w).sum()])
    assert matrix_uses(graph, w) is not None
    w.register_hook(lambda gradient: gradient)
    assert matrix_uses(graph, w) is None
    v = torch.randn(4, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda one: one, lambda one: one):
        out = x @ v
    assert matrix_uses(read_graph([out.sum()]), v) is None


def test_biases_and_norms():
    linear, norm = nn.Linear(4, 4).double(), nn.LayerNorm(4).double()
    nn.init.normal_(norm.weight)
    term = norm(linear(torch.randn(3, 4, dtype=torch.float64))).sin().sum()
    graph = read_graph([term])
    found = {
        linear.bias: bias_uses(graph, linear.bias),
        norm.weight: normalisation_uses(graph, norm.weight),
        norm.bias: normalisation_uses(graph, norm.bias),
    }
    for parameter, uses in found.items():
        (use,) = uses
        (cotangent,) = torch.autograd.grad(term, use.edge, retain_graph=True)
        (wanted,) = torch.autograd.grad(term, parameter, retain_graph=True)
        torch.testing.assert_close(use.of_rows(cotangent).sum(0), wanted, rtol=1e-9, atol=1e-12)
    assert bias_uses(graph, norm.bias) is None
    assert normalisation_uses(graph, linear.bias) is None


def test_a_bias_of_one_number_for_all_columns_is_no_row():
    b, x = torch.ones(1, requires_grad=True), torch.randn(3, 4)
    assert bias_uses(read_graph([torch.addmm(b, x, x.T @ x).sum()]), b) is None


def test_a_bias_that_was_made_complex_has_no_rows():
    b, x = torch.ones(4, requires_grad=True), torch.randn(4, 4, dtype=torch.complex64)
    out = torch.addmm(b.to(torch.complex64), x, x)
    assert bias_uses(read_graph([out.real.sum()]), b) is None


def test_views_of_a_leaf():
    w = torch.randn(3, 4, requires_grad=True)
    assert is_view_of_leaf(w.T.grad_fn)
    assert is_view_of_leaf(w.T.double().mT.grad_fn)
    assert not is_view_of_leaf((2 * w).T.grad_fn)
    assert not is_view_of_leaf(w.reshape(4, 3).grad_fn)


@pytest.mark.parametrize("sparse", [False, True])
def test_embeddings_say_whether_their_gradients_are_sparse(sparse):
    table, at = nn.Embedding(5, 2, sparse=sparse), torch.tensor([1, 2])
    bag = nn.EmbeddingBag(5, 2, sparse=sparse, mode="sum")
    for layer, out in ((table, table(at)), (bag, bag(at[None]))):
        graph = read_graph([out.sum()])
        assert gives_sparse_gradients(graph, layer.weight) is sparse
        (gradient,) = torch.autograd.grad(out.sum(), layer.weight)
        assert gradient.is_sparse is sparse
