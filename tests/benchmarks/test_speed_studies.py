"""The studies of speed at tiny sizes: all ways compute the same, and what is wrong is seen."""

import importlib
from dataclasses import replace

import pytest
import torch
from benchmarks.harness import results
from benchmarks.harness.study import Case, Method, Study
from benchmarks.speed import (
    allocator,
    chunk,
    contract,
    encoder,
    equalities,
    half,
    head_ways,
    pair_losses,
    pairs,
    tables,
)
from benchmarks.speed.heads import HeadCase, drawn, plain

TINY = (
    HeadCase("CE", 40, 30, hidden=4),
    HeadCase("CE", 40, 30, hidden=4, head="MLP"),
    HeadCase("capped", 40, 30, hidden=4),
    HeadCase("JSD", 40, 30, hidden=4),
)
COMPILE = (head_ways.COMPILED, "torch.compile, auto_chunker")


def needs(name):
    if name.startswith("Liger"):
        pytest.importorskip("liger_kernel")
    if name == pairs.GEOMLOSS:
        pytest.importorskip("geomloss")


def quick(case):
    """Ways that compile nothing."""
    return [name for name, way in head_ways.ways_of(case).items() if not way.compiles]


# ---- chunk


@pytest.mark.parametrize(
    ("case", "way"), [(case, way) for case in TINY for way in quick(case)], ids=str
)
def test_every_way_has_the_loss_and_the_gradients_of_the_plain_one(case, way):
    needs(way)
    wanted, found = drawn(case, torch.float64), drawn(case)
    truth = plain(wanted)
    truth.backward()
    value = head_ways.WAYS[way].make(case)(found)
    value.backward()
    assert value.item() == pytest.approx(truth.item(), rel=1e-5)
    for one, other in zip(found.leaves(), wanted.leaves(), strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=1e-3, atol=1e-6)


def test_the_first_rows_are_a_setting_of_their_own():
    whole = drawn(TINY[0])
    part = whole.first(6)
    plain(part).backward()
    assert part.hidden.shape == (6, 4)
    assert whole.hidden.grad is None


@pytest.mark.parametrize("way", [head_ways.EAGER, head_ways.OURS])
@pytest.mark.parametrize("penalty", [False, True])
def test_a_step_is_taken_cleared_and_told_of(way, penalty):
    head = replace(TINY[0], penalty=penalty)
    case = chunk.case_of(head, chunk.MEMORY)
    step = chunk.make(case, chunk.method_of(way))
    step.warm()
    step.take()
    step.take()
    assert step.facts() == {"loss": pytest.approx(float(plain(drawn(head)).detach()), rel=1e-5)}


def test_a_penalty_changes_the_gradient():
    gradients = []
    for penalty in (False, True):
        setting = drawn(replace(TINY[0], penalty=penalty))
        chunk.derived(plain(setting), setting)
        gradients.append(setting.weight.grad)
    assert (gradients[0] - gradients[1]).abs().max() > 1e-5


def test_the_floor_counts_gradients_and_a_chunk():
    mb = 2**20
    assert HeadCase("CE", 8192, 32000).floor == pytest.approx(
        4 * (1024 * (8192 + 32000) + 262 * 32000) / mb
    )
    assert HeadCase("CE", 8192, 128_000).floor == pytest.approx(
        4 * (1024 * (8192 + 128_000) + 128 * 128_000) / mb
    )


# ---- pairs


@pytest.mark.parametrize(
    ("loss", "way"), [(loss, way) for loss, one in pairs.LOSSES.items() for way in one.ways]
)
def test_every_way_over_pairs_has_the_gradient_of_the_plain_one(loss, way):
    needs(way)
    found = []
    for name in (pairs.EAGER, way):
        given = [t.detach().clone() for t in pairs.LOSSES[loss].draw(24, 3)]
        wide = [t.double() if t.is_floating_point() else t for t in given]
        wide[0].requires_grad_()
        value = pairs.way_of(loss, name)(*wide)
        found.append((value.detach(), *torch.autograd.grad(value, wide[0])))
    plain_one, other = found
    # Three ways to go to the limit are not at one point after some iterations.
    near = {"Sinkhorn": 1e-2, "Sinkhorn divergence": 0.1}.get(loss, 1e-7)
    for one, truth in zip(other, plain_one, strict=True):
        assert (one - truth).norm() <= near * truth.norm()


