"""A loss of the catalogue is recognised by name, and proved by value."""

import torch

import lossproof
from lossproof import losses
from lossproof.checks.likeness.from_catalogue import claimed_in_catalogue

IMAGES = "unit[2,1,16,16], unit[2,1,16,16]"


def verdict(loss, inputs):
    report = lossproof.check(loss, inputs, select=["LP111"])
    assert report.ok
    (outcome,) = report.outcomes
    return outcome.status, outcome.detail


def ssim_loss(input, target):
    return losses.ssim_loss(input, target) / 2


def test_it_is_proved_up_to_a_factor():
    word, detail = verdict(ssim_loss, IMAGES)
    assert "proved" in word
    assert "ssim loss of the catalogue" in detail


def test_what_is_only_called_so_is_left_open():
    def ssim_loss(input, target):
        return (1 - input * target).mean()

    word, detail = verdict(ssim_loss, IMAGES)
    assert "unproved" in word
    assert "called like the ssim loss of the catalogue" in detail


def test_no_name_claims_nothing():
    assert claimed_in_catalogue("my own idea") == ()
    (known,) = claimed_in_catalogue("our ssim loss 2d")
    assert known.key == "ssim-loss"
    assert "2004" in known.source


def test_options_of_the_loss_are_read():
    def ssim_loss(input, target, *, sigma=0.8):
        return losses.ssim_loss(input, target, sigma=sigma)

    assert "proved" in verdict(ssim_loss, IMAGES)[0]


def test_the_catalogue_is_not_imported_without_need():
    import subprocess
    import sys

    code = (
        "import sys, lossproof\n"
        "def plain_loss(input, target):\n"
        "    return ((input - target) ** 2).mean()\n"
        "lossproof.check(plain_loss, 'float[8], float[8]')\n"
        "sys.exit('lossproof.losses' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_torch_sees_no_difference():
    # The value that is proved against is the catalogue's own, in float64.
    (known,) = claimed_in_catalogue("ssim loss")
    one, other = torch.rand(2, 2, 1, 16, 16, dtype=torch.float64)
    terms = known.readings[0].terms(input=one, target=other)
    torch.testing.assert_close(terms["ssim_loss"].value[0], losses.ssim_loss(one, other))
