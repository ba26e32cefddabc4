"""The process in which the stories are told: ``python -m lossproof.demo.worker REQUEST``.

It answers on standard output with a row of pickled messages, the page the last of them. The side
that asks, :mod:`lossproof.demo.command`, can end it at any moment.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import sys
from collections.abc import Callable

from lossproof.demo.messages import Begun, Message, Page, Request, Told
from lossproof.demo.story import Outline, Story, tell

STORIES = ("function_or_layer", "catalogue", "linear_regression", "cross_entropy", "composite")
"""The files of the stories, in the order of their numbers."""


def main() -> None:
    """Answer one request."""
    request = Request(**json.loads(sys.argv[1]))
    # What a library prints must not get between the messages.
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)

        def say(message: Message) -> None:
            pickle.dump(message, answers)
            answers.flush()

        tell_all(request, say)


def tell_all(request: Request, say: Callable[[Message], None]) -> None:
    """Tell stories, and draw the page of them."""
    from lossproof.demo.page import render
    from lossproof.show.plots import can_draw

    stories = []
    for number in request.numbers:
        one = outline(number)
        stories.append(tell(one, number, lambda done, total, words: say(Begun(done, total, words))))
        say(drawn(stories[-1], request))
    say(Begun(0, 1, "drawing the page"))
    say(Page(render(stories), can_draw()))


def outline(number: int) -> Outline:
    """The story with this number."""
    module = importlib.import_module(f"lossproof.demo.{STORIES[number - 1]}")
    found: Outline = module.OUTLINE
    return found


def drawn(story: Story, request: Request) -> Told:
    """A story as the terminal shows it."""
    from lossproof.demo.terminal import render, render_summary

    color, width = request.color, request.width
    text = render(story, len(STORIES), color=color, width=width)
    return Told(text, render_summary(story, color=color, width=width), not story.missed)


if __name__ == "__main__":
    main()
