"""Write a loss once: every reduction, weights, masks and a Module come with it."""

from lossproof.write.module import LossModule, as_module
from lossproof.write.reduction import reduce

__all__ = ["LossModule", "as_module", "reduce"]
