"""The pictures of what is held in memory tell what was recorded."""

import re

import pytest
import torch
from benchmarks.harness import memory, results
from benchmarks.speed import held

MEGABYTE = 2**20


def test_the_most_in_each_part_of_the_time():
    seen = memory.Recording([(1, 10), (11, 5), (12, -15), (31, 4), (40, 1)], {}, 40)
    assert held.most_in_each_part(seen, 4) == [10, 15, 0, 5]
    assert held.most_in_each_part(memory.Recording([], {}, 40), 2) == [0, 0]


def test_what_a_step_holds_is_that_of_known_tensors():
    leaf = torch.ones(MEGABYTE // 4).requires_grad_()  # a square keeps it, so 1 MB more in forward
    found = held.held(lambda: leaf.square().sum(), [leaf])
    assert found["left_mb"] == 1.0
    assert max(found["mb"]) == found["peak_mb"] >= 1.0
    assert 0 < found["backward_at"] < 1


@pytest.mark.parametrize("case", held.CASES)
def test_the_picture_of_the_guide_is_that_of_the_results(case):
    pytest.importorskip("matplotlib")
    data = results.read(held.NAME)
    drawn = held.picture(data["cases"][case])
    committed = held.file_of(case).read_text(encoding="utf-8")
    words = re.compile(r"<text[^>]*>([^<]*)</text>")
    assert words.findall(drawn) == words.findall(committed) != []
    plain, parts = data["cases"][case]["ways"].values()
    assert parts["peak_mb"] < 0.2 * plain["peak_mb"]
