"""Losses of embeddings without labels and without negatives."""

from __future__ import annotations

import torch

from lossproof.losses._embeddings import (
    counting,
    embedding_pair,
    embeddings,
    kept_rows,
    not_diagonal,
    unit_vectors,
)
from lossproof.losses.catalogue import loss
from lossproof.write.arguments import axes, fits, number, pair, same_device, tensor
from lossproof.write.module import as_module
from lossproof.write.reduction import reduce

Tensor = torch.Tensor


@loss(
    inputs="input1 float[6,5]; input2 float[6,5]",
    convex=False,
    bounded_gradient=True,
    minimal_at_target=False,
    coupled=True,
    also=("redundancy reduction", "cross-correlation"),
    peers={
        "lightly": "the same function",
        "monai": "divides by the sample standard deviation and then by N, so that identical views "
        "are penalised",
    },
)
def barlow_twins_loss(
    input1: Tensor, input2: Tensor, *, lambd: float = 0.005, eps: float = 1e-5
) -> Tensor:
    r"""Barlow Twins: the cross-correlation of two views should be the identity.

    .. math::
        \mathcal{L} = \sum_i (1 - C_{ii})^2 + \lambda \sum_i \sum_{j \ne i} C_{ij}^2, \qquad
        C_{ij} = \frac{1}{N} \sum_n \hat a_{ni} \hat b_{nj}, \qquad
        \hat a_{ni} = \frac{a_{ni} - \operatorname{mean}_n a_{ni}}
        {\sqrt{\operatorname{var}_n a_{ni} + \epsilon}}

    The variance is the mean square, so that a feature has the correlation 1 with itself. A constant
    feature has the correlation 0. A batch of fewer than two samples has none, and gives 0. It is a
    loss of the whole batch: no value belongs to a sample, and there is no ``reduction``.

    Args:
        input1: embeddings :math:`a` of one view of each sample, floating point.
        input2: embeddings :math:`b` of the other view.
        lambd: :math:`\lambda`, how much the entries off the diagonal count, not negative.
        eps: :math:`\epsilon`, added to the variances as by the batch normalisation of the authors'
            code, not negative.

    Shape:
        - Inputs: :math:`(N, D)`.
        - Output: scalar.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import barlow_twins_loss
        >>> one = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
        >>> barlow_twins_loss(one, one, eps=0.0)
        tensor(0.)
        >>> barlow_twins_loss(one, one.flip(1), eps=0.0)
        tensor(2.0100)

    Source:
        Zbontar, Jing, Misra, LeCun, Deny (2021), Barlow Twins: self-supervised learning via
        redundancy reduction.
    """
    input1, input2 = embedding_pair(input1, input2, ("input1", "input2"))
    number("lambd", lambd, minimum=0)
    number("eps", eps, minimum=0)
    if input1.shape[0] < 2:
        return 0.0 * (input1.sum() + input2.sum())
    one, other = _standardised(input1, eps), _standardised(input2, eps)
    diagonal = (one * other).sum(0)
    return (1 - diagonal).square().sum() + lambd * _off_diagonal_energy(one, other, diagonal)


def _standardised(features: Tensor, eps: float) -> Tensor:
    """The columns with mean 0 and a sum of squares of 1; constant ones are 0."""
    centred = features - features.mean(0)
    variance = centred.square().mean(0) + eps
    return centred * (torch.where(variance == 0, 1, variance) * features.shape[0]).rsqrt()


def _off_diagonal_energy(one: Tensor, other: Tensor, diagonal: Tensor) -> Tensor:
    """The sum of the squares of ``one.T @ other`` off its diagonal.

    Where the features outnumber the samples, the sum of all squares comes from the Gram matrices
    of the samples, which are smaller: a third of the time. The correlations then cannot all vanish
    off the diagonal while those on it are 1, so that the difference of the two sums is exact enough
    beside the term of the diagonal.
    """
    samples, features = one.shape
    if features >= 2 * samples:
        return ((one @ one.T) * (other @ other.T)).sum() - diagonal.square().sum()
    correlation = one.T @ other
    return torch.where(not_diagonal(correlation), correlation, 0.0).square().sum()


BarlowTwinsLoss = as_module(barlow_twins_loss)


