"""LP209 wrong-subgradient: wrong at a tie, at a border, far out; every subgradient is right."""

import pytest
import torch
import torch.nn.functional as F

import lossproof
from lossproof.checks.report import Severity, Status


def pointwise(forward, backward):
    """A loss with a hand-written gradient, averaged over its elements."""

    class Handwritten(torch.autograd.Function):
        @staticmethod
        def forward(ctx, prediction, target):
            ctx.save_for_backward(prediction, target)
            return forward(prediction, target).mean()

        @staticmethod
        def backward(ctx, grad_output):
            prediction, target = ctx.saved_tensors
            slope = backward(prediction, target)
            return grad_output * slope / prediction.numel(), None

    return Handwritten


def huber(p, t):
    d = p - t
    return torch.where(d.abs() < 1, 0.5 * d * d, d.abs() - 0.5)


def one_at(condition, value, otherwise):
    return torch.where(condition, torch.full_like(otherwise, value), otherwise)


WRONG = {
    "five at a tie": pointwise(
        lambda p, t: (p - t).abs(), lambda p, t: one_at(p == t, 5.0, (p - t).sign())
    ),
    "huber zero at its border": pointwise(
        huber,
        lambda p, t: (p - t) * ((p - t).abs() < 1) + (p - t).sign() * ((p - t).abs() > 1),
    ),
    "huber zero beyond 50": pointwise(
        huber, lambda p, t: one_at((p - t).abs() > 50, 0.0, (p - t).clamp(-1, 1))
    ),
    "huber clipped at 0.9 far out": pointwise(
        huber, lambda p, t: torch.where((p - t).abs() > 20, 0.9, 1.0) * (p - t).clamp(-1, 1)
    ),
    "sign at whole numbers": pointwise(
        lambda p, t: (p - t) ** 2,
        lambda p, t: torch.where(p == p.round(), -2 * (p - t), 2 * (p - t)),
    ),
    "dead zone": pointwise(
        lambda p, t: (p - t) ** 2,
        lambda p, t: one_at((p - t).abs() < 1e-3, 0.0, 2 * (p - t)),
    ),
    "double at a tie": pointwise(
        lambda p, t: torch.maximum(0.3 * (t - p), 0.7 * (p - t)),
        lambda p, t: -0.3 * (p <= t).to(p.dtype) * 4 * (p == t) - 0.3 * (p < t) + 0.7 * (p > t),
    ),
    "zero prediction": pointwise(
        lambda p, t: (p - t) ** 2, lambda p, t: one_at(p == 0, 0.0, 2 * (p - t))
    ),
    "log-cosh cut at 5": pointwise(
        lambda p, t: F.softplus(2 * (p - t)) - (p - t),
        lambda p, t: torch.tanh((p - t).clamp(-5, 5)) * ((p - t).abs() < 90),
    ),
}

RIGHT = {
    "abs with 0": pointwise(lambda p, t: (p - t).abs(), lambda p, t: (p - t).sign()),
    "abs with 1": pointwise(
        lambda p, t: (p - t).abs(), lambda p, t: torch.where(p >= t, 1.0, -1.0).to(p.dtype)
    ),
    "abs with 0.3": pointwise(
        lambda p, t: (p - t).abs(), lambda p, t: one_at(p == t, 0.3, (p - t).sign())
    ),
    "huber": pointwise(huber, lambda p, t: (p - t).clamp(-1, 1)),
    "clamped": lambda p, t: ((p - t).clamp(-1, 1) ** 2).mean(),
    "relu": lambda p, t: torch.relu(p - t).sum(),
    "hinge": lambda p, t: torch.relu(1 - p * t).mean(),
    "maximum": lambda p, t: torch.maximum(0.1 * (t - p), 0.9 * (p - t)).mean(),
    "where": lambda p, t: torch.where(p > t, 3 * (p - t), t - p).mean(),
    "epsilon-insensitive": lambda p, t: torch.relu((p - t).abs() - 0.1).mean(),
    "bisquare": lambda p, t: (1 - (1 - ((p - t) / 4.0).pow(2)).clamp(min=0) ** 3).mean(),
    "square root": lambda p, t: torch.sqrt((p - t) ** 2 + 1e-12).mean(),
    "weight stopped": lambda p, t: ((p - t).abs() * (p - t).abs().detach()).mean(),
    "norm": lambda p, t: (p - t).norm(),
    "largest": lambda p, t: (p - t).abs().max(),
    "sorted": lambda p, t: (p.sort(0).values - t.sort(0).values).abs().mean(),
    "quantile": lambda p, t: torch.quantile((p - t).abs(), 0.5),
}


