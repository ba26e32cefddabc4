"""Degenerate batches: what is made of which inputs, and how likely it is."""

import math

import pytest
import torch

from lossproof.checks.degenerate import RARE, degenerate_batches


def real(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).requires_grad_()


def batches(examination, loss, *inputs):
    return {batch.words: batch for batch in degenerate_batches(examination(loss, *inputs))}


def test_a_mask_is_emptied_and_filled(examination):
    def loss(p, mask):
        return (p * mask).sum()

    made = batches(examination, loss, real(4), torch.tensor([1.0, 0, 1, 1]))
    assert not made["everything is 0 in `mask`"].values[1].any()
    assert made["everything is 1 in `mask`"].values[1].all()
    assert math.isclose(made["everything is 0 in `mask`"].share, 0.25**4)
    assert math.isclose(made["everything is 1 in `mask`"].share, 0.75**4)


def test_predictions_are_never_changed(examination):
    def loss(p, mask):
        return (p * mask).sum()

    p = real(4)
    for batch in degenerate_batches(examination(loss, p, torch.tensor([1.0, 0, 1, 1]))):
        if batch.kind not in ("one sample", "no samples"):
            assert torch.equal(batch.values[0], p)


def test_labels_stay_among_those_that_were_given(examination):
    def loss(logits, labels):
        return logits.gather(1, labels[:, None]).sum()

    labels = torch.tensor([3, 1, 2, 1])
    for batch in degenerate_batches(examination(loss, real(4, 5), labels)):
        assert set(batch.values[1].tolist()) <= set(labels.tolist())


def test_the_declared_ignored_label_is_used(examination):
    def loss(logits, labels, ignore_index=-7):
        return (logits[:, 0] * (labels != ignore_index)).sum()

    made = batches(examination, loss, real(4, 5), torch.tensor([3, 1, 2, 1]))
    ignored = made["every label is the ignored one (-7) in `labels`"]
    assert ignored.values[1].tolist() == [-7] * 4
    assert ignored.share is None


def test_padding_is_no_mask_to_empty(examination):
    def loss(p, mask):
        return (p * mask).sum()

    padding = torch.tensor([[1.0, 1, 0], [1, 1, 1], [1, 0, 0]])
    assert not any("mask" in words for words in batches(examination, loss, real(3, 3), padding))


def test_rare_batches_are_left_out(examination):
    def loss(p, event):
        return (p * event).sum()

    event = torch.arange(30) % 2 == 0
    assert RARE > 0.5**30
    assert not any("event" in words for words in batches(examination, loss, real(30), event))


def test_matches_may_be_none_but_labels_may_not(examination):
    def loss(p, t, idx_a, idx_b, labels):
        return (p[idx_a] - t[idx_b]).sum() + labels.sum()

    a, b, labels = torch.tensor([0, 1, 4]), torch.tensor([2, 0, 1]), torch.arange(6)
    made = batches(examination, loss, real(6, 2), real(6, 2), a, b, labels)
    empty = made["`idx_a` and `idx_b` hold nothing"]
    assert [len(value) for value in empty.values] == [6, 6, 0, 0, 6]


@pytest.mark.parametrize("items", [[(0, 1), (1, 2)], [[0], [1, 2]]])
def test_lists_of_items_may_be_empty(examination, items):
    def loss(p, pairs):
        return p.sum() * len(pairs)

    assert batches(examination, loss, real(4), items)["`pairs` is an empty list"].values[1] == []


def test_lists_of_settings_stay(examination):
    def loss(p, scales):
        return sum((p * scale).sum() for scale in scales)

    assert not any("empty" in words for words in batches(examination, loss, real(4), [1.0, 0.5]))


def test_one_sample_and_none_come_last(examination):
    def loss(p, t):
        return ((p - t) ** 2).sum()

    made = degenerate_batches(examination(loss, real(5, 2), torch.randn(5, 2)))
    assert [batch.kind for batch in made][-2:] == ["one sample", "no samples"]
    assert [len(batch.values[0]) for batch in made][-2:] == [1, 0]
