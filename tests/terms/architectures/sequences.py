"""Recurrent networks and attention."""

from __future__ import annotations

from functools import partial

import torch
from tests.terms.architectures.registry import (
    Built,
    architecture,
    built,
    losses,
    parameter,
    register,
    squares,
)
from torch import nn

F = nn.functional


def _recurrent(kind: type[nn.RNNBase], **options: object) -> Built:
    x = torch.randn(3, 5, 4)
    model = nn.ModuleDict(
        {"rnn": kind(4, 6, batch_first=True, **options), "head": nn.LazyLinear(2)}
    )
    states, _ = model["rnn"](x)
    outputs = model["head"](states)
    return built(squares(outputs[:, -1], outputs[:, :2], states), model, x)


for _kind in (nn.RNN, nn.LSTM, nn.GRU):
    register(_kind.__name__, partial(_recurrent, _kind))
register(
    "LSTM_of_two_layers_both_ways", partial(_recurrent, nn.LSTM, num_layers=2, bidirectional=True)
)


def _cell(kind: type[nn.RNNCellBase]) -> Built:
    x = torch.randn(5, 3, 4)
    model = nn.ModuleDict({"cell": kind(4, 6), "head": nn.Linear(6, 1)})
    state, terms = None, {}
    for step, one in enumerate(x):
        state = model["cell"](one, state)
        hidden = state[0] if isinstance(state, tuple) else state
        terms[f"step {step}"] = (model["head"](hidden) - step).square().mean()
    return built(terms, model, x)


for _kind in (nn.RNNCell, nn.LSTMCell, nn.GRUCell):
    register(_kind.__name__, partial(_cell, _kind))


@architecture
def packed_sequence() -> Built:
    x = torch.randn(3, 5, 4)
    model = nn.GRU(4, 6, batch_first=True)
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 3, 2]), batch_first=True)
    states, _ = nn.utils.rnn.pad_packed_sequence(model(packed)[0], batch_first=True)
    return built(squares(states[0], states[1, :3], states[2, :2]), model, x)


def _encoder(norm_first: bool) -> Built:
    x = torch.randn(2, 5, 8)
    layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True, norm_first=norm_first)
    model = nn.ModuleDict(
        {"encoder": layer, "heads": nn.ModuleList(nn.Linear(8, k + 1) for k in range(3))}
    )
    tokens = model["encoder"](x)
    return built(squares(*(head(tokens) for head in model["heads"])), model, x)


register("transformer_encoder", partial(_encoder, False))
register("transformer_encoder_norm_first", partial(_encoder, True))


@architecture
def transformer_with_dropout() -> Built:
    x = torch.randn(2, 5, 8)
    model = nn.TransformerEncoderLayer(8, 2, 12, 0.3, batch_first=True)
    return built(losses(model(x)), model, x)


@architecture
def multihead_attention() -> Built:
    x, memory = torch.randn(2, 4, 8), torch.randn(2, 6, 6)
    model = nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True, add_bias_kv=True)
    out, shares = model(x, memory, memory)
    return built({**losses(out), "entropy": -(shares * shares.log()).sum()}, model, x, memory)


@architecture
def self_attention_of_one_projection() -> Built:
    """Query, key and value are thirds of one product."""
    x = torch.randn(2, 5, 6)
    model = nn.ModuleDict({"qkv": nn.Linear(6, 18), "out": nn.Linear(6, 6)})
    q, k, v = (part.unflatten(-1, (2, 3)).transpose(1, 2) for part in model["qkv"](x).chunk(3, -1))
    attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    out = model["out"](attended.transpose(1, 2).flatten(2))
    return built(squares(out[:, :2], out[:, 2:], out.mean(1)), model, x)


@architecture
def language_model_with_tied_head() -> Built:
    """The embedding is the output layer too."""
    tokens = torch.randint(0, 7, (3, 6))
    embedding = nn.Embedding(7, 5)
    head = nn.Linear(5, 7, bias=False)
    head.weight = embedding.weight
    model = nn.ModuleDict({"embedding": embedding, "mix": nn.Linear(5, 5), "head": head})
    logits = model["head"](model["mix"](model["embedding"](tokens)).tanh())
    next_token = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    smooth = logits.logsumexp(-1).square().mean()
    return built(
        {"next": next_token, "z": smooth, "decay": embedding.weight.square().sum()}, model, tokens
    )


@architecture
def positions_added() -> Built:
    """A parameter that is broadcast over the batch."""
    x = torch.randn(3, 4, 6)
    positions, start, model = parameter(4, 6), parameter(1, 1, 6), nn.Linear(6, 5)
    tokens = torch.cat([start.expand(3, 1, 6), x + positions], 1)
    out = model(tokens).tanh()
    params = {"positions": positions, "start": start, **dict(model.named_parameters())}
    return built(squares(out[:, 0], out[:, 1:], out), params, x)