def inputs():
    torch.manual_seed(0)
    return torch.randn(6, 3).requires_grad_(), torch.randn(6, 3)


@pytest.mark.parametrize("name", WRONG)
def test_a_gradient_that_is_wrong_only_at_special_values(name, found):
    (finding,) = found("LP209", WRONG[name], *inputs())
    assert finding.severity is Severity.ERROR
    assert finding.location.source.strip().startswith("def backward")
    assert finding.help


@pytest.mark.parametrize("name", RIGHT)
def test_every_subgradient_is_right(name, silent):
    assert silent("LP209", RIGHT[name], *inputs()) is Status.PROVED


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("loss", "make"),
    [
        (F.binary_cross_entropy, lambda: (torch.rand(6, 3), (torch.rand(6, 3) > 0.5).float())),
        (F.binary_cross_entropy, lambda: (torch.rand(6, 3), torch.rand(6, 3))),
        (F.binary_cross_entropy_with_logits, lambda: (torch.randn(6, 3), torch.rand(6, 3))),
        (F.cross_entropy, lambda: (torch.randn(6, 4), torch.randint(0, 4, (6,)))),
        (F.multi_margin_loss, lambda: (torch.randn(6, 4), torch.randint(0, 4, (6,)))),
        (F.smooth_l1_loss, lambda: (torch.randn(6, 3), torch.randn(6, 3))),
        (F.kl_div, lambda: (torch.randn(6, 3).log_softmax(1), torch.randn(6, 3).softmax(1))),
        (F.soft_margin_loss, lambda: (torch.randn(6), torch.randn(6).sign())),
    ],
)
def test_the_losses_of_torch(loss, make, seed, silent):
    torch.manual_seed(seed)
    prediction, target = make()
    silent("LP209", loss, prediction.requires_grad_(), target)


def test_the_subgradient_that_is_used_is_told(verdicts):
    def loss(p, t):
        return (p - t).abs().mean()

    (outcome,) = verdicts("LP209", loss, *inputs())
    assert outcome.status is Status.PROVED
    assert "`abs` at line" in outcome.detail
    assert "gradient 0 when `p` equals `t`" in outcome.detail
    assert "between -1 and 1" in outcome.detail


def test_a_smooth_loss_has_no_kink_to_tell_of(verdicts):
    (outcome,) = verdicts("LP209", lambda p, t: ((p - t) ** 2).mean(), *inputs())
    assert ";" not in outcome.detail


def test_rows_are_asked_in_every_coordinate_and_all_together(found, silent):
    def largest(give_all):
        class Largest(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x)
                return x.max(1).values.sum()

            @staticmethod
            def backward(ctx, grad_output):
                (x,) = ctx.saved_tensors
                ties = (x == x.max(1, keepdim=True).values).to(x.dtype)
                return grad_output * (ties if give_all else ties / ties.sum(1, keepdim=True))

        return Largest

    x = torch.randn(5, 4).requires_grad_()
    assert silent("LP209", largest(give_all=False), x) is Status.PROVED
    assert found("LP209", largest(give_all=True), x)


