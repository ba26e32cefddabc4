"""One recorded call: stops with line and column, broadcasts, writes, casts, and its replay."""

import contextlib
import functools
import gc
import math
import sys
import textwrap

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.finite_differences import judge
from lossproof.checks.sources import Sources, excerpt
from lossproof.checks.trace import (
    Recorder,
    Replay,
    ReplayMismatch,
    intercept_functions,
    operation_name,
    tensors_in,
)

CUTS = {
    "item": ("x.sum().item()", "item", "x.sum().item()"),
    "tolist": ("x.tolist()", "tolist", "x.tolist()"),
    "numpy": ("x.numpy(force=True)", "numpy", "x.numpy(force=True)"),
    "float": ("float(x.sum())", "__float__", "float(x.sum())"),
    "int": ("int(x.sum())", "__int__", "int(x.sum())"),
    "bool": ("bool((x.sum() * x.sum()))", "__bool__", "bool((x.sum() * x.sum()))"),
    "sqrt": ("math.sqrt(x.pow(2).sum())", "__float__", "math.sqrt(x.pow(2).sum())"),
    "data": ("x.data", "data", "x.data"),
    "detach": ("x.detach()", "detach", "x.detach()"),
    "detach_": ("(x * 1).detach_()", "detach_", "(x * 1).detach_()"),
    "tensor": ("torch.tensor(x)", "tensor", "torch.tensor(x)"),
    "argmax": ("x.argmax()", "argmax", "x.argmax()"),
    "greater": ("x > 0", "gt", "x > 0"),
    "equal": ("torch.eq(x, 1.0)", "eq", "torch.eq(x, 1.0)"),
    "long": ("x.long()", "long", "x.long()"),
    "to integer": ("x.to(torch.int32)", "to", "x.to(torch.int32)"),
    "one_hot": ("F.one_hot((x * 1).detach().long().abs(), 9)", "detach", "(x * 1).detach()"),
    "argsort": ("torch.argsort(x)", "argsort", "torch.argsort(x)"),
    "count": ("torch.count_nonzero(x)", "count_nonzero", "torch.count_nonzero(x)"),
    "histc": ("torch.bincount(x.int().abs())", "int", "x.int()"),
}


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.filterwarnings("ignore:To copy construct")
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True")
def test_each_way_out_is_a_stop_with_its_span(name, module_of):
    expression, operation, span = CUTS[name]
    module = module_of(
        f"import math, torch\nimport torch.nn.functional as F\n\n\n"
        f"def loss(x):\n    y = 2 * x  # é is two bytes\n    z = (3, {expression})\n    return z\n"
    )
    x = torch.randn(4, requires_grad=True) * 2
    with Recorder(Sources(), [x]) as trace:
        module.loss(x)
    stop = trace.stops[0]
    location = stop.operation.site.location
    assert stop.operation.name == operation
    assert (location.file, location.line) == (module.__file__, 7)
    if sys.version_info >= (3, 11):
        assert excerpt(location) == span


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True")
def test_asarray_of_numpy_is_a_stop():
    x = torch.randn(3, requires_grad=True)
    with Recorder(Sources(), [x]) as trace, contextlib.suppress(RuntimeError):
        np.asarray(x * 2)  # torch refuses, as it should
    with Recorder(Sources(), [x]) as trace:
        np.asarray((x * 2).detach())
    assert [stop.operation.name for stop in trace.stops] == ["detach"]


def test_what_keeps_the_graph_is_no_stop():
    x = torch.randn(4, 3, requires_grad=True)
    with Recorder(Sources(), [x]) as trace:
        y = x.clone().float().round().abs().t().contiguous()
        y = torch.cat([y, y]).view(-1).clamp(0)
        values, _ = y.sort()
        z = [len(x), x.shape, x.dim(), x.dtype, x.requires_grad, x.grad, x.device, x.is_leaf]
        assert z
        (values.sum() + torch.where(torch.ones(24) > 0, y, y).sum()).backward(retain_graph=True)
    assert trace.stops == []


def test_no_grad_is_told_apart():
    x = torch.randn(4, requires_grad=True)
    with Recorder(Sources(), [x]) as trace:
        with torch.no_grad():
            x * 2
        x.detach()
    assert [stop.no_grad for stop in trace.stops] == [True, False]


