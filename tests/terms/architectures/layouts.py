"""Batches whose rows are not what the first axis of some tensor on the way seems to say."""

from __future__ import annotations

import torch
from tests.terms.architectures.registry import Built, architecture, built, mlp, squares
from torch import nn

F = nn.functional


@architecture
def layout_time_first() -> Built:
    """As many steps as sequences: the first axis is not the batch, and nothing tells by sizes."""
    x = torch.randn(4, 4, 3)
    model = nn.ModuleDict({"a": nn.Linear(3, 6), "b": nn.Linear(6, 2)})
    out = model["b"](model["a"](x).tanh().transpose(0, 1))
    return built(squares(*out.split([1, 3])), model, x)


@architecture
def layout_time_first_and_flattened() -> Built:
    x = torch.randn(4, 2, 3)
    model = nn.ModuleDict({"a": nn.Linear(3, 6), "b": nn.Linear(6, 2)})
    flat = model["a"](x.reshape(8, 3)).tanh()
    out = model["b"](flat.view(4, 2, 6).transpose(0, 1).reshape(8, 6))
    return built(squares(*out.split([4, 4])), model, x)


@architecture
def layout_rows_in_columns() -> Built:
    """The rows of the output are the columns of the layer before."""
    x = torch.randn(5, 3)
    model = nn.ModuleDict({"a": nn.Linear(3, 5), "b": nn.Linear(5, 2)})
    out = model["b"](model["a"](x).tanh().t())
    return built(squares(*out.split([2, 3])), model, x)


@architecture
def layout_two_rows_regrouped() -> Built:
    """Of a batch of two nearly every size is a multiple."""
    x = torch.randn(2, 4)
    model = nn.ModuleDict({"a": nn.Linear(4, 6), "b": nn.Linear(3, 4), "c": nn.Linear(8, 2)})
    grouped = model["b"](model["a"](x).tanh().view(4, 3)).tanh()
    first, second = model["c"](grouped.view(2, 8)).split(1)
    return built(squares(first, second), model, x)


@architecture
def layout_two_rows_regrouped_across() -> Built:
    """The four groups of two rows are put together one of each row at a time."""
    x = torch.randn(2, 4)
    model = nn.ModuleDict({"a": nn.Linear(4, 6), "b": nn.Linear(3, 4), "c": nn.Linear(8, 2)})
    grouped = model["b"](model["a"](x).tanh().view(4, 3)).tanh()
    across = torch.cat([grouped[::2], grouped[1::2]], 1)
    mixed = grouped.view(2, 2, 4).permute(1, 0, 2).reshape(2, 8)
    out = model["c"](across + mixed)
    return built(squares(*out.split(1)), model, x)


@architecture
def layout_two_views_of_each_sample() -> Built:
    """Both halves of a batch hold the same samples, as in contrastive learning."""
    x = torch.randn(6, 3)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4))
    one, other = model(torch.cat([x, x + 0.1])).chunk(2)
    products = (one * other).sum(1, keepdim=True)
    return built(squares(*products.split([2, 4])), model, x)


@architecture
def layout_pairs_in_neighbouring_rows() -> Built:
    x = torch.randn(12, 3)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4))
    pairs = model(x).view(6, 2, 4)
    products = (pairs[:, 0] * pairs[:, 1]).sum(1, keepdim=True)
    return built(squares(*products.split([2, 4])), model, x)


@architecture
def layout_made_kernels() -> Built:
    """A convolution whose kernels another batch makes, as many as there are samples."""
    x, conditions = torch.randn(4, 2, 6), torch.randn(4, 3)
    model = nn.ModuleDict({"maker": nn.Linear(3, 6), "features": nn.Linear(6, 6)})
    kernels = model["maker"](conditions).tanh().view(4, 2, 3)
    out = F.conv1d(model["features"](x).tanh(), kernels)
    return built(squares(*out.split([1, 3])), model, x, conditions)


@architecture
def layout_made_factors() -> Built:
    """A product of two batches, of which one is the features and one their weights."""
    x, conditions = torch.randn(4, 3), torch.randn(4, 3)
    model = nn.ModuleDict({"x": nn.Linear(3, 4), "maker": nn.Linear(3, 4), "out": nn.Linear(4, 2)})
    out = model["out"](model["x"](x).tanh() @ model["maker"](conditions).tanh())
    return built(squares(*out.split([1, 3])), model, x, conditions)


