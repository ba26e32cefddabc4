"""The losses of piq, but for those that download a network."""

from __future__ import annotations

from typing import Any

from benchmarks.libraries.draw import Draw, wanted
from benchmarks.libraries.entry import Entries
from benchmarks.libraries.stand_ins import stand_ins

# Its measures on learned features take their networks from torchvision.
with stand_ins("torchvision", "torchvision.models", "torchvision.models.inception"):
    import piq

ENTRIES = Entries()
add = ENTRIES.add


def colour(size: int) -> Any:
    """A pair of colour images of this size."""

    def draw(d: Draw) -> tuple[Any, ...]:
        return wanted(d.uniform(1, 3, size, size)), d.uniform(1, 3, size, size)

    return draw


add("TVLoss", piq.TVLoss, lambda d: (wanted(d.uniform(1, 3, 16, 16)),))
add("SSIMLoss", piq.SSIMLoss, colour(16))
add("MultiScaleSSIMLoss", lambda: piq.MultiScaleSSIMLoss(kernel_size=3), colour(48))
add("VIFLoss", piq.VIFLoss, colour(48))
add("GMSDLoss", piq.GMSDLoss, colour(16))
add("MultiScaleGMSDLoss", piq.MultiScaleGMSDLoss, colour(32))
add("HaarPSILoss", piq.HaarPSILoss, colour(32))
add("MDSILoss", piq.MDSILoss, colour(32))
add("FSIMLoss", piq.FSIMLoss, colour(32))
add("VSILoss", piq.VSILoss, colour(32))
add("SRSIMLoss", lambda: piq.SRSIMLoss(gaussian_size=5), colour(64))
add("DSSLoss", piq.DSSLoss, colour(32))
add(
    "InformationWeightedSSIMLoss",
    piq.InformationWeightedSSIMLoss,
    lambda d: (wanted(d.uniform(1, 1, 161, 161)), d.uniform(1, 1, 161, 161)),
)
