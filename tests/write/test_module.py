import copy
import gc
import inspect
import pickle
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch

from lossproof import as_module, reduce
from lossproof.write.module import LossModule

Tensor = torch.Tensor


def power_loss(
    input: Tensor,
    target: Tensor,
    *,
    order: float = 2.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    """A power of the error."""
    values = (input - target).abs() ** order
    return reduce(values, weight, reduction, mask=mask, normalizer=normalizer)


PowerLoss = as_module(power_loss)
X, Y = torch.tensor([1.0, 2.0, 4.0]), torch.zeros(3)


def test_it_is_the_function() -> None:
    assert PowerLoss()(X, Y).item() == 7
    assert PowerLoss(order=1.0, reduction="sum")(X, Y).item() == 7
    assert PowerLoss(order=1.0)(input=X, target=Y).item() == pytest.approx(7 / 3)
    assert PowerLoss.__name__ == "PowerLoss" and PowerLoss.__doc__ == power_loss.__doc__


def test_tensor_options_are_buffers() -> None:
    loss = PowerLoss(weight=torch.tensor([1.0, 0.0, 1.0]))
    assert list(loss.state_dict()) == ["weight"]
    assert loss.double().weight.dtype == torch.float64
    other = PowerLoss(weight=torch.ones(3))
    other.load_state_dict(loss.state_dict())
    assert other(X, Y).item() == loss.float()(X, Y).item() == 8.5
    assert not PowerLoss().state_dict()


def test_what_differs_from_batch_to_batch_may_be_given_to_the_call() -> None:
    loss = PowerLoss(reduction="sum")
    assert loss(X, Y, mask=torch.tensor([True, False, False])).item() == 1
    assert PowerLoss()(X, Y, normalizer=7).item() == 3
    assert loss(X, Y).item() == 21


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_it_can_be_copied(copied) -> None:
    loss = PowerLoss(order=3.0, weight=torch.tensor([1.0, 2.0, 1.0]))
    again = copied(loss)
    assert type(again) is PowerLoss and again(X, Y).item() == loss(X, Y).item()
    again.weight.zero_()
    assert loss.weight.any()


def test_a_class_without_a_name_of_its_own_can_be_pickled() -> None:
    loss = as_module(power_loss, name="Other")(order=1.0)
    again = pickle.loads(pickle.dumps(loss))
    assert type(again).__name__ == "Other" and again(X, Y).item() == loss(X, Y).item()
    assert as_module(power_loss) is PowerLoss


def test_it_shows_what_is_not_the_default() -> None:
    assert repr(PowerLoss()) == "PowerLoss()"
    shown = repr(PowerLoss(order=1.5, weight=torch.tensor([1.0, 2.0])))
    assert shown == "PowerLoss(order=1.5, weight=[1.0, 2.0])"
    assert "tensor[100]" in repr(PowerLoss(weight=torch.ones(100)))


def test_options_of_old() -> None:
    with pytest.warns(DeprecationWarning, match="use reduction='sum'"):
        assert PowerLoss(size_average=False).reduction == "sum"
    with pytest.warns(DeprecationWarning, match="use reduction='none'"):
        assert PowerLoss(reduce=False).reduction == "none"


def test_errors() -> None:
    with pytest.raises(TypeError, match="PowerLoss has no option `gamma`; it has order, weight"):
        PowerLoss(gamma=2)
    with pytest.raises(TypeError, match="PowerLoss takes its options by name: order, weight"):
        PowerLoss(2.0)
    with pytest.raises(TypeError, match=r"`weight` must be a tensor, got \[1\.0, 2\.0\]"):
        PowerLoss(weight=[1.0, 2.0])
    with pytest.raises(TypeError, match="must be a function"):
        as_module(torch.nn.MSELoss)

    def unnamed(*args, **options):
        return args[0]

    with pytest.raises(TypeError, match="must name its arguments"):
        as_module(unnamed)

    def needs(input, *, margin):
        return (input - margin).sum()

    with pytest.raises(TypeError, match="needs the option `margin`"):
        as_module(needs)()
    assert as_module(needs)(margin=1.0)(X).item() == 4


def test_it_compiles_and_exports() -> None:
    loss = PowerLoss(weight=torch.tensor([1.0, 2.0, 1.0]))
    wanted = loss(X, Y)
    assert torch.equal(torch.compile(loss, fullgraph=True, backend="aot_eager")(X, Y), wanted)
    assert torch.equal(torch.export.export(loss, (X, Y)).module()(X, Y), wanted)


def test_it_is_a_module() -> None:
    assert issubclass(PowerLoss, LossModule) and issubclass(PowerLoss, torch.nn.Module)
    model = torch.nn.Sequential(torch.nn.Linear(1, 1))
    model.loss = PowerLoss(weight=torch.ones(3))
    assert "loss.weight" in model.state_dict()


def test_what_an_annotation_means():
    def annotated(
        input: Tensor,
        *,
        a: Tensor | None = None,
        b: "torch.Tensor | None" = None,
        c: float | Tensor | None = None,
        d: Callable[..., Tensor] = torch.sin,
    ) -> Tensor:
        return d(input).sum()

    module = as_module(annotated)()
    assert set(dict(module._buffers)) == {"a", "b"}
    assert module.d is torch.sin
    assert as_module(annotated, name="Again")(c=torch.ones(1)).c.item() == 1


def tempered_loss(input, *, temperature: float | Tensor = 1.0):
    """Divided by a temperature."""
    return (input / temperature).sum()


def test_an_option_that_is_a_parameter_is_learned():
    loss = as_module(tempered_loss)(temperature=torch.nn.Parameter(torch.tensor(2.0)))
    assert [name for name, _ in loss.named_parameters()] == ["temperature"]
    assert list(loss.state_dict()) == ["temperature"] and not list(loss.buffers())
    torch.optim.SGD(loss.parameters(), lr=4.0).zero_grad()
    loss(X).backward()
    assert loss.temperature.grad.item() == -7 / 4
    assert copy.deepcopy(loss).double()(X.double()).dtype == torch.float64


class DoubledPowerLoss(PowerLoss):
    """A subclass with a constructor and a forward of its own."""

    def __init__(self, factor: float = 2.0) -> None:
        super().__init__(order=1.0)
        self.factor = factor

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.factor * super().forward(input, target)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_subclass_remains_what_it_is_when_it_is_copied(copied):
    loss = DoubledPowerLoss(3.0)
    again = copied(loss)
    assert type(again) is DoubledPowerLoss
    assert again(X, Y).item() == loss(X, Y).item() == 7


def test_a_subclass_shows_the_options_of_its_own_constructor():
    assert list(inspect.signature(DoubledPowerLoss).parameters) == ["factor"]
    assert list(inspect.signature(PowerLoss).parameters)[:2] == ["order", "weight"]


def test_a_function_of_which_no_module_is_left_is_not_kept():
    def closing_over(big):
        def local_loss(input):
            return (input * big).sum()

        return local_loss

    function = closing_over(torch.ones(3))
    cls, kept = as_module(function), weakref.ref(function)
    assert as_module(function) is cls and as_module(function, name="Other") is not cls
    del function, cls
    gc.collect()
    assert kept() is None


def test_an_option_may_be_an_array() -> None:
    assert "scale=array" in repr(as_module(scaled_loss)(scale=np.ones(3)))


def scaled_loss(input, target, /, *, scale=1.0):
    """Its tensors have no names for a caller."""
    return (scale * (input - target)).square().mean()


def test_arguments_that_are_given_by_position_alone() -> None:
    assert as_module(scaled_loss)(scale=3.0)(torch.ones(2), torch.zeros(2)) == 9


@pytest.mark.parametrize("name", ["", 3, "a b", ["Loss"], torch.ones(2)])
def test_a_name_that_is_none(name) -> None:
    with pytest.raises(TypeError, match="`name` must be a name for a class"):
        as_module(scaled_loss, name=name)


def test_a_function_without_a_signature() -> None:
    with pytest.raises(TypeError, match="`function` must have a signature"):
        as_module(max)
