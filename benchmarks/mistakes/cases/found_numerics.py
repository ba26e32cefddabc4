"""Losses that broke at the edge of their domain, each written again in a few lines."""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.mistakes.case import mistake


@mistake("LP301", "LP302", "LP303", "LP209")
def sine_of_a_cosine_of_one():
    """The root of 1 - cos^2 has an infinite slope at a perfect match.

    https://github.com/ronghuaiyang/arcface-pytorch/issues/91
    """

    class ArcMarginProduct(nn.Module):
        def __init__(self, s=8.0):
            super().__init__()
            self.s = s

        def forward(self, cosine, label):
            sine = torch.sqrt(1.0 - torch.pow(cosine, 2))
            phi = cosine * 0.8776 - sine * 0.4794
            one_hot = F.one_hot(label, cosine.shape[1]).to(cosine.dtype)
            return F.cross_entropy(self.s * (one_hot * phi + (1 - one_hot) * cosine), label)

    wrong = ArcMarginProduct()

    class ArcMarginProduct(nn.Module):
        def __init__(self, s=8.0):
            super().__init__()
            self.s = s

        def forward(self, cosine, label):
            sine = torch.sqrt((1.0 - torch.pow(cosine, 2)).clamp(1e-6, 1))
            phi = cosine * 0.8776 - sine * 0.4794
            one_hot = F.one_hot(label, cosine.shape[1]).to(cosine.dtype)
            return F.cross_entropy(self.s * (one_hot * phi + (1 - one_hot) * cosine), label)

    def inputs():
        cosine = F.normalize(torch.randn(8, 6), dim=1) @ F.normalize(torch.randn(6, 4), dim=0)
        return cosine.requires_grad_(), torch.randint(0, 4, (8,))

    return wrong, ArcMarginProduct(), inputs


@mistake("LP301", "LP302", "LP303", "LP209")
def colour_constancy_of_a_gray_image():
    """The root of a sum of squares of channel differences, all zero for a gray image.

    https://github.com/Li-Chongyi/Zero-DCE_extension/issues/2
    """

    class L_color(nn.Module):
        def forward(self, x):
            r, g, b = torch.mean(x, [2, 3]).unbind(1)
            d_rg, d_rb, d_gb = (r - g) ** 2, (r - b) ** 2, (g - b) ** 2
            return torch.pow(d_rg**2 + d_rb**2 + d_gb**2, 0.5).mean()

    wrong = L_color()

    class L_color(nn.Module):
        def forward(self, x):
            r, g, b = torch.mean(x, [2, 3]).unbind(1)
            d_rg, d_rb, d_gb = (r - g) ** 2, (r - b) ** 2, (g - b) ** 2
            return torch.pow(d_rg**2 + d_rb**2 + d_gb**2 + 1e-5, 0.5).mean()

    return wrong, L_color(), lambda: (torch.rand(2, 3, 6, 6, requires_grad=True),)


@mistake("LP301", "LP302", "LP303", "LP209", "LP305")
def fractional_gamma_of_a_sure_prediction():
    """A gamma below 1 has an infinite slope where the probability is 0 or 1.

    https://github.com/kornia/kornia/issues/918
    """

    def binary_focal_loss_with_logits(input, target, alpha=0.25, gamma=0.5, eps=1e-8):
        p = torch.sigmoid(input)
        pos = -alpha * torch.pow(1 - p, gamma) * target * torch.log(p + eps)
        neg = -(1 - alpha) * torch.pow(p, gamma) * (1 - target) * torch.log(1 - p + eps)
        return (pos + neg).mean()

    wrong = binary_focal_loss_with_logits

    def binary_focal_loss_with_logits(input, target, alpha=0.25, gamma=0.5):
        log_p, log_q = F.logsigmoid(input), F.logsigmoid(-input)
        pos = -alpha * torch.exp(gamma * log_q) * target * log_p
        neg = -(1 - alpha) * torch.exp(gamma * log_p) * (1 - target) * log_q
        return (pos + neg).mean()

    return (
        wrong,
        binary_focal_loss_with_logits,
        lambda: (
            torch.randn(4, 6, requires_grad=True),
            torch.randint(0, 2, (4, 6)).float(),
        ),
    )


