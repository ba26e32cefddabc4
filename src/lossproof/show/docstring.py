"""A docstring in Markdown: its formulas, its arguments as a list, its example as code."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator

SECTIONS = ("Args", "Shape", "Returns", "Raises", "Example", "Source", "Attributes")
_MATH = re.compile(r"^\.\. math::[ ]*(.*(?:\n(?:[ ]+.*)?)*)", re.MULTILINE)
_INLINE_MATH = re.compile(r":math:`([^`]+)`")
_ROLE = re.compile(r":(?:func|class|meth|mod):`~?([^`]+)`")
_CODE_BLOCK = re.compile(r"\A\s*\.\. code-block:: python\n+")
_ARGUMENT = re.compile(r"^(\w+(?:, \w+)*): ")


def call(name: str, signature: inspect.Signature) -> str:
    """How a function is called: its arguments without their types, in lines of 92 characters."""
    arguments = [_argument(parameter) for parameter in signature.parameters.values()]
    keyword_only = [p.kind is p.KEYWORD_ONLY for p in signature.parameters.values()]
    if True in keyword_only and not all(keyword_only):
        arguments.insert(keyword_only.index(True), "*")
    whole = f"{name}({', '.join(arguments)})"
    return textwrap.fill(whole, 92, subsequent_indent="    ", break_long_words=False)


def _argument(parameter: inspect.Parameter) -> str:
    """An argument without its type; a default that is a function by its name."""
    default = parameter.default
    if default is not parameter.empty and callable(default):
        return f"{parameter.name}={default.__name__}"
    return str(parameter.replace(annotation=inspect.Parameter.empty))


def parts(doc: str) -> tuple[str, list[tuple[str, str]]]:
    """What stands before the first section, and the sections."""
    titles = "|".join(SECTIONS)
    pieces = re.split(rf"^({titles}):\s*\n", doc, flags=re.MULTILINE)
    contents = [textwrap.dedent(piece) for piece in pieces[2::2]]
    return pieces[0], list(zip(pieces[1::2], contents, strict=True))


def section(title: str, content: str) -> str:
    """The content of a section in Markdown."""
    if title == "Example":
        code = textwrap.dedent(_CODE_BLOCK.sub("", content.strip("\n")))
        return f"```python\n{code.strip()}\n```"
    if title in {"Args", "Raises", "Attributes"}:
        return prose("\n".join(_items(content)))
    return prose(content)


def _items(content: str) -> Iterator[str]:
    """The arguments of a section as a list."""
    for line in content.strip("\n").splitlines():
        if line and not line.startswith(" "):
            yield _ARGUMENT.sub(r"- **`\1`**: ", line)
        else:
            yield "  " + line.strip()


def prose(text: str) -> str:
    """Text with formulas and roles in Markdown."""
    text = _MATH.sub(lambda m: f"```math\n{textwrap.dedent(m[1]).strip()}\n```\n\n", text)
    text = _INLINE_MATH.sub(r"$`\1`$", text)
    text = _ROLE.sub(r"`\1`", text)
    return re.sub(r"(?<!`)``([^`]+)``(?!`)", r"`\1`", text).strip("\n")
