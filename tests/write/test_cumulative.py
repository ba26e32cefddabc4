"""Sums of exponentials over all that follows, beside mpmath, for numbers near and far apart."""

import mpmath
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lossproof.write.cumulative import NEAR, log_sum_following


@pytest.mark.parametrize("spread", [1.0, 0.99 * NEAR, 1.01 * NEAR, 1e4])
def test_value_and_gradient_for_any_spread(spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 12, generator=generator, dtype=torch.float64)
    x[:, 0], x[:, 5] = 0, 1
    x = (spread * x + 100).requires_grad_()
    upstream = torch.randn(2, 12, generator=generator, dtype=torch.float64)
    found = log_sum_following(x)
    (gradient,) = torch.autograd.grad(found, x, upstream)
    with mpmath.workdps(40):
        for row in range(2):
            numbers = [mpmath.mpf(v) for v in x[row].tolist()]
            level = [mpmath.log(mpmath.fsum(map(mpmath.exp, numbers[i:]))) for i in range(12)]
            slopes = [
                mpmath.fsum(upstream[row, i].item() * mpmath.exp(numbers[k] - level[i])
                            for i in range(k + 1))
                for k in range(12)
            ]  # fmt: skip
            assert found[row].tolist() == pytest.approx([float(v) for v in level], rel=1e-14)
            assert gradient[row].tolist() == pytest.approx([float(v) for v in slopes], rel=1e-10)


def test_a_row_far_apart_beside_a_row_near() -> None:
    x = torch.tensor([[0.0, 1e4, -1e4], [0.0, 1.0, 2.0]], requires_grad=True)
    together = log_sum_following(x)
    alone = log_sum_following(x[1:])
    torch.testing.assert_close(together[1:], alone, rtol=1e-14, atol=0)
    assert together[0].tolist() == [1e4, 1e4, -1e4]


def test_no_numbers() -> None:
    empty = torch.zeros(3, 0, requires_grad=True)
    log_sum_following(empty).sum().backward()
    assert log_sum_following(empty).shape == (3, 0) and empty.grad is not None


def test_fake_tensors_have_no_values_to_look_at() -> None:
    with FakeTensorMode():
        assert log_sum_following(torch.randn(2, 3)).shape == (2, 3)
