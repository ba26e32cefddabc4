"""A report or a comparison as a notebook shows it: a fragment in the colours of the page around it.

It has no script, and every rule of its style sheet is confined to it. A notebook's own theme may be
light where the system is dark, so nothing here asks the system: text takes the colour of the page,
and all other colours can be read on light and on dark.
"""

from __future__ import annotations

import hashlib

from markupsafe import Markup

from lossproof.checks.comparison import Comparison
from lossproof.checks.report import Report
from lossproof.show.html import environment


def render(report: Report) -> str:
    """The report as a fragment, its charts measured now if they were not before."""
    templates = environment()
    report = report.with_charts()
    return templates.get_template("notebook.html").render(
        report=report,
        prefix=_prefix(report),
        style=Markup(templates.loader_source("notebook.css")),
    )


def render_comparison(comparison: Comparison) -> str:
    """The comparison as a fragment."""
    templates = environment()
    return templates.get_template("comparison.html").render(
        comparison=comparison, style=Markup(templates.loader_source("notebook.css"))
    )


def _prefix(report: Report) -> str:
    """What ids begin with, so that two reports in one notebook do not use each other's."""
    content = repr(report.charts).encode("utf-8", "backslashreplace")
    return f"lossproof-{hashlib.sha256(content).hexdigest()[:12]}"
