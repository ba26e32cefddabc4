"""Learning-rate annealing against the formulas of its paper, its code and its relatives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.terms.balance.pinn import (
    flat,
    gradients_of,
    linear_terms,
    small_network,
    terms_of,
    through_a_file,
    trained,
)
from torch import nn

from lossproof.terms.balance.annealing import LearningRateAnnealing


def matrices(network):
    return [p for p in network.parameters() if p.ndim == 2]


def released_code(network, terms, lam, weighted=True):
    """The new weight of every term but the first, as the authors' TensorFlow code computes it."""
    layers = matrices(network)
    pde, *others = terms.values()
    max_res = torch.stack([g.abs().max() for g in gradients_of(pde, layers)]).max()
    new = [torch.tensor(1.0, dtype=torch.float64)]
    for i, term in enumerate(others, 1):
        scaled = lam[i] * term if weighted else term
        mean_bc = torch.stack([g.abs().mean() for g in gradients_of(scaled, layers)]).mean()
        new.append(0.9 * lam[i] + 0.1 * max_res / mean_bc)
    return torch.stack(new)


@pytest.mark.parametrize("denominator", ["weighted", "unweighted"])
def test_the_paper_step_by_step(denominator):
    network = small_network()
    balancer = LearningRateAnnealing(denominator=denominator)
    expected = torch.ones(3, dtype=torch.float64)
    for step in range(5):
        terms = terms_of(network, step)
        expected = released_code(network, terms, expected, denominator == "weighted")
        got = balancer.backward(terms, network).weights
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)
        with torch.no_grad():
            for p in network.parameters():
                p.sub_(1e-2 * p.grad)
                p.grad = None


def test_the_gradient_is_that_of_the_weighted_sum():
    network = small_network()
    terms = terms_of(network)
    step = LearningRateAnnealing(reference="bc").backward(terms, network)
    total = sum(w * t for w, t in zip(step.weights, terms_of(network).values(), strict=True))
    params = list(network.parameters())
    for p, g in zip(params, gradients_of(total, params), strict=True):
        torch.testing.assert_close(p.grad, g)


def test_physicsnemo():
    """The mean magnitude over all entries together, biases too; its average starts at one."""
    network = small_network()
    balancer = LearningRateAnnealing(ratio="mean_mean", alpha=0.01)
    lam = torch.ones(3, dtype=torch.float64)
    for step in range(3):
        terms = terms_of(network, step)
        params = list(network.parameters())
        means = torch.stack([flat_reached(t, params).abs().mean() for t in terms.values()])
        lam = 0.99 * lam + 0.01 * means[0] / means
        torch.testing.assert_close(balancer.backward(terms, network).weights, lam)


def flat_reached(term, params):
    found = torch.autograd.grad(term, params, retain_graph=True, allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


def test_norms_have_the_proportions_of_jaxpi():
    network = small_network()
    terms = terms_of(network)
    norms = torch.stack([flat(gradients_of(t, list(network.parameters()))).norm()
                         for t in terms.values()])  # fmt: skip
    got = LearningRateAnnealing(ratio="norm", alpha=1.0, reference="data").backward(terms, network)
    of_jaxpi = norms.mean() / norms
    torch.testing.assert_close(got.weights, of_jaxpi / of_jaxpi[2])


@pytest.mark.parametrize(("denominator", "power"), [("weighted", 0.5), ("unweighted", 1.0)])
def test_the_two_fixed_points(denominator, power):
    terms, weight = linear_terms([[30.0, -500.0], [1.0, 3.0]])
    balancer = LearningRateAnnealing(denominator=denominator)
    for _ in range(400):
        step = balancer.backward(terms, [weight], retain_graph=True)
    assert step.weights.tolist() == pytest.approx([1.0, 250.0**power], rel=1e-9)


def test_biases_count_if_asked():
    weight = torch.tensor([[1.0]], requires_grad=True)
    bias = torch.tensor([1.0], requires_grad=True)
    terms = {"pde": 4 * weight.sum() + 100 * bias.sum(), "bc": weight.sum() + 3 * bias.sum()}

    def weights(**options):
        balancer = LearningRateAnnealing(alpha=1.0, **options)
        return balancer.backward(terms, [weight, bias], retain_graph=True).weights.tolist()

    assert weights() == [1.0, 4.0]
    assert weights(matrices_only=False) == [1.0, 50.0]
    assert weights(ratio="mean_mean") == [1.0, 26.0]
    assert weights(ratio="mean_mean", matrices_only=True) == [1.0, 4.0]


def test_a_layer_that_a_term_never_meets_is_not_in_its_mean():
    first = torch.ones(1, 2, requires_grad=True)
    second = torch.ones(1, 6, requires_grad=True)
    terms = {"pde": 6 * first.sum() + 6 * second.sum(), "bc": 2 * first.sum()}
    for ratio in ("max_mean", "mean_mean"):
        balancer = LearningRateAnnealing(alpha=1.0, ratio=ratio)
        step = balancer.backward(terms, [first, second], retain_graph=True)
        assert step.weights.tolist() == [1.0, 3.0]


@given(
    power=st.integers(-20, 20),
    ratio=st.sampled_from(["max_mean", "mean_mean", "norm"]),
    order=st.permutations(range(3)),
)
@settings(max_examples=60, deadline=None)
def test_scale_and_order_of_the_terms_do_not_matter(power, ratio, order):
    rows = torch.tensor([[3.0, -4.0], [0.5, 1.0], [100.0, 3.0]], dtype=torch.float64)
    terms, weight = linear_terms(rows)
    scaled, scaled_weight = linear_terms(rows * 10.0**power)
    options = {"ratio": ratio, "reference": "b"}
    plain = LearningRateAnnealing(**options).backward(terms, [weight])
    other = LearningRateAnnealing(**options).backward(
        {name: list(scaled.items())[k][1] for k, name in ((k, "abc"[k]) for k in order)},
        [scaled_weight],
    )
    torch.testing.assert_close(other.weights, plain.weights[list(order)])


@pytest.mark.parametrize("ratio", ["max_mean", "mean_mean", "norm"])
def test_without_a_gradient_a_term_keeps_its_weight(ratio):
    balancer = LearningRateAnnealing(ratio=ratio, alpha=1.0)
    terms, weight = linear_terms([[2.0, 2.0], [1.0, 1.0], [0.0, 0.0]])
    assert balancer.backward(terms, [weight]).weights.tolist() == [1.0, 2.0, 1.0]
    terms, weight = linear_terms([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]])
    assert balancer.backward(terms, [weight]).weights.tolist() == [1.0, 2.0, 1.0]


