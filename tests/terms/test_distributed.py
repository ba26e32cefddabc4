"""Balancers under DistributedDataParallel: what every rank must have in common, and with whom."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.terms.balance.every_balancer import CLASSES, make
from tests.terms.on_ranks import (
    NAMES,
    VARIANTS,
    Told,
    batch,
    ddp,
    given,
    grads_of,
    net,
    own_part,
    parameters_of,
    terms,
    trained,
)

from lossproof.terms import term_gradients
from lossproof.terms.compiled import compiled_step
from lossproof.terms.distributed import Ranks

FROM_VALUES = ("FixedWeights", "UncertaintyWeights", "GeometricMean", "STCH", "RLW", "IMTLL", "DWA")
NAMED = ("UPGrad", "LearningRateAnnealing", "UncertaintyWeights", "RLW", "PCGrad", "GradDrop")


def usable(name: str) -> bool:
    return not name.startswith("Sampled")


# ---- equal on every rank


def train_on_ranks(name: str) -> Any:
    return trained(name, ddp(net()), own_part, range(5))


@pytest.mark.parametrize("name", NAMED)
def test_every_rank_has_the_same_weights_and_parameters_to_the_last_bit(ranks, name):
    first, *others = ranks.run(train_on_ranks, name)
    assert all(other == first for other in others)
    assert len(first[1]) == 5


@pytest.mark.parametrize("name", sorted(filter(usable, set(CLASSES) - set(NAMED))))
def test_every_other_balancer_keeps_two_ranks_together(two_ranks, name):
    (model, weights, values, own), other = two_ranks.run(train_on_ranks, name)
    assert (model, weights, values) == other[:3]
    if name != "SelfAdaptivePoints":  # its parameters belong to the points, which each rank has
        assert own == other[3]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_keeps_two_ranks_together(two_ranks, name):
    if "TorchJD" in name:
        pytest.importorskip("torchjd", reason="its methods are tried on ranks where it is there")
    one, other = two_ranks.run(train_on_ranks, name)
    assert one == other


@pytest.mark.parametrize("name", FROM_VALUES)
def test_from_values_the_ranks_do_what_one_process_does_with_the_whole_batch(ranks, name):
    size = ranks.size
    alone = trained(name, net(), lambda step: batch(step, size), range(5))
    together = ranks.run(train_on_ranks, name)[0]
    for ours, expected in zip(together[:3], alone[:3], strict=True):
        for one, other in zip(ours, expected, strict=True):
            torch.testing.assert_close(
                torch.tensor(one), torch.tensor(other), rtol=1e-9, atol=1e-11
            )


# ---- what the figures mean


def figures_of_a_step() -> Any:
    model = ddp(net())
    own = term_gradients(terms(model, own_part(0)), list(model.parameters()))
    kept = ("gramian", "values")
    here = {name: getattr(own, name).tolist() for name in kept}
    here |= {name: own.by_parameter(name).tolist() for name in ("mean_abs", "max_abs")}
    rows = torch.stack(
        [
            torch.cat(
                [
                    gradient.flatten() if gradient is not None else torch.zeros(parameter.numel())
                    for gradient, parameter in zip(
                        torch.autograd.grad(
                            term, list(model.parameters()), retain_graph=True, allow_unused=True
                        ),
                        model.parameters(),
                        strict=True,
                    )
                ]
            )
            for term in terms(model.module, own_part(0)).values()
        ]
    )
    balancer = Told(NAMES)
    balancer.needs = ("gramian", "mean_abs", "max_abs")
    step = balancer.backward(terms(model, own_part(0)), list(model.parameters()))
    figures = step.gradients
    ours = {name: getattr(figures, name).tolist() for name in kept}
    ours |= {name: figures.by_parameter(name).tolist() for name in ("mean_abs", "max_abs")}
    return here, rows.tolist(), ours, grads_of(model)


def test_the_figures_are_means_over_the_ranks_and_the_largest_of_all(two_ranks):
    answers = two_ranks.run(figures_of_a_step)
    ours, grads = answers[0][2:]
    for name, together in ours.items():
        each = torch.tensor([here[name] for here, *_ in answers], dtype=torch.float64)
        expected = each.amax(0) if name == "max_abs" else each.mean(0)
        torch.testing.assert_close(torch.tensor(together, dtype=torch.float64), expected)
    rows = torch.tensor([rows for _, rows, *_ in answers], dtype=torch.float64)
    torch.testing.assert_close(
        torch.tensor(ours["gramian"], dtype=torch.float64), (rows @ rows.mT).mean(0)
    )
    weighted = (torch.tensor([0.25, 1.5, 3.0], dtype=torch.float64) @ rows).mean(0)
    filled = torch.cat([torch.tensor(one, dtype=torch.float64).flatten() for one in grads])
    torch.testing.assert_close(filled, weighted)


def count_collectives(name: str, every: int) -> list[int]:
    model, balancer = ddp(net()), make(name, NAMES)
    balancer.every = every
    balancer.backward(terms(model, own_part(0)), list(model.parameters()))
    original, counts = dist.all_gather, []

    def counted(*arguments: Any, **options: Any) -> Any:
        counts[-1] += 1
        return original(*arguments, **options)

    dist.all_gather = counted
    try:
        for step in range(1, 4):
            counts.append(0)
            balancer.backward(terms(model, own_part(step)), list(model.parameters()))
    finally:
        dist.all_gather = original
    return counts


@pytest.mark.parametrize(
    ("name", "every", "expected"),
    [("UncertaintyWeights", 1, [1, 1, 1]), ("UPGrad", 1, [2, 2, 2]), ("UPGrad", 3, [1, 1, 2])],
)
def test_one_small_collective_for_the_values_and_one_for_the_gradients(
    two_ranks, name, every, expected
):
    assert two_ranks.run(count_collectives, name, every) == [expected] * 2


# ---- everything that DDP offers


def halving_hook(_, bucket):  # DDP wants no annotations but its own, and those not as text
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    return allreduce_hook(None, bucket).then(lambda done: done.value() / 2)


def train_plain_and_balanced(options: dict[str, Any], twist: str, balanced: bool) -> Any:
    model = ddp(net(unused="unused" in twist), **options)
    if "hook" in twist:
        model.register_comm_hook(None, halving_hook)
    parameters = list(model.parameters())
    if "tensor" in twist:
        parameters[0].register_hook(lambda gradient: 2 * gradient)
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.5)
    balancer = Told(NAMES)
    balancer.every = 2 if "every" in twist else 1
    for step in range(4):
        last = "accumulate" not in twist or step % 2 == 1
        if "accumulate" not in twist or step % 2 == 0:
            optimizer.zero_grad(set_to_none="keep" not in twist)
        with contextlib.nullcontext() if last else model.no_sync():
            found = terms(model, own_part(step))
            if "one" in twist and (dist.get_rank() or "every rank" in twist):
                found["bc"] = None
            if balanced:
                balancer.backward(found, parameters)
            else:
                weights = dict(zip(NAMES, (0.25, 1.5, 3.0), strict=True))
                present = {name: term for name, term in found.items() if term is not None}
                sum(weights[name] * term for name, term in present.items()).backward()
        if last:
            optimizer.step()
    return parameters_of(model), [one.grad is None for one in parameters]


@pytest.mark.parametrize(
    ("options", "twist"),
    [
        ({}, ""),
        ({}, "every"),
        ({}, "keep"),
        ({}, "hook"),
        ({}, "tensor"),
        ({}, "accumulate"),
        ({"bucket_cap_mb": 1e-4}, ""),
        ({"gradient_as_bucket_view": True}, ""),
        ({"gradient_as_bucket_view": True}, "keep"),
        ({"gradient_as_bucket_view": True}, "accumulate"),
        ({"static_graph": True}, ""),
        ({"static_graph": True}, "unused"),
        ({"static_graph": True, "gradient_as_bucket_view": True}, "keep"),
        ({"find_unused_parameters": True}, ""),
        ({"find_unused_parameters": True}, "unused"),
        ({"find_unused_parameters": True}, "unused accumulate"),
        ({"find_unused_parameters": True}, "one"),
        ({"find_unused_parameters": True}, "one on every rank"),
    ],
    ids=str,
)
def test_measured_gradients_train_as_plain_ones_do(two_ranks, options, twist):
    plain = two_ranks.run(train_plain_and_balanced, options, twist, False)
    ours = two_ranks.run(train_plain_and_balanced, options, twist, True)
    assert ours[0][0] == ours[1][0]
    for one, other in zip(ours[0][0], plain[0][0], strict=True):
        torch.testing.assert_close(torch.tensor(one), torch.tensor(other), rtol=1e-6, atol=1e-8)
    assert ours[0][1] == plain[0][1]


def train_with_an_unused_parameter(balanced: bool) -> str:
    model = ddp(net(unused=True))
    balancer = Told(NAMES)
    try:
        for step in range(2):
            found = terms(model, own_part(step))
            if balanced:
                balancer.backward(found, list(model.parameters()))
            else:
                sum(found.values()).backward()
    except RuntimeError as error:
        return str(error)[:60]
    return "fine"


def test_an_unused_parameter_is_told_of_as_in_plain_training(two_ranks):
    plain = two_ranks.run(train_with_an_unused_parameter, False)
    assert two_ranks.run(train_with_an_unused_parameter, True) == plain
    assert "Expected to have finished reduction" in plain[0]


def clipped_step(limit: float) -> Any:
    model = ddp(net())
    step = make("UPGrad", NAMES).backward(
        terms(model, own_part(0)), list(model.parameters()), clip=limit
    )
    norm = torch.cat([one.grad.flatten() for one in model.parameters()]).norm()
    return norm.item(), grads_of(model), step.norm.item()


def test_the_clipped_gradient_is_the_same_everywhere_and_short_enough(two_ranks):
    long, _, _ = two_ranks.run(clipped_step, 1e9)[0]
    (norm, grads, told), other = two_ranks.run(clipped_step, long / 3)
    assert grads == other[1]
    assert 0.2 * long < norm <= long / 3 <= told


def scaled_steps(overflows: bool) -> Any:
    model, balancer = ddp(net().float()), make("UPGrad", NAMES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    before = None
    for step in range(2):
        optimizer.zero_grad()
        data = tuple(part.float() for part in own_part(step))
        found = terms(model, data)
        if step and overflows and dist.get_rank():
            found["pde"] = found["pde"] * 1e36
        before = (parameters_of(model), balancer.weights.tolist())
        balancer.backward(found, list(model.parameters()), scaler=scaler)
        scaler.step(optimizer)
        scaler.update()
    return parameters_of(model), balancer.weights.tolist(), scaler.get_scale(), before


def test_an_overflow_under_a_grad_scaler_on_one_rank_skips_the_step_on_all(two_ranks):
    for overflows in (True, False):
        one, other = two_ranks.run(scaled_steps, overflows)
        assert one == other
        assert (one[:2] == one[3]) is overflows
        assert (one[2] == 2.0**9) is overflows


# ---- checkpoints and groups


def resumed(name: str) -> Any:
    data = own_part
    model, balancer = ddp(net()), make(name, NAMES)
    expected = trained(name, model, data, range(6), balancer)
    model, balancer = ddp(net()), make(name, NAMES)
    optimizer = torch.optim.Adam([*model.parameters(), *balancer.parameters()], lr=1e-2)
    for step in range(3):
        optimizer.zero_grad()
        balancer.backward(given(balancer, model, data(step)), list(model.parameters()))
        optimizer.step()
    saved: list[Any] = [None]
    if dist.get_rank() == 0:
        file = io.BytesIO()
        everything = (model.state_dict(), balancer.state_dict(), optimizer.state_dict())
        torch.save(everything, file)
        saved = [file.getvalue()]
    dist.broadcast_object_list(saved)
    states = torch.load(io.BytesIO(saved[0]), weights_only=True)
    model, balancer = ddp(net()), make(name, NAMES)
    optimizer = torch.optim.Adam([*model.parameters(), *balancer.parameters()], lr=1e-2)
    for one, state in zip((model, balancer, optimizer), states, strict=True):
        one.load_state_dict(state)
    weights = []
    for step in range(3, 6):
        optimizer.zero_grad()
        outcome = balancer.backward(given(balancer, model, data(step)), list(model.parameters()))
        optimizer.step()
        weights.append(outcome.weights.tolist())
    return parameters_of(model), weights, expected[0], expected[1][3:]


@pytest.mark.parametrize("name", NAMED)
def test_what_rank_0_saved_resumes_everywhere_to_the_last_bit(two_ranks, name):
    for model, weights, expected_model, expected_weights in two_ranks.run(resumed, name):
        assert model == expected_model
        assert weights == expected_weights


def step_in_group(kind: str) -> Any:
    rank = dist.get_rank()
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    group: Any = groups[rank // 2] if kind == "pairs" else False
    balancer, model = make("UPGrad", NAMES), net()
    step = balancer.backward(terms(model, own_part(0)), model, group=group)
    return step.values.tolist(), terms(model, own_part(0))["data"].item()


def test_a_group_shares_its_values_and_false_shares_none(four_ranks):
    pairs = four_ranks.run(step_in_group, "pairs")
    assert pairs[0][0] == pairs[1][0] != pairs[2][0] == pairs[3][0]
    assert pairs[0][0][0] == pytest.approx((pairs[0][1] + pairs[1][1]) / 2)
    alone = four_ranks.run(step_in_group, "alone")
    assert all(values[0] == pytest.approx(own) for values, own in alone)


def compile_on_ranks() -> str:
    with pytest.raises(ValueError, match="several ranks train together") as told:
        compiled_step(lambda model, x, y: terms(model, (x, y)), ddp(net()), make("UPGrad"))
    return str(told.value)


def test_a_compiled_step_sends_several_ranks_to_the_plain_one(two_ranks):
    for told in two_ranks.run(compile_on_ranks):
        assert "call balancer.backward" in told


def values_from_a_call() -> Any:
    model, balancer = ddp(net()), make("UncertaintyWeights", NAMES)
    total = balancer(terms(model, own_part(0)))
    total.backward()
    balancer.eval()
    return total.item(), grads_of(model), balancer(terms(model, own_part(0))).item()


def test_a_call_is_of_the_whole_batch_in_training_and_of_the_own_part_in_evaluation(two_ranks):
    one, other = two_ranks.run(values_from_a_call)
    assert one[:2] == other[:2]
    assert one[2] != other[2]


def learned_by_famo() -> Any:
    model, balancer = ddp(net()), make("FAMO", NAMES)
    balancer.backward(terms(model, own_part(0)), list(model.parameters()))
    balancer.update(terms(model, own_part(1)))
    return balancer.logits.tolist()


def test_what_famo_learns_after_a_step_is_the_same_on_every_rank(two_ranks):
    one, other = two_ranks.run(learned_by_famo)
    assert one == other
    assert any(one)


def searched(model: Any, data: Any) -> Any:
    parameters = list(model.parameters())
    optimizer = torch.optim.LBFGS(parameters, max_iter=8, line_search_fn="strong_wolfe")
    balancer = make("FixedWeights", NAMES)
    closure = balancer.closure(lambda: terms(model, data), optimizer, parameters)
    for _ in range(2):
        optimizer.step(closure)
    return parameters_of(model)


def search_on_ranks() -> Any:
    return searched(ddp(net()), own_part(0))


def test_a_line_search_decides_alike_on_every_rank(two_ranks):
    one, other = two_ranks.run(search_on_ranks)
    assert one == other
    for ours, expected in zip(one, searched(net(), batch(0, 2)), strict=True):
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(expected))


# ---- in one process


def test_a_process_that_is_alone_has_no_ranks():
    assert Ranks.of(None) is None
    assert Ranks.of(False) is None
    with pytest.raises(ValueError, match="torch.distributed is not initialised"):
        Ranks.of("group")


def wrong_group() -> tuple[str, str]:
    told = []
    for group in ("world", dist.GroupMember.NON_GROUP_MEMBER):
        try:
            Ranks.of(group)
        except (TypeError, ValueError) as error:
            told.append(f"{type(error).__name__}: {error}")
    return tuple(told)


def test_what_is_no_group_is_refused(two_ranks):
    told = two_ranks.run(wrong_group)[0]
    assert told[0].startswith("TypeError: `group` must be a process group, None or False, got str")
    assert told[1].startswith("ValueError: `group` must be a process group that this process")
