"""Whatever a loss remembers is found, told, lent in float64, and put back bit for bit."""

import collections
import copy
import functools
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lossproof.checks.sources import Sources
from lossproof.checks.state import State

COUNT = 0
HISTORY = []
TABLE = torch.tensor([1.0, 2.0, 3.0])
OPTIONS = {"scale": 2.0, "weights": [1.0, 2.0], "nested": {"deep": [torch.ones(2)]}}
SEEN = set()
QUEUE = collections.deque([1, 2], maxlen=4)


class Memory:
    """A plain object that a loss may hold on to."""

    def __init__(self):
        self.total = 0.0
        self.items = [1, 2, 3]


class Loss(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, 1.5]))
        self.register_buffer("centre", torch.tensor([0.1, -0.2]))
        self.plain = torch.tensor([3.0, 4.0])
        self.integers = torch.tensor([1, 2])
        self.alpha = 0.25
        self.history = []
        self.table = {"a": 1, "b": [1, 2]}
        self.nested = [[1.0, 2.0], {"x": torch.zeros(2)}]
        self.memory = Memory()
        self.inner = nn.BatchNorm1d(2)
        self.queue = collections.deque([1, 2], maxlen=4)

    def forward(self, x):
        return (x * self.weight).sum()


def snapshot(loss):
    """Everything that hangs on a loss, as data that compares bit for bit."""
    return copy.deepcopy(
        (
            dict(loss.named_parameters()),
            dict(loss.named_buffers()),
            {k: v for k, v in vars(loss).items() if not k.startswith("_")},
            vars(loss.memory),
            sorted(vars(loss)),
        )
    )


def same(one, other):
    if isinstance(one, torch.Tensor):
        return (
            isinstance(other, torch.Tensor)
            and one.dtype == other.dtype
            and one.requires_grad == other.requires_grad
            and torch.equal(one.detach(), other.detach())
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple, collections.deque)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Memory):
        return same(vars(one), vars(other))
    return isinstance(one, nn.Module) or one == other


def _write_in_place(loss):
    with torch.no_grad():
        loss.weight.mul_(3)
        loss.centre.add_(1)
        loss.plain[0] = 7
        loss.integers += 1
        loss.nested[1]["x"].fill_(9)


def _rebind(loss):
    loss.alpha = "other"
    loss.plain = torch.zeros(5)
    loss.centre = torch.zeros(7)
    loss.weight = nn.Parameter(torch.zeros(3))
    loss.memory = Memory()
    loss.memory.total = 5


def _grow(loss):
    loss.history.append(torch.ones(2))
    loss.table["c"] = 3
    loss.table["b"].append(9)
    loss.nested[0].extend([3, 4])
    loss.memory.items.clear()
    loss.queue.append(7)


def _add(loss):
    loss.fresh = 1
    loss.register_buffer("new_buffer", torch.ones(1))
    loss.register_parameter("new_weight", nn.Parameter(torch.ones(1)))
    loss.memory.fresh = 2
    loss.late = nn.Linear(2, 2)


def _remove(loss):
    del loss.alpha
    del loss.centre
    loss.table.clear()
    del loss.memory.total


def _run_batch_norm(loss):
    loss.inner(torch.randn(4, 2))


def _freeze(loss):
    loss.weight.requires_grad_(False)
    loss.eval()


def _through_data(loss):
    loss.centre.data.add_(5)
    loss.weight.data = torch.zeros(2)
    loss.plain.numpy()[:] = 8


MUTATIONS = [
    _write_in_place, _rebind, _grow, _add, _remove, _run_batch_norm, _freeze, _through_data,
]  # fmt: skip


@pytest.mark.parametrize("mutate", MUTATIONS)
def test_a_module_is_restored(mutate):
    loss = Loss()
    before = snapshot(loss)
    state = State(loss, Sources())
    mutate(loss)
    assert not same(snapshot(loss), before) or mutate in (_freeze, _run_batch_norm)
    state.restore()
    assert same(snapshot(loss), before)
    assert loss.training
    assert loss.inner.num_batches_tracked == 0
    assert state.changes() == []


