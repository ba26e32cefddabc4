"""From a wrong gradient to a named cause.

:func:`examine_functions` judges every hand-written backward of a loss once and explains those that
are wrong. One module here holds each family of causes; each is a hypothesis that predicts the
wrong gradient from the true one, and is named only if its prediction holds at two points.
"""

from __future__ import annotations

from lossproof.checks.causes.cause import Cause, Kind
from lossproof.checks.causes.diagnosis import Diagnosis, Fault, examine_functions

__all__ = ["Cause", "Diagnosis", "Fault", "Kind", "examine_functions"]
