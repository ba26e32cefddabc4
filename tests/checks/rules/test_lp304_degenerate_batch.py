"""LP304 degenerate-batch: what people write, with the line; the page; the exemptions."""

import math

import pytest
import torch
import torch.nn.functional as F

from lossproof.checks.report import Finding, Status
from lossproof.checks.rules import RULES

MASK = torch.tensor([[1.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
LABELS = torch.tensor([0, 2, 1, 0, 1, 2])
EVENTS = torch.tensor([1.0, 0, 1, 1, 0, 0])
SIGNS = torch.tensor([1.0, -1, -1, 1, -1, 1])


def real(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4)).requires_grad_()


def plain(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


WRONG = {}
RIGHT = {}


def wrong(cause, inputs):
    def keep(loss):
        WRONG[loss.__name__] = (loss, inputs, cause)
        return loss

    return keep


def right(inputs):
    def keep(loss):
        RIGHT[loss.__name__] = (loss, inputs)
        return loss

    return keep


# ---------------------------------------------------------------------------- wrong
@wrong("div-forward", lambda: (real(4, 3), plain(4, 3), MASK))
def masked_mse(p, t, mask):
    return ((p - t) ** 2 * mask).sum() / mask.sum()  # <-- here


@wrong("div-forward", lambda: (real(4, 3), plain(4, 3), MASK))
def masked_mse_of_each_sample(p, t, mask):
    each = ((p - t) ** 2 * mask).sum(1)
    return (each / mask.sum(1)).mean()  # <-- here


@wrong("div-forward", lambda: (real(6, 3), LABELS))
def boxes_of_positives(p, labels):
    positive = labels > 0
    total = F.smooth_l1_loss(p[positive], torch.zeros_like(p[positive]), reduction="sum")
    return total / positive.sum()  # <-- here


@wrong("div-forward", lambda: (real(6, 3), LABELS))
def cross_entropy_by_hand(logits, labels, ignore_index=-1):
    valid = labels != ignore_index
    each = F.cross_entropy(logits, labels.clamp(min=0), reduction="none")
    return (each * valid).sum() / valid.sum()  # <-- here


@wrong("div-forward", lambda: (real(6), EVENTS))
def balanced_bce(x, y):
    weight = (y == 0).sum() / (y == 1).sum()  # <-- here
    return F.binary_cross_entropy_with_logits(x, y, pos_weight=weight)


@wrong("constant", lambda: (real(6, 3), LABELS))
def early_zero(emb, labels):
    positive = (labels[:, None] == labels[None]).triu(1)
    if not (labels > 0).any():
        return torch.zeros(())  # <-- here
    return torch.cdist(emb, emb)[positive].clamp(min=0.1).mean()


@wrong("exception", lambda: (real(6, 3), LABELS))
def stack_of_nothing(emb, labels):
    pairs = [(i, j) for i, one in enumerate(labels) for j, two in enumerate(labels) if one != two]
    found = [F.relu(1.0 - (emb[i] - emb[j]).pow(2).sum()) for i, j in pairs]
    return torch.stack(found).mean()  # <-- here


@wrong("exception", lambda: (real(6, 1), plain(6)))
def squeezed(x, t):
    x = x.squeeze()
    return torch.stack([(x[i] - t[i]) ** 2 for i in range(len(t))]).mean()  # <-- here


@wrong("zero-division", lambda: (real(6, 3), plain(6, 3), [(0, 1), (2, 2)]))
def matches_in_a_list(p, t, matches):
    total = p.sum() * 0
    for i, j in matches:
        total = total + (p[i] - t[j]).abs().sum()
    return total * (1 / len(matches))  # <-- here


@wrong("zero-division", lambda: (real(6, 3), LABELS))
def count_as_a_number(p, labels):
    chosen = (labels > 0).nonzero().flatten()
    return p[chosen].pow(2).sum() * (1.0 / len(chosen))  # <-- here


@wrong("div-forward", lambda: (real(6), plain(6), torch.tensor([0.5, 0, 2, 0, 0, 1])))
def weighted_mse(p, t, weight):
    return (weight * (p - t) ** 2).sum() / weight.sum()  # <-- here


@wrong("div-forward", lambda: (real(6), SIGNS))
def ranking_of_signs(x, y):
    rise = F.relu(1 - x[y > 0]).sum() / (y > 0).sum()  # <-- here
    return rise + F.relu(x).mean()


@wrong("exception", lambda: (real(6), EVENTS))
def hardest_negative(x, y):
    return F.relu(x[y == 0].max() - x.mean() + 0.2)  # <-- here


@wrong("div-forward", lambda: (real(20, 3), torch.tensor([3, 5, 7, 9, 1])))
def pixels_at(p, index):
    chosen = p[index]
    return chosen.pow(2).sum() / torch.tensor(chosen.shape[0])  # <-- here


@wrong("div-forward", lambda: (real(6), plain(6)))
def percentage_error(p, t):
    return ((p - t) / t).abs().mean()  # <-- here


@wrong("div-forward", lambda: (real(6), plain(6)))
def explained_variance(p, t):
    return ((p - t) ** 2).sum() / ((t - t.mean()) ** 2).sum()  # <-- here


@wrong("constant", lambda: (real(6), EVENTS))
def early_number(x, y):
    if y.sum() == 0:
        return 0.0  # <-- here
    return (x * y).mean()


@wrong("div-forward", lambda: (real(6, 5), torch.tensor([0, 1, 2, 0, 1, 2])))
def supervised_contrast(z, labels):
    z = F.normalize(z, dim=1)
    mine = torch.eye(len(z), dtype=torch.bool)
    log_p = F.log_softmax((z @ z.T / 0.1).masked_fill(mine, -1e4), dim=1)
    same = ((labels[:, None] == labels[None]) & ~mine).float()
    return -((same * log_p).sum(1) / same.sum(1)).mean()  # <-- here


@wrong("div-forward", lambda: (real(5, 3), plain(7, 3), torch.tensor([[0, 1], [2, 2], [3, 0]])))
def pairs_of_rows(p, t, pairs):
    return (p[pairs[:, 0]] - t[pairs[:, 1]]).abs().sum() / len(pairs)  # <-- here


@wrong("div-forward", lambda: (real(6), plain(6), EVENTS.bool()))
def cox_over_events(risk, time, event):
    order = time.argsort(descending=True)
    risk, event = risk[order], event[order]
    return -(risk - torch.logcumsumexp(risk, 0))[event].sum() / event.sum()  # <-- here


@wrong("div-forward", lambda: (real(2, 3, 4), torch.tensor([[0, 255, 1, 2], [2, 1, 0, 255]])))
def void_pixels(logits, labels):
    valid = labels != 255
    each = F.cross_entropy(logits, labels.clamp(max=2), reduction="none")
    return (each * valid).sum() / valid.sum()  # <-- here


@pytest.mark.parametrize("name", WRONG)
def test_found_with_its_line(name, found, lines_of, marked):
    loss, inputs, cause = WRONG[name]
    findings = found("LP304", loss, *inputs())
    assert lines_of(findings) == [marked(loss)]
    assert findings[0].cause == cause


# ---------------------------------------------------------------------------- right
@right(lambda: (real(4, 3), plain(4, 3), MASK))
def clamped_count(p, t, mask):
    return ((p - t) ** 2 * mask).sum() / mask.sum().clamp(min=1)


@right(lambda: (real(4, 3), plain(4, 3), MASK))
def count_with_eps(p, t, mask):
    return ((p - t) ** 2 * mask).sum() / (mask.sum() + 1e-8)


@right(lambda: (real(6, 3), LABELS))
def connected_zero(emb, labels):
    if not (labels > 0).any():
        return emb.sum() * 0.0
    return emb[labels > 0].pow(2).mean()


@right(lambda: (real(6), EVENTS))
def refused_in_words(x, y):
    if not y.any():
        raise ValueError("no events in this batch")
    return (x * y).sum() / y.sum()


@right(lambda: (real(6, 3), LABELS))
def torch_with_everything_ignored(logits, labels):
    return F.cross_entropy(logits, labels, ignore_index=2)


@right(lambda: (real(6), plain(6), torch.tensor([0.5, 1, 2, 3, 0.1, 1])))
def weights_that_are_never_0(p, t, weight):
    return (weight * (p - t) ** 2).sum() / weight.sum()


@right(lambda: (real(3, 4), torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])))
def padding(p, mask):
    return (p.pow(2) * mask).sum() / mask.sum()


@right(lambda: (real(6, 4), real(6, 4)))
def compares_samples(a, b):
    similarity = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
    negatives = similarity[~torch.eye(len(a), dtype=torch.bool)].reshape(len(a), -1)
    return torch.relu(0.2 + negatives.max(1).values - similarity.diag()).mean()


@right(lambda: (real(40), torch.arange(40) % 2))
def rarer_than_one_in_a_million(x, y):
    return (x * y).sum() / y.sum()


@right(lambda: (real(6), torch.ones(6)))
def zero_is_never_seen(x, event):
    return (x * event).sum() / event.sum()


@right(lambda: (real(6, 3), LABELS))
def means_of_the_classes_that_occur(emb, labels):
    centers = torch.stack([emb[labels == k].mean(0) for k in labels.unique()])
    return centers.pow(2).sum()


@right(lambda: (real(6), EVENTS))
def loop_over_samples(x, y):
    total = torch.zeros(())
    for one, event in zip(x, y, strict=True):
        total = total + one * event
    return total / max(len(x), 1)


@right(lambda: (real(6, 3), torch.tensor([[0, 1, 2, 3, 5], [1, 2, 0, 5, 4]])))
def differences_along_edges(h, edge_index):
    source, target = edge_index
    return (h[source] - h[target]).pow(2).sum()


@right(lambda: (real(6, 3), real(6, 4), torch.tensor([0, 2]), plain(2, 4)))
def labels_without_their_boxes(logits, boxes, labels, true_boxes):
    cost = torch.cdist(boxes, true_boxes) - logits.softmax(1)[:, labels]
    return cost.sum() / max(len(labels), 1)


@right(lambda: (real(6, 3), real(6, 3)))
def uniformity(x, y):
    # Without samples torch's backward pass of `pdist` would end this process.
    return (x - y).pow(2).mean() + torch.pdist(x).pow(2).mul(-2).exp().sum()


@pytest.mark.parametrize("name", RIGHT)
def test_silent(name, silent):
    loss, inputs = RIGHT[name]
    silent("LP304", loss, *inputs())


@right(lambda: (real(6), plain(6)))
def log_of_squared_targets(p, t):
    return (p - torch.log(t**2 + 1e-6)).pow(2).mean()


@right(lambda: (real(6), plain(6).abs() + 0.5))
def prices_are_never_0(p, t):
    return ((p - t) / t).abs().mean()


# ---------------------------------------------------------------------------- what it says
def test_the_mean_of_an_empty_selection_is_told_and_is_no_finding(verdicts):
    def loss(x, y):
        return x[y == 1].mean()

    said = verdicts("LP304", loss, real(6), EVENTS)
    told = [verdict for verdict in said if getattr(verdict, "status", None) is Status.UNPROVED]
    assert len(told) == 1
    assert "everything is 0 in `y`" in told[0].detail
    assert "`mean`" in told[0].detail


def test_evidence_tells_how_often_such_a_batch_comes(found):
    loss, inputs, _ = WRONG["ranking_of_signs"]
    evidence = found("LP304", loss, *inputs())[0].evidence
    assert evidence["value"] == "nan"
    assert math.isclose(evidence["share of batches"], 0.5**6)


def test_a_line_is_reported_once(examination):
    def pearson(x, y):
        x, y = x - x.mean(), y - y.mean()
        return 1 - (x * y).sum() / (x.norm() * y.norm())

    case = examination(pearson, real(6), plain(6))
    first = [v for v in RULES["LP301"].examine(case) if isinstance(v, Finding)]
    assert len(first) == 1
    assert not [v for v in RULES["LP304"].examine(case) if isinstance(v, Finding)]


def test_nothing_to_go_without(verdicts):
    def loss(p):
        return (p**2).mean()

    assert verdicts("LP304", loss, real(1))[0].status is Status.NOT_APPLICABLE


def test_a_loss_that_is_not_finite_anyway_is_left_to_other_rules(verdicts):
    def loss(p, mask):
        return (p * mask).sum() / 0

    assert verdicts("LP304", loss, real(4, 3), MASK)[0].status is Status.UNPROVED


@pytest.mark.parametrize("section", ["Example", "Use instead"])
def test_the_page_is_true(section, page_code, module_of, found):
    module = module_of(page_code("LP304", section), f"lp304_{section.lower().replace(' ', '_')}")
    findings = found("LP304", module.masked_mse, real(4, 3), plain(4, 3), MASK)
    assert len(findings) == (1 if section == "Example" else 0)


def test_an_ignored_label_that_no_inputs_show_may_be_no_position(silent):
    class Gathering(torch.nn.Module):
        def __init__(self, ignore_index=-100):
            super().__init__()
            self.ignore_index = ignore_index

        def forward(self, input, target):
            losses = -input.log_softmax(1).gather(1, target[:, None])[:, 0]
            return losses[target != self.ignore_index].mean()

    silent("LP304", Gathering(), "float[6,4]", "int[6]<4")


def test_a_matrix_without_an_inverse_is_said_by_torch(silent):
    def mahalanobis(input, target):
        gap = input - target
        inverse = torch.linalg.inv(target.T @ target)
        return (gap @ inverse * gap).sum(1).mean()

    silent("LP304", mahalanobis, "float[6,3]", "float[6,3]")


def foreground_loss(prediction, target, mask):
    return F.l1_loss(prediction[mask], target[mask])  # <-- here


def guarded_foreground_loss(prediction, target, mask):
    gap = (prediction - target).abs() * mask
    return gap.sum() / mask.sum().clamp(min=1)


def test_a_reference_that_is_finite_convicts_the_mean_of_nothing(found, silent, marked):
    torch.manual_seed(0)
    inputs = torch.randn(6).requires_grad_(), torch.randn(6), torch.arange(6) % 3 == 0
    silent("LP304", foreground_loss, *inputs)
    silent("LP304", foreground_loss, *inputs, reference=foreground_loss)
    (finding,) = found("LP304", foreground_loss, *inputs, reference=guarded_foreground_loss)
    assert finding.cause == "beside-reference"
    assert finding.location.line == marked(foreground_loss)
