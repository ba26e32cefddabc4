"""The process in which the stories are told: ``python -m lossproof.demo.worker NUMBERS``.

It answers on standard output with a row of pickled messages, the page the last of them. The side
that asks, :mod:`lossproof.demo.command`, can end it at any moment.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from collections.abc import Callable

from lossproof.demo.messages import Begun, Message, Page
from lossproof.demo.story import Outline, tell

STORIES = ("function_or_layer", "catalogue", "linear_regression", "cross_entropy", "composite")
"""The files of the stories, in the order of their numbers."""


def main() -> None:
    """Tell the stories whose numbers are given."""
    # What a library prints must not get between the messages.
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)

        def say(message: Message) -> None:
            pickle.dump(message, answers)
            answers.flush()

        tell_all([int(word) for word in sys.argv[1:]], say)


def tell_all(numbers: list[int], say: Callable[[Message], None]) -> None:
    """Tell stories, and draw the page of them."""
    from lossproof.demo.page import render
    from lossproof.show.plots import can_draw

    told = []
    for number in numbers:
        one = outline(number)
        told.append(tell(one, number, lambda done, total, words: say(Begun(done, total, words))))
        say(told[-1])
    say(Begun(0, 1, "drawing the page"))
    say(Page(render(told), can_draw()))


def outline(number: int) -> Outline:
    """The story with this number."""
    module = importlib.import_module(f"lossproof.demo.{STORIES[number - 1]}")
    found: Outline = module.OUTLINE
    return found


if __name__ == "__main__":
    main()
