import ast
from pathlib import Path

import pytest
from benchmarks.mutation.catalogue import Subject, subjects
from benchmarks.mutation.mutants import mutants, sample
from benchmarks.mutation.operators import KINDS

SOURCE = '''\
"""A loss."""

from torch.autograd import Function


class Scaled(Function):
    @staticmethod
    def forward(ctx, p, t):
        ctx.save_for_backward(p, t)
        return 2 * (p - t).sum()

    @staticmethod
    def backward(ctx, grad_output):
        p, t = ctx.saved_tensors
        grad = 2 * (
            p - t
        ).exp().sum(dim=1)
        return grad_output * grad, -grad


LOSS = Scaled
'''


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    path = tmp_path / "scaled.py"
    path.write_text(SOURCE)
    return Subject("scaled", "design", path)


def changes(subject: Subject) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for mutant in mutants(subject):
        found.setdefault(mutant.kind, []).append(mutant.after)
    return found


def test_slips_are_what_their_kinds_say(subject: Subject) -> None:
    found = changes(subject)
    assert found["reduction-swapped"] == ["grad = 2 * (p - t).exp().mean(dim=1)"]
    assert found["axis-changed"] == [
        "grad = 2 * (p - t).exp().sum(dim=0)",
        "grad = 2 * (p - t).exp().sum(dim=2)",
    ]
    assert "grad = 2 * (p - t).sum(dim=1)" in found["function-dropped"]
    assert found["return-swapped"] == ["return (-grad, grad_output * grad)"]
    assert found["return-none"] == ["return (None, -grad)", "return (grad_output * grad, None)"]
    assert found["grad-output-dropped"] == ["return (grad, -grad)"]
    assert found["minus-dropped"] == ["return (grad_output * grad, grad)"]
    assert set(found["constant-changed"]) == {
        f"grad = {number} * (p - t).exp().sum(dim=1)" for number in (4, 1, 3)
    }
    assert found["grad-output-ignored"] == ["return (torch.ones_like(grad_output) * grad, -grad)"]


def test_a_mutant_differs_in_the_backward_only_and_keeps_the_lines(subject: Subject) -> None:
    right = SOURCE.splitlines()
    for mutant in mutants(subject):
        lines = mutant.source.splitlines()
        assert len(lines) == len(right)
        differing = [i + 1 for i, (a, b) in enumerate(zip(right, lines, strict=True)) if a != b]
        body = [line for line in differing if line > 4]  # line 3 may gain `import torch`
        assert body[0] == mutant.line
        assert set(body) <= {15, 16, 17, 18}
        ast.parse(mutant.source)


def test_every_text_occurs_once_and_none_is_the_right_one() -> None:
    for subject in subjects("design")[:6]:
        texts = [ast.dump(ast.parse(mutant.source)) for mutant in mutants(subject)]
        assert len(set(texts)) == len(texts)
        assert ast.dump(ast.parse(subject.source)) not in texts


def test_all_kinds_occur_and_there_are_enough_mutants() -> None:
    found = [mutant for subject in subjects() for mutant in mutants(subject)]
    assert {mutant.kind for mutant in found} == set(KINDS)
    assert len(found) >= 2000


def test_the_sample_does_not_depend_on_the_order(subject: Subject) -> None:
    found = mutants(subject)
    drawn = sample(found, 5)
    assert len(drawn) == 5
    assert sample(found[::-1], 5) == drawn
    assert len(sample(found, None)) == len(found)


def test_a_module_without_a_backward_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.py"
    path.write_text("from torch.autograd import Function\n")
    with pytest.raises(ValueError, match="no function `backward`"):
        mutants(Subject("empty", "design", path))