def test_the_page(found, silent, page_code):
    example = {}
    exec("import torch\n" + page_code("LP209", "Example"), example)
    assert found("LP209", example["L1"], *inputs())
    mended = page_code("LP209", "Example")
    start = mended.index("        sign =")
    mended = mended[:start] + page_code("LP209", "Use instead")
    exec("import torch\n" + mended, example)
    assert silent("LP209", example["L1"], *inputs()) is Status.PROVED


def test_a_gradient_wrong_at_ordinary_inputs_is_left_to_its_own_rule(verdicts):
    double = pointwise(lambda p, t: (p - t) ** 2, lambda p, t: 4 * (p - t))
    (outcome,) = verdicts("LP209", double, *inputs())
    assert outcome.status is Status.UNPROVED
    assert "ordinary inputs" in outcome.detail


def test_a_loss_without_a_gradient_is_not_its_business(silent):
    assert silent("LP209", lambda p, t: (p > t).float().mean(), *inputs()) is Status.NOT_APPLICABLE


def test_rounding_far_out_is_no_wrong_gradient(silent):
    def contrastive(a, b):  # its denominator is a difference of huge numbers
        z = torch.cat([a, b])
        s = torch.exp(z @ z.T / 0.5)
        n = len(a)
        return -torch.log(torch.diag(s, n) / (s.sum(1)[:n] - torch.diag(s)[:n])).mean()

    for seed in range(3):
        torch.manual_seed(seed)
        silent("LP209", contrastive, torch.randn(5, 8).requires_grad_(), torch.randn(5, 8))


def test_a_slow_loss_is_asked_less(verdicts):
    def loss(x):
        total = 0 * x.sum()
        for _ in range(1500):
            total = total + x.abs().mean()
        return total

    said = verdicts("LP209", loss, torch.randn(4).requires_grad_())
    assert said[-1].status is Status.UNPROVED
    assert "left out" in said[-1].detail


def test_a_module_with_an_empty_parameter(silent):
    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(0))

        def forward(self, x):
            return x.abs().mean() + self.unused.sum()

    assert silent("LP209", Loss(), torch.randn(4).requires_grad_()) is Status.PROVED


def test_kinks_that_cancel_in_the_value_but_not_in_the_gradient_are_told() -> None:
    """At exactly 0 the clamp gives 1 and the abs gives 0, where the slope of the loss is 0.5."""

    def cross_entropy(input, target):
        return (input.clamp(min=0) - input * target + (-input.abs()).exp().log1p()).mean()

    report = lossproof.check(cross_entropy, "float[8,3]", "binary[8,3]")
    assert report.ok
    details = [outcome.detail for outcome in report.unproved if outcome.code == "LP209"]
    assert len(details) == 1
    assert "kink there that the loss has not" in details[0]


def test_ties_between_samples_are_no_fault_of_the_loss() -> None:
    def batch_hard(emb, label):
        distance = torch.cdist(emb, emb)
        same = label[:, None] == label[None]
        positive = (distance * same).amax(1)
        negative = distance.masked_fill(same, 1e9).amin(1)
        return torch.relu(positive - negative + 1.0).mean()

    label = torch.arange(8) % 4
    for seed in range(4):
        emb = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed), requires_grad=True)
        report = lossproof.check(batch_hard, emb, label, seed=seed)
        assert "LP209" not in {finding.code for finding in report}


def test_rounding_is_no_slope_where_one_element_happens_to_be_flat(silent):
    """A gradient made of two terms that cancel, where a single element has none at all."""

    class Smape(torch.autograd.Function):
        @staticmethod
        def forward(ctx, input, target):
            ctx.save_for_backward(input, target)
            return ((input - target).abs() / (input.abs() + target.abs())).mean()

        @staticmethod
        def backward(ctx, grad_output):
            input, target = ctx.saved_tensors
            size, gap = input.abs() + target.abs(), input - target
            slope = gap.sign() / size - gap.abs() * input.sign() / size**2
            return grad_output * slope / input.numel(), None

    torch.manual_seed(0)
    inputs = torch.randn(8, requires_grad=True), torch.randn(8)
    assert silent("LP209", Smape, *inputs) is not None
