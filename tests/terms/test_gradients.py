import numpy as np
import pytest
import torch
from torch import nn

from lossproof.terms import Balancer, TermGradients, term_gradients
from lossproof.terms.gradients import STATISTICS, computed
from lossproof.terms.parameters import chosen_parameters
from lossproof.terms.terms import named_terms


def by_hand():
    """Two parameters whose gradients are seen at once: a has (3, 4) and 0, b has 0 and 5."""
    u, v, idle = (
        nn.Parameter(torch.ones(2)),
        nn.Parameter(torch.ones(())),
        nn.Parameter(torch.ones(1)),
    )
    terms = {
        "a": 3 * u[0] + 4 * u[1],
        "b": 5 * v,
        "constant": torch.tensor(7.0),
        "both": -u[0] + 2 * v,
    }
    return terms, {"u": u, "v": v, "idle": idle}


ROWS = np.array([[3.0, 4, 0, 0], [0, 0, 5, 0], [0, 0, 0, 0], [-1, 0, 2, 0]])


def test_figures_by_hand():
    figures = term_gradients(*by_hand())
    gramian = ROWS @ ROWS.T
    assert figures.gramian.tolist() == gramian.tolist()
    norms = np.linalg.norm(ROWS, axis=1)
    assert list(figures.norm.values()) == pytest.approx(norms)
    assert list(figures.mean.values()) == pytest.approx(ROWS.mean(1))
    assert list(figures.mean_abs.values()) == pytest.approx(np.abs(ROWS).mean(1))
    assert list(figures.max_abs.values()) == [4.0, 5.0, 0.0, 2.0]
    assert list(figures.norm) == ["a", "b", "constant", "both"]
    safe = np.where(norms > 0, norms, 1.0)
    np.testing.assert_allclose(figures.cosine, gramian / safe / safe[:, None], rtol=1e-12)
    assert figures.by_parameter("norm")[0].tolist() == pytest.approx([5.0, 0.0, 0.0, 1.0])


def test_what_is_not_there_is_named():
    figures = term_gradients(*by_hand())
    assert figures.constant == ("constant",)
    assert figures.unused == ("idle",)
    assert figures.unreached == {
        "a": ("v", "idle"),
        "b": ("u", "idle"),
        "constant": ("u", "v", "idle"),
        "both": ("idle",),
    }
    assert figures.nonfinite == ()


def test_a_cosine_beside_zero_is_zero():
    u = nn.Parameter(torch.ones(2))
    figures = term_gradients({"zero": 0.0 * u.sum(), "one": u.sum()}, u)
    assert figures.cosine.tolist() == [[0.0, 0.0], [0.0, pytest.approx(1.0)]]


@pytest.mark.parametrize("where", ["value", "gradient"])
def test_terms_that_are_not_finite_are_named(where):
    u = nn.Parameter(torch.zeros(2))
    wrong = u.sum() + float("nan") if where == "value" else (u[0] - u[1]).abs().sqrt()
    figures = term_gradients({"fine": u.sum(), "wrong": wrong}, u, want=["norm"])
    assert figures.nonfinite == ("wrong",)


def test_gradients_and_their_weighted_sum():
    terms, params = by_hand()
    figures = term_gradients(terms, params, want=["gradients"])
    assert {name: list(one) for name, one in figures.gradients.items()} == {
        "a": ["u"], "b": ["v"], "constant": [], "both": ["u", "v"],
    }  # fmt: skip
    assert figures.gradients["both"]["u"].tolist() == [-1.0, 0.0]
    assert figures.gradient_rows()["u"].tolist() == ROWS[:, :2].tolist()
    found = figures.combined({"both": 2.0, "b": 1.0, "a": 1.0, "constant": 9.0})
    assert {name: one.tolist() for name, one in found.items()} == {"u": [1.0, 4.0], "v": 9.0}
    assert list(figures.combined(torch.zeros(4))) == ["u", "v"]


