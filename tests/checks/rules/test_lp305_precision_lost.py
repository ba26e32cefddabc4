"""LP305 precision-lost: what people write, with the line; the page; the exemptions."""

import pytest
import torch
import torch.nn.functional as F

from lossproof.checks.report import Severity, Status


def real(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).requires_grad_()


def plain(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


COINS = torch.tensor([0.0, 1, 0, 1, 1, 0])
LABELS = torch.tensor([0, 2, 1, 0, 1, 2])
WRONG = {}


def wrong(inputs):
    def keep(loss):
        WRONG[loss.__name__] = (loss, inputs)
        return loss

    return keep


@wrong(lambda: (real(6, 3),))
def variance_of_moments(x):
    return ((x**2).mean(0) - x.mean(0) ** 2).sum()  # <-- here


@wrong(lambda: (real(6, 3), real(6, 3)))
def distances_of_a_gram_matrix(x, y):
    squares = (x**2).sum(1) + (y**2).sum(1)
    return (squares - 2 * (x * y).sum(1)).clamp(min=1e-12).sqrt().mean()  # <-- here


@wrong(lambda: (real(6, 3), plain(6, 3)))
def angle_of_a_cosine(x, y):
    return torch.sqrt(1 - F.cosine_similarity(x, y) + 1e-12).mean()  # <-- here


@wrong(lambda: (real(20),))
def correlation_of_neighbours(x):
    one, two = x[1:], x[:-1]
    covariance = (one * two).mean() - one.mean() * two.mean()  # <-- here
    return 1 - covariance / x.var()


@pytest.mark.parametrize("name", WRONG)
def test_found_with_its_line(name, found, lines_of, marked):
    loss, inputs = WRONG[name]
    findings = found("LP305", loss, *inputs())
    assert lines_of(findings) == [marked(loss)]
    assert findings[0].severity is Severity.WARNING
    assert findings[0].evidence["relative error"] > 1e-2


EXCUSED = {}


def excused(inputs):
    def keep(loss):
        EXCUSED[loss.__name__] = (loss, inputs)
        return loss

    return keep


@excused(lambda: (real(6), COINS))
def eps_that_rounding_swallows(x, y):
    p = torch.sigmoid(x)
    wrong_way = torch.log(1 - p + 1e-8)
    return -(y * F.logsigmoid(x) + (1 - y) * wrong_way).mean()


@excused(lambda: (real(6, 4),))
def batch_covariance(x):
    second = x.T @ x / len(x) - x.mean(0)[:, None] * x.mean(0)[None]
    return second.pow(2).sum()


@excused(lambda: (real(6), COINS))
def eps_below_the_rounding(x, y, eps=1e-12):
    p = torch.sigmoid(x)
    return -(y * torch.log(p + eps) + (1 - y) * torch.log(1 - p + eps)).mean()


@excused(lambda: (real(8, 4), torch.arange(8) % 2))
def hardest_triplets(x, y):
    squares = x.pow(2).sum(1)
    distance = (squares[:, None] + squares[None] - 2 * x @ x.T).clamp(min=1e-12).sqrt()
    same = y[:, None] == y[None]
    nearest = distance.masked_fill(same, 1e9).min(1).values
    return F.relu(distance.masked_fill(~same, 0).max(1).values - nearest + 0.3).mean()


@excused(lambda: (real(12, 3), real(12, 3)))
def kernel_of_expanded_distances(x, y, blur=0.1):
    square = x.pow(2).sum(1)[:, None] + y.pow(2).sum(1)[None] - 2 * x @ y.T
    return -torch.exp(-square / (2 * blur**2)).mean() + (x - y).pow(2).mean()


@pytest.mark.parametrize("name", EXCUSED)
def test_digits_given_up_on_purpose_are_told_and_no_finding(name, verdicts):
    loss, inputs = EXCUSED[name]
    said = verdicts("LP305", loss, *inputs())
    assert {verdict.status for verdict in said} == {Status.UNPROVED}
    assert "is off by" in said[0].detail


DEAD = {}


def dead(inputs):
    def keep(loss):
        DEAD[loss.__name__] = (loss, inputs)
        return loss

    return keep


@dead(lambda: (real(6, 3), LABELS))
def log_of_a_softmax_plus_eps(x, y):
    p = F.softmax(x, 1)
    log_p = torch.log(p + 1e-8)  # <-- here
    return F.nll_loss(log_p, y)


@dead(lambda: (real(6), COINS))
def clamped_probability(x, y):
    p = torch.sigmoid(x).double()
    p = torch.clamp(p, 1e-7, 1 - 1e-7)  # <-- here
    return -(y * p.log() + (1 - y) * (1 - p).log()).mean()


@dead(lambda: (real(6, 3), LABELS))
def focal_with_eps(x, y, gamma=2.0, eps=1e-9):
    p = F.softmax(x, 1)[torch.arange(len(y)), y]
    weight = (1 - p) ** gamma
    return -(weight * torch.log(p + eps)).mean()  # <-- here


@pytest.mark.parametrize("name", DEAD)
def test_a_gradient_that_a_tiny_constant_takes_away_is_told(name, verdicts, marked):
    loss, inputs = DEAD[name]
    said = verdicts("LP305", loss, *inputs())
    assert {verdict.status for verdict in said} == {Status.UNPROVED}
    assert any(f":{marked(loss)}" in v.detail and "learns nothing" in v.detail for v in said)


RIGHT = [
    (
        lambda x, y: -torch.log(F.softmax(x, 1).clamp(min=1e-2))[:, 0].mean() + 0 * y,
        lambda: (real(6, 3), 0.0),
    ),
    (lambda x, y: F.nll_loss(F.log_softmax(x + 1e-8, 1), y), lambda: (real(6, 3), LABELS)),
    (lambda x, y: torch.sqrt((x - y) ** 2 + 1e-12).mean(), lambda: (real(6), plain(6))),
    (
        lambda x, y: 1 - (x.sigmoid() * y).sum() / (x.sigmoid().sum() + y.sum() + 1e-6),
        lambda: (real(6), COINS),
    ),
    (lambda x, y: F.relu(1 - x * (2 * y - 1) + 1e-8).mean(), lambda: (real(6), COINS)),
    (lambda x, y: F.mse_loss(x, y), lambda: (real(6), plain(6))),
    (lambda x, y: (x - y).abs().mean(), lambda: (real(6), plain(6))),
    (lambda x, y: F.cross_entropy(x, y), lambda: (real(6, 3), LABELS)),
    (lambda x, y: F.binary_cross_entropy_with_logits(x, y), lambda: (real(6), COINS)),
    (lambda x: x.var(0).sum(), lambda: (real(6, 3),)),
    (lambda x, y: (x - y).pow(2).sum(1).sqrt().mean(), lambda: (real(6, 3), plain(6, 3))),
    (lambda x, y: (1 - F.cosine_similarity(x, y)).mean(), lambda: (real(6, 3), plain(6, 3))),
    (lambda x, y: torch.logsumexp(x, 1).sub(x[:, 0]).mean() + 0 * y, lambda: (real(6, 3), 0.0)),
    # A squared distance that is wrong by rounding is tiny beside the loss at the given inputs.
    (lambda x, y: (x**2 + y**2 - 2 * x * y).mean(), lambda: (real(6), plain(6))),
    # As uncertain as its inputs: nobody can compute the sine of 1000 better.
    (lambda x: torch.sin(1e4 * x).mean(), lambda: (real(6),)),
    (lambda x, y: F.huber_loss(x, y), lambda: (real(6), plain(6))),
    (lambda x: F.relu(x).sort().values.diff().mean(), lambda: (real(6),)),
]


@pytest.mark.parametrize(("loss", "inputs"), RIGHT)
def test_silent(loss, inputs, silent):
    assert silent("LP305", loss, *inputs()) is Status.PROVED


def test_random_numbers_are_not_compared(verdicts):
    said = verdicts("LP305", lambda x: (x * torch.randn_like(x)).sum(), real(6))
    assert said[0].status is Status.UNPROVED
    assert "random" in said[0].detail


def test_what_cannot_be_raised_is_not_applicable(verdicts):
    said = verdicts("LP305", lambda p: (p * p.log()).sum(), torch.full((3,), 0.5))
    assert said[0].status is Status.NOT_APPLICABLE


@pytest.mark.parametrize("section", ["Example", "Use instead"])
def test_the_page_is_true(section, page_code, module_of, found):
    source = "import torch\n" + page_code("LP305", section)
    module = module_of(source, f"lp305_{section.lower().replace(' ', '_')}")
    findings = found("LP305", module.spread_loss, real(6, 3))
    assert len(findings) == (1 if section == "Example" else 0)


def test_the_clamp_of_binary_cross_entropy_is_torchs_own(verdicts):
    def segmentation_loss(logits, mask):
        return F.binary_cross_entropy(torch.sigmoid(logits), mask)

    said = verdicts("LP305", segmentation_loss, "float[6,4]", "unit[6,4]")
    assert [verdict.status for verdict in said] == [Status.UNPROVED]
    assert "binary_cross_entropy_with_logits" in said[0].detail


def test_an_offset_is_shared_by_what_is_compared(silent):
    """The dual step of entropic optimal transport, far from its target."""

    def transport(x, y):
        cost = (x[:, None] - y[None]) ** 2
        f = torch.zeros(len(x))
        for _ in range(10):
            g = -torch.logsumexp(f[:, None] - cost, 0)
            f = -torch.logsumexp(g[None] - cost, 1)
        return (torch.exp(f[:, None] + g[None] - cost) * cost).sum() / len(x)

    assert silent("LP305", transport, "float[5]", "float[5]") is Status.PROVED
