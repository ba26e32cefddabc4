"""Everything that people call a loss becomes something to call."""

import functools
import types
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.subject import subject_of
from lossproof.errors import UsageError

X, Y = torch.randn(4, 3), torch.randn(4, 3)


def plain(input, target, scale: float = 1.0):
    return scale * ((input - target) ** 2).mean()


@functools.lru_cache
def cached(input, target):
    return ((input - target) ** 2).mean()


def decorate(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


decorated = decorate(plain)


class Module(nn.Module):
    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scale = scale

    def forward(self, input, target):
        return plain(input, target, self.scale)


class Needy(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.weights = list(network.parameters())

    def forward(self, input, target):
        return plain(input, target)


class Object:
    def __call__(self, input, target):
        return plain(input, target)

    def method(self, input, target):
        return plain(input, target)

    @classmethod
    def of_class(cls, input, target):
        return plain(input, target)

    @staticmethod
    def static(input, target):
        return plain(input, target)


class Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, target):
        ctx.save_for_backward(input, target)
        return plain(input, target)

    @staticmethod
    def backward(ctx, grad):
        input, target = ctx.saved_tensors
        return grad * 2 * (input - target) / input.numel(), None


class NewFunction(torch.autograd.Function):
    @staticmethod
    def forward(input, target):
        return plain(input, target)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    backward = Function.backward


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecated, and still in use
    scripted = torch.jit.script(Module())
    scripted_function = torch.jit.script(plain)

LOSSES = {
    "function": (plain, "function", "plain", ("input", "target", "scale")),
    "decorated": (decorated, "function", "plain", ("input", "target", "scale")),
    "partial": (functools.partial(plain, scale=2.0), "function", "plain", ("input", "target")),
    "lambda": (lambda input, target: plain(input, target), "function", None, ("input", "target")),
    "module": (Module(), "module", "Module", ("input", "target")),
    "module class": (Module, "module", "Module", ("input", "target")),
    "object": (Object(), "callable", "Object", ("input", "target")),
    "class": (Object, "callable", "Object", ("input", "target")),
    "bound method": (Object().method, "function", "Object.method", ("input", "target")),
    "class method": (Object.of_class, "function", "Object.of_class", ("input", "target")),
    "static method": (Object.static, "function", "Object.static", ("input", "target")),
    "forward": (Module().forward, "function", "Module.forward", ("input", "target")),
    "Function": (Function, "autograd.Function", "Function", ("input", "target")),
    "new Function": (NewFunction, "autograd.Function", "NewFunction", ("input", "target")),
    "torch function": (F.mse_loss, "function", "mse_loss", None),
    "torch module": (nn.MSELoss(), "module", "MSELoss", ("input", "target")),
    "torch class": (nn.MSELoss, "module", "MSELoss", ("input", "target")),
    "cached": (cached, None, "cached", ("input", "target")),
    "scripted": (scripted, "module", "Module", ("input", "target")),
    "scripted function": (scripted_function, "callable", None, ("input", "target")),
    "compiled": (torch.compile(plain, backend="eager"), None, "plain", None),
    "compiled module": (torch.compile(Module(), backend="eager"), "module", None, None),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_is_wrapped_and_computes_what_it_did(name):
    loss, kind, called, parameters = LOSSES[name]
    subject = subject_of(loss)
    torch.testing.assert_close(
        subject.call(X, Y), (2 if name == "partial" else 1) * F.mse_loss(X, Y)
    )
    if kind is not None:
        assert subject.kind == kind
    if called is not None:
        assert called in subject.name
        assert "<locals>" not in subject.name
    if parameters is not None:
        assert tuple(n for n in subject.parameter_names if n != "scale") == tuple(
            n for n in parameters if n != "scale"
        )
    assert subject.origin is loss


@pytest.mark.parametrize("name", ["function", "decorated", "partial", "bound method"])
def test_the_location_is_that_of_the_source(name):
    loss = LOSSES[name][0]
    location = subject_of(loss).location
    assert location.file == __file__
    text = "def method" if name == "bound method" else "def plain"
    assert text in location.source


def test_what_is_no_loss_is_refused():
    for thing in (3, "mse", None, X, types.SimpleNamespace(), [plain]):
        with pytest.raises(UsageError, match=r"`loss` must be .*, got "):
            subject_of(thing)


def test_a_class_that_needs_arguments_says_so():
    with pytest.raises(UsageError, match=r"`Needy` cannot be made without arguments .*network"):
        subject_of(Needy)


def test_a_class_that_needs_the_usual_arguments_is_made_with_them():
    class Centers(nn.Module):
        def __init__(self, num_classes, feat_dim):
            super().__init__()
            self.centers = nn.Parameter(torch.zeros(num_classes, feat_dim))

        def forward(self, x, labels):
            return (x - self.centers[labels]).pow(2).mean()

    subject = subject_of(Centers)
    assert "made as `Centers(num_classes=5, feat_dim=6)`" in subject.assumptions[0]
    assert subject.call.centers.shape == (5, 6)


class NotCallable:
    pass


class NoForward(nn.Module):
    pass


class Explodes(nn.Module):
    def __init__(self):
        super().__init__()
        raise RuntimeError("no such file: weights.pt")


def test_a_class_that_cannot_be_made_or_called_is_refused():
    with pytest.raises(UsageError, match="`NotCallable` is not callable"):
        subject_of(NotCallable)
    with pytest.raises(UsageError, match=r"`Explodes` cannot be made.*weights\.pt"):
        subject_of(Explodes)
    with pytest.raises(UsageError, match="`NoForward` has no `forward`"):
        subject_of(NoForward)
    with pytest.raises(UsageError, match="`NoForward` has no `forward`"):
        subject_of(NoForward())


def test_the_callers_module_is_not_the_one_that_is_called():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0
            self.weight = nn.Parameter(torch.ones(1))
            self.register_buffer("mean", torch.zeros(1))

        def forward(self, input, target):
            self.calls += 1
            self.mean += 1
            with torch.no_grad():
                self.weight.add_(1)
            return plain(input, target)

    module = Counting()
    module.eval()
    subject = subject_of(module)
    subject.call(X, Y)
    assert (module.calls, float(module.mean), module.weight.item()) == (0, 0.0, 1.0)
    assert not subject.call.training  # the copy is in the mode of the original


def test_a_module_with_tensors_that_have_a_history_is_copied():
    class History(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))
            self.last = self.weight * 2
            self.kept = [self.weight.exp()]

        def forward(self, input, target):
            return plain(input, target) * self.last.sum()

    subject_of(History())


def test_a_module_that_cannot_be_copied_says_why():
    class Stubborn(nn.Module):
        def __deepcopy__(self, memo):
            raise TypeError("cannot pickle '_io.TextIOWrapper' object")

        def forward(self, input, target):
            return plain(input, target)

    with pytest.raises(UsageError, match=r"`Stubborn` cannot be copied .*TextIOWrapper"):
        subject_of(Stubborn())


def test_options_come_from_attributes_defaults_and_partials():
    def loss(input, target, *, reduction="sum"):
        return input

    assert subject_of(loss).option("reduction") == "sum"
    assert subject_of(functools.partial(loss, reduction="none")).option("reduction") == "none"
    assert subject_of(nn.MSELoss(reduction="none")).option("reduction") == "none"
    assert subject_of(plain).option("reduction") is None


def test_a_builtin_without_a_signature_is_taken():
    subject = subject_of(torch.dist)
    assert subject.parameter_names == ()
    assert float(subject.call(X, Y)) > 0
