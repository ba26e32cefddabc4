"""Embeddings in micro-batches, against the encoder on the whole batch."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lossproof.speed.embedding import embed
from lossproof.speed.pairing import pairs


def network(*, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 8), nn.LayerNorm(8), nn.GELU(), nn.Dropout(dropout), nn.Linear(8, 4)
    ).double()


def batch(count: int = 10) -> torch.Tensor:
    return torch.randn(count, 3, dtype=torch.float64, requires_grad=True)


def contrast(z: torch.Tensor) -> torch.Tensor:
    """A loss that compares all samples with each other."""
    return (torch.logsumexp(z @ z.T, 1) - z.square().sum(1)).square().mean()


def assert_close(ours, plain):
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("chunk_size", [1, 3, 5, 10, 64])
def test_two_derivatives_are_those_of_the_whole_batch(chunk_size):
    encoder, x = network(), batch()
    leaves = [x, *encoder.parameters()]
    found = []
    for z in (embed(encoder, x, chunk_size=chunk_size), encoder(x)):
        loss = contrast(z)
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        second = torch.autograd.grad(sum(one.square().sum() for one in first), leaves)
        found.append([z, loss, *first, *second])
    assert_close(*found)


def test_no_more_than_a_micro_batch_is_kept():
    seen = []

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            seen.append(len(x))
            return x.clone()

        @staticmethod
        def backward(ctx: Any, upstream: torch.Tensor) -> torch.Tensor:
            seen.append(-len(upstream))
            return upstream

    x = batch()
    z = embed(Counted.apply, x, chunk_size=4)
    assert seen == [4, 4, 2]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda one: one):
        embed(lambda x: torch.exp(Counted.apply(x)), x, chunk_size=4)
    storage = x.untyped_storage().data_ptr()
    assert all(one.untyped_storage().data_ptr() == storage for one in kept)  # parts of the input
    seen.clear()
    z.sum().backward()
    assert sorted(one for one in seen if one < 0) == [-4, -4, -2]


class Encoded(NamedTuple):
    vector: torch.Tensor
    length: torch.Tensor
    nothing: None


class Structured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3, 4).double()

    def forward(self, pair, scale, *, words, names):
        x, y = pair
        assert names == ["n"] and len(x) == len(y) == len(words["mask"])
        z = self.map(x * scale + y) * words["mask"][:, None]
        return {"both": Encoded(z, z.norm(dim=1), None), "list": [z.square()]}


def test_inputs_and_results_may_have_any_structure():
    encoder, x, y = Structured(), batch(), batch()
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    words = {"mask": torch.arange(10) % 3 > 0}
    leaves = [x, y, scale, *encoder.parameters()]
    found = []
    for chunk_size in (4, 10):
        z = embed(encoder, (x, y), scale, words=words, names=["n"], chunk_size=chunk_size)
        assert isinstance(z["both"], Encoded) and z["both"].nothing is None
        loss = contrast(z["both"].vector) + z["both"].length.sum() + z["list"][0].sum()
        found.append([loss, *torch.autograd.grad(loss, leaves)])
    assert_close(*found)


def test_dropout_is_the_same_in_the_backward_pass():
    encoder, x = network(dropout=0.4), batch()
    torch.manual_seed(5)
    z = embed(encoder, x, chunk_size=4)
    torch.manual_seed(5)
    expected = torch.cat([encoder(part) for part in x.split(4)])
    torch.rand(3)  # what comes in between does no harm
    leaves = [x, *encoder.parameters()]
    assert_close(
        [z, *torch.autograd.grad(contrast(z), leaves)],
        [expected, *torch.autograd.grad(contrast(expected), leaves)],
    )


def test_autocast_is_that_of_the_forward_pass():
    encoder, x = network().float(), torch.randn(10, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = embed(encoder, x, chunk_size=5)
        expected = encoder(x)
    assert z.dtype == expected.dtype == torch.bfloat16
    parameters = list(encoder.parameters())
    for one, other in zip(
        torch.autograd.grad(contrast(z.float()), parameters),
        torch.autograd.grad(contrast(expected.float()), parameters),
        strict=True,
    ):
        assert (one - other).norm() <= 0.03 * other.norm()


def test_a_frozen_encoder_passes_the_gradient_of_its_inputs():
    encoder, x = network().requires_grad_(False), batch()
    assert_close(
        torch.autograd.grad(contrast(embed(encoder, x, chunk_size=3)), x),
        torch.autograd.grad(contrast(encoder(x)), x),
    )
    assert not embed(encoder, x.detach(), chunk_size=3).requires_grad
    with torch.no_grad():
        assert not embed(network(), x, chunk_size=3).requires_grad


def test_both_halves_together():
    encoder, x = network(), batch(40)
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    logits = pairs(lambda a, b, s: s * a @ b.T, "logsumexp", block_size=16)
    leaves = [x, scale, *encoder.parameters()]
    z = embed(encoder, x, chunk_size=16)
    loss = (logits(z, s=scale) - scale * z.square().sum(1)).mean()
    z = encoder(x)
    expected = (torch.logsumexp(scale * z @ z.T, 1) - scale * z.square().sum(1)).mean()
    assert_close(torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves))


def test_transforms_of_torch_func_see_the_whole_batch():
    encoder, x = network(), batch().detach()
    assert_close(
        [torch.func.grad(lambda x: contrast(embed(encoder, x, chunk_size=3)))(x)],
        [torch.func.grad(lambda x: contrast(encoder(x)))(x)],
    )


# Dynamo looks at the `.grad` of what comes out of one graph and goes into the next.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_compiled_graphs(dropout):
    encoder, x = network(dropout=dropout), batch()

    def loss_of(x, encoder=encoder):
        return contrast(embed(encoder, 2 * x, chunk_size=4))

    of_compiled = torch.compile(encoder, backend="aot_eager", dynamic=True)
    assert_close([loss_of(x, of_compiled.eval())], [loss_of(x, encoder.eval())])
    encoder.train()
    compiled = torch.compile(loss_of, backend="aot_eager")
    found = []
    for function in (compiled, loss_of):
        torch.manual_seed(1)
        loss = function(x)
        found.append([loss, *torch.autograd.grad(loss, [x, *encoder.parameters()])])
    assert_close(*found)


def test_running_statistics_are_refused_or_left_alone():
    norm = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    with pytest.raises(ValueError, match=r"`1` \(BatchNorm1d\) normalises by the statistics of"):
        embed(norm, batch(), chunk_size=4)
    for name, buffer in norm.named_buffers():
        assert torch.equal(buffer, before[name])
    norm.eval()
    x = batch()
    assert_close([embed(norm, x, chunk_size=4)], [norm(x)])
    without = nn.BatchNorm1d(3, track_running_stats=False).double().eval()
    with pytest.raises(ValueError, match="`BatchNorm1d` .* normalises by the statistics"):
        embed(without, x, chunk_size=4)


def test_an_encoder_that_writes_to_its_buffers_is_refused():
    normed = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4))
    with pytest.raises(
        ValueError, match="`encoder` writes to the buffer `_u` of its _SpectralNorm"
    ):
        embed(normed, torch.randn(10, 3), chunk_size=4)
    normed.eval()
    assert embed(normed, torch.randn(10, 3), chunk_size=4).shape == (10, 4)


class Center(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(3, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.center = 0.9 * self.center + x.detach().mean(0)
        return x - self.center


@pytest.mark.parametrize("module", [Center(), nn.BatchNorm1d(3).double()], ids=["own", "norm"])
def test_a_function_whose_module_writes_to_its_buffers_is_refused(module):
    for encoder in (module.forward, lambda x: module(x), functools.partial(module)):
        with pytest.raises(ValueError, match="`encoder` writes to the buffer"):
            embed(encoder, batch(), chunk_size=4)


def test_parameters_that_change_before_the_backward_pass_are_complained_of():
    encoder, x = network(), batch()
    z = embed(encoder, x, chunk_size=4)
    with torch.no_grad():
        encoder[0].weight.add_(1)
    with pytest.raises(RuntimeError, match="a parameter of `encoder` was changed in place"):
        z.sum().backward()


def test_lazy_and_inference_parameters():
    x = batch()
    lazy = nn.LazyLinear(4, dtype=torch.float64)
    assert_close([embed(lazy, x, chunk_size=4)], [lazy(x)])
    with torch.inference_mode():
        frozen = nn.BatchNorm1d(3).double().eval()
        assert_close([embed(frozen, x, chunk_size=4)], [frozen(x)])


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (lambda x: x.sum(), ValueError, r"a row for each of its 4 samples, got the shape \[\]"),
        (lambda x: x[1:], ValueError, r"a row for each of its 4 samples, got the shape \[3, 3\]"),
        (lambda x: (x, 2.0), TypeError, "`encoder` must return tensors, got float"),
    ],
)
def test_results_that_cannot_be_put_together_are_refused(function, error, words):
    for count in (10, 4):  # in parts and at once
        with pytest.raises(error, match=words):
            embed(function, batch(count), chunk_size=4)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="`inputs` must hold a tensor with a batch"):
        embed(network(), torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"the batch as their first axis.*\[3, 2\], \[4\]"):
        embed(network(), torch.ones(3, 2), {"mask": torch.ones(4)})
    with pytest.raises(ValueError, match="`chunk_size` must be an integer of at least 1"):
        embed(network(), batch(), chunk_size=0)
    with pytest.raises(TypeError, match="`encoder` must be a function or a Module"):
        embed(3, batch())


def test_no_rows():
    assert embed(network(), batch()[:0], chunk_size=4).shape == (0, 4)


def trained(chunk_size: int) -> Any:
    rank = torch.distributed.get_rank()
    model = DistributedDataParallel(network())
    whole = torch.randn(12, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z = embed(model, whole[rank * 6 : rank * 6 + 6], chunk_size=chunk_size)
    logits = pairs(lambda a, b: a @ b.T, "logsumexp", across_ranks=True, block_size=4)
    (logits(z) - z.square().sum(1)).mean().backward()
    return [p.grad.tolist() for p in model.parameters()]


def test_an_encoder_under_ddp_trains_as_one_process_does(two_ranks):
    model = network()
    whole = torch.randn(12, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z = model(whole)
    (torch.logsumexp(z @ z.T, 1) - z.square().sum(1)).mean().backward()
    for answer in two_ranks.run(trained, 4):
        found = [torch.tensor(one, dtype=torch.float64) for one in answer]
        assert_close(found, [p.grad for p in model.parameters()])
