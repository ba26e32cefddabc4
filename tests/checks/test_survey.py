"""The survey of special points: right losses come through it without a finding."""

import math

import pytest
import torch
import torch.nn.functional as F

from lossproof.checks.report import Status
from lossproof.checks.rules import RULES
from lossproof.checks.survey import cost, narrow_type, survey


def real(*shape):
    return torch.randn(*shape).requires_grad_()


def unit(*shape):
    return (torch.rand(*shape) * 0.9 + 0.05).requires_grad_()


def plain(*shape):
    return torch.randn(*shape)


def labels(classes, *shape):
    return torch.randint(0, classes, shape)


def coins(*shape):
    return (torch.rand(*shape) < 0.5).float()


def signs(*shape):
    return coins(*shape) * 2 - 1


def rotations(count, shift: float = 0.0):
    angle = torch.linspace(0.2, 1.2, count) + shift
    c, s, o, z = angle.cos(), angle.sin(), torch.ones(count), torch.zeros(count)
    return torch.stack((c, -s, z, s, c, z, z, z, o), 1).view(-1, 3, 3)


RIGHT = {}


def right(inputs):
    def keep(loss):
        RIGHT[loss.__name__] = (loss, inputs)
        return loss

    return keep


@right(
    lambda: (
        real(6, 3),
        plain(6, 3),
    )
)
def rmse_eps(p, t):
    return torch.sqrt(F.mse_loss(p, t) + 1e-8)


@right(
    lambda: (
        real(6, 4),
        plain(6, 4),
    )
)
def cosine_eps(a, b):
    return (1 - F.cosine_similarity(a, b)).mean()


@right(
    lambda: (
        real(20),
        plain(20),
    )
)
def standardised_eps(x, y):
    xn = (x - x.mean()) / (x.std() + 1e-6)
    yn = (y - y.mean()) / (y.std() + 1e-6)
    return ((xn - yn) ** 2).mean()


@right(
    lambda: (
        unit(6, 3),
        coins(6, 3),
    )
)
def bce_clamped(p, t):
    p = p.clamp(1e-6, 1 - 1e-6)
    return -(t * torch.log(p) + (1 - t) * torch.log(1 - p)).mean()


@right(
    lambda: (
        real(6, 3),
        plain(6, 3),
    )
)
def log_cosh_stable(p, t):
    d = p - t
    return (d + F.softplus(-2 * d) - math.log(2)).mean()


@right(
    lambda: (
        real(6),
        signs(6),
    )
)
def exponential_loss(x, y):
    return torch.exp(-y * x).mean()


@right(
    lambda: (
        real(6, 3),
        torch.poisson(torch.rand(6, 3) * 4),
    )
)
def poisson(x, y):
    return (torch.exp(x) - y * x).mean()


@right(
    lambda: (
        real(6),
        real(6),
        plain(6),
    )
)
def gaussian_nll_log(mu, log_var, y):
    return (log_var + (y - mu) ** 2 * torch.exp(-log_var)).mean()


@right(
    lambda: (
        real(6, 3),
        real(6, 3),
    )
)
def gaussian_kl(mu, log_var):
    return -0.5 * (1 + log_var - mu**2 - log_var.exp()).sum(1).mean()


@right(
    lambda: (
        real(6, 4),
        real(6, 4),
    )
)
def info_nce(z1, z2):
    logits = F.normalize(z1, dim=1) @ F.normalize(z2, dim=1).t() / 0.07
    return F.cross_entropy(logits, torch.arange(len(z1)))


@right(
    lambda: (
        real(5, 3),
        real(5, 3),
        real(5, 3),
    )
)
def triplet_torch(a, p, n):
    return F.triplet_margin_loss(a, p, n)


@right(
    lambda: (
        unit(6, 3),
        unit(6, 3).detach(),
    )
)
def double_where(p, t):
    positive = p > 0
    logs = torch.where(positive, torch.log(torch.where(positive, p, torch.ones_like(p))), 0 * p)
    return -(t * logs).mean()


@right(
    lambda: (
        real(6, 4),
        torch.zeros(6, dtype=torch.long),
        torch.arange(4) == 3,
    )
)
def masked_softmax(x, y, mask):
    return F.cross_entropy(x.masked_fill(mask, -math.inf), y)


@right(
    lambda: (
        rotations(4).requires_grad_(),
        rotations(4, 0.4),
    )
)
def geodesic_clamped(a, b):
    trace = torch.diagonal(a @ b.transpose(1, 2), dim1=1, dim2=2).sum(-1)
    return torch.acos(((trace - 1) / 2).clamp(-1 + 1e-6, 1 - 1e-6)).mean()


