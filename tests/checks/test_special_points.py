"""Special points stay in the domain, and move only what wants a gradient."""

import pytest
import torch
import torch.nn.functional as F

from lossproof.checks.domain import domain_of
from lossproof.checks.inputs import inputs_for
from lossproof.checks.ladders import ladders
from lossproof.checks.special_points import asked_points, exact_points
from lossproof.checks.subject import subject_of

torch.manual_seed(0)
KINDS = {
    "real": torch.randn(5, 4),
    "unit": torch.rand(5, 4),
    "positive": torch.rand(5, 4) + 3,
    "nonnegative": torch.randn(5, 4).relu() * 3,
    "negative": -torch.rand(5, 4) * 3,
    "probability": torch.randn(5, 4).softmax(1),
    "log-probability": torch.randn(5, 4).log_softmax(1),
    "unit norm": F.normalize(torch.randn(5, 4), dim=1),
    "rotation": torch.linalg.qr(torch.randn(5, 3, 3)).Q,
    "image": torch.rand(2, 1, 6, 6),
    "scalar": torch.tensor(0.7),
}


def made(prediction, *others):
    names = ["prediction", "target", "label"][: len(others) + 1]
    source = f"def loss({', '.join(names)}): return prediction.sum()"
    scope = {}
    exec(source, scope)
    inputs = (prediction.clone().requires_grad_(), *others)
    return inputs_for(subject_of(scope["loss"]), inputs, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_exact_points_stay_in_the_domain(kind):
    prediction = KINDS[kind]
    inputs = made(prediction, KINDS[kind].flip(0) if prediction.dim() else KINDS[kind])
    domain = domain_of(prediction, smooth=True)
    points = exact_points(inputs)
    assert points
    for point in points:
        assert domain.contains(point.values[0]), point.words
        assert point.values[0].shape == prediction.shape
        assert point.values[0].dtype == prediction.dtype


@pytest.mark.parametrize("kind", KINDS)
def test_words_differ_and_name_the_input(kind):
    inputs = made(KINDS[kind], torch.randn(KINDS[kind].shape))
    words = [point.words for point in exact_points(inputs)]
    words += [ladder.point(size).words for ladder in ladders(inputs) for size in ladder.sizes]
    assert len(set(words)) == len(words)
    assert all("`prediction`" in text or "`target`" in text for text in words)


def test_masks_and_classes_are_never_moved():
    mask, label = (torch.rand(5, 4) > 0.5).float(), torch.randint(0, 4, (5,))
    inputs = made(KINDS["real"], mask, label)
    points = [*exact_points(inputs), *(ladder.point(40.0) for ladder in ladders(inputs))]
    for point in points:
        assert torch.equal(point.values[1], mask)
        assert torch.equal(point.values[2], label)


def test_ties_come_first():
    target = torch.randn(5, 4) + 0.5
    first = exact_points(made(KINDS["real"], target))[0]
    assert first.words == "`prediction` equals `target`"
    assert torch.equal(first.values[0], target)


def test_confident_logits_are_right_and_wrong():
    label = torch.randint(0, 4, (5,))
    inputs = made(torch.randn(5, 4), label)
    by_words = {
        ladder.point(40.0).words: ladder.point(40.0).values[0] for ladder in ladders(inputs)
    }
    right = by_words["`prediction` is 40 for the class in `target`"]
    wrong = by_words["`prediction` is 40 for another class than in `target`"]
    assert torch.equal(right.argmax(1), label)
    assert bool((wrong.argmax(1) != label).all())
    assert float(right.max()) == 40.0


def test_a_ladder_reaches_its_size():
    for ladder in ladders(made(KINDS["real"], KINDS["real"].flip(0))):
        top = ladder.point(ladder.sizes[-1]).values[0]
        assert float(top.abs().max()) >= 0.9 * ladder.sizes[-1]


def test_given_tensors_stay_as_they_are():
    prediction, target = torch.randn(5, 4), torch.randn(5, 4)
    copies = prediction.clone(), target.clone()
    inputs = made(prediction, target)
    exact_points(inputs)
    for ladder in ladders(inputs):
        ladder.point(40.0)
    assert torch.equal(inputs.values[0].detach(), copies[0])
    assert torch.equal(inputs.values[1], copies[1])


def test_rows_of_a_table_of_another_length_are_met():
    features, centers = torch.randn(8, 4).requires_grad_(), torch.randn(3, 4)
    inputs = inputs_for(
        subject_of(lambda features, centers: features.sum()), (features, centers), 0
    )
    (point,) = [p for p in exact_points(inputs) if "first one of `centers`" in p.words]
    assert torch.equal(point.values[0], centers[0].expand(8, 4))
    assert point.values[1] is inputs.values[1]


def test_a_level_is_met_within_the_domain_and_at_0():
    x = (torch.rand(6) + 1).requires_grad_()
    inputs = inputs_for(subject_of(lambda x: x.sum()), (x,), 0)
    points = asked_points(inputs, {0: [0.0, 1.5, -2.0]})
    assert [float(point.values[0][0]) for point in points] == [0.0, 1.5]
    assert all(torch.equal(point.values[0][1:], x.detach()[1:]) for point in points)
