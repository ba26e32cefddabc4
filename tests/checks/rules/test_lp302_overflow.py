"""LP302 overflow: what people write, with the line; the page; the exemptions."""

import pytest
import torch
import torch.nn.functional as F

from lossproof.checks.report import Severity, Status


def real(*shape):
    return torch.randn(*shape).requires_grad_()


def plain(*shape):
    return torch.randn(*shape)


def labels(classes, *shape):
    return torch.randint(0, classes, shape)


def coins(*shape):
    return (torch.rand(*shape) < 0.5).float()


def signs(*shape):
    return coins(*shape) * 2 - 1


WRONG = {}


def wrong(inputs):
    def keep(loss):
        WRONG[loss.__name__] = (loss, inputs)
        return loss

    return keep


@wrong(
    lambda: (
        real(6, 3),
        plain(6, 3),
    )
)
def log_cosh(p, t):
    return torch.log(torch.cosh(p - t)).mean()  # <-- here


@wrong(
    lambda: (
        real(6),
        signs(6),
    )
)
def softplus_by_hand(x, y):
    return torch.log(1 + torch.exp(-y * x)).mean()  # <-- here


@wrong(
    lambda: (
        real(6, 3),
        coins(6, 3),
    )
)
def bce_from_logits(x, y):
    p = torch.sigmoid(x)
    return -(y * p.log() + (1 - y) * (1 - p).log()).mean()  # <-- here


@wrong(
    lambda: (
        real(8),
        torch.rand(8),
        (torch.rand(8) > 0.3).float(),
    )
)
def cox(risk, time, event):
    order = torch.argsort(time, descending=True)
    hazard = torch.exp(risk[order])  # <-- here
    return -((risk[order] - torch.log(torch.cumsum(hazard, 0))) * event[order]).mean()


@wrong(
    lambda: (
        F.normalize(plain(6, 4), dim=1).mul(3).requires_grad_(),
        F.normalize(plain(6, 4), dim=1).mul(3).requires_grad_(),
    )
)
def contrastive_by_hand(z1, z2):
    similarity = torch.exp(z1 @ z2.t() / 0.07)  # <-- here
    return -torch.log(similarity.diag() / similarity.sum(1)).mean()


@wrong(
    lambda: (
        real(6, 4),
        labels(4, 6),
    )
)
def cross_entropy_by_hand(x, y):
    e = torch.exp(x)  # <-- here
    p = e / e.sum(1, keepdim=True)
    return -torch.log(p[torch.arange(len(y)), y]).mean()


@wrong(
    lambda: (
        real(6),
        real(6),
        plain(6),
    )
)
def gaussian_nll_raw(mu, log_var, y):
    variance = torch.exp(log_var)  # <-- here
    return (torch.log(variance) + (y - mu) ** 2 / variance).mean()


@wrong(
    lambda: (
        real(6, 3),
        coins(6, 3),
    )
)
def sigmoid_by_hand(x, y):
    p = 1 / (1 + torch.exp(-x))  # <-- here
    return ((p - y) ** 2).mean()


@wrong(
    lambda: (
        real(6, 3),
        coins(6, 3),
    )
)
def focal_from_logits(x, y, gamma=2.0):
    p = torch.sigmoid(x)
    pt = torch.where(y == 1, p, 1 - p)
    return -((1 - pt) ** gamma * torch.log(pt)).mean()  # <-- here


@wrong(
    lambda: (
        real(6, 4),
        plain(6, 4),
    )
)
def kl_of_softmaxes(student, teacher):
    q, p = F.softmax(student, -1), F.softmax(teacher, -1)
    return (p * (p / q).log()).sum(-1).mean()  # <-- here


@wrong(
    lambda: (
        real(6),
        plain(6),
    )
)
def tanh_by_hand(x, y):
    t = (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x))  # <-- here
    return ((t - y) ** 2).mean()


@wrong(lambda: (real(5, 4),))
def generalised_mean(x):
    return torch.log(torch.mean(torch.exp(5 * x), dim=1)).mean()  # <-- here


@wrong(
    lambda: (
        real(5, 4),
        labels(4, 5),
    )
)
def unlikelihood(logits, banned):
    p = torch.softmax(logits, -1).gather(1, banned[:, None])
    return -torch.log(1 - p).mean()  # <-- here


@wrong(
    lambda: (
        real(5, 4),
        coins(5),
    )
)
def lse_pool(x, y):
    pooled = torch.logsumexp(x, 1)
    odds = pooled.exp() / (1 + pooled.exp())  # <-- here
    return F.binary_cross_entropy(odds, y)


@wrong(
    lambda: (
        (torch.rand(300, 300) * 2).half().requires_grad_(),
        -torch.rand(300, 300).half(),
    )
)
def sum_of_squares_half(p, t):
    return ((p - t) ** 2).sum() / p.numel()  # <-- here


@wrong(
    lambda: (
        real(5, 4),
        plain(5, 4),
    )
)
def angular_pairs(a, b):
    return torch.log1p(torch.exp((a * b).sum(1) * 10)).mean()  # <-- here


