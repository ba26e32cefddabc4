"""What autograd's graph does not show must not make a gradient wrong."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

import pytest
import torch
from tests.terms.architectures import ARCHITECTURES
from tests.terms.test_exactness import (
    DOUBLE,
    batching_is_possible,
    compare,
    compare_combined,
    held,
    subsets,
    true_in_double,
)
from torch import nn

from lossproof.terms import engine, plan, term_gradients, trust

Tensor = torch.Tensor
Hook = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True)
def nothing_was_tried_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shortcut that was tried on one model is taken untried on the next that looks like it."""
    monkeypatch.setattr(trust, "_verdicts", OrderedDict())


@pytest.fixture(params=["as planned", "factors", "factors and batches"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The plan that is the cheapest for these models, and those for larger ones."""
    if request.param != "as planned":
        monkeypatch.setattr(plan, "START", -(10**12))
        monkeypatch.setattr(plan, "FEW_ROWS", 0)
    if request.param == "factors and batches":
        monkeypatch.setattr(plan, "FEW_ROWS", 10**6)
        monkeypatch.setattr(plan, "_batching_pays", batching_is_possible)
    return request.param


def gramian_one_by_one(terms: Mapping[str, Tensor], model: nn.Module) -> Tensor:
    rows = []
    for term in terms.values():
        slopes = torch.autograd.grad(
            term, list(model.parameters()), retain_graph=True, allow_unused=True
        )
        parts = [
            torch.zeros_like(parameter) if slope is None else slope
            for slope, parameter in zip(slopes, model.parameters(), strict=True)
        ]
        rows.append(torch.cat([part.flatten() for part in parts]))
    matrix = torch.stack(rows)
    return matrix @ matrix.T


def check(terms: Mapping[str, Tensor], model: nn.Module) -> None:
    wanted = gramian_one_by_one(terms, model)
    found = term_gradients(terms, model, want=("gramian",)).gramian
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12 * float(wanted.abs().max()))


VISIBLE = [name for name in ARCHITECTURES if not name.startswith(("hook_", "checkpoint"))]


@pytest.mark.parametrize("name", VISIBLE)
def test_what_is_read_from_the_graph_is_right_without_a_trial(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shortcut is tried when it is first taken; that must be needed for hidden facts alone."""
    monkeypatch.setattr(engine, "verdict_on", lambda structure: True)
    monkeypatch.setattr(plan, "START", -(10**12))
    true, case = true_in_double(name), ARCHITECTURES[name].build()
    for params in subsets(case)[:2]:
        figures = held(case, params, ("gramian",))
        compare(figures, true, ("gramian",), DOUBLE)
        compare_combined(figures, true, DOUBLE)


class Trunk:
    """A trunk, terms on parts of its batch or on heads, and a hook on the features."""

    def __init__(self, hook: Hook | None, *, by_rows: bool, first_is_zero: bool = False) -> None:
        torch.manual_seed(0)
        x = torch.randn(9, 4, dtype=torch.float64)
        self.model = nn.ModuleDict(
            {"trunk": nn.Linear(4, 5), "a": nn.Linear(5, 2), "b": nn.Linear(5, 2)}
        ).double()
        features = self.model["trunk"](x).tanh()
        if hook is not None:
            features.register_hook(hook)
        if by_rows:
            first, second = self.model["a"](features).split([4, 5])
        else:
            first, second = self.model["a"](features), self.model["b"](features)
        factor = 0.0 if first_is_zero else 1.0
        self.terms = {"first": factor * first.square().mean(), "second": second.sin().sum()}


def mixes_rows(gradient: Tensor) -> Tensor:
    return gradient - gradient.mean(0)


def clamps(gradient: Tensor) -> Tensor:
    return gradient.clamp(-1e-2, 1e-2)


def looks_at_numbers(gradient: Tensor) -> Tensor:
    """As a user's clipping does: it cannot run on the gradients of all terms at once."""
    return gradient / 2 if float(gradient.abs().max()) > 1e-9 else gradient


@pytest.mark.parametrize("hook", [mixes_rows, clamps, looks_at_numbers])
@pytest.mark.parametrize("by_rows", [False, True])
@pytest.mark.parametrize("first_is_zero", [False, True])
def test_hooks_on_features(way: str, hook: Hook, by_rows: bool, first_is_zero: bool) -> None:
    """Also where the first term, with which one might try, has a gradient of zero."""
    case = Trunk(hook, by_rows=by_rows, first_is_zero=first_is_zero)
    check(case.terms, case.model)


def test_a_hook_on_the_node_of_a_layer_that_the_first_term_does_not_reach(way: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 4, dtype=torch.float64)
    model = nn.ModuleDict({"a": nn.Linear(4, 3), "b": nn.Linear(4, 3)}).double()
    first, other = model["a"](x), model["b"](x)
    other.grad_fn.register_prehook(lambda gradients: tuple(3 * one for one in gradients))
    check({"a": first.sum(), "b": other.square().sum(), "c": other.sin().sum()}, model)


def test_a_hook_that_cannot_run_on_all_terms_at_once_comes_after_one_that_can(way: str) -> None:
    """The second graph looks like the first, whose terms went through the trunk together."""
    for hook in (None, looks_at_numbers):
        case = Trunk(hook, by_rows=False)
        check(case.terms, case.model)


NAN = (
    "batch_concatenated",
    "batch_slices",
    "batch_split",
    "batch_split_then_heads",
    "batch_through_layernorm",
    "conv2d",
    "disjoint_networks",
    "embedding_sparse",
    "GRU",
    "heads_5",
    "losses_of_one_output_5",
    "module_used_twice",
    "separate_forwards",
    "terms_at_every_depth",
)


@pytest.mark.parametrize("name", NAN)
@pytest.mark.parametrize("position", [0, -1])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_term_that_is_not_finite_leaves_the_others_alone(
    way: str, name: str, position: int, value: float
) -> None:
    case = ARCHITECTURES[name].build()
    figures = term_gradients(case.terms, case.params, want=("gramian", "norm", "mean"))
    wrong = list(case.terms)[position]
    terms = {key: term * value if key == wrong else term for key, term in case.terms.items()}
    found = term_gradients(terms, case.params, want=("gramian", "norm", "mean"))
    assert found.nonfinite == (wrong,)
    others = [k for k, key in enumerate(terms) if key != wrong]
    for got, wanted in (
        (found.gramian[others][:, others], figures.gramian[others][:, others]),
        (found.vector("norm")[others], figures.vector("norm")[others]),
        (found.vector("mean")[others], figures.vector("mean")[others]),
    ):
        scale = float(wanted.abs().max())
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12 * scale)
