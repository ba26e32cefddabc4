"""What an exception of the user's code says, also where its own words fail."""

from __future__ import annotations

NO_WORDS = "its message cannot be shown"


def words_of(error: BaseException) -> str:
    """The message of an exception.

    Example:
        >>> class Odd(Exception):
        ...     def __str__(self):
        ...         raise RuntimeError
        >>> words_of(ValueError("no")), words_of(Odd())
        ('no', 'its message cannot be shown')
    """
    try:
        return str(error)
    except Exception:
        return NO_WORDS


def as_code(error: BaseException) -> str:
    """The exception as Python writes it.

    Example:
        >>> as_code(SystemExit(3))
        'SystemExit(3)'
    """
    try:
        return f"{type(error).__name__}({', '.join(map(repr, error.args))})"
    except Exception:
        return f"{type(error).__name__}(...)"


def presentable(error: Exception) -> Exception:
    """The exception, or, where its words fail, one of the same name and place that has some.

    Example:
        >>> class Odd(Exception):
        ...     def __str__(self):
        ...         raise RuntimeError
        >>> presentable(Odd())
        Odd('its message cannot be shown')
    """
    try:
        str(error), repr(error)
        return error
    except Exception:
        stand_in: Exception = type(type(error).__name__, (Exception,), {})(NO_WORDS)
        return stand_in.with_traceback(error.__traceback__)
