"""Two tasks on one trunk in PyTorch Lightning: a balancer in automatic optimisation.

The terms of the loss go to a balancer, and what Lightning does with a loss stays Lightning's:
accumulation, clipping, checkpoints, loggers. The value is in other units than the label, so that
its gradient is far larger; the balancer is set beside the plain sum. Run it with
``python examples/lightning_multi_task.py``; it takes some seconds.
"""

import argparse
import csv
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lossproof.integrations.lightning import BalancedTerms
from lossproof.losses import cross_entropy_loss, mse_loss
from lossproof.terms import Balancer, FixedWeights, LearningRateAnnealing

NAMES = ("value", "label")
UNITS = 30.0


class Net(BalancedTerms, LightningModule):
    """A trunk with a head that predicts a value, and one for a label."""

    def __init__(self, balancer: Balancer) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh())
        self.value = nn.Linear(24, 1)
        self.label = nn.Linear(24, 2)
        self.balancer = balancer

    def training_step(self, batch: tuple[torch.Tensor, ...], _: int) -> torch.Tensor:
        """The terms of a batch, weighed by the balancer."""
        x, value, label = batch
        hidden = self.trunk(x)
        terms = {
            "value": mse_loss(self.value(hidden), value),
            "label": cross_entropy_loss(self.label(hidden), label),
        }
        return self.balance(self.balancer, terms)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, as ever."""
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def data(count: int, seed: int) -> TensorDataset:
    """A value and a label that depend on the same product."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 8, generator=generator)
    product = x[:, :1] * x[:, 1:2]
    return TensorDataset(x, UNITS * product, (product[:, 0] + 0.5 * x[:, 2] > 0).long())


def trained(balancer: Balancer, folder: Path, epochs: int) -> tuple[Net, list[dict[str, str]]]:
    """Train a net; also give back what the logger wrote."""
    seed_everything(0, verbose=False)
    module = Net(balancer)
    logger = CSVLogger(folder, name=type(balancer).__name__)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=logger,
        log_every_n_steps=5,
        gradient_clip_val=100.0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, DataLoader(data(1024, seed=1), batch_size=64))
    with open(Path(logger.log_dir) / "metrics.csv", encoding="utf-8") as file:
        return module, list(csv.DictReader(file))


@torch.no_grad()
def errors(module: Net) -> tuple[float, float]:
    """On data that was not trained on: of the value in its units, of the label in per cent."""
    x, value, label = data(1024, seed=2).tensors
    hidden = module.trunk(x)
    of_label = (module.label(hidden).argmax(1) != label).float().mean()
    return float((module.value(hidden) - value).square().mean().sqrt()), 100 * float(of_label)


def main() -> None:
    """Train with both, and show what was logged."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--folder", type=Path, default=Path("lightning_logs"))
    options = parser.parse_args()
    balancers = {
        "plain sum": FixedWeights(dict.fromkeys(NAMES, 1.0)),
        "annealed": LearningRateAnnealing(NAMES, reference="value", every=5),
    }
    print("            error of value  wrong labels  weight of label: first, last")
    for name, balancer in balancers.items():
        module, rows = trained(balancer, options.folder, options.epochs)
        value, label = errors(module)
        first, last = (float(rows[k]["terms/weight/label"]) for k in (0, -1))
        print(f"{name:>10}  {value:14.2f}  {label:10.1f} %  {first:.3g}, {last:.3g}")


if __name__ == "__main__":
    main()
