"""Write a loss once: every reduction, weights, masks and a Module come with it."""

from lossproof.write.accelerated import Accelerated
from lossproof.write.external import from_numpy
from lossproof.write.module import LossModule, as_module
from lossproof.write.reduction import reduce
from lossproof.write.surrogate import perturbed, straight_through

__all__ = [
    "Accelerated",
    "LossModule",
    "as_module",
    "from_numpy",
    "perturbed",
    "reduce",
    "straight_through",
]
