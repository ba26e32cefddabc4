"""LP301 nan-domain: what people write, with the line; the page; the exemptions."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossproof
from lossproof.checks.report import Status


def real(*shape):
    return torch.randn(*shape).requires_grad_()


def unit(*shape):
    return (torch.rand(*shape) * 0.9 + 0.05).requires_grad_()


def plain(*shape):
    return torch.randn(*shape)


def coins(*shape):
    return (torch.rand(*shape) < 0.5).float()


WRONG = {}


def wrong(inputs):
    def keep(loss):
        WRONG[loss.__name__] = (loss, inputs)
        return loss

    return keep


@wrong(
    lambda: (
        real(6, 4),
        plain(6, 4),
    )
)
def cosine_by_hand(a, b):
    dot = (a * b).sum(1)
    return (1 - dot / (a.norm(dim=1) * b.norm(dim=1))).mean()  # <-- here


@wrong(
    lambda: (
        real(20),
        plain(20),
    )
)
def divided_by_std(x, y):
    xn = (x - x.mean()) / x.std()  # <-- here
    yn = (y - y.mean()) / y.std()
    return ((xn - yn) ** 2).mean()


@wrong(
    lambda: (
        torch.softmax(plain(5, 4), 1).requires_grad_(),
        torch.softmax(plain(5, 4), 1),
    )
)
def hellinger(p, q):
    return ((p.sqrt() - q.sqrt()) ** 2).sum(1).mean()  # <-- here


@wrong(lambda: (torch.softmax(plain(5, 4), 1).requires_grad_(),))
def entropy(p):
    return -(p * torch.log(p)).sum(1).mean()  # <-- here


@wrong(
    lambda: (
        torch.softmax(plain(5, 4), 1).requires_grad_(),
        torch.softmax(plain(5, 4), 1),
    )
)
def kl_by_hand(q, p):
    return (q * torch.log(q / p)).sum(-1).mean()  # <-- here


@wrong(
    lambda: (
        unit(6, 3),
        coins(6, 3),
    )
)
def naive_bce(p, t):
    return -(t * torch.log(p) + (1 - t) * torch.log(1 - p)).mean()  # <-- here


@wrong(
    lambda: (
        unit(6, 3),
        coins(6, 3),
    )
)
def naive_bce_lost_eps(p, t, eps=1e-12):
    p = p.clamp(eps, 1 - eps)
    return -(t * torch.log(p) + (1 - t) * torch.log(1 - p)).mean()  # <-- here


@wrong(
    lambda: (
        real(5, 3),
        real(5, 3),
        real(5, 3),
    )
)
def triplet_by_hand(anchor, positive, negative):
    near = torch.sqrt(((anchor - positive) ** 2).sum(1))  # <-- here
    far = torch.sqrt(((anchor - negative) ** 2).sum(1))
    return torch.relu(near - far + 1.0).mean()


@wrong(
    lambda: (
        real(4, 3),
        plain(4, 3),
    )
)
class Charbonnier(nn.Module):
    def forward(self, prediction, target):
        difference = prediction - target
        return torch.sqrt(difference * difference).mean()  # <-- here


@wrong(
    lambda: (
        F.normalize(plain(5, 4), dim=1).requires_grad_(),
        F.normalize(plain(5, 4), dim=1),
    )
)
def quaternion_angle(q1, q2):
    dot = (q1 * q2).sum(-1).abs().clamp(max=1.0)
    return (2 * torch.acos(dot)).mean()  # <-- here


@wrong(
    lambda: (
        real(5, 3),
        plain(5, 3),
    )
)
def angle_between(u, v):
    u = F.normalize(u, dim=-1)
    v = F.normalize(v, dim=-1)
    return torch.acos((u * v).sum(-1)).mean()  # <-- here


@wrong(
    lambda: (
        real(6, 3),
        plain(6, 3),
        torch.tensor([1.0, 1, 0, 1, 0, 1])[:, None],
    )
)
def mask_times_nan(p, t, mask):
    relative = (p - t) ** 2 / p  # <-- here
    return (relative * mask).sum() / mask.sum()


@wrong(
    lambda: (
        unit(6, 3),
        unit(6, 3).detach(),
    )
)
def where_log(p, t):
    logs = torch.where(p > 0, torch.log(p), torch.zeros_like(p))  # <-- here
    return -(t * logs).mean()


@wrong(
    lambda: (
        real(6, 3),
        plain(6, 3),
    )
)
def half_power(p, t):
    return ((p - t).abs() ** 0.5).mean()  # <-- here


@wrong(
    lambda: (
        unit(6, 3),
        unit(6, 3).detach(),
    )
)
def atanh_loss(p, t):
    return ((torch.atanh(2 * p - 1) - torch.atanh(2 * t - 1)) ** 2).mean()  # <-- here


@wrong(
    lambda: (
        (plain(6, 3) * 0.1).requires_grad_(),
        plain(6, 3) * 0.1,
    )
)
def hyperbolic(u, v):
    gap = ((u - v) ** 2).sum(-1)
    ratio = 1 + 2 * gap / ((1 - (u**2).sum(-1)) * (1 - (v**2).sum(-1)))
    return torch.acosh(ratio).mean()  # <-- here


@wrong(
    lambda: (
        real(3, 16),
        plain(3, 16),
    )
)
def spectral(prediction, target):
    p = torch.fft.rfft(prediction).abs()
    t = torch.fft.rfft(target).abs()
    return (torch.log(p) - torch.log(t)).abs().mean()  # <-- here


@wrong(
    lambda: (
        unit(2, 1, 6, 6),
        unit(2, 1, 6, 6).detach(),
    )
)
def ncc(x, y):
    x = x - x.mean((-1, -2), keepdim=True)
    y = y - y.mean((-1, -2), keepdim=True)
    top = (x * y).sum((-1, -2))
    return 1 - (top / (x.pow(2).sum((-1, -2)) * y.pow(2).sum((-1, -2))).sqrt()).mean()  # <-- here


@wrong(lambda: (unit(1, 1, 6, 6),))
def total_variation(image):
    dx = image[..., :-1, 1:] - image[..., :-1, :-1]
    dy = image[..., 1:, :-1] - image[..., :-1, :-1]
    return (dx**2 + dy**2).sqrt().mean()  # <-- here


@wrong(lambda: (real(5, 3),))
def supervised_pairs(z):
    squared = ((z[:, None] - z[None]) ** 2).sum(-1)
    distance = squared.sqrt()  # <-- here
    keep = ~torch.eye(len(z), dtype=torch.bool)
    return torch.exp(-distance[keep]).mean()


@wrong(
    lambda: (
        real(5, 3),
        torch.arange(5),
    )
)
def normalised_rows(z, y):
    z = z / z.norm(dim=1, keepdim=True)  # <-- here
    return F.cross_entropy(z @ z.t(), y)


@wrong(
    lambda: (
        real(5, 3),
        real(5, 3),
    )
)
def log_ratio(a, b):
    gap = (a - b).norm(dim=1)
    return (torch.log(gap) ** 2).mean()  # <-- here


@wrong(lambda: (real(8, 3),))
def variance_hinge(z):
    spread = torch.sqrt(z.var(0))  # <-- here
    return torch.relu(1 - spread).mean()


@wrong(
    lambda: (
        real(6),
        torch.tensor([0.0, 1, 2, 0, 3, 1]),
    )
)
def smape(p, t):
    return ((p - t).abs() / (p.abs() + t.abs())).mean()  # <-- here


@wrong(
    lambda: (
        unit(3, 4, 4),
        unit(3, 4, 4),
    )
)
def soft_iou(p, q):
    top = (p * q).sum((1, 2))
    return (1 - top / (p + q - p * q).sum((1, 2))).mean()  # <-- here


@wrong(
    lambda: (
        real(5, 3),
        real(5, 3),
    )
)
def student_t(x, y):
    gap = torch.cdist(x, y).pow(2)
    return torch.rsqrt(gap).mean()  # <-- here


@wrong(
    lambda: (
        unit(6, 3),
        coins(6, 3),
    )
)
def focal_on_probabilities(p, t, gamma=0.5):
    right = torch.where(t == 1, p, 1 - p)
    return -((1 - right) ** gamma * (right + 1e-6).log()).mean()  # <-- here


@wrong(
    lambda: (
        real(12),
        plain(12),
    )
)
def concordance(x, y):
    cov = ((x - x.mean()) * (y - y.mean())).mean()
    rho = cov / (x.std(unbiased=False) * y.std(unbiased=False))  # <-- here
    return 1 - rho


@wrong(lambda: (real(6, 3),))
def eikonal(points):
    gradient = torch.autograd.grad((points**3).sum(), points, create_graph=True)[0]
    return ((torch.sqrt((gradient**2).sum(1)) - 1) ** 2).mean()  # <-- here


@wrong(
    lambda: (
        unit(6, 1),
        unit(6, 1),
    )
)
def gan_on_probabilities(d_real, d_fake):
    return -(torch.log(d_real) + torch.log(1 - d_fake)).mean()  # <-- here


@wrong(
    lambda: (
        real(6, 3),
        plain(6, 3),
    )
)
def wing_power(p, t):
    gap = (p - t).abs()
    return torch.where(gap < 0.5, gap**0.7, gap).mean()  # <-- here


@pytest.mark.parametrize("name", WRONG)
def test_it_is_found_with_its_line(name, found, marked, lines_of):
    loss, inputs = WRONG[name]
    made = loss() if isinstance(loss, type) else loss
    findings = found("LP301", made, *inputs())
    assert marked(loss) in lines_of(findings)
    assert all(finding.help for finding in findings)


@pytest.mark.parametrize("name", WRONG)
def test_one_fault_is_one_finding(name, found):
    loss, inputs = WRONG[name]
    made = loss() if isinstance(loss, type) else loss
    values = inputs()
    places = [f.location for f in [*found("LP301", made, *values), *found("LP302", made, *values)]]
    assert len({(place.file, place.line) for place in places}) == len(places)


def test_the_page(found, silent, page_code):
    wrong_loss, right_loss = {}, {}
    exec("import torch\n" + page_code("LP301", "Example"), wrong_loss)
    exec("import torch\n" + page_code("LP301", "Use instead"), right_loss)
    inputs = real(6, 3), plain(6, 3)
    (finding,) = found("LP301", wrong_loss["rmse"], *inputs)
    assert "sqrt" in finding.help
    assert silent("LP301", right_loss["rmse"], *inputs) is Status.PROVED


def test_the_message_says_when_in_words(found):
    def rmse(yhat, y):
        return torch.sqrt(((yhat - y) ** 2).mean())

    (finding,) = found("LP301", rmse, real(6), plain(6))
    assert "when `yhat` equals `y`" in finding.message
    assert finding.location.function.endswith("rmse")
    assert finding.cause == "sqrt-backward"


def test_the_element_to_blame_is_singled_out(found):
    def loss(x):
        return torch.log((x - 0.5).abs()).sum().exp()

    (finding,) = found("LP301", loss, real(3, 20))
    assert "when one element of `x` is 0.5" in finding.message


def test_not_outside_the_domain_of_the_given_values(silent):
    def loss(p, t):
        return ((torch.log(p) - torch.log(t)) ** 2).mean()

    inputs = (torch.rand(6, 3) * 3 + 0.5).requires_grad_(), torch.rand(6, 3) + 0.5
    assert silent("LP301", loss, *inputs) is Status.PROVED


def test_masks_and_labels_stay_as_they_are_given(silent):
    def loss(x, mask):
        return (x**2 * mask).sum() / mask.sum()

    assert silent("LP301", loss, real(6), torch.ones(6)) is Status.PROVED


def test_a_loss_without_a_minimum_is_not_blamed_for_reaching_for_it(verdicts):
    def psnr(prediction, target):
        error = ((prediction - target) ** 2).mean()
        return 10 * torch.log10(error)

    (outcome,) = verdicts("LP301", psnr, unit(6, 3), unit(6, 3).detach())
    assert outcome.status is Status.PROVED
    assert "minus infinity when `prediction` equals `target`" in outcome.detail


def test_nan_at_the_given_inputs(found):
    def loss(p, t):
        return torch.log(p - t).mean()

    (finding,) = found("LP301", loss, torch.zeros(3).requires_grad_(), torch.ones(3))
    assert "called with the given inputs" in finding.message


def test_a_handwritten_backward_is_named_by_its_own_line(found, marked):
    class Ratio(torch.autograd.Function):
        @staticmethod
        def forward(ctx, p, t):
            ctx.save_for_backward(p, t)
            return (p - t).abs().sum()

        @staticmethod
        def backward(ctx, grad_output):
            p, t = ctx.saved_tensors
            return grad_output * (p - t) / (p - t).abs(), None  # <-- here

    (finding,) = found("LP301", Ratio, real(6), plain(6))
    assert finding.location.line == marked(Ratio)


def test_points_that_the_loss_refuses_are_counted(verdicts):
    def loss(p, t):
        if bool((p == t).any()):
            raise ValueError("a tie")
        return ((p - t) ** 2).mean()

    (outcome,) = verdicts("LP301", loss, real(6), plain(6))
    assert outcome.status is Status.PROVED
    assert "raises at" in outcome.detail


def test_a_loss_without_a_floating_value_is_not_judged(silent):
    assert silent("LP301", lambda x: x.argmax(), real(6)) is Status.UNPROVED


def test_the_inputs_are_untouched(found):
    x, y = real(6), plain(6)
    before = x.detach().clone()
    found("LP301", lambda a, b: torch.sqrt(((a - b) ** 2).sum()), x, y)
    assert torch.equal(x.detach(), before)
    assert x.grad is None


def test_a_nan_in_the_inputs_is_not_the_loss_s_fault() -> None:
    target = torch.randn(5)
    target[2] = math.nan
    report = lossproof.check(F.mse_loss, torch.randn(5, requires_grad=True), target)
    assert report.ok
    details = [outcome.detail for outcome in report.unproved if outcome.code == "LP301"]
    assert details == ["an input holds NaN or infinity, and the loss is not finite with it"]