@loss(
    inputs="input1 float[6,5]; input2 float[6,5]",
    convex=False,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=True,
    module="VICRegLoss",
    also=("variance-invariance-covariance",),
    peers={"lightly, pytorch-metric-learning": "the same function"},
)
def vicreg_loss(
    input1: Tensor,
    input2: Tensor,
    *,
    sim_coeff: float = 25.0,
    std_coeff: float = 25.0,
    cov_coeff: float = 1.0,
    gamma: float = 1.0,
    eps: float = 1e-4,
) -> Tensor:
    r"""VICReg: two views alike, every feature spread, no two features correlated.

    .. math::
        \mathcal{L} = \frac{\lambda}{ND} \|A - B\|^2
        + \frac{\mu}{2} \left( v(A) + v(B) \right) + \nu \left( c(A) + c(B) \right)

    .. math::
        v(A) = \frac{1}{D} \sum_j \max\left(0, \gamma - \sqrt{\operatorname{var} A_j + \epsilon}
        \right), \qquad c(A) = \frac{1}{D} \sum_{i \ne j} \operatorname{cov}(A_i, A_j)^2

    Variances and covariances divide by :math:`N - 1`; with fewer than two samples there are none,
    and only the first term is left. The means over the features and the half before the variances
    are those of the authors' code, whose coefficients these are; the paper's formula has neither.
    It is a loss of the whole batch: no value belongs to a sample, and there is no ``reduction``.

    Args:
        input1: embeddings :math:`A` of one view of each sample, floating point.
        input2: embeddings :math:`B` of the other view.
        sim_coeff: :math:`\lambda`, of the invariance, not negative.
        std_coeff: :math:`\mu`, of the variance, not negative.
        cov_coeff: :math:`\nu`, of the covariance, not negative.
        gamma: :math:`\gamma`, the standard deviation that each feature should have, not negative.
        eps: :math:`\epsilon`, added to the variances, positive.

    Shape:
        - Inputs: :math:`(N, D)`.
        - Output: scalar.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import vicreg_loss
        >>> one = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
        >>> vicreg_loss(one, one)
        tensor(0.)
        >>> vicreg_loss(one, one / 2)
        tensor(11.5320)

    Source:
        Bardes, Ponce, LeCun (2022), VICReg: variance-invariance-covariance regularization for
        self-supervised learning.
    """
    embedding_pair(input1, input2, ("input1", "input2"))
    coefficients = {"sim_coeff": sim_coeff, "std_coeff": std_coeff, "cov_coeff": cov_coeff}
    for name, value in {**coefficients, "gamma": gamma}.items():
        number(name, value, minimum=0)
    number("eps", eps, above=0)
    samples, features = input1.shape
    invariance = (input1 - input2).square().sum() / max(input1.numel(), 1)
    if samples < 2:
        return sim_coeff * invariance
    (spread1, mixed1), (spread2, mixed2) = (
        _variance_and_covariance(view, gamma, eps) for view in (input1, input2)
    )
    variance, covariance = (spread1 + spread2) / 2, (mixed1 + mixed2) / features
    return sim_coeff * invariance + std_coeff * variance + cov_coeff * covariance


def _variance_and_covariance(view: Tensor, gamma: float, eps: float) -> tuple[Tensor, Tensor]:
    """How much spread the features lack, and the squares of their covariances off the diagonal."""
    centred = view - view.mean(0)
    degrees = view.shape[0] - 1
    deviation = (centred.square().sum(0) / degrees + eps).sqrt()
    covariance = centred.T @ centred / degrees
    mixed = torch.where(not_diagonal(covariance), covariance, 0.0).square().sum()
    return (gamma - deviation).relu().mean(), mixed


VICRegLoss = as_module(vicreg_loss, name="VICRegLoss")


