import torch

from lossproof.terms.gradients import TermGradients, term_gradients
from lossproof.terms.scaling import scale_terms

FACTORS = torch.tensor([0.5, 3.0, 1.0], dtype=torch.float64)


def test_scaled_terms_are_as_if_they_had_been_multiplied_before():
    layer = torch.nn.Linear(4, 3)
    values = layer(torch.randn(7, 4)).square().mean(0)
    terms = dict(zip("abc", values, strict=True))
    scaled = {
        name: f * term for f, (name, term) in zip(FACTORS.float(), terms.items(), strict=True)
    }
    found = term_gradients(terms, layer, want=["norm", "mean_abs", "gramian", "gradients"])
    expected = term_gradients(scaled, layer, want=["norm", "mean_abs", "gramian", "gradients"])
    scale_terms(found, FACTORS)
    for statistic in ("norm", "mean_abs"):
        torch.testing.assert_close(found.vector(statistic), expected.vector(statistic))
    torch.testing.assert_close(found.gramian, expected.gramian)
    weights = torch.tensor([1.0, 2.0, 3.0])
    for ours, theirs in (
        (found.combined(weights), expected.combined(weights)),
        (found.gradient_rows(), expected.gradient_rows()),
    ):
        assert ours.keys() == theirs.keys()
        for name, gradient in ours.items():
            torch.testing.assert_close(gradient, theirs[name])


def test_the_groups_of_scaled_terms_answer_as_others_do():
    figures = TermGradients.from_matrix(torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]]))
    scale_terms(figures, FACTORS)
    (group,) = figures._groups
    assert list(group.positions) == [0]
    assert [group.vanishes(k) for k in range(3)] == [False, True, False]
    torch.testing.assert_close(group.products().double(), figures.gramian)
    assert group.gradient(0)[0].tolist() == [1.5, 2.0]


def test_a_gradient_that_was_not_stored_stays_so():
    x, y = (torch.ones(2, requires_grad=True) for _ in range(2))
    figures = term_gradients({"a": 2 * x.sum(), "b": y.sum()}, [x, y], want=["norm", "gradients"])
    scale_terms(figures, torch.tensor([3.0, 1.0], dtype=torch.float64))
    assert figures.gradients["a"]["parameter 0"].tolist() == [6.0, 6.0]
    assert "parameter 1" not in figures.gradients["a"]
