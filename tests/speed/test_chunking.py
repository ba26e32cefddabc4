"""Chunked losses against the same losses of the whole batch under autograd."""

from __future__ import annotations

import copy
import functools
import pickle
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.speed.chunk_cases import (
    CLASSES,
    HEADS,
    IGNORED,
    LOSSES,
    ROWS,
    WIDTH,
    assert_equal,
    batch,
    focal,
    gradients,
    head_case,
    loss_case,
    truth,
)
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lossproof.errors import UnsupportedGraphError, UsageError
from lossproof.speed.chunking import ChunkedLoss, chunk

REDUCTIONS = ("mean", "sum", "none")


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def chunked(head, loss, **options):
    options = {"chunk_size": 16, "ignore_index": loss.ignore_index, **options}
    return chunk(loss.loss, head.head, **options)


# ---- values and gradients


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("head", HEADS)
def test_value_and_gradients_are_those_of_the_whole_batch(head, loss, reduction):
    head, loss = head_case(head), loss_case(loss)
    hidden, target = batch()
    leaves = [hidden, *head.leaves, *loss.leaves]
    ours = chunked(head, loss, reduction=reduction)(hidden, target)
    expected = truth(head, loss, reduction, hidden, target)
    assert_equal([ours], [expected])
    assert_equal(gradients(ours, leaves), gradients(expected, leaves))
    assert all(leaf.grad is None for leaf in leaves)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", ["weighted and smoothed", "focal"])
@pytest.mark.parametrize("head", ["linear", "module"])
def test_weights_masks_and_normalizers(head, loss, reduction):
    head, loss = head_case(head), loss_case(loss)
    hidden, target = batch()
    weight = torch.rand(ROWS).requires_grad_()
    mask = torch.rand(ROWS) > 0.4
    leaves = [hidden, weight, *head.leaves]
    ours = chunked(head, loss, reduction=reduction)
    for options in ({}, {"mask": mask}, {"normalizer": 77.0}, {"mask": mask, "normalizer": 7.0}):
        found = ours(hidden, target, weight=weight, **options)
        expected = truth(head, loss, reduction, hidden, target, weight=weight, **options)
        assert_equal([found], [expected])
        assert_equal(gradients(found, leaves), gradients(expected, leaves))
        plain = ours.plain(hidden, target, weight=weight, **options)
        assert_equal([plain], [expected])


@settings(max_examples=40)
@given(
    head=st.sampled_from(HEADS),
    loss=st.sampled_from(LOSSES),
    reduction=st.sampled_from(REDUCTIONS),
    rows=st.integers(0, 70),
    chunk_size=st.integers(1, 80),
    ignored=st.floats(0, 1),
    weighted=st.booleans(),
    masked=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_configuration(
    head, loss, reduction, rows, chunk_size, ignored, weighted, masked, seed
):
    torch.manual_seed(seed)
    hidden = torch.randn(rows, WIDTH, requires_grad=True)
    target = torch.where(torch.rand(rows) < ignored, IGNORED, torch.randint(0, CLASSES, (rows,)))
    head, loss = head_case(head), loss_case(loss)
    options = {
        "weight": torch.rand(rows) + 0.1 if weighted else None,
        "mask": torch.rand(rows) > 0.3 if masked else None,
    }
    ours = chunked(head, loss, reduction=reduction, chunk_size=chunk_size)
    found = ours(hidden, target, **options)
    expected = truth(head, loss, reduction, hidden, target, **options)
    assert_equal([found], [expected])
    leaves = [hidden, *head.leaves, *loss.leaves]
    assert_equal(gradients(found, leaves), gradients(expected, leaves))


def bce(logits, target):
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none")


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_rows_with_several_items(reduction):
    head = head_case("linear")
    hidden, _ = batch()
    target = torch.rand(ROWS, CLASSES)
    mask = torch.rand(ROWS, CLASSES) > 0.3
    weight = torch.rand(ROWS, CLASSES)
    unknown = torch.where(mask, target, torch.nan)
    leaves = [hidden, *head.leaves]
    ours = chunk(F.binary_cross_entropy_with_logits, head.head, reduction=reduction, chunk_size=7)
    found = ours(hidden, unknown, mask=mask, weight=weight)
    logits = head.logits(hidden)
    values = F.softplus(logits) - target * logits  # the same by its formula
    expected = torch.where(mask, values * weight, 0.0)
    if reduction != "none":
        expected = expected.sum()
    if reduction == "mean":
        expected = expected / weight[mask].sum()
    assert_equal([found], [expected])
    assert_equal(gradients(found, leaves), gradients(expected, leaves))


@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, CLASSES)])
def test_ignored_targets_may_be_numbers_of_any_kind(shape):
    hidden = batch()[0].detach()
    target = (torch.rand(shape) > 0.5).double()
    target[::3] = -1
    head = nn.Linear(WIDTH, CLASSES) if len(shape) == 2 else nn.Linear(WIDTH, 1)
    logits = head(hidden).reshape(shape)
    expected = bce(logits[target != -1], target[target != -1]).mean()

    def loss(logits, target):
        return bce(logits.reshape(target.shape), target)

    assert_equal([chunk(loss, head, ignore_index=-1)(hidden, target)], [expected])


