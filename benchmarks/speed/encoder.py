"""A contrastive loss on an encoder whose batch is larger than the memory for its activations."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.harness.study import Case, Kind, Method, Step, Study
from benchmarks.speed.pair_losses import info_nce, info_nce_pairs

WIDTH, LAYERS, ROWS, CHUNK, SCALE = 128, 4, 4096, 256, 14.0
PLAIN = "eager"
CHECKPOINT, CHECKPOINT_PAIRS = "checkpoint, plain loss", "checkpoint, lossproof pairs"
EMBED, EMBED_PAIRS = "lossproof embed, plain loss", "lossproof embed, pairs"


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(0.1),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Encoder(nn.Module):
    """Residual blocks and unit vectors."""

    def __init__(self, width: int = WIDTH, layers: int = LAYERS) -> None:
        super().__init__()
        self.body = nn.Sequential(*(Block(width) for _ in range(layers)), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.body(x), dim=1)


Embedding = Callable[[nn.Module, Tensor], Tensor]


def whole(encoder: nn.Module, x: Tensor) -> Tensor:
    found: Tensor = encoder(x)
    return found


def checkpointed(encoder: nn.Module, x: Tensor) -> Tensor:
    """Micro-batches by hand."""
    return torch.cat([checkpoint(encoder, part, use_reentrant=False) for part in x.split(CHUNK)])


def embedded(encoder: nn.Module, x: Tensor) -> Tensor:
    from lossproof.speed.embedding import embed

    found: Tensor = embed(encoder, x, chunk_size=CHUNK)
    return found


WAYS: dict[str, tuple[Embedding, Callable[..., Tensor]]] = {
    PLAIN: (whole, info_nce),
    CHECKPOINT: (checkpointed, info_nce),
    CHECKPOINT_PAIRS: (checkpointed, info_nce_pairs),
    EMBED: (embedded, info_nce),
    EMBED_PAIRS: (embedded, info_nce_pairs),
}


def make(case: Case, method: Method) -> Step:
    """Both views are encoded, and compared; the seed of the dropout is the same for all."""
    embedding, loss = WAYS[method.name]
    encoder = Encoder()
    first = torch.randn(case["rows"], WIDTH)
    second = first + 0.1 * torch.randn(case["rows"], WIDTH)
    scale = torch.tensor(SCALE)
    value: list[Tensor] = []

    def forward() -> None:
        torch.manual_seed(1)
        value.append(loss(embedding(encoder, first), embedding(encoder, second), scale))

    def gradient() -> float:
        """The norm of the gradient in all parameters, without the dropout."""
        encoder.eval().zero_grad()
        forward()
        value.pop().backward()
        return float(torch.cat([p.grad.flatten() for p in encoder.parameters()]).norm())

    return Step(
        {"forward": forward, "backward": lambda: value.pop().backward()},
        before=encoder.zero_grad,
        facts=lambda: {"norm of the gradient": gradient()},
    )


STUDY = Study(
    name="speed_embed",
    title="Batches larger than the memory of their encoder",
    asks="what do cached micro-batches save, alone and with a loss without the matrix of pairs?",
    takes="2 min",
    cases=(Case(f"{LAYERS} layers, N = {ROWS:,}", {"rows": ROWS}),),
    methods=(
        Method(PLAIN, Kind.plain),
        Method(CHECKPOINT),
        Method(CHECKPOINT_PAIRS, Kind.ours),
        Method(EMBED, Kind.ours),
        Method(EMBED_PAIRS, Kind.ours),
    ),
    make=make,
    baseline=PLAIN,
    rounds=9,
    sources=("benchmarks.speed.pair_losses",),
)
