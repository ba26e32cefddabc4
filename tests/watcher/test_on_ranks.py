"""The guard where several ranks train together: it never waits for the others."""

import pytest
import torch
import torch.distributed as dist
from tests.terms.ranks import Processes
from torch import nn

import lossproof
from lossproof.watcher import AlarmKind

STEPS, BAD = 6, 3


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    if not dist.is_available():
        pytest.skip("this torch has no ranks")
    processes = Processes(2, tmp_path_factory.mktemp("ranks"))
    yield processes
    processes.stop()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, 1))


def made(form):
    model = network()
    if form == "sharded":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (2,))
        fully_shard(model[0], mesh=mesh)
        return fully_shard(model, mesh=mesh)
    return nn.parallel.DistributedDataParallel(model, find_unused_parameters=form == "unused")


def train(form, whole, watched):
    """Train with a division by 0 in one step of the first rank, which is then left out."""
    model, rank = made(form), dist.get_rank()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    alarms, step = [], 0

    def loss_of(out, y):
        return ((out - y).square() / float(step != BAD or rank == 1)).mean()

    guard = lossproof.watch(model, on_alarm=alarms.append, share=1.0)
    if watched:
        guard.start()
    compute = guard.wrap(lambda x, y: loss_of(model(x), y)) if whole else guard.wrap(loss_of)
    for step in range(STEPS):
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(10 * step + rank))
        y = x.sum(1, keepdim=True)
        optimizer.zero_grad()
        loss = compute(x, y) if whole else compute(model(x), y)
        loss.backward()
        if step == BAD:
            optimizer.zero_grad()
        else:
            optimizer.step()
    guard.stop()
    parts = [one.to_local() if hasattr(one, "to_local") else one for one in model.parameters()]
    found = [
        (alarm.kind, alarm.diagnosis.operation, alarm.diagnosis.caveat or "") for alarm in alarms
    ]
    return found, guard.retired, [one.detach().tolist() for one in parts]


@pytest.mark.parametrize("whole", [True, False], ids=["whole step", "loss alone"])
@pytest.mark.parametrize("form", ["replicated", "unused", "sharded"])
def test_an_alarm_on_one_rank_leaves_the_others_alone(ranks, form, whole):
    answers = ranks.run(train, form, whole, True)
    alone = ranks.run(train, form, whole, False)
    assert [one[1:] for one in answers] == [one[1:] for one in alone]
    (alarm,), nothing = answers[0][0], answers[1][0]
    assert nothing == []
    assert alarm[0] is AlarmKind.NON_FINITE_LOSS
    if form == "sharded" and whole:
        assert "sharded" in alarm[2]
    else:
        assert alarm[1] == "div"


def train_with_nan(form):
    """Train on, with the gradient of the first rank broken in one step."""
    model, rank = made(form), dist.get_rank()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    alarms = []
    with lossproof.watch(model, on_alarm=alarms.append, share=1.0) as guard:
        compute = guard.wrap(lambda out, y: (out - y).square().mean())
        loss = compute(model(torch.randn(6, 4)), torch.randn(6, 1))
        (loss * (float("nan") if rank == 0 else 1.0)).backward()
        optimizer.step()
    return alarms[0].kind, alarms[0].diagnosis.caveat, guard.retired


def test_a_gradient_may_come_from_another_rank(ranks):
    for kind, caveat, retired in ranks.run(train_with_nan, "replicated"):
        assert kind is AlarmKind.NON_FINITE_GRADIENT
        assert "another rank" in caveat
        assert retired is None