@architecture
def layout_samples_as_channels() -> Built:
    """A convolution without a batch axis runs over the samples as its channels."""
    x = torch.randn(4, 6)
    model = nn.ModuleDict({"a": nn.Linear(6, 6), "mix": nn.Conv1d(4, 4, 3), "b": nn.Linear(4, 2)})
    out = model["b"](model["mix"](model["a"](x).tanh()))
    return built(squares(*out.split([1, 3])), model, x)


@architecture
def layout_heads_first_attention() -> Built:
    """As many heads as samples."""
    x = torch.randn(3, 5, 6)
    model = nn.ModuleDict({"qkv": nn.Linear(6, 18), "out": nn.Linear(6, 2)})
    q, k, v = model["qkv"](x).view(3, 5, 3, 6).unbind(2)
    heads = [part.view(3, 5, 3, 2).permute(2, 0, 1, 3).reshape(3, 15, 2) for part in (q, k, v)]
    shares = (heads[0] @ heads[1].transpose(1, 2)).softmax(-1)
    mixed = (shares @ heads[2]).view(3, 3, 5, 2).permute(1, 2, 0, 3).reshape(3, 5, 6)
    return built(squares(*model["out"](mixed).split([1, 2])), model, x)


@architecture
def layout_padding_of_a_second_batch() -> Built:
    """Another batch of twice as many rows is folded into the first."""
    x, y = torch.randn(4, 3), torch.randn(8, 3)
    model = nn.ModuleDict({"a": nn.Linear(3, 5), "b": nn.Linear(5, 2)})
    folded = model["a"](y).tanh().view(2, 4, 5).sum(0)
    out = model["b"](model["a"](x).tanh() + folded)
    return built(squares(*out.split([1, 3])), model, x, y)


@architecture
def layout_second_batch_row_by_row() -> Built:
    x, y = torch.randn(4, 3), torch.randn(8, 3)
    model = nn.ModuleDict({"a": nn.Linear(3, 5), "b": nn.Linear(5, 2)})
    folded = model["a"](y).tanh().view(4, 2, 5).sum(1)
    out = model["b"](model["a"](x).tanh() + folded)
    return built(squares(*out.split([1, 3])), model, x, y)


@architecture
def layout_rows_of_two_terms_at_two_depths() -> Built:
    """Each term reads its rows after the first layer, and those of the other after the second."""
    x = torch.randn(8, 3)
    model = nn.ModuleDict({"a": nn.Linear(3, 6), "b": nn.Linear(6, 2)})
    early = model["a"](x).tanh()
    late = model["b"](early)
    terms = {
        "one": early[:4].square().mean() + late[4:].sin().sum(),
        "other": early[4:].abs().mean() + late[:4].square().sum(),
    }
    return built(terms, model, x)


@architecture
def layout_same_rows_at_two_depths() -> Built:
    x = torch.randn(8, 3)
    model = nn.ModuleDict({"a": nn.Linear(3, 6), "b": nn.Linear(6, 2)})
    early = model["a"](x).tanh()
    late = model["b"](early)
    terms = {
        "one": early[:4].square().mean() + late[:4].sin().sum(),
        "other": early[4:].abs().mean() + late[4:].square().sum(),
    }
    return built(terms, model, x)


@architecture
def layout_one_network_inside_and_after() -> Built:
    """A network on parts of a batch, and again on what came out of it."""
    x = torch.randn(8, 3)
    model = mlp(3, 6, 3)
    out = model(model(x).tanh())
    return built(squares(*out.split([2, 6])), model, x)


@architecture
def layout_made_scales_of_a_norm() -> Built:
    """A layer norm whose scales another batch makes, twice as many as there are samples."""
    x, conditions = torch.randn(2, 3), torch.randn(4, 3)
    model = nn.ModuleDict({"x": nn.Linear(3, 4), "maker": nn.Linear(3, 1), "out": nn.Linear(4, 2)})
    scales = model["maker"](conditions).tanh().view(4)
    out = model["out"](F.layer_norm(model["x"](x), (4,), scales))
    return built(squares(*out.split(1)), model, x, conditions)


@architecture
def layout_made_scales_of_groups() -> Built:
    """As many channels as samples."""
    x, conditions = torch.randn(4, 4, 3), torch.randn(4, 3)
    model = nn.ModuleDict({"x": nn.Linear(3, 6), "maker": nn.Linear(3, 1), "out": nn.Linear(6, 2)})
    scales = model["maker"](conditions).tanh().view(4)
    out = model["out"](F.group_norm(model["x"](x), 2, scales))
    return built(squares(*out.split([1, 3])), model, x, conditions)