def test_a_single_term_and_equal_terms_have_weight_one():
    terms, weight = linear_terms([[2.0, 2.0]])
    assert LearningRateAnnealing().backward(terms, [weight]).weights.tolist() == [1.0]
    terms, weight = linear_terms([[2.0, 2.0]] * 3)
    assert LearningRateAnnealing().backward(terms, [weight]).weights.tolist() == [1.0] * 3


def test_resume_is_bit_equal():
    network = small_network()
    whole = LearningRateAnnealing(every=2)
    trained(whole, network, 3)
    copy = small_network()
    copy.load_state_dict(network.state_dict())
    resumed = through_a_file(whole, LearningRateAnnealing(every=2))
    assert torch.equal(trained(whole, network, 4, 3), trained(resumed, copy, 4, 3))


def test_between_refreshes_the_weights_are_held():
    weights = trained(LearningRateAnnealing(every=3), small_network(), 5)
    assert torch.equal(weights[0], weights[2])
    assert torch.equal(weights[3], weights[4])
    assert not torch.equal(weights[2], weights[3])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"alpha": 0.0}, ValueError, "`alpha` must be a number above 0 and of at most 1, got 0.0"),
        ({"alpha": "x"}, TypeError, "`alpha`"),
        ({"ratio": "max"}, ValueError, "`ratio` must be one of 'max_mean', 'mean_mean', 'norm'"),
        ({"denominator": "prose"}, ValueError, "`denominator` must be one of 'weighted'"),
        ({"matrices_only": 1}, TypeError, "`matrices_only` must be True or False, got 1"),
        ({"reference": 0}, TypeError, "`reference` must be the name of a term, got 0"),
        (
            {"reference": "ic", "names": ["pde", "bc"]},
            ValueError,
            r"`reference` must be one of the terms \['pde', 'bc'\], got 'ic'",
        ),
    ],
)
def test_wrong_options(options, error, words):
    with pytest.raises(error, match=words):
        LearningRateAnnealing(**options)


def test_a_reference_that_is_no_term_is_named_at_the_first_step():
    terms, weight = linear_terms([[1.0], [2.0]])
    with pytest.raises(ValueError, match="`reference` must be one of the terms"):
        LearningRateAnnealing(reference="pde").backward(terms, [weight])


def test_no_matrix_among_the_parameters():
    bias = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match="`matrices_only` is True, but none .* parameter 0"):
        LearningRateAnnealing().backward({"pde": bias.sum()}, [bias])


def test_absent_terms_keep_their_weight_and_without_the_reference_all_do():
    network = small_network()
    balancer = LearningRateAnnealing()
    first = balancer.backward(terms_of(network, 0), network).weights.clone()
    balancer.backward(terms_of(network, 1) | {"bc": None}, network)
    second = balancer.weights.clone()
    assert second[1] == first[1]
    assert second[2] != first[2]
    balancer.backward(terms_of(network, 2) | {"pde": None}, network)
    assert torch.equal(balancer.weights, second)
