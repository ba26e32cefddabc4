"""How a head is read: which are linear layers, whose gradients are products."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lossproof.speed.heads import AnyBodyHead, LinearHead, head_of, usable_head


class Doubled(nn.Linear):
    def forward(self, rows):
        return 2 * super().forward(rows)


def hooked(register):
    layer = nn.Linear(3, 5)
    getattr(layer, register)(lambda *_: None)
    return layer


@pytest.mark.parametrize(
    "head",
    [
        nn.Linear(3, 5),
        nn.Linear(3, 5, bias=False),
        nn.Embedding(5, 3),
        torch.randn(5, 3),
        nn.Sequential(nn.Linear(3, 5)),
        nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)),
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 5)),
    ],
)
def test_linear_layers(head):
    found = head_of(head)
    assert isinstance(found, LinearHead)
    rows = torch.randn(2, 3)
    expected = (
        rows @ head.t()
        if isinstance(head, torch.Tensor)
        else rows @ head.weight.t()
        if isinstance(head, nn.Embedding)
        else head(rows)
    )
    torch.testing.assert_close(found.logits(rows, found.tensors), expected)


@pytest.mark.parametrize(
    "head",
    [
        Doubled(3, 5),
        hooked("register_forward_hook"),
        hooked("register_forward_pre_hook"),
        hooked("register_full_backward_hook"),
        nn.Sequential(nn.Linear(3, 5), nn.Tanh()),
        nn.Sequential(nn.Linear(3, 4), Doubled(4, 5)),
        lambda rows: rows * 2,
        nn.Identity(),
    ],
)
def test_what_may_do_something_else_is_run_as_it_is(head):
    found = head_of(head)
    assert isinstance(found, AnyBodyHead)
    rows = torch.randn(2, 3, requires_grad=True)
    torch.testing.assert_close(found.logits(rows, found.tensors), head(rows))


def test_hooks_of_all_modules_are_run():
    layer, seen = nn.Linear(3, 5), []
    handle = nn.modules.module.register_module_forward_hook(lambda *_: seen.append(1))
    try:
        found = head_of(layer)
        found.logits(torch.randn(2, 3), found.tensors)
    finally:
        handle.remove()
    assert seen


def test_what_is_no_head_is_refused_in_the_name_of_the_argument():
    with pytest.raises(TypeError, match="`target_head` must be a Module, .* got int"):
        usable_head(3, "target_head")
    with pytest.raises(ValueError, match=r"`head` must be a matrix .* torch.int64 .*\[2, 3\]"):
        head_of(torch.zeros(2, 3).long())
    with pytest.raises(TypeError, match="`target_head` must give a tensor, got str"):
        head_of(lambda rows: "no", "target_head").logits(torch.zeros(2, 3), ())
