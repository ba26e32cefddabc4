"""The table of torch.nn's losses is whole, and each of its traps is one."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import loss as torch_losses

from lossproof.losses.catalogue import catalogue
from lossproof.losses.torch_nn import TORCH_LOSSES

Tensor = torch.Tensor
BY_NAME = {entry.name: entry for entry in TORCH_LOSSES}
TRAPS = {trap.key: entry for entry in TORCH_LOSSES for trap in entry.traps}
REPRODUCED: dict[str, Callable[[], bool]] = {}


def trap(key: str) -> Callable[[Callable[[], bool]], Callable[[], bool]]:
    def enter(function: Callable[[], bool]) -> Callable[[], bool]:
        REPRODUCED[key] = function
        return function

    return enter


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers])


def value_and_slope(loss: Callable[[Tensor], Tensor], point: Tensor) -> tuple[float, Tensor]:
    point = point.clone().requires_grad_()
    value = loss(point)
    return value.item(), torch.autograd.grad(value, point)[0]


def differentiates_twice(loss: Callable[[Tensor], Tensor], point: Tensor) -> bool:
    point = point.clone().requires_grad_()
    try:
        (slope,) = torch.autograd.grad(loss(point), point, create_graph=True)
        torch.autograd.grad(slope.square().sum(), point)
    except RuntimeError:
        return False
    return True


def broadcasts(loss: Callable[..., Tensor]) -> Callable[[], bool]:
    def square() -> bool:
        return loss(torch.zeros(4, 1), torch.ones(4), reduction="none").shape == (4, 4)

    return square


def doubled_by_weights(loss: Callable[..., Tensor], *tensors: Tensor) -> Callable[[], bool]:
    def doubled() -> bool:
        ones = torch.ones(2)
        once, twice = (loss(*tensors, weight=weight) for weight in (ones, 2 * ones))
        return bool(once > 0) and torch.allclose(twice, 2 * once)

    return doubled


IGNORED = torch.tensor([-100, -100])
REPRODUCED |= {
    "l1 broadcasts": broadcasts(F.l1_loss),
    "mse broadcasts": broadcasts(F.mse_loss),
    "huber broadcasts": broadcasts(F.huber_loss),
    "smooth l1 broadcasts": broadcasts(F.smooth_l1_loss),
    "poisson broadcasts": broadcasts(F.poisson_nll_loss),
    "hinge embedding broadcasts": broadcasts(F.hinge_embedding_loss),
    "bce weight": doubled_by_weights(F.binary_cross_entropy, row(0.3, 0.6), row(1.0, 0.0)),
    "bce with logits weight": doubled_by_weights(
        F.binary_cross_entropy_with_logits, row(0.3, 0.6), row(1.0, 0.0)
    ),
    "multilabel soft margin weight": doubled_by_weights(
        F.multilabel_soft_margin_loss, row(0.3, 0.6), row(1.0, 0.0)
    ),
    "multi margin weight": doubled_by_weights(
        F.multi_margin_loss, row(0.3, 0.6), torch.tensor([0])
    ),
    "cross entropy empty": lambda: F.cross_entropy(torch.zeros(2, 3), IGNORED).isnan().item(),
    "nll empty": lambda: F.nll_loss(torch.zeros(2, 3), IGNORED).isnan().item(),
    "mse empty": lambda: F.mse_loss(torch.zeros(0), torch.zeros(0)).isnan().item(),
    "nll logits": lambda: F.nll_loss(row(5.0, 0.0), torch.tensor([0])).item() == -5,
    "ranking target": lambda: F.margin_ranking_loss(
        row(5.0), row(0.0), row(0.0), margin=2.0
    ).item() == 2,
    "smooth l1 beta": lambda: F.huber_loss(row(5.0), row(0.0), delta=4.0).item()
    == 4 * F.smooth_l1_loss(row(5.0), row(0.0), beta=4.0).item(),
    "poisson rate": lambda: F.poisson_nll_loss(row(-1.0), row(1.0), log_input=False)
    .isnan()
    .item(),
}  # fmt: skip


@trap("adaptive pair")
def _() -> bool:
    found = nn.AdaptiveLogSoftmaxWithLoss(4, 10, [3])(torch.randn(2, 4), torch.tensor([1, 5]))
    return len(found) == 2 and torch.equal(found[1], -found[0].mean())


@trap("adaptive ignore")
def _() -> bool:
    with pytest.raises(RuntimeError, match="should be in"):
        nn.AdaptiveLogSoftmaxWithLoss(4, 10, [3])(torch.randn(2, 4), torch.tensor([1, -100]))
    return True


@trap("bce clamp")
def _() -> bool:
    value, slope = value_and_slope(
        lambda x: F.binary_cross_entropy(torch.sigmoid(x), row(1.0)), row(-200.0)
    )
    return value == 100 and slope.item() == 0


@trap("bce target")
def _() -> bool:
    return F.binary_cross_entropy_with_logits(row(1.0), row(7.0)).item() < 0


def ctc(log_probs: Tensor, labels: list[int], **options: object) -> Tensor:
    lengths = torch.tensor([len(log_probs)]), torch.tensor([len(labels)])
    return F.ctc_loss(log_probs, torch.tensor([labels]), *lengths, **options)  # type: ignore[arg-type]


@trap("ctc infinite")
def _() -> bool:
    log_probs = torch.zeros(2, 1, 3).log_softmax(2)
    infinite = ctc(log_probs, [1, 1, 1]).item() == math.inf
    both = torch.zeros(2, 2, 3).log_softmax(2)
    targets, lengths = torch.tensor([[1, 1, 1], [1, 0, 0]]), torch.tensor([3, 1])
    mean = F.ctc_loss(both, targets, torch.tensor([2, 2]), lengths, zero_infinity=True)
    alone = ctc(log_probs, [1])
    return infinite and torch.allclose(mean, alone / 2)


@trap("ctc mean")
def _() -> bool:
    log_probs = torch.zeros(4, 1, 3).log_softmax(2)
    mean, each = ctc(log_probs, [1, 2]), ctc(log_probs, [1, 2], reduction="none")
    return torch.allclose(mean, each / 2) and not torch.allclose(mean, each)


@trap("ctc normalised")
def _() -> bool:
    logits = torch.randn(4, 1, 3, dtype=torch.float64)

    def right(loss: Callable[[Tensor], Tensor]) -> bool:
        leaf = logits.clone().requires_grad_()
        return torch.autograd.gradcheck(loss, leaf, raise_exception=False)

    return right(lambda x: ctc(x.log_softmax(2), [1, 2])) and not right(lambda x: ctc(x, [1, 2]))


@trap("ctc second derivative")
def _() -> bool:
    return not differentiates_twice(lambda x: ctc(x.log_softmax(2), [1, 2]), torch.randn(4, 1, 3))


@trap("cosine target")
def _() -> bool:
    ones, target = torch.ones(2, 3), torch.tensor([-1.0, 0.0])
    summed = F.cosine_embedding_loss(ones, ones, target, reduction="sum")
    mean = F.cosine_embedding_loss(ones, ones, target)
    return summed.item() == pytest.approx(1) and mean.item() == pytest.approx(0.5)


@trap("cosine zero")
def _() -> bool:
    _, slope = value_and_slope(
        lambda x: F.cosine_embedding_loss(x, torch.ones(1, 3), torch.ones(1)), torch.zeros(1, 3)
    )
    return bool(slope.abs().max() > 1e5)


@trap("cross entropy ignored")
def _() -> bool:
    logits = torch.tensor([[1.0, 2.0], [math.nan, 0.0]])
    value, slope = value_and_slope(lambda x: F.cross_entropy(x, torch.tensor([0, -100])), logits)
    return math.isfinite(value) and bool(slope[1].isnan().all())


@trap("cross entropy weight")
def _() -> bool:
    logits, weight = row(1.0, 0.0), torch.tensor([1.0, 5.0])
    by_index = F.cross_entropy(logits, torch.tensor([1]), weight=weight)
    by_probability = F.cross_entropy(logits, row(0.0, 1.0), weight=weight)
    return torch.allclose(by_probability, 5 * by_index)


@trap("cross entropy half")
def _() -> bool:
    logits = torch.zeros(70_000, 2, dtype=torch.float16)
    return F.cross_entropy(logits, torch.zeros(70_000, dtype=torch.long)).item() == 0


@trap("gaussian constant")
def _() -> bool:
    point = row(0.0), row(0.0), row(1.0)
    full = F.gaussian_nll_loss(*point, full=True).item()
    return F.gaussian_nll_loss(*point).item() == 0 and full == pytest.approx(
        math.log(2 * math.pi) / 2
    )


@trap("gaussian vmap")
def _() -> bool:
    with pytest.raises(RuntimeError, match="data-dependent"):
        torch.func.vmap(F.gaussian_nll_loss)(*torch.ones(3, 4, 2))
    return True


@trap("hinge embedding target")
def _() -> bool:
    return F.hinge_embedding_loss(row(0.25), row(0.0)).item() == 0.25 + 0.75


@trap("kl mean")
def _() -> bool:
    input, target = torch.zeros(2, 4, 3).log_softmax(1), torch.randn(2, 4, 3).softmax(1)
    total = F.kl_div(input, target, reduction="sum")
    mean, by_batch = (F.kl_div(input, target, reduction=r) for r in ("mean", "batchmean"))
    return torch.allclose(mean, total / 24) and torch.allclose(by_batch, total / 2)


@trap("kl probabilities")
def _() -> bool:
    return F.kl_div(row(0.5, 0.5), row(0.5, 0.5), reduction="batchmean").item() < -1


@trap("linear empty")
def _() -> bool:
    loss = nn.LinearCrossEntropyLoss(4, 3, ignore_index=-100)
    return loss(torch.randn(2, 4), IGNORED).isnan().item()


@trap("linear second derivative")
def _() -> bool:
    from torch.nn.modules.linear_cross_entropy_options import LinearCrossEntropyOptions

    loss = nn.LinearCrossEntropyLoss(4, 9, options=LinearCrossEntropyOptions())
    whole = nn.LinearCrossEntropyLoss(4, 9)
    points, labels = torch.randn(8, 4), torch.arange(8)
    return differentiates_twice(lambda x: whole(x, labels), points) and not differentiates_twice(
        lambda x: loss(x, labels), points
    )


@trap("multilabel margin target")
def _() -> bool:
    scores = row(0.1, 0.2, 0.4, 0.8)
    as_labels = F.multilabel_margin_loss(scores, torch.tensor([[2, 3, -1, 0]]))
    shorter = F.multilabel_margin_loss(scores, torch.tensor([[2, 3, -1, -1]]))
    as_ones = F.multilabel_margin_loss(scores, torch.tensor([[0, 0, 1, 1]]))
    return torch.equal(as_labels, shorter) and not torch.allclose(as_ones, as_labels)


@trap("multilabel soft margin none")
def _() -> bool:
    logits, target = torch.randn(2, 3), torch.ones(2, 3)
    each = F.multilabel_soft_margin_loss(logits, target, reduction="none")
    per_label = F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    total = F.multilabel_soft_margin_loss(logits, target, reduction="sum")
    return each.shape == (2,) and torch.allclose(3 * total, per_label)


@trap("multi margin ignore")
def _() -> bool:
    with pytest.raises(RuntimeError, match="target out of range"):
        F.multi_margin_loss(row(0.0, 1.0), torch.tensor([-100]))
    return True


@trap("nll2d deprecated")
def _() -> bool:
    with pytest.warns(FutureWarning, match="deprecated"):
        nn.NLLLoss2d()
    return True


@trap("poisson log")
def _() -> bool:
    by_default = F.poisson_nll_loss(row(2.0), row(3.0))
    return by_default.item() == pytest.approx(math.exp(2) - 6)


@trap("soft margin overflow")
def _() -> bool:
    value, slope = value_and_slope(lambda x: F.soft_margin_loss(x, row(1.0)), row(-100.0))
    return value == math.inf and bool(slope.isnan())


@trap("soft margin target")
def _() -> bool:
    value, slope = value_and_slope(lambda x: F.soft_margin_loss(x, row(0.0)), row(9.0))
    return value == pytest.approx(math.log(2)) and slope.item() == 0


@trap("triplet eps")
def _() -> bool:
    return equal_embeddings_are_pulled(F.triplet_margin_loss)


@trap("triplet distance eps")
def _() -> bool:
    return equal_embeddings_are_pulled(F.triplet_margin_with_distance_loss)


def equal_embeddings_are_pulled(loss: Callable[..., Tensor]) -> bool:
    """The pull of the positive alone: the negative is taken at the same distance, elsewhere."""
    same, far = torch.ones(1, 2), torch.tensor([[1.0, 5.0]])
    _, with_positive = value_and_slope(lambda x: loss(x, same, far, margin=99.0), same)
    _, of_negative = value_and_slope(lambda x: -F.pairwise_distance(x, far).sum(), same)
    pull = with_positive - of_negative
    return torch.allclose(pull, torch.full((1, 2), math.sqrt(0.5)), rtol=1e-2)


def test_every_loss_of_torch_is_listed() -> None:
    assert set(torch_losses.__all__) <= BY_NAME.keys()
    assert len(BY_NAME) == len(TORCH_LOSSES)
    assert [entry.name for entry in TORCH_LOSSES] == sorted(BY_NAME)


@pytest.mark.parametrize("name", BY_NAME)
def test_each_names_what_exists(name: str) -> None:
    entry = BY_NAME[name]
    if not hasattr(nn, name):
        pytest.skip(f"this version of torch has no {name}")
    if entry.function is not None:
        assert callable(getattr(F, entry.function))
    assert set(entry.instead) <= {ours.name for ours in catalogue()}
    assert entry.qualified_name == f"torch.nn.{name}"
    assert entry.summary.endswith(".")


def test_each_trap_is_tried_and_no_other() -> None:
    assert REPRODUCED.keys() == TRAPS.keys()
    assert len(TRAPS) == sum(len(entry.traps) for entry in TORCH_LOSSES)


@pytest.mark.parametrize("key", sorted(TRAPS))
def test_each_trap_is_real(key: str) -> None:
    if not hasattr(nn, TRAPS[key].name):
        pytest.skip(f"this version of torch has no {TRAPS[key].name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert REPRODUCED[key]()


def test_a_difference_of_shapes_is_told_in_a_warning_or_not_at_all() -> None:
    """As the texts of the traps say."""
    for entry in TORCH_LOSSES:
        for found in entry.traps:
            if found.key.endswith("broadcasts") and entry.function is not None:
                loss = getattr(F, entry.function)
                with warnings.catch_warnings(record=True) as told:
                    warnings.simplefilter("always")
                    loss(torch.zeros(4, 1), torch.ones(4))
                assert bool(told) == ("with no more than a warning" in found.text), entry.name
