"""A balancer in a loop of Accelerate does what a plain loop does."""

import copy
import warnings

import pytest
import torch
from torch import nn

pytest.importorskip("accelerate")
pytest.importorskip("tensorboard")

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of what Accelerate imports
    from accelerate import Accelerator, DistributedType
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lossproof.integrations.accelerate import AcceleratedBalancer
from lossproof.terms import DWA, UncertaintyWeights, UPGrad

NAMES = ("near", "far")
MAKES = {
    "from values": lambda: DWA(NAMES, window=2),
    "learned": lambda: UncertaintyWeights(NAMES),
    "from the Gramian": lambda: UPGrad(NAMES),
}


def model_of(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def loader(count=10):
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(4 * count, width, generator=generator) for width in (4, 2))
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4)


def terms_of(model, batch):
    x, y = batch
    near, far = (model(x).float() - y).unbind(1)
    return {"near": near.square().mean(), "far": 5 * far.abs().mean()}


def optimizer_of(model, balancer):
    return torch.optim.Adam([*model.parameters(), *balancer.parameters()], lr=1e-2)


def accelerated(
    folder, make, *, accumulate=1, epochs=1, scaler=None, clip=None, from_epoch=0, save_after=None
):
    """Train with Accelerate, log to TensorBoard, and save or load a checkpoint."""
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=accumulate,
        log_with="tensorboard",
        project_dir=folder,
    )
    if scaler is not None:
        accelerator.scaler = scaler
    accelerator.init_trackers("run")
    model, balancer = model_of(seed=0 if from_epoch == 0 else 1), make()
    optimizer, batches = optimizer_of(model, balancer), loader()
    model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
    balance = AcceleratedBalancer(accelerator, balancer, model)
    if from_epoch:
        accelerator.load_state(folder / "checkpoint")
    number = from_epoch * -(-len(batches) // accumulate)
    for epoch in range(from_epoch, epochs):
        for batch in batches:
            with accelerator.accumulate(model):
                balance.backward(terms_of(model, batch))
                if clip is not None and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                accelerator.log(balance.balance_step.as_dict(), step=number)
                number += 1
        if epoch == save_after:
            accelerator.save_state(folder / "checkpoint")
    accelerator.end_training()
    return model, balancer, optimizer


def plain(make, *, accumulate=1, epochs=1, scaler=None, clip=None):
    """The same by hand; the last group of an epoch may be short, and is divided alike."""
    model, balancer = model_of(), make()
    optimizer, batches, told = optimizer_of(model, balancer), loader(), []
    for _ in range(epochs):
        for k, batch in enumerate(batches):
            first, last = k % accumulate == 0, (k + 1) % accumulate == 0 or k + 1 == len(batches)
            refresh = None if first else False
            step = balancer.backward(
                terms_of(model, batch), model, factor=1 / accumulate, refresh=refresh, scaler=scaler
            )
            told += [step] if first else []
            if last:
                if scaler is not None:
                    scaler.unscale_(optimizer)
                if clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step() if scaler is None else scaler.step(optimizer)
                optimizer.zero_grad()
                if scaler is not None:
                    scaler.update()
    return model, balancer, told


def scalars(folder):
    read = EventAccumulator(str(folder / "run")).Reload()
    return {
        tag: {event.step: event.value for event in read.Scalars(tag)}
        for tag in read.Tags()["scalars"]
    }


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        state, theirs = one.state_dict(), other.state_dict()
        assert state.pop("_extra_state", None) == theirs.pop("_extra_state", None)
        torch.testing.assert_close(state, theirs, rtol=0.0, atol=0.0)


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (4, 0.5)])
def test_it_is_the_plain_loop_to_the_last_bit(tmp_path, make, accumulate, clip):
    found = accelerated(tmp_path, make, accumulate=accumulate, epochs=2, clip=clip)
    model, balancer, told = plain(make, accumulate=accumulate, epochs=2, clip=clip)
    assert_same(found[:2], (model, balancer))
    assert not torch.equal(found[0][0].weight, model_of()[0].weight)
    written = scalars(tmp_path)
    assert len(told) == (20 if accumulate == 1 else 6)
    for name in NAMES:
        read = written[f"terms/weight/{name}"]
        assert list(read) == list(range(len(told)))
        assert list(read.values()) == pytest.approx([float(one.weight[name]) for one in told])


def test_a_scaler(tmp_path):
    """Accelerate wants a GPU for float16; the scaler itself works without."""
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2) for _ in "ab"]
    found = accelerated(tmp_path, MAKES["from the Gramian"], scaler=scalers[0], accumulate=2)
    expected = plain(MAKES["from the Gramian"], scaler=scalers[1], accumulate=2)
    assert_same(found[:2], expected[:2])
    assert scalers[0].get_scale() == scalers[1].get_scale() == 2.0**12


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path, make):
    whole = accelerated(tmp_path, make, accumulate=4, epochs=3, save_after=0)
    expected = scalars(tmp_path)
    resumed = accelerated(tmp_path, make, accumulate=4, epochs=3, from_epoch=1)
    assert_same(resumed[:2], whole[:2])
    for ours, theirs in zip(
        resumed[2].state_dict()["state"].values(),
        whole[2].state_dict()["state"].values(),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=0.0)
    for tag, values in scalars(tmp_path).items():
        assert values == expected[tag]


def test_the_figures_are_those_of_all_micro_batches(tmp_path):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, batches = accelerator.prepare(model_of(), loader(2))
    balance = AcceleratedBalancer(accelerator, UPGrad(), model)
    assert balance.balance_step is None
    told = []
    for batch in batches:
        with accelerator.accumulate(model):
            told.append(balance.backward(terms_of(model, batch), on=model[0]))
    assert [step.refreshed for step in told] == [True, False]
    mean = (told[0].values + told[1].values) / 2
    torch.testing.assert_close(balance.balance_step.values, mean)
    assert torch.equal(balance.balance_step.weights, told[0].weights)


def test_a_step_whose_last_micro_batch_is_left_out_ends_all_the_same():
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, batches = accelerator.prepare(model_of(), loader(5))
    balance, told = AcceleratedBalancer(accelerator, UPGrad(), model), []
    for k, batch in enumerate(batches):
        with accelerator.accumulate(model):
            if k != 1:
                told.append((k, balance.backward(terms_of(model, batch)).refreshed))
    assert told == [(0, True), (2, True), (3, False), (4, True)]


def test_wrong_arguments():
    accelerator, model = Accelerator(cpu=True), model_of()
    with pytest.raises(TypeError, match=r"`accelerator` must be an accelerate.Accelerator, got"):
        AcceleratedBalancer(model, UPGrad(), model)
    with pytest.raises(TypeError, match="`balancer` must be a Balancer, got Sequential"):
        AcceleratedBalancer(accelerator, model, model)
    with pytest.raises(TypeError, match="`terms` must map names to tensors"):
        AcceleratedBalancer(accelerator, UPGrad(), model).backward(torch.zeros(2))


@pytest.mark.parametrize("kind", ["DEEPSPEED", "FSDP", "MEGATRON_LM", "XLA"])
def test_what_takes_the_backward_pass_is_refused(kind):
    accelerator = copy.copy(Accelerator(cpu=True))
    accelerator.__class__ = type(
        "Other", (Accelerator,), {"distributed_type": DistributedType[kind]}
    )
    with pytest.raises(ValueError, match=f"a balancer does not work with {kind} here"):
        AcceleratedBalancer(accelerator, UPGrad(), model_of())
