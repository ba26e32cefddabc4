"""What losses are called with: shapes of predictions, and what stands against them.

Costs are plausibilities: the lower, the likelier. They were set by hand so that of two readings
that both run, the one that a reader of the code would choose comes first.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from lossproof.checks.inference.code_words import Words


@dataclass(frozen=True)
class Layout:
    """A shape of the prediction. ``class_axis`` is the axis of the classes, if there is one."""

    name: str
    axes: tuple[str, ...]
    cost: float
    class_axis: int | None = None


LAYOUTS = (
    Layout("rows", ("N", "C"), 0.0, 1),
    Layout("vector", ("N",), 1.2),
    Layout("image", ("M", "C", "H", "W"), 2.0, 1),
    Layout("steps", ("FEW", "T", "C"), 2.2, 2),
    Layout("plane", ("M", "1", "H", "W"), 2.4),
    Layout("column", ("N", "1"), 3.0),
    Layout("channels", ("FEW", "C", "T"), 3.0, 1),
    Layout("square", ("N", "N"), 4.2, 1),
    Layout("track", ("M", "1", "SOUND"), 4.0),
    Layout("wave", ("M", "SOUND"), 4.2),
    Layout("stereo", ("M", "2", "SOUND"), 4.6),
    Layout("volume", ("M", "C", "H", "W", "H"), 4.2, 1),
    Layout("block", ("M", "1", "H", "W", "H"), 4.2),
    Layout("picture", ("M", "3", "WIDE", "WIDE"), 3.0, 1),
    Layout("large image", ("1", "3", "WIDEST", "WIDEST"), 6.0),
    Layout("points", ("FEW", "T", "3"), 4.4),
    Layout("boxes", ("N", "4"), 0.0),
    Layout("rotations", ("N", "3", "3"), 0.0),
)

ONLY_FOR = {"boxes": "boxes", "rotations": "rotations"}
"""Layouts that stand for one domain alone, and the other way round."""


@dataclass(frozen=True)
class Domain:
    """What the prediction's numbers mean, and what the target's do."""

    name: str
    predicted: str
    compared: str
    cost: float


DOMAINS = (
    Domain("classes", "float", "index", 0.0),
    Domain("regression", "float", "float", 1.0),
    Domain("binary logits", "float", "binary", 2.0),
    Domain("log-probabilities of classes", "logprob", "index", 2.2),
    Domain("probabilities of classes", "prob", "index", 2.4),
    Domain("binary probabilities", "unit", "binary", 2.5),
    Domain("intensities", "unit", "unit", 2.6),
    Domain("logits of distributions", "float", "prob", 3.0),
    Domain("logits of one class", "float", "onehot", 3.0),
    Domain("probabilities of one class", "prob", "onehot", 3.0),
    Domain("distributions", "prob", "prob", 3.2),
    Domain("log-distributions", "logprob", "prob", 3.4),
    Domain("logarithms of both", "logprob", "logprob", 3.8),
    Domain("logits of marks", "float", "bool", 3.4),
    Domain("probabilities of marks", "unit", "bool", 3.6),
    Domain("logits of flags", "float", "flag", 3.5),
    Domain("probabilities of flags", "unit", "flag", 3.7),
    Domain("signs", "float", "sign", 3.2),
    Domain("signs of rows", "float", "sign of rows", 3.4),
    Domain("marks of rows", "float", "binary of rows", 3.5),
    Domain("numbers of rows", "float", "float of rows", 3.0),
    Domain("sets of classes", "float", "class set", 5.0),
    Domain("positive numbers", "positive", "positive", 3.6),
    Domain("counts", "float", "count", 4.4),
    Domain("expected counts", "positive", "count", 4.4),
    Domain("boxes", "boxes", "boxes", 4.5),
    Domain("rotations", "rotation", "rotation", 5.0),
)


@dataclass(frozen=True)
class Clue:
    """A sign in the words of a loss, and what it makes likelier (gains are taken off the cost)."""

    holds: Callable[[Words], bool]
    domains: dict[str, float]
    layouts: dict[str, float]


def _titled(pattern: str) -> Callable[[Words], bool]:
    return lambda words: re.search(pattern, words.title) is not None


def _calls(*names: str) -> Callable[[Words], bool]:
    return lambda words: words.call(*names)


def _activates(words: Words) -> bool:
    """Whether the loss turns logits into probabilities itself."""
    return words.call(
        "sigmoid", "softmax", "log_softmax", "logsigmoid", "softplus", "cross_entropy",
        "crossentropyloss", "binary_cross_entropy_with_logits", "bcewithlogitsloss", "log_sigmoid",
    )  # fmt: skip


def _overlaps(words: Words) -> bool:
    return (
        re.search(r"dice|jaccard|tversky|iou|overlap|lovasz|f1|fbeta|mcc|matthews", words.title)
        is not None
    )


def _measures_boxes(words: Words) -> bool:
    named = re.search(r"iou", words.title) is not None
    corners = words.call("maximum", "minimum") or (words.call("max") and words.call("min"))
    return named and corners and not _activates(words)


_BINARY_LOGITS = {"binary logits": 3.0, "logits of marks": 2.0, "logits of flags": 2.0}
_BINARY_PROBABILITIES = {
    "binary probabilities": 3.4, "probabilities of marks": 2.2, "probabilities of flags": 2.2,
}  # fmt: skip
_CLASSES = {"classes": 0.8, "log-probabilities of classes": 0.5, "probabilities of classes": 0.5}
_SEGMENTS = {"image": 2.6, "plane": 2.6, "volume": 0.5, "block": 0.5}

CLUES = (
    Clue(_calls("binary_cross_entropy_with_logits", "bcewithlogitsloss", "logsigmoid",
                "log_sigmoid", "sigmoid_focal_loss", "multilabel_soft_margin_loss"),
         _BINARY_LOGITS, {}),
    Clue(_calls("sigmoid", "softplus"), {k: v - 1 for k, v in _BINARY_LOGITS.items()}, {}),
    Clue(lambda w: w.call("binary_cross_entropy", "bceloss") and not w.call("sigmoid"),
         _BINARY_PROBABILITIES, {}),
    Clue(_titled(r"bce|binarycross|binaryfocal|multilabel"), {
        "binary logits": 1.5, "binary probabilities": 1.5, "logits of flags": 1.0,
        "classes": -1.5}, {}),
    Clue(_calls("cross_entropy", "crossentropyloss", "one_hot", "gather", "scatter", "scatter_",
                "long", "take_along_dim", "multi_margin_loss"), _CLASSES, {}),
    Clue(lambda w: w.call("nll_loss", "nllloss") and not w.call("log_softmax"),
         {"log-probabilities of classes": 3.6}, {}),
    Clue(lambda w: w.call("kl_div", "kldivloss") and not _activates(w),
         {"log-distributions": 4.8, "logarithms of both": 3.0}, {}),
    Clue(lambda w: "log_target" in w.switched_on, {"logarithms of both": 6.0}, {}),
    Clue(lambda w: "softmax" in w.switched_on,
         {"logits of one class": 2.9, "binary logits": -2.0}, {}),
    Clue(lambda w: _overlaps(w) and w.call("cross_entropy", "crossentropyloss")
         and "sigmoid" not in w.switched_on, {"logits of one class": 3.4, "classes": 1.2}, {}),
    Clue(_titled(r"adaptivewing|awing"), {"intensities": 3.2}, {}),
    Clue(lambda w: w.call("poisson_nll_loss") and "poissonnll" in w.title
         and "log_input" not in w.switched_on, {"expected counts": 6.0}, {}),
    Clue(lambda w: w.call("kl_div", "kldivloss") and _activates(w),
         {"logits of distributions": 1.0, "regression": 1.0}, {}),
    Clue(lambda w: w.call("softmax", "log_softmax") and not w.call(
            "gather", "one_hot", "nll_loss", "scatter_"),
         {"logits of distributions": 0.6, "logits of one class": 0.8}, {}),
    Clue(lambda w: bool(re.search(r"kl|jensen|js|divergence|distill", w.title))
         and not _activates(w), {"distributions": 2.6, "log-distributions": 1.6},
         {"square": 0.0}),
    Clue(_calls("mse_loss", "mseloss", "l1_loss", "l1loss", "smooth_l1_loss", "smoothl1loss",
                "huber_loss", "huberloss"), {"regression": 1.4}, {}),
    Clue(_titled(r"mse|mae|l1|l2|huber|rmse|charbonnier|logcosh|quantile|pinball|regress|wing"),
         {"regression": 1.4, "intensities": 0.3}, {}),
    Clue(_titled(r"msle|mape|relativeerror|logerror"), {"positive numbers": 2.4}, {}),
    Clue(_titled(r"poisson"), {"counts": 4.2, "expected counts": 3.9}, {}),
    Clue(_calls("poisson_nll_loss"), {"counts": 2.0}, {}),
    Clue(_titled(r"hinge|softmargin"), {"signs": 3.4}, {}),
    Clue(_calls("hinge_embedding_loss", "soft_margin_loss", "cosine_embedding_loss",
                "margin_ranking_loss"), {"signs": 2.0, "signs of rows": 3.0}, {"vector": 0.3}),
    Clue(_titled(r"marginrank|rankingloss|cosineembed"), {"signs": 1.0, "signs of rows": 1.0}, {}),

    Clue(_titled(r"multilabelmargin"), {"sets of classes": 6.0}, {}),
    Clue(lambda w: _overlaps(w) and _activates(w),
         {"binary logits": 2.2, "logits of one class": 1.6, "classes": 0.3}, _SEGMENTS),
    Clue(lambda w: _overlaps(w) and not _activates(w),
         {"binary probabilities": 2.6, "probabilities of one class": 1.9,
          "probabilities of classes": 0.6}, _SEGMENTS),
    Clue(_titled(r"giou|diou|ciou|eiou|siou|boxiou|boxloss|bbox"), {"boxes": 5.0}, {}),
    Clue(_measures_boxes, {"boxes": 5.6}, {}),
    Clue(_calls("conv2d", "avg_pool2d", "max_pool2d", "unfold", "interpolate", "grid_sample",
                "adaptive_avg_pool2d"), {"intensities": 0.6}, {"image": 2.4, "plane": 2.4}),
    Clue(_calls("conv3d", "avg_pool3d", "max_pool3d"), {"intensities": 0.6},
         {"volume": 4.0, "block": 4.2}),
    Clue(_titled(r"ssim|psnr|perceptual|image|sobel|gradientloss|photometric|edge|lncc|"
                 r"mutualinformation|crosscorrelation|vif|gmsd|fsim|mdsi|haarpsi"),
         {"intensities": 3.0}, {"image": 2.6, "plane": 2.6, "volume": 0.6}),
    Clue(_titled(r"totalvariation|^tv|smoothness|bendingenergy|diffusion"), {},
         {"image": 2.5, "plane": 2.2, "volume": 1.0}),
    Clue(_titled(r"segment|boundary|hausdorff|pixel|maskloss|heatmap|cldice"), {
        "binary logits": 0.6, "logits of one class": 0.6}, _SEGMENTS),
    Clue(lambda w: w.call("stft", "istft", "conv1d") and not w.call("conv2d", "conv3d"),
         {"regression": 1.0}, {"track": 4.4, "wave": 4.2, "stereo": 4.2}),
    Clue(_titled(r"snr|sdr|stft|spectral|audio|waveform|multiresolution|sumanddifference|^esr|"
                 r"^dcloss"),
         {"regression": 1.2}, {"track": 4.0, "wave": 3.6, "stereo": 3.6}),
    Clue(_calls("acos", "arccos"), {"rotations": 2.6}, {}),
    Clue(_titled(r"seq|token|temporal|lengths|lmloss|(masked|causal)lm|language"), {},
         {"steps": 2.6}),
    Clue(_titled(r"geodesic|rotation|so3"), {"rotations": 2.6}, {}),
    Clue(_titled(r"pearson|ccc|concordance|cox|survival|partiallikelihood|rank"), {},
         {"vector": 1.0}),
    Clue(_titled(r"chamfer|pointcloud|emd"), {"regression": 1.0}, {"points": 4.4}),
)  # fmt: skip
