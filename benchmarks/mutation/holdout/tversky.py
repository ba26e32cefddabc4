"""Tversky loss (Salehi et al., 2017) on probabilities, one value per sample."""

from torch.autograd import Function

from benchmarks.mutation.draw import Draw


class TverskyLoss(Function):
    @staticmethod
    def forward(ctx, probability, target, alpha, beta):
        ctx.save_for_backward(probability, target)
        ctx.alpha = alpha
        ctx.beta = beta
        hit = (probability * target).sum(-1)
        false_positive = (probability * (1 - target)).sum(-1)
        false_negative = ((1 - probability) * target).sum(-1)
        return 1 - (hit + 1) / (hit + alpha * false_positive + beta * false_negative + 1)

    @staticmethod
    def backward(ctx, grad_output):
        probability, target = ctx.saved_tensors
        hit = (probability * target).sum(-1, keepdim=True)
        false_positive = (probability * (1 - target)).sum(-1, keepdim=True)
        false_negative = ((1 - probability) * target).sum(-1, keepdim=True)
        denominator = hit + ctx.alpha * false_positive + ctx.beta * false_negative + 1
        grow = target + ctx.alpha * (1 - target) - ctx.beta * target
        grad = (hit + 1) * grow / denominator**2 - target / denominator
        return grad_output.unsqueeze(-1) * grad, None, None, None


LOSS = TverskyLoss


def reference(probability, target, alpha, beta):
    hit = (probability * target).sum(-1)
    rest = alpha * (probability.sum(-1) - hit) + beta * (target.sum(-1) - hit)
    return rest / (hit + rest + 1.0)


def inputs(seed):
    draw = Draw(seed)
    return draw.uniform(6, 8, low=0.05, high=0.95, grad=True), draw.flags(6, 8), 0.3, 0.7