@mistake("LP301", "LP302", "LP303", "LP209")
def epsilon_outside_the_root():
    """The epsilon is added to the root, where it helps the value and not the slope.

    https://github.com/mpariente/pytorch_stoi/pull/14
    """

    class CorrelationLoss(nn.Module):
        def forward(self, est, clean):
            est = est - est.mean(-1, keepdim=True)
            clean = clean - clean.mean(-1, keepdim=True)
            est = est / (torch.sqrt((est**2).sum(-1, keepdim=True)) + 1e-8)
            clean = clean / (torch.sqrt((clean**2).sum(-1, keepdim=True)) + 1e-8)
            return 1 - (est * clean).sum(-1).mean()

    wrong = CorrelationLoss()

    class CorrelationLoss(nn.Module):
        def forward(self, est, clean):
            est = est - est.mean(-1, keepdim=True)
            clean = clean - clean.mean(-1, keepdim=True)
            est = est / torch.sqrt((est**2).sum(-1, keepdim=True) + 1e-8)
            clean = clean / torch.sqrt((clean**2).sum(-1, keepdim=True) + 1e-8)
            return 1 - (est * clean).sum(-1).mean()

    return (
        wrong,
        CorrelationLoss(),
        lambda: (
            torch.randn(3, 24, requires_grad=True),
            torch.randn(3, 24),
        ),
    )


@mistake("LP301", "LP302", "LP305")
def entropy_of_an_underflowing_softmax():
    """p log p is 0 times minus infinity where p underflows."""

    class EntropyLoss(nn.Module):
        def forward(self, logits):
            p = F.softmax(logits, dim=1)
            return -(p * torch.log(p)).sum(1).mean()

    wrong = EntropyLoss()

    class EntropyLoss(nn.Module):
        def forward(self, logits):
            log_p = F.log_softmax(logits, dim=1)
            return -(log_p.exp() * log_p).sum(1).mean()

    return wrong, EntropyLoss(), lambda: (torch.randn(6, 5, requires_grad=True),)


@mistake("LP301", "LP302")
def unit_vectors_by_division():
    """A dead feature vector is divided by its norm of zero."""

    def feature_distillation_loss(student, teacher):
        student = student / student.norm(dim=1, keepdim=True)
        teacher = teacher / teacher.norm(dim=1, keepdim=True)
        return (student - teacher).pow(2).sum(1).mean()

    wrong = feature_distillation_loss

    def feature_distillation_loss(student, teacher):
        student = F.normalize(student, dim=1, eps=1e-6)
        teacher = F.normalize(teacher, dim=1, eps=1e-6)
        return (student - teacher).pow(2).sum(1).mean()

    return (
        wrong,
        feature_distillation_loss,
        lambda: (
            torch.randn(6, 8, requires_grad=True),
            torch.randn(6, 8),
        ),
    )


@mistake("LP301", "LP209")
def where_around_a_logarithm():
    """`where` picks the safe branch, and the gradient of the other is NaN all the same."""

    def log_depth_loss(pred, target):
        valid = target > 0
        log_pred = torch.where(pred > 0, torch.log(pred), torch.zeros_like(pred))
        log_target = torch.where(valid, torch.log(target), torch.zeros_like(target))
        return ((log_pred - log_target).abs() * valid).sum() / valid.sum().clamp(min=1)

    wrong = log_depth_loss

    def log_depth_loss(pred, target):
        valid = target > 0
        log_pred, log_target = torch.log(pred.clamp(min=1e-3)), torch.log(target.clamp(min=1e-3))
        return ((log_pred - log_target).abs() * valid).sum() / valid.sum().clamp(min=1)

    def inputs():
        return (torch.rand(2, 1, 5, 5) * 5).requires_grad_(), torch.rand(2, 1, 5, 5) * 5

    return wrong, log_depth_loss, inputs


