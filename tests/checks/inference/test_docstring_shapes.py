"""Shapes in docstrings of every style, in comments and in annotations."""

from typing import Annotated

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lossproof.checks.inference.docstring_shapes import describe, shapes_in
from lossproof.checks.subject import subject_of


def described(loss):
    subject = subject_of(loss)
    return describe(subject, subject.parameter_names)


def google(logits, labels):
    """Cross entropy.

    Args:
        logits (torch.Tensor): scores, shape (batch, classes).
        labels (torch.Tensor): class indices
            of shape [batch].
    """


def numpy_style(logits, labels):
    """Cross entropy.

    Parameters
    ----------
    logits : Tensor, shape (batch, classes)
    labels : LongTensor
        The right classes, shape (batch,)
    """


def rest(logits, labels):
    """Cross entropy.

    :param logits: scores [batch, classes]
    :param torch.Tensor labels: classes [batch,]
    """


def torch_style(logits, labels):
    """Cross entropy.

    Shape:
        - Logits: :math:`(batch, classes)` where classes = number of classes
        - Labels: :math:`(batch,)`
    """


def comments(logits, labels):
    # logits: (batch, classes)
    # labels: [batch,]
    return F.cross_entropy(logits, labels)


def annotated(logits: Annotated[torch.Tensor, "batch classes"], labels):
    return F.cross_entropy(logits, labels)


class Int:
    """As jaxtyping makes them."""

    dim_str = "batch"


annotated.__annotations__["labels"] = Int


def annotated_with_text(logits, labels):
    return F.cross_entropy(logits, labels)


annotated_with_text.__annotations__ = {
    "logits": 'Float[Tensor, "batch classes"]',
    "labels": "Int[Tensor, 'batch']",
}


def one_line(logits, labels):
    """logits: (batch, classes); labels: (batch,)"""


STYLES = [
    google,
    numpy_style,
    rest,
    torch_style,
    one_line,
    comments,
    annotated,
    annotated_with_text,
]


@pytest.mark.parametrize("loss", STYLES)
def test_every_style_is_read(loss):
    found = described(loss)
    assert found["logits"].shapes[0] == ("batch", "classes")
    assert found["labels"].shapes[0] == ("batch",)


class Documented(torch.nn.Module):
    """A loss.

    Args:
        input: (N, C, H, W)
    """

    def forward(self, input):
        """Compute it.

        Args:
            input: (B, T, D)
        """


def test_the_words_of_forward_come_before_those_of_the_class():
    assert described(Documented())["input"].shapes == (("B", "T", "D"), ("N", "C", "H", "W"))


@pytest.mark.parametrize(
    "text",
    [
        "probabilities in [0, 1]",
        "labels in [-1, 1] (optional)",
        "weight (Tensor, optional)",
        "one of (mean, sum, none)",
        "a list [int, float]",
        "the loss (see below)",
        "eps (float)",
        "",
    ],
)
def test_what_is_no_shape_is_not_read_as_one(text):
    assert shapes_in(text) == []


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("BxCxHxW", ("B", "C", "H", "W")),
        ("B x T x D", ("B", "T", "D")),
        ("the shape should be BNH[WD]", ("B", "C", "H", "W")),
        ("in NCHW", ("N", "C", "H", "W")),
        (":math:`(N, *)`", ("N", "*")),
        ("(16, 10, 3)", ("16", "10", "3")),
    ],
)
def test_other_ways_to_write_a_shape(text, shape):
    assert shapes_in(text) == [shape]


@given(st.lists(st.sampled_from(["N", "C", "batch", "d_1", "H", "T", "*"]), min_size=2, max_size=5))
def test_shapes_are_read_as_they_are_written(words):
    assert shapes_in(f"a tensor of shape ({', '.join(words)}).") == [tuple(words)]
    assert shapes_in(f"a tensor [{','.join(words)}] of logits") == [tuple(words)]
