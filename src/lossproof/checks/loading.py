"""Find the loss that a name on the command line means, and the inputs written beside it."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from lossproof.checks.exception_words import words_of
from lossproof.errors import ImportFailedError, UsageError

FORMS = "write `FILE.py:NAME` or `package.module:NAME`"
SHARED_INPUTS = ("inputs", "INPUTS", "example_inputs")
"""The names under which a module keeps inputs for all its losses."""
ABSENT = object()


def load(target: str) -> tuple[Any, ModuleType]:
    """Import what ``target`` names, and say from which module.

    The current folder, and the folder of a file, are put on ``sys.path`` as running the file would.

    Args:
        target: ``FILE.py:NAME``, ``FILE.py::NAME`` or ``package.module:NAME``, where ``NAME`` may
            be dotted, as in ``Class.method``.

    Raises:
        UsageError: there is no such file, module or name, or what is found cannot be called.
        ImportFailedError: the import fails.
    """
    place, name = _split(target)
    _put_on_path(os.getcwd())
    module = _from_file(place) if _is_file(place) else _from_module(place)
    if not name:
        raise UsageError(f"`{target}` names no loss: {FORMS}{_listing(module, place)}")
    found = _attribute(module, place, name)
    if not callable(found):
        raise UsageError(
            f"`{target}` is of type `{type(found).__name__}` and cannot be called; "
            f"a loss is a function, an `nn.Module` or an `autograd.Function`"
            f"{_listing(module, place)}"
        )
    return found, module


def neighbour_inputs(module: ModuleType, name: str) -> tuple[Any, ...] | None:
    """The inputs written beside a loss, or ``None`` if there are none.

    For ``FocalLoss`` these are what ``FocalLoss_inputs()`` or ``focal_loss_inputs()`` returns, else
    what ``inputs``, ``INPUTS`` or ``example_inputs`` is or returns: a tuple or list of inputs, or
    one input.

    Raises:
        UsageError: the function needs arguments, raises, or returns something that cannot be
            inputs.
    """
    own = [part for word in (name, *name.split(".")) for part in (word, _snake(word))]
    for beside in (*(f"{word}_inputs" for word in own), *SHARED_INPUTS):
        found = _read(module, beside, module.__name__)
        if found is not None and found is not ABSENT:
            return _as_inputs(_called(found, beside, module), beside)
    return None


def _split(target: str) -> tuple[str, str]:
    """The place and the name; a drive such as ``C:`` belongs to the place."""
    if target.endswith(".py"):
        return target, ""
    place, _, name = target.rpartition(":")
    place = place.removesuffix(":")
    return (place, name.strip()) if place else (target, "")


def _is_file(place: str) -> bool:
    return place.endswith(".py") or os.sep in place or "/" in place


def _put_on_path(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _from_file(place: str) -> ModuleType:
    path = Path(place)
    if not os.path.isfile(place):
        what = "is a folder" if os.path.isdir(place) else f"is not there{_similar_files(path)}"
        raise UsageError(f"the file `{path}` {what}")
    path = path.resolve()
    root, name = package_of(path)
    _put_on_path(str(root))
    if root != path.parent and "." not in path.stem:
        return _imported(lambda: importlib.import_module(name), str(path))
    return _imported(lambda: _executed(name, path), str(path))


def _similar_files(path: Path) -> str:
    folder = path.parent
    names = [file.name for file in folder.glob("*.py")] if os.path.isdir(folder) else []
    near = difflib.get_close_matches(path.name, names, 1)
    return f"; did you mean `{folder / near[0]}`?" if near else ""


def package_of(path: Path) -> tuple[Path, str]:
    """The folder to import a file from and its dotted name, so that its relative imports work."""
    names = [path.stem]
    folder = path.parent
    while os.path.isfile(folder / "__init__.py"):
        names.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(names)


def _executed(name: str, path: Path) -> ModuleType:
    """Run a file as a module, also where another module has its name (``losses/random.py``)."""
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    name = name if known is None else f"{name} ({path})"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"`{path}` is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)  # the file may have done so itself
        raise
    return module


def _from_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"`{name}` is neither a file nor a module: {FORMS}")
    try:
        return _imported(lambda: importlib.import_module(name), None)
    except ModuleNotFoundError as error:
        raise UsageError(f"there is no module `{error.name}`{_longer_module(name)}") from error


def _longer_module(name: str) -> str:
    """A hint for ``package.module.loss``, where the colon was forgotten."""
    parent, _, last = name.rpartition(".")
    module = sys.modules.get(parent)
    if module is not None and hasattr(module, last):
        return f"; did you mean `{parent}:{last}`?"
    return "; modules are looked for in the current folder and among the installed packages"


def _imported(run: Callable[[], ModuleType], file: str | None) -> ModuleType:
    """Run an import and turn whatever goes wrong in it into one message.

    A ``ModuleNotFoundError`` for the very module that was asked for passes through.
    """
    try:
        return run()
    except SyntaxError as error:
        if not os.path.isfile(error.filename or ""):  # it was raised, or is in code made by code
            raise _fails(error, file) from error
        raise ImportFailedError(
            f"`{_shown(error.filename)}` line {error.lineno} is not valid Python: {error.msg}"
        ) from error
    except ModuleNotFoundError as error:
        place = _raised_at(error, file)
        if place is None:
            raise
        raise ImportFailedError(
            f"{place} needs the module `{error.name}`, which is not here"
        ) from error
    except SystemExit as error:
        place = _raised_at(error, file) or "the module"
        raise ImportFailedError(
            f"{place} ends the program (`SystemExit: {words_of(error) or None}`) when it is "
            'imported; keep what should only run as a script under `if __name__ == "__main__":`'
        ) from error
    except Exception as error:
        raise _fails(error, file) from error


def _fails(error: Exception, file: str | None) -> ImportFailedError:
    place = _raised_at(error, file) or (f"`{_shown(file)}`" if file else "the module")
    return ImportFailedError(
        f"{place} raises `{type(error).__name__}` when it is imported: {words_of(error)}"
    )


def _raised_at(error: BaseException, file: str | None) -> str | None:
    """The line an import failed at: in ``file``, else the innermost of the imported code."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__
        and not frame.filename.startswith("<frozen")
        and not frame.filename.startswith(os.path.dirname(importlib.__file__))
    ]
    own = [frame for frame in frames if frame.filename == file] or frames
    return f"`{_shown(own[-1].filename)}` line {own[-1].lineno}" if own else None


