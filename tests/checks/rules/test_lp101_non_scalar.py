"""LP101 non-scalar: what `backward()` cannot start from."""

import enum
import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossproof
from lossproof.checks.report import Status

PAIR = ("float[6,4]", "float[6,4]")
CLASSES = ("float[6,4]", "int[6]<4")


def per_sample(input, target):
    return ((input - target) ** 2).mean(dim=1)  # <-- here


def forgot_to_reduce(logits, target):
    log_p = F.log_softmax(logits, 1)
    return -log_p.gather(1, target[:, None])  # <-- here


def sums_the_wrong_axis(input, target):
    error = (input - target).abs()
    return torch.sum(error, 0)  # <-- here


class Reduction(enum.Enum):
    MEAN = "mean"


class WrongReduction(nn.Module):
    def __init__(self, reduction=Reduction.MEAN):
        super().__init__()
        self.reduction = reduction

    def forward(self, input, target):
        error = (input - target) ** 2
        if self.reduction == "mean":
            return error.mean()
        return error * 1.0  # <-- here


def built_in_unreduced_then_weighted(input, target):
    values = F.mse_loss(input, target, reduction="none")
    return values * 0.5  # <-- here


def stacked(input, target):
    mse = F.mse_loss(input, target)
    mae = F.l1_loss(input, target)
    return torch.stack([mse, mae])  # <-- here


def unsqueezed_batch(scores, target):
    right = scores.gather(1, target[:, None])
    return (scores - right + 0.1).clamp(min=0)  # <-- here


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (per_sample, PAIR),
        (forgot_to_reduce, CLASSES),
        (sums_the_wrong_axis, PAIR),
        (WrongReduction, PAIR),
        (built_in_unreduced_then_weighted, PAIR),
        (stacked, PAIR),
        (unsqueezed_batch, CLASSES),
    ],
)
def test_a_vector_is_found_where_it_was_made(loss, inputs, found, marked):
    (finding,) = found("LP101", loss, *inputs)
    assert finding.cause == "not-reduced"
    assert finding.location.line == marked(loss)
    assert finding.evidence["elements"] > 1


def test_the_trap_of_a_batch_of_one_is_told(found):
    (finding,) = found("LP101", per_sample, *PAIR)
    assert any("batch of one" in note for note in finding.notes)
    (finding,) = found("LP101", stacked, *PAIR)
    assert finding.notes == ()


def mse(input, target):
    return ((input - target) ** 2).mean()


async def awaited(input, target):
    return mse(input, target)


def yielded(input, target):
    yield mse(input, target)


OTHER = {
    "None": (lambda input, target: None, "no-return", "returns None"),
    "trailing comma": (lambda input, target: (mse(input, target),), "container", "a tuple of 1"),
    "vectors": (lambda i, t: (i - t, i + t), "container", "a tuple of 2"),
    "list": (lambda input, target: [mse(input, target)], "container", "a list of 1"),
    "dict": (lambda input, target: {"loss": 0.5}, "container", "a dict of 1"),
    "empty": (lambda input, target: (), "container", "a tuple of 0"),
    "str": (lambda input, target: "0.5", "no-tensor", "`str`"),
    "array": (lambda input, target: (input - target).detach().numpy(), "no-tensor", "`ndarray`"),
    "bool": (lambda input, target: bool((input > target).all()), "no-tensor", "`bool`"),
    "constant": (lambda input, target: 0.5, "no-tensor", "`float`"),
    "numpy constant": (lambda input, target: np.float32(0.5), "no-tensor", "`float32`"),
    "generator": (yielded, "no-tensor", "`generator`"),
    "coroutine": (awaited, "no-tensor", "`coroutine`"),
    "complex": (lambda input, target: torch.complex(input, target).sum(), "complex", "complex"),
}


@pytest.mark.parametrize(
    "loss",
    [
        lambda input, target: (mse(input, target), {"mse": 0.5}),
        lambda input, target: (mse(input, target), (input - target).detach().abs()),
        lambda input, target: {"loss": mse(input, target)},
    ],
)
def test_the_loss_with_what_is_logged_is_no_finding(loss, verdicts):
    (outcome,) = verdicts("LP101", loss, *PAIR)
    assert outcome.status is Status.UNPROVED
    assert "one number" in outcome.detail


