"""Least squares on terms: coefficients, what is exact, and which term is the wrong one."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lossproof.checks.likeness.fit import (
    all_columns,
    deviations,
    fit,
    opposite_groups,
    right_columns,
    weighted_sum,
)
from lossproof.checks.likeness.known import Term

COEFFICIENT = st.floats(0.1, 5).map(lambda size: round(size, 3))


def samples(count, *terms):
    """Draws of terms with the given right coefficients and groups, named a, b, c, ..."""
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "abcdef"[i]: Term(torch.randn(4, generator=generator, dtype=torch.float64), *term)
            for i, term in enumerate(terms)
        }
        for _ in range(count)
    ]


def values(drawn, coefficients, offset=0.0):
    return torch.stack(
        [
            sum(c * t.value.sum() for c, t in zip(coefficients, s.values(), strict=True)) + offset
            for s in drawn
        ]
    )


@given(st.lists(COEFFICIENT, min_size=3, max_size=3), st.floats(-3, 3))
def test_a_fit_gives_back_the_coefficients_and_the_constant(coefficients, offset):
    drawn = samples(12, (1.0,), (1.0,), (1.0,))
    found = fit(values(drawn, coefficients, offset), all_columns(drawn)[1])
    assert found.exact
    assert found.determined
    assert found.coefficients == pytest.approx(coefficients)
    assert found.offset == pytest.approx(offset, abs=1e-9)


def test_other_functions_are_not_fitted():
    drawn = samples(12, (1.0,), (1.0,))
    target = torch.stack([s["a"].value.sum() ** 2 for s in drawn])
    assert not fit(target, all_columns(drawn)[1]).exact


def test_what_hardly_varies_is_not_fitted():
    drawn = samples(6, (1.0,))
    assert fit(torch.full((6,), 3.0, dtype=torch.float64), all_columns(drawn)[1]) is None


def test_collinear_terms_have_no_coefficients_to_read():
    drawn = samples(12, (1.0,))
    doubled = [{**s, "b": Term(2 * s["a"].value)} for s in drawn]
    found = fit(values(drawn, [3.0]), all_columns(doubled)[1])
    assert found.exact
    assert not found.determined


def test_right_coefficients_make_one_column():
    drawn = samples(8, (0.5,), (-0.5,))
    groups, columns = right_columns(drawn)
    found = fit(values(drawn, [2.0, -2.0]), columns)
    assert [group.terms for group in groups] == [("a", "b")]
    assert found.exact
    assert found.coefficients == pytest.approx([4.0])
    assert found.positive(all_seen=True)


def test_strays_are_in_no_right_column_and_free_terms_in_their_own():
    drawn = samples(8, (1.0,), (0.0,), (None,), (None,))
    groups, columns = right_columns(drawn)
    assert [group.terms for group in groups] == [("a",), ("c",), ("d",)]
    assert columns.shape == (8, 3)


def test_the_weighted_sum_is_what_was_fitted():
    drawn = samples(8, (0.5,), (-1.0,), (None,))
    target = values(drawn, [1.0, -2.0, 0.3])
    found = fit(target, right_columns(drawn)[1])
    again = torch.stack([weighted_sum(s, found.coefficients) for s in drawn])
    torch.testing.assert_close(again + found.offset, target)


@given(st.integers(0, 2), COEFFICIENT)
def test_the_wrong_term_is_named(which, factor):
    right = [1.0, -0.5, 2.0]
    terms = samples(1, *((r,) for r in right))[0]
    found = [factor * r for r in right]
    found[which] *= 3
    _, wrong = deviations(terms, found)
    assert [deviation.term for deviation in wrong] == ["abc"[which]]
    assert wrong[0].ratio == pytest.approx(3)


def test_a_term_that_is_missing_and_one_that_does_not_belong():
    terms = samples(1, (1.0,), (1.0,), (1.0,), (0.0,))[0]
    _, wrong = deviations(terms, [2.0, 2.0, 0.0, 0.7])
    assert [(d.term, d.found, d.wanted) for d in wrong] == [("c", 0.0, 2.0), ("d", 0.7, 0.0)]


def test_each_group_has_a_factor_of_its_own():
    terms = samples(1, (1.0, "x"), (1.0, "x"), (1.0, "y"))[0]
    assert deviations(terms, [2.0, 2.0, 7.0])[1] == []


def test_a_group_that_is_subtracted_is_opposite():
    drawn = samples(10, (1.0, "x"), (1.0, "y"))
    groups, columns = right_columns(drawn)
    found = fit(values(drawn, [1.0, -3.0]), columns)
    assert [d.term for d in opposite_groups(groups, found)] == ["y"]
    same = fit(values(drawn, [-1.0, -3.0]), columns)
    assert opposite_groups(groups, same) == []


def test_a_column_that_never_moves_is_no_objection_to_a_right_reading():
    drawn = [{**s, "b": Term(torch.zeros(4), None)} for s in samples(8, (1.0,))]
    found = fit(torch.stack([s["a"].value.sum() for s in drawn]), right_columns(drawn)[1])
    assert found.positive(all_seen=False)
    assert not found.positive(all_seen=True)
    assert math.isnan(found.shares[1])
