"""LP106 wrong-axis: along the batch, along another axis than the one that is read, mixed axes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.report import Status
from lossproof.checks.reshaping import mixed_axis
from lossproof.checks.rules import RULES

N, T, C, D = 6, 7, 5, 4
GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=GENERATOR)


def labels(*shape, classes=C):
    return torch.randint(0, classes, shape, generator=GENERATOR)


CLASSES = (normal(N, C), labels(N))
ONE_HOT = (normal(N, C), F.one_hot(labels(N), C).float())
TEACHER = (normal(N, C), normal(N, C))
TOKENS = (normal(N, T, C), labels(N, T))
PIXELS = (normal(2, C, 3, 4), labels(2, 3, 4))
PIXEL_PAIR = (normal(2, C, 3, 4), normal(2, C, 3, 4))
VECTORS = (normal(N, D), normal(N, D))


# ------------------------------------------------------------------ found


def picked_classes(logits, target):
    return F.nll_loss(F.log_softmax(logits, dim=0), target)  # <-- here


def gathered(logits, target):
    logs = torch.log_softmax(logits, 0)  # <-- here
    return -logs.gather(1, target[:, None]).mean()


def one_hot_product(logits, target):
    return -(target * logits.log_softmax(0)).sum(1).mean()  # <-- here


def probabilities(logits, target):
    p = logits.softmax(dim=0)  # <-- here
    return -(target * torch.log(p + 1e-9)).sum(1).mean()


def over_time(logits, target):
    logs = F.log_softmax(logits, dim=1)  # <-- here
    return F.nll_loss(logs.reshape(-1, logs.shape[-1]), target.reshape(-1))


def implicit(logits, target):
    logs = F.log_softmax(logits)  # <-- here
    return F.nll_loss(logs.reshape(-1, logs.shape[-1]), target.reshape(-1))


def time_first(logits, targets, input_lengths, target_lengths):
    logs = logits.log_softmax(1)  # <-- here
    return F.ctc_loss(logs, targets, input_lengths, target_lengths)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.LogSoftmax(dim=0)

    def forward(self, logits, target):
        return F.nll_loss(self.layer(logits), target)  # <-- here


def brier_over_batch(logits, target):
    return ((logits.softmax(0) - target) ** 2).sum(1).mean()  # <-- here


def distilled_over_batch(student, teacher):
    logs = F.log_softmax(student / 2, dim=0)  # <-- here
    return F.kl_div(logs, F.softmax(teacher / 2, dim=0), reduction="batchmean")


def flattened(logits, target):
    p = logits.reshape(-1).softmax(0).reshape(logits.shape)  # <-- here
    return -(target * p.log()).sum(1).mean()


def by_hand(logits, target):
    e = logits.exp()
    p = e / e.sum(0)  # <-- here
    return -(target * p.log()).sum(1).mean()


def by_hand_over_all(logits, target):
    e = logits.exp()
    p = e / e.sum()  # <-- here
    return -p.gather(1, target[:, None]).log().mean()


SPEECH = (
    normal(T, 2, C),
    labels(2, 3, classes=C - 1) + 1,
    torch.tensor([T, T]),
    torch.tensor([3, 2]),
)
SOFTMAX_CASES = [
    (time_first, SPEECH),
    (by_hand, ONE_HOT),
    (by_hand_over_all, CLASSES),
    (picked_classes, CLASSES),
    (gathered, CLASSES),
    (one_hot_product, ONE_HOT),
    (probabilities, ONE_HOT),
    (over_time, TOKENS),
    (implicit, TOKENS),
    (Layer, CLASSES),
    (brier_over_batch, ONE_HOT),
    (distilled_over_batch, TEACHER),
    (flattened, ONE_HOT),
]


def normalised(input, target):
    input, target = F.normalize(input, dim=0), F.normalize(target, dim=1)  # <-- here
    return 1 - (input * target).sum(1).mean()


def cosine(input, target):
    return 1 - F.cosine_similarity(input, target, dim=0).mean()  # <-- here


def norms_by_hand(input, target):
    input = input / input.norm(dim=0, keepdim=True)  # <-- here
    return 1 - (input * F.normalize(target, dim=1)).sum(1).mean()


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [(norms_by_hand, VECTORS), *SOFTMAX_CASES, (normalised, VECTORS), (cosine, VECTORS)],
)
def test_the_wrong_axis_is_found(loss, inputs, found, marked):
    (finding,) = found("LP106", loss, *inputs)
    assert finding.location.line == marked(loss.forward if isinstance(loss, type) else loss)
    assert finding.cause in {
        "softmax-over-batch",
        "normalised-along-other-axis",
        "normalised-over-batch",
    }


def rows_of_pixels(logits, target):
    flat = logits.view(-1, logits.shape[1])  # <-- here
    return F.cross_entropy(flat, target.view(-1))


def rows_per_image(student, teacher):
    n, c = student.shape[:2]
    p = student.reshape(n, -1, c).softmax(-1)  # <-- here
    return ((p - teacher.permute(0, 2, 3, 1).reshape(n, -1, c).softmax(-1)) ** 2).sum(-1).mean()


def classes_second(logits, target):
    n, t, c = logits.shape
    return F.cross_entropy(logits.view(n, c, t), target)  # <-- here


def pixels_of_both(student, teacher):
    c = student.shape[1]
    q = F.softmax(teacher.contiguous().view(-1, c), dim=1)
    return -(q * F.log_softmax(student.contiguous().view(-1, c), dim=1)).sum(1).mean()  # <-- here


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (rows_of_pixels, PIXELS),
        (rows_per_image, PIXEL_PAIR),
        (classes_second, TOKENS),
        (pixels_of_both, PIXEL_PAIR),
    ],
)
def test_a_view_for_a_permute_is_found(loss, inputs, found, marked):
    (finding,) = found("LP106", loss, *inputs)
    assert finding.cause == "view-for-permute"
    assert finding.location.line == marked(loss)
    assert "transpose" in finding.help or "permute" in finding.help


def penalty_of_gradient(weight, x):
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(torch.tanh(x @ weight).sum(), x, create_graph=True)
    return (g.norm(2) - 1) ** 2  # <-- here


def penalty_by_hand(weight, x):
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(torch.tanh(x @ weight).sum(), x, create_graph=True)
    return (torch.sqrt((g**2).sum() + 1e-16) - 1).square()  # <-- here


@pytest.mark.parametrize("loss", [penalty_of_gradient, penalty_by_hand])
def test_a_norm_over_the_batch_is_found(loss, found, marked):
    (finding,) = found("LP106", loss, normal(D), normal(N, D))
    assert finding.cause == "norm-over-batch"
    assert finding.evidence["batch"] == N
    assert finding.location.line == marked(loss)


# ------------------------------------------------------------------ not reported


def info_nce(query, key):
    scores = F.normalize(query, dim=1) @ F.normalize(key, dim=1).T
    return -scores.log_softmax(0).diagonal().mean()


def clip(image, text):
    scores = image @ text.T
    both = scores.log_softmax(0) + scores.log_softmax(1)
    return -both.diagonal().mean() / 2


def sinkhorn(student, teacher):
    q = teacher.softmax(0)
    q = q / q.sum(1, keepdim=True)
    return -(q * student.log_softmax(1)).sum(1).mean()


def doubly_stochastic(scores, target):
    p = scores.softmax(0) * scores.softmax(1)
    return ((p - target) ** 2).mean()


def matches(similarity, target):
    return -(target * similarity.log_softmax(0)).sum() / len(target)


def listwise(scores, relevance):
    return -(relevance.softmax(0) * scores.log_softmax(0)).sum()


def weighted_samples(logits, target):
    losses = F.cross_entropy(logits, target, reduction="none")
    return (losses.detach().softmax(0) * losses).sum()


def pearson(input, target):
    input, target = input - input.mean(0), target - target.mean(0)
    return 1 - F.cosine_similarity(input, target, dim=0).mean()


def barlow(first, second):
    first, second = (F.normalize(z - z.mean(0), dim=0) for z in (first, second))
    c = first.T @ second
    return (c - torch.eye(len(c), dtype=c.dtype)).square().sum()


def cross_correlation(first, second):
    c = F.normalize(first, dim=0).T @ F.normalize(second, dim=0)
    return (c - torch.eye(len(c), dtype=c.dtype)).square().sum()


def time_attention(input, target):
    return ((input * input.softmax(1)).sum(1) - target.sum(1)).square().mean()


def moved(logits, target):
    return F.cross_entropy(logits.permute(0, 2, 3, 1).reshape(-1, C), target.reshape(-1))


def tokens_last(logits, target):
    return F.cross_entropy(logits.reshape(-1, C), target.reshape(-1))


def transposed(logits, target):
    return F.cross_entropy(logits.transpose(1, 2), target)


def patches(input, target):
    n, c, h, w = input.shape
    cut = [x.reshape(n, c, h, w // 2, 2).mean(-1) for x in (input, target)]
    return F.mse_loss(*cut)


def elementwise_view(student, teacher):
    c = student.shape[1]
    return F.mse_loss(student.view(-1, c), teacher.view(-1, c))


def relative(input, target):
    return (input - target).norm() / target.norm()


def distance(input, target):
    return torch.norm(input - target)


def penalty_per_sample(weight, x):
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(torch.tanh(x @ weight).sum(), x, create_graph=True)
    return ((g.norm(2, dim=1) - 1) ** 2).mean()


def dice_over_batch(logits, target):
    p = logits.softmax(1)
    return 1 - (2 * (p * target).sum(0) / (p + target).sum(0)).mean()


RIGHT = [
    (F.cross_entropy, CLASSES),
    (lambda logits, *rest: F.ctc_loss(logits.log_softmax(2), *rest), SPEECH),
    (F.cross_entropy, PIXELS),
    (F.cosine_embedding_loss, (*VECTORS, torch.ones(N))),
    (info_nce, VECTORS),
    (clip, VECTORS),
    (sinkhorn, TEACHER),
    (doubly_stochastic, ONE_HOT),
    (matches, (normal(N, N), torch.eye(N))),
    (listwise, (normal(N), normal(N))),
    (weighted_samples, CLASSES),
    (pearson, VECTORS),
    (barlow, VECTORS),
    (cross_correlation, VECTORS),
    (time_attention, (normal(N, T), normal(N, T))),
    (moved, PIXELS),
    (tokens_last, TOKENS),
    (transposed, TOKENS),
    (patches, PIXEL_PAIR),
    (elementwise_view, PIXEL_PAIR),
    (relative, VECTORS),
    (distance, VECTORS),
    (penalty_per_sample, (normal(D), normal(N, D))),
    (dice_over_batch, ONE_HOT),
]


@pytest.mark.parametrize(("loss", "inputs"), RIGHT)
def test_right_losses_are_left_alone(loss, inputs, silent):
    silent("LP106", loss, *inputs)


def test_samples_of_their_own_are_proved(silent):
    assert silent("LP106", F.cross_entropy, *CLASSES) is Status.PROVED
    assert silent("LP106", info_nce, *VECTORS) is Status.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("before", "after", "axis"),
    [
        ((2, 5, 6, 6), (72, 5), 1),
        ((2, 5, 6, 6), (2, 36, 5), 1),
        ((4, 7, 3), (4, 3, 7), 2),
        ((2, 6, 6, 5), (72, 5), None),
        ((4, 7, 3), (28, 3), None),
        ((4, 7, 3), (4, 21), None),
        ((2, 5, 6, 6), (2, 5, 36), None),
        ((2, 8, 4, 4), (2, 2, 4, 4, 4), None),
        ((6, 5), (5, 6), None),
    ],
)
def test_shapes_that_mix_axes(before, after, axis):
    assert mixed_axis(before, after) == axis


def test_the_page(page_code, module_of, found, silent):
    head = "import torch.nn.functional as F\n\n\n"
    bad = module_of(head + page_code("LP106", "Example"), "bad")
    good = module_of(head + page_code("LP106", "Use instead"), "good")
    (finding,) = found("LP106", bad.loss, *CLASSES)
    assert finding.location.line == 5
    silent("LP106", good.loss, *CLASSES)


def test_a_slow_loss_is_not_called_over_and_over(examination, monkeypatch):
    case = examination(info_nce, *VECTORS)
    monkeypatch.setattr(case, "affordable", lambda calls: False)
    (verdict,) = RULES["LP106"].examine(case)
    assert verdict.status is Status.UNPROVED