def test_parts_beside_the_loss_of_a_dict_are_no_finding(verdicts):
    def detection(output, target):
        total = mse(output["box"], target["box"])
        return total, {"box": total.detach()}

    pair = [{"box": torch.randn(4, 2, requires_grad=True)}, {"box": torch.randn(4, 2)}]
    assert verdicts("LP101", detection, *pair)[0].status is Status.UNPROVED


@pytest.mark.parametrize("name", OTHER)
@pytest.mark.filterwarnings("ignore:coroutine")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_is_no_tensor_is_found(name, found):
    loss, cause, said = OTHER[name]
    (finding,) = found("LP101", loss, *PAIR)
    assert finding.cause == cause
    assert said in finding.message
    assert finding.location.file == __file__


def test_a_python_number_is_left_to_the_rule_that_knows_the_line(silent):
    def number(input, target):
        return mse(input, target).item()

    def count(input, target):
        return int((input > target).sum())

    assert silent("LP101", number, *PAIR) is Status.NOT_APPLICABLE
    assert silent("LP101", count, *PAIR) is Status.NOT_APPLICABLE


# ------------------------------------------------------------------ not reported


class Unreduced(nn.Module):
    def __init__(self, reduction="none"):
        super().__init__()
        self.reduction = reduction

    def forward(self, input, target):
        return (input - target) ** 2


def option_none(input, target, reduction="none"):
    return (input - target) ** 2


@pytest.mark.parametrize(
    "loss",
    [
        Unreduced(),
        nn.MSELoss(reduction="none"),
        option_none,
        functools.partial(F.l1_loss, reduction="none"),
        lambda input, target: F.l1_loss(input, target, reduction="none"),
    ],
)
def test_unreduced_on_purpose_is_not_applicable(loss, silent):
    assert silent("LP101", loss, *PAIR) is Status.NOT_APPLICABLE


@pytest.mark.parametrize(
    "loss",
    [
        mse,
        lambda input, target: mse(input, target).reshape(1),
        lambda input, target: mse(input, target).reshape(1, 1),
        F.mse_loss,
    ],
)
def test_one_element_is_proved(loss, silent):
    assert silent("LP101", loss, *PAIR) is Status.PROVED


def test_the_page(page_code, module_of, found, silent):
    example = page_code("LP101", "Example")
    bad = module_of(example, "bad")
    good = module_of(
        "\n".join(example.splitlines()[:-1]) + "\n" + page_code("LP101", "Use instead"), "good"
    )
    (finding,) = found("LP101", bad.margin_loss, *CLASSES)
    assert finding.location.line == 3
    silent("LP101", good.margin_loss, *CLASSES)


def documented(input, target):
    """Squared error of each sample.

    Returns:
        torch.Tensor: one loss per sample, shape (B,)
    """
    return ((input - target) ** 2).mean(1)


class PerChannel(torch.nn.Module):
    """Squared error of each channel.

    Shape:
        - Input: :math:`(N, C)`.
        - Output: :math:`(*,)`.
    """

    def forward(self, input, target):
        return ((input - target) ** 2).mean(0)


def promised_scalar(input, target):
    """Squared error.

    Args:
        input: shape (N, C).

    Returns:
        a scalar tensor of shape ().
    """
    return ((input - target) ** 2).mean(1)


def undocumented(input, target):
    """Mean squared error; input and target have shape (N, C)."""
    return ((input - target) ** 2).mean(1)


@pytest.mark.parametrize("loss", [documented, PerChannel()])
def test_a_documented_shape_is_on_purpose(silent, loss):
    assert silent("LP101", loss, "float[6,4]", "float[6,4]") is Status.NOT_APPLICABLE


@pytest.mark.parametrize("loss", [promised_scalar, undocumented])
def test_a_docstring_that_promises_a_number_or_nothing_excuses_nothing(found, loss):
    (finding,) = found("LP101", loss, "float[6,4]", "float[6,4]")
    assert finding.cause == "not-reduced"


def test_rows_of_pairs_are_on_purpose(silent):
    rows = lossproof.pairs(lambda x, y: x @ y.T, "logsumexp", dim=(1, 0))
    assert silent("LP101", rows, "float[6,3]", "float[6,3]") is Status.NOT_APPLICABLE
