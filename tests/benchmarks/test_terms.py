"""The studies of `terms` measure what they say."""

import math
from importlib.util import find_spec

import pytest
import torch
from benchmarks.terms import helmholtz_problem as problem
from benchmarks.terms import memory, tables, timing
from benchmarks.terms.backwards import BACKWARDS, OURS, PEERS, PLAIN, RAW
from benchmarks.terms.compiled import terms_of
from benchmarks.terms.engine import cases
from benchmarks.terms.floor import floors
from benchmarks.terms.heads import TOO_SLOW, deviation, step_of
from benchmarks.terms.helmholtz_methods import as_vectors
from benchmarks.terms.models import MODELS, Heads, Segments
from benchmarks.terms.targets import aims
from benchmarks.terms.weights import conflict

# What a library warns of as it is imported or called is its own affair.
pytestmark = pytest.mark.filterwarnings("ignore")


# ---- the Helmholtz problem


def network():
    return problem.Network(torch.Generator().manual_seed(0)).double()


def test_the_laplacian_is_the_trace_of_the_hessian():
    net = network()
    points = problem.inside(4, torch.Generator().manual_seed(1)).double()
    value, laplacian = net.with_laplacian(points)

    def at(point):
        return net(point[None])[0]

    hessians = [torch.autograd.functional.hessian(at, point) for point in points]
    torch.testing.assert_close(value, net(points))
    torch.testing.assert_close(laplacian, torch.stack([h.trace() for h in hessians]))


def test_the_source_belongs_to_the_solution():
    for point in torch.tensor([[0.3, -0.2], [0.9, 0.55]], dtype=torch.float64):
        laplacian = torch.autograd.functional.hessian(problem.solution, point).trace()
        torch.testing.assert_close(
            laplacian + problem.solution(point), problem.source(point), rtol=1e-9, atol=1e-9
        )


def test_each_edge_has_its_points():
    edges = problem.on_edges(50, torch.Generator().manual_seed(0))
    assert edges.shape == (4, 50, 2)
    constant = [(1, -1.0), (0, 1.0), (1, 1.0), (0, -1.0)]
    for edge, (axis, where) in zip(edges, constant, strict=True):
        assert (edge[:, axis] == where).all()
        assert edge[:, 1 - axis].std() > 0.4
        assert edge.abs().max() <= 1.0


def test_the_terms_are_zero_for_the_solution_alone():
    class Exact:
        def __call__(self, points):
            return problem.solution(points)

        def with_laplacian(self, points):
            return problem.solution(points), problem.source(points) - problem.solution(points)

    generator = torch.Generator().manual_seed(0)
    found = problem.terms(problem.residuals(Exact(), generator))
    assert found["residual"] < 1e-8
    assert found["boundary"] == 0.0
    assert problem.error(Exact()) == 0.0
    others = problem.residuals(network().float(), generator)
    assert all(term > 0.1 for term in problem.terms(others).values())


def test_the_residuals_as_vectors_have_the_terms_for_mean_squares():
    found = problem.residuals(network().float(), torch.Generator().manual_seed(0))
    squares = {name: part.square().mean() for name, part in as_vectors(found).items()}
    torch.testing.assert_close(squares, problem.terms(found))


def test_the_learning_rate_decays_smoothly():
    assert problem.rate(0) == 1e-3
    assert problem.rate(500) == pytest.approx(1e-3 * math.sqrt(0.9))


def test_the_seeds_of_a_method_are_put_together():
    runs = [
        {"method": "plain", "error": error, "cpu_seconds": seconds}
        for error, seconds in ((0.1, 50.0), (0.3, 70.0))
    ]
    found = tables.helmholtz_figures([*runs, {"method": "one", "error": 0.5, "cpu_seconds": 9.0}])
    assert found["plain"]["mean"] == pytest.approx(0.2)
    assert found["plain"]["deviation"] == pytest.approx(math.sqrt(0.02))
    assert found["one"]["deviation"] is None
    blocks = list(tables.helmholtz_blocks({"settings": "s", "figures": found}))
    assert "| plain | 2.00e-1 ± 1.41e-1 | 2.00e-1 | 1.00e-1 | 3.00e-1 | 2 |" in blocks[1]
    assert blocks[1].index("plain") < blocks[1].index("one")


# ---- the engine


def test_all_take_turns_and_the_order_moves_on():
    taken = []

    def step(name, seconds):
        def take():
            taken.append(name)
            return seconds

        return take

    times = timing.in_turns({"a": step("a", 1.0), "b": step("b", 2.0)}, rounds=3)
    assert times == {"a": [1.0] * 3, "b": [2.0] * 3}
    assert "".join(taken) == "aabb" + "ab" + "ba" + "ab"
    assert timing.summed(times, "a")["b"]["ratio"] == 2.0


def test_a_short_step_is_taken_several_times_a_turn():
    calls = []

    def step():
        calls.append(1)
        return timing.LEAST / 10

    assert timing.in_turns({"a": step}, rounds=2)["a"] == pytest.approx([timing.LEAST / 10] * 2)
    assert len(calls) == 2 + 2 * 10


