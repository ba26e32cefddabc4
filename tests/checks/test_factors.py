"""What a factor in front of the loss does to its gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Function

from lossproof.checks.factors import LARGE, study_of, torchs_own


def real(*shape):
    return torch.randn(*shape, requires_grad=True)


class Keeps(Function):
    """A squared error whose gradient is made in forward; a subclass says what backward does."""

    @staticmethod
    def forward(ctx, input, target):
        ctx.gradient = 2 * (input - target)
        return ((input - target) ** 2).sum()

    @staticmethod
    def backward(ctx, upstream):
        return ctx.gradient * upstream, None


class ScalesInPlace(Keeps):
    @staticmethod
    def backward(ctx, upstream):
        return ctx.gradient.mul_(upstream), None


class GivesAway(Keeps):
    @staticmethod
    def backward(ctx, upstream):
        if ctx.gradient is None:
            raise RuntimeError("a second backward")
        gradient, ctx.gradient = ctx.gradient, None
        return gradient.mul_(upstream), None


class Clamps(Keeps):
    """Right for a small factor only."""

    @staticmethod
    def backward(ctx, upstream):
        return ctx.gradient * upstream.clamp(max=1000.0), None


class BackwardInForward(Function):
    """The gradient of the trunk goes its way; that of the head is left in ``.grad`` at once."""

    @staticmethod
    def forward(ctx, head, hidden, target):
        hidden = hidden.detach().requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(head(hidden), target)
            loss.backward()  # <-- here
        ctx.save_for_backward(hidden.grad)
        return loss.detach()

    @staticmethod
    def backward(ctx, upstream):
        return None, ctx.saved_tensors[0] * upstream, None


class Tiled(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, hidden, target):
        return BackwardInForward.apply(self.head, hidden, target)


class Assigns(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, input, target):
        error = ((input - target) ** 2).mean()
        self.scale.grad = error.detach().clone()  # <-- here
        return error * self.scale.detach()


def both():
    return real(6, 4), torch.randn(6, 4)


@pytest.fixture
def study(examination):
    return lambda loss, *inputs: study_of(examination(loss, *inputs))


def test_a_graph_of_torchs_own_is_known_by_its_nodes(study):
    found = study(F.mse_loss, *both())
    assert (found.fault, found.undecided, found.own_nodes) == (None, None, ())


def test_torchs_own_nodes():
    x = real(3)
    assert torchs_own((x * 2).sum().grad_fn)
    assert torchs_own(F.cross_entropy(real(3, 2), torch.tensor([0, 1, 1])).grad_fn)
    assert torchs_own(x.expand(2, 3).grad_fn)
    assert not torchs_own(Keeps.apply(x, torch.zeros(3)).grad_fn)
    assert not torchs_own(
        torch.utils.checkpoint.checkpoint(torch.sin, x, use_reentrant=True).grad_fn
    )


def test_an_operation_registered_with_torch_is_not_torchs_own():
    @torch.library.custom_op("lossproof_tests::doubled", mutates_args=())
    def doubled(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    doubled.register_autograd(lambda ctx, g: 2 * g)
    assert not torchs_own(doubled(real(3)).grad_fn)


def test_a_kept_gradient_that_is_multiplied_is_right(study):
    found = study(Keeps, *both())
    assert (found.fault, found.undecided, found.refused) == (None, None, False)
    assert len(found.own_nodes) == 1


def test_scaling_in_place_scales_twice(study):
    fault = study(ScalesInPlace, *both()).fault
    assert (fault.kind, fault.factor, fault.wrong) == ("repeated", 3.0, ("input",))
    assert fault.times == {"input": pytest.approx(9.0)}


def test_a_refused_second_pass_is_no_fault(study):
    found = study(GivesAway, *both())
    assert (found.fault, found.undecided, found.refused) == (None, None, True)


def test_a_large_factor_is_tried(study):
    fault = study(Clamps, *both()).fault
    assert (fault.kind, fault.factor) == ("disproportionate", LARGE)
    assert fault.times == {"input": pytest.approx(1000.0)}


def test_a_gradient_written_in_forward(study, marked):
    inputs = real(6, 4), torch.randint(3, (6,))
    fault = study(Tiled(), *inputs).fault
    assert fault.kind == "written"
    assert fault.wrong == ("self.head.weight", "self.head.bias")
    assert fault.times == {
        "hidden": pytest.approx(LARGE),
        "self.head.weight": pytest.approx(1.0),
        "self.head.bias": pytest.approx(1.0),
    }
    assert fault.location.line == marked(BackwardInForward)


def test_an_assigned_gradient_is_written_too(study, marked):
    fault = study(Assigns(), *both()).fault
    assert (fault.kind, fault.wrong) == ("written", ("self.scale",))
    assert fault.location.line == marked(Assigns)


def test_nothing_of_the_callers_is_written(study):
    head = nn.Linear(4, 3).double()
    head.weight.grad = torch.ones_like(head.weight)

    def loss(hidden, target):
        return BackwardInForward.apply(head, hidden, target)

    inputs = real(6, 4).double().detach().requires_grad_(), torch.randint(3, (6,))
    fault = study(loss, *inputs).fault
    assert fault.kind == "written"
    # What was in `.grad` before is no part of what a factor did.
    assert all(times == pytest.approx(1.0) for name, times in fault.times.items() if "head" in name)
    assert torch.equal(head.weight.grad, torch.ones_like(head.weight))
    assert head.bias.grad is None
    assert inputs[0].grad is None


def test_a_hook_of_the_loss_is_left_undecided(study):
    def hooked(input, target):
        error = input - target
        error.register_hook(lambda g: g.clamp(-0.01, 0.01))
        return (error**2).sum()

    found = study(hooked, *both())
    assert found.fault is None
    assert "`input`" in found.undecided


def test_a_float32_backward_is_not_taken_for_a_fault(study):
    class Narrow(Keeps):
        @staticmethod
        def backward(ctx, upstream):
            return (ctx.gradient.float() * upstream.float()).to(upstream), None

    assert study(Narrow, *both()).fault is None
