"""Which libraries are looked at, and the losses of each."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from importlib import metadata

from benchmarks.libraries import losses
from benchmarks.libraries.entry import Entries


@dataclass(frozen=True)
class Library:
    """A library: as pip calls it, as Python imports it, and the module here with its losses."""

    distribution: str
    package: str
    module: str

    @property
    def installed(self) -> bool:
        """Whether its losses can be looked at here."""
        return self.package in sys.modules or importlib.util.find_spec(self.package) is not None

    @property
    def version(self) -> str:
        """The version that is installed."""
        return metadata.version(self.distribution)

    def entries(self) -> Entries:
        """Its losses; this imports the library."""
        found = importlib.import_module(f"{losses.__name__}.{self.module}").ENTRIES
        assert isinstance(found, Entries)
        return found


LIBRARIES = {
    "torch.nn": Library("torch", "torch", "torch_nn"),
    "monai": Library("monai", "monai", "monai_losses"),
    "kornia": Library("kornia", "kornia", "kornia_losses"),
    "auraloss": Library("auraloss", "auraloss", "auraloss_losses"),
    "pytorch-metric-learning": Library(
        "pytorch-metric-learning", "pytorch_metric_learning", "metric_learning"
    ),
    "segmentation-models-pytorch": Library(
        "segmentation-models-pytorch", "segmentation_models_pytorch", "segmentation_models"
    ),
    "entmax": Library("entmax", "entmax", "entmax_losses"),
    "piq": Library("piq", "piq", "piq_losses"),
    "pytorch-toolbelt": Library("pytorch-toolbelt", "pytorch_toolbelt", "toolbelt"),
}