def test_soft_targets_and_the_head_of_a_teacher():
    hidden, _ = batch()
    student, teacher = nn.Linear(WIDTH, CLASSES), nn.Linear(4, CLASSES)
    seen = torch.randn(ROWS, 4, requires_grad=True)

    def divergence(logits, given):
        given = torch.log_softmax(given, 1)
        return (given.exp() * (given - torch.log_softmax(logits, 1))).sum(1)

    found = chunk(divergence, student, target_head=teacher, chunk_size=16)(hidden, seen)
    p = teacher(seen).softmax(1)
    expected = -(p * student(hidden).log_softmax(1)).sum(1).mean() + (p * p.log()).sum(1).mean()
    leaves = [hidden, seen, *student.parameters(), *teacher.parameters()]
    assert_equal([found], [expected])
    assert_equal(gradients(found, leaves), gradients(expected, leaves))
    soft = torch.rand(ROWS, CLASSES).softmax(1)
    found = chunk(F.cross_entropy, student, chunk_size=16)(hidden, soft)
    assert_equal([found], [-(soft * student(hidden).log_softmax(1)).sum(1).mean()])


def test_batchmean_divides_by_the_rows():
    hidden, _ = batch()
    head = nn.Sequential(nn.Linear(WIDTH, CLASSES), nn.LogSoftmax(1))
    soft = torch.rand(ROWS, CLASSES)
    ours = chunk(functools.partial(F.kl_div, reduction="batchmean"), head, chunk_size=16)
    expected = (soft * (soft.log() - head(hidden))).sum() / ROWS
    assert_equal([ours(hidden, soft)], [expected])
    assert_equal([ours(hidden, soft, normalizer=10)], [expected * ROWS / 10])
    assert ours(hidden, soft, normalizer=0) == 0


def test_leading_axes_and_a_single_row():
    head, loss = head_case("linear"), loss_case("cross entropy")
    hidden, target = batch()
    flat = chunked(head, loss, reduction="none")
    found = flat(hidden.reshape(4, 10, WIDTH), target.reshape(4, 10))
    assert found.shape == (4, 10)
    assert_equal([found.flatten()], [flat(hidden, target)])
    one = flat(hidden[1], target[1])
    assert one.shape == ()
    assert_equal([one], [flat(hidden, target)[1]])


def test_heads_whose_rows_have_several_vectors():
    hidden, _ = batch()
    head = nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Linear(3, 5))
    target = torch.rand(ROWS, 2, 5)
    leaves = [hidden, *head.parameters()]
    found = chunk(F.binary_cross_entropy_with_logits, head, chunk_size=16)(hidden, target)
    expected = bce(head(hidden), target).mean()
    assert_equal([found, *gradients(found, leaves)], [expected, *gradients(expected, leaves)])


