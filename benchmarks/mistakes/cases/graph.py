"""Mistakes of the graph: what is cut or is not, what is written over, a wrong backward."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.mistakes.case import mistake


@mistake("LP208")
def teacher_in_the_graph():
    """The moving-average teacher gets a gradient, too."""

    class MeanTeacherLoss(nn.Module):
        def forward(self, student_logits, teacher_logits):
            student = F.softmax(student_logits, dim=1)
            teacher = F.softmax(teacher_logits, dim=1)
            return F.mse_loss(student, teacher)

    wrong = MeanTeacherLoss()

    class MeanTeacherLoss(nn.Module):
        def forward(self, student_logits, teacher_logits):
            student = F.softmax(student_logits, dim=1)
            teacher = F.softmax(teacher_logits.detach(), dim=1)
            return F.mse_loss(student, teacher)

    def inputs():
        return torch.randn(8, 5, requires_grad=True), torch.randn(8, 5, requires_grad=True)

    return wrong, MeanTeacherLoss(), inputs


@mistake("LP208")
def bootstrapped_target_in_the_graph():
    """The value of the next state is part of the target and must be a constant."""

    def td_loss(values, next_values, rewards, gamma=0.99):
        target = rewards + gamma * next_values
        return F.mse_loss(values, target)

    wrong = td_loss

    def td_loss(values, next_values, rewards, gamma=0.99):
        target = rewards + gamma * next_values.detach()
        return F.mse_loss(values, target)

    def inputs():
        return torch.randn(8, requires_grad=True), torch.randn(8, requires_grad=True), torch.rand(8)

    return wrong, td_loss, inputs


@mistake("LP208")
def actor_trains_the_critic():
    """The advantage in the policy term keeps the critic attached."""

    def actor_critic_loss(log_probs, values, returns):
        advantage = returns - values
        policy_loss = -(log_probs * advantage).mean()
        value_loss = F.smooth_l1_loss(values, returns)
        return policy_loss + 0.5 * value_loss

    wrong = actor_critic_loss

    def actor_critic_loss(log_probs, values, returns):
        advantage = returns - values.detach()
        policy_loss = -(log_probs * advantage).mean()
        value_loss = F.smooth_l1_loss(values, returns)
        return policy_loss + 0.5 * value_loss

    def inputs():
        return (
            torch.log(torch.rand(9)).requires_grad_(),
            torch.randn(9, requires_grad=True),
            torch.randn(9),
        )

    return wrong, actor_critic_loss, inputs


@mistake("LP201")
def term_through_numpy():
    """One term is computed with numpy and joins as a constant."""

    def edge_loss(pred, target):
        edges = np.abs(np.diff(pred.detach().numpy(), axis=-1))
        truth = np.abs(np.diff(target.numpy(), axis=-1))
        return F.l1_loss(pred, target) + torch.from_numpy(np.abs(edges - truth)).mean()

    wrong = edge_loss

    def edge_loss(pred, target):
        edges = torch.diff(pred, dim=-1).abs()
        truth = torch.diff(target, dim=-1).abs()
        return F.l1_loss(pred, target) + (edges - truth).abs().mean()

    def inputs():
        return torch.randn(3, 9, requires_grad=True), torch.randn(3, 9)

    return wrong, edge_loss, inputs


@mistake("LP204", "LP201")
def accuracy_as_loss():
    """The predicted class is an index: the loss has no slope."""

    def error_rate(outputs, labels):
        predicted = outputs.argmax(1)
        return (predicted != labels).float().mean() + outputs.sum() * 0

    wrong = error_rate

    def error_rate(outputs, labels):
        probability = outputs.softmax(1).gather(1, labels[:, None])
        return (1 - probability).mean()

    def inputs():
        return torch.randn(10, 4, requires_grad=True), torch.randint(0, 4, (10,))

    return wrong, error_rate, inputs


@mistake("LP202", "LP203", "LP206")
def backward_without_the_batch():
    """The forward averages, the backward gives the gradient of the sum."""

    class Smape(torch.autograd.Function):
        @staticmethod
        def forward(ctx, input, target):
            ctx.save_for_backward(input, target)
            return ((input - target).abs() / (input.abs() + target.abs())).mean()

        @staticmethod
        def backward(ctx, grad_output):
            input, target = ctx.saved_tensors
            size = input.abs() + target.abs()
            gap = input - target
            return grad_output * (gap.sign() / size - gap.abs() * input.sign() / size**2), None

    wrong = Smape

    class Smape(torch.autograd.Function):
        @staticmethod
        def forward(ctx, input, target):
            ctx.save_for_backward(input, target)
            return ((input - target).abs() / (input.abs() + target.abs())).mean()

        @staticmethod
        def backward(ctx, grad_output):
            input, target = ctx.saved_tensors
            size = input.abs() + target.abs()
            gap = input - target
            slope = gap.sign() / size - gap.abs() * input.sign() / size**2
            return grad_output * slope / input.numel(), None

    def inputs():
        return torch.randn(8, requires_grad=True), torch.randn(8)

    return wrong, Smape, inputs


@mistake("LP407")
def weights_on_the_cpu():
    """The kernel is made on the CPU in every call."""

    class GradientLoss(nn.Module):
        def forward(self, pred, target):
            kernel = torch.tensor([[[[-1.0, 0.0, 1.0]]]])
            gap = F.conv2d(pred, kernel) - F.conv2d(target, kernel)
            return gap.abs().mean()

    wrong = GradientLoss()

    class GradientLoss(nn.Module):
        def forward(self, pred, target):
            kernel = pred.new_tensor([[[[-1.0, 0.0, 1.0]]]])
            gap = F.conv2d(pred, kernel) - F.conv2d(target, kernel)
            return gap.abs().mean()

    def inputs():
        return torch.rand(2, 1, 6, 6, requires_grad=True), torch.rand(2, 1, 6, 6)

    return wrong, GradientLoss(), inputs


@mistake("LP407")
def weights_as_a_plain_attribute():
    """`self.weight` is no buffer, so `.to(device)` leaves it behind."""

    class ClassBalancedLoss(nn.Module):
        def __init__(self):
            super().__init__()
            self.class_weights = torch.tensor([0.2, 0.3, 0.5])

        def forward(self, logits, labels):
            losses = F.cross_entropy(logits, labels, reduction="none")
            return (losses * self.class_weights[labels]).mean()

    wrong = ClassBalancedLoss()

    class ClassBalancedLoss(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("class_weights", torch.tensor([0.2, 0.3, 0.5]))

        def forward(self, logits, labels):
            losses = F.cross_entropy(logits, labels, reduction="none")
            return (losses * self.class_weights[labels]).mean()

    def inputs():
        return torch.randn(8, 3, requires_grad=True), torch.randint(0, 3, (8,))

    return wrong, ClassBalancedLoss(), inputs


@mistake("LP403")
def running_mean_keeps_the_graph():
    """The moving average holds the graph of all steps before."""

    class AdaptiveScaleLoss(nn.Module):
        def __init__(self):
            super().__init__()
            self.average = None

        def forward(self, input, target):
            loss = F.l1_loss(input, target)
            self.average = loss if self.average is None else 0.9 * self.average + 0.1 * loss
            return loss / (self.average.detach() + 1e-8)

    wrong = AdaptiveScaleLoss()

    class AdaptiveScaleLoss(nn.Module):
        def forward(self, input, target):
            loss = F.l1_loss(input, target)
            return loss / (loss.detach() + 1e-8)

    def inputs():
        return torch.randn(8, 2, requires_grad=True), torch.randn(8, 2)

    return wrong, AdaptiveScaleLoss(), inputs


@mistake("LP401")
def prediction_clamped_in_place():
    """The caller's prediction is clamped in place."""

    def safe_bce(probs, target):
        probs.data.clamp_(1e-4, 1 - 1e-4)
        return F.binary_cross_entropy(probs, target)

    wrong = safe_bce

    def safe_bce(probs, target):
        return F.binary_cross_entropy(probs.clamp(1e-4, 1 - 1e-4), target)

    def inputs():
        probs = torch.tensor([0.0, 0.3, 0.9, 1.0, 0.5]).requires_grad_()
        return probs, torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0])

    return wrong, safe_bce, inputs