@pytest.mark.parametrize(
    ("write", "held"),
    [
        (lambda buffer, x: buffer.mul_(x), True),
        (lambda buffer, x: buffer.__setitem__(0, x[0]), True),
        (lambda buffer, x: buffer.copy_(x), True),
        (lambda buffer, x: torch.mul(buffer, x, out=buffer), True),
        (lambda buffer, x: buffer.mul_(2), False),
    ],
    ids=["mul_", "setitem", "copy_", "out", "constant"],
)
def test_a_write_under_no_grad_is_a_stop_and_is_held(write, held):
    def call(x):
        buffer = torch.ones(3)
        with torch.no_grad():
            write(buffer, x)
        return (buffer * x).sum()

    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    with Recorder(Sources(), [x]) as trace:
        call(x)
    assert bool(trace.stops) is held
    (slope,) = torch.autograd.grad(call(x), x)
    values = []
    for step in (0.5, -0.5):
        there = (x.detach() + step).requires_grad_()
        with Replay(trace.stops):
            values.append(call(there))
    ahead, behind = values
    torch.testing.assert_close((ahead - behind).detach(), slope.sum())


# ------------------------------------------------------------------ whose line it is


class Inner(nn.Module):
    def forward(self, x):
        return x.detach()  # <-- here


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Identity(), Inner())

    def forward(self, x):
        return self.layers(x)


def plain(x):
    return x.detach()  # <-- here


def through_generator(x):
    return sum(
        row.detach()  # <-- here
        for row in x
    )


def through_comprehension(x):
    return [
        [
            value.detach()  # <-- here
            for value in row
        ]
        for row in x
    ]


def nested(x):
    def inside(y):
        def further(z):
            return z.detach()  # <-- here

        return further(y)

    return inside(x)


def sorted_by(x):
    return sorted(
        x[0],
        key=lambda v: v.item(),  # <-- here
    )


def many_lines(x):
    return (
        x.sum()
        + 1
        * x.pow(
            2,
        )
        .mean()
        .detach()  # <-- here
    )


