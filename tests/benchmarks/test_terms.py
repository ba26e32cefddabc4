"""The studies of `terms` measure what they say."""

import math
from importlib.util import find_spec

import pytest
import torch
from benchmarks.harness.memory import live_peak
from benchmarks.harness.study import Kind, Step
from benchmarks.terms import compiled, heads, tables, weights
from benchmarks.terms import helmholtz_problem as problem
from benchmarks.terms.backwards import BACKWARDS, OURS, PEERS, PLAIN, RAW, ours
from benchmarks.terms.compiled import terms_of
from benchmarks.terms.engine import STUDY, make
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
    step_of(setting, BACKWARDS[way]).take()
    if way != RAW:  # which keeps them for itself
        assert all(p.grad is not None and p.grad.isfinite().all() for p in setting.parameters)


def test_the_compiled_step_has_the_same_terms():
    setting = Heads("pinn", 3)
    _, wanted = setting.forward()
    found = terms_of(setting.network, setting.inputs, *setting.targets)
    torch.testing.assert_close(list(found.values()), wanted)


def test_a_step_leaves_the_gradients_that_it_is_weighed_in():
    case = next(case for case in STUDY.cases if case.name == "heads pinn 2")
    step = heads.made(case, PLAIN)
    left = live_peak(step)[1] / 2**20
    assert step.facts()["gradient_mb"] == pytest.approx(left, abs=0.01)
    parameters = 2 * 50 + 50 + 2 * (50 * 50 + 50) + 2 * (50 * 8 + 8)
    assert left == pytest.approx(4 * parameters / 2**20, rel=0.01)


def test_every_way_to_take_a_step_can_be_made():
    for case in STUDY.cases:
        if case["model"] == "pinn" and case["count"] in (2, 4):
            for method in STUDY.of(case):
                if method.kind != Kind.peer and "compiled" not in method.name:
                    Step.of(make(case, method)).take()


def test_compiled_gradients_are_held_against_the_eager_ones():
    setting = Heads("pinn", 2)
    step = Step({"step": lambda: ours(setting)(*setting.forward())}, setting.clear)
    assert compiled.deviation(setting, step) < 1e-6
    step.phases = {"step": lambda: torch.stack(setting.forward()[1]).sum().backward()}
    assert compiled.deviation(setting, step) > 1e-3


@pytest.mark.parametrize("model", ["mlp", "pinn"])
def test_joined_and_separate_terms_are_the_same(model):
    setting = Segments(model, 4)
    assert len({len(part) for part in setting.inputs}) == 1
    torch.testing.assert_close(setting.joined(), setting.separate())


def test_what_is_too_slow_is_left_out():
    methods = {case.name: case.methods for case in STUDY.cases}
    assert len(methods) > 30
    assert set(TOO_SLOW["mlpwide"]) <= set(PEERS)
    assert "LibMTL MGDA" in methods["heads mlpwide 4"]
    assert "LibMTL MGDA" not in methods["heads mlpwide 8"]
    assert "LibMTL MGDA" in methods["heads mlp 8"]


def ratio(number, phase="backward", **more):
    found = {"median": number, "quartiles": [number, number]}
    return {"ratio": {phase: found}, "processor_ms": {phase: found}} | more


FLOORS = {"gradients": 2.0, "second_pass": 3.0, "one_pass": 2.0}
CASES = [
    {
        "case": "heads cnn 2", "settings": {"kind": "heads", "model": "cnn", "count": 2},
        "methods": {
            PLAIN: ratio(1.0, facts={"floors": FLOORS}),
            OURS: ratio(2.2, facts={"deviation": 1e-7}), RAW: ratio(2.0),
            PEERS[0]: ratio(2.05), PEERS[1]: ratio(3.0), PEERS[2]: {"failed": "RuntimeError: no"},
        },
    },
    {
        "case": "heads mlpwide 4", "settings": {"kind": "heads", "model": "mlpwide", "count": 4},
        "methods": {
            PLAIN: ratio(1.0, facts={"floors": FLOORS, "gradient_mb": 64.0}, resident_mb=64.0),
            OURS: ratio(1.9, facts={"deviation": 1e-7}, resident_mb=80.0),
        },
    },
]  # fmt: skip


def test_the_aims_are_held_against_ours_and_the_best_peer():
    convolutions, wide, memory = aims(CASES)
    assert convolutions.aim == 2.05
    assert (convolutions.peer, convolutions.peer_name) == (2.05, PEERS[0])
    assert not convolutions.reached
    assert (wide.aim, wide.ours, wide.peer, wide.reached) == (2.2, 1.9, None, True)
    assert (memory.ours, memory.reached) == (1.25, True)


def test_the_page_shows_the_figures():
    text = "\n\n".join(tables.engine_blocks(CASES))
    assert f"| {OURS} | 2.20 (2.20 - 2.20) |" in text
    assert f"- {PEERS[2]} fails: `RuntimeError: no`" in text
    assert f"| {OURS} | 80.0 (1.2) |" in text
    assert "| *fewest operations: K gradients and a second pass* | 3.00 |" in text


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


def test_ours_and_torchjds_calls_can_be_made():
    case = next(case for case in weights.STUDY.cases if case.name == "MGDA, K = 8")
    for method in weights.STUDY.methods:
        if method.name == weights.OURS or find_spec("torchjd"):
            step = weights.make(case, method)
            step.take()
            assert step.facts() == {}  # the conflicts are beside K = 2


def test_the_tables_of_the_weights_put_the_libraries_side_by_side():
    def figures(milliseconds):
        facts = {"least_cosine": [0.5, "zero", -1e-9, *[0.25] * (len(weights.SCALES) - 3)]}
        return {"processor_ms": {"step": {"median": milliseconds}}, "facts": facts}

    case = {
        "settings": {"method": "MGDA", "count": 2},
        "methods": {"lossproof": figures(1.0), "TorchJD": {"failed": "no"}},
    }
    text = "\n".join(tables.weights_blocks([case]))
    assert "| MGDA | 1.00 / - |" in text
    assert "| MGDA | lossproof | 0.500 | zero | 0.000 | 0.250 |" in text
    assert "| MGDA | TorchJD | - | - |" in text
