"""Reductions over all pairs, against the whole matrix under autograd."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import warnings
from typing import NamedTuple

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from lossproof.errors import UnsupportedGraphError
from lossproof.speed.blocks import FEW_PAIRS
from lossproof.speed.pairing import pairs

# PyTorch's own forward mode scripts some of its formulas.
forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")

REDUCES = ("sum", "mean", "logsumexp", "max", "min")
DIMS = (1, 0, (1, 0), (0, 1))
CASES = list(itertools.product(REDUCES, DIMS))


def rows(count: int, width: int = 4) -> torch.Tensor:
    return torch.randn(count, width, dtype=torch.float64, requires_grad=True)


def product(a, b):
    return a @ b.T


def of_matrix(matrix: torch.Tensor, reduce: str, dim: int) -> torch.Tensor:
    """What torch itself makes of a matrix."""
    if reduce in {"max", "min"}:
        return getattr(matrix, reduce)(dim).values
    return getattr(torch, reduce)(matrix, dim)


def combined(results):
    """A scalar to which each row counts for another weight."""
    results = results if isinstance(results, tuple) else (results,)
    return sum(
        (one * torch.linspace(0.1, 1, len(one), dtype=one.dtype)).square().sum() for one in results
    )


def squares(tensors):
    return sum(one.square().sum() for one in tensors)


def assert_close(ours, plain):
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


# ---- values and derivatives


@pytest.mark.parametrize(("reduce", "dim"), CASES)
@pytest.mark.parametrize("self_pairs", [False, True])
def test_the_first_three_derivatives_are_those_of_the_matrix(reduce, dim, self_pairs):
    x, y = rows(9), None if self_pairs else rows(13)
    scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    captured = rows(4)

    def function(a, b, s):
        return torch.tanh(a @ captured @ b.T * s)

    def matrix_of(x, y, s):
        matrix = function(x, x if y is None else y, s)
        return tuple(
            of_matrix(matrix, reduce, d) for d in (dim if isinstance(dim, tuple) else [dim])
        )

    ours = pairs(function, reduce, dim=dim, block_size=4)
    leaves = [x, scale, captured] + ([] if self_pairs else [y])
    found = []
    for reduction in (ours, ours.plain, matrix_of):
        loss = combined(reduction(x, y, s=scale))
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        second = torch.autograd.grad(squares(first), leaves, create_graph=True)
        third = torch.autograd.grad(squares(second), leaves)
        found.append([loss, *first, *second, *third])
    assert_close(found[0], found[2])
    assert_close(found[1], found[2])


@pytest.mark.parametrize(("reduce", "dim"), [("sum", 1), ("logsumexp", (1, 0)), ("max", (0, 1))])
def test_finite_differences_agree(reduce, dim):
    reduction = pairs(lambda a, b, s: s * torch.sin(a @ b.T), reduce, dim=dim, block_size=2)
    x, y = rows(5, 2), rows(4, 2)
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def function(x, y, scale):
        return reduction(x, y, s=scale)

    assert torch.autograd.gradcheck(function, (x, y, scale))
    assert torch.autograd.gradgradcheck(function, (x, y, scale))


@given(
    n=st.integers(1, 12),
    m=st.integers(1, 12),
    block_size=st.integers(1, 13),
    reduce=st.sampled_from(REDUCES),
    dim=st.sampled_from(DIMS),
    seed=st.integers(0, 100),
)
def test_blocks_of_any_size_give_the_same(n, m, block_size, reduce, dim, seed):
    torch.manual_seed(seed)
    x, y = rows(n, 3), rows(m, 3)
    ours = pairs(product, reduce, dim=dim, block_size=block_size)
    found = []
    for reduction in (ours, ours.plain):
        loss = combined(reduction(x, y))
        found.append([loss, *torch.autograd.grad(loss, [x, y])])
    assert_close(*found)


def test_the_log_sum_exp_is_exact_where_its_terms_are_far_apart():
    x = torch.tensor([[1e3], [-1e3], [0.0]], dtype=torch.float64)
    y = torch.tensor([[1.0], [0.9999], [-1.0], [0.0], [0.5]], dtype=torch.float64)
    found = pairs(product, "logsumexp", block_size=2)(x, y)
    with mpmath.workdps(50):
        for i, row in enumerate(x[:, 0].tolist()):
            terms = [mpmath.exp(mpmath.mpf(row) * mpmath.mpf(one)) for one in y[:, 0].tolist()]
            assert found[i].item() == pytest.approx(float(mpmath.log(sum(terms))), rel=1e-15)


def test_blocks_by_default_are_those_that_fit_into_the_budget():
    count = math.isqrt(FEW_PAIRS) * 17
    x = torch.randn(count, 3, requires_grad=True)
    seen = []

    def function(a, b):
        seen.append(a.shape[0] * b.shape[0])
        return torch.tanh(a @ b.T)

    reduction = pairs(function, "logsumexp", dim=(1, 0))
    loss = combined(reduction(x))
    (gradient,) = torch.autograd.grad(loss, x)
    # A value, and what tanh keeps of it, of 4 bytes each.
    assert max(seen) <= 1 << 20 and sum(seen) >= 2 * count**2
    (plain,) = torch.autograd.grad(combined(reduction.plain(x)), x)
    torch.testing.assert_close(gradient, plain)


def test_a_pair_that_takes_much_memory_gets_smaller_blocks():
    seen = []

    def distance(a, b):
        seen.append(a.shape[0] * b.shape[0])
        return (a[:, None] - b).abs().sum(-1)

    x = torch.randn(400, 100, requires_grad=True)
    pairs(distance, "mean")(x).sum().backward()
    assert max(seen) * 100 * 4 <= 8 << 20
    seen.clear()
    with torch.no_grad():
        pairs(distance, "mean")(x)
    assert max(seen) * 100 * 4 <= 8 << 20


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that an operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for one in pytree.tree_leaves(result):
            if isinstance(one, torch.Tensor):
                self.elements = max(self.elements, one.numel())
        return result


@pytest.mark.parametrize("reduce", REDUCES)
def test_no_tensor_is_larger_than_a_block_or_a_batch(reduce):
    x, weight = rows(200), rows(4)
    reduction = pairs(lambda a, b: torch.tanh(a @ weight @ b.T), reduce, dim=(1, 0), block_size=30)
    with Largest() as seen:
        loss = combined(reduction(x))
        slopes = torch.autograd.grad(loss, [x, weight], create_graph=True)
        torch.autograd.grad(squares(slopes), [x, weight])
    assert seen.elements <= 30 * 30
    with Largest() as seen:
        reduction.plain(x)
    assert seen.elements == 200 * 200


def test_extremes_compute_only_the_winning_pairs_again():
    x, y = rows(300), rows(200)
    seen = []

    def function(a, b):
        seen.append(a.shape[0] * b.shape[0])
        return a @ b.T

    loss = pairs(function, "max", block_size=64)(x, y).sum()
    seen.clear()
    loss.backward()
    assert sum(seen) <= 300 * 64


# ---- what the gradient goes to


def test_every_tensor_gets_its_gradient_wherever_it_stands():
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = nn.Linear(4, 4).double()

        def forward(self, x, y, bias):
            (a, weight), b = x, y
            return self.map(a) @ b.T * weight[:, None] + bias

    module = Weighted()
    reduction = pairs(module, "logsumexp", block_size=3)
    assert [name for name, _ in reduction.named_parameters()] == [
        "pair_fn.map.weight",
        "pair_fn.map.bias",
    ]
    x, weight, bias = rows(7), rows(7, 1).squeeze(1), rows(1, 1)
    # The same tensor on both sides, in a shared one, and in the weights.
    leaves = [x, weight, bias, *module.parameters()]
    found = []
    for reduced in (reduction, reduction.plain):
        loss = combined(reduced((x, weight), x, bias=bias + x.sum()))
        found.append(torch.autograd.grad(loss, leaves))
    assert_close(*found)


def test_hooks_see_a_gradient_once_and_whole():
    x, y, weight = rows(9), rows(5), rows(4)
    reduction = pairs(lambda a, b: torch.tanh(a @ weight @ b.T), "sum", block_size=4)
    found = []
    for reduced in (reduction, reduction.plain):
        seen = []
        handles = [
            tensor.register_hook(lambda slope, seen=seen: seen.append(slope.detach()) or 2 * slope)
            for tensor in (x, y, weight)
        ]
        slopes = torch.autograd.grad(combined(reduced(x, y)), [x, y, weight], create_graph=True)
        assert len(seen) == 3
        found.append([*slopes, *torch.autograd.grad(squares(slopes), [x, y, weight]), *seen[:3]])
        assert len(seen) == 6
        for handle in handles:
            handle.remove()
    ours, plain = ([*one[:6], *sorted(one[6:], key=lambda slope: slope.shape)] for one in found)
    assert_close(ours, plain)


def test_a_generator_of_random_numbers_is_refused():
    reduction = pairs(lambda a, b, draws: a @ b.T * torch.rand(1, generator=draws), "sum")
    with pytest.raises(TypeError, match="`draws` must not be a torch.Generator"):
        reduction(rows(3), draws=torch.Generator())


def test_a_leaf_that_is_given_and_closed_over_gets_both_gradients():
    x = rows(6)
    reduction = pairs(lambda a, b: a @ x.T @ x @ b.T, "sum", block_size=2)
    assert_close(
        torch.autograd.grad(combined(reduction(x)), x),
        torch.autograd.grad(combined(reduction.plain(x)), x),
    )


@pytest.mark.parametrize("reduce", REDUCES)
def test_a_leaf_that_leads_to_the_rows_and_is_closed_over_gets_both_gradients(reduce):
    points, weight = rows(6).detach(), rows(4)
    reduction = pairs(lambda a, b: (a @ weight @ b.T).sin(), reduce, block_size=2)

    def derivatives(result_of):
        first = torch.autograd.grad(combined(result_of(points @ weight)), weight, create_graph=True)
        second = torch.autograd.grad(squares(first), weight, create_graph=True)
        return first + second + torch.autograd.grad(squares(second), weight)

    assert_close(derivatives(reduction), derivatives(reduction.plain))


def test_under_a_checkpoint():
    x = rows(6)
    reduction = pairs(product, "logsumexp", block_size=2)
    result = checkpoint(reduction, x, use_reentrant=False)
    assert_close(
        torch.autograd.grad(combined(result), x),
        torch.autograd.grad(combined(reduction.plain(x)), x),
    )


@forward_mode
@pytest.mark.parametrize("differentiated", [False, True])
def test_forward_mode_through_what_is_closed_over(differentiated):
    x, scale = rows(6), torch.tensor(1.5, dtype=torch.float64, requires_grad=differentiated)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(scale, torch.tensor(2.0, dtype=torch.float64))
        reduction = pairs(lambda a, b: dual * (a @ b.T), "sum", block_size=2)
        tangent = forward_ad.unpack_dual(reduction(x)).tangent
    assert_close([tangent], [2 * (x @ x.T).sum(1)])


def test_what_needs_no_gradient_gets_none_and_costs_no_graph():
    x, y = rows(6), rows(5).detach()
    loss = combined(pairs(product, "sum", block_size=2)(x, y))
    loss.backward()
    assert x.grad is not None and y.grad is None
    assert not pairs(product, "sum", block_size=2)(y).requires_grad
    assert not pairs(lambda a, b: (a @ b.T).detach(), "sum", block_size=2)(x).requires_grad
    with torch.no_grad():
        assert not pairs(product, "sum", block_size=2)(x).requires_grad
    with torch.inference_mode():
        assert pairs(product, "sum", block_size=2)(x).is_inference()


def test_a_result_that_is_not_used_is_not_differentiated():
    x = rows(6)
    of_rows, of_columns = pairs(product, "logsumexp", dim=(1, 0), block_size=4)(x)
    (gradient,) = torch.autograd.grad(of_columns.sum(), x)
    assert of_rows.requires_grad
    expected = torch.autograd.grad(torch.logsumexp(x @ x.T, 0).sum(), x)
    assert_close([gradient], expected)


def test_a_closed_over_result_of_parameters_is_refused():
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    doubled = 2 * scale
    reduction = pairs(lambda a, b: doubled * (a @ b.T), "sum", block_size=2)
    with pytest.raises(UnsupportedGraphError, match="`pair_fn` uses a tensor that was computed"):
        reduction(rows(5))
    with torch.no_grad():
        reduction(rows(5))


def test_a_second_backward_is_the_first_again():
    x = rows(6)
    loss = combined(pairs(product, "logsumexp", block_size=4)(x))
    first = torch.autograd.grad(loss, x, retain_graph=True)
    assert_close(first, torch.autograd.grad(loss, x))


@pytest.mark.parametrize("reduce", REDUCES)
def test_upstream_gradients_scale_every_gradient(reduce):
    x, scale = rows(6), torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    reduction = pairs(lambda a, b, s: s * torch.tanh(a @ b.T), reduce, block_size=4)
    loss = combined(reduction(x, s=scale))
    once = torch.autograd.grad(loss, [x, scale], retain_graph=True)
    more = torch.autograd.grad(1024 * loss, [x, scale])
    assert_close([1024 * one for one in once], more)


def test_a_tensor_changed_in_place_is_noticed():
    x, labels = rows(6), torch.arange(6)
    loss = pairs(lambda a, b: (a[0] @ b[0].T) * a[1][:, None], "sum", block_size=4)((x, labels))
    labels += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.sum().backward()


def test_nothing_is_changed():
    x = rows(20)
    before, state = x.detach().clone(), torch.get_rng_state()
    combined(pairs(product, "max", block_size=4)(x))
    assert torch.equal(x, before) and x.grad is None
    assert torch.equal(torch.get_rng_state(), state)


# ---- special values and shapes


@pytest.mark.parametrize("reduce", REDUCES)
@pytest.mark.parametrize("dim", [1, 0, (1, 0)])
def test_no_rows(reduce, dim):
    x, nothing = rows(3), rows(3)[:0]
    reduction = pairs(product, reduce, dim=dim)
    if reduce in {"max", "min"}:
        if dim != 0:
            with pytest.raises(ValueError, match="`y` must have rows"):
                reduction(x, nothing)
        if dim != 1:
            with pytest.raises(ValueError, match="`x` must have rows"):
                reduction(nothing, x)
        return
    of_nothing = -math.inf if reduce == "logsumexp" else 0.0
    results = reduction(x, nothing)
    results = results if isinstance(dim, tuple) else (results,)
    for one, d in zip(results, dim if isinstance(dim, tuple) else (dim,), strict=True):
        assert one.tolist() == ([of_nothing] * 3 if d == 1 else [])
    assert torch.autograd.grad(sum(one.sum() for one in results), x)[0].eq(0).all()


def test_rows_in_which_nothing_counts():
    x = rows(9)
    some = torch.where(torch.arange(9) % 2 == 0, -math.inf, 0.0).double()

    def function(a, b):  # infinities that are added stop no gradient
        return a[0] @ b[0].T + a[1][:, None]

    reduction = pairs(function, "logsumexp", block_size=4)
    for reduced in (reduction, reduction.plain):
        result = reduced((x, some))
        expected = torch.logsumexp((x @ x.T)[1::2], 1)
        assert result[::2].eq(-math.inf).all()
        assert_close([result[1::2]], [expected])
        found = torch.autograd.grad(result.exp().sum(), x, create_graph=True)
        wanted = torch.autograd.grad(expected.exp().sum(), x, create_graph=True)
        assert_close(found, wanted)
        assert_close(
            torch.autograd.grad(squares(found), x), torch.autograd.grad(squares(wanted), x)
        )


def test_some_pairs_left_out():
    x, numbers = rows(9), torch.arange(9)

    def function(a, b):
        return (a[0] @ b[0].T).masked_fill(a[1][:, None] == b[1], -math.inf)

    reduction = pairs(function, "logsumexp", dim=(1, 0), block_size=4)
    matrix = (x @ x.T).masked_fill(torch.eye(9, dtype=torch.bool), -math.inf)
    loss = combined(reduction((x, numbers)))
    expected = combined((torch.logsumexp(matrix, 1), torch.logsumexp(matrix, 0)))
    assert_close([loss], [expected])
    assert_close(torch.autograd.grad(loss, x), torch.autograd.grad(expected, x))


@pytest.mark.parametrize("reduce", ["max", "min"])
@pytest.mark.parametrize("dim", [1, 0])
def test_the_first_of_equals_wins_and_takes_the_gradient(reduce, dim):
    x = torch.zeros(7, 2, dtype=torch.float64, requires_grad=True)
    y = torch.zeros(5, 2, dtype=torch.float64, requires_grad=True)
    ours = pairs(lambda a, b: a.sum(1)[:, None] + b.sum(1), reduce, dim=dim, block_size=2)
    matrix = x.sum(1)[:, None] + y.sum(1)
    # `amax` would share the gradient among equals; `max` gives it to one of them.
    expected = torch.autograd.grad(getattr(matrix, reduce)(dim).values.sum(), [x, y])
    assert_close(torch.autograd.grad(ours(x, y).sum(), [x, y]), expected)


@pytest.mark.parametrize("reduce", ["sum", "logsumexp", "max", "min"])
def test_nan_shows(reduce):
    x = rows(9).detach()
    for place in (0, 4, 8):
        y = rows(9).detach()
        y[place] = math.nan
        assert pairs(product, reduce, block_size=4)(x, y).isnan().all()


def test_infinities():
    y = torch.tensor([[1.0], [math.inf], [2.0]])
    found = [pairs(product, r, block_size=1)(torch.ones(1, 1), y).item() for r in REDUCES]
    assert found == [math.inf, math.inf, math.inf, math.inf, 1.0]


def test_inputs_that_are_no_contiguous_memory():
    base = rows(4, 7)
    expanded = torch.ones(1, 4, dtype=torch.float64, requires_grad=True)
    reduction = pairs(product, "logsumexp", block_size=3)
    assert_close(
        torch.autograd.grad(combined(reduction(base.T, expanded.expand(5, 4))), [base, expanded]),
        torch.autograd.grad(
            combined(reduction.plain(base.T, expanded.expand(5, 4))), [base, expanded]
        ),
    )


class Row(NamedTuple):
    vector: torch.Tensor
    label: torch.Tensor


def test_blocks_have_the_form_of_what_was_given():
    x = Row(rows(9), torch.arange(9) % 3)

    def function(a, b):
        return (a.vector @ b.vector.T) * (a.label[:, None] == b.label)

    reduction = pairs(function, "sum", block_size=4)
    assert_close([reduction(x)], [function(x, x).sum(1)])


def test_rows_may_have_any_number_of_axes():
    x = torch.randn(9, 3, 4, dtype=torch.float64, requires_grad=True)
    reduction = pairs(lambda a, b: torch.einsum("nij,mij->nm", a, b), "max", block_size=4)
    expected = torch.einsum("nij,mij->nm", x, x).max(1).values
    assert_close([reduction(x)], [expected])


def test_counts_and_flags():
    x, y = torch.arange(9) % 4, torch.arange(7) % 4
    same = x[:, None] == y
    counted = pairs(lambda a, b: a[:, None] == b, "sum", dim=(1, 0), block_size=2)
    assert [one.tolist() for one in counted(x, y)] == [same.sum(1).tolist(), same.sum(0).tolist()]
    assert [one.tolist() for one in counted.plain(x, y)] == [one.tolist() for one in counted(x, y)]
    some = pairs(lambda a, b: a[:, None] == b, "max", block_size=2)
    assert some(x, y).tolist() == same.any(1).tolist()


def test_arguments_that_are_no_tensors():
    def function(a, b, power, names):
        assert names == ["p"]
        return (a @ b.T) ** power

    x = rows(9)
    assert_close(
        [pairs(function, "sum", block_size=4)(x, power=2, names=["p"])], [(x @ x.T).square().sum(1)]
    )


# ---- half precision and autocast


@pytest.mark.parametrize("reduce", ["sum", "mean", "logsumexp"])
@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float16, 1.5e-3), (torch.bfloat16, 1e-2)], ids=str
)
def test_half_precision_is_added_up_in_float32(reduce, dtype, limit):
    x = nn.functional.normalize(torch.randn(400, 16), dim=1).to(dtype).requires_grad_()
    wide = x.detach().double().requires_grad_()

    def loss_of(reduction, x):
        return reduction(x[::2], x[1::2]).float().mean()

    (expected,) = torch.autograd.grad(loss_of(pairs(product, reduce).plain, wide), wide)
    for block_size in (100, 8):
        reduction = pairs(product, reduce, block_size=block_size)
        assert reduction(x).dtype == dtype
        (found,) = torch.autograd.grad(loss_of(reduction, x), x)
        assert found.dtype == dtype
        assert (found - expected).norm() / expected.norm() < limit


def test_small_upstream_gradients_do_not_vanish_in_float16():
    x = nn.functional.normalize(torch.randn(300, 16), dim=1).half().requires_grad_()
    wide = x.detach().double().requires_grad_()
    scale = torch.tensor(1e3, requires_grad=True)  # in float32, so that its gradient is not rounded
    reduction = pairs(lambda a, b, s: (s / 1e3).to(a.dtype) * (a @ b.T), "logsumexp", block_size=50)

    def slope(reduced, x):
        # Each of the 300 weights of a row meets an upstream of 1e-5, below what float16 can hold.
        loss = reduced(x, s=scale).to(torch.float64).mean() * 3e-3
        return torch.autograd.grad(loss, scale)[0]

    expected = slope(reduction.plain, wide)
    assert abs(slope(reduction, x) - expected) < 0.02 * expected.abs()
    assert abs(slope(reduction.plain, x) - expected) > 0.05 * expected.abs()


def test_the_gradient_is_computed_under_the_autocast_of_the_forward_pass():
    x = torch.randn(60, 16, requires_grad=True)
    layer = nn.Linear(16, 16)
    seen = []

    def function(a, b):
        values = layer(a) @ b.T
        seen.append(values.dtype)
        return values

    reduction = pairs(function, "logsumexp", block_size=20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = reduction(x)
        plain = reduction.plain(x)
        layer(x)  # after the blocks, the copy of the weight still has a gradient
    assert result.dtype == plain.dtype == torch.float32
    seen.clear()
    leaves = [x, *layer.parameters()]
    found = torch.autograd.grad(result.sum(), leaves)
    assert set(seen) == {torch.bfloat16}
    expected = torch.autograd.grad(plain.sum(), leaves)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() / other.norm() < 0.02


def test_autocast_finds_its_copies_of_parameters_with_a_gradient_afterwards():
    layer = nn.Linear(16, 16)
    x = torch.randn(60, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            pairs(lambda a, b: layer(a) @ b.T, "sum", block_size=20)(x)
        loss = layer(x).sum()
    assert torch.autograd.grad(loss, layer.weight)[0].ne(0).any()


# ---- random numbers


@pytest.mark.parametrize("reduce", ["sum", "logsumexp", "max"])
def test_random_numbers_are_the_same_in_the_backward_pass(reduce):
    x = rows(20)
    drawn = []

    def function(a, b):
        kept = (torch.rand(a.shape[0], b.shape[0]) > 0.3).double()
        drawn.append(kept)
        return (a @ b.T) * kept

    reduction = pairs(function, reduce, dim=(1, 0), block_size=8)
    with pytest.warns(RuntimeWarning, match="`pair_fn` draws random numbers"):
        reduction(x)
    drawn.clear()
    state = torch.get_rng_state()
    torch.set_rng_state(state)
    loss = combined(reduction(x))
    blocks = drawn[-9:]
    mask = torch.cat([torch.cat(blocks[k : k + 3], 1) for k in (0, 3, 6)])
    after = torch.get_rng_state()
    matrix = (x @ x.T) * mask
    expected = combined(tuple(of_matrix(matrix, reduce, dim) for dim in (1, 0)))
    first = torch.autograd.grad(loss, x, create_graph=True)
    others = torch.autograd.grad(expected, x, create_graph=True)
    assert_close([loss, *first], [expected, *others])
    assert_close(torch.autograd.grad(squares(first), x), torch.autograd.grad(squares(others), x))
    assert torch.equal(torch.get_rng_state(), after)


# ---- other ways to differentiate, and compiled graphs


@forward_mode
@pytest.mark.parametrize("reduce", ["mean", "logsumexp", "max"])
def test_transforms_of_torch_func(reduce):
    x, y = rows(7).detach(), rows(5).detach()
    reduction = pairs(product, reduce, dim=(1, 0), block_size=3)

    def loss_of(x, y, reduced=reduction):
        return combined(reduced(x, y))

    def plain(x, y):
        return loss_of(x, y, reduction.plain)

    assert_close(torch.func.grad(loss_of, (0, 1))(x, y), torch.func.grad(plain, (0, 1))(x, y))
    assert_close([torch.func.hessian(loss_of)(x, y)], [torch.func.hessian(plain)(x, y)])
    batch = torch.stack([x, 2 * x])
    one = torch.func.vmap(loss_of, (0, None))(batch, y)
    assert_close(one, [plain(x, y), plain(2 * x, y)])
    tangents = (torch.ones_like(x), torch.ones_like(y))
    assert_close(*(torch.func.jvp(f, (x, y), tangents) for f in (loss_of, plain)))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, tangents[0])
        assert_close(
            *(forward_ad.unpack_dual(f(dual, y)) for f in (loss_of, plain)),
        )


@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.parametrize("reduce", ["logsumexp", "min"])
def test_jacobians_and_hessians(reduce, vectorize):
    x = rows(7).detach()
    weight = rows(4)
    reduction = pairs(lambda a, b: torch.tanh(a @ weight @ b.T), reduce, dim=1, block_size=3)

    def loss_of(x, reduced=reduction):
        return reduced(x).square().sum()

    jacobian, hessian = torch.autograd.functional.jacobian, torch.autograd.functional.hessian
    assert_close(
        [jacobian(reduction, x, vectorize=vectorize), hessian(loss_of, x, vectorize=vectorize)],
        [jacobian(reduction.plain, x), hessian(lambda x: loss_of(x, reduction.plain), x)],
    )


# Dynamo looks at the `.grad` of what comes out of one graph and goes into the next.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(("count", "fullgraph"), [(20, True), (3000, False)])
def test_compiled_graphs(count, fullgraph):
    x = torch.randn(count, 4, requires_grad=True)
    reduction = pairs(product, "logsumexp", dim=(1, 0))

    def loss_of(x):
        of_rows, of_columns = reduction(2 * x)
        return (of_rows + of_columns).mean()

    compiled = torch.compile(loss_of, backend="aot_eager", fullgraph=fullgraph)
    torch.testing.assert_close(
        torch.autograd.grad(compiled(x), x), torch.autograd.grad(loss_of(x), x)
    )


def test_a_compiled_function_of_pairs():
    x = rows(20)
    compiled = torch.compile(lambda a, b: torch.tanh(a @ b.T), backend="aot_eager", dynamic=True)
    ours = pairs(compiled, "sum", block_size=8)
    plain = pairs(lambda a, b: torch.tanh(a @ b.T), "sum").plain
    assert_close(
        torch.autograd.grad(combined(ours(x)), x), torch.autograd.grad(combined(plain(x)), x)
    )


def test_shapes_alone():
    x = torch.randn(9, 4, device="meta", requires_grad=True)
    of_rows, of_columns = pairs(product, "max", dim=(1, 0), block_size=4)(x, x[:5])
    assert of_rows.shape == (9,) and of_columns.shape == (5,)
    assert torch.autograd.grad(of_rows.sum() + of_columns.sum(), x)[0].shape == (9, 4)


# ---- the Module, and what is refused


def test_it_is_a_module():
    reduction = pairs(product, "sum", dim=(1, 0))
    assert repr(reduction) == "PairReduction(product, reduce='sum', dim=(1, 0))"
    assert copy.deepcopy(reduction)(rows(3))[0].shape == (3,)
    assert pickle.loads(pickle.dumps(reduction))(rows(3))[0].shape == (3,)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"reduce": "prod"}, ValueError, "`reduce` must be one of 'sum', 'mean'"),
        ({"dim": 2}, ValueError, "`dim` must be 1"),
        ({"dim": (1, 1)}, ValueError, "`dim` must be 1"),
        ({"dim": True}, ValueError, "`dim` must be 1"),
        ({"dim": [1, 0]}, ValueError, "`dim` must be 1"),
        ({"block_size": 0}, ValueError, "`block_size` must be an integer of at least 1"),
        ({"block_size": 2.0}, TypeError, "`block_size` must be an integer"),
        ({"across_ranks": 1}, TypeError, "`across_ranks` must be True, False"),
        ({"pair_fn": 3}, TypeError, "`pair_fn` must be a function or a Module, got 3"),
    ],
)
def test_wrong_options_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        pairs(**{"pair_fn": product, "reduce": "sum", **options})


@pytest.mark.parametrize(
    ("x", "y", "error", "words"),
    [
        (3, None, TypeError, "`x` must be a tensor or a tuple of tensors, got int"),
        (torch.ones(3), (torch.ones(3), 2), TypeError, "`y` must be .* got Tensor, int"),
        ((), None, ValueError, "`x` must hold a tensor, got an empty tuple"),
        (torch.tensor(1.0), None, ValueError, "all tensors of `x` must have the same first axis"),
        (
            (torch.ones(3, 2), torch.ones(4)),
            None,
            ValueError,
            r"all tensors of `x` must have the same first axis.*\[3, 2\], \[4\]",
        ),
        (torch.ones(3), torch.ones(3, device="meta"), ValueError, "`x` and `y` must be on one"),
    ],
    ids=str,
)
@pytest.mark.parametrize("way", ["forward", "plain"])
def test_wrong_rows_are_refused(x, y, error, words, way):
    reduction = pairs(lambda a, b: a[:, None] * b, "sum")
    with pytest.raises(error, match=words):
        getattr(reduction, way)(x, y)


@pytest.mark.parametrize("way", ["forward", "plain"])
def test_what_is_no_value_for_each_pair_is_refused(way):
    x = torch.ones(5, 2)

    def call(function, reduce="sum"):
        return getattr(pairs(function, reduce), way)(x)

    with pytest.raises(ValueError, match=r"one value for each pair, the shape \[5, 5\].*got \[5\]"):
        call(lambda a, b: (a @ b.T).sum(1))
    with pytest.raises(TypeError, match="`pair_fn` must return a tensor of real numbers, got list"):
        call(lambda a, b: [1])
    with pytest.raises(TypeError, match="of real numbers, got torch.complex64"):
        call(lambda a, b: torch.complex(a, a) @ b.to(torch.complex64).T)
    with pytest.raises(TypeError, match="floating-point values for reduce='mean', got torch.int64"):
        call(lambda a, b: (a @ b.T).long(), "mean")


def test_no_warning_in_ordinary_use():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        combined(pairs(product, "logsumexp", block_size=4)(rows(9))).backward()


@pytest.mark.parametrize("dim", [0.0, 1.0, True, (0, 0), [0, 1], torch.ones(2), None])
def test_a_dim_that_is_none(dim) -> None:
    with pytest.raises(ValueError, match="`dim` must be 1"):
        pairs(product, "sum", dim=dim)


def test_values_beyond_float32() -> None:
    x = 1e100 * rows(6).double()
    torch.testing.assert_close(pairs(product, "max")(x), (x @ x.T).amax(1))