WRONG = {
    "want": ({"want": ["norms"]}, ValueError, r"`want` must be of norm, .* got 'norms'"),
    "terms": ({"terms": [torch.ones(())]}, TypeError, "`terms` must be a mapping"),
    "a term": ({"terms": {"pde": torch.ones(2)}}, ValueError, "term 'pde' must be a scalar"),
    "params": ({"params": 3}, TypeError, "`params` must be a module"),
    "frozen": ({"params": torch.ones(1)}, ValueError, "all of them are frozen"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_arguments_are_named(what):
    options, error, message = WRONG[what]
    terms, params = by_hand()
    with pytest.raises(error, match=message):
        term_gradients(**{"terms": terms, "params": params, **options})


def test_what_was_not_asked_for_is_named():
    figures = term_gradients(*by_hand(), want=["norm"])
    assert figures.known == ("norm",)
    with pytest.raises(ValueError, match="`mean` was not asked for: add it to `want`"):
        figures.vector("mean")
    with pytest.raises(ValueError, match="`gramian` was not asked for"):
        _ = figures.cosine
    with pytest.raises(ValueError, match="`statistic` must be one of norm, .* got 'median'"):
        figures.by_parameter("median")


@pytest.mark.parametrize("weights", [{}, {"a": 1.0}, dict.fromkeys(("a", "b", "pde"), 1.0)])
def test_weights_for_other_terms_are_refused(weights):
    with pytest.raises(ValueError, match="`weights` must have a number for each of the terms"):
        term_gradients(*by_hand()).combined(weights)


def test_all_figures_are_given_where_nothing_is_said():
    assert term_gradients(*by_hand()).known == (*STATISTICS[:4], "gramian", "cosine")


def held():
    terms, params = by_hand()
    return computed(
        named_terms(terms), chosen_parameters(params), ["gramian"], hold=True, retain_graph=True
    )


def test_gradients_that_were_let_go():
    figures = held()
    figures.release()
    for ask in (
        figures.gradient_rows,
        lambda: figures.gradients,
        lambda: figures.combined(torch.ones(4)),
    ):
        with pytest.raises(ValueError, match="were let go when `.grad` was filled"):
            ask()
    assert figures.gramian[0, 0] == 25.0
    figures.release()


def test_memory_of_gradients_that_were_handed_out_is_not_used_again():
    figures = held()
    rows = figures.gradient_rows()
    before = {name: one.clone() for name, one in rows.items()}
    figures.release()
    for _ in range(3):
        other = held()
        other.combined(torch.ones(4))
        other.release()
    terms, params = by_hand()
    scaled = {name: 9 * term for name, term in terms.items()}
    computed(
        named_terms(scaled), chosen_parameters(params), ["gramian"], hold=True, retain_graph=True
    )
    for name, one in before.items():
        assert torch.equal(rows[name], one)


class KeepsRows(Balancer):
    """A method of a user that looks at the gradients of the last step."""

    needs = ("gradients",)

    def __init__(self):
        super().__init__()
        self.seen = []

    def weights_of(self, figures):
        return torch.ones_like(figures.values)

    def gradients_of(self, figures, weights):
        rows = figures.gradient_rows()
        self.seen.append((rows["weight"], rows["weight"].clone()))
        return {name: one[0] for name, one in rows.items()}


def test_a_method_may_keep_gradients_and_fill_with_them():
    model, balancer, grads = nn.Linear(6, 5), KeepsRows(), []
    for _ in range(4):
        model.zero_grad()
        out = model(torch.randn(3, 6))
        balancer.backward({"a": out.square().sum(), "b": out.sin().sum()}, model)
        grads.append((model.weight.grad, model.weight.grad.clone()))
    for one, before in [*balancer.seen, *grads]:
        assert torch.equal(one, before)


def test_figures_of_gradients_that_are_there():
    figures = TermGradients.from_matrix(torch.tensor(ROWS), names=["a", "b", "c", "d"])
    assert figures.gramian.tolist() == (ROWS @ ROWS.T).tolist()
    assert figures.mean_abs["a"] == 1.75
    assert figures.combined({"a": 1.0, "b": 0.0, "c": 0.0, "d": 1.0})["parameter 0"].tolist() == [
        2,
        4,
        2,
        0,
    ]


def test_figures_say_what_they_are_when_printed():
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    figures = term_gradients({"a": weight.sum(), "b": weight.square().sum()}, weight, want="norm")
    assert repr(figures) == "TermGradients of a, b over 1 parameters: norm"


@pytest.mark.parametrize("want", [3, None, 0.5, torch.tensor(1.0), [3], ["norm", None]])
def test_what_cannot_be_asked_for(want):
    weight = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="`want` must be of norm"):
        term_gradients({"a": weight.sum()}, weight, want=want)


def test_retain_graph_is_true_or_false():
    weight = torch.ones(2, requires_grad=True)
    with pytest.raises(TypeError, match="`retain_graph` must be True or False"):
        term_gradients({"a": weight.sum()}, weight, retain_graph=torch.ones(3))
