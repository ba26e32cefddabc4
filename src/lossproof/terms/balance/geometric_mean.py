"""The geometric mean of the terms."""

from __future__ import annotations

from typing import ClassVar

import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.value_range import nonnegative
from lossproof.terms.gradients import TermGradients, Want

Tensor = torch.Tensor


class GeometricMean(Balancer):
    r"""The geometric mean of the terms is minimised (GLS, the geometric loss strategy).

    .. math::
        L = \Big( \prod_k L_k \Big)^{1/K}, \qquad
        w_k = \frac{\partial L}{\partial L_k} = \frac{L}{K L_k}

    Units do not matter: a term in other units changes the weights by one common factor. It trains
    the logarithms of the terms, so that a term close to zero gets nearly all the weight, and the
    step shrinks as any of the terms does. The weights sum to nothing fixed; weights times values
    are all equal, and sum to the geometric mean.

    Args:
        names: the names of the terms, in their order.
        every: the weights are computed anew in every n-th step.

    Raises:
        ValueError: a term has a negative value. A term of exactly 0 is left out of the mean, with
            weight 0.

    Example:
        >>> import torch
        >>> from lossproof.terms import GeometricMean
        >>> x = torch.tensor(1.0, requires_grad=True)
        >>> step = GeometricMean().backward({"a": 8 * x, "b": 2 * x}, [x])
        >>> step.total, step.weights
        (tensor(4., dtype=torch.float64), tensor([0.2500, 1.0000], dtype=torch.float64))

    Source:
        Chennupati, Sistu, Yogamani and Rawashdeh (2019), MultiNet++: multi-stream feature
        aggregation and geometric loss strategy for multi-task learning, CVPR workshops. The
        weights that LibMTL reports for it are not those that it trains with.
    """

    needs: ClassVar[tuple[Want, ...]] = ()

    def weights_of(self, figures: TermGradients) -> Tensor:
        values = figures.values
        nonnegative(type(self).__name__, figures.names, values)
        positive = values > 0
        count = positive.sum().clamp(min=1)
        safe = torch.where(positive, values, 1.0)
        mean = torch.exp(safe.log().sum() / count)
        return torch.where(positive, mean / count / safe, 0.0)
