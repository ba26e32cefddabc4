"""Backward passes that people got wrong, each written again in a few lines."""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from benchmarks.mistakes.case import mistake


@mistake("LP202", "LP203", "LP206")
def hinge_backward_for_all_samples():
    """The backward gives -y also where the margin is met."""

    class HingeLoss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, scores, labels):
            ctx.save_for_backward(scores, labels)
            return (1 - labels * scores).clamp(min=0).mean()

        @staticmethod
        def backward(ctx, grad_output):
            scores, labels = ctx.saved_tensors
            return grad_output * -labels / labels.numel(), None

    wrong = HingeLoss

    class HingeLoss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, scores, labels):
            ctx.save_for_backward(scores, labels)
            return (1 - labels * scores).clamp(min=0).mean()

        @staticmethod
        def backward(ctx, grad_output):
            scores, labels = ctx.saved_tensors
            active = (labels * scores < 1).to(scores.dtype)
            return grad_output * -labels * active / labels.numel(), None

    return (
        wrong,
        HingeLoss,
        lambda: (
            (2 * torch.randn(12)).requires_grad_(),
            torch.randint(0, 2, (12,)).float() * 2 - 1,
        ),
    )


@mistake("LP202", "LP203", "LP206")
def dice_backward_without_the_quotient():
    """The derivative of the denominator is left out."""

    class DiceLoss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, input, target):
            inter, total = (input * target).sum(), input.sum() + target.sum()
            ctx.save_for_backward(target, inter, total)
            return 1 - 2 * inter / total

        @staticmethod
        def backward(ctx, grad_output):
            target, inter, total = ctx.saved_tensors
            return -grad_output * 2 * target / total, None

    wrong = DiceLoss

    class DiceLoss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, input, target):
            inter, total = (input * target).sum(), input.sum() + target.sum()
            ctx.save_for_backward(target, inter, total)
            return 1 - 2 * inter / total

        @staticmethod
        @once_differentiable
        def backward(ctx, grad_output):
            target, inter, total = ctx.saved_tensors
            return -grad_output * 2 * (target * total - inter) / total**2, None

    return (
        wrong,
        DiceLoss,
        lambda: (
            torch.rand(2, 1, 5, 5, requires_grad=True),
            torch.randint(0, 2, (2, 1, 5, 5)).float(),
        ),
    )


@mistake("LP202", "LP203", "LP206")
def focal_backward_of_a_constant_weight():
    """The modulating factor is treated as a constant in the backward."""

    class FocalFunction(torch.autograd.Function):
        @staticmethod
        def forward(ctx, logits, target):
            log_pt = F.logsigmoid((2 * target - 1) * logits)
            ctx.save_for_backward(torch.sigmoid(logits), log_pt, target)
            return (-((1 - log_pt.exp()) ** 2) * log_pt).mean()

        @staticmethod
        def backward(ctx, grad_output):
            p, log_pt, target = ctx.saved_tensors
            return grad_output * (1 - log_pt.exp()) ** 2 * (p - target) / p.numel(), None

    wrong = FocalFunction

    class FocalFunction(torch.autograd.Function):
        @staticmethod
        def forward(ctx, logits, target):
            log_pt = F.logsigmoid((2 * target - 1) * logits)
            ctx.save_for_backward(torch.sigmoid(logits), log_pt, target)
            return (-((1 - log_pt.exp()) ** 2) * log_pt).mean()

        @staticmethod
        @once_differentiable
        def backward(ctx, grad_output):
            p, log_pt, target = ctx.saved_tensors
            pt = log_pt.exp()
            factor = (1 - pt) ** 2 - 2 * pt * (1 - pt) * log_pt
            return grad_output * factor * (p - target) / p.numel(), None

    return (
        wrong,
        FocalFunction,
        lambda: (
            torch.randn(10, requires_grad=True),
            torch.randint(0, 2, (10,)).float(),
        ),
    )


@mistake("LP203", "LP202")
def smooth_l1_backward_ignores_upstream():
    """The backward returns the local derivative alone."""

    class SmoothL1(torch.autograd.Function):
        @staticmethod
        def forward(ctx, input, target):
            d = input - target
            ctx.save_for_backward(d)
            return torch.where(d.abs() < 1, 0.5 * d**2, d.abs() - 0.5).sum()

        @staticmethod
        def backward(ctx, grad_output):
            (d,) = ctx.saved_tensors
            return d.clamp(-1, 1), None

    wrong = SmoothL1

    class SmoothL1(torch.autograd.Function):
        @staticmethod
        def forward(ctx, input, target):
            d = input - target
            ctx.save_for_backward(d)
            return torch.where(d.abs() < 1, 0.5 * d**2, d.abs() - 0.5).sum()

        @staticmethod
        @once_differentiable
        def backward(ctx, grad_output):
            (d,) = ctx.saved_tensors
            return grad_output * d.clamp(-1, 1), None

    return wrong, SmoothL1, lambda: (torch.randn(8, 3, requires_grad=True), torch.randn(8, 3))


