"""Calls of what makes losses fast or small: `chunk`, `pairs`, `fuse` and `embed`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from random import Random
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn import functional

import lossproof
from benchmarks.fuzz import odd, users_own
from benchmarks.fuzz.examine import Call, with_gradients
from benchmarks.fuzz.write import tensor_of
from lossproof.errors import UnsupportedGraphError
from lossproof.speed import embed
from lossproof.speed.separability import NotSeparableError

Tensor = torch.Tensor
WIDTH, CLASSES = 6, 9
UNSEPARABLE = "is drawn at random|could not be tried"


def call_of_chunk(random: Random) -> Callable[[], Call]:
    """A loss over an output layer, in chunks."""
    seed = random.randrange(2**16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = (
            nn.Linear(WIDTH, CLASSES),
            nn.Embedding(CLASSES, WIDTH),
            nn.Sequential(nn.Linear(WIDTH, 4), nn.Tanh(), nn.Linear(4, CLASSES)),
            torch.randn(CLASSES, WIDTH),
        )
        hidden: Any = torch.randn(random.choice((0, 1, 5, 40)), WIDTH)
    usual = True
    loss: Any = random.choice((*(functional.cross_entropy,) * 4, *(users_own.of_rows,) * 4))
    head: Any = random.choice(heads)
    target: Any = torch.arange(len(hidden)) % CLASSES
    if random.random() < 0.2:
        target = torch.where(target == 1, -100, target)
        usual = False  # a loss of the user's own may not know it
    if random.random() < 0.1:
        loss = random.choice((*users_own.LOSSES_OF_LOGITS, odd.no_function(random)))
        usual = False
    if random.random() < 0.08:
        head = random.choice((odd.no_function(random), nn.Linear(WIDTH + 1, CLASSES), nn.ReLU()))
        usual = False
    made: dict[str, Any] = {}
    for name in ("reduction", "ignore_index", "chunk_size", "chunk_bytes", "target_head"):
        chance = random.random()
        if chance < 0.05:
            made[name], usual = odd.option(random), False
        elif chance < 0.3 and name == "reduction":
            made[name] = random.choice(("none", "mean", "sum", "batchmean"))
        elif chance < 0.3 and name == "chunk_size":
            made[name] = random.choice((1, 3, 1000))
        elif chance < 0.3 and name == "ignore_index":
            made[name] = -100
    asked: dict[str, Any] = {}
    for name in random.sample(("weight", "mask", "normalizer", "cap"), random.choice((0, 0, 1))):
        shape = hidden.shape[:1]
        right = {"weight": torch.ones(shape), "mask": torch.ones(shape, dtype=torch.bool),
                 "normalizer": 3.0, "cap": 30.0}[name]  # fmt: skip
        asked[name] = right if random.random() < 0.6 else odd.option(random)
        usual = usual and asked[name] is right and name != "cap"
    hidden = odd.unusual_layout(random, hidden) if random.random() < 0.5 else hidden
    if random.random() < 0.15:
        hidden, usual = odd.changed(random, hidden), False
    if random.random() < 0.15:
        target, usual = odd.changed(random, target), False

    def run() -> Any:
        chunked = lossproof.chunk(loss, head, **made)
        repr(chunked)
        leaves = [hidden, *chunked.parameters(), asked.get("weight")]
        return with_gradients(chunked(hidden, target, **asked), leaves)

    def make() -> Call:
        return Call(
            run,
            [hidden, target, head, made, asked],
            frozenset({"loss", "head", "hidden", "target", "arguments", "reduction", "chunk_size",
                       "chunk_bytes", "ignore_index", "target_head", "compile", "weight", "mask",
                       "normalizer", "values", "logits", *made, *asked}),
            ordinary=usual,
            errors=(
                *((UnsupportedGraphError, ""), (NotSeparableError, "depends on the batch")),
                (Exception, "[Tt]arget|mat1"),  # what torch's cross entropy and layers say
            ),
        )  # fmt: skip

    return make


def call_of_pairs(random: Random) -> Callable[[], Call]:
    """A reduction over all pairs."""
    usual = True
    pair_fn: Any = random.choice((users_own.products, users_own.gaps))
    reduce: Any = random.choice(("sum", "mean", "logsumexp", "max", "min"))
    if random.random() < 0.12:
        pair_fn = random.choice((*users_own.PAIR_FUNCTIONS, odd.no_function(random)))
        usual = False
    if random.random() < 0.06:
        reduce, usual = odd.option(random), False
    made: dict[str, Any] = {}
    for name in ("dim", "block_size", "across_ranks"):
        chance = random.random()
        if chance < 0.05:
            made[name], usual = odd.option(random), False
        elif chance < 0.4 and name == "dim":
            made[name] = random.choice((0, 1, (0, 1), (1, 0)))
        elif chance < 0.4 and name == "block_size":
            made[name] = random.choice((1, 2, 100))
    rows = random.choice((0, 1, 4, 7))
    x, ordinary = tensor_of(random, (rows, 3))
    y: Any = None
    if random.random() < 0.6:
        y, also = tensor_of(random, (random.choice((1, 5, 8)), 3))
        ordinary = ordinary and also and y.dtype == x.dtype
    shared = {"scale": odd.option(random)} if random.random() < 0.05 else {}
    usual = usual and ordinary and rows > 0 and not shared

    def make() -> Call:
        return Call(
            lambda: _all_with_gradients(
                lossproof.pairs(pair_fn, reduce, **made)(x, y, **shared), [x, y]
            ),
            [x, y, made, shared],
            frozenset({"pair_fn", "reduce", "x", "y", *shared, "dim", "block_size",
                       "across_ranks"}),
            ordinary=usual,
            errors=((UnsupportedGraphError, ""),),
            warns=("The use of `x.T`",),  # by a function that is given other rows than it thinks
        )  # fmt: skip

    return make


def _all_with_gradients(values: Any, leaves: list[Any]) -> Any:
    several = values if isinstance(values, tuple) else (values,)
    return [*several, with_gradients(sum(one.sum() for one in several), leaves)]


def call_of_fuse(random: Random) -> Callable[[], Call]:
    """A loss in one sweep; the programs run one operation after the other, uncompiled."""
    usual = True
    loss: Any = random.choice((users_own.squared, users_own.smooth, users_own.Squared()))
    if random.random() < 0.1:
        loss, usual = random.choice((odd.no_function(random), users_own.Squared)), False
    options: dict[str, Any] = {"measure": False}
    for name in ("measure", "dynamic"):
        if random.random() < 0.06:
            options[name], usual = odd.option(random), False
    input, ordinary = tensor_of(random, random.choice(((4, 3), (5,), (0, 2), ())))
    target = torch.zeros_like(input) if ordinary else input
    if random.random() < 0.1:
        target, usual = odd.changed(random, target) if ordinary else None, False

    def run() -> Any:
        with interpreted():
            fused = lossproof.fuse(loss, **options)
            found = with_gradients(fused(input, target), [input])
            fused.report()
            return found

    def make() -> Call:
        return Call(
            run,
            [input, target, options],
            frozenset({"loss", "measure", "dynamic"}),
            ordinary=ordinary and usual and input.numel() > 0,
            warns=("the loss ", "__torch_function__"),
        )

    return make


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """Graphs are run as they are: a C++ compiler would take seconds for each."""
    with contextlib.ExitStack() as stack:
        for module in ("fuse_programs", "fuse_compiled"):
            place = f"lossproof.speed.{module}.inductor"
            stack.enter_context(mock.patch(place, lambda graph, inputs: graph))
        yield


def call_of_embed(random: Random) -> Callable[[], Call]:
    """Embeddings of a batch in parts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random.randrange(2**16))
        encoder: Any = users_own.Encoder()
    usual = True
    if random.random() < 0.1:
        encoder, usual = odd.no_function(random), False
    options: dict[str, Any] = {"chunk_size": 2}
    if random.random() < 0.2:
        options["chunk_size"], usual = odd.option(random), False
    x, ordinary = tensor_of(random, (random.choice((0, 1, 5)), 3))
    ordinary = ordinary and x.dtype == torch.float32

    def run() -> Any:
        parameters = list(encoder.parameters()) if isinstance(encoder, nn.Module) else []
        return with_gradients(embed(encoder, x, **options), [x, *parameters])

    def make() -> Call:
        return Call(
            run,
            [x, encoder, options],
            frozenset({"encoder", "inputs", *options}),
            ordinary=ordinary and usual,
        )

    return make