@mistake("LP301", "LP302")
def divergence_from_hard_labels():
    """q log(q / p) is 0 log 0 for a target that is exactly zero."""

    def kl_loss(student_logits, target_probs):
        p = F.softmax(student_logits, dim=-1)
        return (target_probs * torch.log(target_probs / p)).sum(-1).mean()

    wrong = kl_loss

    def kl_loss(student_logits, target_probs):
        log_p = F.log_softmax(student_logits, dim=-1)
        return F.kl_div(log_p, target_probs, reduction="batchmean")

    return (
        wrong,
        kl_loss,
        lambda: (
            torch.randn(6, 4, requires_grad=True),
            torch.softmax(torch.randn(6, 4), -1),
        ),
    )


@mistake("LP302", "LP305", "LP301")
def softmax_by_hand():
    """exp of a logit above 88 is infinite, and infinity by infinity is NaN."""

    class CrossEntropy(nn.Module):
        def forward(self, x, y):
            e = torch.exp(x)
            p = e / e.sum(dim=1, keepdim=True)
            return -torch.log(p[torch.arange(len(y), device=x.device), y]).mean()

    wrong = CrossEntropy()

    class CrossEntropy(nn.Module):
        def forward(self, x, y):
            log_p = F.log_softmax(x, dim=1)
            return -log_p[torch.arange(len(y), device=x.device), y].mean()

    return (
        wrong,
        CrossEntropy(),
        lambda: (
            torch.randn(6, 5, requires_grad=True),
            torch.randint(0, 5, (6,)),
        ),
    )


@mistake("LP302", "LP305", "LP301")
def log_cosh_of_a_large_error():
    """cosh overflows at 89, where the loss itself is 88."""

    class LogCoshLoss(nn.Module):
        def forward(self, y_t, y_prime_t):
            ey_t = y_t - y_prime_t
            return torch.mean(torch.log(torch.cosh(ey_t + 1e-12)))

    wrong = LogCoshLoss()

    class LogCoshLoss(nn.Module):
        def forward(self, y_t, y_prime_t):
            x = (y_t - y_prime_t).abs()
            return torch.mean(x + F.softplus(-2 * x) - 0.6931471805599453)

    return wrong, LogCoshLoss(), lambda: (torch.randn(8, requires_grad=True), torch.randn(8))


