"""Cross entropies of cosines, with a margin that the class of a sample must lead by."""

from __future__ import annotations

import math

import torch

from lossproof.losses._class_targets import reduce_labels
from lossproof.losses._class_vectors import ClassBatch, ClassVectors, in_one_dtype
from lossproof.losses._distances import norm, root
from lossproof.losses._embeddings import unit_vectors
from lossproof.losses._logits import cost_of_label, one_hot
from lossproof.losses._logits import margin as lead_of_others
from lossproof.losses.catalogue import loss, loss_module
from lossproof.write.arguments import flag, integer, number, within
from lossproof.write.module import as_module

Tensor = torch.Tensor


def _check_cosines(cosine: Tensor) -> None:
    """Numbers from -1 to 1, and what bfloat16 rounds them to."""
    within("input", cosine, -1.01, 1.01)


def _cost(cosine: Tensor, label: Tensor, moved: Tensor, scale: float) -> Tensor:
    """The cross entropy of cosines (N, C, *) in which the label's, (N, *), is another."""
    is_label = one_hot(label, cosine)
    logits = scale * torch.where(is_label, moved.unsqueeze(1), cosine)
    return cost_of_label(lead_of_others(logits, label))


def _own(cosine: Tensor, label: Tensor) -> Tensor:
    return cosine.gather(1, label.long().unsqueeze(1)).squeeze(1)


def _cosine_of_sum(cosine: Tensor, sine: Tensor, margin: float, easy_margin: bool) -> Tensor:
    """cos(theta + m), and something smaller still where the sum is past 180 degrees."""
    moved = cosine * math.cos(margin) - sine * math.sin(margin)
    if easy_margin:
        return torch.where(cosine > 0, moved, cosine)
    return torch.where(cosine > -math.cos(margin), moved, cosine - margin * math.sin(margin))


def _angular_margin(margin: float) -> float:
    return number("margin", margin, minimum=0, maximum=math.pi)