def _shown(file: str | None) -> str:
    """A path relative to the current folder where it lies inside it."""
    if file is None:
        return "the file"
    relative = os.path.relpath(file)
    return file if relative.startswith(os.pardir) else relative


def _attribute(module: ModuleType, place: str, name: str) -> Any:
    found: Any = module
    path = place
    for part in name.split("."):
        value = _read(found, part, path)
        if value is ABSENT:
            near = difflib.get_close_matches(part, dir(found), 1)
            hint = f"; did you mean `{near[0]}`?" if near else ""
            listing = _listing(module, place) if found is module and not near else ""
            raise UsageError(f"`{path}` has no `{part}`{hint}{listing}")
        found = value
        path = f"{place}:{part}" if path == place else f"{path}.{part}"
    return found


def _read(owner: Any, name: str, place: str) -> Any:
    """An attribute; ``ABSENT`` where there is none."""
    try:
        return getattr(owner, name)
    except AttributeError:
        return ABSENT
    except Exception as error:
        raise UsageError(
            f"reading `{name}` of `{place}` raises `{type(error).__name__}`, where what is not "
            "there should raise `AttributeError`"
        ) from error


def _listing(module: ModuleType, place: str) -> str:
    names = _losses(module)
    if not names:
        return f"; `{place}` defines nothing that could be a loss"
    shown = ", ".join(f"`{name}`" for name in names[:12])
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"; `{place}` has {shown}{more}"


def _losses(module: ModuleType) -> list[str]:
    """The public callables that a module defines itself, in the order of its source."""
    return [
        name
        for name, value in vars(module).items()
        if callable(value)
        and not name.startswith("_")
        and not name.endswith("_inputs")
        and name not in SHARED_INPUTS
        and getattr(value, "__module__", None) == module.__name__
    ]


def _snake(name: str) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return words.lower()


def _called(found: Any, name: str, module: ModuleType) -> Any:
    if not callable(found):
        return found
    try:
        return found()
    except Exception as error:
        place = _raised_at(error, getattr(module, "__file__", None)) or f"`{name}`"
        raise UsageError(
            f"`{name}()`, which should give the inputs, raises `{type(error).__name__}` "
            f"at {place}: {words_of(error)}"
        ) from error


def _as_inputs(value: Any, name: str) -> tuple[Any, ...]:
    if isinstance(value, (tuple, list)):
        return tuple(value)
    if value is None or isinstance(value, (dict, set)):
        raise UsageError(
            f"`{name}` must give the inputs as a tuple of tensors or specifications, "
            f"got `{type(value).__name__}`"
        )
    return (value,)
