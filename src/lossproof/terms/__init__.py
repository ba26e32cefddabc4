"""Terms: a composite loss by named terms, every term's own gradient, and weights from it."""

from __future__ import annotations

from lossproof.terms.gradients import TermGradients, term_gradients

__all__ = ["TermGradients", "term_gradients"]