@loss(
    inputs="input unit[8,5]; target int[8]<5",
    convex=False,
    bounded_gradient=False,
    minimal_at_target=True,
    coupled=False,
    module="ArcFaceCosineLoss",
    also=("additive angular margin", "insightface", "face recognition"),
    peers={
        "pytorch-metric-learning": "`ArcFaceLoss` takes embeddings, the margin in degrees, and "
        "casts its weights to the dtype of the embeddings for good",
        "insightface": "the same function",
    },
)
def arcface_loss(
    input: Tensor,
    target: Tensor,
    *,
    margin: float = 0.5,
    scale: float = 64.0,
    easy_margin: bool = False,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""ArcFace of cosines: cross entropy after the angle to the own class is made larger.

    .. math::
        v = -\log \frac{\exp(s \cos(\theta_y + m))}
        {\exp(s \cos(\theta_y + m)) + \sum_{c \ne y} \exp(s \cos \theta_c)}

    Where :math:`\theta_y + m` is past 180 degrees, :math:`\cos \theta_y - m \sin m` stands in its
    place, so that the loss goes on to fall with the angle. :class:`ArcFaceLoss` takes embeddings,
    learns the centres, and is more exact near :math:`\theta_y = 0`, where a cosine leaves little
    of the angle.

    Args:
        input: cosines of the angles :math:`\theta` to the centre of each class, floating point.
        target: the class :math:`y` of each sample.
        margin: :math:`m` in radians, from 0 to :math:`\pi`.
        scale: :math:`s`, above 0.
        easy_margin: add the margin only where :math:`\theta_y` is below 90 degrees, and take
            :math:`\cos \theta_y` as it is elsewhere.
        weight: the weight of each class, shape (C,).
        ignore_index: the label of samples that do not count. They may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the class
            weights of the samples that count, without weights by their number.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(N, C)` or :math:`(C)`; target: :math:`(N)` or :math:`()`.
        - Output: scalar; for ``"none"`` the shape of the target.

    Raises:
        TypeError: ``input`` is not floating point, or ``target`` is not integer.
        ValueError: the shapes do not fit, a number is no cosine by more than 0.01, a label is no
            class, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import arcface_loss
        >>> cosines = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
        >>> arcface_loss(cosines, torch.tensor([0, 1]), scale=4.0, reduction="none")
        tensor([0.0294, 1.1317])

    Source:
        Deng, Guo, Xue, Zafeiriou (2019), ArcFace: additive angular margin loss for deep face
        recognition.
    """
    _angular_margin(margin)
    number("scale", scale, above=0)
    flag("easy_margin", easy_margin)

    def values(cosine: Tensor, label: Tensor) -> Tensor:
        _check_cosines(cosine)
        own = _own(cosine, label)
        sine = root(((1 - own) * (1 + own)).clamp(min=0))
        return _cost(cosine, label, _cosine_of_sum(own, sine, margin, easy_margin), scale)

    return reduce_labels(
        values,
        input,
        target,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        normalizer=normalizer,
    )


ArcFaceCosineLoss = as_module(arcface_loss, name="ArcFaceCosineLoss")


@loss(
    inputs="input unit[8,5]; target int[8]<5",
    convex=True,
    bounded_gradient=True,
    minimal_at_target=True,
    coupled=False,
    module="CosFaceCosineLoss",
    also=("large margin cosine", "am-softmax", "additive margin", "face recognition"),
    peers={
        "pytorch-metric-learning": "`CosFaceLoss` takes embeddings, and casts its weights to the "
        "dtype of the embeddings for good",
    },
)
def cosface_loss(
    input: Tensor,
    target: Tensor,
    *,
    margin: float = 0.35,
    scale: float = 64.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""CosFace of cosines: cross entropy after the cosine of the own class is made smaller.

    .. math::
        v = -\log \frac{\exp(s (\cos \theta_y - m))}
        {\exp(s (\cos \theta_y - m)) + \sum_{c \ne y} \exp(s \cos \theta_c)}

    :class:`CosFaceLoss` takes embeddings and learns the centres.

    Args:
        input: cosines of the angles :math:`\theta` to the centre of each class, floating point.
        target: the class :math:`y` of each sample.
        margin: :math:`m`, at least 0.
        scale: :math:`s`, above 0.
        weight: the weight of each class, shape (C,).
        ignore_index: the label of samples that do not count. They may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the class
            weights of the samples that count, without weights by their number.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(N, C)` or :math:`(C)`; target: :math:`(N)` or :math:`()`.
        - Output: scalar; for ``"none"`` the shape of the target.

    Raises:
        TypeError: ``input`` is not floating point, or ``target`` is not integer.
        ValueError: the shapes do not fit, a number is no cosine by more than 0.01, a label is no
            class, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import cosface_loss
        >>> cosines = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
        >>> cosface_loss(cosines, torch.tensor([0, 1]), scale=4.0, reduction="none")
        tensor([0.0716, 1.0375])

    Source:
        Wang, Wang, Zhou, Ji, Gong, Zhou, Li, Liu (2018), CosFace: large margin cosine loss for
        deep face recognition.
    """
    number("margin", margin, minimum=0)
    number("scale", scale, above=0)

    def values(cosine: Tensor, label: Tensor) -> Tensor:
        _check_cosines(cosine)
        return _cost(cosine, label, _own(cosine, label) - margin, scale)

    return reduce_labels(
        values,
        input,
        target,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        normalizer=normalizer,
    )


CosFaceCosineLoss = as_module(cosface_loss, name="CosFaceCosineLoss")


class _Centres(ClassVectors):
    """Centres of classes, or several for each; the nearest one counts."""

    def __init__(
        self, num_classes: int, embedding_size: int, sub_centers: int, ignore_index: int
    ) -> None:
        super().__init__(num_classes, embedding_size, ignore_index)
        self.sub_centers = integer("sub_centers", sub_centers, minimum=1)
        self.centers = self.new_vectors(num_classes * sub_centers)

    def cosines(self, batch: ClassBatch) -> tuple[Tensor, Tensor, Tensor]:
        """The cosines (N, C), and of the own class the cosine and the sine, (N,)."""
        vectors, centers = map(unit_vectors, in_one_dtype(batch.vectors, self.centers))
        of_centers = vectors @ centers.T
        cosine, nearest = of_centers.view(-1, self.num_classes, self.sub_centers).max(2)
        row = batch.labels * self.sub_centers + _own(nearest, batch.labels)
        own_center = centers.index_select(0, row)
        # The root of 1 - cos^2 would be noise near 0 and 180 degrees; the two chords are exact.
        sine = norm(vectors - own_center) * norm(vectors + own_center) / 2
        return cosine, _own(cosine, batch.labels), sine


@loss_module(
    inputs="input float[8,4]; target int[8]<5",
    options={"num_classes": 5, "embedding_size": 4},
    convex=False,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=False,
    also=("additive angular margin", "insightface", "sub-center", "face recognition"),
    peers={
        "pytorch-metric-learning": "`ArcFaceLoss` and `SubCenterArcFaceLoss` are the same "
        "functions with the margin in degrees; a call in half precision casts their weights for "
        "good",
        "insightface": "the same function",
    },
)
class ArcFaceLoss(_Centres):
    r"""ArcFace: classes by the angle to their centres, with a margin that is added to the angle.

    .. math::
        v = -\log \frac{\exp(s \cos(\theta_y + m))}
        {\exp(s \cos(\theta_y + m)) + \sum_{c \ne y} \exp(s \cos \theta_c)}, \qquad
        \cos \theta_c = \max_k \frac{x \cdot w_{ck}}{\|x\| \|w_{ck}\|}

    It is :func:`arcface_loss` of the cosines between embeddings and the centres :math:`w`, which
    are parameters. Value and gradient are exact also where an embedding meets its centre. With
    ``sub_centers`` each class has several, and the nearest counts, so that wrong labels gather at
    centres of their own.

    Args:
        num_classes: the number C of classes.
        embedding_size: the number D of components of an embedding.
        margin: :math:`m` in radians, from 0 to :math:`\pi`.
        scale: :math:`s`, above 0.
        sub_centers: how many centres each class has.
        easy_margin: add the margin only where :math:`\theta_y` is below 90 degrees.
        weight: the weight of each class, shape (C,), a buffer.
        ignore_index: the label of samples that do not count. They may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the class
            weights of the samples that count, without weights by their number.
        normalizer: what ``"mean"`` divides by instead. The call takes one, too.

    Shape:
        - Input: :math:`(N, D)` or :math:`(D)`; target: :math:`(N)` or :math:`()`.
        - ``centers``: :math:`(C \cdot K, D)` for :math:`K` sub-centres, those of a class together.
        - Output: scalar; for ``"none"`` the shape of the target.

    Raises:
        TypeError: ``input`` is not floating point, or ``target`` is not integer.
        ValueError: the shapes do not fit, a label is no class, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import ArcFaceLoss
        >>> loss = ArcFaceLoss(2, 2, scale=4.0)
        >>> loss.load_state_dict({"centers": torch.eye(2)})
        <All keys matched successfully>
        >>> loss(torch.tensor([[3.0, 0.0], [3.0, 4.0]]), torch.tensor([0, 1])).item()
        0.580...

    Source:
        Deng, Guo, Xue, Zafeiriou (2019), ArcFace: additive angular margin loss for deep face
        recognition; Deng, Guo, Liu, Gong, Zafeiriou (2020), Sub-center ArcFace: boosting face
        recognition by large-scale noisy web faces.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        margin: float = 0.5,
        scale: float = 64.0,
        sub_centers: int = 1,
        easy_margin: bool = False,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        normalizer: float | Tensor | None = None,
    ) -> None:
        super().__init__(num_classes, embedding_size, sub_centers, ignore_index)
        self.margin = _angular_margin(margin)
        self.scale = number("scale", scale, above=0)
        self.easy_margin = flag("easy_margin", easy_margin)
        self.reduced_by(weight, reduction, normalizer)

    def forward(
        self, input: Tensor, target: Tensor, *, normalizer: float | Tensor | None = None
    ) -> Tensor:
        """The loss of a batch."""
        batch = self.batch(input, target)
        cosine, own, sine = self.cosines(batch)
        moved = _cosine_of_sum(own, sine, self.margin, self.easy_margin)
        values = _cost(cosine, batch.labels, moved, self.scale)
        return self.reduced(values, batch, target, normalizer)