@given(st.lists(st.sampled_from(MUTATIONS), min_size=1, max_size=6))
def test_any_mix_of_mutations_is_restored(mutations):
    loss = Loss()
    before = snapshot(loss)
    kept = loss.weight, loss.centre, loss.table, loss.memory, loss.nested
    state = State(loss, Sources())
    for _ in range(2):
        for mutate in mutations:
            try:
                mutate(loss)
            except (AttributeError, KeyError):
                continue  # what an earlier mutation removed
        state.restore()
        assert same(snapshot(loss), before)
        now = loss.weight, loss.centre, loss.table, loss.memory, loss.nested
        assert all(a is b for a, b in zip(kept, now, strict=True)), "another object, equal or not"


def test_globals_closures_and_defaults_are_restored():
    count, cache, held = 0, {"a": [1]}, torch.zeros(2)

    def loss(x, memory=[], *, options={"n": 1}):  # noqa: B006 - the fault people make
        nonlocal count
        global COUNT
        count += 1
        COUNT += 1
        HISTORY.append(x)
        SEEN.add(count)
        TABLE.mul_(2)
        OPTIONS["weights"].append(3)
        OPTIONS["nested"]["deep"][0].add_(1)
        OPTIONS["scale"] = 5
        QUEUE.append(3)
        cache["a"].append(count)
        held.add_(1)
        memory.append(1)
        options["n"] += 1
        return x.sum()

    state = State(loss, Sources())
    for _ in range(3):
        loss(torch.ones(2))
    assert state.changes()
    state.restore()
    assert (count, COUNT, HISTORY, SEEN, cache) == (0, 0, [], set(), {"a": [1]})
    assert torch.equal(TABLE, torch.tensor([1.0, 2.0, 3.0]))
    assert OPTIONS["weights"] == [1.0, 2.0]
    assert torch.equal(OPTIONS["nested"]["deep"][0], torch.ones(2))
    assert OPTIONS["scale"] == 2.0
    assert list(QUEUE) == [1, 2]
    assert torch.equal(held, torch.zeros(2))
    assert loss.__defaults__ == ([],)
    assert loss.__kwdefaults__ == {"options": {"n": 1}}
    assert state.changes() == []


def test_an_attribute_of_the_function_itself_is_state():
    def loss(x):
        loss.calls = getattr(loss, "calls", 0) + 1
        return x.sum() * loss.calls

    state = State(loss, Sources())
    loss(torch.ones(1))
    assert [change.kind for change in state.changes()] == ["new"]
    state.restore()
    assert not hasattr(loss, "calls")


def test_a_class_attribute_is_state():
    class Counting(nn.Module):
        calls = 0
        seen = []

        def forward(self, x):
            type(self).calls += 1
            self.seen.append(x)
            return x.sum()

    loss = Counting()
    state = State(loss, Sources())
    loss(torch.ones(1))
    assert {change.path.rpartition(".")[2] for change in state.changes()} == {"calls", "seen"}
    state.restore()
    assert (Counting.calls, Counting.seen) == (0, [])


def test_the_state_of_a_partial_a_method_and_an_object_is_found():
    class Object:
        def __init__(self):
            self.calls = 0

        def __call__(self, x, scale=1):
            self.calls += 1
            return x.sum() * scale

    for make in (lambda o: o, lambda o: o.__call__, lambda o: functools.partial(o, scale=2)):
        thing = Object()
        loss = make(thing)
        state = State(loss, Sources())
        loss(torch.ones(2))
        assert [change.path.rpartition(".")[2] for change in state.changes()] == ["calls"]
        state.restore()
        assert thing.calls == 0


@pytest.mark.parametrize(
    ("act", "path", "kind"),
    [
        (lambda m: setattr(m, "alpha", 1.0), "self.alpha", "rebound"),
        (lambda m: m.plain.add_(1), "self.plain", "written"),
        (lambda m: m.history.append(1), "self.history", "grown"),
        (lambda m: setattr(m, "last", 1), "self.last", "new"),
        (lambda m: setattr(m.memory, "total", 1), "self.memory.total", "rebound"),
        (lambda m: m.inner.running_mean.add_(1), "self.inner.running_mean", "written"),
    ],
)
def test_a_change_says_where_and_how(act, path, kind):
    loss = Loss()
    state = State(loss, Sources())
    act(loss)
    (change,) = state.changes()
    assert (change.path, change.kind) == (path, kind)


