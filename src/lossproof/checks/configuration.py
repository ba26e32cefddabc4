"""The settings of a project: ``[tool.lossproof]`` in ``pyproject.toml``, or ``lossproof.toml``.

::

    [tool.lossproof]
    select = ["LP1", "LP2"]        # the rules to run: codes, prefixes or names
    ignore = ["graph-break"]       # the rules to leave out
    exclude = ["legacy", "src/*/generated_*.py"]
    seed = 0
    time-limit = 60.0              # seconds for each loss
    jobs = 4                       # how many losses are checked at once

    [tool.lossproof.losses."losses.py:FocalLoss"]
    inputs = "logits float[8,10]; target int[8]<10"
    reference = "torchvision.ops:sigmoid_focal_loss"
    ignore = ["LP404"]

What is said on the command line counts for more. Paths are relative to the folder of the file. In
``lossproof.toml`` the tables stand at the top, without ``tool.lossproof``.
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lossproof.checks.rule_selection import selected
from lossproof.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OWN_FILE = "lossproof.toml"
SHARED_FILE = "pyproject.toml"
LARGEST_SEED = 2**32 - 1
"""As for numpy's generators; torch's own would take twice as many digits."""


@dataclass(frozen=True)
class LossSettings:
    """The settings of one loss."""

    inputs: str | None = None
    reference: str | None = None
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True)
class Configuration:
    """What a project says of its checks; ``None`` and nothing where it says nothing."""

    file: Path | None = None
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    seed: int | None = None
    time_limit: float | None = None
    jobs: int | None = None
    losses: Mapping[str, LossSettings] = field(default_factory=lambda: MappingProxyType({}))
    """The settings of single losses, by their names as they are written there."""

    @property
    def root(self) -> Path:
        """The folder that its paths are relative to."""
        return Path.cwd() if self.file is None else self.file.parent

    def without_ignored(self) -> Configuration:
        """The same settings, with no rule left out."""
        losses = {name: replace(own, ignore=()) for name, own in self.losses.items()}
        return replace(self, ignore=(), losses=MappingProxyType(losses))


def configuration_for(place: Path) -> Configuration:
    """The settings that hold for a file or folder: those of the nearest file upwards.

    A ``pyproject.toml`` without ``[tool.lossproof]`` says nothing, and the search goes on.

    Raises:
        UsageError: the file is not valid TOML, has a key that does not exist, or a value of the
            wrong type.
    """
    place = place.resolve()
    for folder in (place, *place.parents):
        for name in (OWN_FILE, SHARED_FILE):
            file = folder / name
            if file.is_file() and (table := _table(file)) is not None:
                return _configuration(file, table)
    return Configuration()


def _table(file: Path) -> Mapping[str, Any] | None:
    try:
        data: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise UsageError(f"`{file}` is not valid TOML: it is nested too deeply") from error
    except ValueError as error:  # TOML's own, that of UTF-8, and that of a number of many digits
        raise UsageError(f"`{file}` is not valid TOML: {error}") from error
    except OSError as error:
        raise UsageError(f"`{file}` cannot be read: {error.strerror}") from error
    if file.name == OWN_FILE:
        return data
    tool = data.get("tool", {})
    table = tool.get("lossproof") if isinstance(tool, dict) else None
    if table is not None and not isinstance(table, dict):
        raise UsageError(f"`tool.lossproof` in `{file}` must be a table, got {_kind(table)}")
    return table


def _configuration(file: Path, table: Mapping[str, Any]) -> Configuration:
    known: dict[str, Callable[[Any, str], Any]] = {
        "select": _words, "ignore": _words, "exclude": _words, "seed": _seed,
        "time-limit": _seconds, "jobs": _jobs, "losses": _losses,
    }  # fmt: skip
    try:
        found = Configuration(file, **_values(table, known, "lossproof"))
        selected(found.select, found.ignore)
        for settings in found.losses.values():
            selected(found.select, (*found.ignore, *settings.ignore))
    except UsageError as error:
        raise UsageError(f"`{file}`: {error}") from None
    return found


def _values(
    table: Mapping[str, Any], known: Mapping[str, Callable[[Any, str], Any]], where: str
) -> dict[str, Any]:
    """Each value read by the reader of its key, under the name that Python gives it."""
    read = {}
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key.replace("_", "-"), known, 1)
            hint = f"did you mean `{near[0]}`?" if near else f"the keys are {_listed(known)}"
            raise UsageError(f"`{where}` has no key `{key}`; {hint}")
        read[key.replace("-", "_")] = known[key](value, key)
    return read


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _kind(value: Any) -> str:
    """What TOML calls the type of a value, with the value where it is short."""
    if isinstance(value, (list, dict)):
        return "an array" if isinstance(value, list) else "a table"
    if isinstance(value, int) and value.bit_length() > 200:  # Python may refuse to write it out
        return f"an integer of {value.bit_length()} bits"
    names = {str: "the text ", bool: "the boolean ", int: "the integer ", float: "the float "}
    return f"{names.get(type(value), '')}`{value}`"


def _refuse(key: str, wanted: str, value: Any) -> UsageError:
    return UsageError(f"`{key}` must be {wanted}, got {_kind(value)}")


def _words(value: Any, key: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise _refuse(key, f'an array of texts, such as `{key} = ["..."]`', value)
    return tuple(value)


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise _refuse(key, "a text", value)
    return value


def _specifications(value: Any, key: str) -> str:
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return ", ".join(value)
    if not isinstance(value, str):
        raise _refuse(key, 'a text or an array of texts, such as `"float[8,10], int[8]<10"`', value)
    return value


def _seed(value: Any, key: str) -> int:
    if type(value) is not int or not 0 <= value <= LARGEST_SEED:
        raise _refuse(key, f"an integer from 0 to {LARGEST_SEED}", value)
    return value


def _jobs(value: Any, key: str) -> int:
    if type(value) is not int or value < 1:
        raise _refuse(key, "an integer of at least 1", value)
    return value


def _seconds(value: Any, key: str) -> float:
    if type(value) not in (int, float) or not value > 0 or math.isnan(value):
        raise _refuse(key, "a number of seconds above 0", value)
    return float(value)


def _losses(value: Any, key: str) -> Mapping[str, LossSettings]:
    if not isinstance(value, dict):
        raise _refuse(
            key, 'a table, such as `[tool.lossproof.losses."losses.py:FocalLoss"]`', value
        )
    known = {"inputs": _specifications, "reference": _text, "ignore": _words}
    read = {}
    for name, table in value.items():
        where = f"{key}.{name}"
        place, colon, loss = name.rpartition(":")
        if not (colon and place and loss):
            raise UsageError(
                f'`{where}` names no loss: write `[... .{key}."FILE.py:NAME"]` or '
                f'`"package.module:NAME"`, with the quotes'
            )
        if not isinstance(table, dict):
            raise _refuse(where, f"a table with {_listed(known)}", table)
        read[name] = LossSettings(**_values(table, known, where))
    return MappingProxyType(read)
