"""The gradient of every term is what torch's own backward passes, one per term, give."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from tests.terms.architectures import ARCHITECTURES, Built
from torch.utils.checkpoint import checkpoint

from lossproof.terms import TermGradients, plan, term_gradients, trust
from lossproof.terms.gradients import STATISTICS, computed
from lossproof.terms.graph import Graph, is_single, read_graph
from lossproof.terms.parameters import chosen_parameters
from lossproof.terms.terms import named_terms

Tensor = torch.Tensor

DOUBLE = 1e-12
WANTS = (
    ("gramian",),
    ("norm",),
    ("max_abs",),
    STATISTICS,
    ("gradients",),
    ("gradients", "gramian"),
    ("norm", "gramian"),
    ("mean", "mean_abs", "gradients"),
    (*STATISTICS, "gradients"),
)


@dataclass
class Truth:
    """The gradients by K calls of ``torch.autograd.grad``, each parameter a matrix of K rows."""

    rows: dict[str, Tensor]
    reached: dict[str, list[bool]]
    sizes: Tensor
    """The norm of each term's gradient over all parameters: what errors are measured by."""

    def flat(self, names: Sequence[str]) -> Tensor:
        return torch.cat([_as_matrix(self.rows[name]) for name in names], 1)


def _as_matrix(rows: Tensor) -> Tensor:
    return rows.reshape(rows.shape[0], -1)


def truth(name: str, dtype: torch.dtype) -> Truth:
    """Differentiate a second, identical graph term by term."""
    case = ARCHITECTURES[name].build(dtype)
    own = {name: one for name, one in case.params.items() if one.requires_grad}
    rows: dict[str, list[Tensor]] = {name: [] for name in own}
    reached: dict[str, list[bool]] = {name: [] for name in own}
    for term in case.terms.values():
        slopes: Sequence[Tensor | None] = [None] * len(own)
        if term.requires_grad:
            slopes = torch.autograd.grad(
                term, list(own.values()), retain_graph=True, allow_unused=True
            )
        for (key, tensor), slope in zip(own.items(), slopes, strict=True):
            reached[key].append(slope is not None)
            dense = torch.zeros_like(tensor) if slope is None else slope.to_dense()
            rows[key].append(dense.double())
    stacked = {key: torch.stack(list_of) for key, list_of in rows.items()}
    norms = torch.cat([_as_matrix(one) for one in stacked.values()], 1).norm(dim=1)
    largest = norms.max().clamp_min(torch.finfo(dtype).tiny)
    return Truth(stacked, reached, torch.where(norms > 0, norms, largest))


def subsets(case: Built) -> list[dict[str, Tensor]]:
    """All parameters, the first that can be trained, every second one, and all but the first."""
    free = [name for name, one in case.params.items() if one.requires_grad]
    some = [{name: case.params[name] for name in part} for part in (free[:1], free[1::2], free[1:])]
    return [case.params, *(part for part in some if part)]


def close(found: Tensor, wanted: Tensor, scale: Tensor | float, rtol: float) -> None:
    """No entry is further away than ``rtol`` of the scale."""
    assert found.shape == wanted.shape
    found = found.to_dense() if found.is_sparse else found  # as autograd's own may be
    excess = (found.double() - wanted).abs() - rtol * torch.as_tensor(scale)
    assert bool((excess <= 0).all()), f"off by up to {float((found - wanted).abs().max()):.3e}"


def compare_statistics(figures: TermGradients, true: Truth, want: Sequence[str], rtol: float):
    flat = true.flat(figures.parameters)
    length = flat.shape[1]
    truths = {
        "norm": lambda rows: rows.norm(dim=1),
        "mean": lambda rows: rows.mean(1),
        "mean_abs": lambda rows: rows.abs().mean(1),
        "max_abs": lambda rows: rows.abs().amax(1),
    }
    for statistic in set(want) & set(truths):
        # A norm is the root of a sum of squares: it is the square that is exact.
        power = 2 if statistic == "norm" else 1
        scale = true.sizes**power
        if statistic.startswith("mean"):
            scale = scale / length**0.5
        close(figures.vector(statistic) ** power, truths[statistic](flat) ** power, scale, rtol)
        table = figures.by_parameter(statistic)
        assert table.shape == (len(figures.parameters), len(figures.names))
        for row, name in zip(table, figures.parameters, strict=True):
            of_one = truths[statistic](_as_matrix(true.rows[name]))
            close(row**power, of_one**power, true.sizes**power, rtol)


