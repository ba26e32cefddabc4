"""Overlaps of boxes: IoU, GIoU, DIoU and CIoU."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lossproof.checks.likeness.binding import boxes
from lossproof.checks.likeness.known import Definition, KnownLoss, Reading, Term, Terms

Tensor = torch.Tensor

Corners = tuple[Tensor, Tensor, Tensor, Tensor]


def _corners(box: Tensor, form: str) -> Corners:
    a, b, c, d = box.unbind(-1)
    if form == "corners":
        return a, b, c, d
    if form == "centre":
        return a - c / 2, b - d / 2, a + c / 2, b + d / 2
    return a, b, a + c, b + d


def _box_parts(input: Tensor, target: Tensor, form: str) -> dict[str, Tensor] | None:
    p, t = _corners(input, form), _corners(target, form)
    sizes = (p[2] - p[0], p[3] - p[1], t[2] - t[0], t[3] - t[1])
    if any(bool((size <= 0).any()) for size in sizes):
        return None
    width = torch.minimum(p[2], t[2]) - torch.maximum(p[0], t[0])
    height = torch.minimum(p[3], t[3]) - torch.maximum(p[1], t[1])
    both = width.clamp_min(0) * height.clamp_min(0)
    one, other = sizes[0] * sizes[1], sizes[2] * sizes[3]
    hull_w = torch.maximum(p[2], t[2]) - torch.minimum(p[0], t[0])
    hull_h = torch.maximum(p[3], t[3]) - torch.minimum(p[1], t[1])
    dx, dy = (p[0] + p[2] - t[0] - t[2]) / 2, (p[1] + p[3] - t[1] - t[3]) / 2
    angle = torch.atan(sizes[2] / sizes[3]) - torch.atan(sizes[0] / sizes[1])
    return {
        "both": both, "one": one, "other": other, "union": one + other - both,
        "hull": hull_w * hull_h, "diagonal": hull_w**2 + hull_h**2, "distance": dx**2 + dy**2,
        "v": 4 / torch.pi**2 * angle**2, "unclamped": width * height,
    }  # fmt: skip


def _box(which: str, form: str) -> Definition:
    def terms(input: Tensor, target: Tensor) -> Terms:
        parts = _box_parts(input, target, form)
        if parts is None:
            return {}
        iou = parts["both"] / parts["union"]
        return _BOX_TERMS[which](parts, iou)

    return terms


def _ciou(parts: dict[str, Tensor], iou: Tensor) -> Terms:
    alpha = parts["v"] / (1 - iou + parts["v"] + 1e-12)
    return {
        "IoU": Term(iou, -1.0),
        "distance^2 / diagonal^2": Term(parts["distance"] / parts["diagonal"]),
        "alpha v": Term(alpha * parts["v"]),
        "v": Term(parts["v"], 0.0),
        "distance / diagonal": Term((parts["distance"] / parts["diagonal"]).sqrt(), 0.0),
    }


_BOX_TERMS: dict[str, Callable[[dict[str, Tensor], Tensor], Terms]] = {
    "iou": lambda parts, iou: {"IoU": Term(iou, -1.0)},
    "log iou": lambda parts, iou: {"log IoU": Term(torch.log(iou.clamp_min(1e-6)), -1.0)},
    "giou": lambda parts, iou: {
        "IoU": Term(iou, -1.0),
        "(hull - union) / hull": Term((parts["hull"] - parts["union"]) / parts["hull"]),
        "(hull - intersection) / hull": Term(parts["both"] / parts["hull"], 0.0),
        "(hull - union) / union": Term((parts["hull"] - parts["union"]) / parts["union"], 0.0),
    },
    "diou": lambda parts, iou: {
        "IoU": Term(iou, -1.0),
        "distance^2 / diagonal^2": Term(parts["distance"] / parts["diagonal"]),
        "distance / diagonal": Term((parts["distance"] / parts["diagonal"]).sqrt(), 0.0),
        "distance^2 / hull": Term(parts["distance"] / parts["hull"], 0.0),
    },
    "ciou": _ciou,
    "ciou without 4/pi^2": lambda parts, iou: _ciou(
        {**parts, "v": parts["v"] * torch.pi**2 / 4}, iou
    ),
    "sizes added": lambda parts, iou: {
        "IoU": Term(parts["both"] / (parts["one"] + parts["other"]), -1.0)
    },
    "unclamped": lambda parts, iou: {
        "IoU": Term(parts["unclamped"] / (parts["one"] + parts["other"] - parts["unclamped"]), -1.0)
    },
}
FORMS = ("corners", "centre", "corner and size")

LOSSES = (
    *(
        KnownLoss(
            f"box-{which}", f"the {title} loss of boxes", source, pattern, boxes,
            (
                *(Reading(_box(which, form)) for form in FORMS),
                *((Reading(_box("log iou", form)) for form in FORMS) if which == "iou" else ()),
                *((Reading(_box("ciou without 4/pi^2", form), "has no factor 4 / pi^2 at the "
                           "squared difference of the angles",
                           "v = 4 / math.pi**2 * (atan1 - atan2) ** 2")
                   for form in FORMS) if which == "ciou" else ()),
                *(Reading(_box("sizes added", form), "does not take the intersection out of the "
                          "union, where it is counted twice", "union = area1 + area2 - inter")
                  for form in FORMS),
                *(Reading(_box("unclamped", form), "does not clamp the intersection's width and "
                          "height at 0: boxes that lie diagonally apart overlap",
                          "inter = width.clamp(min=0) * height.clamp(min=0)")
                  for form in FORMS),
                *((Reading(_box("iou", form), f"is the plain IoU loss: the term that makes it "
                           f"{title} is missing") for form in FORMS) if which != "iou" else ()),
            ),
            unlike=unlike, constant="overlap",
        )
        for which, title, source, pattern, unlike in (
            ("iou", "IoU", "Yu et al., UnitBox, 2016", r"\biou\b|iouloss|iou loss",
             r"giou|diou|ciou|general|distance|complete|g iou|d iou|c iou|eiou|siou|wiou|alpha"),
            ("giou", "GIoU", "Rezatofighi et al., 2019", r"giou|general\w* (box )?iou|g iou", None),
            ("diou", "DIoU", "Zheng et al., 2020", r"diou|distance (box )?iou|d iou", None),
            ("ciou", "CIoU", "Zheng et al., 2020", r"ciou|complete (box )?iou|c iou", None),
        )
    ),
)  # fmt: skip
