"""Shapes and meanings that the words around a loss give to its arguments.

Read are docstrings (Google, numpy and reST style, the ``Shape:`` section that torch uses, plain
lines), comments of the form ``# logits: [B, T, V]``, and annotations that carry a shape.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lossproof.checks.subject import Subject

Shape = tuple[str, ...]

_TOKEN = r"(?:[A-Za-z_]\w*|\d+|\*|\.\.\.|\\ldots|\\dots)"
_BRACKETS = re.compile(rf"[(\[]\s*({_TOKEN}(?:\s*[,;]\s*{_TOKEN})*\s*,?)\s*[)\]]")
_PRODUCT = re.compile(r"\b([A-Z]\w?(?:\s*[x×*]\s*[A-Z0-9]\w?)+)(?!\w)")
# Letters without anything between them: NCHW, and BNH[WD] or BCH(WD) for two or three axes.
_GLUED = re.compile(r"\b([NB])([CN1T])(D)?H[\[(]?W(D)?[\])]?(?!\w)")
_ANNOTATED = re.compile(r"\[[^\[\]]*Tensor[^\[\]\"']*,\s*[\"']([^\"']+)[\"']\s*\]")
# One line may speak of several arguments: `pred: (N, 4); target: (N, 4)`.
_SEVERAL = re.compile(r";\s+(?=[`*]*\w+[`*]*\s*(?::|\())")
_TYPES = frozenset(
    """
    tensor float int bool str string optional list tuple any none torch ndarray long floattensor
    longtensor default required callable array sequence scalar dict number true false mean sum and
    """.split()
)
_SINGLE = re.compile(r"^([A-Z]|bs|batch\w*|minibatch|n_?\w*|num_\w*)$")
_UNDER_THE_NAME = 3
"""How many lines below the name of an argument still speak of it, where they are indented."""


@dataclass(frozen=True)
class Description:
    """What is said of one argument."""

    shapes: tuple[Shape, ...] = ()
    """The shapes that are named, each as the words or numbers for its axes."""
    text: str = ""
    """All that is said, in lower case."""

    def says(self, pattern: str) -> bool:
        """Whether the text has this pattern."""
        return re.search(pattern, self.text) is not None


def describe(subject: Subject, names: Sequence[str]) -> dict[str, Description]:
    """What docstrings, comments and annotations say of each of these arguments.

    Example:
        >>> from lossproof.checks.subject import subject_of
        >>> def loss(logits, labels):
        ...     '''Args:
        ...         logits: scores of shape (batch, classes)
        ...         labels (LongTensor): [B]
        ...     '''
        >>> found = describe(subject_of(loss), ("logits", "labels"))
        >>> found["logits"].shapes, found["labels"].shapes
        ((('batch', 'classes'),), (('B',),))
    """
    lines = [
        part
        for text in _texts(subject)
        for line in text.splitlines()
        for part in _SEVERAL.split(line)
    ]
    found = {}
    for name in names:
        said = _about(name, lines)
        annotation = _annotation(subject, name)
        shapes = (*_annotated_shapes(annotation), *shapes_in(said))
        text = f"{_annotation_text(annotation)} {said}".lower()
        found[name] = Description(tuple(dict.fromkeys(shapes)), text)
    return found


def shapes_in(text: str) -> list[Shape]:
    """The shapes that a text names, in order.

    Example:
        >>> shapes_in("input of shape (N, C, d_1), values in [0, 1] (optional)")
        [('N', 'C', 'd_1')]
        >>> shapes_in("B x T x D logits")
        [('B', 'T', 'D')]
    """
    found = [(match.start(), _split(match[1])) for match in _BRACKETS.finditer(text)]
    found += [
        (match.start(), tuple(re.split(r"\s*[x×*]\s*", match[1])))
        for match in _PRODUCT.finditer(text)
    ]
    found += [(match.start(), _unglued(match)) for match in _GLUED.finditer(text)]
    return [shape for _, shape in sorted(found) if shape and _is_shape(shape)]


def _unglued(match: re.Match[str]) -> Shape:
    batch, classes, depth, _ = match.groups()
    letters = (batch, "1" if classes == "1" else "C", *("D" if depth else ""), "H", "W")
    return letters


def _split(text: str) -> Shape:
    return tuple(word for word in re.split(r"\s*[,;]\s*", text.strip()) if word)


def _is_shape(shape: Shape) -> bool:
    """Whether these words are axes, and not a range, a type or a remark in brackets."""
    if any(word.lower() in _TYPES for word in shape) or shape == ("*",):
        return False
    if all(word.isdigit() for word in shape):
        return len(shape) > 2 and "0" not in shape
    if len(shape) == 1:
        return _SINGLE.match(shape[0]) is not None
    return "0" not in shape


def _texts(subject: Subject) -> Iterable[str]:
    """Docstrings and comments of the loss, the nearest to its arguments first."""
    origin = subject.origin
    cls: Any = origin if isinstance(origin, type) else type(origin)
    if subject.kind == "function":
        base = inspect.unwrap(getattr(origin, "func", origin))
        yield from _written(base)
        return
    for method in ("forward", "__call__", "__init__"):
        found = getattr(cls, method, None)
        if found is not None and found is not getattr(nn.Module, method, None):
            yield inspect.getdoc(found) or ""
    yield from _written(cls)


def _written(target: Any) -> Iterable[str]:
    yield inspect.getdoc(target) or ""
    try:
        source = inspect.getsource(target)
    except (OSError, TypeError):
        return
    yield "\n".join(re.findall(r"#\s*(.+)$", source, re.M))


def _about(name: str, lines: Sequence[str]) -> str:
    """The lines that speak of an argument: the one that begins with its name, and what follows."""
    word = re.escape(name)
    begins = re.compile(
        rf"^\s*(?:[-*•]\s*|:param\s+(?:[\w.]+\s+)?|:type\s+|\.\.\s*)?[`*]*{word}s?[`*]*\s*"
        r"(?:\([^)]*\)|\[[^\]]*\])?\s*(?::|--|—|–|=|\bis\b|\bof\b)|"
        rf"^\s*[-*•]?\s*[`*]*{word}[`*]*\s*[(\[]",
        re.I,
    )
    said: list[str] = []
    for position, line in enumerate(lines):
        if not begins.match(line):
            continue
        said.append(line)
        depth = _indent(line)
        for following in lines[position + 1 : position + 1 + _UNDER_THE_NAME]:
            if not following.strip() or _indent(following) <= depth:
                break
            said.append(following)
    return " ".join(line.strip() for line in said)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _annotation(subject: Subject, name: str) -> Any:
    signature = subject.signature
    if signature is None or name not in signature.parameters:
        return inspect.Parameter.empty
    return signature.parameters[name].annotation


def _annotation_text(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _annotated_shapes(annotation: Any) -> list[Shape]:
    """The shape in ``Float[Tensor, "B C"]`` or ``Annotated[Tensor, "B, C"]``."""
    axes = getattr(annotation, "dim_str", None)
    if not isinstance(axes, str):
        noted = _ANNOTATED.search(_annotation_text(annotation))
        axes = noted[1] if noted else None
    if axes is None:
        return []
    words = tuple(word.split("=")[-1].lstrip("#") for word in re.split(r"[\s,]+", axes) if word)
    return [words] if words and all(re.fullmatch(_TOKEN, word) for word in words) else []
