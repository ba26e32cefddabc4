"""A fused loss is the loss: its value, its gradients, and whatever is done with them."""

from __future__ import annotations

import copy
import functools
import io
import re
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from lossproof import losses
from lossproof.speed import fusing
from lossproof.speed.fuse_programs import NotFusableError, _refuse_effects
from lossproof.speed.fusing import COMPILED, FUSED, PLAIN, Choice, FusedLoss, fuse

Tensor = torch.Tensor
DOUBLE = torch.float64

# Forward mode in torch uses what torch itself has deprecated.
from_torch = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def interpreted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graphs are run one operation after the other: a C++ compiler takes seconds for each."""
    if "in_cpp" in request.fixturenames:
        return
    for module in ("fuse_programs", "fuse_compiled"):
        monkeypatch.setattr(f"lossproof.speed.{module}.inductor", lambda graph, inputs: graph)


@pytest.fixture
def in_cpp() -> None:
    """The compiler itself."""


def charbonnier(input: Tensor, target: Tensor) -> Tensor:
    return ((input - target) ** 2 + 1e-2).sqrt().mean()


def pair(*shape: int, dtype: torch.dtype = DOUBLE) -> tuple[Tensor, Tensor]:
    return torch.randn(*shape, dtype=dtype, requires_grad=True), torch.randn(*shape, dtype=dtype)


def forced(loss: Callable[..., Tensor]) -> FusedLoss:
    return fuse(loss, measure=False)


def same_gradients(own: Tensor, plain: Tensor, leaves: list[Tensor], **tolerance: float) -> None:
    torch.testing.assert_close(own, plain, **tolerance)
    found = torch.autograd.grad(own, leaves, retain_graph=True, allow_unused=True)
    wanted = torch.autograd.grad(plain, leaves, retain_graph=True, allow_unused=True)
    for one, other in zip(found, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, **tolerance)


# ---- the same as the loss, whatever the loss is


class Learned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.3, dtype=DOUBLE))
        self.register_buffer("weight", torch.tensor([1.0, 2.0, 3.0], dtype=DOUBLE))
        self.inner = nn.Linear(3, 3, dtype=DOUBLE)

    def forward(self, input: Tensor, target: Tensor, power: float = 2.0) -> Tensor:
        error = (self.inner(input) - target).abs() ** power
        return (error * self.weight * torch.exp(-self.scale)).mean() + self.scale


class FourTimesTheGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x * x).sum()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 8 * x * grad


@pytest.mark.parametrize(
    "loss",
    [
        charbonnier,
        functools.partial(F.huber_loss, delta=0.3),
        nn.SmoothL1Loss(reduction="sum"),
        losses.mse_loss,
        losses.HuberLoss(delta=2.0),
        functools.partial(losses.pinball_loss, quantiles=0.3),
        Learned(),
        lambda input, target: FourTimesTheGradient.apply(input - target),
    ],
)
def test_it_is_the_loss(loss: Callable[..., Tensor]) -> None:
    fused = forced(loss)
    input, target = pair(5, 3)
    leaves = [input, target.requires_grad_(), *fused.parameters()]
    same_gradients(fused(input, target=target), loss(input, target=target), leaves)
    assert [choice.way for choice in fused.choices] == [FUSED]


@from_torch
def test_first_and_second_derivatives_are_those_of_finite_differences() -> None:
    fused = forced(charbonnier)
    input, target = pair(3, 2)
    both = (input, target.requires_grad_())
    assert torch.autograd.gradcheck(fused, both, check_batched_grad=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(fused, both, check_batched_grad=True)
    assert fused.choices[0].way == FUSED


@pytest.mark.usefixtures("in_cpp")
def test_it_is_one_loop_of_the_compiler() -> None:
    from torch._inductor.utils import run_and_get_code

    input, target = pair(1024, dtype=torch.float32)
    fused = forced(charbonnier)
    value, (code,) = run_and_get_code(lambda: fused(input, target))
    assert len(re.findall(r"in_ptr0 \+|in_ptr0\[", code)) == 1  # the input is read once
    same_gradients(3 * value, 3 * charbonnier(input, target), [input])


def test_classes_and_tensors_that_have_no_part_in_it() -> None:
    def loss(logits: Tensor, labels: Tensor, unused: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels) + unused.detach().sum()

    logits, unused = pair(4, 3)
    fused = forced(loss)
    labels = torch.tensor([0, 2, 1, 0])
    fused(logits, labels, unused.requires_grad_()).backward()
    assert unused.grad is None
    torch.testing.assert_close(
        logits.grad, torch.autograd.grad(F.cross_entropy(logits, labels), logits)[0]
    )


def test_tensors_that_it_closes_over_have_their_gradients() -> None:
    leaf = torch.randn(3, dtype=DOUBLE, requires_grad=True)
    computed = leaf * 2

    def loss(input: Tensor, target: Tensor) -> Tensor:
        return (computed * (input - target) ** 2 * leaf).mean()

    fused = forced(loss)
    input, target = pair(5, 3)
    same_gradients(fused(input, target), loss(input, target), [input, leaf])
    constant = input.detach()
    same_gradients(fused(constant, target), loss(constant, target), [leaf])


@settings(max_examples=12)
@given(
    rows=st.integers(1, 9),
    view=st.sampled_from(["as it is", "transposed", "stepped", "expanded"]),
    factor=st.sampled_from([1.0, -1.0, 0.0, 0.25, 3e-7, 1e6]),
)
def test_any_view_and_any_number_from_above(rows: int, view: str, factor: float) -> None:
    torch.manual_seed(rows)
    leaf = torch.randn(rows, 4, dtype=DOUBLE, requires_grad=True)
    input = {
        "as it is": leaf,
        "transposed": leaf.t(),
        "stepped": leaf[:, ::2],
        "expanded": leaf[:1].expand(3, 4),
    }[view]
    target = torch.randn(input.shape, dtype=DOUBLE)
    same_gradients(factor * MANY(input, target), factor * charbonnier(input, target), [leaf])


MANY = forced(charbonnier)
"""One loss for many shapes."""


# ---- what is done with the value


@pytest.mark.parametrize(
    "above",
    [
        lambda value, weight: 3 * value,
        lambda value, weight: value**2,
        lambda value, weight: value * weight + weight**2,
        lambda value, weight: -value.exp(),
        lambda value, weight: value * 0,
    ],
)
def test_what_becomes_of_the_value(above: Callable[[Tensor, Tensor], Tensor]) -> None:
    weight = torch.tensor(1.5, dtype=DOUBLE, requires_grad=True)
    input, target = pair(4, 3)
    totals = [above(loss(input, target), weight) for loss in (MANY, charbonnier)]
    same_gradients(*totals, [input])
    penalties = [
        torch.autograd.grad(total, input, create_graph=True)[0].square().sum() for total in totals
    ]
    same_gradients(*penalties, [input])


@pytest.mark.parametrize("number", [torch.inf, torch.nan, 1e300])
def test_an_odd_number_from_above_leaves_nothing_behind(number: float) -> None:
    input, target = pair(4, 3)
    for factor in (number, 1.0, 2.0):
        found = torch.autograd.grad(factor * MANY(input, target), input)
        wanted = torch.autograd.grad(factor * charbonnier(input, target), input)
        torch.testing.assert_close(found, wanted, equal_nan=True)


def test_sent_backward_again_and_accumulated() -> None:
    grads = []
    for loss in (MANY, charbonnier):
        torch.manual_seed(0)
        input, target = pair(4, 3)
        for part in (input[:2], input[2:]):
            value = loss(part, target[:2]) / 2
            value.backward(retain_graph=True)
            (3 * value).backward()
        grads.append(input.grad)
    torch.testing.assert_close(*grads)


def test_backward_for_some_inputs_alone() -> None:
    input, target = pair(4, 3)
    MANY(input, target.requires_grad_()).backward(inputs=[target])
    assert input.grad is None
    torch.testing.assert_close(
        target.grad, torch.autograd.grad(charbonnier(input, target), target)[0]
    )


def test_a_grad_scaler_finds_what_it_finds_of_the_plain_loss() -> None:
    grads = []
    for loss in (forced(losses.mse_loss), losses.mse_loss):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = torch.optim.SGD(model.parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        scaler.scale(loss(model(torch.randn(5, 3)), torch.randn(5, 2))).backward()
        scaler.unscale_(optimizer)
        grads.append(model.weight.grad)
    torch.testing.assert_close(*grads)


# ---- memory


def test_gradients_share_no_memory() -> None:
    def loss(x: Tensor, y: Tensor) -> Tensor:
        return (x + y).sum()

    x, y = pair(5)
    fused = forced(loss)
    (3 * fused(x, y.requires_grad_())).backward()
    x.grad += 1
    assert y.grad.tolist() == [3.0] * 5
    (3 * fused(x, y)).backward()
    assert y.grad.tolist() == [6.0] * 5
    assert x.grad.tolist() == [7.0] * 5


def test_a_gradient_that_is_an_input_is_a_copy_of_it() -> None:
    x, y = pair(5)
    was = y.clone()
    fused = forced(lambda x, y: (x * y).sum())
    fused(x, y).backward()
    x.grad.zero_()
    assert torch.equal(y, was)
    total = forced(lambda x: x.sum())(torch.ones((), requires_grad=True))
    total.backward()


def test_one_tensor_given_twice() -> None:
    x, _ = pair(5)
    fused = forced(lambda x, y: (x * y).sum())
    fused(x, x).backward()
    torch.testing.assert_close(x.grad, 2 * x)


@pytest.mark.parametrize("changed", [0, 1])
def test_an_input_that_was_changed_in_between_is_complained_of(changed: int) -> None:
    input, target = pair(4, 3)
    inputs = (input * 1, target)
    value = MANY(*inputs)
    with torch.no_grad():
        inputs[changed].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_the_gradient_of_a_parameter_has_its_layout() -> None:
    leaf = torch.randn(3, 4, dtype=DOUBLE).t().requires_grad_()
    (2 * MANY(leaf, torch.zeros(4, 3, dtype=DOUBLE))).backward()
    assert leaf.grad.stride() == leaf.stride()


# ---- where it is called


@from_torch
def test_transforms_get_the_plain_loss() -> None:
    input, target = pair(4, 3)
    constant = input.detach()
    for transform in (torch.func.grad, torch.func.vmap, torch.func.hessian):
        assert torch.equal(
            transform(MANY)(constant, target), transform(charbonnier)(constant, target)
        )
    given = ((constant, target), (target, target))
    assert torch.equal(torch.func.jvp(MANY, *given)[1], torch.func.jvp(charbonnier, *given)[1])


def test_who_turns_the_compiler_off_gets_the_plain_loss() -> None:
    fused = forced(charbonnier)
    input, target = pair(4, 3)
    with torch.compiler.set_stance("force_eager"):
        assert torch.equal(fused(input, target), charbonnier(input, target))
    assert fused.choices == ()
    fused(input, target)
    assert fused.choices[0].way == FUSED


def test_an_outer_compiler_gets_the_plain_loss() -> None:
    outer = torch.compile(lambda x, y: MANY(2 * x, y) + 1, fullgraph=True, backend="aot_eager")
    input, target = pair(4, 3)
    same_gradients(outer(input, target), charbonnier(2 * input, target) + 1, [input])


def test_without_gradients() -> None:
    input, target = pair(4, 3)
    wanted = charbonnier(input, target).detach()
    fused = forced(charbonnier)
    with torch.no_grad():
        assert torch.equal(fused(input, target), wanted)
    with torch.inference_mode():
        assert torch.equal(fused(input, target), wanted)
        assert torch.equal(fused(input * 1, target), wanted)
    assert torch.equal(fused(input.detach(), target), wanted)
    assert {choice.way for choice in fused.choices} == {COMPILED}


def test_in_a_checkpoint_and_under_hooks() -> None:
    input, target = pair(4, 3)
    fused = fuse(charbonnier)  # the first call measures, which the checkpoint may not see
    found = checkpoint(fused, input * 1, target, use_reentrant=False)
    same_gradients(found, charbonnier(input, target), [input])
    found = checkpoint(MANY, input * 1, target, use_reentrant=False)
    found.backward()
    with torch.autograd.graph.save_on_cpu():
        value = MANY(input, target)
    same_gradients(value, charbonnier(input, target), [input])


def test_autocast_is_that_of_the_call_also_when_computed_again() -> None:
    matrix = torch.randn(8, 8, requires_grad=True)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(x @ matrix, y)

    fused = forced(loss)
    x, labels = torch.randn(5, 8, requires_grad=True), torch.randint(8, (5,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        own, plain = fused(x, labels), loss(x, labels)
    tolerance = {"rtol": 1e-2, "atol": 1e-3}
    same_gradients(own, plain, [x, matrix], **tolerance)
    same_gradients(own, plain, [x, matrix], **tolerance)  # computed again
    in_single = loss(x, labels)
    assert abs(own - plain) < abs(own - in_single)
    gradients = [
        torch.autograd.grad(one, x, create_graph=True)[0].square().sum() for one in (own, plain)
    ]
    same_gradients(*gradients, [x, matrix], rtol=3e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtypes(dtype: torch.dtype) -> None:
    fused = forced(charbonnier)
    input, target = pair(8, 3, dtype=dtype)
    value = fused(input, target)
    assert value.dtype == dtype
    exact = input.detach().double().requires_grad_()
    wanted = torch.autograd.grad(charbonnier(exact, target.double()), exact)[0]
    (found,) = torch.autograd.grad(8 * value, input)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), 8 * wanted, rtol=20 * eps, atol=4 * eps)
    assert fused.choices[0].way == FUSED


def test_small_gradients_in_float16_wait_for_the_loss_scale() -> None:
    items = 1 << 16
    fused = forced(losses.mse_loss)
    input, target = pair(items, dtype=torch.float16)
    (found,) = torch.autograd.grad(fused(input, target).float() * 2.0**14, input)
    wanted = 2.0**15 * (input.double() - target.double()) / items
    assert not ((found == 0) & (wanted != 0)).any()
    torch.testing.assert_close(found.double(), wanted, rtol=2e-3, atol=1e-3)
    assert fused.choices[0].way == COMPILED
    assert "float16" in fused.report()


def test_many_shapes_are_two_programs() -> None:
    fused = forced(charbonnier)
    for rows in (2, 3, 5, 9, 12, 17, 33, 52, 95, 1):
        input, target = pair(rows, 3)
        same_gradients(fused(input, target), charbonnier(input, target), [input])
    (compiled,) = fused._known.compiled.values()
    assert compiled._graphs <= 3


def test_a_batch_of_nothing() -> None:
    input, target = pair(0, 3)
    value = MANY(input, target)
    value.backward()
    assert value.isnan()  # as that of the plain loss
    assert input.grad.shape == (0, 3)


# ---- a Module stays a Module


def test_it_has_the_state_of_the_module() -> None:
    inner = Learned()
    fused = forced(inner)
    assert list(fused.state_dict()) == list(inner.state_dict())
    assert [n for n, _ in fused.named_parameters()] == [n for n, _ in inner.named_parameters()]
    assert fused.scale is inner.scale
    other = Learned()
    with torch.no_grad():
        other.scale.fill_(2.0)
    fused.load_state_dict(other.state_dict())
    input, target = pair(5, 3)
    same_gradients(fused(input, target), other(input, target), [input])
    fused.to(torch.float32).eval()
    assert inner.weight.dtype == torch.float32
    assert not inner.training
    assert not inner.inner.training
    single = [tensor.detach().float() for tensor in (input, target)]
    torch.testing.assert_close(fused(*single), inner(*single))
    assert "Learned" in repr(fused)


def test_copied_and_pickled() -> None:
    fused = forced(Learned())
    input, target = pair(5, 3)
    wanted = fused(input, target)
    twin = copy.deepcopy(fused)
    assert twin.scale is not fused.scale
    buffer = io.BytesIO()
    torch.save(fused, buffer)
    buffer.seek(0)
    for other in (twin, torch.load(buffer, weights_only=False)):
        same_gradients(other(input, target), wanted, [input])
        other(input, target).backward()
        assert other.inner.weight.grad is not None
    assert fused.scale.grad is None


# ---- what cannot be fused


class Remembers(nn.Module):
    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.register_buffer("center", torch.zeros(3, dtype=DOUBLE))

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        mean = input.detach().mean(0)
        if self.in_place:
            self.center.mul_(0.5).add_(mean)
        else:
            self.center = self.center * 0.5 + mean
        return (input - target - self.center).square().mean()


@pytest.mark.parametrize("in_place", [True, False])
def test_a_loss_that_changes_its_state_does_so_once(in_place: bool) -> None:
    inner, wanted = Remembers(in_place=in_place), Remembers(in_place=in_place)
    fused = fuse(inner)
    input, target = pair(5, 3)
    with pytest.warns(RuntimeWarning, match="in place" if in_place else "more than one tensor"):
        value = fused(input, target)
    same_gradients(value, wanted(input, target), [input])
    assert torch.equal(inner.center, wanted.center)
    with warnings.catch_warnings():  # told once
        warnings.simplefilter("error")
        fused(*pair(50, 3))


def test_a_loss_that_draws_random_numbers_draws_them_as_it_would() -> None:
    def loss(input: Tensor, target: Tensor) -> Tensor:
        return (F.dropout(input, 0.5) * target).sum()

    input, target = pair(50)
    torch.manual_seed(7)
    wanted = loss(input, target)
    torch.manual_seed(7)
    with pytest.warns(RuntimeWarning, match="draws random numbers"):
        assert torch.equal(fuse(loss)(input, target), wanted)


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (lambda x, y: (x * y).sum() if (x * y).sum() > 0 else x.sum(), "branching"),
        (lambda x, y: ((x * y).sum(), x.sum()), "more than one tensor"),
    ],
)
def test_what_is_refused_is_told_with_the_reason(loss: Callable[..., Tensor], why: str) -> None:
    input, target = pair(3)
    with pytest.warns(RuntimeWarning, match=why):
        found = fuse(loss)(input, target)
    torch.testing.assert_close(found, loss(input, target))


def test_what_cannot_be_one_program_may_be_two(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, graph: object) -> None:
        raise RuntimeError("no such program")

    monkeypatch.setattr("lossproof.speed.fuse_programs.OneSweep.__init__", fail)
    fused = forced(charbonnier)
    input, target = pair(4, 3)
    with pytest.warns(RuntimeWarning, match="no such program; it is compiled in two"):
        value = fused(input, target)
    same_gradients(value, charbonnier(input, target), [input])
    assert fused.choices[0].way == COMPILED


def test_a_loss_that_waits_for_other_processes_is_not_run_some_times() -> None:
    import torch.distributed._functional_collectives  # registers the operations

    graph = torch.fx.Graph()
    given = graph.placeholder("x")
    graph.output(graph.call_function(torch.ops._c10d_functional.wait_tensor.default, (given,)))
    with pytest.raises(NotFusableError, match="other processes"):
        _refuse_effects(torch.fx.GraphModule({}, graph))


def test_values_of_the_items_are_left_to_two_programs() -> None:
    fused = forced(losses.mse_loss)
    input, target = pair(4, 3)
    for reduction in ("none", "sum", "mean"):
        own = fused(input, target, reduction=reduction).exp().sum()
        plain = losses.mse_loss(input, target, reduction=reduction).exp().sum()
        same_gradients(own, plain, [input])
    assert [choice.way for choice in fused.choices] == [COMPILED, FUSED, FUSED]
    assert "one number" in str(fused.choices[0])


def test_a_wrong_call_raises_what_the_loss_raises_and_is_forgotten() -> None:
    fused = forced(losses.mse_loss)
    input, target = pair(4, 3)
    for _ in range(2):
        with pytest.raises(ValueError, match="same shape"):
            fused(input, target[:2])
    fused(input, target)
    assert [choice.way for choice in fused.choices] == [FUSED]


def test_a_number_that_changes_with_each_call_is_told() -> None:
    def loss(input: Tensor, target: Tensor, *, power: float) -> Tensor:
        return ((input - target).abs() ** power).sum()

    fused = forced(loss)
    input, target = pair(4, 3)

    def called_with(steps: range) -> None:
        for step in steps:
            own = fused(input, target, power=1 + step / 7)
            same_gradients(own, loss(input, target, power=1 + step / 7), [input])

    called_with(range(1, 9))
    with pytest.warns(RuntimeWarning, match="changes often"):
        called_with(range(9, 12))


def test_more_losses_of_one_factory_than_the_compiler_keeps_programs() -> None:
    def make(power: float) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x, y: ((x - y).abs() ** power).sum()

    input, target = pair(3)
    for k in range(10):
        fused, plain = forced(make(1.5 + k)), make(1.5 + k)
        same_gradients(fused(input, target), plain(input, target), [input])
        assert fused.choices[0].way == FUSED


@pytest.mark.parametrize("wrong", [3, nn.MSELoss, None])
def test_what_is_no_loss_is_refused(wrong: object) -> None:
    with pytest.raises(TypeError, match="`loss` must be a function or a Module"):
        fuse(wrong)  # type: ignore[arg-type]


def test_wrong_options_are_refused() -> None:
    with pytest.raises(TypeError, match="already"):
        fuse(forced(charbonnier))
    with pytest.raises(TypeError, match="`measure` must be True or False"):
        fuse(charbonnier, measure="yes")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`dynamic`"):
        fuse(charbonnier, dynamic=1)  # type: ignore[arg-type]


# ---- what is kept


@pytest.mark.parametrize("fastest", [FUSED, COMPILED, PLAIN])
def test_the_fastest_is_kept(fastest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(steps, device):
        for step in steps.values():
            step()
        return {name: 1.0 if name == fastest else 2.0 for name in steps}

    monkeypatch.setattr(fusing, "times", measured)
    fused = fuse(charbonnier)
    input, target = pair(80, 80)
    for _ in range(2):
        same_gradients(fused(input, target), charbonnier(input, target), [input])
    value = fused(input, target)
    gradient = torch.autograd.grad(value**2, input, create_graph=True)[0]
    plain = torch.autograd.grad(charbonnier(input, target) ** 2, input, create_graph=True)[0]
    same_gradients(gradient.square().sum(), plain.square().sum(), [input])
    (choice,) = fused.choices
    assert choice.way == fastest
    assert set(choice.seconds) == {FUSED, COMPILED, PLAIN}
    assert f"[80, 80], [80, 80] · {fastest} · fused" in fused.report()


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.scale = nn.Parameter(torch.ones(3, dtype=DOUBLE))

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        return (self.scale * (input - target)).square().mean()


def test_measuring_leaves_everything_as_it_was() -> None:
    inner = Counts()
    fused = fuse(inner)
    input, target = pair(100, 3)
    seen: list[Tensor] = []
    input.register_hook(seen.append)
    state = torch.get_rng_state()
    fused(input, target)
    assert inner.calls == 1
    assert torch.equal(torch.get_rng_state(), state)
    assert input.grad is None
    assert inner.scale.grad is None
    assert not seen
    assert input._version == target._version == 0
    fused(input.detach(), target).backward()  # the parameter alone
    assert inner.calls == 2
    assert [set(choice.seconds) for choice in fused.choices] == [{FUSED, PLAIN}] * 2


def test_a_graph_outside_of_the_loss_is_not_used_up_by_measuring() -> None:
    leaf = torch.ones(3, requires_grad=True)
    computed = leaf.exp()
    fused = fuse(lambda x: (x * computed).sum())
    value = fused(torch.ones(3)) + computed.sum()
    value.backward()
    torch.testing.assert_close(leaf.grad, 2 * computed.detach())


def test_more_kinds_than_are_measured_go_with_their_like(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusing, "MOST_KINDS", 2)
    fused = forced(charbonnier)
    for rows in (2, 200):
        fused(*pair(rows))
    near, far = fused._known.choices
    fused._known.choices[far] = Choice(((200,),), PLAIN)
    fused(*pair(7))
    fused(*pair(20000))
    assert [choice.way for choice in fused.choices] == [FUSED, PLAIN, FUSED, PLAIN]
    assert "most alike" in fused.report()
    assert near.far_from(far) > 0


def test_a_report_before_the_first_call() -> None:
    assert fuse(charbonnier).report() == "not called yet"


def test_cut_asks_for_the_one_sweep() -> None:
    fused = fuse(charbonnier)
    fused.cut(1)
    fused(*pair(4, 3))
    assert fused.choices[0].way == FUSED


def test_lists_of_tensors() -> None:
    def loss(pairs: list[tuple[Tensor, Tensor]], *, weights: dict[str, Tensor]) -> Tensor:
        return weights["w"] * sum((x - y).square().mean() for x, y in pairs)

    pairs = [pair(3), pair(4)]
    weight = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True)
    fused = forced(loss)
    found, wanted = (call(pairs, weights={"w": weight}) for call in (fused, loss))
    same_gradients(found, wanted, [pairs[0][0], pairs[1][0], weight])
    assert fused.choices[0].way == FUSED
