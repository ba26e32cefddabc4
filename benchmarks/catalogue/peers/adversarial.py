"""Losses of generative adversarial networks in other libraries."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.catalogue.imported import Kept, layer
from benchmarks.catalogue.peer import JOINED_HERE, Peer
from lossproof.losses.adversarial import (
    hinge_discriminator_loss,
    hinge_generator_loss,
    least_squares_discriminator_loss,
    least_squares_generator_loss,
    nonsaturating_discriminator_loss,
    nonsaturating_generator_loss,
)

Tensor = torch.Tensor


def _monai(criterion: str) -> Kept:
    return layer(
        "monai.losses.adversarial_loss",
        "PatchAdversarialLoss",
        criterion=criterion,
        no_activation_leastsq=True,
    )


def _discriminator(criterion: str) -> Callable[..., Tensor]:
    """Both calls for a discriminator, which users add up."""
    of = _monai(criterion)

    def loss(real: Tensor, fake: Tensor) -> Tensor:
        value: Tensor = of(real, target_is_real=True, for_discriminator=True)
        value = value + of(fake, target_is_real=False, for_discriminator=True)
        return value

    return loss


def _generator(criterion: str) -> Callable[..., Tensor]:
    of = _monai(criterion)

    def loss(fake: Tensor) -> Tensor:
        value: Tensor = of(fake, target_is_real=True, for_discriminator=False)
        return value

    return loss


SCORES = "real float[8,4]; fake float[8,4]"

PEERS = (
    Peer(
        "hinge_discriminator_loss",
        "monai",
        'PatchAdversarialLoss("hinge"), of the tanh of the scores',
        lambda real, fake: hinge_discriminator_loss(real.tanh(), fake.tanh()),
        _discriminator("hinge"),
        SCORES,
        not_asked=JOINED_HERE,
    ),
    Peer(
        "hinge_generator_loss",
        "monai",
        'PatchAdversarialLoss("hinge"), one minus the tanh of the scores',
        lambda fake: 1 + hinge_generator_loss(fake.tanh()),
        _generator("hinge"),
        "fake float[8,4]",
    ),
    Peer(
        "nonsaturating_discriminator_loss",
        "monai",
        'PatchAdversarialLoss("bce")',
        nonsaturating_discriminator_loss,
        _discriminator("bce"),
        SCORES,
        not_asked=JOINED_HERE,
    ),
    Peer(
        "nonsaturating_generator_loss",
        "monai",
        'PatchAdversarialLoss("bce")',
        nonsaturating_generator_loss,
        _generator("bce"),
        "fake float[8,4]",
    ),
    Peer(
        "least_squares_discriminator_loss",
        "monai",
        'PatchAdversarialLoss("least_squares", no_activation_leastsq=True)',
        lambda real, fake: 2 * least_squares_discriminator_loss(real, fake),
        _discriminator("least_squares"),
        SCORES,
        not_asked=JOINED_HERE,
    ),
    Peer(
        "least_squares_generator_loss",
        "monai",
        'PatchAdversarialLoss("least_squares", no_activation_leastsq=True)',
        lambda fake: 2 * least_squares_generator_loss(fake),
        _generator("least_squares"),
        "fake float[8,4]",
    ),
)