def compare(figures: TermGradients, true: Truth, want: Sequence[str], rtol: float) -> None:
    compare_statistics(figures, true, want, rtol)
    flat = true.flat(figures.parameters)
    if "gramian" in want:
        pairs = true.sizes[:, None] * true.sizes
        close(figures.gramian, flat @ flat.T, pairs, rtol)
    if "cosine" in want:
        norms = flat.norm(dim=1)
        sure = norms > 1e-3 * true.sizes
        safe = torch.where(norms > 0, norms, 1.0)
        cosine = (flat @ flat.T) / safe[:, None] / safe
        close(figures.cosine[sure][:, sure], cosine[sure][:, sure], 1e6, rtol)
    if "gradients" in want:
        compare_rows(figures, true, rtol)


def compare_rows(figures: TermGradients, true: Truth, rtol: float) -> None:
    stacked, single = figures.gradient_rows(), figures.gradients
    for name in figures.parameters:
        wanted = true.rows[name]
        if not any(true.reached[name]) and name not in stacked:
            continue
        scale = true.sizes.view(-1, *[1] * (wanted.dim() - 1))
        close(stacked[name], wanted, scale, rtol)
        for k, term in enumerate(figures.names):
            found = single[term].get(name)
            if found is None:
                assert not wanted[k].any()
            else:
                close(found, wanted[k], true.sizes[k], rtol)


def compare_combined(figures: TermGradients, true: Truth, rtol: float) -> None:
    count = len(figures.names)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(count, generator=generator, dtype=torch.float64)
    for chosen in (weights, torch.ones(count), torch.eye(count)[0]):
        found = figures.combined(chosen)
        scale = (chosen.double().abs() * true.sizes).sum()
        for name in figures.parameters:
            wanted = torch.tensordot(chosen.double(), true.rows[name], 1)
            if name not in found:
                assert not any(true.reached[name])
                continue
            close(found[name], wanted, scale, rtol)


def compare_reach(figures: TermGradients, true: Truth) -> None:
    reached = {name: true.reached[name] for name in figures.parameters}
    assert figures.unused == tuple(name for name, by in reached.items() if not any(by))
    for k, term in enumerate(figures.names):
        missing = tuple(name for name, by in reached.items() if not by[k])
        assert figures.unreached[term] == missing
        assert (term in figures.constant) == (len(missing) == len(reached))


@pytest.fixture(autouse=True)
def nothing_was_tried_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shortcut that was tried on one model is taken untried on the next that looks like it."""
    monkeypatch.setattr(trust, "_verdicts", OrderedDict())


TRUTHS: dict[str, Truth] = {}


def true_in_double(name: str) -> Truth:
    """The truth in float64, computed once for all tests."""
    if name not in TRUTHS:
        TRUTHS[name] = truth(name, torch.float64)
    return TRUTHS[name]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_figures_are_those_of_one_pass_per_term(name: str) -> None:
    true, case = true_in_double(name), ARCHITECTURES[name].build()
    parts = subsets(case)
    asked = [(want, case.params) for want in WANTS]
    asked += [(WANTS[turn % len(WANTS)], part) for turn, part in enumerate(parts[1:], len(name))]
    for want, params in asked:
        figures = term_gradients(case.terms, params, want=want)
        assert figures.names == tuple(case.terms)
        free = tuple(key for key, one in params.items() if one.requires_grad)
        assert figures.parameters == free
        compare(figures, true, want, DOUBLE)
        if "gradients" in want:
            compare_combined(figures, true, DOUBLE)
        if not ARCHITECTURES[name].reach_is_vague:
            compare_reach(figures, true)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_a_step_holds_combines_to_the_weighted_sum(name: str) -> None:
    """A balancer holds the gradients in whatever form is cheap, for the sum in ``.grad``."""
    true, case = true_in_double(name), ARCHITECTURES[name].build()
    for params in subsets(case):
        figures = held(case, params, ("gramian",))
        compare(figures, true, ("gramian",), DOUBLE)
        compare_combined(figures, true, DOUBLE)
    for want in (("norm",), (*STATISTICS, "gradients")):
        figures = held(case, case.params, want)
        compare(figures, true, want, DOUBLE)
        compare_combined(figures, true, DOUBLE)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_cheapest_way_is_no_other_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On models this small nothing would stay in factors, and few would be batched."""
    monkeypatch.setattr(plan, "START", -(10**12))
    monkeypatch.setattr(plan, "FEW_ROWS", 0)
    true, case = true_in_double(name), ARCHITECTURES[name].build()
    parts = subsets(case)
    as_planned_or_batched(case, parts, true)
    if batching_is_possible(read_graph(list(case.terms.values()))):
        monkeypatch.setattr(plan, "FEW_ROWS", 10**6)
        monkeypatch.setattr(plan, "_batching_pays", batching_is_possible)
        as_planned_or_batched(case, parts, true)


