"""One kind of layer each, as the trunk of several heads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from tests.terms.architectures.registry import Built, architecture, built, mlp, register, squares
from torch import nn

Tensor = torch.Tensor
F = nn.functional


def with_heads(trunk: nn.Module, x: Tensor, count: int = 3) -> Built:
    """Heads on what a trunk gives for ``x``, flattened to rows."""
    features = trunk(x).flatten(1)
    model = nn.Module()
    model.trunk = trunk
    model.heads = nn.ModuleList(nn.Linear(features.shape[1], k + 1) for k in range(count))
    return built(squares(*(head(features) for head in model.heads)), model, x)


def _activated(activation: Callable[[], nn.Module]) -> Built:
    return with_heads(mlp(3, 9, 9, 6, activation=activation), torch.randn(7, 3))


for _activation in (
    nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.ELU, nn.LeakyReLU,
    nn.Hardtanh, nn.PReLU, nn.Mish, nn.Identity,
):  # fmt: skip
    register(f"mlp_{_activation.__name__}", partial(_activated, _activation))
register("mlp_softmax", partial(_activated, lambda: nn.Softmax(-1)))
register("mlp_inplace_relu", partial(_activated, lambda: nn.ReLU(inplace=True)))


@architecture
def mlp_wider_than_its_batch() -> Built:
    return with_heads(mlp(5, 40, 40, 40, 40), torch.randn(3, 5), 4)


@architecture
def mlp_deep() -> Built:
    return with_heads(mlp(*[6] * 12, activation=nn.SiLU), torch.randn(40, 6), 2)


@architecture
def mlp_without_bias() -> Built:
    return with_heads(mlp(4, 8, 8, bias=False), torch.randn(5, 4))


@architecture
def mlp_on_one_sample() -> Built:
    return with_heads(mlp(4, 8, 8), torch.randn(1, 4))


@architecture
def mlp_of_width_one() -> Built:
    return with_heads(mlp(1, 1, 1), torch.randn(6, 1))


def _linear_of(shape: tuple[int, ...], bias: bool, arrange: Callable[[Tensor], Tensor]) -> Built:
    x = arrange(torch.randn(*shape))
    return with_heads(mlp(x.shape[-1], 7, 5, bias=bias), x)


for _shape in ((4, 3, 6), (2, 3, 4, 5)):
    for _bias in (True, False):
        _name = f"linear_on_{len(_shape)}d_{'with' if _bias else 'without'}_bias"
        register(_name, partial(_linear_of, _shape, _bias, lambda x: x))
        register(
            f"{_name}_transposed_input",
            partial(_linear_of, _shape, _bias, lambda x: x.transpose(0, -1)),
        )
register(
    "linear_on_expanded_input",
    partial(_linear_of, (1, 6), True, lambda x: x.expand(5, 6)),
)
register(
    "linear_on_expanded_3d_input",
    partial(_linear_of, (4, 1, 6), True, lambda x: x.expand(4, 3, 6)),
)
register("linear_on_strided_input", partial(_linear_of, (8, 12), True, lambda x: x[::2, ::3]))
register("linear_on_transposed_input", partial(_linear_of, (8, 5), True, lambda x: x.T))


@architecture
def linear_on_a_vector() -> Built:
    x = torch.randn(5)
    model = mlp(5, 6, 4)
    out = model(x)
    return built(squares(out[:1], out[1:], out.sum()), model, x)


@architecture
def linear_between_transposes() -> Built:
    """The second layer mixes tokens, not features."""
    x = torch.randn(3, 4, 5)
    model = nn.ModuleDict({"features": nn.Linear(5, 6), "tokens": nn.Linear(4, 7)})
    hidden = model["features"](x).tanh()
    mixed = model["tokens"](hidden.transpose(1, 2)).transpose(1, 2)
    return built(squares(mixed[:, :2], mixed[:, 1:], hidden), model, x)


@architecture
def bilinear() -> Built:
    x, y = torch.randn(5, 3), torch.randn(5, 4)
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Bilinear(3, 4, 6), "c": nn.Linear(6, 2)})
    hidden = model["b"](model["a"](x).tanh(), y)
    return built(squares(hidden, model["c"](hidden)), model, x, y)


for _name, _layers, _shape in (
    ("conv1d", lambda: [nn.Conv1d(2, 4, 3), nn.Tanh(), nn.Conv1d(4, 3, 2)], (4, 2, 9)),
    ("conv2d", lambda: [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3)], (3, 2, 8, 8)),
    ("conv3d", lambda: [nn.Conv3d(1, 2, 2), nn.Tanh(), nn.Conv3d(2, 2, 2)], (2, 1, 4, 4, 4)),
    ("conv2d_pointwise", lambda: [nn.Conv2d(3, 5, 1), nn.Tanh(), nn.Conv2d(5, 2, 1)], (2, 3, 4, 4)),
    ("conv2d_without_bias", lambda: [nn.Conv2d(2, 3, 3, bias=False)], (3, 2, 6, 6)),
    ("conv2d_groups", lambda: [nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(8, 8, 3, groups=8)],
     (2, 4, 7, 7)),
    ("conv2d_stride_dilation", lambda: [nn.Conv2d(2, 3, 3, stride=2, padding=2, dilation=2)],
     (3, 2, 9, 9)),
    ("conv2d_circular", lambda: [nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular")],
     (2, 2, 5, 5)),
    ("conv2d_same", lambda: [nn.Conv2d(2, 3, (3, 5), padding="same")], (2, 2, 5, 6)),
    ("conv_transpose1d", lambda: [nn.ConvTranspose1d(2, 4, 3, stride=2)], (3, 2, 5)),
    ("conv_transpose2d", lambda: [nn.ConvTranspose2d(2, 3, 3, 2, output_padding=1)], (2, 2, 4, 4)),
    ("conv_pool_upsample", lambda: [
        nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), nn.Upsample(scale_factor=2), nn.AvgPool2d(2),
    ], (3, 1, 8, 8)),
    ("conv_batchnorm", lambda: [
        nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3),
    ], (4, 2, 7, 7)),
    ("pixel_shuffle", lambda: [nn.Conv2d(1, 8, 3), nn.PixelShuffle(2)], (2, 1, 5, 5)),
    ("batchnorm_training", lambda: [nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh()], (8, 4)),
    ("batchnorm_evaluation",
     lambda: [nn.Linear(4, 6), nn.BatchNorm1d(6).eval(), nn.Tanh()], (8, 4)),
    ("layernorm", lambda: [nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 6)], (5, 4)),
    ("rmsnorm", lambda: [nn.Linear(4, 6), nn.RMSNorm(6), nn.Linear(6, 6)], (5, 4)),
    ("groupnorm", lambda: [nn.Conv1d(2, 6, 3), nn.GroupNorm(3, 6), nn.Tanh()], (4, 2, 6)),
    ("instancenorm", lambda: [nn.Conv1d(2, 4, 3), nn.InstanceNorm1d(4, affine=True)], (4, 2, 8)),
    ("dropout", lambda: [nn.Linear(4, 9), nn.Dropout(0.4), nn.Linear(9, 6)], (6, 4)),
    ("local_response_norm", lambda: [nn.Conv1d(2, 5, 3), nn.LocalResponseNorm(3)], (3, 2, 6)),
    ("glu", lambda: [nn.Linear(4, 12), nn.GLU(), nn.Linear(6, 3)], (5, 4)),
    ("unflatten", lambda: [nn.Linear(4, 12), nn.Unflatten(1, (3, 4)), nn.Linear(4, 2)], (5, 4)),
):  # fmt: skip
    register(
        _name,
        lambda layers=_layers, shape=_shape: with_heads(
            nn.Sequential(*layers()), torch.randn(*shape)
        ),
    )


@architecture
def embedding() -> Built:
    tokens = torch.randint(0, 10, (4, 5))
    return with_heads(
        nn.Sequential(nn.Embedding(10, 6, padding_idx=0), nn.Linear(6, 4), nn.Tanh()), tokens
    )


@architecture
def embedding_sparse() -> Built:
    """Its gradients are sparse tensors, here with repeated entries."""
    tokens = torch.tensor([[1, 1, 3], [3, 0, 1]])
    return with_heads(nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Linear(4, 3)), tokens)


def _embedding_bag(mode: str, sparse: bool) -> Built:
    tokens = torch.randint(0, 8, (4, 5))
    bag = nn.EmbeddingBag(8, 6, mode=mode, sparse=sparse)
    return with_heads(nn.Sequential(bag, nn.Tanh(), nn.Linear(6, 3)), tokens)


for _mode in ("sum", "mean", "max"):
    register(f"embedding_bag_{_mode}", partial(_embedding_bag, _mode, False))
register("embedding_bag_sparse", partial(_embedding_bag, "sum", True))


@architecture
def convolution_of_unbatched_input() -> Built:
    x = torch.randn(2, 9)
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.Conv1d(3, 2, 3))
    out = model(x)
    return built(squares(out[0], out[1], out[:, 2:]), model, x)


@architecture
def two_convolutions_of_one_kernel() -> Built:
    """The weight of a layer is used again with another stride."""
    x = torch.randn(2, 1, 9, 9)
    model = nn.Conv2d(1, 2, 3)
    wide = F.conv2d(x, model.weight, model.bias, stride=2)
    return built(squares(model(x), wide, model(x).sum((2, 3))), model, x)