@loss_module(
    inputs="input float[8,4]; target int[8]<5",
    options={"num_classes": 5, "embedding_size": 4},
    convex=False,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=False,
    also=("large margin cosine", "am-softmax", "additive margin", "face recognition"),
    peers={
        "pytorch-metric-learning": "the same function; a call in half precision casts its weights "
        "for good",
    },
)
class CosFaceLoss(_Centres):
    r"""CosFace: classes by the cosine to their centres, with a margin that is taken from it.

    .. math::
        v = -\log \frac{\exp(s (\cos \theta_y - m))}
        {\exp(s (\cos \theta_y - m)) + \sum_{c \ne y} \exp(s \cos \theta_c)}, \qquad
        \cos \theta_c = \max_k \frac{x \cdot w_{ck}}{\|x\| \|w_{ck}\|}

    It is :func:`cosface_loss` of the cosines between embeddings and the centres :math:`w`, which
    are parameters.

    Args:
        num_classes: the number C of classes.
        embedding_size: the number D of components of an embedding.
        margin: :math:`m`, at least 0.
        scale: :math:`s`, above 0.
        sub_centers: how many centres each class has; the nearest counts.
        weight: the weight of each class, shape (C,), a buffer.
        ignore_index: the label of samples that do not count. They may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the class
            weights of the samples that count, without weights by their number.
        normalizer: what ``"mean"`` divides by instead. The call takes one, too.

    Shape:
        - Input: :math:`(N, D)` or :math:`(D)`; target: :math:`(N)` or :math:`()`.
        - ``centers``: :math:`(C \cdot K, D)` for :math:`K` sub-centres, those of a class together.
        - Output: scalar; for ``"none"`` the shape of the target.

    Raises:
        TypeError: ``input`` is not floating point, or ``target`` is not integer.
        ValueError: the shapes do not fit, a label is no class, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import CosFaceLoss
        >>> loss = CosFaceLoss(2, 2, scale=4.0)
        >>> loss.load_state_dict({"centers": torch.eye(2)})
        <All keys matched successfully>
        >>> loss(torch.tensor([[3.0, 0.0], [3.0, 4.0]]), torch.tensor([0, 1])).item()
        0.554...

    Source:
        Wang, Wang, Zhou, Ji, Gong, Zhou, Li, Liu (2018), CosFace: large margin cosine loss for
        deep face recognition.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        margin: float = 0.35,
        scale: float = 64.0,
        sub_centers: int = 1,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        normalizer: float | Tensor | None = None,
    ) -> None:
        super().__init__(num_classes, embedding_size, sub_centers, ignore_index)
        self.margin = number("margin", margin, minimum=0)
        self.scale = number("scale", scale, above=0)
        self.reduced_by(weight, reduction, normalizer)

    def forward(
        self, input: Tensor, target: Tensor, *, normalizer: float | Tensor | None = None
    ) -> Tensor:
        """The loss of a batch."""
        batch = self.batch(input, target)
        cosine, own, _ = self.cosines(batch)
        values = _cost(cosine, batch.labels, own - self.margin, self.scale)
        return self.reduced(values, batch, target, normalizer)
