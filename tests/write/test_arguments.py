import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from lossproof.write import arguments


@given(st.floats(allow_nan=True), st.floats(-10, 10), st.floats(0, 10))
def test_number_takes_what_lies_in_the_range(value, low, width):
    inside = math.isfinite(value) and low <= value <= low + width
    if inside:
        assert arguments.number("x", value, minimum=low, maximum=low + width) == value
    else:
        with pytest.raises(ValueError, match="`x` must be a number of at least"):
            arguments.number("x", value, minimum=low, maximum=low + width)


def test_an_integer_above_all_floats_is_no_finite_number():
    with pytest.raises(ValueError, match="`x` must be a number above 0"):
        arguments.number("x", 10**400, above=0)


@pytest.mark.parametrize("value", [True, None, "1", 1j, torch.ones(1)])
def test_number_takes_numbers_only(value):
    with pytest.raises(TypeError, match="`x` must be a number above 0, got"):
        arguments.number("x", value, above=0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: arguments.tensor("a", 3),
            TypeError,
            "`a` must be a floating-point tensor",
        ),
        (lambda: arguments.tensor("a", torch.ones(2), "integer"), TypeError, "got torch.float32"),
        (lambda: arguments.tensor("a", torch.ones(2), "bool"), TypeError, "a bool tensor"),
        (
            lambda: arguments.tensor("a", torch.ones(2, dtype=torch.cfloat), "number"),
            TypeError,
            "a tensor of real numbers, got torch.complex64",
        ),
        (
            lambda: arguments.pair(torch.ones(3, 1), torch.ones(3)),
            ValueError,
            r"`input` and `target` must have the same shape, got \[3, 1\] and \[3\]",
        ),
        (
            lambda: arguments.pair(torch.ones(3), torch.ones(3, device="meta")),
            ValueError,
            "must be on one device, got cpu and meta",
        ),
        (
            lambda: arguments.axes("input", torch.ones(3), -2, layout="(N, C, *)"),
            ValueError,
            r"`input` must have the shape \(N, C, \*\), got \[3\]",
        ),
        (lambda: arguments.integer("k", 1.0), TypeError, "`k` must be an integer, got 1.0"),
        (lambda: arguments.integer("k", 0, minimum=1), ValueError, "at least 1, got 0"),
        (lambda: arguments.flag("swap", 1), TypeError, "`swap` must be True or False, got 1"),
        (
            lambda: arguments.within("p", torch.tensor([0.5, 1.5]), 0, 1),
            ValueError,
            "`p` must hold numbers from 0 to 1, got 1.5",
        ),
        (
            lambda: arguments.within("v", torch.tensor([0.0]), above=0),
            ValueError,
            "`v` must hold numbers above 0, got 0",
        ),
        (
            lambda: arguments.class_indices("y", torch.tensor([0, 3]), 3, ignore_index=-100),
            ValueError,
            "`y` must hold classes from 0 to 2 or ignore_index=-100, got 3",
        ),
    ],
)
def test_errors_name_the_argument_what_it_got_and_what_it_wanted(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_values_that_do_not_count_are_not_looked_at():
    arguments.within("p", torch.tensor([0.5, 9.0]), 0, 1, where=torch.tensor([True, False]))
    arguments.within("p", torch.tensor([float("nan")]), 0, 1)
    arguments.class_indices("y", torch.tensor([1, -100]), 3, ignore_index=-100)


def test_values_are_asserted_within_a_compiled_graph():
    def loss(p):
        arguments.within("p", p, 0, 1)
        return p.sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert compiled(torch.tensor([0.5, 0.25])).item() == 0.75
    with pytest.raises(RuntimeError, match="`p` must hold numbers from 0 to 1"):
        compiled(torch.tensor([0.5, 2.0]))


@pytest.mark.parametrize("ignore_index", [-100, 2**40])
def test_labels_that_a_compiled_graph_narrows_are_checked_as_they_are(ignore_index):
    def loss(y):
        labels = arguments.class_indices("y", y, 3, ignore_index=ignore_index)
        return torch.where(labels == ignore_index, -1, labels)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert compiled(torch.tensor([2, ignore_index])).tolist() == [2, -1]
    with pytest.raises(RuntimeError, match="`y` must hold classes from 0 to 2"):
        compiled(torch.tensor([2, 2**32 + 1]))  # 1, in 32 bits


def test_values_within_a_transform_cannot_be_looked_at():
    def loss(p):
        arguments.within("p", p, 0, 1)
        return p.sum()

    assert torch.func.vmap(loss)(torch.tensor([[0.5], [2.0]])).tolist() == [0.5, 2.0]


def test_nor_within_a_transform_of_a_compiled_graph():
    def loss(p):
        arguments.within("p", p, 0, 1)
        return p.sum()

    compiled = torch.compile(torch.func.vmap(loss), fullgraph=True, backend="aot_eager")
    assert compiled(torch.tensor([[0.5], [2.0]])).tolist() == [0.5, 2.0]


def test_no_label_of_a_small_type_is_taken_for_ignored():
    labels = torch.tensor([156], dtype=torch.uint8)  # there, -100 is 156
    with pytest.raises(ValueError, match="`target` must hold classes .*, got 156"):
        arguments.class_indices("target", labels, 10, ignore_index=-100)
    assert arguments.class_indices("target", labels, 200, ignore_index=-100) != -100


def test_fake_tensors_have_no_values_to_look_at():
    with FakeTensorMode():
        arguments.within("p", torch.ones(3), 0, 1)
        arguments.within("p", torch.ones(3), 0, 1, where=torch.ones(3, dtype=torch.bool))
        labels = arguments.class_indices("target", torch.ones(3, dtype=torch.int64), 2)
    assert labels.shape == (3,)


def test_integers_that_torch_does_not_take():
    assert arguments.number("x", 1e30) == 1e30
    with pytest.raises(ValueError, match="`x` must be a float, or an integer of at most 64 bits"):
        arguments.number("x", 10**30)
    assert arguments.integer("n", 2**63 - 1) == 2**63 - 1
    with pytest.raises(ValueError, match="`n` must be an integer, of at most 64 bits"):
        arguments.integer("n", 2**63)
