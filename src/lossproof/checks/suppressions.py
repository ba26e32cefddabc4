"""Comments that silence findings: ``# lossproof: ignore[LP104]``.

Such a comment stands on the line of the culprit, or on the line of a ``def`` or ``class`` and holds
for everything within. On the ``def`` or ``class`` of the loss itself it holds for the whole check.
Several codes or names are separated by commas; without any, every rule is silenced. What was
silenced is counted in the report, and a comment that silences nothing is reported (LP001).
"""

from __future__ import annotations

import ast
import functools
import io
import linecache
import re
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass

from lossproof.checks.report import Finding, Location
from lossproof.checks.rule_selection import prefix_of
from lossproof.errors import UsageError

COMMENT = re.compile(
    r"#\s*lossproof:\s*ignore(?:\s*\[(?P<words>[^\]]*)\])?(?![\w-])", re.IGNORECASE
)


@dataclass(frozen=True)
class Suppression:
    """One comment.

    ``prefixes`` are the beginnings of the codes it silences. ``unknown`` are its words that mean no
    rule, each with what is said of it.
    """

    location: Location
    prefixes: tuple[str, ...]
    unknown: tuple[str, ...]
    scope: range
    """The lines it holds for."""
    heads: int | None = None
    """The first line of the ``def`` or ``class`` that it stands on."""

    def covers(self, code: str) -> bool:
        """Whether it silences this rule, wherever it holds."""
        return code.startswith(self.prefixes) if self.prefixes else not self.unknown

    def silences(self, finding: Finding, loss: Location | None) -> bool:
        """Whether it silences this finding of a check of the loss that is defined there."""
        if not self.covers(finding.code):
            return False
        if loss is not None and self.location.file == loss.file and self.heads == loss.line:
            return True
        place = finding.location
        if place is None or place.file != self.location.file:
            return False
        last = place.end_line or place.line
        if self.heads is None:
            return place.line <= self.location.line <= last
        return place.line in self.scope


def suppressions_in(file: str) -> tuple[Suppression, ...]:
    """The comments of a file, or of a notebook's cell; none if it cannot be read as Python."""
    text = "".join(linecache.getlines(file))
    return _suppressions(file, text) if COMMENT.search(text) else ()


@functools.lru_cache(maxsize=64)
def _suppressions(file: str, text: str) -> tuple[Suppression, ...]:
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        blocks = _blocks(ast.parse(text))
    except (SyntaxError, tokenize.TokenError, ValueError):
        return ()
    found = []
    for token in tokens:
        match = COMMENT.search(token.string) if token.type == tokenize.COMMENT else None
        if match is not None:
            found.append(_suppression(file, token, match, blocks))
    return tuple(found)


@dataclass(frozen=True)
class _Block:
    """A ``def`` or ``class``: where its decorators, its head and its body lie."""

    first: int
    head: range
    last: int


def _blocks(tree: ast.Module) -> tuple[_Block, ...]:
    return tuple(
        _Block(
            min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]),
            range(node.lineno, max(node.body[0].lineno, node.lineno + 1)),
            node.end_lineno or node.lineno,
        )
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    )


def _suppression(
    file: str, token: tokenize.TokenInfo, match: re.Match[str], blocks: Iterable[_Block]
) -> Suppression:
    (line, start), written = token.start, match["words"]
    location = Location(
        file, line, start + match.start() + 1, line, start + match.end() + 1,
        source=token.line.rstrip("\r\n") or None,
    )  # fmt: skip
    prefixes, unknown = [], []
    for word in (written or "").split(","):
        if word.strip():
            try:
                prefixes.append(prefix_of(word.strip()))
            except UsageError as error:
                unknown.append(str(error))
    if written is not None and not prefixes and not unknown:
        unknown.append("the brackets are empty: name a rule in them, or leave them out")
    block = next((block for block in blocks if line in block.head), None)
    scope = range(line, line + 1) if block is None else range(block.first, block.last + 1)
    return Suppression(
        location, tuple(prefixes), tuple(unknown), scope, None if block is None else block.first
    )


def sorted_out(
    findings: Iterable[Finding], loss: Location | None
) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """The findings that count, and those that a comment silences.

    Args:
        findings: the findings of one check.
        loss: where the loss is defined.
    """
    kept: list[Finding] = []
    silenced: list[Finding] = []
    for finding in findings:
        files = {place.file for place in (finding.location, loss) if place is not None}
        comments = [comment for file in sorted(files) for comment in suppressions_in(file)]
        hit = any(comment.silences(finding, loss) for comment in comments)
        (silenced if hit else kept).append(finding)
    return tuple(kept), tuple(silenced)


def within(loss: Location) -> tuple[Suppression, ...]:
    """The comments in the source of the loss itself."""
    comments = suppressions_in(loss.file)
    if not comments:
        return ()
    blocks = _blocks(ast.parse("".join(linecache.getlines(loss.file))))
    own = next((block for block in blocks if block.first == loss.line), None)
    if own is None:
        return ()
    lines = range(own.first, own.last + 1)
    return tuple(comment for comment in comments if comment.location.line in lines)
