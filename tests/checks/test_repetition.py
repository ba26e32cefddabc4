"""Rounds are counted per frame, and loops are found where they stand."""

import torch

from lossproof.checks.repetition import RepetitionCounter
from lossproof.checks.sources import Sources
from lossproof.checks.subject import subject_of


def counted(examination, loss, *inputs):
    case = examination(loss, *inputs)
    with RepetitionCounter(case.subject.sources) as counter:
        case.evaluate(backward=False)
    return counter


def test_a_loop_is_found_with_its_rounds_and_operations(examination, marked):
    def loss(input, target):
        total = 0
        for i in range(len(input)):  # <-- here
            total = total + (input[i] - target[i]).abs().sum()
        return total

    counter = counted(examination, loss, "float[9,2]", "float[9,2]")
    (found,) = counter.repetitions(8)
    assert (found.location.line, found.rounds) == (marked(loss), 9)
    assert found.operations == counter.total == 9 * 6


def test_operations_of_called_functions_belong_to_the_loop(examination, marked):
    def one(row):
        return (row * row).sum()

    def loss(input):
        total = 0.0
        for row in input.unbind():  # <-- here
            total = total + one(row)
        return total

    found = counted(examination, loss, "float[9,2]").repetitions(8)
    assert {place.location.line for place in found} == {marked(loss)}
    assert found[0].rounds == 9


def test_a_function_called_in_two_places_is_no_loop(examination):
    def one(row):
        return (row * row).sum()

    def loss(input):
        return one(input[0]) + one(input[1]) + one(input[2]) + one(input[3])

    assert counted(examination, loss, "float[9,2]").repetitions(2) == []


def test_the_outermost_loop_is_named(examination, marked):
    def loss(input):
        total = 0.0
        for i in range(3):  # <-- here
            for j in range(4):
                total = total + input[i, j] ** 2
        return total

    (found,) = counted(examination, loss, "float[3,4]").repetitions(8)
    assert (found.location.line, found.rounds) == (marked(loss), 12)


def test_a_comprehension_is_a_loop(examination, marked):
    def loss(input):
        return sum(row.abs().sum() for row in input.unbind())  # <-- here

    places = [
        place.location.line for place in counted(examination, loss, "float[9,2]").repetitions(8)
    ]
    assert set(places) == {marked(loss)}


def test_code_without_source_is_its_own_place():
    scope = {"torch": torch}
    text = "def loss(x):\n    t = 0\n    for i in range(9):\n        t = t + x[i]\n    return t"
    exec(compile(text, "nowhere.py", "exec"), scope)
    counter = RepetitionCounter(Sources("nowhere.py"))
    with counter:
        scope["loss"](torch.ones(9))
    assert {place.location.line for place in counter.repetitions(8)} == {4}
    assert subject_of(scope["loss"]).location is None
