"""Losses that learn a centre or a proxy of each class, and compare embeddings with these alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lossproof.losses._class_vectors import ClassVectors, in_one_dtype
from lossproof.losses._embeddings import log_one_plus_sum_exp, log_sum_exp, unit_vectors
from lossproof.losses.catalogue import loss_module
from lossproof.write.arguments import flag, integer, number
from lossproof.write.reduction import divide

Tensor = torch.Tensor


@loss_module(
    inputs="input float[8,4]; target int[8]<5",
    options={"num_classes": 5, "embedding_size": 4},
    convex=True,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=False,
    also=("center", "centre", "face recognition"),
    peers={
        "pytorch-center-loss": "without the factor 1/2; each other class adds 1e-12, because zeros "
        "of its mask are clamped, too",
    },
)
class CenterLoss(ClassVectors):
    r"""Centre loss: each embedding is drawn to the centre of its class.

    .. math::
        v = \tfrac{1}{2} \|x - c_y\|^2

    It is added to a cross entropy, which keeps the classes apart. The centres :math:`c` are
    parameters, and follow their gradient; the paper moves each by
    :math:`\sum_{i: y_i = j} (x_i - c_j) / (1 + n_j)` times a rate of its own, which is to give them
    a group in the optimizer with a larger learning rate.

    Args:
        num_classes: the number C of classes.
        embedding_size: the number D of components of an embedding.
        weight: the weight of each class, shape (C,), a buffer.
        ignore_index: the label of samples that do not count. They may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"`` (the paper). ``"mean"`` divides by the sum of
            the class weights of the samples that count, without weights by their number.
        normalizer: what ``"mean"`` divides by instead. The call takes one, too.

    Shape:
        - Input: :math:`(N, D)` or :math:`(D)`; target: :math:`(N)` or :math:`()`.
        - ``centers``: :math:`(C, D)`.
        - Output: scalar; for ``"none"`` the shape of the target.

    Raises:
        TypeError: ``input`` is not floating point, or ``target`` is not integer.
        ValueError: the shapes do not fit, a label is no class, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import CenterLoss
        >>> loss = CenterLoss(2, 2, reduction="none")
        >>> loss.load_state_dict({"centers": torch.eye(2)})
        <All keys matched successfully>
        >>> loss(torch.tensor([[1.0, 0.0], [3.0, 5.0]]), torch.tensor([0, 1])).tolist()
        [0.0, 12.5]

    Source:
        Wen, Zhang, Li, Qiao (2016), A discriminative feature learning approach for deep face
        recognition.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        normalizer: float | Tensor | None = None,
    ) -> None:
        super().__init__(num_classes, embedding_size, ignore_index)
        self.centers = self.new_vectors(num_classes)
        self.reduced_by(weight, reduction, normalizer)

    def forward(
        self, input: Tensor, target: Tensor, *, normalizer: float | Tensor | None = None
    ) -> Tensor:
        """The loss of a batch."""
        batch = self.batch(input, target)
        vectors, centers = in_one_dtype(batch.vectors, self.centers)
        values = (vectors - centers.index_select(0, batch.labels)).square().sum(1) / 2
        return self.reduced(values, batch, target, normalizer)