@pytest.mark.parametrize("head", ["linear", "module"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nothing_that_counts_gives_zero_without_nan(head, reduction):
    head, loss = head_case(head), loss_case("focal")
    hidden = torch.full((ROWS, WIDTH), torch.nan, requires_grad=True)
    ours = chunked(head, loss, reduction=reduction)
    for rows in (ROWS, 0):
        found = ours(hidden[:rows], torch.full((rows,), IGNORED))
        assert found.shape == ((rows,) if reduction == "none" else ())
        assert not found.any()
        for slope in torch.autograd.grad(found.sum(), [hidden, *head.leaves]):
            assert not slope.any()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", ["cross entropy", "focal"])
def test_ignored_rows_may_hold_nan(loss, reduction):
    head, loss = head_case("mlp"), loss_case(loss)
    hidden, target = batch()
    broken = torch.where((target == IGNORED)[:, None], torch.nan, hidden.detach()).requires_grad_()
    ours = chunked(head, loss, reduction=reduction)
    (found, expected) = ours(broken, target), truth(head, loss, reduction, hidden, target)
    assert_equal([found], [expected])
    assert_equal(gradients(found, [broken]), gradients(expected, [hidden]))
    if loss.ignore_index is not None:
        grad = torch.func.grad(lambda x: ours(x, target).sum())(broken.detach())
        assert_equal([grad], torch.autograd.grad(ours(broken, target).sum(), broken))


def test_padded_classes_of_minus_infinity():
    hidden, target = batch()
    head = nn.Linear(WIDTH, CLASSES + 3)
    with torch.no_grad():
        head.bias[CLASSES:] = -torch.inf
    found = chunk(F.cross_entropy, head, chunk_size=16)(hidden, target)
    expected = F.cross_entropy(F.linear(hidden, head.weight, head.bias), target)
    leaves = [hidden, *head.parameters()]
    assert_equal([found, *gradients(found, leaves)], [expected, *gradients(expected, leaves)])


def test_tensors_given_by_name_are_shared():
    hidden, target = batch()
    head, root = head_case("linear"), torch.tensor(2.0, requires_grad=True)

    def capped(logits, target, cap):
        return focal(cap * torch.tanh(logits / cap), target)

    ours = chunk(capped, head.head, ignore_index=IGNORED, chunk_size=16)
    found = ours(hidden, target, cap=root * 1.5)
    rows = target != IGNORED
    expected = capped(head.logits(hidden[rows]), target[rows], root * 1.5).mean()
    leaves = [hidden, root]
    assert_equal([found, *gradients(found, leaves)], [expected, *gradients(expected, leaves)])
    assert_equal([ours(hidden, target, cap=3.0)], [found])


def test_a_loss_may_write_to_its_logits():
    hidden, target = batch()
    head = head_case("module")

    def in_place(logits, target):
        return F.cross_entropy(logits.div_(2.0), target, reduction="none")

    for kind in ("linear", "module"):
        head = head_case(kind)
        found = chunk(in_place, head.head, chunk_size=16)(hidden, target.clamp(min=0))
        expected = F.cross_entropy(head.logits(hidden) / 2, target.clamp(min=0))
        assert_equal(
            [found, *gradients(found, [hidden])], [expected, *gradients(expected, [hidden])]
        )


# ---- what is trained


def test_what_is_frozen_has_no_gradient_and_what_is_not_has_its_own():
    hidden, target = batch()
    head, loss = head_case("linear"), loss_case("temperature closed over")
    for frozen in ("head", "hidden", "both"):
        x = hidden.detach().requires_grad_(frozen == "head")
        for one in head.leaves:
            one.requires_grad_(frozen == "hidden")
        leaves = [one for one in (x, *head.leaves, *loss.leaves) if one.requires_grad]
        found = chunked(head, loss)(x, target)
        assert_equal(
            gradients(found, leaves), gradients(truth(head, loss, "mean", x, target), leaves)
        )
        for one in head.leaves:
            one.grad = None
        chunked(head, loss)(x, target).backward()
        assert [one.grad is None for one in (x, *head.leaves)] == [
            not one.requires_grad for one in (x, *head.leaves)
        ]


@pytest.mark.parametrize("kind", ["matrix", "closed over"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_weight_that_the_trunk_has_too(kind, order):
    _, target = batch()
    table = torch.randn(CLASSES, WIDTH, requires_grad=True)
    index = torch.randint(0, CLASSES, (ROWS,))
    head = table if kind == "matrix" else lambda rows: rows @ table.t()
    ours = chunk(focal, head, ignore_index=IGNORED, chunk_size=16)
    rows = target != IGNORED

    def whole(hidden, target):
        return focal(hidden[rows] @ table.t(), target[rows]).mean()

    def derivative(loss):
        value = loss(torch.tanh(table[index]), target)
        for k in range(order):
            (slope,) = torch.autograd.grad(value, table, create_graph=True)
            value = (slope.sin() if k else slope.square()).sum()
        return slope

    assert_equal([derivative(ours)], [derivative(whole)])

    def several(loss):
        value = loss(torch.tanh(table[index]), target)
        return torch.autograd.grad(value, table, torch.tensor([1.0, 2.0]), is_grads_batched=True)

    assert_equal(several(ours), several(whole))


def test_hooks_see_a_gradient_once():
    hidden, target = batch()
    seen = []
    temperature = nn.Parameter(torch.tensor(1.3))
    temperature.register_hook(lambda slope: seen.append(slope) or slope * 2)
    head = head_case("linear")
    head.head.weight.register_hook(lambda slope: slope * 3)
    ours = chunk(
        lambda a, t: focal(a * temperature, t), head.head, ignore_index=IGNORED, chunk_size=16
    )
    found = torch.autograd.grad(ours(hidden, target), [temperature, head.head.weight])
    assert len(seen) == 1
    rows = target != IGNORED
    expected = focal(head.logits(hidden[rows]) * temperature, target[rows]).mean()
    assert_equal(found, torch.autograd.grad(expected, [temperature, head.head.weight]))


def test_a_parametrization_is_computed_once_a_call():
    torch.manual_seed(1)
    head = nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, CLASSES))
    other = copy.deepcopy(head)
    hidden, target = batch()
    ours = chunk(F.cross_entropy, head, chunk_size=16)
    state = [one.clone() for one in head.buffers()]
    assert_equal(list(other.buffers()), state)
    found, expected = ours(hidden, target), F.cross_entropy(other(hidden), target)
    assert_equal([found, *head.buffers()], [expected, *other.buffers()])


# ---- a loss scaled from outside, and in parts


def test_micro_batches_with_a_normalizer_are_the_whole():
    hidden, target = batch()
    head, loss = head_case("linear"), loss_case("weighted and smoothed")
    ours = chunked(head, loss)
    total = loss.counts(target[target != IGNORED]).sum()
    for part in range(0, ROWS, 15):
        rows = slice(part, part + 15)
        ours(hidden[rows], target[rows], normalizer=total).backward()
    leaves = [hidden, *head.leaves]
    expected = torch.autograd.grad(truth(head, loss, "mean", hidden, target), leaves)
    assert_equal([one.grad for one in leaves], expected)


def test_nothing_is_written_before_backward_and_each_backward_counts_once():
    hidden, target = batch()
    head = head_case("linear")
    found = chunk(F.cross_entropy, head.head, chunk_size=16)(hidden, target)
    leaves = [hidden, *head.leaves]
    assert all(one.grad is None for one in leaves)
    (3 * found).backward(retain_graph=True)
    found.square().backward()
    whole = F.cross_entropy(head.logits(hidden), target)
    expected = torch.autograd.grad(3 * whole + whole.square(), leaves)
    assert_equal([one.grad for one in leaves], expected)


# ---- copies and modes


def test_copies_compute_the_same_and_share_nothing():
    hidden, target = batch()
    ours = chunk(loss_case("module with parameters").loss, nn.Linear(WIDTH, CLASSES), chunk_size=16)
    target = target.clamp(min=0)
    before = ours(hidden, target)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert_equal([other(hidden, target)], [before])
        with torch.no_grad():
            other.head.weight.zero_()
        assert_equal([ours(hidden, target)], [before])
        other.load_state_dict(ours.state_dict())
        assert_equal([other(hidden, target)], [before])
    assert set(ours.state_dict()) == {"head.weight", "head.bias", "loss.scale"}
    ours.float()
    assert ours(hidden.float(), target).dtype == torch.float32


def test_training_and_evaluation_reach_the_head():
    hidden, target = batch()
    ours = chunk(
        F.cross_entropy, nn.Sequential(nn.Dropout(0.5), nn.Linear(WIDTH, CLASSES)), chunk_size=16
    )
    assert ours(hidden, target) != ours(hidden, target)
    ours.eval()
    assert_equal([ours(hidden, target)], [F.cross_entropy(ours.head[1](hidden), target)])


def test_its_repr_says_what_it_is():
    shown = repr(chunk(focal, nn.Linear(2, 3), reduction="sum", ignore_index=-1))
    assert "focal, reduction='sum', ignore_index=-1" in shown and "(head): Linear" in shown


# ---- checkpointing, compilation and modes of autograd around it


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_checkpointed_around(reentrant, reduction):
    hidden, target = batch()
    head, loss = head_case("mlp"), loss_case("focal")
    ours = chunked(head, loss, reduction=reduction)
    leaves = [hidden, *head.leaves]
    checkpoint(lambda x: ours(x.tanh(), target).sum(), hidden, use_reentrant=reentrant).backward()
    found = [one.grad for one in leaves]
    expected = truth(head, loss, reduction, hidden.tanh(), target).sum()
    assert_equal(found, torch.autograd.grad(expected, leaves))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler looks at it
def test_compiled_around():
    hidden, target = batch()
    head, loss = head_case("linear"), loss_case("focal")
    ours = chunked(head, loss)
    compiled = torch.compile(lambda x: ours(x * 2, target) * 3, backend="eager")
    expected = 3 * truth(head, loss, "mean", hidden * 2, target)
    found = compiled(hidden)
    assert_equal([found], [expected])
    assert_equal(gradients(found, [hidden]), gradients(expected, [hidden]))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode):
    hidden, target = batch()
    head, loss = head_case("mlp"), loss_case("focal")
    for reduction in REDUCTIONS:
        with mode():
            found = chunked(head, loss, reduction=reduction)(hidden, target)
        assert not found.requires_grad
        assert_equal([found.clone()], [truth(head, loss, reduction, hidden, target).detach()])


def test_on_meta_tensors_and_under_anomaly_mode():
    head = nn.Linear(WIDTH, CLASSES, device="meta")
    hidden = torch.randn(5, WIDTH, device="meta", requires_grad=True)
    chunk(focal, head)(hidden, torch.zeros(5, dtype=torch.long, device="meta")).backward()
    assert hidden.grad.shape == hidden.shape
    hidden, target = batch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autograd.set_detect_anomaly(True):
            chunked(head_case("linear"), loss_case("focal"))(hidden, target).backward()


# ---- words for wrong calls


LINEAR = nn.Linear(WIDTH, CLASSES).double()


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((nn.CrossEntropyLoss, LINEAR), {}, TypeError, "`loss` must be a function or a Module"),
        ((3, LINEAR), {}, TypeError, "`loss` must be a function or a Module, got 3"),
        (
            (focal, "head"),
            {},
            TypeError,
            "`head` must be a Module, a matrix or a function, got str",
        ),
        ((focal, torch.zeros(3)), {}, ValueError, r"`head` must be a matrix .* got .*\[3\]"),
        ((focal, LINEAR), {"reduction": "max"}, ValueError, "`reduction`.*'max'"),
        ((focal, LINEAR), {"chunk_size": 0}, ValueError, "`chunk_size`.*0"),
        ((focal, LINEAR), {"chunk_bytes": 1.5}, TypeError, "`chunk_bytes`.*1.5"),
        ((focal, LINEAR), {"ignore_index": 1.5}, TypeError, "`ignore_index`.*1.5"),
        ((focal, LINEAR), {"compile": 1}, TypeError, "`compile`"),
        ((focal, LINEAR), {"target_head": 1}, TypeError, "`target_head` must be a Module"),
        ((focal, LINEAR), {"target_head": LINEAR, "ignore_index": 1}, ValueError, "give `mask`"),
    ],
)
def test_what_cannot_be_chunked_is_refused_in_words(arguments, options, error, words):
    with pytest.raises(error, match=words):
        chunk(*arguments, **options)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"hidden": [1.0]}, TypeError, "`hidden`.*list"),
        ({"hidden": torch.tensor(1.0)}, ValueError, r"`hidden` must have the shape \(\*, H\)"),
        ({"hidden": torch.zeros(ROWS, 4)}, ValueError, r"`hidden`.*\(\*, 6\).*\[40, 4\]"),
        ({"hidden": torch.zeros(0)}, ValueError, r"`hidden`.*\(\*, 6\).*\[0\]"),
        ({"hidden": torch.zeros(ROWS, WIDTH).float()}, TypeError, "`hidden`.*float64.*float32"),
        ({"target": torch.zeros(5).long()}, ValueError, r"`arguments.0.`.*\[40\].*\[5\]"),
        ({"target": 3}, TypeError, "`arguments.0.`.*int"),
        ({"weight": torch.ones(CLASSES)}, ValueError, r"`weight`.*\[40\].*partial\(loss, weight"),
        ({"mask": torch.ones(ROWS)}, TypeError, "`mask`.*bool"),
        ({"mask": torch.ones(ROWS, 3).bool()}, ValueError, r"`mask`.*3"),
        ({"normalizer": -1}, ValueError, "`normalizer`.*-1"),
        ({"normalizer": torch.ones(2)}, ValueError, "`normalizer` must hold one number"),
    ],
)
def test_wrong_calls_are_refused_in_words(change, error, words):
    hidden, target = batch()
    given = {"hidden": hidden, "target": target.clamp(min=0), **change}
    for method in ("forward", "plain"):
        with pytest.raises(error, match=words):
            first, second = given.pop("hidden"), given.pop("target")
            try:
                getattr(chunk(focal, LINEAR), method)(first, second, **given)
            finally:
                given |= {"hidden": first, "target": second}


