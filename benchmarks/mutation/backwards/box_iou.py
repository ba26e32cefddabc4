"""One minus the overlap over the union of paired boxes `(x1, y1, x2, y2)`; some are apart."""

import torch
from torch.autograd import Function

from benchmarks.mutation.draw import Draw


class BoxIoULoss(Function):
    @staticmethod
    def forward(ctx, boxes, target):
        ctx.save_for_backward(boxes, target)
        low = torch.maximum(boxes[:, :2], target[:, :2])
        high = torch.minimum(boxes[:, 2:], target[:, 2:])
        sides = torch.clamp(high - low, min=0)
        overlap = sides[:, 0] * sides[:, 1]
        size = boxes[:, 2:] - boxes[:, :2]
        target_size = target[:, 2:] - target[:, :2]
        union = size.prod(dim=1) + target_size.prod(dim=1) - overlap
        return 1 - overlap / union

    @staticmethod
    def backward(ctx, grad_output):
        boxes, target = ctx.saved_tensors
        low = torch.maximum(boxes[:, :2], target[:, :2])
        high = torch.minimum(boxes[:, 2:], target[:, 2:])
        sides = torch.clamp(high - low, min=0)
        overlap = (sides[:, 0] * sides[:, 1]).unsqueeze(1)
        size = boxes[:, 2:] - boxes[:, :2]
        area = (size[:, 0] * size[:, 1]).unsqueeze(1)
        target_size = target[:, 2:] - target[:, :2]
        union = area + target_size.prod(dim=1, keepdim=True) - overlap
        outer = grad_output.unsqueeze(1)
        grad_overlap = -outer * (union + overlap) / union**2
        grad_area = outer * overlap / union**2
        touching = (sides > 0).to(boxes.dtype)
        grad_sides = grad_overlap * sides.flip(1) * touching
        grad_low = -grad_sides * (boxes[:, :2] > target[:, :2])
        grad_high = grad_sides * (boxes[:, 2:] < target[:, 2:])
        grad_size = grad_area * size.flip(1)
        return torch.cat([grad_low - grad_size, grad_high + grad_size], dim=1), None


LOSS = BoxIoULoss


def reference(boxes, target):
    values = []
    for a, b in zip(boxes, target, strict=True):
        width = torch.relu(torch.min(a[2], b[2]) - torch.max(a[0], b[0]))
        height = torch.relu(torch.min(a[3], b[3]) - torch.max(a[1], b[1]))
        both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
        values.append(1 - width * height / (both - width * height))
    return torch.stack(values)


def inputs(seed):
    draw = Draw(seed)
    corner = draw.uniform(7, 2, high=1.6)
    boxes = torch.cat([corner, corner + draw.uniform(7, 2, low=0.7, high=1.5)], dim=1)
    other = draw.uniform(7, 2, high=1.6)
    target = torch.cat([other, other + draw.uniform(7, 2, low=0.7, high=1.5)], dim=1)
    return boxes.requires_grad_(), target
