"""The rules, one module each.

A rule module has a docstring, which is its page (*What it does*, *Why it matters*, *Example*,
*Use instead*, and *Not reported* for its exemptions), and a function ``examine`` that reads an
:class:`~lossproof.checks.examination.Examination` and yields findings and outcomes. The page is
the text of ``lossproof explain CODE``, so this package reads it without importing the module:
explaining a rule needs no torch.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lossproof.checks.report import Finding, Location, Number, Outcome, Severity, Status
from lossproof.errors import UsageError

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

Verdict = Finding | Outcome
Examine = Callable[["Examination"], Iterable[Verdict]]

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Rule:
    """A rule's public identity. ``code`` and ``name`` are stable."""

    code: str
    name: str
    module: str = field(repr=False)

    @property
    def page(self) -> str:
        """The rule's documentation: its module's docstring."""
        tree = ast.parse((FOLDER / f"{self.module}.py").read_text(encoding="utf-8"))
        return ast.get_docstring(tree) or ""

    @property
    def summary(self) -> str:
        """The first line of the page."""
        return self.page.partition("\n")[0]

    def examine(self, case: Examination) -> list[Verdict]:
        """Run the rule."""
        module = importlib.import_module(f"{__name__}.{self.module}")
        examine: Examine = module.examine
        return list(examine(case))

    def finding(
        self,
        message: str,
        *,
        severity: Severity = Severity.ERROR,
        location: Location | None = None,
        cause: str | None = None,
        evidence: dict[str, Number] | None = None,
        notes: Iterable[str] = (),
        help: str | None = None,  # noqa: A002 - the report's word for it
        related: Iterable[tuple[str, Location]] = (),
    ) -> Finding:
        """A finding of this rule."""
        return Finding(
            self.code, self.name, severity, message, location, cause,
            evidence or {}, tuple(notes), help, tuple(related),
        )  # fmt: skip

    def proved(self, detail: str = "") -> Outcome:
        """The rule holds; ``detail`` gives the limit it was shown to."""
        return Outcome(self.code, self.name, Status.PROVED, detail)

    def unproved(self, why: str) -> Outcome:
        """The rule could not be decided."""
        return Outcome(self.code, self.name, Status.UNPROVED, why)

    def not_applicable(self, why: str) -> Outcome:
        """The rule does not concern this loss."""
        return Outcome(self.code, self.name, Status.NOT_APPLICABLE, why)


def _discover() -> dict[str, Rule]:
    """Every module named ``lpNNN_some_name`` is the rule ``LPNNN some-name``."""
    rules = {}
    for path in sorted(FOLDER.glob("lp[0-9][0-9][0-9]_*.py")):
        code, _, name = path.stem.partition("_")
        rules[code.upper()] = Rule(code.upper(), name.replace("_", "-"), path.stem)
    return rules


RULES: dict[str, Rule] = _discover()
"""Every rule by its code, in order."""


def find_rule(word: str) -> Rule:
    """The rule with this code or name, in any case.

    Raises:
        UsageError: no rule is called so; the message lists the nearest names.
    """
    import difflib

    wanted = word.strip()
    for rule in RULES.values():
        if wanted.upper() == rule.code or wanted.lower() == rule.name:
            return rule
    names = [name for rule in RULES.values() for name in (rule.code, rule.name)]
    near = difflib.get_close_matches(wanted.upper(), names, 3, 0.5)
    near += difflib.get_close_matches(wanted.lower(), names, 3, 0.5)
    hint = f"; did you mean {' or '.join(dict.fromkeys(near))}?" if near else ""
    raise UsageError(f"no rule is called `{word}`{hint}")