@loss(
    inputs="input float[6,5]; target float[6,5]",
    convex=False,
    bounded_gradient=False,
    minimal_at_target=True,
    coupled=False,
    also=("simsiam", "byol", "cosine"),
    stops_gradient="the target: it comes from the other branch, which would collapse with it",
    peers={
        "lightly": "`NegativeCosineSimilarity` is the same value; it leaves the stop-gradient to "
        "its caller",
        "torch": "`cosine_embedding_loss` with a target of 1 is this plus 1, without stop-gradient",
    },
)
def negative_cosine_loss(
    input: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Negative cosine: a prediction should point where its target points, as in SimSiam and BYOL.

    .. math::
        v = -\cos(p, \operatorname{stopgrad}(z)) = -\frac{p \cdot z}{\|p\| \|z\|}

    The target has no gradient. SimSiam averages this with the loss of the views exchanged; BYOL's
    loss is :math:`2 + 2 v`. A vector of zeros has the cosine 0 with any other, and a finite
    gradient.

    Args:
        input: predictions :math:`p`, floating point, vectors along the last axis.
        target: projections :math:`z` of the other view, the shape of ``input``.
        weight: how much each pair counts, the shape of the output for ``"none"`` or 1 where it is
            the same for all.
        mask: which pairs count, bool, shaped like ``weight``. What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of pairs that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(*, D)`, target: the same.
        - Output: scalar; for ``"none"`` :math:`(*)`.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes differ, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import negative_cosine_loss
        >>> input = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
        >>> negative_cosine_loss(input, torch.tensor([[2.0, 0.0], [1.0, 0.0]]), reduction="none")
        tensor([-1.0000, -0.6000])

    Source:
        Chen, He (2021), Exploring simple siamese representation learning; Grill et al. (2020),
        Bootstrap your own latent.
    """
    pair(input, target)
    embeddings("input", input, -1, layout="(*, D)")
    if mask is not None:
        counts = fits("mask", mask, input.detach()[..., 0], kind="bool")
        input, target = kept_rows(input, counts), kept_rows(target, counts)
    values = -(unit_vectors(input) * unit_vectors(target.detach())).sum(-1)
    return reduce(values, weight, reduction, mask=mask, normalizer=normalizer)


NegativeCosineLoss = as_module(negative_cosine_loss)


@loss(
    inputs="input float[6,5]",
    convex=False,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=True,
    module="KoLeoLoss",
    also=("kozachenko-leonenko", "differential entropy", "uniformity", "dinov2"),
    peers={"lightly": "the same, with its eps added to the distance and inside the log"},
)
def koleo_loss(
    input: Tensor,
    *,
    eps: float = 1e-8,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""KoLeo: spread directions evenly, by the distance of each to its nearest neighbour.

    .. math::
        v_i = -\tfrac{1}{2} \log(d_i^2 + \epsilon^2), \qquad
        d_i = \min_{j \ne i} \left\| \frac{x_i}{\|x_i\|} - \frac{x_j}{\|x_j\|} \right\|

    It is the estimate of Kozachenko and Leonenko of the differential entropy, up to its sign and a
    constant. Without :math:`\epsilon` it is infinite where two directions are the same; with it
    :math:`-\log \epsilon` there, with zero gradient. A sample without any other does not count.

    Args:
        input: embeddings, floating point; their length does not matter.
        eps: :math:`\epsilon`, the distance below which neighbours count as the same, positive.
        weight: how much each sample counts, shape (N,).
        mask: which samples count, bool, shape (N,). The others are nobody's neighbours; they may be
            NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of samples that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Input: :math:`(N, D)`.
        - Output: scalar; for ``"none"`` :math:`(N)`.

    Raises:
        TypeError: ``input`` is not floating point.
        ValueError: it does not have the shape (N, D), or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import koleo_loss
        >>> koleo_loss(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]))
        tensor(-0.3466)

    Source:
        Sablayrolles, Douze, Schmid, Jégou (2019), Spreading vectors for similarity search.
    """
    embeddings("input", input)
    number("eps", eps, above=0)
    counts = counting(mask, input)
    points = unit_vectors(kept_rows(input, counts))
    if points.shape[0] < 2:
        return reduce(0.0 * points.sum(-1), weight, reduction, mask=counts, normalizer=normalizer)
    neighbour, found = _nearest(points.detach(), counts)
    apart = (points - points[neighbour]).square().sum(-1)
    values = -0.5 * (apart + eps**2).log()
    counted = found if counts is None else found & counts
    return reduce(values, weight, reduction, mask=counted, normalizer=normalizer)


def _nearest(points: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The nearest other point of each that counts, and whether there is one.

    The distances come from differences, not from products: these could not tell near neighbours.
    """
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    other = not_diagonal(distance)
    if mask is not None:
        other = other & mask
    return torch.where(other, distance, torch.inf).argmin(-1), other.any(-1)


KoLeoLoss = as_module(koleo_loss, name="KoLeoLoss")


@loss(
    inputs=("student float[6,5]; teacher float[6,5]", "student float[6,3,5]; teacher float[6,2,5]"),
    convex=True,
    bounded_gradient=True,
    minimal_at_target=False,
    coupled=False,
    module="DINOLoss",
    also=("self-distillation", "multi-crop", "ibot"),
    stops_gradient="the teacher and its centre: they follow the student by averages of their own",
    peers={
        "lightly": "the same function of a list of views; the centre is part of the loss, and "
        "changes with each call",
    },
)
def dino_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
    center: Tensor | None = None,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""DINO: the cross entropy of a student with the centred and sharpened output of its teacher.

    .. math::
        v = -\sum_k \operatorname{softmax}\left( \frac{t - c}{\tau_t} \right)_k
        \log \operatorname{softmax}\left( \frac{s}{\tau_s} \right)_k

    The teacher has no gradient. Where there are views, the value is the mean over all pairs of a
    teacher's and a student's view but those with the same index, which saw the same crop. The loss
    keeps no state: the centre is an average that the training loop moves, such as
    ``center.lerp_(teacher.mean(0), 0.1)``.

    Args:
        student: logits :math:`s`, floating point.
        teacher: logits :math:`t`; its views are the first views of the student.
        student_temperature: :math:`\tau_s`, positive.
        teacher_temperature: :math:`\tau_t`, positive.
        center: :math:`c`, shape (K,). Without it nothing is taken off.
        weight: how much each sample counts, shape (N,).
        mask: which samples count, bool, shape (N,). What does not count may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the
            weights that count, without weights by the number of samples that count.
        normalizer: what ``"mean"`` divides by instead.

    Shape:
        - Student and teacher: :math:`(N, K)`, or :math:`(N, V_s, K)` and :math:`(N, V_t, K)`.
        - Output: scalar; for ``"none"`` :math:`(N)`.

    Raises:
        TypeError: a tensor is not floating point.
        ValueError: the shapes do not fit, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import dino_loss
        >>> student, teacher = torch.tensor([[0.1, 0.0]]), torch.tensor([[0.04, 0.0]])
        >>> dino_loss(student, teacher)
        tensor(0.5822)
        >>> dino_loss(student, teacher, center=torch.tensor([0.04, 0.0]))
        tensor(0.8133)

    Source:
        Caron, Touvron, Misra, Jégou, Mairal, Bojanowski, Joulin (2021), Emerging properties in
        self-supervised vision transformers.
    """
    _check_views(student, teacher, center)
    number("student_temperature", student_temperature, above=0)
    number("teacher_temperature", teacher_temperature, above=0)
    counts = counting(mask, student.flatten(1))
    if counts is not None:
        each = counts.view(-1, *[1] * (student.ndim - 1))
        student, teacher = torch.where(each, student, 0.0), torch.where(each, teacher, 0.0)
    centred = teacher.detach() if center is None else teacher.detach() - center.detach()
    wanted = (centred / teacher_temperature).softmax(-1)
    found = (student / student_temperature).log_softmax(-1)
    if student.ndim == 2:
        values = -(wanted * found).sum(-1)
    else:
        crossed = -wanted.to(found.dtype) @ found.mT
        different = not_diagonal(crossed)
        values = torch.where(different, crossed, 0.0).sum((-2, -1)) / different.sum()
    return reduce(values, weight, reduction, mask=counts, normalizer=normalizer)


def _check_views(student: Tensor, teacher: Tensor, center: Tensor | None) -> None:
    embeddings("student", student, 2, 3, layout="(N, K) or (N, V, K)")
    embeddings("teacher", teacher, student.ndim, layout=f"of {student.ndim} axes, as `student`")
    same_device(student, teacher, ("student", "teacher"))
    if (student.shape[0], student.shape[-1]) != (teacher.shape[0], teacher.shape[-1]):
        raise ValueError(
            "`student` and `teacher` must have as many samples and logits, "
            f"got {list(student.shape)} and {list(teacher.shape)}"
        )
    if student.ndim == 3 and min(student.shape[1], teacher.shape[1]) < 1:
        raise ValueError("`student` and `teacher` must have views")
    if student.ndim == 3 and student.shape[1] == teacher.shape[1] == 1:
        raise ValueError(
            "`student` must have a view that `teacher` has not: pairs with the same "
            "index are left out"
        )
    if center is not None:
        same_device(
            axes("center", tensor("center", center), 1, layout="(K)"),
            student,
            ("center", "student"),
        )
        if center.shape != student.shape[-1:]:
            raise ValueError(
                f"`center` must have the shape {list(student.shape[-1:])}, got {list(center.shape)}"
            )


DINOLoss = as_module(dino_loss, name="DINOLoss")