def test_the_potentials_of_sinkhorn_converge():
    points = torch.randn(2, 20, 3, dtype=torch.float64).mul(0.1)
    cost = pair_losses.squares(*points)
    of_y = torch.zeros(20, dtype=torch.float64)
    for _ in range(500):
        of_x = -0.1 * torch.logsumexp((of_y - cost) / 0.1 - torch.tensor(20.0).log(), 1)
        of_y = -0.1 * torch.logsumexp((of_x[:, None] - cost) / 0.1 - torch.tensor(20.0).log(), 0)
    torch.testing.assert_close(pair_losses.sinkhorn(*points), of_x.mean() + of_y.mean())


def test_a_step_over_pairs_is_taken():
    case = Case("tiny", {"loss": "InfoNCE", "rows": 30, "width": 3})
    for way in (pairs.EAGER, pairs.OURS, pairs.CATALOGUE):
        step = pairs.make(case, Method(way))
        step.take()
        step.take()
        assert step.facts()["loss"] > 0


def test_the_encoder_has_one_gradient_every_way():
    found = {}
    for way in encoder.WAYS:
        torch.manual_seed(0)
        step = encoder.make(Case("tiny", {"rows": 300}), Method(way))
        step.take()
        found[way] = step.facts()["norm of the gradient"]
    assert found == pytest.approx(dict.fromkeys(encoder.WAYS, found[encoder.PLAIN]), rel=1e-4)


# ---- half precision


@pytest.fixture(scope="module")
def sixteen():
    return half.problem(torch.float16, 32, 20, 4)


def test_the_truth_is_the_gradient_in_float64(sixteen):
    h, w = (t.double().requires_grad_() for t in (sixteen.hidden, sixteen.weight))
    torch.nn.functional.cross_entropy(h @ w.T, sixteen.target).backward()
    torch.testing.assert_close((h.grad, w.grad), sixteen.truth)


@pytest.mark.parametrize("way", [way for way in half.WAYS if way != half.OURS_COMPILED])
def test_every_way_has_a_gradient_in_half_precision(way, sixteen):
    needs(way)
    (found,) = half.under_scales(sixteen, way, (1024.0,))
    assert max(found["hidden"], found["head"]) < 2e-2
    (cut,) = half.over_chunks(half.problem(torch.bfloat16, 32, 20, 4), way, (2,))
    assert max(cut["hidden"], cut["head"]) < 3e-2


def test_what_is_flushed_and_what_overflows_is_seen(sixteen, monkeypatch):
    def lossy(p, scale, rows):
        hidden, weight = half.eager(p, scale, rows)
        weight[:2] = 0
        return hidden * float("inf"), weight

    monkeypatch.setitem(half.WAYS, "lossy", lossy)
    (found,) = half.under_scales(sixteen, "lossy", (1024.0,))
    assert found["flushed"] == int(sixteen.kept_by_eager(1024.0)[:2].sum()) > 0
    assert found["flushed_by_eager"] == 0
    assert not found["hidden"] < 1e9
    assert tables._error(found["hidden"]) == "not finite"


# ---- exactness


@pytest.mark.parametrize(
    "name", [name for name in equalities.EQUALITIES if not name.endswith("compiled")]
)
def test_chunk_and_pairs_equal_the_plain_loss_in_float64(name):
    assert max(equalities.EQUALITIES[name]().errors().values()) < 1e-12


def test_an_inequality_is_seen():
    one = equalities.cross_entropy("mean")
    wrong = replace(one, ours=lambda: one.plain() * (1 + 1e-6))
    assert min(wrong.errors().values()) > 1e-7


