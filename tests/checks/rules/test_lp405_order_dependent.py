"""LP405 order-dependent: the samples in another order."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.report import Severity, Status

N = 8
GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=GENERATOR)


SURVIVAL = (normal(N), torch.rand(N, generator=GENERATOR), torch.tensor([1.0, 0, 1, 1, 0, 1, 1, 0]))
PAIR = (normal(N, 3), normal(N, 3))


def running(risk, time, event):
    at_risk = torch.log(torch.cumsum(risk.exp(), 0))  # <-- here
    return -((risk - at_risk) * event).sum() / event.sum()


def stable(hazard, duration, status):
    at_risk = hazard.reshape(-1).logcumsumexp(dim=0)  # <-- here
    return -((hazard.reshape(-1) - at_risk) * status).mean()


def triangle(risk, time, event):
    at_risk = torch.tril(torch.ones(len(risk), len(risk))) @ risk.exp()  # <-- here
    return -((risk - at_risk.log()) * event).sum()


def loop(risk, time, event):
    total = 0.0
    for i in range(len(risk)):
        total = total - event[i] * (risk[i] - risk[: i + 1].logsumexp(0))  # <-- here
    return total / event.sum()


def columns(risk, target):
    event = target[:, 1]
    return -((risk - risk.logcumsumexp(0)) * event).mean()  # <-- here


class Backwards(nn.Module):
    def forward(self, risk, event):
        at_risk = risk.flip(0).logcumsumexp(0).flip(0)  # <-- here
        return -((risk - at_risk) * event).mean()


@pytest.mark.parametrize(
    ("loss", "inputs", "severity"),
    [
        (running, SURVIVAL, Severity.ERROR),
        (stable, SURVIVAL, Severity.ERROR),
        (triangle, SURVIVAL, Severity.ERROR),
        (loop, SURVIVAL, Severity.ERROR),
        (columns, (SURVIVAL[0], torch.stack(SURVIVAL[1:], 1)), Severity.WARNING),
        (Backwards, (SURVIVAL[0], SURVIVAL[2]), Severity.WARNING),
    ],
)
def test_an_unsorted_risk_set_is_found(loss, inputs, severity, found, marked):
    (finding,) = found("LP405", loss, *inputs)
    assert finding.cause == "unsorted-risk-set"
    assert finding.severity is severity
    assert finding.location.line == marked(loss.forward if isinstance(loss, type) else loss)
    assert finding.evidence["value"] != finding.evidence["permuted"]


def against_quantiles(input, target):
    values, _ = input.sort(0)  # <-- here
    return F.mse_loss(values, target)


def test_a_tensor_sorted_alone_is_found(found, marked):
    (finding,) = found("LP405", against_quantiles, *PAIR)
    assert finding.cause == "sorted-alone"
    assert finding.location.line == marked(against_quantiles)


# ------------------------------------------------------------------ not reported


def sorted_first(risk, time, event):
    order = torch.argsort(time, descending=True)
    risk, event = risk[order], event[order]
    return -((risk - risk.logcumsumexp(0)) * event).sum() / event.sum()


def compared(risk, time, event):
    at_risk = (time[None] >= time[:, None]).to(risk) @ risk.exp()
    return -((risk - at_risk.log()) * event).sum() / event.sum()


def both_sorted(input, target):
    return F.mse_loss(input.sort(0)[0], target.sort(0)[0])


def info_nce(query, key):
    return F.cross_entropy(query @ key.T, torch.arange(len(query)))


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (F.mse_loss, PAIR),
        (nn.MSELoss(reduction="none"), PAIR),
        (sorted_first, SURVIVAL),
        (compared, SURVIVAL),
        (both_sorted, PAIR),
        (info_nce, PAIR),
        (F.mse_loss, (normal(1, 3), normal(1, 3))),
    ],
)
def test_any_order_gives_the_same(loss, inputs, silent):
    assert silent("LP405", loss, *inputs) is Status.PROVED


def opposite_halves(input):
    first, second = input.chunk(2)
    return F.mse_loss(first, second)


def neighbours(input):
    return F.relu(input[1::2] - input[0::2] + 1).mean()


@pytest.mark.parametrize("loss", [opposite_halves, neighbours])
def test_ordered_pairs_are_no_fault(loss, silent):
    assert silent("LP405", loss, normal(N, 3)) is Status.NOT_APPLICABLE


def smoothness(signal, target):
    return F.mse_loss(signal, target) + (signal[1:] - signal[:-1]).abs().mean()


def earth_mover(input, target):
    return (input.softmax(0).cumsum(0) - target.softmax(0).cumsum(0)).square().sum()


def cox_loss_sorted(risk, time, event):
    return -((risk - risk.logcumsumexp(0)) * event).mean()


def documented(risk, time, event):
    """Negative partial log-likelihood of rows sorted by descending time."""
    return -((risk - risk.logcumsumexp(0)) * event).mean()


def drawing(input, target):
    return F.mse_loss(input + torch.randn_like(input), target)


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (smoothness, (normal(N), normal(N))),
        (earth_mover, (normal(N), normal(N))),
        (cox_loss_sorted, SURVIVAL),
        (documented, SURVIVAL),
        (drawing, PAIR),
    ],
)
def test_an_order_that_may_be_data_is_told_and_not_reported(loss, inputs, silent):
    assert silent("LP405", loss, *inputs) is Status.UNPROVED


def test_without_samples_it_does_not_apply(silent):
    assert silent("LP405", torch.square, torch.tensor(2.0)) is Status.NOT_APPLICABLE


def test_the_page(page_code, module_of, found, silent):
    bad = module_of("import torch\n\n\n" + page_code("LP405", "Example"), "bad")
    good = module_of("import torch\n\n\n" + page_code("LP405", "Use instead"), "good")
    (finding,) = found("LP405", bad.cox_loss, *SURVIVAL)
    assert finding.location.line == 5
    silent("LP405", good.cox_loss, *SURVIVAL)
