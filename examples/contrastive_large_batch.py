"""Contrastive learning on a large batch, without its matrix of similarities or its activations.

Two views of the same samples (an image and its caption, say) go through an encoder each; InfoNCE
asks each view to find its partner among all of the batch, with a learned temperature. A larger
batch asks a harder question, and takes memory with its square. The same loss is trained twice: as
it is written, and with `lossproof.speed.embed` for the encoders and `lossproof.pairs` for the loss.

    python examples/contrastive_large_batch.py
    python examples/contrastive_large_batch.py --batch 16384 --steps 3
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

import lossproof
from lossproof.speed import embed

LATENT, VIEW, EMBEDDING = 8, 48, 32
MICRO_BATCH = 128


class Views:
    """Pairs of views of hidden causes, each by a fixed map of its own, with noise."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.maps = [self._normal(LATENT, VIEW) for _ in range(2)]

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Both views of new samples."""
        causes = self._normal(size, LATENT)
        first, second = (torch.tanh(causes @ one / 2) for one in self.maps)
        return first + 0.2 * self._normal(size, VIEW), second + 0.2 * self._normal(size, VIEW)

    def _normal(self, *size: int) -> Tensor:
        return torch.randn(*size, generator=self.generator)


class TwoEncoders(nn.Module):
    """An encoder for each view, and the logarithm of the scale of their similarities."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (self._encoder() for _ in range(2))
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    @staticmethod
    def _encoder() -> nn.Sequential:
        wide = 256
        layers = [nn.Linear(VIEW, wide), nn.GELU(), nn.LayerNorm(wide)]
        layers += [nn.Linear(wide, wide), nn.GELU(), nn.LayerNorm(wide)]
        return nn.Sequential(*layers, nn.Linear(wide, EMBEDDING))


def similarity(x: Tensor, y: Tensor, log_scale: Tensor) -> Tensor:
    """Of every row of `x` with every row of `y`."""
    return log_scale.exp() * x @ y.T


log_totals = lossproof.pairs(similarity, "logsumexp", dim=(1, 0))
"""Over each row and each column of the similarities, from one computation of each."""


def plain_loss(model: TwoEncoders, first: Tensor, second: Tensor) -> Tensor:
    """InfoNCE from the matrix of all similarities."""
    x, y = (functional.normalize(one) for one in (model.first(first), model.second(second)))
    logits = similarity(x, y, model.log_scale)
    partner = torch.arange(len(x))
    both = functional.cross_entropy(logits, partner), functional.cross_entropy(logits.T, partner)
    return sum(both) / 2


def blocked_loss(model: TwoEncoders, first: Tensor, second: Tensor) -> Tensor:
    """The same loss from blocks of the matrix and of the batch."""
    x = functional.normalize(embed(model.first, first, chunk_size=MICRO_BATCH))
    y = functional.normalize(embed(model.second, second, chunk_size=MICRO_BATCH))
    of_rows, of_columns = log_totals(x, y, log_scale=model.log_scale)
    own = model.log_scale.exp() * (x * y).sum(1)
    return ((of_rows + of_columns) / 2 - own).mean()


Loss = Callable[[TwoEncoders, Tensor, Tensor], Tensor]


def train(loss: Loss, batch: int, steps: int) -> tuple[list[float], TwoEncoders, int]:
    """The loss of each step, the model, and the most bytes that a step holds."""
    torch.manual_seed(0)
    model, views, curve = TwoEncoders(), Views(), []
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    for _ in range(steps):
        value = loss(model, *views.batch(batch))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        curve.append(value.item())
    model.zero_grad()
    some = views.batch(batch)
    return curve, model, most_held(lambda: loss(model, *some).backward())


def most_held(run: Callable[[], object]) -> int:
    """The most bytes of tensors above the start, as torch's profiler reports them.

    On a GPU one asks `torch.cuda.max_memory_allocated()`.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    events = seen.profiler.kineto_results.events()
    sizes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    sizes.sort(key=lambda event: event[0])
    return max(itertools.accumulate(size for _, size in sizes))


@torch.no_grad()
def found_partners(model: TwoEncoders, samples: int = 500) -> float:
    """How many new samples find their partner among all of them, as a share."""
    views = Views()
    views.generator.manual_seed(1)
    first, second = views.batch(samples)
    x, y = (functional.normalize(one) for one in (model.first(first), model.second(second)))
    return ((x @ y.T).argmax(1) == torch.arange(samples)).float().mean().item()


def main() -> None:
    """Train both ways, and put them side by side."""
    parser = argparse.ArgumentParser(description="Train with and without the matrix of all pairs.")
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()

    ways: dict[str, Loss] = {"matrix": plain_loss, "blocks": blocked_loss}
    found = {name: train(loss, options.batch, options.steps) for name, loss in ways.items()}
    curves = [curve for curve, _, _ in found.values()]
    print(f"{options.batch} samples in a batch\n")
    print("step" + "".join(f"{name:>12}" for name in ways))
    for number, values in enumerate(zip(*curves, strict=True)):
        if number % 3 == 0 or number == options.steps - 1:
            print(f"{number:4}" + "".join(f"{value:12.5f}" for value in values))
    apart = max(abs(a - b) / a for a, b in zip(*curves, strict=True))
    print(f"\nthe curves are at most {apart:.0e} apart, relative")
    for name, (_, model, most) in found.items():
        print(
            f"{name:>10} hold {most / 2**20:6.1f} MB at the most; "
            f"{100 * found_partners(model):.0f} % of 500 new samples find their partner"
        )


if __name__ == "__main__":
    main()