def test_a_write_that_puts_back_what_was_there_is_no_change():
    loss = Loss()
    state = State(loss, Sources())
    loss.plain.clamp_(-100, 100)
    assert state.changes() == []


def test_float64_is_lent_and_taken_back():
    loss = Loss()
    before = snapshot(loss)
    weight = loss.weight
    state = State(loss, Sources())
    with state.lent(torch.float64):
        for tensor in (loss.weight, loss.centre, loss.plain, loss.inner.running_mean):
            assert tensor.dtype is torch.float64
        assert loss.integers.dtype is torch.int64
        assert isinstance(loss.weight, nn.Parameter)
        loss.weight.data.add_(1)
        loss.history.append(1)
    assert loss.weight is weight
    assert same(snapshot(loss), before)
    with pytest.raises(ZeroDivisionError), state.lent(torch.float64):
        1 / 0  # noqa: B018
    assert loss.weight is weight


def test_tensors_in_containers_globals_and_closures_are_lent_too():
    centres = torch.ones(2)
    kernels = [torch.ones(2), (torch.ones(2), {"k": torch.ones(2)})]

    def dtypes(x):
        inner = kernels[1]
        return [
            t.dtype
            for t in (centres, TABLE, kernels[0], inner[0], inner[1]["k"],
                      OPTIONS["nested"]["deep"][0])
        ]  # fmt: skip

    state = State(dtypes, Sources())
    with state.lent(torch.float64):
        assert set(dtypes(None)) == {torch.float64}
    assert set(dtypes(None)) == {torch.float32}


def test_parameters_are_named_once_and_frozen_ones_left_out():
    shared = nn.Linear(2, 2)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = shared, shared
            self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)

    state = State(Two(), Sources())
    assert len(state.parameters()) == 2
    assert all("frozen" not in name for name in state.parameters())


def test_cycles_and_deep_structures_end():
    class Node:
        def __init__(self):
            self.me = self
            self.others = [self, {"self": self}]

        def __call__(self, x):
            return x.sum()

    node = Node()
    state = State(node, Sources())
    node.others.append(1)
    state.restore()
    assert len(node.others) == 2


def test_gradients_of_a_loss_state_are_restored():
    loss = Loss()
    state = State(loss, Sources())
    loss(torch.ones(2)).backward()
    state.restore()
    assert loss.weight.grad is None


def test_random_generators_of_the_loss_go_back_to_where_they_were():
    ours, theirs = torch.Generator().manual_seed(3), np.random.default_rng(4)
    old, python = np.random.RandomState(5), random.Random(6)

    def draw(x):
        return (
            torch.rand(2, generator=ours).tolist(),
            theirs.random(),
            old.rand(),
            python.random(),
        )

    state = State(draw, Sources())
    first = draw(None)
    assert draw(None) != first
    assert state.changes() == []  # a generator is there to be drawn from
    state.restore()
    assert draw(None) == first


def test_numpy_arrays_and_nan_are_kept():
    table = np.array([1.0, np.nan])
    buffer = torch.tensor([1.0, torch.nan])

    def loss(x):
        table[0] += 1
        buffer[0] += 1
        return x.sum()

    state = State(loss, Sources())
    assert state.changes() == []
    loss(torch.ones(1))
    assert [change.kind for change in state.changes()] == ["written", "written"]
    state.restore()
    assert table[0] == 1
    assert buffer[0] == 1
    assert state.changes() == []


class Lazy(dict):
    """As libraries have them: made from something else, and each item is loaded when asked for."""

    def __init__(self, source, loaded):
        super().__init__(source)
        self.loaded = loaded

    def __getitem__(self, name):
        self.loaded.append(name)
        return super().__getitem__(name)

    def items(self):
        return [(name, self[name]) for name in self]


