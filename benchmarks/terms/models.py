"""The networks on which the engine is measured: one trunk, and K heads with a term each."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

OUTPUTS = 8
"""The outputs of a head."""


def mlp(width: int, depth: int, inputs: int) -> nn.Sequential:
    """Linear layers with a tanh after each."""
    layers: list[nn.Module] = []
    for before, after in zip([inputs] + [width] * depth, [width] * depth, strict=False):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers)


def cnn() -> nn.Sequential:
    """Four convolutions with group norms, pooled to 256 features."""
    layers: list[nn.Module] = []
    for before, after, stride in ((3, 32, 1), (32, 64, 2), (64, 128, 2), (128, 128, 1)):
        convolution = nn.Conv2d(before, after, 3, stride, padding=1)
        layers += [convolution, nn.GroupNorm(8, after), nn.ReLU()]
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 256), nn.ReLU()]
    return nn.Sequential(*layers, *pooled)


class Block(nn.Module):
    """Self-attention and two linear layers, each behind a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.queries_keys_values(self.before(x))
        parts = parts.view(batch, length, 3, self.heads, width // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(width // self.heads)
        seen = (scores.softmax(-1) @ values).transpose(1, 2).reshape(batch, length, width)
        x = x + self.mixed(seen)
        return x + self.down(F.gelu(self.up(self.between(x))))


class Transformer(nn.Module):
    """Two blocks on tokens, whose mean is the features."""

    def __init__(self, width: int = 128, heads: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Linear(64, width)
        self.blocks = nn.Sequential(Block(width, heads), Block(width, heads))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.blocks(self.embedding(x))).mean(1)


MODELS = {
    "mlp": "4 x 512, batch 256",
    "mlpwide": "4 x 2048, batch 64",
    "cnn": "4 convolutions, 32 x 32 pixels, batch 16",
    "transformer": "2 blocks of width 128, 32 tokens, batch 16",
    "pinn": "3 x 50, batch 128",
}


def trunk_and_inputs(model: str) -> tuple[nn.Module, Tensor, int]:
    """The shared part of a model, a batch for it, and how many features it gives."""
    if model == "mlp":
        return mlp(512, 4, 512), torch.randn(256, 512), 512
    if model == "mlpwide":
        return mlp(2048, 4, 2048), torch.randn(64, 2048), 2048
    if model == "cnn":
        return cnn(), torch.randn(16, 3, 32, 32), 256
    if model == "transformer":
        return Transformer(), torch.randn(16, 32, 64), 128
    return mlp(50, 3, 2), torch.randn(128, 2), 50


class Heads:
    """K terms on the features of one trunk: a linear head and a mean squared error each."""

    def __init__(self, model: str, count: int) -> None:
        torch.manual_seed(0)
        self.trunk, self.inputs, features = trunk_and_inputs(model)
        self.heads = nn.ModuleList(nn.Linear(features, OUTPUTS) for _ in range(count))
        self.network = nn.ModuleList([self.trunk, self.heads])
        self.targets = [torch.randn(len(self.inputs), OUTPUTS) for _ in range(count)]
        self.shared = list(self.trunk.parameters())
        self.parameters = list(self.network.parameters())
        self.count = count

    def forward(self) -> tuple[Tensor, list[Tensor]]:
        """The features, and the terms."""
        features = self.trunk(self.inputs)
        pairs = zip(self.heads, self.targets, strict=True)
        return features, [F.mse_loss(head(features), target) for head, target in pairs]

    def clear(self) -> None:
        """No gradients, and no Jacobians of TorchJD."""
        clear(self.parameters)


class Segments:
    """K terms on disjoint samples of one network with one head: the points of a PINN."""

    def __init__(self, model: str, count: int) -> None:
        torch.manual_seed(0)
        trunk, inputs, features = trunk_and_inputs(model)
        self.network = nn.Sequential(trunk, nn.Linear(features, 1))
        self.parameters = list(self.network.parameters())
        if model == "pinn":  # there each term has a batch of its own
            inputs = torch.randn(len(inputs) * count, inputs.shape[1])
        self.inputs = list(inputs.split(len(inputs) // count))
        self.targets = [torch.randn(len(part), 1) for part in self.inputs]
        self.count = count

    def separate(self) -> list[Tensor]:
        """The terms, from a forward pass for each."""
        pairs = zip(self.inputs, self.targets, strict=True)
        return [F.mse_loss(self.network(part), target) for part, target in pairs]

    def joined(self) -> list[Tensor]:
        """The terms, from one forward pass over all samples that is split."""
        predicted = self.network(torch.cat(self.inputs)).split(len(self.inputs[0]))
        pairs = zip(predicted, self.targets, strict=True)
        return [F.mse_loss(part, target) for part, target in pairs]

    def clear(self) -> None:
        """No gradients, and no Jacobians of TorchJD."""
        clear(self.parameters)


def clear(parameters: list[nn.Parameter]) -> None:
    """Forget what the step before left at the parameters."""
    for parameter in parameters:
        parameter.grad = None
        if hasattr(parameter, "jac"):
            del parameter.jac
