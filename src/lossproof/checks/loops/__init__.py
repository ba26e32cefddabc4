"""From a Python loop over elements to one call of ``torch.vmap``.

:mod:`~lossproof.checks.loops.elements` reads what the loop goes over, ``rounds`` turns the body of
one round into a function of its elements, ``rewriting`` puts the two together, and ``trial`` runs
the result on the inputs of the check before anybody is shown it.
"""

from __future__ import annotations

from lossproof.checks.loops.trial import Vectorised, vectorised

__all__ = ["Vectorised", "vectorised"]
