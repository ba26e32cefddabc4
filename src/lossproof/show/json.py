"""A report or a comparison as JSON, for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossproof.checks.comparison import Comparison
    from lossproof.checks.report import Report


def render(result: Report | Comparison) -> str:
    """The result's ``to_dict`` as JSON text.

    JSON has no numbers for infinity and NaN; they are written as the strings ``"inf"``, ``"-inf"``
    and ``"nan"``, which ``float`` reads back.
    """
    return written(result.to_dict())


def render_all(reports: Iterable[Report]) -> str:
    """A list of reports, each as :func:`render` writes it."""
    return written([report.to_dict() for report in reports])


def written(data: Any) -> str:
    """Data as JSON text, with its infinities and NaN as strings."""
    return json.dumps(_finite(data), indent=2, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
