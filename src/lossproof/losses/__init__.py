"""A catalogue of losses with one convention, each of which passes every check of lossproof."""

from lossproof.losses.regression import LogCoshLoss, log_cosh_loss

__all__ = ["LogCoshLoss", "log_cosh_loss"]
