"""Centres and proxies: against the formulas, sample by sample."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lossproof.losses import CenterLoss, ProxyAnchorLoss, ProxyNCALoss

Tensor = torch.Tensor
FLOAT64 = torch.float64
KINDS = (CenterLoss, ProxyAnchorLoss, ProxyNCALoss)


def made(kind: type, **options: Any) -> Any:
    torch.manual_seed(0)
    return kind(4, 3, **options).double()


def batch(count: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, generator=generator, dtype=FLOAT64), torch.arange(count) % 3


def cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other / one.norm() / other.norm())


# ------------------------------------------------------------------------------ centre loss
def test_center_loss_by_its_formula() -> None:
    module, (input, target) = made(CenterLoss, reduction="none"), batch()
    wanted = [
        0.5 * float((x - module.centers[y].detach()).square().sum())
        for x, y in zip(input, target, strict=True)
    ]
    torch.testing.assert_close(module(input, target), torch.tensor(wanted, dtype=FLOAT64))


def test_gradient_of_the_centres() -> None:
    module, (input, target) = made(CenterLoss, reduction="sum"), batch()
    module(input, target).backward()
    for label in range(4):
        own = input[target == label]
        wanted = len(own) * module.centers[label].detach() - own.sum(0)
        torch.testing.assert_close(module.centers.grad[label], wanted)


def test_center_loss_near_its_minimum() -> None:
    module = CenterLoss(1, 2)
    module.load_state_dict({"centers": torch.tensor([[1000.0, 1000.0]])})
    input = torch.tensor([[1000.0, 1000.0 + 2**-13]])
    assert module(input, torch.tensor([0])).item() == 2.0**-27


def test_class_weights_are_divided_out() -> None:
    input, target = batch()
    values = made(CenterLoss, reduction="none")(input, target)
    weight = torch.tensor([1.0, 3.0, 0.5, 2.0])
    found = made(CenterLoss, weight=weight)(input, target)
    wanted = (values * weight[target]).sum() / weight[target].sum()
    assert found.item() == pytest.approx(wanted.item())


# ------------------------------------------------------------------------------ Proxy-NCA
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("scale", [1.0, 9.0])
def test_proxy_nca_by_its_formula(own: bool, scale: float) -> None:
    module = made(ProxyNCALoss, scale=scale, own_in_denominator=own, reduction="none")
    input, target = batch()
    wanted = []
    for x, y in zip(input, target, strict=True):
        terms = [math.exp(-scale * (2 - 2 * cosine(x, p))) for p in module.proxies.detach()]
        below = sum(term for c, term in enumerate(terms) if own or c != y)
        wanted.append(-math.log(terms[y] / below))
    torch.testing.assert_close(module(input, target), torch.tensor(wanted, dtype=FLOAT64))


def test_proxy_nca_keeps_its_relative_accuracy() -> None:
    module = ProxyNCALoss(2, 2, scale=20.0, own_in_denominator=True)
    module.load_state_dict({"proxies": torch.tensor([[1.0, 0.0], [-1.0, 0.0]])})
    found = module(torch.tensor([[5.0, 0.0]]), torch.tensor([0]))
    assert found.item() == pytest.approx(math.exp(-80.0), rel=1e-4)


# ------------------------------------------------------------------------------ proxy-anchor
def test_proxy_anchor_by_its_formula() -> None:
    module, (input, target) = made(ProxyAnchorLoss, margin=0.2, alpha=8.0), batch()
    near, far = [], []
    for c, proxy in enumerate(module.proxies.detach()):
        of_samples = [(cosine(x, proxy), int(y)) for x, y in zip(input, target, strict=True)]
        own = [math.exp(-8 * (s - 0.2)) for s, y in of_samples if y == c]
        far.append(math.log1p(sum(math.exp(8 * (s + 0.2)) for s, y in of_samples if y != c)))
        if own:
            near.append(math.log1p(sum(own)))
    assert len(near) == 3  # one class is absent
    wanted = sum(near) / 3 + sum(far) / 4
    assert module(input, target).item() == pytest.approx(wanted)


def test_proxy_anchor_at_a_large_scale() -> None:
    module, (input, target) = made(ProxyAnchorLoss, alpha=1e4).float(), batch()
    input = input.float().requires_grad_()
    loss = module(input, target)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(input.grad).all()  # type: ignore[arg-type]
    exact = made(ProxyAnchorLoss, alpha=1e4)(input.detach().double(), target)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


# ------------------------------------------------------------------------------ what they share
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives(kind: type) -> None:
    module, (input, target) = made(kind), batch()

    def loss(input: Tensor, learned: Tensor) -> Tensor:
        name = next(name for name, _ in module.named_parameters())
        return torch.func.functional_call(module, {name: learned}, (input, target))

    points = (input.requires_grad_(), next(module.parameters()).detach().requires_grad_())
    assert torch.autograd.gradcheck(loss, points)
    assert torch.autograd.gradgradcheck(loss, points)


@pytest.mark.parametrize("kind", KINDS)
def test_ignored_samples_may_hold_anything(kind: type) -> None:
    module, (input, target) = made(kind), batch()
    wanted = module(input[:5], target[:5])
    target[5:], input[5], input[6] = -100, torch.nan, torch.inf
    input.requires_grad_()
    found = module(input, target)
    found.backward()
    assert found.item() == pytest.approx(wanted.item())
    assert torch.isfinite(input.grad).all() and not input.grad[5:].any()  # type: ignore[arg-type, union-attr]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_counts_is_attached_to_the_graph(kind: type) -> None:
    module, (input, target) = made(kind), batch()
    for count in (0, len(input)):
        some = input[:count].clone().requires_grad_()
        loss = module(some, torch.full_like(target[:count], -100))
        loss.backward()
        assert loss.item() == 0 and not some.grad.any()


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_of_zeros(kind: type) -> None:
    module, (input, target) = made(kind), batch()
    input = torch.zeros_like(input).requires_grad_()
    module(input, target).backward()
    assert torch.isfinite(input.grad).all()  # type: ignore[arg-type]
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_half_call_leaves_the_parameters_alone(kind: type) -> None:
    module, (input, target) = made(kind).float(), batch()
    before = copy.deepcopy(module.state_dict())
    found = module(input.bfloat16(), target)
    wanted = module(input.bfloat16().float(), target)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-2)
    for name, value in module.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, before[name])


def test_a_single_sample_and_the_normalizer_of_a_call() -> None:
    module, (input, target) = made(CenterLoss, normalizer=2.0), batch()
    values = made(CenterLoss, reduction="none")(input, target)
    assert module(input, target).item() == pytest.approx(values.sum().item() / 2)
    assert module(input, target, normalizer=4).item() == pytest.approx(values.sum().item() / 4)
    assert made(CenterLoss, reduction="none")(input[2], target[2]) == values[2]


ROWS, LABELS = torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: CenterLoss(0, 3), ValueError, "`num_classes`"),
        (lambda: CenterLoss(3, True), TypeError, "`embedding_size`"),
        (lambda: CenterLoss(3, 3)(ROWS, LABELS - 1), ValueError, "`target`"),
        (lambda: CenterLoss(3, 3)(ROWS, LABELS[:2]), ValueError, "`target`"),
        (lambda: CenterLoss(3, 3)(ROWS[None], LABELS[None]), ValueError, r"\(N, D\)"),
        (lambda: CenterLoss(3, 3)(ROWS.long(), LABELS), TypeError, "`input`"),
        (lambda: CenterLoss(3, 3, weight=torch.ones(3, 1)), ValueError, "`weight`"),
        (lambda: CenterLoss(3, 3, weight=-torch.ones(3)), ValueError, "`weight`"),
        (lambda: CenterLoss(3, 3, ignore_index=0.5), TypeError, "`ignore_index`"),
        (lambda: ProxyNCALoss(1, 3), ValueError, "`num_classes`"),
        (lambda: ProxyNCALoss(3, 3, scale=-1.0), ValueError, "`scale`"),
        (lambda: ProxyNCALoss(3, 3, own_in_denominator="no"), TypeError, "own_in_denominator"),
        (lambda: ProxyAnchorLoss(3, 3, alpha=math.inf), ValueError, "`alpha`"),
        (lambda: ProxyAnchorLoss(3, 3, margin=-0.1), ValueError, "`margin`"),
        (lambda: ProxyAnchorLoss(3, 5)(ROWS, LABELS), ValueError, "embedding_size=5"),
    ],
)
def test_wrong_calls(call: Callable[[], Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
