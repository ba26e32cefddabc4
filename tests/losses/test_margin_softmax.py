"""ArcFace and CosFace: against mpmath, cross entropy, and at the ends of the cosine."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossproof.losses import ArcFaceLoss, CosFaceLoss, arcface_loss, cosface_loss

Tensor = torch.Tensor
FLOAT64 = torch.float64


def cosines(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=FLOAT64) * 2 - 1


def arcface_by_mpmath(row: list[float], label: int, margin: float, scale: float) -> float:
    with mpmath.workdps(60):
        row = [mpmath.mpf(c) for c in row]
        angle = mpmath.acos(row[label])
        if angle + margin < mpmath.pi:
            own = mpmath.cos(angle + margin)
        else:
            own = row[label] - margin * mpmath.sin(margin)
        others = sum(mpmath.exp(scale * (c - own)) for j, c in enumerate(row) if j != label)
        return float(mpmath.log1p(others))


@pytest.mark.parametrize("margin", [0.0, 0.3, 0.5, 1.5])
@pytest.mark.parametrize("scale", [1.0, 64.0])
def test_arcface_by_mpmath(margin: float, scale: float) -> None:
    rows = torch.cat([cosines(12, 4), torch.tensor([[1.0, -1.0, 0.0, 1.0]] * 4, dtype=FLOAT64)])
    target = torch.arange(16) % 4
    found = arcface_loss(rows, target, margin=margin, scale=scale, reduction="none")
    wanted = [
        arcface_by_mpmath(row.tolist(), int(label), margin, scale)
        for row, label in zip(rows, target, strict=True)
    ]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=FLOAT64), rtol=1e-9, atol=0.0)


def test_no_margin_is_cross_entropy() -> None:
    rows, target = cosines(9, 5), torch.arange(9) % 5
    weight = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0], dtype=FLOAT64)
    for loss in (arcface_loss, cosface_loss):
        found = loss(rows, target, margin=0.0, scale=8.0, weight=weight)
        wanted = torch.nn.functional.cross_entropy(8 * rows, target, weight)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0.0)


def test_cosface_is_cross_entropy_of_moved_logits() -> None:
    rows, target = cosines(9, 5), torch.arange(9) % 5
    moved = rows - 0.35 * torch.nn.functional.one_hot(target, 5).double()
    wanted = torch.nn.functional.cross_entropy(30 * moved, target, reduction="none")
    found = cosface_loss(rows, target, scale=30.0, reduction="none")
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_easy_margin() -> None:
    rows = torch.tensor([[0.5, 0.2], [-0.5, 0.2]], dtype=FLOAT64)
    target = torch.tensor([0, 0])
    easy = arcface_loss(rows, target, easy_margin=True, scale=4.0, reduction="none")
    hard = arcface_loss(rows, target, scale=4.0, reduction="none")
    plain = arcface_loss(rows, target, margin=0.0, scale=4.0, reduction="none")
    assert easy[0] == hard[0] > plain[0]
    assert easy[1] == plain[1] < hard[1]


@settings(max_examples=50, deadline=None)
@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(0, 1.5))
def test_the_loss_falls_as_the_cosine_grows(one: float, other: float, margin: float) -> None:
    low, high = sorted((one, other))
    rows = torch.tensor([[low, 0.0], [high, 0.0]], dtype=FLOAT64)
    target = torch.tensor([0, 0])
    found = arcface_loss(rows, target, margin=margin, scale=4.0, reduction="none")
    assert found[1] <= found[0] * (1 + 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
def test_the_gradient_is_finite_at_both_ends(dtype: torch.dtype) -> None:
    ends = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.004, 0.0], [-1.004, 0.0]], dtype=dtype)
    ends.requires_grad_()
    loss = arcface_loss(ends, torch.zeros(4, dtype=torch.long), reduction="sum")
    (first,) = torch.autograd.grad(loss, ends, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), ends)
    assert torch.isfinite(loss) and torch.isfinite(first).all() and torch.isfinite(second).all()
    assert (first[1:2].abs() > 1e-3).any()  # a confident mistake is still corrected


def test_a_perfect_prediction_keeps_its_relative_accuracy() -> None:
    rows = torch.tensor([[1.0, -0.5, -1.0]])
    found = arcface_loss(rows, torch.tensor([0]), margin=0.5, scale=40.0)
    wanted = arcface_by_mpmath([1.0, -0.5, -1.0], 0, 0.5, 40.0)
    assert 0 < wanted < 1e-23
    assert found.item() == pytest.approx(wanted, rel=1e-4)


# ------------------------------------------------------------------------------ the Modules
def made(kind: type, seed: int = 0, **options: object) -> ArcFaceLoss | CosFaceLoss:
    torch.manual_seed(seed)
    return kind(5, 6, **options)  # type: ignore[no-any-return]


def batch(count: int = 8, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(count, 6, generator=generator, dtype=dtype), torch.arange(count) % 5


@pytest.mark.parametrize(
    ("kind", "loss"), [(ArcFaceLoss, arcface_loss), (CosFaceLoss, cosface_loss)]
)
def test_the_module_is_the_function_of_its_cosines(kind: type, loss: Callable[..., Tensor]) -> None:
    module = made(kind, scale=8.0).double()
    input, target = batch(dtype=FLOAT64)
    cosine = torch.nn.functional.cosine_similarity(input.unsqueeze(1), module.centers, dim=-1)
    for reduction in ("none", "mean", "sum"):
        module.reduction = reduction
        wanted = loss(cosine, target, scale=8.0, reduction=reduction)
        torch.testing.assert_close(module(input, target), wanted, rtol=1e-10, atol=1e-12)


def test_the_nearest_sub_center_counts() -> None:
    module = made(ArcFaceLoss, sub_centers=3, scale=8.0).double()
    input, target = batch(dtype=FLOAT64)
    assert module.centers.shape == (15, 6)
    grouped = module.centers.view(5, 3, 6)
    cosine = torch.nn.functional.cosine_similarity(input[:, None, None], grouped, dim=-1)
    wanted = arcface_loss(cosine.amax(-1), target, scale=8.0)
    torch.testing.assert_close(module(input, target), wanted, rtol=1e-10, atol=0.0)


@pytest.mark.parametrize("angle", [0.0, 1e-6, 1e-4, 1e-2, math.pi - 1e-4])
def test_value_and_gradient_are_exact_near_the_centre(angle: float) -> None:
    """The cosine of 1e-4 is 1 in float32: the angle has to come from elsewhere."""
    module = ArcFaceLoss(2, 3, scale=4.0)
    module.load_state_dict({"centers": torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])})
    input = torch.tensor([[math.cos(angle), math.sin(angle), 0.0]]).requires_grad_()
    target = torch.tensor([0])
    value = module(input, target)
    value.backward()
    x, y, _ = input[0].tolist()
    theta = math.atan2(y, x)
    moved = (
        math.cos(theta + 0.5) if theta + 0.5 < math.pi else math.cos(theta) - 0.5 * math.sin(0.5)
    )
    assert value.item() == pytest.approx(math.log1p(math.exp(-4 * moved)), rel=1e-5)
    slope = math.sin(theta + 0.5) if theta + 0.5 < math.pi else math.sin(theta)
    pushed = 4 * slope / (1 + math.exp(4 * moved)) if angle else 0.0  # across, at length 1
    assert input.grad is not None
    assert input.grad[0, 1].item() * math.cos(theta) == pytest.approx(pushed, rel=1e-3, abs=1e-9)


def test_a_half_call_leaves_the_centres_alone() -> None:
    module = made(ArcFaceLoss)
    before = copy.deepcopy(module.state_dict())
    input, target = batch()
    for dtype in (torch.float16, torch.bfloat16):
        found = module(input.to(dtype), target)
        assert found.dtype == dtype
        wanted = module(input.to(dtype).float(), target)
        assert found.item() == pytest.approx(wanted.item(), rel=1e-2)
    assert module.centers.dtype == torch.float32
    assert torch.equal(module.state_dict()["centers"], before["centers"])


def test_a_module_in_half_precision_or_float64() -> None:
    input, target = batch()
    half = made(ArcFaceLoss).half()
    loss = half(input.half(), target)
    loss.backward()
    assert loss.dtype == torch.float16 and half.centers.grad.dtype == torch.float16
    assert made(ArcFaceLoss).double()(input, target).dtype == FLOAT64
    assert made(ArcFaceLoss)(input.double(), target).dtype == FLOAT64


def test_class_weights_and_ignored_labels() -> None:
    weight = torch.tensor([1.0, 2.0, 0.0, 1.0, 3.0])
    input, target = batch()
    values = made(CosFaceLoss, reduction="none")(input, target)
    target[1], input[1] = -100, torch.nan
    module = made(CosFaceLoss, weight=weight)
    kept = [i for i in range(8) if i != 1]
    of_samples = weight[target[kept]]
    wanted = (values[kept] * of_samples).sum() / of_samples.sum()
    input.requires_grad_()
    found = module(input, target)
    found.backward()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert torch.isfinite(input.grad).all() and not input.grad[1].any()  # type: ignore[union-attr]
    assert torch.isfinite(module.centers.grad).all()
    assert "weight" in module.state_dict()


def test_an_embedding_of_zeros_and_a_single_sample() -> None:
    module = made(ArcFaceLoss, reduction="none")
    input = torch.zeros(6, requires_grad=True)
    value = module(input, torch.tensor(2))
    value.backward()
    assert value.shape == () and torch.isfinite(value) and torch.isfinite(input.grad).all()  # type: ignore[arg-type]


def test_nothing_that_counts() -> None:
    module = made(ArcFaceLoss)
    for input, target in (batch(0), (batch()[0], torch.full((8,), -100))):
        loss = module(input, target)
        loss.backward()
        assert loss.item() == 0 and not module.centers.grad.any()


def test_what_the_module_shows() -> None:
    shown = repr(made(ArcFaceLoss, sub_centers=2))
    assert "num_classes=5, embedding_size=6" in shown and "sub_centers=2" in shown


ROWS, LABELS = torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: arcface_loss(ROWS + 3, LABELS), ValueError, "`input`"),
        (lambda: cosface_loss(ROWS - 1.1, LABELS), ValueError, "`input`"),
        (lambda: arcface_loss(ROWS, LABELS + 3), ValueError, "`target`"),
        (lambda: arcface_loss(ROWS, LABELS[:1]), ValueError, "`target`"),
        (lambda: arcface_loss(ROWS, LABELS, margin=28.6), ValueError, "`margin`"),
        (lambda: arcface_loss(ROWS, LABELS, scale=0.0), ValueError, "`scale`"),
        (lambda: arcface_loss(ROWS, LABELS, easy_margin=None), TypeError, "`easy_margin`"),
        (lambda: cosface_loss(ROWS, LABELS, margin=True), TypeError, "`margin`"),
        (lambda: cosface_loss(ROWS, LABELS, weight=torch.ones(4)), ValueError, "`weight`"),
        (lambda: ArcFaceLoss(0, 3), ValueError, "`num_classes`"),
        (lambda: ArcFaceLoss(3, 3.0), TypeError, "`embedding_size`"),
        (lambda: ArcFaceLoss(3, 3, sub_centers=0), ValueError, "`sub_centers`"),
        (lambda: ArcFaceLoss(3, 3, weight=torch.ones(4)), ValueError, "`weight`"),
        (lambda: CosFaceLoss(3, 3, reduction="all"), ValueError, "`reduction`"),
        (lambda: CosFaceLoss(3, 4)(ROWS, LABELS), ValueError, "embedding_size=4"),
        (lambda: CosFaceLoss(3, 3)(ROWS, LABELS[:1]), ValueError, "`target`"),
        (lambda: CosFaceLoss(3, 3)(ROWS, LABELS + 3), ValueError, "`target`"),
        (lambda: CosFaceLoss(3, 3)(ROWS, LABELS.float()), TypeError, "`target`"),
    ],
)
def test_wrong_calls(call: Callable[[], Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
