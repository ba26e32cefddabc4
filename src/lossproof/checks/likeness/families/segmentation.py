"""Overlaps: Dice, Jaccard, Tversky and generalised Dice; and the overlaps of boxes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from lossproof.checks.likeness.binding import boxes, labelled, pair
from lossproof.checks.likeness.known import Binding, KnownLoss, Reading, Slot, Term, Terms

Tensor = torch.Tensor
Values = tuple[float, ...]
SMOOTH: Values = (0.0, 1.0, 1e-5, 1e-6)


def _number(value: object) -> float:
    assert isinstance(value, (int, float))
    return float(value)


# ---------------------------------------------------------------------------- masks
def _activated(input: Tensor, kind: str) -> Tensor | None:
    inside = bool((input >= 0).all()) and bool((input <= 1).all())
    if kind == "given":
        return input if inside else None
    if inside:
        return None
    if kind == "sigmoid":
        return torch.sigmoid(input)
    return torch.softmax(input, 1) if input.dim() >= 2 and input.shape[1] > 1 else None


def _one_hot(target: Tensor, input: Tensor) -> Tensor | None:
    if target.shape == input.shape:
        return target.double()
    if target.is_floating_point() or input.dim() < 2:
        return None
    labels = target.squeeze(1) if target.dim() == input.dim() else target
    if labels.shape != (input.shape[0], *input.shape[2:]):
        return None
    if int(labels.min()) < 0 or int(labels.max()) >= input.shape[1]:
        return None
    return F.one_hot(labels.long(), input.shape[1]).movedim(-1, 1).double()


def _axes(dim: int, over: str) -> tuple[int, ...] | None:
    if over == "all":
        return tuple(range(dim))
    if over == "sample":
        return tuple(range(1, dim)) if dim > 1 else None
    if over == "sample and class":
        return tuple(range(2, dim)) if dim > 2 else None
    if over == "class":
        return (0, *range(2, dim)) if dim > 1 else None
    return (dim - 1,) if dim > 1 else None


Counts = tuple[Tensor, Tensor, Tensor]


def _counts(
    input: Tensor, target: Tensor, kind: str, over: str, squared: bool
) -> Counts | None:
    """The intersection and the two sizes, one of each for every mask."""
    p, y = _activated(input, kind), _one_hot(target, input)
    axes = _axes(input.dim(), over)
    if p is None or y is None or axes is None:
        return None
    sizes = (p**2, y**2) if squared else (p, y)
    return (p * y).sum(axes), sizes[0].sum(axes), sizes[1].sum(axes)


def _ratio(formula: str, counts: Counts, s: float) -> Tensor:
    both, one, other = counts
    if formula == "dice":
        return (2 * both + s) / (one + other + s)
    if formula == "dice, smooth below":
        return 2 * both / (one + other + s)
    if formula == "dice, smooth above twice":
        return (2 * both + 2 * s) / (one + other + 2 * s)
    if formula == "dice, smooth within":
        return 2 * (both + s) / (one + other + s)
    if formula == "iou":
        return (both + s) / (one + other - both + s)
    if formula == "iou, smooth below":
        return both / (one + other - both + s)
    if formula == "half dice":
        return (both + s) / (one + other + s)
    if formula == "dice over the union":
        return (2 * both + s) / (one + other - both + s)
    raise ValueError(formula)


KINDS = ("given", "sigmoid", "softmax")
OVERS = ("all", "sample and class", "sample", "class", "row")
WAYS = tuple(itertools.product(KINDS, OVERS))


def _overlap(formula: str, kind: str, over: str, squared: bool = False, how: str = ""):  # type: ignore[no-untyped-def]
    def terms(input: Tensor, target: Tensor, *, smooth: Values = SMOOTH) -> Terms:
        counts = _counts(input, target, kind, over, squared)
        if counts is None:
            return {}
        ratio = _ratio(formula, counts, _number(smooth))
        if how == "log":
            return {"log overlap": Term(torch.log(ratio), -1.0)}
        return {"overlap": Term(ratio, -1.0)}

    return terms


def _with_cross_entropy(formula: str, kind: str, over: str):  # type: ignore[no-untyped-def]
    def terms(input: Tensor, target: Tensor, *, smooth: Values = SMOOTH) -> Terms:
        counts = _counts(input, target, kind, over, False)
        p, y = _activated(input, kind), _one_hot(target, input)
        if counts is None or p is None or y is None:
            return {}
        entropy = -y * p.clamp_min(1e-300).log()
        if kind != "softmax":
            entropy = entropy - (1 - y) * (1 - p).clamp_min(1e-300).log()
        return {
            "overlap": Term(_ratio(formula, counts, _number(smooth)), -1.0, "overlap"),
            "cross entropy": Term(entropy, 1.0, "cross entropy"),
        }

    return terms


def _tversky(kind: str, over: str, focal: str = ""):  # type: ignore[no-untyped-def]
    def terms(
        input: Tensor, target: Tensor, *, alpha: Values = (0.3, 0.7, 0.5),
        beta: Values = (0.7, 0.3, 0.5), smooth: Values = SMOOTH, gamma: Values = (1.0,),
    ) -> Terms:  # fmt: skip
        counts = _counts(input, target, kind, over, False)
        if counts is None:
            return {}
        both, one, other = counts
        a, b, s = _number(alpha), _number(beta), _number(smooth)
        ratio = (both + s) / (both + a * (one - both) + b * (other - both) + s)
        if focal:
            power = _number(gamma) if focal == "power" else 1 / _number(gamma)
            return {"(1 - Tversky)^gamma": Term((1 - ratio).clamp_min(0) ** power)}
        return {"Tversky": Term(ratio, -1.0)}

    return terms


def _f_score(kind: str, over: str):  # type: ignore[no-untyped-def]
    def terms(
        input: Tensor, target: Tensor, *, beta: Values = (1.0, 2.0), smooth: Values = SMOOTH
    ) -> Terms:
        counts = _counts(input, target, kind, over, False)
        if counts is None:
            return {}
        both, one, other = counts
        b, s = _number(beta) ** 2, _number(smooth)
        return {"F": Term(((1 + b) * both + s) / (b * other + one + s), -1.0)}

    return terms


def _generalised(kind: str, over: str, power: int, dot: bool = False):  # type: ignore[no-untyped-def]
    def terms(input: Tensor, target: Tensor, *, smooth: Values = SMOOTH) -> Terms:
        counts = _counts(input, target, kind, over, False)
        if counts is None or input.dim() < 2:
            return {}
        both, one, other = counts
        if bool((other <= 0).any()):
            return {}
        weight, s = 1 / other**power, _number(smooth)
        axis = 1 if over == "sample and class" else 0
        above, below = (weight * both).sum(axis), (weight * (one + other)).sum(axis)
        return {"generalised Dice": Term((2 * above + s) / (below + s), -1.0)}

    return terms


def _as_pair(slots: tuple[Slot, ...]) -> Iterator[Binding]:
    yield from pair(slots)
    yield from labelled(slots)


# ---------------------------------------------------------------------------- boxes
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


def _box(which: str, form: str):  # type: ignore[no-untyped-def]
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


_BOX_TERMS = {
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
    "sizes added": lambda parts, iou: {
        "IoU": Term(parts["both"] / (parts["one"] + parts["other"]), -1.0)
    },
    "unclamped": lambda parts, iou: {
        "IoU": Term(
            parts["unclamped"] / (parts["one"] + parts["other"] - parts["unclamped"]), -1.0
        )
    },
}
FORMS = ("corners", "centre", "corner and size")

DICE = "1 - (2 * (p * y).sum() + smooth) / (p.sum() + y.sum() + smooth)"
IOU = "1 - (intersection + smooth) / (p.sum() + y.sum() - intersection + smooth)"
NO_DICE = r"general|jaccard|\biou\b|tversky|cl dice|cldice|focal|wasserstein|hausdorff|boundary|" \
    r"multi scale|deep|unified|adaptive|log cosh"

LOSSES = (
    KnownLoss(
        "dice", "the Dice loss", "Milletari et al., V-Net, 2016", r"dice|f 1 loss|soft f 1", _as_pair,
        (
            *(Reading(_overlap(formula, kind, over, squared))
              for formula in ("dice", "dice, smooth below", "dice, smooth above twice",
                              "dice, smooth within")
              for squared in (False, True) for kind, over in WAYS),
            *(Reading(_f_score(kind, over)) for kind, over in WAYS),
            *(Reading(_overlap("dice", kind, over, how="log")) for kind, over in WAYS),
            *(Reading(_with_cross_entropy("dice", kind, over)) for kind, over in WAYS),
            *(Reading(_overlap("half dice", kind, over), "has no factor 2 at the intersection, so "
                      "that a perfect prediction gives 1/2", DICE) for kind, over in WAYS),
            *(Reading(_overlap("dice over the union", kind, over), "divides 2 |A and B| by the "
                      "union instead of by |A| + |B|", DICE) for kind, over in WAYS),
        ),
        unlike=NO_DICE,
        mend=DICE,
    ),
    KnownLoss(
        "generalised-dice", "the generalised Dice loss", "Sudre et al., 2017",
        r"general\w* (soft )?dice|\bgdl\b|generali[sz]eddice|\bgdice", _as_pair,
        (
            *(Reading(_generalised(kind, over, power))
              for kind in KINDS for over in ("sample and class", "class") for power in (2, 1)),
            *(Reading(_overlap(formula, kind, over), "divides for every class by itself, where the "
                      "class weights cancel: this is the plain Dice loss",
                      "1 - 2 * (w * intersection).sum(1) / (w * (p_sum + y_sum)).sum(1)")
              for formula in ("dice", "dice, smooth below") for kind in KINDS
              for over in ("sample and class", "class")),
        ),
        unlike=r"wasserstein|focal",
    ),
    KnownLoss(
        "jaccard", "the Jaccard loss", "Rahman and Wang, 2016", r"jaccard|\biou\b|iou loss|iouloss",
        _as_pair,
        (
            *(Reading(_overlap(formula, kind, over))
              for formula in ("iou", "iou, smooth below") for kind, over in WAYS),
            *(Reading(_overlap("iou", kind, over, squared=True)) for kind, over in WAYS),
            *(Reading(_overlap("iou", kind, over, how="log")) for kind, over in WAYS),
            *(Reading(_with_cross_entropy("iou", kind, over)) for kind, over in WAYS),
            *(Reading(_overlap("half dice", kind, over), "does not take the intersection out of "
                      "the union, where it is counted twice", IOU) for kind, over in WAYS),
            *(Reading(_overlap("dice", kind, over), "is the Dice loss, not the Jaccard loss", IOU,
                      r"dice|f 1") for kind, over in WAYS),
        ),
        unlike=r"giou|diou|ciou|general|lovasz|power|focal|box|bbox",
        mend=IOU,
    ),
    KnownLoss(
        "tversky", "the Tversky loss", "Salehi et al., 2017; Abraham and Khan, 2019",
        r"tversky", _as_pair,
        (
            *(Reading(_tversky(kind, over)) for kind, over in WAYS[:12]),
            *(Reading(_tversky(kind, over, "power")) for kind, over in WAYS[:12]),
            *(Reading(_tversky(kind, over, "root")) for kind, over in WAYS[:12]),
        ),
    ),
    *(
        KnownLoss(
            f"box-{which}", f"the {title} loss of boxes", source, pattern, boxes,
            (
                *(Reading(_box(which, form)) for form in FORMS),
                *((Reading(_box("log iou", form)) for form in FORMS) if which == "iou" else ()),
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
            unlike=unlike,
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
