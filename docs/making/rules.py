"""The pages of the rules: each is the docstring of its rule, the text of `lossproof explain`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lossproof.checks.rules import RULES, Rule

FOLDER = Path(__file__).parents[1] / "rules"
FAMILIES = {
    "LP0": ("About comments", "The comments that silence findings."),
    "LP1": ("Value", "Is it the number that was meant?"),
    "LP2": ("Gradient", "Is the gradient the derivative of the value?"),
    "LP3": ("Numerics", "Is it finite and exact where the mathematics is?"),
    "LP4": ("Behaviour", "Does a call do nothing but return the loss?"),
    "LP5": ("Speed", "Does it take time or memory that it need not?"),
}
"""What the rules whose codes begin so are about."""
INTRODUCTION = """\
# The rules of the check

{count} rules. `lossproof.check` asks each of them about a loss, and each answers: a finding,
*proved* (with the limit it was proved to), *unproved* (and why), or *not applicable*. Codes and
names are public and never change their meaning.

[How a check convicts](../concepts/how_a_check_convicts.md) says what a verdict stands on.
`lossproof explain LP203` shows a rule's page in the terminal, and `lossproof explain` lists all.
`--select LP2,overflow` and `--ignore LP404` choose among them, and a comment
`# lossproof: ignore[LP204]` on the line of the culprit silences a finding.
"""


def pages() -> Mapping[Path, str]:
    """The text of each page, by its file."""
    written = {FOLDER / f"{rule.code}.md": page(rule) for rule in RULES.values()}
    return {FOLDER / "README.md": index(), **written}


def page(rule: Rule) -> str:
    """The page of a rule in Markdown."""
    return f"# {rule.code} {rule.name}\n\n{rule.page.strip()}\n"


def index() -> str:
    """The list of all rules, with links to their pages, family by family."""
    parts = [INTRODUCTION.format(count=len(RULES))]
    for begin, (title, question) in FAMILIES.items():
        rows = [_row(rule) for rule in RULES.values() if rule.code.startswith(begin)]
        head = "| code | name | what it finds |\n|---|---|---|"
        parts.append("\n".join([f"## {title}", "", question, "", head, *rows, ""]))
    return "\n".join(parts)


def _row(rule: Rule) -> str:
    return f"| [`{rule.code}`]({rule.code}.md) | `{rule.name}` | {rule.summary.removesuffix('.')} |"