def as_planned_or_batched(case: Built, parts: Sequence[dict[str, Tensor]], true: Truth) -> None:
    for params in parts:
        figures = held(case, params, ("gramian",))
        compare(figures, true, ("gramian",), DOUBLE)
        compare_combined(figures, true, DOUBLE)
    compare_rows(held(case, case.params, ("gramian",)), true, DOUBLE)
    figures = term_gradients(case.terms, case.params, want=STATISTICS)
    compare(figures, true, STATISTICS, DOUBLE)
    figures = term_gradients(case.terms, case.params, want=("norm", "mean"))
    compare(figures, true, ("norm", "mean"), DOUBLE)


def batching_is_possible(graph: Graph, *_: object) -> bool:
    """Whether the nodes that all terms share can take the cotangents of all at once."""
    everyone = graph.everyone
    names = {node.name() for node in graph.order if graph.masks[node] == everyone}
    return not is_single(everyone) and names <= plan._BATCHABLE


def held(
    case: Built, params: object, want: Sequence[str], *, retain_graph: bool = True
) -> TermGradients:
    """What ``Balancer.backward`` computes."""
    return computed(
        named_terms(case.terms),
        chosen_parameters(params),
        want,
        hold=True,
        retain_graph=retain_graph,
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_single_precision(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a graph that need not be usable afterwards."""
    true, allowed = truth(name, torch.float32), ARCHITECTURES[name].single
    case = ARCHITECTURES[name].build(torch.float32)
    everything = (*STATISTICS, "gradients")
    figures = held(case, case.params, everything)
    compare(figures, true, everything, allowed)
    monkeypatch.setattr(plan, "START", -(10**12))
    figures = held(case, case.params, ("gramian",), retain_graph=False)
    compare(figures, true, ("gramian",), allowed)
    compare_combined(figures, true, allowed)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_graph_is_as_it_was(name: str) -> None:
    true, case = true_in_double(name), ARCHITECTURES[name].build()
    own = [one for one in case.params.values() if one.requires_grad]
    held = torch.zeros_like(own[0])
    own[0].grad = held
    before = [one.detach().clone() for one in (*case.inputs, *case.params.values())]
    buffers = [one.clone() for one in (case.module.buffers() if case.module else ())]
    random = torch.random.get_rng_state()

    for want in (("gramian",), (*STATISTICS, "gradients")):
        term_gradients(case.terms, case.params, want=want)

    assert torch.equal(random, torch.random.get_rng_state())
    after = [one.detach() for one in (*case.inputs, *case.params.values())]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    now = list(case.module.buffers()) if case.module else []
    assert all(torch.equal(old, new) for old, new in zip(buffers, now, strict=True))
    assert own[0].grad is held
    assert not held.any()
    assert all(one.grad is None for one in own[1:])
    assert all(one.grad is None for one in case.inputs if one is not own[0])

    own[0].grad = None
    backward_is_right(case, true, twice=name not in NONLINEAR)


def backward_is_right(case: Built, true: Truth, *, twice: bool) -> None:
    """Each term's own backward pass fills ``.grad`` with what it should be."""
    factor = 2.0 if twice else 1.0
    for term in case.terms.values():
        if term.requires_grad:
            (factor * term).backward(retain_graph=True)
    scale = 2 * factor * true.sizes.sum()
    for key, rows in true.rows.items():
        grad = case.params[key].grad
        found = torch.zeros_like(rows[0]) if grad is None else grad.to_dense()
        close(found, factor * rows.sum(0), scale, DOUBLE)


NONLINEAR = {
    "function_Clipped",
    "hook_clamps_features",
    "hook_clamps_weight",
    "hook_normalises_features",
    "hook_on_the_output_of_a_layer",
    "hook_two_on_one",
}
"""Their backward is no linear map: the gradient of twice a term is not twice its gradient."""


@pytest.mark.parametrize("name", ["heads_5", "batch_split", "separate_forwards", "residual"])
def test_two_calls_on_one_graph_give_the_same(name: str) -> None:
    case = ARCHITECTURES[name].build()
    first = term_gradients(case.terms, case.params)
    second = term_gradients(case.terms, case.params)
    assert torch.equal(first.gramian, second.gramian)
    assert torch.equal(first.vector("norm"), second.vector("norm"))


def test_what_is_frozen_is_named() -> None:
    case = ARCHITECTURES["unused_and_frozen"].build()
    figures = term_gradients(case.terms, case.params)
    assert figures.frozen == ("frozen.weight", "frozen.bias")
    assert figures.unused == ("unused.weight", "unused.bias")


def test_a_checkpoint_that_hides_its_parameters_is_refused() -> None:
    """With ``use_reentrant=True`` the graph of a block is unknown before its backward runs."""
    layer, head = torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)
    x = torch.randn(3, 4, requires_grad=True)
    out = head(checkpoint(layer, x, use_reentrant=True))
    with pytest.raises((ValueError, RuntimeError), match="use_reentrant"):
        term_gradients({"a": out.sum(), "b": out.square().sum()}, [layer, head])


def test_there_are_many_architectures() -> None:
    assert len(ARCHITECTURES) > 36
