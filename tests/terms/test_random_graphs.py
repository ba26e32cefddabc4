"""Random graphs: whatever they are made of, the gradients are those of one pass for each term."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from tests.terms.test_exactness import batching_is_possible
from torch import nn
from torch.nn import functional as F

from lossproof.terms import engine, plan, trust
from lossproof.terms.gradients import computed
from lossproof.terms.parameters import chosen_parameters
from lossproof.terms.terms import named_terms

Tensor = torch.Tensor
WIDTH = 4
GRAPHS = 60
"""In each of the ways: a few seconds. Some thousands were run when the engine was written."""


class RandomGraph:
    """A batch that goes through random operations, and terms that read what comes out of them.

    Every state is a matrix of a few rows and ``WIDTH`` columns, so that any may follow any.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        torch.manual_seed(seed)
        self.parameters = nn.ParameterList()
        self.layers = [nn.Linear(WIDTH, WIDTH).double() for _ in range(3)]
        self.rows = self.random.choice([1, 4, 6, 8])
        x = torch.randn(self.rows, WIDTH, dtype=torch.float64)
        states = [self.layer(x.requires_grad_(self.random.random() < 0.2))]
        for _ in range(self.random.randint(0, 5)):
            states.append(self.step(self.random.choice(states[-2:])))
        if self.random.random() < 0.5:  # terms on rows or heads of the last state alone
            states = states[-1:]
        self.terms = self.read(states)
        self.params = {
            f"{n}.{name}": one
            for n, layer in enumerate(self.layers)
            for name, one in layer.named_parameters()
        }
        self.params |= {f"own{n}": one for n, one in enumerate(self.parameters)}

    def own(self, *shape: int) -> Tensor:
        self.parameters.append(nn.Parameter(torch.randn(*shape, dtype=torch.float64)))
        return self.parameters[-1]

    def layer(self, x: Tensor) -> Tensor:
        return self.random.choice(self.layers)(x)

    def step(self, x: Tensor) -> Tensor:
        rows = len(x)
        choices: list[Callable[[], Tensor]] = [
            lambda: self.layer(x),
            lambda: self.layer(x).tanh() + x,
            lambda: F.gelu(x) * 2 - 1,
            lambda: x * x.sigmoid(),
            lambda: F.layer_norm(x, (WIDTH,), self.own(WIDTH), self.own(WIDTH)),
            lambda: F.batch_norm(x, None, None, self.own(WIDTH), training=True) if rows > 1 else x,
            lambda: x.view(rows, 2, 2).transpose(1, 2).reshape(rows, WIDTH),
            lambda: x.flip(0),
            lambda: x.T.reshape(rows, WIDTH) if self.random.random() < 0.5 else x.T.contiguous().T,
            lambda: torch.cat([x[:, 2:], x[:, :2]], 1),
            lambda: torch.cat(x.split(max(rows // 2, 1))[::-1]),
            lambda: F.linear(x, self.layers[0].weight.T),
            lambda: x @ self.own(WIDTH, WIDTH),
            lambda: torch.addmm(x, x, self.own(WIDTH, WIDTH), beta=0.5, alpha=-2.0),
            lambda: torch.addmm(x.mean(int(rows == WIDTH)), x, self.own(WIDTH, WIDTH)),
            lambda: (self.own(rows, rows) @ x).sin(),
            lambda: x.softmax(self.random.choice([0, 1])) + x,
            lambda: x.view(rows, 2, 2).bmm(x.view(rows, 2, 2)).reshape(rows, WIDTH).tanh(),
            lambda: F.scaled_dot_product_attention(*[x.view(-1, 2, 2)] * 3).reshape(rows, WIDTH),
            lambda: self.layer(x.view(1, rows, WIDTH)).view(rows, WIDTH),
            lambda: self.layer(x.repeat_interleave(2, 0)).view(rows, 2, WIDTH).mean(1),
            lambda: self.layer(x.repeat(2, 1)).view(2, rows, WIDTH).mean(0),
            lambda: x.masked_fill(x > 1, 0.0),
            lambda: x.clone().mul_(2).relu_(),
            lambda: x - x.mean(self.random.choice([0, 1]), keepdim=True),
            lambda: x[torch.randperm(rows)],
            lambda: x.to(torch.complex128).exp().real.clamp(-3, 3),
            lambda: x.expand(2, rows, WIDTH).sum(0),
        ]
        return self.random.choice(choices)()

    def read(self, states: list[Tensor]) -> dict[str, Tensor]:
        draw, rows = self.random, self.rows
        count = draw.choice([1, 2, 2, 3, 4, 7])
        reductions = [torch.sum, torch.mean, lambda one: one.square().mean(), torch.Tensor.norm]
        cuts = sorted(draw.choices(range(rows + 1), k=count - 1))
        ends = list(zip([0, *cuts], [*cuts, rows], strict=True))
        by_rows, parts = draw.random() < 0.5, states[-1].split([b - a for a, b in ends])
        sliced, each = draw.random() < 0.5, draw.random() < 0.3
        terms = {}
        for k, (start, end) in enumerate(ends):
            if by_rows and each:
                state = states[-1].unbind()[k % rows] if sliced else states[-1][k::count]
            elif by_rows:
                state = states[-1][start:end] if sliced else parts[k]
            else:
                state = draw.choice(states)
            for _ in range(draw.choice([0, 0, 1, 2])):
                state = F.linear(state, self.own(WIDTH, WIDTH), self.own(WIDTH)).tanh()
            part = draw.choice(reductions)(state + 0.1)
            terms[f"term {k}"] = part
        return self.changed(terms)

    def changed(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """What real losses hold besides: penalties, sums of others, constants, doubles, zeros."""
        draw, names = self.random, list(terms)
        if draw.random() < 0.15:
            terms["penalty"] = draw.choice(self.layers).weight.square().sum()
        if draw.random() < 0.15:
            terms[names[0]] = terms[names[0]] + terms[names[-1]].sin()
        if draw.random() < 0.1:
            terms["constant"] = torch.ones((), dtype=torch.float64)
        if draw.random() < 0.1:
            terms["again"] = terms[names[-1]]
        if draw.random() < 0.1:
            terms[names[0]] = 0.0 * terms[names[0]]
        return terms


def rows_of(graph: RandomGraph) -> Tensor:
    """The gradients by one call of ``torch.autograd.grad`` for each term."""
    rows, chosen = [], list(graph.params.values())
    for term in graph.terms.values():
        found: tuple[Tensor | None, ...] = (None,) * len(chosen)
        if term.requires_grad:
            found = torch.autograd.grad(term, chosen, retain_graph=True, allow_unused=True)
        parts = [
            torch.zeros_like(one) if part is None else part
            for one, part in zip(chosen, found, strict=True)
        ]
        rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows)


def same(found: Tensor, wanted: Tensor, what: str, scale: float | None = None) -> None:
    scale = float(wanted.abs().max()) + 1e-300 if scale is None else scale
    torch.testing.assert_close(
        found, wanted, rtol=0.0, atol=1e-10 * scale, equal_nan=True, msg=lambda text: what + text
    )


def check(seed: int, *, retain_graph: bool) -> None:
    graph = RandomGraph(seed)
    rows = rows_of(graph)
    wants = [("gramian",), ("norm", "mean"), ("norm", "mean", "mean_abs", "max_abs", "gradients")]
    for want in wants[: 3 if retain_graph else 1]:
        what = f"seed {seed}, want {want}: "
        figures = computed(
            named_terms(graph.terms),
            chosen_parameters(graph.params),
            want,
            hold=True,
            retain_graph=retain_graph,
        )
        weights = torch.randn(len(rows), dtype=torch.float64)
        combined = figures.combined(weights)
        flat = [
            combined.get(name, torch.zeros_like(one)).flatten()
            for name, one in graph.params.items()
        ]
        scale = rows.abs().max() + 1e-300
        same(torch.cat(flat) / scale, weights @ rows / scale, what)
        truths = {
            "norm": rows.square().sum(1),
            "mean": rows.mean(1),
            "mean_abs": rows.abs().mean(1),
            "max_abs": rows.abs().amax(1),
        }
        for one in set(want) & set(truths):
            found = figures.vector(one)
            size = float(rows.abs().max()) + 1e-300  # a mean may be of numbers that cancel
            power = 2 if one == "norm" else 1
            same(found**power, truths[one], what + one, size**power)
        if "gramian" in want:
            same(figures.gramian, rows @ rows.T, what)
        if "gradients" in want:
            whole = figures.gradient_rows()
            flat = [
                whole.get(name, torch.zeros(len(rows), *one.shape)).flatten(1)
                for name, one in graph.params.items()
            ]
            same(torch.cat(flat, 1), rows, what)


@pytest.fixture(params=["as planned", "factors", "factors and batches"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The plan that is the cheapest for graphs this small, and those for larger ones.

    No shortcut is tried beside a plain pass first: what is read from the graph must be right.
    """
    monkeypatch.setattr(engine, "verdict_on", lambda structure: True)
    monkeypatch.setattr(trust, "_verdicts", OrderedDict())
    if request.param != "as planned":
        monkeypatch.setattr(plan, "START", -(10**12))
        monkeypatch.setattr(plan, "FEW_ROWS", 0)
    if request.param == "factors and batches":
        monkeypatch.setattr(plan, "FEW_ROWS", 10**6)
        monkeypatch.setattr(plan, "_batching_pays", batching_is_possible)
    return request.param


@pytest.mark.parametrize("first", range(0, GRAPHS, 20))
def test_random_graphs(way: str, first: int) -> None:
    for seed in range(first, first + 20):
        check(seed, retain_graph=seed % 4 != 0)
