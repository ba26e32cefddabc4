"""Python with ``>>>`` is coloured as a session; on GitHub, ``python`` is all that is needed."""

from __future__ import annotations

import re
from typing import Any

SESSION = re.compile(r"^( *)```python\n(?= *>>> )", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Name the language of sessions."""
    return SESSION.sub(r"\1```pycon\n", markdown)
