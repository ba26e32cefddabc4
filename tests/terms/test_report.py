"""The figures of a step, and what is said to be wrong with its terms."""

import math
import re
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.step import BalanceStep
from lossproof.terms.gradients import TermGradients
from lossproof.terms.report import StepReport, packed

INF, NAN = math.inf, math.nan


class Equal(Balancer):
    """All weights are one."""

    needs = ("gramian",)

    def weights_of(self, figures):
        return torch.ones_like(figures.values)


def step_of(rows, weights=None, values=None, names=None, **facts):
    matrix = torch.tensor(rows, dtype=torch.float64)
    given_values = torch.ones(len(rows)) if values is None else torch.tensor(values)
    figures = TermGradients.from_matrix(matrix, names, given_values)
    factors = torch.ones(len(rows)) if weights is None else torch.tensor(weights)
    total = (factors * given_values).sum()
    return BalanceStep(
        figures.names, figures.values, factors.double(), total.double(), figures, **facts
    )


def report(**facts):
    defaults = {"names": ("a", "b"), "values": (1.0, 2.0), "weights": (1.0, 1.0), "total": 3.0}
    return StepReport(**{**defaults, **facts})


def kinds(found):
    return [(problem.kind, *problem.terms) for problem in found.problems()]


def test_the_figures_are_those_of_the_gradients():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    out = net(torch.randn(7, 3))
    terms = {"first": out[:, 0].square().mean(), "second": (out[:, 1] - 1).abs().mean()}
    expected = [
        torch.cat([g.flatten() for g in torch.autograd.grad(t, [*net.parameters()], None, True)])
        for t in terms.values()
    ]
    first, second = (row.double() for row in expected)
    found = Equal().backward(terms, net).as_dict()
    norms = first.norm().item(), second.norm().item()
    assert found == {
        "terms/total": pytest.approx(sum(t.item() for t in terms.values())),
        "terms/refreshed": 1.0,
        "terms/value/first": pytest.approx(terms["first"].item()),
        "terms/value/second": pytest.approx(terms["second"].item()),
        "terms/weight/first": 1.0,
        "terms/weight/second": 1.0,
        "terms/norm/first": pytest.approx(norms[0]),
        "terms/norm/second": pytest.approx(norms[1]),
        "terms/share/first": pytest.approx(norms[0] / sum(norms)),
        "terms/share/second": pytest.approx(norms[1] / sum(norms)),
        "terms/cosine/first/second": pytest.approx(torch.cosine_similarity(first, second, 0)),
    }
    assert {type(value) for value in found.values()} == {float}


def test_every_key_is_one_that_every_tracker_takes():
    # MLflow is the strictest: anything but these characters is refused
    names = ["boundary_x", "pde.residual", "a-b"]
    found = step_of([[1.0, 0.0], [-1.0, 0.1], [0.0, 0.0]], names=names).as_dict("train/terms/")
    assert len(found) > 10
    assert all(re.fullmatch(r"train/terms/[/\w.\- ]+", key) for key in found)


def test_shares_are_of_the_weighted_gradient_norms():
    found = step_of([[3.0, 4.0], [0.0, 2.0]], weights=[0.2, -1.5], values=[9.0, 1.0]).report()
    assert found.magnitudes == (5.0, 2.0)
    assert found.shares == pytest.approx((0.25, 0.75))
    assert "value_share/0" not in found.as_dict("")


def test_without_gradients_shares_are_of_the_weighted_values_and_called_so():
    step = BalanceStep(
        ("a", "b"), torch.tensor([2.0, -6.0]), torch.tensor([3.0, 1.0]), torch.tensor(0.0)
    )
    found = step.as_dict("")
    assert (found["value_share/a"], found["value_share/b"]) == (0.5, 0.5)
    assert not {key for key in found if key.startswith(("share/", "norm/", "cosine/"))}
    assert kinds(step.report()) == []


