"""What a call gave is not changed by the next one, whatever memory they work in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tests.terms.architectures import ARCHITECTURES
from tests.terms.test_exactness import batching_is_possible, held
from torch import nn

from lossproof.terms import TermGradients, plan, term_gradients
from lossproof.terms.balance.grad_drop import GradDrop
from lossproof.terms.balance.pcgrad import PCGrad

Tensor = torch.Tensor
MODELS = ("heads_5", "batch_split", "mlp_wider_than_its_batch", "conv2d", "separate_forwards")
EVERYTHING = ("gramian", "norm", "mean", "mean_abs", "max_abs", "gradients")


@pytest.fixture(params=["as planned", "factors", "factors and batches"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "as planned":
        monkeypatch.setattr(plan, "START", -(10**12))
        monkeypatch.setattr(plan, "FEW_ROWS", 0)
    if request.param == "factors and batches":
        monkeypatch.setattr(plan, "FEW_ROWS", 10**6)
        monkeypatch.setattr(plan, "_batching_pays", batching_is_possible)
    return request.param


def facts(figures: TermGradients) -> dict[str, Tensor]:
    """Everything that can be asked, by name."""
    found = {f"combined {name}": one for name, one in figures.combined(_weights(figures)).items()}
    for name, rows in figures.gradient_rows().items():
        found[f"rows {name}"] = rows
    for term, gradients in figures.gradients.items():
        for name, gradient in gradients.items():
            found[f"gradient {term} {name}"] = gradient
    found["gramian"] = figures.gramian
    for statistic in set(figures.known) - {"gramian", "cosine"}:
        found[statistic] = figures.vector(statistic)
    return found


def _weights(figures: TermGradients) -> Tensor:
    return torch.linspace(-1, 2, len(figures.names), dtype=torch.float64)


def copied(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: one.detach().clone() for name, one in found.items()}


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, one in wanted.items():
        assert torch.equal(found[name], one), name


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("want", [("gramian",), EVERYTHING])
def test_figures_stay_when_others_are_computed(name: str, want: tuple[str, ...]) -> None:
    """Of the same model with other numbers, and of another model."""
    case = ARCHITECTURES[name].build()
    figures = held(case, case.params, want)
    given = facts(figures)
    before = copied(given)
    for other in (name, *MODELS):
        later = ARCHITECTURES[other].build()
        scaled = {key: 3.0 * term for key, term in later.terms.items()}
        held(replace(later, terms=scaled), later.params, want)
        term_gradients(scaled, later.params)
    same(given, before)  # the tensors that were handed out
    same(facts(figures), before)  # and what is computed from them now


@pytest.mark.parametrize("method", [PCGrad, GradDrop])
def test_gradients_that_were_filled_stay(method: Callable) -> None:
    kept: list[tuple[Tensor, Tensor]] = []
    for seed in range(4):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
        out = model(torch.randn(5, 4, dtype=torch.float64))
        method().backward({"a": out.square().mean(), "b": out.sin().sum()}, model)
        kept += [(one.grad, one.grad.clone()) for one in model.parameters()]
        assert all(torch.equal(grad, before) for grad, before in kept)


def test_gradients_of_one_model_stay_when_the_user_keeps_them() -> None:
    """``zero_grad`` drops the tensors, but whoever holds one still has its numbers."""
    model = nn.Linear(4, 3).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    balancer, kept = PCGrad(), []
    for _ in range(4):
        out = model(torch.randn(5, 4, dtype=torch.float64))
        optimizer.zero_grad()
        figures = balancer.backward({"a": out.sum(), "b": out.square().mean()}, model)
        kept.append((model.weight.grad, model.weight.grad.clone()))
        kept.append((figures.gradients.gramian, figures.gradients.gramian.clone()))
        optimizer.step()
        assert all(torch.equal(one, before) for one, before in kept)


def test_gradients_are_added_to_those_that_are_there() -> None:
    """Accumulation: what is there is not what the next call works in."""
    model = nn.Linear(4, 3).double()
    batches = torch.randn(3, 5, 4, dtype=torch.float64)
    single = []
    for batch in batches:
        model.zero_grad()
        out = model(batch)
        PCGrad().backward({"a": out.sum(), "b": out.square().mean()}, model)
        single.append(model.weight.grad.clone())
    model.zero_grad()
    for batch in batches:
        out = model(batch)
        PCGrad().backward({"a": out.sum(), "b": out.square().mean()}, model)
    torch.testing.assert_close(model.weight.grad, sum(single))


def test_no_two_gradients_share_memory() -> None:
    """An optimiser or a clipping changes each in place."""
    case = ARCHITECTURES["heads_5"].build()
    PCGrad().backward(case.terms, case.params)
    grads = [one.grad for one in case.params.values()]
    before = [grad.clone() for grad in grads]
    for k, grad in enumerate(grads):
        grad.zero_()
        others = zip(grads[k + 1 :], before[k + 1 :], strict=True)
        assert all(torch.equal(one, was) for one, was in others)


def test_two_threads_at_once() -> None:
    """As with a model on each of two devices, whose steps run side by side."""
    wanted = {name: copied(facts(_measured(name))) for name in MODELS[:2]}
    failures: list[str] = []

    def work(name: str) -> None:
        for _ in range(10):
            found = facts(_measured(name))
            for key, one in wanted[name].items():
                if not torch.allclose(found[key], one, rtol=1e-9, atol=1e-12):
                    failures.append(f"{name}: {key}")

    threads = [threading.Thread(target=work, args=(name,)) for name in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


_LOCK = threading.Lock()


def _measured(name: str) -> TermGradients:
    with _LOCK:  # the seed and the default dtype are global
        case = ARCHITECTURES[name].build()
    return held(case, case.params, ("gramian",))
