import math

import pytest
import torch

import lossproof
from lossproof.write import perturbed, straight_through
from lossproof.write.surrogate import surrogates_met


def errors(input, target):
    return ((input > 0) != (target > 0)).to(input.dtype).mean()


def soft_errors(input, target):
    return torch.sigmoid(-input * (2 * (target > 0).to(input.dtype) - 1)).mean()


def test_the_value_is_hard_and_the_gradient_soft():
    x = torch.tensor([0.3, -2.0, 1.0], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    loss = straight_through(errors, soft_errors)
    assert loss(x, y).item() == errors(x, y).item()
    found = torch.autograd.grad(loss(x, y), x)
    torch.testing.assert_close(found, torch.autograd.grad(soft_errors(x, y), x))


def test_infinite_soft_values_do_no_harm():
    rounded = straight_through(torch.round, lambda x: x * torch.tensor(math.inf))
    assert rounded(torch.tensor([1.4])).item() == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's jvp and of TorchDynamo
def test_second_derivatives_transforms_and_graphs():
    cube = straight_through(torch.round, lambda x: x**3)
    x = torch.tensor([0.4, 1.6], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(cube(x).sum(), x, create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(slope.sum(), x)[0], 6 * x.detach())
    torch.testing.assert_close(
        torch.func.vmap(torch.func.grad(cube))(x.detach()), 3 * x.detach() ** 2
    )
    value, tangent = torch.func.jvp(cube, (x.detach(),), (torch.ones_like(x),))
    assert value.tolist() == [0, 2]
    torch.testing.assert_close(tangent, 3 * x.detach() ** 2)
    compiled = torch.compile(cube, fullgraph=True, backend="aot_eager")
    assert compiled(x).tolist() == [0, 2]


def test_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r"`hard` and `soft` must give the same shape"):
        straight_through(torch.sum, torch.sin)(torch.ones(3))
    with pytest.raises(TypeError, match="`soft` must be a function"):
        straight_through(torch.sum, 2)


def test_perturbed_step_is_the_normal_distribution():
    x = torch.linspace(-2, 2, 9, dtype=torch.float64).requires_grad_()
    sigma, pairs = 0.8, 20_000
    step = perturbed(
        lambda x: (x > 0).double(), sigma, pairs, generator=torch.Generator().manual_seed(1)
    )
    value = step(x)
    value.sum().backward()
    normal = torch.distributions.Normal(0.0, 1.0)
    # Five standard errors of a mean of `pairs` numbers.
    limit = 5 / math.sqrt(pairs)
    assert (value.detach() - normal.cdf(x.detach() / sigma)).abs().max() < limit
    density = normal.log_prob(x.detach() / sigma).exp() / sigma
    assert (x.grad - density).abs().max() < limit / sigma


def test_perturbed_gradient_of_a_smooth_function_is_its_own():
    x = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    quadratic = perturbed(lambda x: x**2, 0.1, 5000, generator=torch.Generator().manual_seed(1))
    quadratic(x).sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach(), rtol=0.15, atol=0.02)


def test_perturbed_draws_anew_and_again_the_same_for_the_same_seed():
    x = torch.full((50,), 0.1)
    step = perturbed(lambda x: (x > 0).float(), samples=1)
    torch.manual_seed(0)
    one, other = step(x), step(x)
    torch.manual_seed(0)
    assert torch.equal(step(x), one) and not torch.equal(one, other)


def test_perturbed_errors():
    with pytest.raises(ValueError, match="`sigma` must be a number above 0"):
        perturbed(errors, 0.0)
    with pytest.raises(ValueError, match="`samples` must be an integer of at least 1, got 0"):
        perturbed(errors, samples=0)
    with pytest.raises(TypeError, match="`input` must be a floating-point tensor"):
        perturbed(errors)(torch.arange(3), torch.arange(3))
    with pytest.raises(ValueError, match="one number, or one for each item"):
        perturbed(lambda x: x.sum(0))(torch.ones(3, 4))


def test_surrogates_are_met():
    rounded = straight_through(torch.round, lambda x: 2 * x)
    with surrogates_met() as met:
        assert rounded(torch.tensor([1.4])).item() == 1
        rounded(torch.tensor([1.4]))
    assert [str(s) for s in met.surrogates] == [
        "straight-through `round`: the gradient is that of <lambda>"
    ]
    with surrogates_met(soft=True):
        assert rounded(torch.tensor([1.5])).item() == 3


SPECIFICATION = "float[8], float[8]"


def test_the_check_knows_a_straight_through_loss():
    report = lossproof.check(straight_through(errors, soft_errors), SPECIFICATION)
    assert report.ok, str(report)
    assert any("declared surrogate: straight-through `errors`" in a for a in report.assumptions)
    assert "LP202" in {outcome.code for outcome in report.proved}


def test_the_check_knows_a_perturbed_loss():
    report = lossproof.check(perturbed(errors, 0.5), SPECIFICATION)
    assert report.ok, str(report)
    assert any("perturbed `errors`" in a for a in report.assumptions)


class Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x  # the 2 is missing


def test_the_check_sees_a_mistake_beside_a_surrogate():
    rounded = straight_through(torch.round, lambda x: x)

    def loss(input, target):
        return Halved.apply(rounded(input) - target).mean()

    assert [finding.code for finding in lossproof.check(loss, SPECIFICATION)] == ["LP202"]


def test_options_that_torch_would_not_take():
    with pytest.raises(TypeError, match="`generator` must be a torch.Generator, got 3"):
        perturbed(errors, generator=3)
    with pytest.raises(ValueError, match="`sigma` must be a float, or an integer"):
        perturbed(errors, sigma=10**30)