@given(
    st.floats(-150, 150),
    st.lists(st.floats(0.01, 100), min_size=1, max_size=16),
)
def test_shares_sum_to_one_at_every_scale(exponent, sizes):
    # the smallest and the largest float64 lie at 1e-308 and 1e308
    scaled = tuple(size * 10.0**exponent for size in sizes)
    names = tuple(map(str, range(len(sizes))))
    found = report(
        names=names, values=scaled, weights=scaled, magnitude="norm", magnitudes=scaled
    ).shares
    assert sum(found) == pytest.approx(1.0)
    assert found == pytest.approx([size**2 / sum(s**2 for s in sizes) for size in sizes])


def test_a_term_that_is_not_finite_is_named_and_the_shares_of_the_others_stay():
    found = report(
        names=("a", "b", "c"),
        values=(1.0, NAN, 2.0),
        weights=(1.0, 1.0, 1.0),
        magnitude="norm",
        magnitudes=(1.0, INF, 3.0),
    )
    assert kinds(found) == [("nonfinite", "b")]
    assert found.problems()[0].message == "'b' is not finite: value nan, gradient norm inf"
    assert found.shares[::2] == (0.25, 0.75)
    assert math.isnan(found.shares[1])


def test_a_weight_that_is_not_finite_is_named():
    assert kinds(report(weights=(1.0, INF))) == [("nonfinite", "b")]


def test_a_dropped_term_is_named_with_the_reason():
    x = torch.ones(2, requires_grad=True)
    terms = {"fine": x.sum(), "value": x[0] * NAN, "gradient": (x[0] - 1).sqrt(), "two": 2 * x[0]}
    found = Equal().backward(terms, [x], nonfinite="drop").report()
    assert [str(problem) for problem in found.problems()] == [
        "'value' was left out of the step: value nan",
        "'gradient' was left out of the step: gradient norm nan",
    ]
    assert found.magnitudes[::3] == pytest.approx((math.sqrt(2), 2.0))
    assert found.shares[3] == pytest.approx(2 / (2 + math.sqrt(2)))
    assert found.pairs["fine", "two"] == pytest.approx(math.sqrt(0.5))
    assert math.isnan(found.pairs["value", "two"])
    assert found.as_dict("")["dropped/value"] == 1.0


def test_the_norm_of_the_whole_gradient_is_told_where_it_is_clipped():
    x = torch.ones(2, requires_grad=True)
    step = Equal().backward({"a": 3 * x[0], "b": 4 * x[1]}, [x], clip=1.0)
    assert step.as_dict("")["total_norm"] == pytest.approx(5.0)
    assert "total_norm" not in step_of([[1.0], [2.0]]).as_dict("")


def test_a_term_without_gradient_and_one_of_zero_are_dead():
    layer = nn.Linear(2, 1)
    terms = {
        "alive": layer(torch.ones(1, 2)).square().sum(),
        "constant": torch.tensor(2.0),
        "zero": 0.0 * layer(torch.ones(1, 2)).sum(),
    }
    found = Equal().backward(terms, layer).report()
    assert kinds(found) == [("dead", "constant"), ("dead", "zero")]
    messages = [problem.message for problem in found.problems()]
    assert messages == [
        "'constant' is dead: it depends on none of the parameters",
        "'zero' is dead: its gradient is zero",
    ]


@pytest.mark.parametrize(
    ("sizes", "wrong"),
    [((96.0, 4.0), ["a"]), ((94.0, 6.0), []), ((100.0, 0.0), [])],
)
def test_a_term_dominates_where_the_others_carry_less_than_a_twentieth(sizes, wrong):
    found = report(magnitude="norm", magnitudes=sizes).problems()
    assert [problem.terms[0] for problem in found if problem.kind == "dominating"] == wrong


