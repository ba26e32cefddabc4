"""The registry: sound entries, names that claim, and losses that others add."""

import re

import pytest
import torch

from lossproof.checks.likeness.binding import pair
from lossproof.checks.likeness.known import (
    KnownLoss,
    Reading,
    Slot,
    Term,
    known_losses,
    register,
    unregister,
)
from lossproof.checks.report import Finding, Status

LOSSES = known_losses()
WORDS = {
    "kl-standard-normal": ("vae kl loss", "kld", "kl divergence"),
    "softmax-focal": ("focal loss", "multi class focal"),
    "dice": ("dice loss", "soft dice"),
    "rmse": ("rmse loss", "root mean squared error"),
    "pinball": ("quantile loss", "pinball"),
    "cox": ("cox ph loss", "neg partial loglik"),
    "info-nce": ("info nce", "nt xent loss", "sim clr loss"),
    "ppo": ("ppo loss", "clipped policy loss"),
}
OTHERS = {
    "mse": ("rmse loss", "bce loss", "root mse"),
    "huber": ("quantile huber loss", "ber hu loss"),
    "dice": ("generalized dice loss", "cl dice"),
    "cross-entropy": ("binary cross entropy", "label smoothing cross entropy", "focal loss"),
    "triplet": ("contrastive loss", "centre loss"),
    "js": ("kl div loss",),
}


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.key)
def test_an_entry_is_whole(loss):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", loss.key)
    assert loss.source
    assert loss.readings[0].wrong is None or any(r.wrong is None for r in loss.readings)
    re.compile(loss.called)
    for reading in loss.readings:
        if reading.wrong is not None:
            assert reading.wrong[0].islower()
            assert not reading.wrong.endswith(".")


def test_keys_are_unique():
    assert len({loss.key for loss in LOSSES}) == len(LOSSES)


@pytest.mark.parametrize(("key", "words"), [(k, w) for k, ws in WORDS.items() for w in ws])
def test_a_name_claims(key, words):
    assert next(loss for loss in LOSSES if loss.key == key).claimed_by(words)


@pytest.mark.parametrize(("key", "words"), [(k, w) for k, ws in OTHERS.items() for w in ws])
def test_another_name_does_not_claim(key, words):
    assert not next(loss for loss in LOSSES if loss.key == key).claimed_by(words)


def test_arguments_claim_where_all_of_them_fit():
    known = next(loss for loss in LOSSES if loss.key == "kl-standard-normal")
    zero = torch.zeros(2)
    binding = {"mean": Slot(0, "mu", zero), "spread": Slot(1, "logvar", zero)}
    assert known.claimed_by_arguments(binding)
    assert not known.claimed_by_arguments({**binding, "spread": Slot(1, "target", zero)})


def cubed(input, target):
    return {"|error|^3": Term((input - target).abs() ** 3)}


def cube_of_mean(input, target):
    return {"cube": Term((input - target).abs().mean() ** 3)}


@pytest.fixture
def cubic():
    register(
        KnownLoss(
            "cubic", "the cubic loss", "nobody, 2000", r"cubic", pair,
            (Reading(cubed), Reading(cube_of_mean, "takes the cube of the mean")),
        )
    )  # fmt: skip
    yield
    unregister("cubic")


def cubic_loss(input, target):
    return (input - target).abs().pow(3).mean()


def cubic_loss_of_mean(input, target):
    return (input - target).abs().mean().pow(3)


def test_a_registered_loss_is_known(cubic, verdicts):
    (said,) = verdicts("LP111", cubic_loss, "float[8]", "float[8]")
    assert said.status is Status.PROVED
    assert "cubic" in said.detail
    (finding,) = verdicts("LP111", cubic_loss_of_mean, "float[8]", "float[8]")
    assert isinstance(finding, Finding)
    assert "takes the cube of the mean" in finding.message


def test_an_unregistered_loss_is_not(verdicts):
    (said,) = verdicts("LP111", cubic_loss, "float[8]", "float[8]")
    assert said.status is Status.NOT_APPLICABLE