@mistake("LP203", "LP202")
def grad_output_replaced_by_ones():
    """The gradient starts from ones, whatever comes from above."""

    class WeightedMSE(torch.autograd.Function):
        @staticmethod
        def forward(ctx, pred, target, weight):
            ctx.save_for_backward(pred, target, weight)
            return (weight * (pred - target) ** 2).mean()

        @staticmethod
        def backward(ctx, grad_output):
            pred, target, weight = ctx.saved_tensors
            grad = torch.ones_like(grad_output)
            return grad * 2 * weight * (pred - target) / pred.numel(), None, None

    wrong = WeightedMSE

    class WeightedMSE(torch.autograd.Function):
        @staticmethod
        def forward(ctx, pred, target, weight):
            ctx.save_for_backward(pred, target, weight)
            return (weight * (pred - target) ** 2).mean()

        @staticmethod
        def backward(ctx, grad_output):
            pred, target, weight = ctx.saved_tensors
            return grad_output * 2 * weight * (pred - target) / pred.numel(), None, None

    return (
        wrong,
        WeightedMSE,
        lambda: (
            torch.randn(8, requires_grad=True),
            torch.randn(8),
            torch.rand(8) + 0.5,
        ),
    )


@mistake("LP207", "LP408", "LP201")
def backward_forgets_to_return():
    """`backward` computes its gradient and returns nothing.

    https://github.com/huawei-noah/AdderNet/issues/21
    """

    class AdderLoss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, pred, target):
            ctx.save_for_backward(pred, target)
            return (pred - target).abs().sum()

        @staticmethod
        def backward(ctx, grad_output):
            pred, target = ctx.saved_tensors
            grad = grad_output * torch.sign(pred - target)  # noqa: F841 - this is the mistake

    wrong = AdderLoss

    class AdderLoss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, pred, target):
            ctx.save_for_backward(pred, target)
            return (pred - target).abs().sum()

        @staticmethod
        def backward(ctx, grad_output):
            pred, target = ctx.saved_tensors
            return grad_output * torch.sign(pred - target), None

    return wrong, AdderLoss, lambda: (torch.randn(6, requires_grad=True), torch.randn(6))


@mistake("LP207", "LP408")
def one_gradient_for_two_arguments():
    """The second argument got no place in what `backward` returns.

    https://github.com/1zb/pytorch-image-comp-rnn/issues/4
    """

    class LogLoss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, prob, weight):
            ctx.save_for_backward(prob)
            ctx.weight = weight
            return -(weight * torch.log(prob + 1e-6)).sum()

        @staticmethod
        def backward(ctx, grad_output):
            (prob,) = ctx.saved_tensors
            return -grad_output * ctx.weight / (prob + 1e-6)

    wrong = LogLoss

    class LogLoss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, prob, weight):
            ctx.save_for_backward(prob)
            ctx.weight = weight
            return -(weight * torch.log(prob + 1e-6)).sum()

        @staticmethod
        def backward(ctx, grad_output):
            (prob,) = ctx.saved_tensors
            return -grad_output * ctx.weight / (prob + 1e-6), None

    return wrong, LogLoss, lambda: ((torch.rand(6) * 0.8 + 0.1).requires_grad_(), 0.5)


@mistake("LP208")
def double_dqn_target_attached():
    """The target of the temporal difference is not detached.

    https://github.com/datawhalechina/easy-rl/pull/117
    """

    def td_loss(q_values, next_q_values, rewards, dones, gamma=0.99):
        target = rewards + gamma * next_q_values * (1 - dones)
        return F.mse_loss(q_values, target)

    wrong = td_loss

    def td_loss(q_values, next_q_values, rewards, dones, gamma=0.99):
        target = rewards + gamma * next_q_values * (1 - dones)
        return F.mse_loss(q_values, target.detach())

    return (
        wrong,
        td_loss,
        lambda: (
            torch.randn(8, requires_grad=True),
            torch.randn(8, requires_grad=True),
            torch.randn(8),
            torch.randint(0, 2, (8,)).float(),
        ),
    )
