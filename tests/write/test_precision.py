import pytest
import torch

from lossproof.write.precision import any_half, autocast_of, result_dtype, widened

HALF, BRAIN, SINGLE, DOUBLE = torch.float16, torch.bfloat16, torch.float32, torch.float64


@pytest.mark.parametrize("one", [HALF, BRAIN])
@pytest.mark.parametrize("other", [HALF, BRAIN, SINGLE, DOUBLE])
def test_the_result_has_the_type_that_torch_gives_a_sum(one, other):
    tensors = torch.ones(2, dtype=one), torch.ones(2, dtype=other), torch.arange(2)
    assert result_dtype(tensors) == (tensors[0] + tensors[1]).dtype


def test_half_precision_is_widened_and_nothing_else():
    assert widened(torch.ones(2, dtype=BRAIN)).dtype == SINGLE
    for value in (torch.ones(2, dtype=DOUBLE), torch.arange(2), 3.0, "mean", None):
        assert widened(value) is value
    assert any_half((1.0, torch.ones(2, dtype=HALF)))
    assert not any_half((1.0, torch.ones(2), torch.arange(2)))


def test_autocast_is_that_of_the_arguments_device():
    assert autocast_of((1.0, torch.ones(2))) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert autocast_of((1.0, torch.ones(2))) == "cpu"
        assert autocast_of((torch.ones(2, device="meta"),)) is None
        assert autocast_of((1.0,)) is None