def test_the_quotient_is_of_each_round():
    found = timing.quotient([1.0, 4.0, 9.0], [1.0, 2.0, 3.0])
    assert found["ratio"] == 2.0
    assert found["quartiles"] == [1.0, 3.0]


def test_the_floors_are_those_counted_by_hand():
    batch, width, count = 64, 2048, 4
    layer = 2 * batch * width * width
    by_samples = 2 * batch**2 * (width + count * width) + 2 * count**2 * batch * width
    one_pass = (count * 3 * layer + 4 * (by_samples + layer)) / (7 * layer)
    found = floors("mlpwide", count)
    assert found["gradients"] == 4.0
    assert found["second_pass"] == 5.0
    assert found["one_pass"] == pytest.approx(one_pass)


@pytest.mark.parametrize("model", MODELS)
def test_our_gradient_is_the_weighted_sum(model):
    assert deviation(model, 2) < 1e-5


@pytest.mark.parametrize("way", BACKWARDS)
def test_every_way_gives_all_parameters_a_gradient(way):
    if way in PEERS:
        library = way.partition(" ")[0]
        installed = find_spec({"TorchJD": "torchjd"}.get(library, library)) is not None
        if not installed:
            pytest.skip(f"{library} is not installed")
    setting = Heads("pinn", 3)
    forward, backward = step_of(setting, BACKWARDS[way])()
    assert forward > 0 < backward
    if way != RAW:  # which keeps them for itself
        assert all(p.grad is not None and p.grad.isfinite().all() for p in setting.parameters)


def test_the_compiled_step_has_the_same_terms():
    setting = Heads("pinn", 3)
    _, wanted = setting.forward()
    found = terms_of(setting.network, setting.inputs, *setting.targets)
    torch.testing.assert_close(list(found.values()), wanted)


@pytest.mark.skipif(not memory.STATUS.exists(), reason="Linux alone tells the peak")
def test_the_peak_sees_a_gradient_that_is_held():
    found = memory.measured("mlpwide", 2, PLAIN)
    assert found["gradient_mb"] == pytest.approx(
        4 * (2048 * 2049 * 4 + 2 * 8 * 2049) / 2**20, rel=1e-3
    )
    assert 0.9 < found["gradients"] < 2.0


@pytest.mark.parametrize("model", ["mlp", "pinn"])
def test_joined_and_separate_terms_are_the_same(model):
    setting = Segments(model, 4)
    assert len({len(part) for part in setting.inputs}) == 1
    torch.testing.assert_close(setting.joined(), setting.separate())


def test_every_case_has_a_name_of_its_own():
    keys = [case.key for case in cases(15)]
    assert len(keys) == len(set(keys)) > 30
    assert set(TOO_SLOW["mlpwide"]) <= set(PEERS)


def ratio(number):
    return {"ratio": number, "quartiles": [number, number], "median_ms": 1.0}


CASES = [
    {
        "kind": "heads", "model": "cnn", "count": 2,
        "backward": {
            PLAIN: ratio(1.0), OURS: ratio(2.2), RAW: ratio(2.0),
            PEERS[0]: ratio(2.05), PEERS[1]: ratio(3.0),
        },
        "floors": {"gradients": 2.0, "second_pass": 3.0, "one_pass": 2.0},
        "failed": {PEERS[2]: "RuntimeError: no"}, "deviation": 1e-7,
    },
    {
        "kind": "memory", "model": "mlpwide", "count": 4, "way": OURS,
        "gradients": 1.25, "peak_mb": 80.0,
    },
]  # fmt: skip


def test_the_aims_are_held_against_ours_and_the_best_peer():
    backward, memory = aims(CASES)
    assert backward.aim == 2.05
    assert (backward.peer, backward.peer_name) == (2.05, PEERS[0])
    assert not backward.reached
    assert memory.reached


def test_the_page_shows_the_figures():
    text = tables.engine_summary(CASES)
    assert f"| {OURS} | 2.20 (2.20 - 2.20) |" in text
    assert "fails at K = 2: `RuntimeError: no`" in text
    assert f"| {OURS} | 80.0 (1.2) |" in text


def test_the_page_is_made_from_the_results():
    studies = [tables.read(name) for name in ("engine", "helmholtz", "weights")]
    blocks = [block.strip() for block in tables.page(*studies)]
    from benchmarks.harness.results import PAGES

    path = PAGES / "terms.md"
    if not path.exists():
        pytest.skip("no study was run")
    assert path.read_text(encoding="utf-8") == "\n\n".join(blocks) + "\n"


# ---- weights


def test_the_least_cosine_sees_a_conflict_at_any_scale():
    def of_the_first(matrix):
        return matrix[0]

    found = [conflict(of_the_first, scale, 4) for scale in (1e-20, 1.0, 1e20)]
    assert found[0] == found[1] == found[2]
    assert found[0] < 0
    assert conflict(lambda matrix: matrix[0] * 0, 1.0, 2) == "zero"
    assert conflict(lambda matrix: matrix[0] / 0, 1.0, 2) == "not finite"
    assert conflict(lambda matrix: {}[0], 1.0, 2) == "KeyError"
