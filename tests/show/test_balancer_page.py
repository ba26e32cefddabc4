"""The page of a balancer and the table of all."""

import pytest

from lossproof.show.balancer_page import Facts, cited, page, table
from lossproof.show.docstring import section
from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.listing import BalancerEntry


class Own(Balancer):
    r"""Weights of ``my`` own.

    .. math:: w_k = 1

    Args:
        names: the names of the terms.
        every: see :class:`Balancer`.

    Source:
        Me, You and They (2026), A paper.
    """

    needs = ("norm", "mean")


def test_a_page_is_made_of_the_docstring_and_of_what_was_found():
    text = page(BalancerEntry(Own), Facts("K", ("averages", "moment")))
    assert "from lossproof.terms import Own\n\nOwn(names=None, *, every=1)" in text
    assert "Weights of `my` own.\n\n```math\nw_k = 1\n```" in text
    assert "| needs | `norm`, `mean` |" in text
    assert "| the weights sum to | K |" in text
    assert "| in the checkpoint, besides the weights | `averages`, `moment` |" in text
    assert "- **`every`**: see `Balancer`." in text
    assert "## Source\n\nMe, You and They (2026), A paper." in text


def test_the_table_has_a_row_for_each():
    text = table([BalancerEntry(Own)], {"Own": Facts("1", ())})
    assert "### From statistics of the gradients" in text
    row = "| [`Own`](Own.md) | Weights of `my` own. | `norm`, `mean` | 1 |  | Me et al. (2026) |"
    assert row in text


@pytest.mark.parametrize(
    ("source", "short"),
    [
        ("Wang, Teng and Perdikaris (2021), Title.", "Wang et al. (2021)"),
        ("Quinton and Rey (2024), Title (with more).", "Quinton and Rey (2024)"),
        ("Desideri (2012), Title; Sener and Koltun (2018), Title.", "Desideri (2012)"),
        ("Lopez-Paz and Ranzato (2017), Title.", "Lopez-Paz and Ranzato (2017)"),
        ("", ""),
    ],
)
def test_a_source_is_cited_as_in_papers(source, short):
    assert cited(source) == short


def test_an_example_that_is_no_doctest_is_code_as_well():
    content = "    .. code-block:: python\n\n        call(1)\n"
    assert section("Example", content) == "```python\ncall(1)\n```"