def test_the_limits_of_what_is_wrong_can_be_chosen():
    found = step_of([[1.0, 0.0], [0.6, 0.8]]).report()
    assert found.problems() == ()
    kinds_found = [one.kind for one in found.problems(dominating=0.4, conflicting=0.7)]
    assert kinds_found == ["dominating", "dominating", "conflicting"]
    with pytest.raises(ValueError, match=r"`dominating` must be a number of at least 0 and of at"):
        found.problems(dominating=95)


@pytest.mark.parametrize(("cosine", "wrong"), [(-0.11, True), (-0.09, False)])
def test_a_pair_conflicts_below_the_limit(cosine, wrong):
    step = step_of([[2.0, 0.0], [3 * cosine, 3 * math.sqrt(1 - cosine**2)]], names=["x", "y"])
    assert (("conflicting", "x", "y") in kinds(step.report())) is wrong
    assert step.as_dict("")["cosine/x/y"] == pytest.approx(cosine)


@pytest.mark.parametrize("statistic", ["norm", "mean_abs", "max_abs"])
def test_the_size_of_a_gradient_is_told_by_what_is_known(statistic):
    class Knows(Equal):
        needs = (statistic,)

    layer = nn.Linear(4, 1, bias=False)
    x = torch.tensor([[1.0, -2.0, 3.0, -4.0]])
    terms = {"one": layer(x).sum(), "two": 3 * layer(x).sum()}
    expected = {"norm": math.sqrt(30), "mean_abs": 2.5, "max_abs": 4.0}[statistic]
    found = Knows().backward(terms, layer).as_dict("")
    assert found[f"{statistic}/one"] == pytest.approx(expected)
    assert (found["share/one"], found["share/two"]) == pytest.approx((0.25, 0.75))


def test_packing_never_waits_for_the_device():
    # a tensor on the meta device has no numbers: to look at one is an error
    meta = torch.device("meta")
    square = torch.zeros(3, 3, device=meta)
    figures = SimpleNamespace(
        known=("gramian", "cosine"),
        names=("a", "b", "c"),
        gramian=square,
        cosine=square,
        constant=("c",),
    )
    ones = torch.ones(3, device=meta)
    step = BalanceStep(("a", "b", "c"), ones, ones, ones.sum(), figures)
    pack = packed(step)
    assert pack.numbers.shape == (3 + 3 + 1 + 3 + 9,)
    found = pack.report(range(19))
    assert (found.values, found.weights, found.total) == ((0, 1, 2), (3, 4, 5), 6)
    assert found.magnitudes == (7, 8, 9)
    assert found.cosines == ((10, 11, 12), (13, 14, 15), (16, 17, 18))


def test_the_table_shows_every_figure():
    step = step_of([[1.0, 0.0], [-3.0, 4.0]], weights=[2.0, 0.5], values=[7.0, 0.25])
    assert str(step).splitlines() == [
        "total 14.125, weights computed anew",
        "term  value  weight  norm  share  cos 0  cos 1",
        "0         7       2     1  44.4%  +1.00  -0.60",
        "1      0.25     0.5     5  55.6%  -0.60  +1.00",
        "'0' and '1' conflict: their gradients have the cosine -0.60",
    ]


def test_the_table_of_many_terms_lists_the_pairs_that_conflict_most():
    torch.manual_seed(0)
    rows = torch.randn(16, 40)
    rows[3] = -rows[11] + 0.01 * torch.randn(40)
    text = str(step_of(rows.tolist()))
    line = next(line for line in text.splitlines() if line.startswith("lowest cosines: "))
    assert line.startswith("lowest cosines: 3 and 11 -1.00, ")
    assert line.count(" and ") == 8
    assert max(len(row) for row in text.splitlines()[:17]) < 60


def test_the_table_of_a_step_that_held_its_weights():
    step = BalanceStep(
        ("data",), torch.tensor([2.0]), torch.tensor([0.5]), torch.tensor(1.0), refreshed=False
    )
    assert str(step).splitlines() == [
        "total 1, weights held",
        "term  value  weight  value share",
        "data      2     0.5       100.0%",
    ]