@loss_module(
    inputs="input float[8,4]; target int[8]<5",
    options={"num_classes": 5, "embedding_size": 4},
    convex=False,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=False,
    also=("proxynca", "proxynca++", "neighbourhood components"),
    peers={
        "pytorch-metric-learning": "`ProxyNCALoss` has the own proxy in the denominator; a call in "
        "half precision casts its proxies for good, and a label that is no class gives NaN",
    },
)
class ProxyNCALoss(ClassVectors):
    r"""Proxy-NCA: each embedding nearer to the proxy of its class than to all others.

    .. math::
        v = -\log \frac{\exp(-s\, d(x, p_y))}{\sum_{c \ne y} \exp(-s\, d(x, p_c))}, \qquad
        d(x, p) = \Bigl\|\frac{x}{\|x\|} - \frac{p}{\|p\|}\Bigr\|^2

    The proxies :math:`p` are parameters. The paper leaves the own proxy out of the denominator, so
    that the loss may be negative. With ``own_in_denominator`` it is a cross entropy, as in
    Proxy-NCA++ with ``scale`` the inverse of its temperature.

    Args:
        num_classes: the number C of classes, at least 2.
        embedding_size: the number D of components of an embedding.
        scale: :math:`s`, above 0.
        own_in_denominator: sum over all classes instead of the others.
        weight: the weight of each class, shape (C,), a buffer.
        ignore_index: the label of samples that do not count. They may be NaN.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. ``"mean"`` divides by the sum of the class
            weights of the samples that count, without weights by their number.
        normalizer: what ``"mean"`` divides by instead. The call takes one, too.

    Shape:
        - Input: :math:`(N, D)` or :math:`(D)`; target: :math:`(N)` or :math:`()`.
        - ``proxies``: :math:`(C, D)`.
        - Output: scalar; for ``"none"`` the shape of the target.

    Raises:
        TypeError: ``input`` is not floating point, or ``target`` is not integer.
        ValueError: the shapes do not fit, a label is no class, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import ProxyNCALoss
        >>> loss = ProxyNCALoss(2, 2, reduction="none")
        >>> loss.load_state_dict({"proxies": torch.eye(2)})
        <All keys matched successfully>
        >>> loss(torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 1])).tolist()
        [-2.0, 0.0]

    Source:
        Movshovitz-Attias, Toshev, Leung, Ioffe, Singh (2017), No fuss distance metric learning
        using proxies; Teh, DeVries, Taylor (2020), ProxyNCA++: revisiting and revitalizing proxy
        neighborhood component analysis.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        scale: float = 1.0,
        own_in_denominator: bool = False,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        normalizer: float | Tensor | None = None,
    ) -> None:
        integer("num_classes", num_classes, minimum=2)
        super().__init__(num_classes, embedding_size, ignore_index)
        self.scale = number("scale", scale, above=0)
        self.own_in_denominator = flag("own_in_denominator", own_in_denominator)
        self.proxies = self.new_vectors(num_classes)
        self.reduced_by(weight, reduction, normalizer)

    def forward(
        self, input: Tensor, target: Tensor, *, normalizer: float | Tensor | None = None
    ) -> Tensor:
        """The loss of a batch."""
        batch = self.batch(input, target)
        vectors, proxies = map(unit_vectors, in_one_dtype(batch.vectors, self.proxies))
        # The squared distance is 2 - 2 cos, and the 2 of all classes cancels.
        logits = 2 * self.scale * (vectors @ proxies.T)
        is_label = batch.labels.unsqueeze(1) == torch.arange(self.num_classes, device=input.device)
        own = torch.where(is_label, logits, 0.0).sum(1)
        others, _ = log_sum_exp(logits, ~is_label)
        values = others - own
        if self.own_in_denominator:
            values = -F.logsigmoid(-values)
        return self.reduced(values, batch, target, normalizer)


@loss_module(
    inputs="input float[8,4]; target int[8]<5",
    options={"num_classes": 5, "embedding_size": 4},
    convex=False,
    bounded_gradient=False,
    minimal_at_target=False,
    coupled=True,
    also=("proxy anchor",),
    peers={
        "pytorch-metric-learning": "the same function; a call in half precision casts its proxies "
        "for good",
    },
)
class ProxyAnchorLoss(ClassVectors):
    r"""Proxy-anchor: the proxy of a class is the anchor of all samples, of its own and of others.

    .. math::
        L = \frac{1}{|P^+|} \sum_{c \in P^+} \log\Bigl(1 + \sum_{i: y_i = c}
        \exp(-\alpha (s_{ic} - \delta))\Bigr)
        + \frac{1}{C} \sum_{c} \log\Bigl(1 + \sum_{i: y_i \ne c}
        \exp(\alpha (s_{ic} + \delta))\Bigr), \qquad s_{ic} = \cos(x_i, p_c)

    :math:`P^+` are the classes that are present in the batch. The proxies :math:`p` are
    parameters. It is a loss of the whole batch, which has no values of samples to reduce.

    Args:
        num_classes: the number C of classes.
        embedding_size: the number D of components of an embedding.
        margin: :math:`\delta`, at least 0.
        alpha: the scale :math:`\alpha`, above 0.
        ignore_index: the label of samples that do not count. They may be NaN.

    Shape:
        - Input: :math:`(N, D)` or :math:`(D)`; target: :math:`(N)` or :math:`()`.
        - ``proxies``: :math:`(C, D)`.
        - Output: scalar.

    Raises:
        TypeError: ``input`` is not floating point, or ``target`` is not integer.
        ValueError: the shapes do not fit, a label is no class, or an option is out of its range.

    Example:
        >>> import torch
        >>> from lossproof.losses import ProxyAnchorLoss
        >>> loss = ProxyAnchorLoss(2, 2, alpha=4.0)
        >>> loss.load_state_dict({"proxies": torch.eye(2)})
        <All keys matched successfully>
        >>> loss(torch.tensor([[3.0, 0.0], [3.0, 4.0]]), torch.tensor([0, 1])).item()
        1.929...

    Source:
        Kim, Kim, Cho, Kwak (2020), Proxy anchor loss for deep metric learning.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        margin: float = 0.1,
        alpha: float = 32.0,
        ignore_index: int = -100,
    ) -> None:
        super().__init__(num_classes, embedding_size, ignore_index)
        self.margin = number("margin", margin, minimum=0)
        self.alpha = number("alpha", alpha, above=0)
        self.proxies = self.new_vectors(num_classes)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch."""
        vectors, labels, counts = self.batch(input, target)
        vectors, proxies = map(unit_vectors, in_one_dtype(vectors, self.proxies))
        similarity = proxies @ vectors.T
        own = torch.arange(self.num_classes, device=input.device).unsqueeze(1) == labels
        near, present = log_one_plus_sum_exp(-self.alpha * (similarity - self.margin), own & counts)
        far, _ = log_one_plus_sum_exp(self.alpha * (similarity + self.margin), ~own & counts)
        return divide(near.sum(), present.sum()) + far.mean()