@pytest.mark.parametrize("requires_grad", [True, False])
def test_a_target_that_is_no_class_is_refused_in_words(requires_grad):
    hidden, target = batch()
    hidden = hidden.detach().requires_grad_(requires_grad)
    ours = chunk(F.cross_entropy, LINEAR, chunk_size=16)
    ours(hidden, target)
    target[-1] = CLASSES
    with pytest.raises(ValueError, match="`target` must hold classes from 0 to 8 or ignore_index"):
        ours(hidden, target)


def test_a_target_given_by_name_is_explained():
    hidden, target = batch()
    with pytest.raises(ValueError, match="`target` has 40 rows as `hidden` has, and was given by"):
        chunk(focal, LINEAR)(hidden, target=target.clamp(min=0))


def test_losses_and_heads_that_give_no_value_for_each_row():
    hidden, target = batch()
    target = target.clamp(min=0)
    for loss, words in (
        (lambda a, t: F.cross_entropy(a, t), "`loss` must give a value for each row"),
        (lambda a, t: F.cross_entropy(a, t, reduction="none")[:3], r"got the shape \[3\]"),
    ):
        with pytest.raises(ValueError, match=words):
            chunk(loss, LINEAR)(hidden, target)
    with pytest.raises(TypeError, match="`loss` must give a tensor, got float"):
        chunk(lambda a, t: 1.0, LINEAR)(hidden, target)
    with pytest.raises(TypeError, match="`head` must give a tensor, got tuple"):
        chunk(focal, nn.Sequential(nn.LSTM(WIDTH, WIDTH), LINEAR))(hidden, target)
    with pytest.raises(ValueError, match="`head` must give a row for each row"):
        chunk(focal, lambda rows: rows[:3] @ LINEAR.weight.t())(hidden, target)


def test_what_a_function_closes_over_must_be_a_leaf():
    hidden, target = batch()
    computed = nn.Parameter(torch.tensor(1.0)) * 2
    with pytest.raises(UnsupportedGraphError, match="`loss` uses a tensor .* MulBackward0"):
        chunk(lambda a, t: focal(a * computed, t), LINEAR)(hidden, target.clamp(min=0))
    with pytest.raises(UnsupportedGraphError, match="`head` uses a tensor .* MulBackward0"):
        chunk(focal, lambda rows: LINEAR(rows) * computed)(hidden, target.clamp(min=0))


def test_it_is_what_the_public_face_shows():
    import lossproof

    assert isinstance(lossproof.chunk(focal, LINEAR), ChunkedLoss)
    assert issubclass(UsageError, Exception)