@right(
    lambda: (
        unit(2, 1, 6, 6),
        unit(2, 1, 6, 6).detach(),
    )
)
def psnr(prediction, target):
    return 10 * torch.log10(F.mse_loss(prediction, target) / 1.0)


@right(
    lambda: (
        real(2, 1, 6, 6),
        coins(2, 1, 6, 6),
    )
)
def dice(x, t):
    p = torch.sigmoid(x)
    return 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)


@right(
    lambda: (
        real(6, 3),
        plain(6, 3),
    )
)
def norm_loss(p, t):
    return (p - t).norm(dim=1).mean()


@right(
    lambda: (
        real(6, 3),
        plain(6, 3),
    )
)
def charbonnier_eps(p, t):
    return torch.sqrt((p - t) ** 2 + 1e-6).mean()


@right(
    lambda: (
        torch.tensor([[1.0, 1, 5, 6], [2, 3, 8, 9]]).requires_grad_(),
        torch.tensor([[2.0, 1, 6, 5], [1, 2, 7, 9]]),
    )
)
def box_iou(a, b):
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    inter = (high - low).clamp(min=0).prod(1)
    areas = (a[:, 2:] - a[:, :2]).clamp(min=0).prod(1) + (b[:, 2:] - b[:, :2]).prod(1)
    return (1 - inter / (areas - inter)).mean()


@right(
    lambda: (
        unit(1, 1, 10, 10),
        unit(1, 1, 10, 10).detach(),
    )
)
def ssim(x, y):
    mx, my = F.avg_pool2d(x, 3, 1), F.avg_pool2d(y, 3, 1)
    vx = F.avg_pool2d(x * x, 3, 1) - mx**2
    vy = F.avg_pool2d(y * y, 3, 1) - my**2
    vxy = F.avg_pool2d(x * y, 3, 1) - mx * my
    top = (2 * mx * my + 1e-4) * (2 * vxy + 9e-4)
    return 1 - (top / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))).mean()


@right(lambda: (real(6, 3),))
def gradient_penalty(points):
    gradient = torch.autograd.grad((points**3).sum(), points, create_graph=True)[0]
    return ((gradient.norm(dim=1) - 1) ** 2).mean()


@right(
    lambda: (
        real(8),
        signs(8),
    )
)
def hinge(x, y):
    return torch.relu(1 - x * y).mean()


@right(
    lambda: (
        real(8),
        real(8),
    )
)
def wasserstein(real_score, fake_score):
    return fake_score.mean() - real_score.mean()


@right(
    lambda: (
        real(6, 3),
        coins(6, 3),
    )
)
def focal_stable(x, y, gamma=2.0):
    bce = F.binary_cross_entropy_with_logits(x, y, reduction="none")
    return ((1 - torch.exp(-bce)) ** gamma * bce).mean()


@right(
    lambda: (
        real(8),
        torch.rand(8),
        torch.tensor([1.0, 0, 1, 1, 0, 1, 0, 1]),
    )
)
def cox_stable(risk, time, event):
    order = torch.argsort(time, descending=True)
    risk, event = risk[order], event[order]
    return -((risk - torch.logcumsumexp(risk, 0)) * event).sum() / event.sum()


@right(
    lambda: (
        (-torch.rand(8)).requires_grad_(),
        -torch.rand(8),
        plain(8),
    )
)
def clipped_policy(log_prob, old, advantage):
    ratio = torch.exp(log_prob - old)
    return -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()


@right(
    lambda: (
        (torch.rand(6, 4) * 1.8 - 0.9).requires_grad_(),
        labels(4, 6),
    )
)
def arcface(cosine, y):
    theta = torch.acos(cosine.clamp(-1 + 1e-6, 1 - 1e-6))
    turned = torch.cos(theta + 0.5 * F.one_hot(y, cosine.shape[1]))
    return F.cross_entropy(16 * turned, y)


@right(lambda: (real(8, 3),))
def vicreg(z):
    spread = torch.sqrt(z.var(0) + 1e-4)
    return torch.relu(1 - spread).mean()


@right(
    lambda: (
        real(6),
        plain(6),
    )
)
def mape(p, t):
    return ((p - t).abs() / t.abs().clamp_min(1e-8)).mean()


@right(
    lambda: (
        real(3, 16),
        plain(3, 16),
    )
)
def spectral_eps(prediction, target):
    p, t = torch.fft.rfft(prediction).abs(), torch.fft.rfft(target).abs()
    return (torch.log(p + 1e-5) - torch.log(t + 1e-5)).abs().mean()


@right(
    lambda: (
        (torch.rand(5, 4) + 1.1).requires_grad_(),
        labels(4, 5),
    )
)
def evidence(alpha, y):
    total = alpha.sum(1)
    return (torch.log(total) - torch.log(alpha.gather(1, y[:, None])[:, 0])).mean()