@pytest.mark.parametrize("question", contract.QUESTIONS)
@pytest.mark.parametrize("way", ["eager", "checkpoint of each chunk"])
def test_what_autograd_does_itself_is_right(way, question):
    if (way, question) != ("checkpoint of each chunk", "torch.func.grad"):  # which has no support
        assert contract.answer(way, question) is None


class Wrong(torch.autograd.Function):
    """The scale of the loss does not reach its gradient, which cannot be differentiated."""

    @staticmethod
    def forward(ctx, hidden, weight):
        with torch.enable_grad():
            leaves = [t.detach().float().requires_grad_() for t in (hidden, weight)]
            value = 1.05 * contract.plain(*leaves)
            ctx.gradients = torch.autograd.grad(value, leaves)
        return value.detach().to(hidden.dtype)

    @staticmethod
    def backward(ctx, upstream):
        gradients, ctx.gradients = ctx.gradients, None
        return tuple(g.to(upstream.dtype) for g in gradients)


@pytest.mark.parametrize("question", contract.QUESTIONS)
def test_every_question_can_be_answered_wrongly(question, monkeypatch):
    monkeypatch.setitem(contract.WAYS, "wrong", lambda: Wrong.apply)
    assert contract.answer("wrong", question) is not None


def test_a_gradient_that_is_written_in_forward_is_seen():
    def writes(hidden, weight):
        weight.grad = torch.zeros_like(weight)
        return contract.plain(hidden, weight)

    assert contract.grad_of_each(writes) == "writes `.grad` in forward"


# ---- the allocator


def test_page_faults_of_fresh_memory_are_counted():
    # Larger than what `malloc` ever comes to keep by itself, whatever ran in this process before.
    case = Case("large", {"loss": "MSE", "size": (9 << 20,)})
    step = allocator.make(case, Method("eager, default"))
    step.take()
    assert step.facts()["page faults"] > 100
    assert step.facts()["resident MB after"] > 50


def test_the_figures_stand_on_the_page_about_the_allocator():
    figures = {
        f"{way}, {name}": {
            "processor_ms": {"step": {"median": 12.3}},
            "facts": {"page faults": 4567, "resident MB after": 890},
        }
        for way in (allocator.EAGER, allocator.COMPILED, allocator.FUSED)
        for name in allocator.SETTINGS
    }
    machine = dict.fromkeys(
        "date processor cores threads system python torch lossproof source".split(), "x"
    )
    data = {
        "machine": machine, "versions": {}, "absent": [],
        "cases": [{"case": "MSE", "methods": figures}],
    }  # fmt: skip
    blocks = list(allocator.page(data))
    text = results.page_text(blocks)
    assert text.count(allocator.MARK) == 2
    assert "| eager | 12.3; 4,567 |" in text
    assert "| MSE | 890 | 890 | 890 | 890 |" in text
    assert text.index("How to set them") < text.index("12.3") < text.index("What it costs")


# ---- pages


def studies():
    rooms = (chunk, pairs, encoder, allocator)
    return [thing for room in rooms for thing in vars(room).values() if isinstance(thing, Study)]


def test_every_aim_is_of_a_case_that_is_measured():
    names = {case.name for study in studies() for case in study.cases}
    assert chunk.AIMS.keys() | pairs.AIMS.keys() <= names


@pytest.mark.parametrize("study", studies(), ids=lambda study: study.name)
def test_every_method_of_a_case_has_an_estimate(study):
    for case in study.cases:
        for method in study.of(case):
            assert (study.estimate(case, method) or 1) > 0
    for source in study.sources:
        assert importlib.import_module(source)


def ratio(value):
    return {"step": {"median": value, "quartiles": [value, value]}}