@mistake("LP501", "LP502")
def loop_over_the_batch():
    """Every sample has a forward pass of its own."""

    class BatchHardTriplet(nn.Module):
        def __init__(self, margin=0.3):
            super().__init__()
            self.margin = margin

        def forward(self, embeddings, labels):
            distances = torch.cdist(embeddings, embeddings)
            losses = []
            for i in range(len(labels)):
                same = labels == labels[i]
                hardest = distances[i][same].max()
                nearest = distances[i][~same].min()
                losses.append(F.relu(hardest - nearest + self.margin))
            return torch.stack(losses).mean()

    wrong = BatchHardTriplet()

    class BatchHardTriplet(nn.Module):
        def __init__(self, margin=0.3):
            super().__init__()
            self.margin = margin

        def forward(self, embeddings, labels):
            distances = torch.cdist(embeddings, embeddings)
            same = labels[:, None] == labels[None]
            hardest = distances.masked_fill(~same, float("-inf")).amax(1)
            nearest = distances.masked_fill(same, float("inf")).amin(1)
            return F.relu(hardest - nearest + self.margin).mean()

    def inputs():
        return torch.randn(12, 5, requires_grad=True), torch.arange(12) % 3

    return wrong, BatchHardTriplet(), inputs


@mistake("LP404")
def dropout_in_the_loss():
    """`F.dropout` without `training=self.training` makes validation random."""

    class RegularisedLoss(nn.Module):
        def forward(self, features, target):
            return F.mse_loss(F.dropout(features, 0.2), target)

    wrong = RegularisedLoss()

    class RegularisedLoss(nn.Module):
        def forward(self, features, target):
            return F.mse_loss(features, target)

    def inputs():
        return torch.randn(8, 6, requires_grad=True), torch.randn(8, 6)

    return wrong, RegularisedLoss(), inputs
