"""The losses that ``torch.nn`` has: what to know of each, and which of ours keeps the contract.

They are not written again where theirs is right as it is. A trap is a result that surprises most
people who meet it; each is tried out in the tests, so that one that PyTorch mends leaves this list.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Trap:
    """A result that surprises."""

    key: str
    """A short name, one for each trap."""
    text: str
    """What happens, in words."""


@dataclass(frozen=True)
class TorchLoss:
    """A loss of ``torch.nn``."""

    name: str
    """The class in ``torch.nn``."""
    function: str | None
    """The function in ``torch.nn.functional``; a loss with parameters of its own has none."""
    summary: str
    """What it is, in one line."""
    traps: tuple[Trap, ...] = ()
    instead: tuple[str, ...] = ()
    """The losses of this catalogue that are the same and keep the contract, or stand closest."""

    @property
    def qualified_name(self) -> str:
        """The name to import it by."""
        return f"torch.nn.{self.name}"


def _broadcasts(name: str, warned: bool = True) -> Trap:
    told = "with no more than a warning" if warned else "without a word"
    return Trap(
        f"{name} broadcasts", f"shapes that differ are broadcast {told}: (N, 1) and (N) give (N, N)"
    )


def _not_divided_by_weights(name: str) -> Trap:
    return Trap(
        f"{name} weight", "`weight` is not divided out in 'mean': weights twice as large, loss too"
    )


TORCH_LOSSES: tuple[TorchLoss, ...] = (
    TorchLoss(
        "AdaptiveLogSoftmaxWithLoss",
        None,
        "A softmax over very many classes in clusters, and its negative log-likelihood.",
        (
            Trap("adaptive pair", "it returns a pair, of which the loss is the second, a mean"),
            Trap(
                "adaptive ignore",
                "it has no `ignore_index`: padding labels such as -100 are refused",
            ),
        ),
    ),
    TorchLoss(
        "BCELoss",
        "binary_cross_entropy",
        "Binary cross entropy of probabilities.",
        (
            Trap(
                "bce clamp",
                "logarithms are cut off at -100: a certain mistake costs 100, whatever its logit, "
                "and has gradient 0 behind a sigmoid",
            ),
            _not_divided_by_weights("bce"),
        ),
        ("binary_cross_entropy_with_logits_loss",),
    ),
    TorchLoss(
        "BCEWithLogitsLoss",
        "binary_cross_entropy_with_logits",
        "Binary cross entropy of logits.",
        (
            Trap("bce target", "a target outside 0 to 1 is taken, and the loss may be negative"),
            _not_divided_by_weights("bce with logits"),
        ),
        ("binary_cross_entropy_with_logits_loss",),
    ),
    TorchLoss(
        "CTCLoss",
        "ctc_loss",
        "Connectionist temporal classification: sequences without an alignment.",
        (
            Trap(
                "ctc infinite",
                "a target that does not fit into its input is infinite, unless "
                "`zero_infinity=True`, which drops it from the sum, though not from the mean",
            ),
            Trap(
                "ctc mean",
                "'mean' first divides each loss by the length of its target: it is not the mean of "
                "what 'none' returns",
            ),
            Trap(
                "ctc normalised",
                "the gradient is right only behind a `log_softmax`: it is that of the logits",
            ),
            Trap("ctc second derivative", "it cannot be differentiated twice"),
        ),
    ),
    TorchLoss(
        "CosineEmbeddingLoss",
        "cosine_embedding_loss",
        "The cosine of pairs, towards 1 where they belong together and below a margin elsewhere.",
        (
            Trap(
                "cosine target",
                "a target of 0 counts for nothing in the sum, and for one in the mean",
            ),
            Trap(
                "cosine zero", "an embedding of zeros gets a gradient of the order of 1e5 or more"
            ),
        ),
        ("negative_cosine_loss", "contrastive_loss"),
    ),
    TorchLoss(
        "CrossEntropyLoss",
        "cross_entropy",
        "Cross entropy of logits, for class indices or probabilities.",
        (
            Trap("cross entropy empty", "where every target is ignored, 'mean' is NaN"),
            Trap(
                "cross entropy ignored",
                "NaN in the logits of an ignored item is NaN in the gradient",
            ),
            Trap(
                "cross entropy weight",
                "'mean' divides by the class weights for class indices, and does not for "
                "probabilities: a one-hot target is another loss than its index",
            ),
            Trap(
                "cross entropy half",
                "in float16 on a CPU, 'mean' over more than 65,504 items is 0: it divides by inf",
            ),
        ),
        ("cross_entropy_loss",),
    ),
    TorchLoss(
        "GaussianNLLLoss",
        "gaussian_nll_loss",
        "Negative log-likelihood of a normal distribution with a predicted variance.",
        (
            Trap("gaussian constant", "log(2 pi) / 2 is left out, unless `full=True`"),
            Trap("gaussian vmap", "it looks at the variances, which `torch.func.vmap` cannot do"),
        ),
        ("gaussian_nll_loss",),
    ),
    TorchLoss(
        "HingeEmbeddingLoss",
        "hinge_embedding_loss",
        "Distances of pairs: small where the target is 1, beyond a margin where it is -1.",
        (
            Trap(
                "hinge embedding target",
                "a target of 0 counts as both: the distance and the hinge are added",
            ),
            _broadcasts("hinge embedding", warned=False),
        ),
        ("contrastive_loss",),
    ),
    TorchLoss(
        "HuberLoss",
        "huber_loss",
        "Squared near the target, absolute beyond `delta`.",
        (_broadcasts("huber"),),
        ("huber_loss",),
    ),
    TorchLoss(
        "KLDivLoss",
        "kl_div",
        "Kullback-Leibler divergence of log-probabilities from probabilities.",
        (
            Trap(
                "kl mean",
                "'mean' divides by the number of classes as well; the divergence is 'batchmean', "
                "which for more than two axes divides by the first alone",
            ),
            Trap(
                "kl probabilities",
                "the input must be log-probabilities: probabilities are taken for these, and the "
                "loss is negative",
            ),
        ),
        ("kl_divergence_loss",),
    ),
    TorchLoss(
        "L1Loss",
        "l1_loss",
        "Absolute error.",
        (_broadcasts("l1"),),
        ("l1_loss",),
    ),
    TorchLoss(
        "LinearCrossEntropyLoss",
        None,
        "The last linear layer and the cross entropy of its logits, in chunks where asked for.",
        (
            Trap("linear empty", "where every target is ignored, 'mean' is NaN"),
            Trap("linear second derivative", "in chunks it cannot be differentiated twice"),
        ),
        ("cross_entropy_loss",),
    ),
    TorchLoss(
        "MSELoss",
        "mse_loss",
        "Squared error.",
        (
            _broadcasts("mse"),
            Trap("mse empty", "the mean over no items is NaN, as in nearly all of these losses"),
        ),
        ("mse_loss",),
    ),
    TorchLoss(
        "MarginRankingLoss",
        "margin_ranking_loss",
        "The right one of two scores is higher by a margin.",
        (
            Trap(
                "ranking target", "a target of 0 is taken: it costs the margin, and has no gradient"
            ),
        ),
        ("margin_ranking_loss",),
    ),
    TorchLoss(
        "MultiLabelMarginLoss",
        "multilabel_margin_loss",
        "Every label that is there scores higher than every other, by a margin of 1.",
        (
            Trap(
                "multilabel margin target",
                "the target is a list of labels that ends at the first -1: a row of zeros and ones "
                "is taken for such a list",
            ),
        ),
        ("zlpr_loss",),
    ),
    TorchLoss(
        "MultiLabelSoftMarginLoss",
        "multilabel_soft_margin_loss",
        "Binary cross entropy of logits, averaged over the labels of an item.",
        (
            Trap(
                "multilabel soft margin none",
                "'none' has one value for an item, and 'sum' is not the sum over its labels",
            ),
            _not_divided_by_weights("multilabel soft margin"),
        ),
        ("binary_cross_entropy_with_logits_loss",),
    ),
    TorchLoss(
        "MultiMarginLoss",
        "multi_margin_loss",
        "The right class scores higher than every other, by a margin.",
        (
            Trap(
                "multi margin ignore", "it has no `ignore_index`: padding labels such as -100 raise"
            ),
            _not_divided_by_weights("multi margin"),
        ),
        ("hinge_loss",),
    ),
    TorchLoss(
        "NLLLoss",
        "nll_loss",
        "Negative log-likelihood of log-probabilities.",
        (
            Trap(
                "nll logits",
                "the input must be log-probabilities: logits are taken for these, and the loss may "
                "be negative without end",
            ),
            Trap("nll empty", "where every target is ignored, 'mean' is NaN"),
        ),
        ("cross_entropy_loss",),
    ),
    TorchLoss(
        "NLLLoss2d",
        "nll_loss",
        "The old name of NLLLoss for images.",
        (Trap("nll2d deprecated", "it is deprecated, and says so in a warning"),),
        ("cross_entropy_loss",),
    ),
    TorchLoss(
        "PoissonNLLLoss",
        "poisson_nll_loss",
        "Negative log-likelihood of counts, of which the logarithm of the rate is predicted.",
        (
            Trap(
                "poisson log",
                "by default the input is the *logarithm* of the rate; a rate is taken for one",
            ),
            Trap("poisson rate", "with `log_input=False` a rate below 0 is NaN, not an error"),
            _broadcasts("poisson", warned=False),
        ),
        ("poisson_nll_loss",),
    ),
    TorchLoss(
        "SmoothL1Loss",
        "smooth_l1_loss",
        "Huber's loss divided by its threshold.",
        (
            Trap(
                "smooth l1 beta",
                "`beta` is not Huber's `delta`: the loss is divided by it, so that the slope far "
                "away stays 1",
            ),
            _broadcasts("smooth l1"),
        ),
        ("smooth_l1_loss",),
    ),
    TorchLoss(
        "SoftMarginLoss",
        "soft_margin_loss",
        "Logistic loss of scores for targets of 1 and -1.",
        (
            Trap(
                "soft margin overflow",
                "log(1 + exp(m)) overflows: infinite at a margin of -100, its gradient NaN",
            ),
            Trap(
                "soft margin target",
                "a target of 0 costs log 2 whatever the score: targets of 0 and 1 train half of it",
            ),
        ),
        ("binary_cross_entropy_with_logits_loss", "bradley_terry_loss"),
    ),
    TorchLoss(
        "TripletMarginLoss",
        "triplet_margin_loss",
        "The positive is nearer to the anchor than the negative, by a margin.",
        (
            Trap(
                "triplet eps",
                "`eps` is added to each difference: equal embeddings are sqrt(D) eps apart, and "
                "are pulled along (1, 1, ..., 1)",
            ),
        ),
        ("triplet_margin_loss",),
    ),
    TorchLoss(
        "TripletMarginWithDistanceLoss",
        "triplet_margin_with_distance_loss",
        "The triplet margin loss with a distance of one's own.",
        (
            Trap(
                "triplet distance eps",
                "the distance is by default that of TripletMarginLoss, with its `eps`",
            ),
        ),
        ("triplet_margin_loss",),
    ),
)
"""All losses of ``torch.nn``, by name."""


def search_torch(words: str) -> tuple[TorchLoss, ...]:
    """PyTorch's own losses whose name or summary holds all of these words.

    Example:
        >>> from lossproof.losses.torch_nn import search_torch
        >>> [loss.name for loss in search_torch("ctc")]
        ['CTCLoss']
    """
    wanted = words.lower().replace("_", " ").split()
    return tuple(loss for loss in TORCH_LOSSES if all(word in _text(loss) for word in wanted))


def _text(loss: TorchLoss) -> str:
    words = f"{loss.name} {loss.function} {loss.summary}"
    return words.replace("_", " ").lower()
