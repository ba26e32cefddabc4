import pytest
import torch

from lossproof.terms.terms import Terms, named_terms

ONE = torch.tensor(1.0)


def test_the_order_is_kept_and_absent_terms_are_told_apart():
    terms = named_terms({"b": ONE, "late": None, "a": 2 * ONE})
    assert terms.names == ("b", "a")
    assert terms.absent == ("late",)
    assert terms.values.tolist() == [1.0, 2.0]
    assert len(terms) == 2


def test_values_are_float64_and_have_no_graph():
    value = torch.tensor(3.0, dtype=torch.bfloat16, requires_grad=True)
    values = named_terms({"a": value * 2}).values
    assert values.dtype == torch.float64
    assert not values.requires_grad


def test_some_of_the_terms_in_another_order():
    terms = Terms(("a", "b", "c"), (ONE, 2 * ONE, 3 * ONE), ("d",)).among(["c", "a"])
    assert terms.names == ("c", "a")
    assert terms.values.tolist() == [3.0, 1.0]
    assert terms.absent == ("d", "b")


def test_one_tensor_may_stand_under_two_names_and_a_constant_is_a_term():
    assert named_terms({"a": ONE, "b": ONE}).tensors == (ONE, ONE)


@pytest.mark.parametrize(
    ("terms", "error", "message"),
    [
        ([ONE], TypeError, r"`terms` must be a mapping .* got list"),
        (ONE, TypeError, "got Tensor"),
        ({0: ONE}, TypeError, "names of `terms` must be strings, got 0"),
        ({0: None, "a": ONE}, TypeError, "names of `terms` must be strings, got 0"),
        ({"a": 1.0}, TypeError, "term 'a' must be a scalar tensor, got float"),
        ({"a": torch.tensor(1)}, TypeError, "term 'a' must be a real floating-point tensor"),
        ({"a": torch.tensor(1j)}, TypeError, "got torch.complex64"),
        ({"a": torch.ones(3)}, ValueError, r"term 'a' must be a scalar, got the shape \[3\]"),
        ({"a": torch.ones(1)}, ValueError, r"got the shape \[1\]; reduce it first"),
        ({"a": None}, ValueError, "at least one term that is not None"),
        ({}, ValueError, "at least one term that is not None"),
        (
            {"a": ONE, "b": torch.ones((), device="meta")},
            ValueError,
            "on one device, got 'a' on cpu, 'b' on meta",
        ),
    ],
)
def test_wrong_terms_are_named(terms, error, message):
    with pytest.raises(error, match=message):
        named_terms(terms)
