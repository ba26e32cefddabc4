"""A swept sum is the plain formula's, in value and gradient; float64 autograd is the truth."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossproof import reduce
from lossproof.write import sweeping
from lossproof.write.sweeping import blocks, reduce_swept, sum_swept


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "BLOCK", 4)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def quartic(input, target):
    return (input - target) ** 4


def quartic_with_slope(input, target):
    return (input - target) ** 4, 4 * (input - target) ** 3


def cross_entropy(logits, label):
    return -logits.log_softmax(1).gather(1, label.unsqueeze(1)).squeeze(1)


def both(formula, tensors, wanted, **options):
    """Value and gradients, swept and plain."""
    found = []
    for how in (True, False):
        leaves = [t.clone().requires_grad_(i in wanted) for i, t in enumerate(tensors)]
        reduced = {k: v for k, v in options.items() if k not in {"gradient", "class_axis", "fill"}}
        value = (
            reduce_swept(formula, leaves, **options) if how else reduce(formula(*leaves), **reduced)
        )
        found.append((value, *torch.autograd.grad(value, [leaves[i] for i in wanted])))
    return found


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.sampled_from(["mean", "sum"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([[0], [1], [0, 1]]),
)
def test_elementwise(shape, reduction, weighted, by_formula, wanted):
    x, y = numbers(*shape), numbers(*shape, seed=1)
    weight = numbers(*shape, seed=2).abs() if weighted else None
    gradient = quartic_with_slope if by_formula else None
    swept, plain = both(
        quartic, [x, y], wanted, weight=weight, reduction=reduction, gradient=gradient
    )
    torch.testing.assert_close(swept, plain)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 5),
    st.integers(2, 6),
    st.lists(st.integers(1, 6), max_size=2),
    st.booleans(),
)
def test_with_a_class_axis(samples, classes, rest, weighted):
    logits = numbers(samples, classes, *rest)
    label = torch.randint(classes, (samples, *rest), generator=torch.Generator().manual_seed(1))
    weight = numbers(samples, *rest, seed=2).abs() if weighted else None
    swept, plain = both(cross_entropy, [logits, label], [0], weight=weight, class_axis=True)
    torch.testing.assert_close(swept, plain)


def test_a_single_sample_of_classes():
    logits, label = numbers(5).requires_grad_(), torch.tensor(3)

    def of_one(logits, label):
        return -logits.log_softmax(0).gather(0, label.unsqueeze(0)).squeeze(0)

    value = reduce_swept(of_one, (logits, label), torch.tensor(2.0), "sum", class_axis=True)
    torch.testing.assert_close(value, -2 * logits.log_softmax(0)[3])


def test_a_weight_may_have_a_gradient():
    x, y = numbers(5, 4), numbers(5, 4, seed=1)
    weight = numbers(5, 1, seed=2).abs().requires_grad_()
    swept = torch.autograd.grad(reduce_swept(quartic, (x, y), weight), weight)
    torch.testing.assert_close(swept, torch.autograd.grad(reduce(quartic(x, y), weight), weight))


@pytest.mark.parametrize("gradient", [None, quartic_with_slope])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_dtype_is_that_of_the_values(gradient, reduction):
    x, y, wide = numbers(32).float(), numbers(32, seed=1).float(), numbers(32, seed=2).abs()
    for options in ({"weight": wide}, {"weight": wide.half()}, {"normalizer": wide[:1]}):
        swept, plain = both(quartic, [x, y], [0], reduction=reduction, gradient=gradient, **options)
        assert [found.dtype for found in swept] == [torch.float32] * 2
        torch.testing.assert_close(swept, plain)


def test_masked_items_may_be_anything():
    x, y = numbers(6, 5), numbers(6, 5, seed=1)
    mask = torch.rand(6, 5, generator=torch.Generator().manual_seed(3)) < 0.5
    x.requires_grad_()
    wanted = torch.autograd.grad(reduce(quartic(x, y), mask=mask), x)[0]
    spoiled = x.detach().masked_fill(~mask, float("nan")).requires_grad_()
    value = reduce_swept(quartic, (spoiled, y), mask=mask)
    torch.testing.assert_close(torch.autograd.grad(value, spoiled)[0], wanted)


def test_fill_keeps_within_the_domain():
    variance = torch.tensor([1.0, 2.0, float("nan")] * 20, requires_grad=True)
    mask = torch.tensor([True, True, False] * 20)
    value = reduce_swept(torch.log, (variance,), mask=mask, fill=1.0)
    value.backward()
    assert value.item() == pytest.approx(torch.tensor(2.0).log().item() / 2)
    assert variance.grad.isfinite().all()


def test_a_second_backward_and_a_scaled_one():
    x, y = numbers(30).requires_grad_(), numbers(30, seed=1)
    value = reduce_swept(quartic, (x, y), gradient=quartic_with_slope)
    (3 * value).backward(retain_graph=True)
    value.backward()
    torch.testing.assert_close(x.grad, 4 * 4 * (x - y).detach() ** 3 / 30)


def test_gradients_given_away_are_not_changed_later():
    x, y = numbers(30).requires_grad_(), numbers(30, seed=1)
    value = reduce_swept(quartic, (x, y), reduction="sum")
    (first,) = torch.autograd.grad(value, x, retain_graph=True)
    kept = first.clone()
    torch.autograd.grad(value, x, torch.tensor(5.0, dtype=torch.float64))
    assert torch.equal(first, kept)


@pytest.mark.parametrize("gradient", [None, quartic_with_slope])
def test_second_derivatives(gradient):
    x, y = numbers(24).requires_grad_(), numbers(24, seed=1).requires_grad_()

    def loss(x, y):
        return reduce_swept(quartic, (x, y), gradient=gradient)

    assert torch.autograd.gradcheck(loss, (x, y))
    assert torch.autograd.gradgradcheck(loss, (x, y))
    # The upstream gradient depends on the loss itself.
    (slope,) = torch.autograd.grad(loss(x, y) ** 2, x, create_graph=True)
    (plain,) = torch.autograd.grad(quartic(x, y).mean() ** 2, x, create_graph=True)
    torch.testing.assert_close(slope, plain)
    torch.testing.assert_close(
        torch.autograd.grad(slope.sum(), x), torch.autograd.grad(plain.sum(), x)
    )


def test_without_a_gradient_nothing_is_kept():
    x, y = numbers(30).requires_grad_(), numbers(30, seed=1)
    with torch.no_grad():
        value = reduce_swept(quartic, (x, y))
    assert not value.requires_grad
    torch.testing.assert_close(value, quartic(x, y).mean().detach())


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of torch's own forward mode
def test_transforms_and_graphs_take_the_plain_formula():
    x, y = numbers(3, 30), numbers(3, 30, seed=1)

    def loss(x, y):
        return reduce_swept(quartic, (x, y), gradient=quartic_with_slope)

    slopes = torch.func.vmap(torch.func.grad(loss))(x, y)
    torch.testing.assert_close(slopes, 4 * (x - y) ** 3 / 30)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        tangent = torch.autograd.forward_ad.unpack_dual(loss(dual, y)).tangent
    torch.testing.assert_close(tangent, (4 * (x - y) ** 3).mean())
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, y), quartic(x, y).mean())


def test_strided_inputs():
    x, y = numbers(8, 6).t(), numbers(6, 8, seed=1)
    torch.testing.assert_close(reduce_swept(quartic, (x, y)), quartic(x, y).mean())


@given(st.integers(0, 4), st.integers(1, 5), st.integers(1, 9), st.integers(1, 30))
def test_blocks_cover_everything_once(rows, classes, inner, size):
    tensor = torch.zeros(rows, classes, inner)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sweeping, "BLOCK", size)
        for index in blocks(tensor):
            tensor[index] += 1
    assert (tensor == 1).all()


def moments(logits, label):
    probability = logits.softmax(1)
    hit = (label.unsqueeze(1) == torch.arange(logits.shape[1]).view(1, -1, 1)).to(logits.dtype)
    return (probability * hit).sum(2), probability.square().sum(2), hit.sum(2)


def dice(sums):
    return 1 - ((2 * sums[0] + 1) / (sums[1] + sums[2] + 1)).mean()


def test_sums_over_samples_and_classes():
    logits = numbers(3, 4, 11).requires_grad_()
    label = torch.randint(4, (3, 11), generator=torch.Generator().manual_seed(1))
    swept, plain = sum_swept(moments, (logits, label)), moments(logits, label)
    torch.testing.assert_close(swept, plain)
    torch.testing.assert_close(
        torch.autograd.grad(dice(swept), logits), torch.autograd.grad(dice(plain), logits)
    )
    assert torch.autograd.gradgradcheck(lambda x: dice(sum_swept(moments, (x, label))), logits)


def test_sums_with_a_formula_for_the_gradient():
    calls = []

    def slope(logits, label, *upstream):
        calls.append(logits.shape)
        leaf = logits.detach().requires_grad_()
        with torch.enable_grad():
            sums = moments(leaf, label)
        return torch.autograd.grad(sums[:2], leaf, upstream[:2])[0]

    logits = numbers(3, 4, 11).requires_grad_()
    label = torch.randint(4, (3, 11), generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(dice(sum_swept(moments, (logits, label), gradient=slope)), logits)
    torch.testing.assert_close(found, torch.autograd.grad(dice(moments(logits, label)), logits))
    assert len(calls) > 3


@pytest.mark.parametrize("way", ["batched", "vmap"])
def test_many_gradients_at_a_time(way):
    x, y = numbers(40).requires_grad_(), numbers(40, seed=1)
    label = torch.randint(4, (3, 11), generator=torch.Generator().manual_seed(1))
    logits = numbers(3, 4, 11).requires_grad_()
    upstream = torch.tensor([1.0, -2.0], dtype=torch.float64)
    for value, leaf in (
        (reduce_swept(quartic, (x, y)), x),
        (dice(sum_swept(moments, (logits, label))), logits),
    ):
        (one,) = torch.autograd.grad(value, leaf, retain_graph=True)
        if way == "batched":
            (many,) = torch.autograd.grad(value, leaf, upstream, is_grads_batched=True)
        else:
            many = torch.func.vmap(lambda u, v=value, x=leaf: torch.autograd.grad(v, x, u)[0])(
                upstream
            )
        torch.testing.assert_close(many, torch.stack((one, -2 * one)))


def test_it_stays_on_its_device_whatever_the_default_is():
    x, y = numbers(40), numbers(40, seed=1)
    with torch.device("meta"):
        found = reduce_swept(quartic, (x, y))
    torch.testing.assert_close(found, quartic(x, y).mean())


@pytest.mark.parametrize("shape", [(2, 3, 20), (6, 20)])
def test_in_a_second_derivative_a_tensor_counts_once(shape: tuple[int, ...]) -> None:
    start = torch.rand(shape, dtype=torch.float64)

    def squares(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return ((x - y) ** 2).sum(-1)

    def swept(x: torch.Tensor) -> torch.Tensor:
        if x.ndim == 3:
            return sum_swept(lambda x, y: (squares(x, y),), (x, x.exp()))[0].sum()
        return reduce_swept(lambda x, y: (x - y) ** 2, (x, x.exp()), reduction="sum")

    found = []
    for loss in (swept, lambda x: squares(x, x.exp()).sum()):
        x = start.clone().requires_grad_()
        x.register_hook(lambda grad: 3 * grad)
        found.append(torch.autograd.grad(loss(x), x, create_graph=True)[0].detach())
    torch.testing.assert_close(*found)