@pytest.mark.parametrize("kind", [list, set, collections.deque])
def test_a_container_of_a_class_of_its_own_is_restored(kind):
    own = type("Own", (kind,), {"__init__": lambda self, must, be: kind.__init__(self, must)})
    loss = Loss()
    loss.held = own([1, 2], "given")
    state = State([loss], Sources())
    loss.held.pop()
    assert [change.kind for change in state.changes()] == ["grown"]
    state.restore()
    assert list(loss.held) == [1, 2]


def test_a_dictionary_that_loads_what_is_asked_for_is_not_asked():
    loss, loaded = Loss(), []
    loss.lazy = Lazy({"a": [1], "b": [2]}, loaded)
    state = State([loss], Sources())
    assert state.changes() == []
    dict.__getitem__(loss.lazy, "a").append(3)
    assert [change.path.endswith("lazy['a']") for change in state.changes()] == [True]
    state.restore()
    assert dict.__getitem__(loss.lazy, "a") == [1]
    assert loaded == []


def test_named_tuples_are_lent_as_what_they_are():
    Pair = collections.namedtuple("Pair", "mean scale")
    pair = Pair(torch.ones(1), 2)

    def loss(x):
        return pair

    state = State(loss, Sources())
    with state.lent(torch.float64):
        assert type(loss(None)) is Pair
        assert loss(None).mean.dtype is torch.float64
        assert loss(None).scale == 2
    assert loss(None) is pair


def test_the_order_of_children_is_restored():
    layers = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))

    class Perceptual(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = layers

        def forward(self, x):
            first = self.layers._modules.pop("0")
            self.layers._modules["0"] = first
            return x.sum()

    loss = Perceptual()
    state = State(loss, Sources())
    loss(torch.ones(2))
    assert list(layers._modules) == ["1", "2", "0"]
    state.restore()
    assert list(layers._modules) == ["0", "1", "2"]


def test_globals_of_another_module_of_the_user_are_state(module_of):
    config = module_of("STEP = 0\nCENTRE = [1.0]\n", "config_of_a_user")
    losses = module_of(
        "import config_of_a_user as config\n\n\n"
        "def loss(x):\n    config.STEP += 1\n    config.CENTRE.append(2.0)\n    return x.sum()\n"
    )
    state = State(losses.loss, Sources())
    losses.loss(torch.ones(1))
    assert {change.path for change in state.changes()} == {"config.STEP", "config.CENTRE"}
    state.restore()
    assert (config.STEP, config.CENTRE) == (0, [1.0])


def test_a_global_that_the_call_makes_is_taken_away(module_of):
    losses = module_of("def loss(x):\n    global LAST\n    LAST = x\n    return x.sum()\n")
    state = State(losses.loss, Sources())
    losses.loss(torch.ones(1))
    assert [(change.path, change.kind) for change in state.changes()] == [("LAST", "new")]
    state.restore()
    assert not hasattr(losses, "LAST")


def test_graphs_of_earlier_calls_survive_a_restore():
    class Centre(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("centre", torch.ones(2))

        def forward(self, x):
            value = (x * self.centre).pow(2).sum()
            with torch.no_grad():
                self.centre = self.centre + 1
                self.centre.mul_(2)
            return value

    loss = Centre()
    state = State(loss, Sources())
    x = torch.ones(2, requires_grad=True)
    value = loss(x)
    state.restore()
    (gradient,) = torch.autograd.grad(value, x)
    assert torch.equal(gradient, torch.full((2,), 2.0))


class Missing:
    """What a library puts in the place of a package that is not installed."""

    def __getattr__(self, name):
        raise ImportError(f"{name}: the package is not installed")


class Unbound:
    """A proxy that stands for nothing at the moment."""

    @property
    def __class__(self):
        raise RuntimeError("there is no current object")


def test_stand_ins_that_raise_at_a_glance_are_left_alone(module_of):
    losses = module_of("def loss(x):\n    return x.sum() if missing is not proxy else None\n")
    losses.missing, losses.proxy = Missing(), Unbound()
    state = State(losses.loss, Sources())
    losses.loss(torch.ones(1))
    assert state.changes() == []
    state.restore()
