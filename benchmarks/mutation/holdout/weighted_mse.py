"""Squared error with one learnable weight per row, divided by the sum of the weights."""

from torch.autograd import Function

from benchmarks.mutation.draw import Draw


class WeightedMSELoss(Function):
    @staticmethod
    def forward(ctx, input, target, weight):
        ctx.save_for_backward(input, target, weight)
        squared = (input - target) ** 2
        total = weight.sum() * input.shape[1]
        return (weight * squared).sum() / total

    @staticmethod
    def backward(ctx, grad_output):
        input, target, weight = ctx.saved_tensors
        residual = input - target
        squared = residual**2
        columns = input.shape[1]
        total = weight.sum() * columns
        value = (weight * squared).sum() / total
        grad_input = grad_output * 2 * weight * residual / total
        grad_weight = squared.sum(dim=1, keepdim=True) / total - value * columns / total
        return grad_input, -grad_input, grad_output * grad_weight


LOSS = WeightedMSELoss


def reference(input, target, weight):
    share = weight / weight.sum()
    return ((input - target).square().mean(1, keepdim=True) * share).sum()


def inputs(seed):
    draw = Draw(seed)
    weight = draw.uniform(8, 1, low=0.5, high=2.0, grad=True)
    return draw.normal(8, 5, grad=True), draw.normal(8, 5, grad=True), weight
