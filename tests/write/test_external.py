import pickle

import numpy as np
import pytest
import torch
from scipy.special import xlogy

from lossproof import as_module
from lossproof.write import from_numpy


def cosh_value(x, y):
    """The hyperbolic cosine of the error."""
    return np.cosh(x - y) - 1


def cosh_slope(x, y):
    return np.sinh(x - y)


def cosh_curvature(x, y, vector):
    return np.cosh(x - y) * vector


COSH = from_numpy(cosh_value, cosh_slope, hessian_vector_product=cosh_curvature)


def inputs(*shape):
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_values_and_gradients_of_the_same_in_torch(reduction):
    x, y = inputs(4, 3)
    x.requires_grad_()
    ours, theirs = COSH(x, y, reduction=reduction), torch.cosh(x - y) - 1
    theirs = {"mean": theirs.mean, "sum": theirs.sum, "none": theirs.clone}[reduction]()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours.sum(), x), torch.autograd.grad(theirs.sum(), x)
    )


def test_gradcheck_and_gradgradcheck():
    x, y = inputs(4)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: COSH(x, y), x)
    assert torch.autograd.gradgradcheck(lambda x: COSH(x, y), x)


def test_rows_of_items():
    loss = from_numpy(lambda x, y: ((x - y) ** 2).sum(-1), lambda x, y: 2 * (x - y))
    x, y = inputs(5, 3)
    x.requires_grad_()
    weight = torch.arange(5.0, dtype=torch.float64)
    loss(x, y, weight=weight, reduction="sum").backward()
    torch.testing.assert_close(x.grad, 2 * (x - y).detach() * weight[:, None])


def test_one_number_for_the_batch_and_its_hessian():
    loss = from_numpy(
        lambda x: np.sum(x) ** 3,
        lambda x: np.full_like(x, 3 * np.sum(x) ** 2),
        hessian_vector_product=lambda x, u: np.full_like(x, 6 * np.sum(x) * np.sum(u)),
    )
    x = inputs(4)[0].requires_grad_()
    assert torch.autograd.gradcheck(loss, x) and torch.autograd.gradgradcheck(loss, x)


def test_numpy_sees_float64_and_the_result_has_the_dtype_of_the_input():
    seen = []
    loss = from_numpy(lambda x, k: seen.append((x.dtype, k.dtype)) or x**2, lambda x, k: 2 * x)
    x = torch.ones(3, dtype=torch.float16, requires_grad=True)
    value = loss(x, torch.arange(3))
    value.backward()
    assert set(seen) == {(np.dtype("float64"), np.dtype("int64"))}
    assert value.dtype == x.grad.dtype == torch.float16


def test_it_cannot_change_its_inputs():
    def spoil(x):
        x += 1
        return x**2

    x = torch.zeros(3)
    from_numpy(spoil)(x)
    assert not x.any()


def test_a_derivative_is_derived_where_plain_arithmetic_allows():
    loss = from_numpy(lambda x, y: (x - y) ** 4)
    x, y = inputs(3)
    x.requires_grad_()
    loss(x, y).backward()
    torch.testing.assert_close(x.grad, 4 * (x - y).detach() ** 3 / 3)


@pytest.mark.parametrize("value", [lambda x: xlogy(x, x), lambda x: np.exp(x), lambda x: 3.0])
def test_where_none_can_be_derived_it_is_asked_for(value):
    loss = from_numpy(value)
    assert loss(torch.ones(2)).isfinite()  # the value alone needs none
    with pytest.raises(TypeError, match="`gradient` must be given"):
        loss(torch.ones(2, requires_grad=True))


@pytest.mark.parametrize(
    "slope", [lambda x, y: -np.sinh(x - y), lambda x, y: 1.01 * np.sinh(x - y), np.add]
)
def test_a_wrong_gradient_is_refused_on_first_use(slope):
    x, y = inputs(6)
    x.requires_grad_()
    with pytest.raises(ValueError, match=r"`gradient` must be the derivative of `value`: along"):
        from_numpy(cosh_value, slope)(x, y).backward()
    from_numpy(cosh_value, slope, verify=False)(x, y).backward()


def test_wrong_shapes_are_refused():
    x = torch.ones(4, 3, requires_grad=True)
    with pytest.raises(ValueError, match=r"`value` must give one number for each item.*\[3\]"):
        from_numpy(lambda x: x.sum(0), lambda x: x)(x)
    with pytest.raises(ValueError, match=r"`gradient` must have the shape of the first input"):
        from_numpy(lambda x: x.sum(1), lambda x: x[0])(x).backward()


def test_what_cannot_be_done_is_said():
    x = torch.ones(3, requires_grad=True)
    once = from_numpy(np.square, lambda x: 2 * x)
    (slope,) = torch.autograd.grad(once(x), x, create_graph=True)
    with pytest.raises(RuntimeError, match="`hessian_vector_product` must be given"):
        slope.sum().backward()
    with pytest.raises(RuntimeError, match="input 1 requires one, too: detach it"):
        COSH(x, torch.ones(3, requires_grad=True)).backward()
    with pytest.raises(TypeError, match="first input must be a floating-point tensor"):
        COSH(torch.arange(3), torch.ones(3))
    with pytest.raises(TypeError, match="`gradient` must be a function, got 3"):
        from_numpy(np.square, 3)


def test_the_transforms_of_torch_func():
    x, y = inputs(4, 3)
    found = torch.func.vmap(torch.func.grad(lambda x, y: COSH(x, y, reduction="sum")))(x, y)
    torch.testing.assert_close(found, torch.sinh(x - y))


def test_as_a_module():
    module = as_module(COSH, name="CoshLoss")(reduction="sum")
    x, y = inputs(4)
    again = pickle.loads(pickle.dumps(module))
    torch.testing.assert_close(again(x, y), (torch.cosh(x - y) - 1).sum())
    assert "reduction='sum'" in repr(again)


def test_a_tensor_whose_signs_are_still_to_be_changed():
    x, y = inputs(4)
    loss = from_numpy(cosh_value, cosh_slope)
    torch.testing.assert_close(loss(torch._neg_view(-x.detach()), y), loss(x.detach(), y))


def test_a_tensor_without_data_and_a_wrong_flag():
    with pytest.raises(ValueError, match="must hold numbers, got a tensor on the device meta"):
        from_numpy(cosh_value)(torch.ones(3, device="meta"), torch.ones(3))
    with pytest.raises(TypeError, match="`verify` must be True or False"):
        from_numpy(cosh_value, verify=2)