@mistake("LP302", "LP305", "LP301")
def likelihood_of_a_sequence_as_a_product():
    """The probabilities of all steps are multiplied before the logarithm is taken."""

    def sequence_nll(logits, tokens):
        p = F.softmax(logits, dim=-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        return -torch.log(p.prod(dim=1)).mean()

    wrong = sequence_nll

    def sequence_nll(logits, tokens):
        log_p = F.log_softmax(logits, dim=-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        return -log_p.sum(dim=1).mean()

    return (
        wrong,
        sequence_nll,
        lambda: (
            torch.randn(3, 12, 6, requires_grad=True),
            torch.randint(0, 6, (3, 12)),
        ),
    )


@mistake("LP303", "LP302", "LP301")
def epsilon_too_small_for_half():
    """1e-8 is zero in float16, and the division by it is 0 / 0.

    https://github.com/pyg-team/pytorch_geometric/pull/2106
    """

    class CosineLoss(nn.Module):
        def __init__(self, eps=1e-8):
            super().__init__()
            self.eps = eps

        def forward(self, x, y):
            dot = (x * y).sum(-1)
            size = (x * x).sum(-1) * (y * y).sum(-1)
            return (1 - dot * dot / (size + self.eps)).mean()

    wrong = CosineLoss()

    class CosineLoss(nn.Module):
        def __init__(self, eps=1e-3):
            super().__init__()
            self.eps = eps

        def forward(self, x, y):
            dot = (x.float() * y.float()).sum(-1)
            size = (x.float() ** 2).sum(-1) * (y.float() ** 2).sum(-1)
            return (1 - dot * dot / (size + self.eps)).mean().to(x.dtype)

    return wrong, CosineLoss(), lambda: (torch.randn(6, 8, requires_grad=True), torch.randn(6, 8))


@mistake("LP304", "LP301", "LP201")
def mean_over_the_non_zero_triplets():
    """Only triplets that cost something are averaged, and there may be none.

    https://github.com/KevinMusgrave/pytorch-metric-learning/issues/107
    """

    class TripletLoss(nn.Module):
        def __init__(self, margin=0.5):
            super().__init__()
            self.margin = margin

        def forward(self, anchor, positive, negative):
            ap = (anchor - positive).pow(2).sum(1)
            an = (anchor - negative).pow(2).sum(1)
            loss = F.relu(ap - an + self.margin)
            return loss.sum() / (loss > 0).sum()

    wrong = TripletLoss()

    class TripletLoss(nn.Module):
        def __init__(self, margin=0.5):
            super().__init__()
            self.margin = margin

        def forward(self, anchor, positive, negative):
            ap = (anchor - positive).pow(2).sum(1)
            an = (anchor - negative).pow(2).sum(1)
            loss = F.relu(ap - an + self.margin)
            return loss.sum() / (loss > 0).sum().clamp(min=1)

    return wrong, TripletLoss(), lambda: tuple(torch.randn(8, 4).requires_grad_() for _ in range(3))


@mistake("LP304", "LP301", "LP201")
def deviation_of_a_single_sample():
    """The standard deviation of a last batch of one sample is NaN."""

    class VarianceLoss(nn.Module):
        def forward(self, z):
            std = torch.sqrt(z.var(dim=0) + 1e-4)
            return F.relu(1 - std).mean()

    wrong = VarianceLoss()

    class VarianceLoss(nn.Module):
        def forward(self, z):
            std = torch.sqrt(z.var(dim=0, unbiased=False) + 1e-4)
            return F.relu(1 - std).mean()

    return wrong, VarianceLoss(), lambda: ((0.5 * torch.randn(8, 4)).requires_grad_(),)


@mistake("LP304", "LP301", "LP201")
def mean_of_an_empty_selection():
    """The foreground is selected and averaged, and an image may have none."""

    def mask_loss(pred, target, fg_mask):
        return F.l1_loss(pred[fg_mask], target[fg_mask])

    wrong = mask_loss

    def mask_loss(pred, target, fg_mask):
        loss = F.l1_loss(pred, target, reduction="none") * fg_mask
        return loss.sum() / fg_mask.sum().clamp(min=1)

    return (
        wrong,
        mask_loss,
        lambda: (
            torch.randn(4, 6, 6, requires_grad=True),
            torch.randn(4, 6, 6),
            torch.rand(4, 6, 6) < 0.4,
        ),
    )


@mistake("LP304", "LP301", "LP201", "LP408")
def hardest_quarter_of_a_small_batch():
    """The hardest quarter of fewer than four samples is nobody."""

    class OHEMLoss(nn.Module):
        def __init__(self, ratio=0.25):
            super().__init__()
            self.ratio = ratio

        def forward(self, logits, labels):
            losses = F.cross_entropy(logits, labels, reduction="none")
            hard, _ = losses.topk(int(self.ratio * len(losses)))
            return hard.mean()

    wrong = OHEMLoss()

    class OHEMLoss(nn.Module):
        def __init__(self, ratio=0.25):
            super().__init__()
            self.ratio = ratio

        def forward(self, logits, labels):
            losses = F.cross_entropy(logits, labels, reduction="none")
            hard, _ = losses.topk(max(1, int(self.ratio * len(losses))))
            return hard.mean()

    return (
        wrong,
        OHEMLoss(),
        lambda: (
            torch.randn(12, 5, requires_grad=True),
            torch.randint(0, 5, (12,)),
        ),
    )
