"""Knowledge distillation (Hinton et al., 2015): temperature-scaled KL, mean over the batch."""

import torch
from torch.autograd import Function
from torch.nn import functional

from benchmarks.mutation.draw import Draw


class DistillationLoss(Function):
    @staticmethod
    def forward(student, teacher, temperature):
        log_student = torch.log_softmax(student / temperature, dim=1)
        log_teacher = torch.log_softmax(teacher / temperature, dim=1)
        divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(dim=1)
        return temperature**2 * divergence.mean()

    @staticmethod
    def setup_context(ctx, inputs, output):
        student, teacher, temperature = inputs
        ctx.save_for_backward(student, teacher)
        ctx.temperature = temperature

    @staticmethod
    def backward(ctx, grad_output):
        student, teacher = ctx.saved_tensors
        temperature = ctx.temperature
        log_student = torch.log_softmax(student / temperature, dim=1)
        log_teacher = torch.log_softmax(teacher / temperature, dim=1)
        p_student, p_teacher = log_student.exp(), log_teacher.exp()
        scale = grad_output * temperature / student.shape[0]
        grad_student = scale * (p_student - p_teacher)
        gap = log_teacher - log_student
        mean_gap = (p_teacher * gap).sum(dim=1, keepdim=True)
        grad_teacher = scale * p_teacher * (gap - mean_gap)
        return grad_student, grad_teacher, None


LOSS = DistillationLoss


def reference(student, teacher, temperature):
    return temperature**2 * functional.kl_div(
        functional.log_softmax(student / temperature, dim=1),
        functional.log_softmax(teacher / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )


def inputs(seed):
    draw = Draw(seed)
    return draw.normal(7, 5, grad=True, scale=2.0), draw.normal(7, 5, grad=True, scale=2.0), 2.5
