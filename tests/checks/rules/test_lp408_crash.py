"""LP408 crash: what the loss raises, with its line and what it was called with."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.report import Status

PAIR = ("float[6,4]", "float[6,4]")


def misplaced_parenthesis(input, target):
    return torch.mean(torch.pow(input - target), 2)  # <-- here


def wrong_attribute(input, target):
    difference = input - target
    return difference.squared().mean()  # <-- here


def wrong_name(input, target):
    return ((input - taget) ** 2).mean()  # noqa: F821  # <-- here


def sum_of_tuple(input, target):
    pair = (input, target)
    return pair.sum()  # <-- here


def float_index(input, target):
    return input[target].sum()  # <-- here


def shapes_do_not_fit(input, target):
    return (
        input @ target  # <-- here
    ).mean()


def wrong_axis(input, target):
    return F.log_softmax(input, 3).mean()  # <-- here


def none_option(input, target, weight=None):
    error = (input - target) ** 2
    return (error * weight).mean()  # <-- here


def raises_on_purpose(input, target):
    if input.shape[1] != 3:
        raise ValueError(f"expected 3 columns, got {input.shape[1]}")  # <-- here
    return F.mse_loss(input, target)


class Missing(nn.Module):
    def scale(self, input):
        return input * self.factor  # <-- here

    def forward(self, input, target):
        return F.mse_loss(self.scale(input), target)


def recursive(input, target):
    return recursive(input, target)  # <-- here


@pytest.mark.parametrize(
    ("loss", "exception"),
    [
        (misplaced_parenthesis, "TypeError"),
        (wrong_attribute, "AttributeError"),
        (wrong_name, "NameError"),
        (sum_of_tuple, "AttributeError"),
        (float_index, "IndexError"),
        (shapes_do_not_fit, "RuntimeError"),
        (wrong_axis, "IndexError"),
        (none_option, "TypeError"),
        (raises_on_purpose, "ValueError"),
        (Missing, "AttributeError"),
        (recursive, "RecursionError"),
    ],
)
def test_an_exception_is_told_with_its_line_and_the_inputs(loss, exception, found, marked):
    (finding,) = found("LP408", loss, *PAIR)
    location = finding.location
    assert location.line <= marked(loss) <= (location.end_line or marked(loss))
    assert finding.evidence["exception"] == exception
    assert finding.cause == "raised"
    assert "input: float32[6, 4], requires grad; target: float32[6, 4]" in finding.notes[0]
    assert not finding.message.endswith(".")
    assert "\n" not in finding.message


def test_the_line_is_the_users_own_in_a_library(found, marked):
    def loss(logits, target):
        return F.cross_entropy(logits, target)  # <-- here

    (finding,) = found("LP408", loss, "float[6,4]", "float[6]")
    assert finding.location.line == marked(loss)


def test_a_loss_of_a_library_itself_has_no_line_of_the_user(found):
    (finding,) = found("LP408", F.cross_entropy, "float[6,4]", "float[6]")
    assert "cross_entropy" in finding.message
    partial = functools.partial(F.mse_loss, reduction="avg")
    (finding,) = found("LP408", partial, *PAIR)
    assert "avg is not a valid value for reduction" in finding.message


def test_an_exception_in_backward_is_told(found, marked):
    def loss(input, target):
        input = input * 1
        input.register_hook(fails)
        return F.mse_loss(input, target)

    (finding,) = found("LP408", loss, *PAIR)
    assert finding.cause == "backward-raised"
    assert "in its backward pass: too late" in finding.message


def fails(gradient):
    raise ValueError("too late")


def test_an_exception_without_words(found):
    def loss(input, target):
        raise NotImplementedError

    (finding,) = found("LP408", loss, *PAIR)
    assert "NotImplementedError: no message" in finding.message


def test_the_end_of_the_program_is_a_finding(found, marked):
    def loss(input, target):
        raise SystemExit("bye")  # <-- here

    (finding,) = found("LP408", loss, *PAIR)
    assert finding.cause == "ends-program"
    assert finding.location.line == marked(loss)


def test_a_loss_that_runs_is_proved(silent):
    assert silent("LP408", F.mse_loss, *PAIR) is Status.PROVED
    assert silent("LP408", nn.CrossEntropyLoss, "float[6,4]", "int[6]<4") is Status.PROVED


def test_the_page(page_code, module_of, found, silent):
    bad = module_of("import torch\n\n\n" + page_code("LP408", "Example"), "bad")
    good = module_of("import torch\n\n\n" + page_code("LP408", "Use instead"), "good")
    (finding,) = found("LP408", bad.mse, *PAIR)
    assert finding.location.line == 5
    silent("LP408", good.mse, *PAIR)