def test_the_aims_are_held_against_what_was_reached():
    (case, *_) = chunk.MEMORY_STUDY.cases
    kinds = {"eager": "plain", "ours": "ours", "one": "peer", "two": "peer"}
    memory = {
        "kinds": kinds,
        "cases": [
            {
                "case": case.name,
                "methods": {
                    "eager": {"live_mb": 3000.0}, "ours": {"live_mb": 236.0},
                    "one": {"live_mb": 400.0}, "two": {"live_mb": 314.0},
                },
            }
        ],
    }  # fmt: skip
    times = {
        "kinds": kinds,
        "cases": [
            {
                "case": "some",
                "methods": {"eager": {"ratio": ratio(1.0)}, "ours": {"ratio": ratio(0.8)},
                            "one": {"failed": "no"}},
            }
        ],
    }  # fmt: skip
    peak, time = tables.aims([memory], [times], chunk.AIMS)
    assert peak[2:] == ("235", "236", "no", "3000", "314", "two")
    assert time[2:] == ("1.00", "0.800", "yes", "1.00", "-", "-")


def made_up(study):
    """Results as a run would save them, with figures that nobody has measured."""
    figures = {
        "processor_ms": ratio(5.0), "wall_ms": ratio(5.0), "ratio": ratio(0.5),
        "live_mb": 10.0, "left_mb": 5.0, "resident_mb": 11.0, "facts": {"loss": 1.0},
    }  # fmt: skip
    machine = "date processor cores threads system python torch lossproof source".split()
    return {
        "machine": dict.fromkeys(machine, "x"), "versions": {}, "absent": [], "study": study.name,
        "rounds": 5, "baseline": study.baseline,
        "kinds": {method.name: method.kind.value for method in study.methods},
        "cases": [
            {
                "case": case.name, "settings": dict(case.settings),
                "methods": {method.name: figures for method in study.of(case)},
            }
            for case in study.cases
        ],
    }  # fmt: skip


def test_the_pages_show_all_cases_and_say_what_was_reached():
    for page, rooms in ((tables.chunk_page, [chunk]), (tables.pairs_page, [pairs, encoder])):
        shown = [s for room in rooms for s in vars(room).values() if isinstance(s, Study)]
        text = results.page_text(page(*map(made_up, shown)))
        for study in shown:
            assert f"`python -m benchmarks {study.name}`" in text
            for case in study.cases:
                assert f"## {case.name}\n" in text
        assert "| yes |" in text
        assert "| no |" not in text
        assert results.page_text(page(made_up(shown[0]), *[None] * (len(shown) - 1)))


def test_the_pages_of_exactness_and_of_half_precision_say_what_was_reached():
    machine = made_up(encoder.STUDY)["machine"]
    errors = {"value": 1e-16, "gradient": 1e-13}
    answers = dict.fromkeys(contract.QUESTIONS)
    data = {
        "machine": machine, "versions": {}, "equalities": {"chunk, some": errors},
        "contract": {
            "lossproof chunk": answers,
            "a peer": answers | {"gradcheck": "GradcheckError: no", "no_grad": "ValueError: no"},
        },
    }  # fmt: skip
    text = results.page_text(tables.exactness_page(data))
    assert "| largest relative error in float64 | 1.0e-12 | 1.0e-13 | yes |" in text
    assert "| gradcheck | right | wrong |" in text
    assert "| no_grad | right | raises |" in text
    assert "- a peer, no_grad: ValueError: no" in text

    scaled = [{"scale": 1024, "flushed": 3, "kept_by_eager": 600, "flushed_by_eager": 2}]
    scaled[0] |= {"hidden": 1e-3, "head": 1e-4}
    cut = [{"chunks": n, "hidden": 1e-3, "head": 1e-3} for n in (1, 2)]
    ways = (half.EAGER, half.OURS, half.OURS_COMPILED)
    data = {
        "machine": machine, "versions": {}, "size": (4, 3, 2), "bfloat16_eager": 1e-3,
        "float16": dict.fromkeys(ways, scaled), "bfloat16": dict.fromkeys(ways[1:], cut),
    }  # fmt: skip
    text = results.page_text(tables.half_page(data))
    assert "| lossproof chunk: entries flushed | 0 | 3 | no |" in text
    assert "| lossproof chunk: float16 error | 5.0e-04 | 1.0e-03 | no |" in text
    assert "| lossproof chunk | 3 (0.5 %); eager 2 |" in text
    assert "over that with one | 1.1 | 1.00 | yes |" in text
