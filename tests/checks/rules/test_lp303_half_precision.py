"""LP303 half-precision: what people write, with the line; the page; the exemptions."""

import re

import pytest
import torch
import torch.nn.functional as F

from lossproof.checks.report import Severity, Status


def real(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3)).requires_grad_()


def plain(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(6))


KEEP = torch.tensor([[True, False, True], [True, True, False]])
WRONG = {}


def wrong(inputs):
    def keep(loss):
        WRONG[loss.__name__] = (loss, inputs)
        return loss

    return keep


@wrong(lambda: (real(2, 3), KEEP))
def mask_of_minus_a_billion(logits, keep):
    filled = logits.masked_fill(~keep, -1e9)  # <-- here
    return torch.logsumexp(filled, 1).mean()


@wrong(lambda: (real(4, 3), plain(4, 3)))
def eps_that_is_0(p, t):
    far = (p - t).detach().relu() * 0
    return torch.sqrt((far * p).pow(2).sum(1) + 1e-8).mean()  # <-- here


@wrong(lambda: (torch.full((300, 300), 0.9).requires_grad_(), torch.ones(300, 300)))
def dice_over_an_image(p, t):
    both = (p * t).sum()  # <-- here
    return 1 - 2 * both / (p.sum() + t.sum())


@wrong(lambda: (real(6), plain(6)))
def scaled_squares(p, t):
    squares = (400 * (p - t)) ** 2  # <-- here
    return squares.mean() / 400**2


@wrong(lambda: (real(6, 3), plain(6, 3)))
def cosine_by_hand(p, t):
    none = p * 0
    lengths = none.norm(dim=1) * t.norm(dim=1) + 1e-8
    return 1 - ((none * t).sum(1) / lengths).mean()  # <-- here


def under_autocast(call):
    with torch.autocast("cpu", dtype=torch.float16):
        return call()


@pytest.mark.parametrize("name", WRONG)
def test_found_with_its_line_where_half_precision_is_meant(name, found, lines_of, marked):
    loss, inputs = WRONG[name]
    findings = under_autocast(lambda: found("LP303", loss, *inputs()))
    assert lines_of(findings) == [marked(loss)]
    assert findings[0].severity is Severity.WARNING


@pytest.mark.parametrize("name", WRONG)
def test_told_and_no_finding_where_nothing_shows_that_it_is(name, verdicts, silent, marked):
    loss, inputs = WRONG[name]
    silent("LP303", loss, *inputs())
    said = verdicts("LP303", loss, *inputs())
    told = [v.detail for v in said if v.status is Status.UNPROVED]
    place = re.compile(rf":{marked(loss)}\b")
    assert any("float16" in detail and place.search(detail) for detail in told)


RIGHT = [
    (lambda x, y: F.mse_loss(x, y), lambda: (real(6), plain(6))),
    (lambda x, y: F.cross_entropy(x, y), lambda: (real(6, 3), torch.tensor([0, 1, 2, 2, 1, 0]))),
    (lambda x, y: F.huber_loss(x, y), lambda: (real(6), plain(6))),
    (lambda x, y: ((x.float() - y.float()) * 400).pow(2).mean() / 400**2,
     lambda: (real(6), plain(6))),
    (lambda x, k: x.masked_fill(~k, torch.finfo(x.dtype).min).logsumexp(1).mean(),
     lambda: (real(2, 3), KEEP)),
    (lambda x, k: x.masked_fill(~k, float("-inf")).logsumexp(1).mean(), lambda: (real(2, 3), KEEP)),
    (lambda x, y: torch.sqrt((x - y).pow(2).sum() + 1e-4), lambda: (real(6), plain(6))),
    # The result has no room in float16 by its mathematics.
    (lambda x, y: (x * 1000 - y).pow(2).sum(), lambda: (real(6), plain(6))),
    (lambda x, y: (F.softmax(x, 1) * y).sum(), lambda: (real(6, 3), plain(6, 3))),
    (lambda x, y: 1 - F.cosine_similarity(x, y).mean(), lambda: (real(6, 3), plain(6, 3))),
]  # fmt: skip


@pytest.mark.parametrize(("loss", "inputs"), RIGHT)
def test_silent(loss, inputs, silent):
    under_autocast(lambda: silent("LP303", loss, *inputs()))


def test_half_inputs_show_that_half_precision_is_meant(found):
    # The value is finite and has no correct digit: 2048 + 1 is 2048 in float16.
    def lost(x, y):
        total = x.detach() * 0 + 2048
        return ((total + x) - total - y).pow(2).mean()

    x = torch.full((8,), 0.4).half().requires_grad_()
    findings = found("LP303", lost, x, torch.zeros(8).half())
    assert [finding.cause for finding in findings] == ["rounding"]
    assert "float16" in findings[0].notes[0]


def test_what_breaks_in_the_type_of_the_inputs_is_for_lp302(verdicts):
    loss, inputs = WRONG["scaled_squares"]
    said = verdicts("LP303", loss, *(value.detach().half() for value in inputs()))
    assert said[0].status is Status.UNPROVED
    assert "LP302" in said[0].detail


@pytest.mark.parametrize("section", ["Example", "Use instead"])
def test_the_page_is_true(section, page_code, module_of, found):
    module = module_of(page_code("LP303", section), f"lp303_{section.lower().replace(' ', '_')}")
    image = torch.full((300, 300), 0.9).requires_grad_(), torch.ones(300, 300)
    findings = under_autocast(lambda: found("LP303", module.dice, *image))
    assert len(findings) == (1 if section == "Example" else 0)