@wrong(
    lambda: (
        real(8),
        real(8),
        torch.poisson(torch.rand(8) * 2),
    )
)
def poisson_zero_inflated(rate, gate, y):
    none = torch.sigmoid(gate) + (1 - torch.sigmoid(gate)) * torch.exp(-torch.exp(rate))
    some = torch.log(1 - torch.sigmoid(gate)) - torch.exp(rate.clamp(max=3)) + y * rate  # <-- here
    return -torch.where(y == 0, torch.log(none), some).mean()


@wrong(lambda: (real(5, 4),))
def entropy_of_logits(x):
    p = x.softmax(-1)
    return -(p * p.log()).sum(-1).mean()  # <-- here


@pytest.mark.parametrize("name", WRONG)
def test_it_is_found_with_its_line(name, found, marked):
    loss, inputs = WRONG[name]
    findings = found("LP302", loss, *inputs())
    places = [f.location.line for f in findings]
    places += [place.line for f in findings for _, place in f.related]
    assert marked(loss) in places


@pytest.mark.parametrize("name", WRONG)
def test_nan_domain_does_not_say_it_again(name, silent):
    loss, inputs = WRONG[name]
    silent("LP301", loss, *inputs())


def test_the_page(found, silent, page_code):
    wrong_loss, right_loss = {}, {}
    top = "import torch\nimport torch.nn.functional as F\n"
    exec(top + page_code("LP302", "Example"), wrong_loss)
    exec(top + page_code("LP302", "Use instead"), right_loss)
    inputs = real(6, 3), coins(6, 3)
    (finding,) = found("LP302", wrong_loss["bce"], *inputs)
    assert "logsigmoid" in finding.help
    assert silent("LP302", right_loss["bce"], *inputs) is Status.PROVED


def test_the_finding_says_at_which_magnitude(found):
    def loss(logits, y):
        p = torch.softmax(logits, 1)
        return -torch.log(p.gather(1, y[:, None])).mean()

    (finding,) = found("LP302", loss, real(6, 4), labels(4, 6))
    assert 50 <= finding.evidence["magnitude"] <= 160
    assert "float32" in finding.message
    assert "log_softmax" in finding.help


def test_float64_inputs_are_judged_by_the_type_of_training(found):
    def loss(x, y):
        return torch.log(1 + torch.exp(-y * x)).mean()

    assert found("LP302", loss, real(6).detach().double().requires_grad_(), signs(6).double())


def test_half_precision_is_compared_with_its_own_range(found, silent):
    def loss(p, t):
        return ((p - t) ** 2).sum().sqrt() / p.numel()

    x, y = torch.randn(64, 64) * 6, torch.randn(64, 64) * 6
    assert found("LP302", loss, x.half().requires_grad_(), y.half())
    assert silent("LP302", loss, x.requires_grad_(), y) is Status.PROVED


def test_an_overflow_of_the_true_value_is_no_fault(silent):
    assert silent("LP302", lambda x: torch.exp(x).mean(), real(6)) is Status.PROVED


def test_a_remote_magnitude_is_a_warning(found):
    def loss(x):
        return torch.sqrt((x**2).mean() - x.mean() ** 2)

    (finding,) = found("LP302", loss, real(16))
    assert "is added to `x`" in finding.message
    assert finding.severity is Severity.WARNING


def test_a_hidden_nan_that_makes_the_loss_raise_is_found(found, marked):
    def loss(x, y):
        odds = torch.exp(x)
        p = odds / (1 + odds)
        if bool(torch.isnan(p).any()):
            raise ValueError("the probabilities are broken")
        return torch.nn.functional.binary_cross_entropy(p.clamp(1e-6, 1 - 1e-6), y)

    (finding,) = found("LP302", loss, real(6), coins(6))
    assert "torch.exp(x)" in finding.message


def test_lines_of_one_computation_are_one_finding(found):
    def loss(x, y):
        e = torch.exp(x)
        p = e / e.sum(1, keepdim=True)
        return -torch.log(p[torch.arange(len(y)), y]).mean()

    (finding,) = found("LP302", loss, real(6, 4), labels(4, 6))
    assert finding.related


def test_a_random_loss_is_judged_with_its_own_numbers_fixed(silent):
    def loss(x):
        return ((x + torch.randn_like(x)) ** 2).mean()

    assert silent("LP302", loss, real(6)) is Status.PROVED


def test_no_gradient_is_wanted_of_widths_that_no_mixture_has(silent):
    def mixture(logits, mean, log_sigma, y):
        z = (y - mean) * torch.exp(-log_sigma)
        return -torch.logsumexp(logits.log_softmax(1) - 0.5 * z**2 - log_sigma, 1).mean()

    def clipped_ratio(logprobs, old_logprobs, gain):
        ratio = torch.exp(logprobs - old_logprobs)
        return torch.max(-gain * ratio, -gain * ratio.clamp(0.8, 1.2)).mean()

    assert silent("LP302", mixture, *(real(6, 3) for _ in range(3)), plain(6, 1)) is Status.PROVED
    assert silent("LP302", clipped_ratio, real(6), plain(6), plain(6).sin()) is Status.PROVED


def test_a_prediction_stays_near_what_it_is_compared_with(found, silent):
    def deviation(x, y):
        return torch.sqrt((x**2).mean() - x.mean() ** 2) + 0 * y.sum()

    assert silent("LP302", deviation, real(16), plain(16)) is Status.PROVED
    assert found("LP302", lambda x: deviation(x, x), real(16))
