"""Trainers on two processes: every rank trains alike, and as a plain loop on two ranks does."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.terms.ranks import Processes
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves

from lossproof.terms import UncertaintyWeights, UPGrad

NAMES = ("near", "far")
MAKES = {"from the Gramian": lambda: UPGrad(NAMES), "learned": lambda: UncertaintyWeights(NAMES)}
MICRO_BATCHES = 2
STEPS = 3


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("torch was built without gloo")
    processes = Processes(2, tmp_path_factory.mktemp("ranks"))
    yield processes
    processes.stop()


def as_launched() -> None:
    """What torchrun sets. The ranks have met already, so that nobody goes to the address."""
    rank = str(dist.get_rank())
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29400", "NODE_RANK": "0"}
    os.environ |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    warnings.simplefilter("ignore")


class Net(nn.Module):
    """A trunk with two heads, and a layer that nothing uses."""

    def __init__(self, idle: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
        self.head = nn.Linear(8, 2)
        if idle:
            self.idle = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.trunk(x))


def terms_of(output, y):
    near, far = (output - y).unbind(1)
    return {"near": near.square().mean(), "far": 5 * far.abs().mean()}


def data():
    """In the order in which two ranks share it out: every second sample is of the other one."""
    generator = torch.Generator().manual_seed(1)
    count = 4 * 2 * MICRO_BATCHES * STEPS
    return torch.utils.data.TensorDataset(
        *(torch.randn(count, width, generator=generator) for width in (4, 2))
    )


def own_batches():
    x, y = data().tensors
    rank = dist.get_rank()
    return list(zip(x[rank::2].split(4), y[rank::2].split(4), strict=True))


def told(model, balancer):
    """The numbers of a training, for another process."""
    return (
        [one.tolist() for one in model.parameters()],
        balancer.weights.tolist(),
        [one.tolist() for one in balancer.parameters()],
        balancer.steps,
    )


def plainly(name, idle):
    """A plain loop on two ranks."""
    model, balancer = Net(idle), MAKES[name]()
    wrapped = DistributedDataParallel(model, find_unused_parameters=idle)
    optimizer = torch.optim.Adam([*model.parameters(), *balancer.parameters()], lr=1e-2)
    for k, (x, y) in enumerate(own_batches()):
        last = (k + 1) % MICRO_BATCHES == 0
        wrapped.require_backward_grad_sync = last
        balancer.backward(
            terms_of(wrapped(x), y),
            wrapped,
            factor=1 / MICRO_BATCHES,
            refresh=None if k % MICRO_BATCHES == 0 else False,
        )
        if last:
            optimizer.step()
            optimizer.zero_grad()
    return told(model, balancer)


def by_lightning(name, idle, folder):
    as_launched()
    import lightning as L

    from lossproof.integrations.lightning import BalancedTerms, watch_callback

    class Module(BalancedTerms, L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.balancer = Net(idle), MAKES[name]()

        def training_step(self, batch, _):
            x, y = batch
            return self.balance(self.balancer, terms_of(self.net(x), y))

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    module = Module()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_find_unused_parameters_true" if idle else "ddp",
        use_distributed_sampler=False,  # it would shuffle
        max_epochs=1,
        accumulate_grad_batches=MICRO_BATCHES,
        callbacks=[watch_callback(on_alarm="raise")] if not idle else [],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
        default_root_dir=folder,
    )
    trainer.fit(module, torch.utils.data.DataLoader(own_batches(), batch_size=None))
    assert trainer.world_size == 2
    return told(module.net, module.balancer)


def by_accelerate(name, idle, folder):
    as_launched()
    from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType

    from lossproof.integrations.accelerate import AcceleratedBalancer

    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=MICRO_BATCHES,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=idle)],
    )
    assert accelerator.distributed_type == DistributedType.MULTI_CPU
    net, balancer = Net(idle), MAKES[name]()
    optimizer = torch.optim.Adam([*net.parameters(), *balancer.parameters()], lr=1e-2)
    model, optimizer = accelerator.prepare(net, optimizer)
    balance = AcceleratedBalancer(accelerator, balancer, model)
    synchronised = []
    for x, y in own_batches():
        with accelerator.accumulate(model):
            balance.backward(terms_of(model(x), y))
            synchronised.append(model.require_backward_grad_sync)
            optimizer.step()
            optimizer.zero_grad()
    assert synchronised == [False, True] * STEPS
    return told(net, balancer)


@pytest.mark.parametrize("idle", [False, True])
@pytest.mark.parametrize("name", MAKES)
@pytest.mark.parametrize("train", [by_lightning, by_accelerate])
def test_two_ranks_train_as_in_a_plain_loop(ranks, tmp_path, train, name, idle):
    pytest.importorskip({by_lightning: "lightning", by_accelerate: "accelerate"}[train])
    one, other = ranks.run(train, name, idle, Path(tmp_path))
    assert one == other
    expected, _ = ranks.run(plainly, name, idle)
    for ours, theirs in zip(tree_leaves(one), tree_leaves(expected), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-7)
    assert one[3] == STEPS


def by_trainer(name, folder, batch_size, accumulate):
    as_launched()
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    from lossproof.integrations.transformers import BalancedTerms, loss_function
    from lossproof.losses import cross_entropy_loss

    class BalancedTrainer(BalancedTerms, Trainer):
        pass

    rows = []
    generator = torch.Generator().manual_seed(1)
    for k in range(16):
        words = torch.randint(0, 29, (9,), generator=generator)
        labels = words.clone()
        labels[3 if k % 4 else 9 :] = -100
        rows.append({"input_ids": words, "labels": labels})
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "max_position_embeddings": 16}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=29, **sizes, **heads, attn_implementation="eager")
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=2,
        gradient_accumulation_steps=accumulate,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        save_strategy="no",
        logging_steps=1,
        learning_rate=0.1,
        optim="sgd",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        ddp_backend="gloo",
        dataloader_pin_memory=False,
    )
    term = loss_function(cross_entropy_loss, causal=True)
    loss = {"compute_loss_func": term}
    if name is not None:
        size = {"far": lambda outputs, labels: outputs.logits.square().mean()}
        loss = {"terms": {"near": term, **size}, "balancer": MAKES[name]()}
    trainer = (Trainer if name is None else BalancedTrainer)(
        model=LlamaForCausalLM(config).double(),
        args=args,
        train_dataset=rows,
        eval_dataset=rows[:4] * 2,
        **loss,
    )
    trainer.train()
    assert trainer.args.world_size == (dist.get_world_size() if dist.is_initialized() else 1)
    figures = [
        {key: row[key] for key in row if key.startswith("terms/") or key in ("loss", "grad_norm")}
        for row in trainer.state.log_history
        if "loss" in row
    ]
    return (
        [one.tolist() for one in trainer.model.parameters()],
        figures,
        trainer.evaluate()["eval_loss"],
    )


def test_tokens_are_counted_over_all_ranks(ranks, tmp_path):
    pytest.importorskip("transformers")
    parts, others = ranks.run(by_trainer, None, tmp_path, 2, 2)
    assert parts == others
    whole, _ = ranks.run(by_trainer, None, tmp_path, 4, 1)
    for ours, theirs in zip(tree_leaves(parts), tree_leaves(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", MAKES)
def test_a_balancer_in_a_trainer_on_two_ranks(ranks, tmp_path, name):
    pytest.importorskip("transformers")
    one, other = ranks.run(by_trainer, name, tmp_path, 2, 2)
    assert one[0] == other[0]
    assert one[2] == other[2]
    assert len(one[1]) == 2