@right(
    lambda: (
        real(6),
        (torch.rand(6) + 0.2).requires_grad_(),
        plain(6),
    )
)
def beta_nll(mean, variance, y):
    return (((y - mean) ** 2 / variance + variance.log()) * variance.detach() ** 0.5).mean()


@right(
    lambda: (
        real(5, 2),
        plain(5, 2),
    )
)
def phase(prediction, target):
    turn = torch.atan2(prediction[..., 1], prediction[..., 0])
    return (1 - torch.cos(turn - torch.atan2(target[..., 1], target[..., 0]))).mean()


@right(
    lambda: (
        real(3, 16),
        plain(3, 16),
    )
)
def snr(estimate, target):
    noise = (estimate - target).pow(2).sum(-1)
    return -(10 * torch.log10(target.pow(2).sum(-1) / noise)).mean()


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_loss_is_not_reported(name, silent):
    loss, inputs = RIGHT[name]
    torch.manual_seed(1)
    values = inputs()
    for code in ("LP209", "LP301", "LP302"):
        assert silent(code, loss, *values) is Status.PROVED


def chosen_by_where(pred, target):
    log = torch.where(pred > 0, torch.log(pred), torch.zeros_like(pred))  # <-- here
    return (log - target).abs().mean()


def at_a_centre(features, centers, labels):
    gap = features - centers[labels]
    return gap.square().sum(1).sqrt().mean()  # <-- here


DEPTHS = ((torch.rand(8) + 1).requires_grad_(), torch.randn(8))
CENTRES = (torch.randn(8, 4).requires_grad_(), torch.randn(3, 4), torch.arange(8) % 3)


@pytest.mark.parametrize(("loss", "inputs"), [(chosen_by_where, DEPTHS), (at_a_centre, CENTRES)])
def test_what_only_the_loss_or_another_table_speaks_of_is_met(loss, inputs, found, marked):
    (finding,) = found("LP301", loss, *inputs)
    assert finding.location.line == marked(loss)


def safe_by_where(pred, target):
    safe = torch.where(pred > 0, pred, torch.ones_like(pred))
    return (torch.where(pred > 0, torch.log(safe), 0.0 * safe) - target).abs().mean()


def counted_decisions(prob, target):
    hits = ((prob > 0.5) == (target > 0.5)).float().mean()
    return F.binary_cross_entropy(prob, target) + 0 * hits


def test_what_is_asked_about_and_cared_for_is_no_mistake(silent):
    silent("LP301", safe_by_where, *DEPTHS)
    silent("LP301", counted_decisions, torch.rand(8).requires_grad_(), torch.arange(8) % 2 * 1.0)


def test_it_is_measured_once(examination):
    case = examination(lambda x: (x**2).mean(), real(6))
    first = survey(case)
    assert first.points > 5
    assert survey(case) is first


def test_a_slow_loss_is_asked_at_fewer_points(examination):
    def loss(x):
        total = x.sum() * 0
        for _ in range(3000):
            total = total + (x**2).mean()
        return total

    found = survey(examination(loss, real(6)))
    assert found.left_out > 0
    assert found.points > 0


@pytest.mark.parametrize(
    ("dtype", "narrow"),
    [
        (torch.float64, torch.float32),
        (torch.float32, torch.float32),
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.bfloat16),
    ],
)
def test_the_type_of_training(dtype, narrow, examination):
    case = examination(lambda x: x.mean(), torch.randn(4, dtype=dtype).requires_grad_())
    assert narrow_type(case.inputs) is narrow


def test_a_magnitude_between_two_rungs_is_found(examination):
    def loss(x):  # float32 fails from 9.4 on, float64 from 27: both between the rungs of a ladder
        return torch.log(torch.exp(-(x**4) / 1e3).sum()) + 0 * x.sum()

    found = survey(examination(loss, real(6)))
    assert found.overflows


@pytest.mark.parametrize("seconds", [1e-4, 1e-3, 4e-3])
def test_on_a_slow_machine_an_ordinary_loss_is_looked_at_in_as_many_points(examination, seconds):
    """What a call of ten operations takes is mostly what the check adds to it."""
    torch.manual_seed(1)
    loss, inputs = RIGHT["cosine_eps"]
    values = inputs()
    usual, case = examination(loss, *values), examination(loss, *values)
    case.notes["processor seconds"] = seconds
    usual.notes["processor seconds"] = 0.0
    assert cost(case, case.inputs) == cost(usual, usual.inputs)
    assert RULES["LP209"].examine(case)[-1].status is Status.PROVED


def test_one_operation_that_takes_long_is_timed(examination):
    case = examination(lambda input, target: ((input - target) ** 2).mean(), "float[3]", "float[3]")
    case.notes["processor seconds"] = 0.02
    assert cost(case, case.inputs) == 0.02
