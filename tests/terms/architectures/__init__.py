"""Models of many kinds with named terms, for comparing their gradients with torch's own."""

from tests.terms.architectures import (  # noqa: F401, each adds its models
    batches,
    coupled_batches,
    functions,
    hooks,
    layers,
    layouts,
    matrices,
    sequences,
    sharing,
    trunks,
)
from tests.terms.architectures.registry import ARCHITECTURES, Architecture, Built

__all__ = ["ARCHITECTURES", "Architecture", "Built"]
