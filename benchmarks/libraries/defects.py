"""True defects of the libraries, each with code that shows it without lossproof.

A finding on one of these losses that bears one of the codes is a hit, not a false alarm.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.libraries.catalogue import LIBRARIES

Shows = Callable[[Callable[..., Any]], bool]


@dataclass(frozen=True)
class Defect:
    """What is wrong with a loss, the rules that may report it, and code that shows it."""

    library: str
    loss: str
    codes: frozenset[str]
    what: str
    shows: Callable[[], bool]
    told_by_the_check: bool
    """Whoever wrote this list did not know it before the check reported it."""

    @property
    def title(self) -> str:
        """The loss, with its library."""
        return f"{self.library} {self.loss}"


DEFECTS: list[Defect] = []


def defect(
    library: str, losses: str, codes: str, what: str, *, told_by_the_check: bool = False
) -> Callable[[Shows], Shows]:
    """Register what is wrong with some losses, and the function that shows it of such a loss.

    Args:
        library: the library's name in the catalogue.
        losses: the losses' names, separated by semicolons.
        codes: the rules that may report it, separated by spaces.
        what: the defect, in words.
        told_by_the_check: whether it came to light through a report of the check. Before the code
            here showed that it is there, the finding looked like a false alarm; the study tells
            what its figure would be if such a defect were not granted.
    """

    def register(shows: Shows) -> Shows:
        for loss in losses.split("; "):
            show = functools.partial(_shown, library, loss, shows)
            found = Defect(library, loss, frozenset(codes.split()), what, show, told_by_the_check)
            DEFECTS.append(found)
        return shows

    return register


def _shown(library: str, loss: str, shows: Shows) -> bool:
    return shows(LIBRARIES[library].entries()[loss].make())


def _value_and_gradient(loss: Callable[..., Any], x: Tensor, *rest: Any) -> tuple[float, Tensor]:
    leaf = x.detach().clone().requires_grad_()
    value = loss(leaf, *rest)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.item(), gradient


def _has_nan(gradient: Tensor) -> bool:
    return bool(gradient.isnan().any())


def _made_like(loss: Any, *arguments: Any, **options: Any) -> Any:
    """Another loss of the same class."""
    return type(loss)(*arguments, **options)


def _raises(call: Callable[[], Any]) -> bool:
    """Whether the loss itself fails: an error of torch deep inside, no check of the arguments."""
    try:
        call()
    except (RuntimeError, IndexError):
        return True
    return False


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(179424673))


def _labels(classes: int, *shape: int) -> Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(179424691))


def _image(size: int) -> Tensor:
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(179424697))


@defect(
    "torch.nn",
    "SoftMarginLoss",
    "LP302",
    "float32 overflows below input * target = -88: at -100 the value is inf, not 100, and the "
    "gradient NaN",
)
def _soft_margin_overflows(loss: Callable[..., Any]) -> bool:
    value, gradient = _value_and_gradient(loss, torch.tensor([-100.0]), torch.ones(1))
    return math.isinf(value) and _has_nan(gradient)


@defect(
    "auraloss",
    "LogCoshLoss",
    "LP302",
    "`log(cosh(x))` overflows in float32 from 89 on: at 100 the value is inf, not 99.3, and the "
    "gradient NaN",
)
def _log_cosh_overflows(loss: Callable[..., Any]) -> bool:
    value, gradient = _value_and_gradient(loss, torch.tensor([[[100.0]]]), torch.zeros(1, 1, 1))
    return math.isinf(value) and _has_nan(gradient)


@defect(
    "monai",
    "JukeboxLoss",
    "LP301",
    "the amplitude's root has no derivative where a frequency is missing: a prediction of zeros "
    "has a NaN gradient",
)
def _no_amplitude(loss: Callable[..., Any]) -> bool:
    _, gradient = _value_and_gradient(loss, torch.zeros(1, 1, 8, 8), _normal(1, 1, 8, 8))
    return _has_nan(gradient)


@defect(
    "monai",
    "BarlowTwinsLoss",
    "LP105 LP107",
    "the features are divided by their deviation over n - 1 and their products by n: identical, "
    "uncorrelated views have a loss of features / n^2, not 0",
)
def _identical_views_are_penalised(loss: Callable[..., Any]) -> bool:
    views = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    return math.isclose(float(loss(views, views)), 2 / 4**2, rel_tol=1e-3)


@defect(
    "kornia",
    "kl_div_loss_2d",
    "LP301",
    "a zero in `pred`, to which a softmax in float32 underflows, makes the value inf, as its "
    "documentation says, and no step comes back from there: the gradient of the softmax is NaN",
)
def _softmax_underflows(loss: Callable[..., Any]) -> bool:
    def of_logits(logits: Tensor) -> Any:
        return loss(logits.softmax(-1), torch.full((1, 1, 1, 2), 0.5))

    value, gradient = _value_and_gradient(of_logits, torch.tensor([[[[0.0, 200.0]]]]))
    return math.isinf(value) and _has_nan(gradient)


PML = "pytorch-metric-learning"


@defect(
    PML,
    "DynamicSoftMarginLoss",
    "LP403",
    "the histogram that it keeps keeps the graph of the calls before: the second backward raises",
)
def _second_backward_raises(loss: Callable[..., Any]) -> bool:
    x, labels = _normal(12, 8).requires_grad_(), torch.arange(12) % 4
    loss(x, labels).backward()
    return _raises(lambda: loss(x, labels).backward())


@defect(
    PML,
    "SignalToNoiseRatioContrastiveLoss; P2SGradLoss",
    "LP301",
    "divides by the variance or the length of an embedding: one embedding of zeros makes the "
    "gradient NaN",
)
def _zero_embedding(loss: Callable[..., Any]) -> bool:
    x = _normal(12, 8)
    x[0] = 0
    return _has_nan(_value_and_gradient(loss, x, torch.arange(12) % 4)[1])


@defect(
    PML,
    "TupletMarginLoss",
    "LP301 LP302",
    "`acos` of a cosine of 1, or more by rounding: the same embedding twice in a class has a NaN "
    "gradient",
)
def _cosine_above_one(loss: Callable[..., Any]) -> bool:
    x = torch.full((12, 8), 0.3)
    return _has_nan(_value_and_gradient(loss, x, torch.arange(12) % 4)[1])


@defect(
    PML,
    "HistogramLoss",
    "LP304 LP408",
    "a similarity of 1 falls behind the last bin: the same embedding twice in a class raises in "
    "`scatter_add_`",
)
def _behind_the_last_bin(loss: Callable[..., Any]) -> bool:
    x = torch.eye(8)[torch.arange(12) % 4]
    return _raises(lambda: loss(x, torch.arange(12) % 4))


@defect(
    PML,
    "ArcFaceLoss; CosFaceLoss; LargeMarginSoftmaxLoss; NormalizedSoftmaxLoss; ProxyAnchorLoss; "
    "ProxyNCALoss; SoftTripleLoss; SphereFaceLoss; SubCenterArcFaceLoss; P2SGradLoss",
    "LP403",
    "one call with float16 embeddings leaves the parameters in float16 for good",
)
def _parameters_change_their_type(loss: Callable[..., Any]) -> bool:
    assert isinstance(loss, nn.Module)
    before = {parameter.dtype for parameter in loss.parameters()}
    loss(_normal(12, 8).half(), torch.arange(12) % 4)
    after = {parameter.dtype for parameter in loss.parameters()}
    return before == {torch.float32} and after == {torch.float16}


SMP = "segmentation-models-pytorch"


@defect(
    SMP,
    "LovaszLoss, multiclass; LovaszLoss, binary; LovaszLoss, multilabel",
    "LP110",
    "the option `from_logits` is taken and never read",
)
def _from_logits_changes_nothing(loss: Callable[..., Any]) -> bool:
    mode: Any = vars(loss)["mode"]
    probabilities = _normal(2, 3, 4, 4).softmax(1)
    target = _labels(3, 2, 4, 4) if mode == "multiclass" else _labels(2, 2, 3, 4, 4).float()
    other = _made_like(loss, mode, from_logits=False)
    return bool(torch.equal(loss(probabilities, target), other(probabilities, target)))


@defect(
    SMP,
    "FocalLoss, multiclass",
    "LP111",
    "not the focal loss of a softmax but the mean of one sigmoid per class: at gamma 0 it is not "
    "the cross entropy",
)
def _focal_is_no_cross_entropy(loss: Callable[..., Any]) -> bool:
    logits, target = _normal(2, 3, 4, 4), _labels(3, 2, 4, 4)
    at_gamma_0 = _made_like(loss, "multiclass", gamma=0.0)
    return not torch.isclose(at_gamma_0(logits, target), functional.cross_entropy(logits, target))


@defect(
    SMP,
    "SoftCrossEntropyLoss",
    "LP105",
    "the mean is over all pixels, the ignored ones with them: ignore half, and the loss halves",
)
@defect(
    "pytorch-toolbelt",
    "SoftCrossEntropyLoss",
    "LP105",
    "the mean is over all pixels, the ignored ones with them: ignore half, and the loss halves",
)
def _ignored_pixels_count(loss: Callable[..., Any]) -> bool:
    logits = _normal(1, 3, 4, 4).repeat(2, 1, 1, 1)
    target = _labels(3, 1, 4, 4).repeat(2, 1, 1)
    whole = loss(logits, target)
    target[1] = -100
    return bool(torch.isclose(loss(logits, target), whole / 2))


@defect(
    "entmax",
    "SparsemaxLoss; SparsemaxBisectLoss; Entmax15Loss; EntmaxBisectLoss; NormmaxBisectLoss",
    "LP304 LP408",
    "an `ignore_index` below 0, its own default of -100 with it, ignores nothing: a label of -100 "
    "raises an index error (deep-spin/entmax#21)",
    told_by_the_check=True,
)
def _ignored_label_raises(loss: Callable[..., Any]) -> bool:
    logits, target = _normal(4, 5), torch.tensor([0, 1, -100, 2])
    accepted = torch.isfinite(functional.cross_entropy(logits, target, ignore_index=-100))
    return (
        vars(loss)["ignore_index"] == -100
        and bool(accepted)
        and _raises(lambda: loss(logits, target))
    )


@defect("piq", "TVLoss", "LP301", "the root of 0: an image of one colour has a NaN gradient")
def _flat_image_alone(loss: Callable[..., Any]) -> bool:
    return _has_nan(_value_and_gradient(loss, torch.full((1, 3, 16, 16), 0.5))[1])


@defect(
    "piq",
    "GMSDLoss; MultiScaleGMSDLoss; MDSILoss",
    "LP301",
    "a root or a power at 0: equal images, the aim of the training, have a NaN gradient",
)
def _equal_images(loss: Callable[..., Any]) -> bool:
    return _has_nan(_value_and_gradient(loss, _image(32), _image(32))[1])


@defect(
    "piq",
    "FSIMLoss; VSILoss; SRSIMLoss; DSSLoss",
    "LP301",
    "the root of a gradient or a variance of 0: an image of one colour has a NaN gradient",
)
def _flat_image(loss: Callable[..., Any]) -> bool:
    image = _image(64)
    return _has_nan(_value_and_gradient(loss, torch.full_like(image, 0.5), image)[1])


@defect(
    "piq",
    "InformationWeightedSSIMLoss",
    "LP304 LP408",
    "inverts the covariance of the second image: one colour raises an error of `linalg.inv`",
    told_by_the_check=True,
)
def _covariance_is_singular(loss: Callable[..., Any]) -> bool:
    flat = torch.full((1, 1, 161, 161), 0.5)
    return _raises(lambda: loss(_image(161)[:, :1], flat))


@defect(
    SMP,
    "LovaszLoss, multiclass; LovaszLoss, binary; LovaszLoss, multilabel",
    "LP303 LP408",
    "a part is computed in float32 always: float64 raises in `torch.dot`",
)
@defect(
    "pytorch-toolbelt",
    "LovaszLoss; BinaryLovaszLoss",
    "LP303 LP408",
    "a part is computed in float32 always: float64 raises in `torch.dot`",
)
def _only_float32(loss: Callable[..., Any]) -> bool:
    binary = type(loss).__name__ == "BinaryLovaszLoss"
    of_classes = not binary and vars(loss).get("mode", "multiclass") == "multiclass"
    target = _labels(3, 2, 4, 4) if of_classes else _labels(2, 2, 3, 4, 4).double()
    prediction = _normal(2, 3, 4, 4).softmax(1)
    works = bool(torch.isfinite(loss(prediction, target if of_classes else target.float())))
    return works and _raises(lambda: loss(prediction.double(), target))


@defect(
    "pytorch-toolbelt",
    "CrossEntropyFocalLoss",
    "LP111",
    "the focal factor of a softmax times the cross entropy of a sigmoid: at gamma 0 it is not the "
    "cross entropy",
)
def _factor_and_entropy_do_not_fit(loss: Callable[..., Any]) -> bool:
    logits, target = _normal(2, 3, 4, 4), _labels(3, 2, 4, 4)
    at_gamma_0 = _made_like(loss, gamma=0.0)
    return not torch.isclose(at_gamma_0(logits, target), functional.cross_entropy(logits, target))