def decorated_with(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


@decorated_with
def decorated(x):
    return x.detach()  # <-- here


@torch.no_grad()
def under_a_decorator(x):
    return x * 2  # <-- here


@pytest.mark.parametrize(
    ("call", "source"),
    [
        (Outer(), Inner),
        (plain, plain),
        (lambda x: plain(x), plain),
        (functools.partial(plain), plain),
        (through_generator, through_generator),
        (through_comprehension, through_comprehension),
        (nested, nested),
        (sorted_by, sorted_by),
        (many_lines, many_lines),
        (decorated, decorated),
        (under_a_decorator, under_a_decorator),
        (lambda x: torch.vmap(torch.sin)(plain(x)), plain),
    ],
    ids=[
        "module", "function", "lambda", "partial", "generator", "comprehension", "nested",
        "sorted", "lines", "wraps", "no_grad", "vmap",
    ],
)  # fmt: skip
def test_the_line_is_the_users_own(call, source, marked):
    x = torch.randn(3, 4, requires_grad=True)
    with Recorder(Sources(), [x]) as trace:
        call(x)
    locations = [stop.operation.site.location for stop in trace.stops]
    assert locations
    if source is many_lines:
        # An expression over several lines begins at its first.
        end = locations[0].end_line or marked(source)
        assert locations[0].line <= marked(source) <= end
    else:
        assert {location.line for location in locations} == {marked(source)}
    assert {location.file for location in locations} == {__file__}


def test_a_third_party_package_is_not_the_users_own(tmp_path, monkeypatch):
    packages = tmp_path / "site-packages"
    (packages / "thirdparty").mkdir(parents=True)
    (packages / "thirdparty" / "__init__.py").write_text(
        textwrap.dedent(
            """
            def scale(x):
                return x.detach().abs().mean()
            """
        )
    )
    monkeypatch.syspath_prepend(str(packages))
    from lossproof.checks import sources

    monkeypatch.setattr(sources, "_LIBRARIES", (*sources._LIBRARIES, str(packages)))
    sources.is_library.cache_clear()
    import thirdparty

    def loss(x):
        return (x / thirdparty.scale(x)).sum()

    x = torch.randn(3, requires_grad=True)
    with Recorder(Sources(), [x]) as trace:
        loss(x)
    (stop,) = trace.stops
    assert stop.operation.site.location.file == __file__
    assert stop.operation.site.location.function.endswith("loss")
    assert stop.operation.site.library_location.line == 3
    # A library's own loss under check counts as the user's.
    with Recorder(Sources(str(packages / "thirdparty")), [x]) as trace:
        loss(x)
    assert trace.stops[0].operation.site.location.line == 3
    assert trace.stops[0].operation.site.library_location is None
    sources.is_library.cache_clear()


# ------------------------------------------------------------------ broadcasts, writes, casts


def broadcasts(call, *inputs):
    with Recorder(Sources(), inputs) as trace:
        call(*inputs)
    return trace.broadcasts


N1, N = torch.randn(4, 1), torch.randn(4)


@pytest.mark.parametrize(
    "call",
    [
        lambda a, b: a - b,
        lambda a, b: b - a,
        lambda a, b: torch.sub(a, b),
        lambda a, b: torch.pow(a.abs(), b),
        lambda a, b: F.mse_loss(a, b),
        lambda a, b: torch.maximum(a, b),
        lambda a, b: a == b,
        lambda a, b: (a * 2).exp() - b.float(),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_broadcast_is_recorded_with_its_inputs(call):
    (found,) = broadcasts(call, N1, N)
    assert found.result == (4, 4)
    assert {found.left_inputs, found.right_inputs} == {frozenset({0}), frozenset({1})}
    assert not found.intended


@pytest.mark.parametrize(
    "call",
    [
        lambda a, b: a[:, 0][:, None] - b[None],
        lambda a, b: a.squeeze(1).unsqueeze(1) - b,
        lambda a, b: a.squeeze(1).view(-1, 1) - b,
        lambda a, b: a.squeeze(1).reshape(-1, 1) - b,
        lambda a, b: a.squeeze(1)[:, None].exp() - b,
        lambda a, b: a.expand(4, 4)[:, :1] - b,
    ],
)
def test_axes_of_size_one_on_purpose_are_intended(call):
    assert all(found.intended for found in broadcasts(call, N1, N))


def test_a_broadcast_no_larger_than_an_operand_is_none():
    assert broadcasts(lambda a, b: a * b, torch.randn(4, 3), torch.randn(3)) == []
    assert broadcasts(lambda a, b: a * b, torch.randn(4, 3), torch.randn(4, 1)) == []
    assert broadcasts(lambda a, b: a * 2 + 1, N1, N) == []


def test_writes_are_recorded_with_the_input_and_the_names():
    def loss(pred, target):
        labels = target.view(-1)
        labels[0] = 1.0
        copy = target.clone()
        copy += 1
        return pred.sum() + labels.sum() + copy.sum()

    pred, target = torch.randn(3), torch.randn(3)
    with Recorder(Sources(), [pred, target]) as trace:
        loss(pred, target)
    assert [(w.operation.name, w.input, w.names) for w in trace.writes] == [
        ("__setitem__", 1, ("labels",)),
        ("add_", None, ("copy",)),
    ]


def test_random_draws_and_casts_are_recorded():
    x = torch.randn(3, requires_grad=True)
    with Recorder(Sources(), [x]) as trace:
        y = x + torch.randn(3) + F.dropout(x, 0.5) + torch.rand_like(x)
        y.half().double()
        F.softmax(x, 0, dtype=torch.float32)
        torch.ones(2, dtype=torch.float32)
    # `F.dropout` is one call to its user.
    assert [operation.name for operation in trace.random] == ["randn", "dropout", "rand_like"]
    assert [operation.name for operation in trace.casts] == ["half", "softmax", "ones"]


@pytest.mark.parametrize(
    "cast",
    [
        lambda x: x.float(),
        lambda x: x.half(),
        lambda x: x.bfloat16(),
        lambda x: x.to(torch.float32),
        lambda x: x.to(dtype=torch.float16),
        lambda x: x.to("cpu", torch.float32),
        lambda x: x.type(torch.float32),
        lambda x: x.sum(dtype=torch.float32),
        lambda x: F.softmax(x, 0, dtype=torch.float32),
        lambda x: torch.zeros(3, dtype=torch.float32) + x,
        lambda x: x.to(torch.zeros(1, dtype=torch.float32)),
        lambda x: x.type_as(torch.zeros(1, dtype=torch.float32)),
        lambda x: x.type("torch.FloatTensor"),
    ],
    ids=[
        "float", "half", "bfloat16", "to", "to dtype=", "to device", "type", "sum", "softmax",
        "zeros", "to other", "type_as", "type name",
    ],
)  # fmt: skip
def test_lifted_casts_stay_in_float64(cast):
    x = torch.full((3,), 1 + 1e-12, dtype=torch.float64)
    with Recorder(Sources(), [x], lift=True):
        out = cast(x)
    assert out.dtype is torch.float64
    assert torch.equal(out, cast_free(cast, x))


def cast_free(cast, x):
    with Recorder(Sources(), [x], lift=True):
        return cast(x * 1)


# ------------------------------------------------------------------ custom Functions


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.detach() ** 2

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad


class NewSquare(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad


square = Square.apply
new_square = NewSquare.apply


@pytest.mark.parametrize("apply", [square, new_square, Square.apply, functools.partial(square)])
def test_an_apply_bound_long_before_is_seen(apply):
    x = torch.tensor([3.0], requires_grad=True)
    with Recorder(Sources(), [x]) as trace:
        out = apply(x)
        out.sum().backward()
    (call,) = trace.calls
    assert call.cls in (Square, NewSquare)
    assert call.needs == (True,)
    assert torch.equal(call.args[0], x)
    assert trace.stops == []  # what happens inside forward is the Function's own business
    assert torch.equal(x.grad, torch.tensor([6.0]))
    assert call.site.location.file == __file__


def test_interception_leaves_no_trace_and_nests():
    base = torch.autograd.function._SingleLevelFunction
    before = base.__dict__.get("apply")
    seen = []

    def handler(name):
        def handle(cls, real, args, kwargs):
            seen.append(name)
            return real(*args, **kwargs)

        return handle

    x = torch.ones(2, requires_grad=True)
    with intercept_functions(handler("outer")), intercept_functions(handler("inner")):
        square(x)
    assert base.__dict__.get("apply") is before
    assert seen[0] == "inner"
    with pytest.raises(ZeroDivisionError), intercept_functions(handler("raised")):
        1 / 0  # noqa: B018
    assert base.__dict__.get("apply") is before


def test_a_function_within_a_function_is_inside_it():
    class Outer(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return Square.apply(x) + 1

        @staticmethod
        def backward(ctx, grad):
            return grad

    x = torch.ones(2, requires_grad=True)
    with Recorder(Sources(), [x]) as trace:
        Outer.apply(x)
    assert [(call.cls, call.inside) for call in trace.calls] == [(Outer, None), (Square, Outer)]


# ------------------------------------------------------------------ replay equals autograd


def stable_softmax(x):
    e = (x - x.max(-1, keepdim=True).values.detach()).exp()
    return (e / e.sum(-1, keepdim=True)).pow(3).sum()


def focal(x):
    ce = F.cross_entropy(x, torch.arange(len(x)) % x.shape[1], reduction="none")
    weight = (1 - torch.exp(-ce.detach())) ** 2
    return (weight * ce).mean()


def byol(x):
    p, z = x.chunk(2)
    return 2 - 2 * F.cosine_similarity(p, z.detach(), dim=-1).mean()


def self_weight(x):
    loss = x.pow(2).mean()
    return loss * loss.item() + x.sum() / float(x.abs().max())


def straight_through(x):
    soft = x.sigmoid()
    return (((x > 0).float() - soft).detach() + soft).pow(2).sum()


def gumbel_like(x):
    hard = F.one_hot(x.argmax(-1), x.shape[-1]).to(x.dtype)
    soft = x.softmax(-1)
    return ((hard - soft.detach() + soft) * torch.arange(x.shape[-1])).sum()


def numpy_weight(x):
    weight = np.abs(x.detach().numpy()) ** 0.5
    return (torch.from_numpy(weight) * x.pow(2)).sum()


def listed_weight(x):
    weights = [abs(v) for v in x.flatten().tolist()]
    return (torch.tensor(weights) * x.flatten()).sum()


def no_grad_normaliser(x):
    with torch.no_grad():
        norm = x.norm(dim=-1, keepdim=True)
        norm.clamp_(min=1e-3)
    return (x / norm).pow(3).sum()


def data_weight(x):
    return (x.data * x).sum() + math.exp(float(x.mean())) * x.sum()


def detached_in_place(x):
    y = x * 2
    w = (y + 1).detach_()
    return (w * y).sum()


def iterated(x):
    z = torch.zeros_like(x)
    for _ in range(3):
        with torch.no_grad():
            z = 0.5 * (z + x)
    return (z * x).sum()


@pytest.mark.parametrize(
    "loss",
    [stable_softmax, focal, byol, self_weight, straight_through, gumbel_like, numpy_weight,
     listed_weight, no_grad_normaliser, data_weight, detached_in_place, iterated],
)  # fmt: skip
@pytest.mark.parametrize("seed", [0, 1])
def test_replay_with_stops_held_agrees_with_autograd(loss, seed, examination):
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    case = examination(loss, x, seed=seed)
    gradient = case.twin.gradients[0]
    trace = case.twin.trace
    judgements = judge(case.value_at(trace.stops), case.point, 0, gradient, seed=seed)
    assert [j.verdict for j in judgements] == ["agrees"] * len(judgements), judgements
    if trace.stops and loss is not stable_softmax:  # its stop changes nothing, as it should
        free = judge(case.value_at(None), case.point, 0, gradient, seed=seed)
        assert free[-1].verdict == "differs"


def test_replay_sees_a_wrong_gradient_in_spite_of_stops(examination):
    case = examination(focal, torch.randn(6, 4, requires_grad=True))
    gradient = case.twin.gradients[0]
    value = case.value_at(case.twin.trace.stops)
    for wrong in (gradient * 1.0001, -gradient, gradient + gradient.norm() * 1e-4):
        assert judge(value, case.point, 0, wrong, seed=0)[-1].verdict == "differs"


def test_a_replay_that_takes_another_way_is_refused():
    def branching(x):
        if not x.requires_grad or x.sum().item() > 0:
            return x.detach() * x
        return x.argmax() * x

    x = torch.ones(3, requires_grad=True)
    with Recorder(Sources(), [x]) as trace:
        branching(x)
    item, detach = trace.stops
    other = -torch.ones(3)
    other.requires_grad_()
    with Replay([None, detach]), pytest.raises(ReplayMismatch, match="`argmax` came where `detach"):
        branching(other)
    with Replay([item, detach]):
        branching(other)  # the branch is held with the number it was chosen by
    with Replay(trace.stops[:1]), pytest.raises(ReplayMismatch, match="did not"):
        branching(x)


# ------------------------------------------------------------------ small things


def test_tensors_in_nested_values():
    a, b, c = torch.ones(1), torch.ones(2), torch.ones(3)
    assert list(tensors_in({"a": [a, (b, {"c": c}), 3, "x"], "n": None})) == [a, b, c]


def test_names_are_those_of_the_user():
    assert operation_name(torch.Tensor.add) == "add"
    assert operation_name(torch.Tensor.data.__get__) == "data"
    assert operation_name(torch.Tensor.T.__get__) == "T"


@pytest.mark.parametrize("mode", [lambda: Recorder(Sources()), lambda: Replay(())])
@pytest.mark.parametrize("collecting", [True, False])
def test_the_garbage_collector_rests_meanwhile_and_is_left_as_it_was(mode, collecting):
    was = gc.isenabled()
    (gc.enable if collecting else gc.disable)()
    try:
        with pytest.raises(ZeroDivisionError), mode():
            assert not gc.isenabled()
            raise ZeroDivisionError
        assert gc.isenabled() is collecting
    finally:
        (gc.enable if was else gc.disable)()
