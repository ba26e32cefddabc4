"""What holds for every method, whatever its formula: one table of who claims what, walked over."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.terms.balance.every_balancer import NAMES, SPECIAL, Problem, make
from tests.terms.balance.jacobians import SEEDS, conflict, jacobian

from lossproof.terms import TermGradients, balancers
from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.samples import SampledBalancer

ENTRIES = {entry.name: entry for entry in balancers() if entry.kind != "adapter"}
FROM_FIGURES = sorted(
    name for name, entry in ENTRIES.items() if entry.kind in ("gramian", "statistics")
)
IN_UNITS = {
    "MoDo": "has the unit of one over a squared gradient",
    "SoftAdapt": "the slopes are in the units of the values",
    "STCH": "compares values as they are",
    "CausalWeighting": "has the unit of one over the loss",
}
"""The methods for which the unit of the terms matters, and how their docstrings say so."""
BY_POSITION = {
    "RLW": "weights are drawn for one term after the other",
    "PCGrad": "an order of the others is drawn for one term after the other",
    "GradVac": "an order of the others is drawn for one term after the other",
    **dict.fromkeys(SPECIAL.keys() - {"DWA"}, "what is made here takes terms by their positions"),
}
"""Where the same is drawn, or given, for the first term, whichever that is."""
CONFLICT_FREE = ("DualProj", "FairGrad", "MGDA", "NashMTL", "UPGrad")
"""None opposes a term, whatever the gradients."""
CONFLICT_FREE_IF_INDEPENDENT = ("ConFIG",)
OF_TWO = ("PCGrad", "GradVac")
"""Conflict-free for two terms."""
DTYPES = st.sampled_from([torch.float64, torch.float32, torch.bfloat16])
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 1e-2}
in_both = pytest.mark.parametrize("dtype", ROUNDING, ids=["float32", "bfloat16"])
every_method = pytest.mark.parametrize("name", sorted(ENTRIES))


def made(name: str, names: Sequence[str] = NAMES) -> Balancer:
    """A balancer for which the first of the terms is nothing special, nor are matrices."""
    method, options = ENTRIES[name].balancer, inspect.signature(ENTRIES[name].balancer).parameters
    if "reference" not in options:
        return make(name, names)
    special = {"matrices_only": False} if "matrices_only" in options else {}
    return method(names, reference="pde" if "pde" in names else names[-1], **special)


def gradients(
    name: str, seed: int, count: int, dtype: torch.dtype, independent: bool
) -> torch.Tensor:
    """A row for each term, or for each of its samples."""
    balancer = ENTRIES[name].balancer
    samples = made(name).samples if issubclass(balancer, SampledBalancer) else 1
    size = 3 * count * samples + 2 if independent else None
    return torch.from_numpy(jacobian(seed, count * samples, size, spread=1.0)).to(dtype)


def figures(
    balancer: Balancer, matrix: torch.Tensor, places: Sequence[int] | None = None
) -> TermGradients:
    at = range(len(matrix)) if places is None else places
    values = torch.linspace(1.0, 2.0, len(matrix))[list(at)]
    return TermGradients.from_matrix(matrix[list(at)], names=balancer.names, values=values)


@torch.no_grad()
def weights_of(
    balancer: Balancer, matrix: torch.Tensor, places: Sequence[int] | None = None
) -> torch.Tensor:
    return balancer.weights_of(figures(balancer, matrix, places))


def assert_same_step(matrix: torch.Tensor, found: torch.Tensor, wanted: torch.Tensor) -> None:
    """The same combination, up to its length and to what is left of gradients that cancel.

    Where gradients depend on each other the weights themselves may be others.
    """
    rows = matrix.double()
    steps = []
    for weights in (found, wanted):
        assert weights.isfinite().all()
        size = float((weights.abs() * rows.norm(dim=1)).sum())
        steps.append(weights @ rows / (size or 1.0))
    torch.testing.assert_close(*steps, rtol=0, atol=1e-6)


def test_the_tables_name_methods() -> None:
    tables = (IN_UNITS, BY_POSITION, CONFLICT_FREE, CONFLICT_FREE_IF_INDEPENDENT, OF_TWO)
    assert {name for table in tables for name in table} <= ENTRIES.keys()


@pytest.mark.parametrize("name", IN_UNITS)
def test_whose_unit_matters_says_so(name: str) -> None:
    assert IN_UNITS[name] in " ".join(ENTRIES[name].doc.split())


@pytest.mark.parametrize("name", [name for name in FROM_FIGURES if name not in IN_UNITS])
@settings(max_examples=12, deadline=None)
@given(SEEDS, st.sampled_from([1, 2, 3, 5, 8]), st.integers(-66, 66), DTYPES, st.booleans())
def test_from_1e_20_to_1e_20_the_direction_is_the_same(
    name: str, seed: int, count: int, power: int, dtype: torch.dtype, wide: bool
) -> None:
    """Powers of two change no digit of the gradients, so that nothing but the scale changes."""
    names = [f"t{k}" for k in range(count)]
    matrix = gradients(name, seed, count, dtype, wide)
    one, other = made(name, names), made(name, names)
    for _ in range(2):
        wanted = weights_of(one, matrix)
        found = weights_of(other, matrix * 2.0**power)
        assert_same_step(matrix, found, wanted)
        if wide:
            torch.testing.assert_close(
                found / found.abs().max(), wanted / wanted.abs().max(), rtol=1e-5, atol=1e-8
            )


@pytest.mark.parametrize("name", [name for name in FROM_FIGURES if name not in BY_POSITION])
@settings(max_examples=12, deadline=None)
@given(SEEDS, st.permutations(range(4)), DTYPES, st.booleans())
def test_permuting_the_terms_permutes_the_weights(
    name: str, seed: int, order: list[int], dtype: torch.dtype, wide: bool
) -> None:
    names = ["a", "b", "c", "pde"]
    one, other = made(name, names), made(name, [names[k] for k in order])
    matrix = gradients(name, seed, 4, dtype, wide)
    places = [one.names.index(each) for each in other.names]
    wanted = weights_of(one, matrix)
    found = weights_of(other, matrix, places)
    if wide:
        torch.testing.assert_close(found, wanted[places], rtol=1e-5, atol=1e-8)
    assert_same_step(matrix, found[torch.tensor(places).argsort()], wanted)


@pytest.mark.parametrize("name", [*CONFLICT_FREE, *CONFLICT_FREE_IF_INDEPENDENT, *OF_TWO])
@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from([2, 3, 5, 8]), st.integers(-50, 50), DTYPES)
def test_no_term_is_opposed(
    name: str, seed: int, count: int, power: int, dtype: torch.dtype
) -> None:
    """To the rounding of what cancels, in every precision of the gradients."""
    count = 2 if name in OF_TWO else count
    balancer = made(name, [f"t{k}" for k in range(count)])
    independent = name in CONFLICT_FREE_IF_INDEPENDENT
    matrix = gradients(name, seed, count, dtype, independent) * 2.0**power
    weights = weights_of(balancer, matrix).numpy()
    assert conflict(matrix.double().numpy() * 2.0**-power, weights) <= 1e-6


def problem_of(balancer: Balancer, dtype: torch.dtype, seed: int = 0) -> Problem:
    problem = Problem(balancer, seed)
    problem.model.to(dtype)
    problem.x, problem.y = problem.x.to(dtype), problem.y.to(dtype)
    return problem


def direction(
    balancer: Balancer, problem: Problem, step: int, scale: float = 1.0
) -> tuple[torch.Tensor, dict[str, float]]:
    """Where the filled gradient points with all terms multiplied by a number, and the weights."""
    problem.model.zero_grad()
    terms = problem.terms(step)
    factor = scale if problem.scalar or problem.samples else scale**0.5
    for each in terms:
        terms = problem.changed(terms, each, lambda term: term * factor)
    told = balancer.backward(terms, problem.model)
    filled = torch.cat([one.grad.double().flatten() for one in problem.model.parameters()])
    assert told.weights.isfinite().all() and filled.isfinite().all() and filled.any()
    return filled / filled.norm(), dict(zip(told.names, told.weights.tolist(), strict=True))


@every_method
@in_both
def test_training_goes_the_same_way_whatever_the_unit(name: str, dtype: torch.dtype) -> None:
    """A network, through ``backward``, over some steps, in units from 1e-20 to 1e+20."""
    wanted: list[torch.Tensor] = []
    for power in (0,) if name in IN_UNITS else (0, -66, 66):
        balancer = made(name)
        problem = problem_of(balancer, dtype)
        for step in range(3):
            found, _ = direction(balancer, problem, step, 2.0**power)
            if power == 0:
                wanted.append(found)
            torch.testing.assert_close(found, wanted[step], rtol=0, atol=ROUNDING[dtype])


@pytest.mark.parametrize("name", sorted(ENTRIES.keys() - BY_POSITION.keys()))
def test_the_order_of_the_names_does_not_matter(name: str) -> None:
    one, other = made(name), made(name, NAMES[::-1])
    for step in range(3):
        wanted, weights = direction(one, problem_of(one, torch.float32), step)
        found, permuted = direction(other, problem_of(other, torch.float32), step)
        assert permuted == pytest.approx(weights, rel=1e-5)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CONFLICT_FREE)
@in_both
def test_the_step_of_a_network_opposes_no_term(name: str, dtype: torch.dtype) -> None:
    """The gradient that is filled, in the dtype of the parameters, beside that of each term."""
    for seed in range(4):
        balancer = made(name)
        problem = problem_of(balancer, dtype, seed)
        trunk, terms = list(problem.trunk.parameters()), problem.terms(0)
        rows = [torch.autograd.grad(term, trunk, retain_graph=True) for term in terms.values()]
        matrix = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows]).double()
        weights = balancer.backward(terms, trunk).weights
        step = torch.cat([parameter.grad.flatten() for parameter in trunk]).double()
        lengths = matrix.norm(dim=1)
        cancelled = (weights * lengths).sum()
        assert ((matrix @ step) / lengths >= -ROUNDING[dtype] * cancelled).all()
