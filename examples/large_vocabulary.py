"""A language model with a large vocabulary, trained with and without its logits.

The words are made up on the spot, and what follows a word can be learned. The loss is one's own:
soft-capped logits, cross entropy and a z-loss; padding does not count, the prompt of a sentence
counts little, a batch comes in micro-batches of unequal numbers of tokens, and the output layer
shares its weight with the embedding. The same loss is trained twice: as it is written, where it
holds the logits of all tokens several times over, and in chunks of them with `lossproof.chunk`.

    python examples/large_vocabulary.py
    python examples/large_vocabulary.py --words 50000 --sentences 64
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import lossproof

IGNORED = -100
LENGTH = 24
"""The most words of a sentence."""
PROMPT = 4
"""The first words of each are a prompt, and count a tenth."""


def token_loss(logits: Tensor, target: Tensor, cap: float = 30.0, z: float = 1e-4) -> Tensor:
    """The value of each token: as anyone would write it, for logits (N, C) and classes (N,)."""
    logits = cap * torch.tanh(logits / cap)
    log_total = logits.logsumexp(1)
    own = logits.gather(1, target.unsqueeze(1)).squeeze(1)
    return log_total - own + z * log_total.square()


@dataclass(frozen=True)
class MicroBatch:
    """Some sentences: what is read, what comes next, and how much that counts."""

    words: Tensor
    next_words: Tensor
    weight: Tensor

    @property
    def counted(self) -> Tensor:
        """The sum of the weights that count."""
        return torch.where(self.next_words == IGNORED, 0.0, self.weight).sum()


class Language:
    """Made-up words; each is followed by one of three others."""

    def __init__(self, words: int) -> None:
        syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "or")]
        made = ("".join(parts) for parts in itertools.product(syllables, repeat=3))
        self.random = random.Random(0)
        self.names = list(itertools.islice(made, words))
        self.random.shuffle(self.names)
        common = range(min(300, words))
        self.following = {word: self.random.sample(range(words), 3) for word in range(words)}
        for word in common:  # what is said often leads to what is said often
            self.following[word] = self.random.sample(common, 3)

    def sentence(self) -> list[int]:
        """Between half and all of the most words."""
        found = [self.random.randrange(min(300, len(self.names)))]
        for _ in range(self.random.randrange(LENGTH // 2, LENGTH)):
            found.append(self.random.choice(self.following[found[-1]]))
        return found

    def micro_batch(self, sentences: int) -> MicroBatch:
        """Sentences of unequal lengths, padded."""
        words = torch.zeros(sentences, LENGTH, dtype=torch.long)
        next_words = torch.full((sentences, LENGTH), IGNORED)
        for row in range(sentences):
            said = torch.tensor(self.sentence())
            words[row, : len(said) - 1] = said[:-1]
            next_words[row, : len(said) - 1] = said[1:]
        weight = torch.ones(sentences, LENGTH)
        weight[:, :PROMPT] = 0.1
        return MicroBatch(words, next_words, weight)


class Model(nn.Module):
    """Reads words, and says for each a hidden state; the output layer is the embedding."""

    def __init__(self, words: int, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.body = nn.GRU(width, width, batch_first=True)

    def forward(self, words: Tensor) -> Tensor:
        """Hidden states (B, T, H)."""
        hidden: Tensor = self.body(self.embedding(words))[0]
        return hidden


Loss = Callable[[MicroBatch, Tensor], Tensor]
"""From a micro-batch, and what the mean divides by."""


def plain_loss(model: Model) -> Loss:
    """The loss through all logits at once."""

    def loss(batch: MicroBatch, normalizer: Tensor) -> Tensor:
        logits = model(batch.words).flatten(0, 1) @ model.embedding.weight.T
        target, weight = batch.next_words.flatten(), batch.weight.flatten()
        counts = target != IGNORED
        values = token_loss(logits, torch.where(counts, target, 0))
        return torch.where(counts, weight * values, 0.0).sum() / normalizer

    return loss


def chunked_loss(model: Model) -> Loss:
    """The same loss, a chunk of tokens at a time."""
    chunked = lossproof.chunk(token_loss, model.embedding, ignore_index=IGNORED, chunk_size=128)

    def loss(batch: MicroBatch, normalizer: Tensor) -> Tensor:
        hidden, target = model(batch.words), batch.next_words
        value: Tensor = chunked(hidden, target, weight=batch.weight, normalizer=normalizer)
        return value

    return loss


def step(batch: list[MicroBatch], loss: Loss) -> float:
    """Fill `.grad` from micro-batches: all are divided by what counts in the whole batch."""
    normalizer = torch.stack([micro.counted for micro in batch]).sum()
    total = 0.0
    for micro in batch:
        value = loss(micro, normalizer)
        value.backward()
        total += value.item()
    return total


def train(
    way: Callable[[Model], Loss], words: int, sentences: int, steps: int
) -> tuple[list[float], int]:
    """The loss of each step, and the most bytes that a step holds."""
    torch.manual_seed(0)
    model, language = Model(words), Language(words)
    loss = way(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    curve = []
    for _ in range(steps):
        batch = [language.micro_batch(sentences) for _ in range(2)]
        curve.append(step(batch, loss))
        optimizer.step()
        optimizer.zero_grad()
    return curve, most_held(lambda: step(batch, loss))


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


def main() -> None:
    """Train both ways, and put them side by side."""
    parser = argparse.ArgumentParser(description="Train with and without the logits.")
    parser.add_argument("--words", type=int, default=10_000)
    parser.add_argument("--sentences", type=int, default=24, help="of a micro-batch")
    parser.add_argument("--steps", type=int, default=15)
    options = parser.parse_args()

    language = Language(options.words)
    said = " ".join(language.names[word] for word in language.sentence())
    print(f"{options.words} words; a sentence: {said}.\n")
    ways = {"all logits": plain_loss, "in chunks": chunked_loss}
    found = {
        name: train(way, options.words, options.sentences, options.steps)
        for name, way in ways.items()
    }
    print("step" + "".join(f"{name:>12}" for name in ways))
    curves = [curve for curve, _ in found.values()]
    for number, values in enumerate(zip(*curves, strict=True)):
        if number % 5 == 0 or number == options.steps - 1:
            print(f"{number:4}" + "".join(f"{value:12.5f}" for value in values))
    apart = max(abs(a - b) / a for a, b in zip(*curves, strict=True))
    print(f"\nthe curves are at most {apart:.0e} apart, relative")
    for name, (_, most) in found.items():
        print(f"{name:>12} hold {most / 2**20:6.1f} MB at the most")


if __name__ == "__main__":
    main()
