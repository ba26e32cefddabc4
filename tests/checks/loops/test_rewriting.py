"""A function without one of its loops: text in, text out, and the same numbers."""

import ast
import inspect
import textwrap

import pytest
import torch
import torch.nn.functional as F

from lossproof.checks.loops.elements import NotRewrittenError
from lossproof.checks.loops.rewriting import rewritten

G = torch.Generator().manual_seed(0)
X = torch.randn(6, 4, generator=G, dtype=torch.float64)
Y = torch.randn(6, 4, generator=G, dtype=torch.float64)
LABELS = torch.randint(4, (6,), generator=G)


def tree_of(function):
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    kinds = (ast.For, ast.ListComp, ast.GeneratorExp)
    line = min(node.lineno for node in ast.walk(tree) if isinstance(node, kinds))
    return rewritten(tree, line, "torch")


def turned(function):
    """The rewritten function, ready to be called."""
    names = dict(function.__globals__)
    exec(compile(ast.Module([tree_of(function)], []), "<turned>", "exec"), names)
    return names[function.__name__]


def sum_over_samples(x, y):
    total = 0
    for i in range(len(y)):
        total += ((x[i] - y[i]) ** 2).sum()
    return total / len(y)


def difference_of_sums(x, y):
    total = torch.zeros((), dtype=x.dtype)
    for row, other in zip(x, y, strict=True):
        total = total - (row * other).sum()
        total += row.abs().max()
    return total


def by_label(x, labels):
    losses = []
    for i, row in enumerate(x):
        losses.append(-torch.log_softmax(row, 0)[labels[i]])
    return torch.stack(losses).mean()


def into_places(x, y):
    losses = torch.zeros(len(x), dtype=x.dtype)
    for i in range(x.shape[0]):
        losses[i] = F.l1_loss(x[i], y[i])
    return losses.mean()


def by_branches(x, y):
    total = 0.0
    for i in range(x.size(0)):
        if float(y[i, 0]) > 0.5:
            total += x[i].sum()
        elif y[i, 0].item() > 0 and x[i, 1] < 0:
            scaled = 2 * x[i]
            total += scaled.sum()
        else:
            total -= (x[i] ** 2).sum()
    return total


def with_continue(x, y):
    total, count = 0.0, 0
    for i in range(len(x)):
        if y[i, 0] < 0:
            continue
        total += (x[i] ** 2).sum()
        count += 1
    return total / count


def with_a_loop_inside(x, y):
    total = 0
    for i in range(len(x)):
        part = 0
        row = x[i]
        for j in range(len(row)):
            if int(y[i][j] > 0) == 1:
                part += row[j] ** 2
            else:
                part += -row[j]
        part /= len(row)
        total += part
    return total / x.size(0)


def along_the_second_axis(x, y):
    total = 0
    for j in range(x.shape[1]):
        total = total + (x[:, j] * y[:, j]).sum() ** 2
    return total


def by_number(x, y):
    total = 0
    for i in range(len(x)):
        total += (i + 1) * (x[i] * y[i]).sum()
    return total


def beside_the_whole(x, y):
    total = 0
    for i in range(len(x)):
        total += ((x[i] - x.mean(0)) * y[i]).sum()
    return total


def comprehension(x, y):
    losses = [F.mse_loss(a, b) for a, b in zip(x, y, strict=True)]
    return torch.stack(losses).mean()


def generator(x, y):
    return sum((x[i] * y[i]).sum() for i in range(len(x))) / len(x)


def chosen_by_value(x, y):
    total = 0
    for a, b in zip(x, y, strict=True):
        total += a.sum() if b.sum() > 0 else (b * a).sum()
    return total


SAME = {
    sum_over_samples: Y, difference_of_sums: Y, by_label: LABELS, into_places: Y, by_branches: Y,
    with_continue: Y, with_a_loop_inside: Y, along_the_second_axis: Y, by_number: Y,
    beside_the_whole: Y, comprehension: Y, generator: Y, chosen_by_value: Y,
}  # fmt: skip


@pytest.mark.parametrize("loss", SAME, ids=lambda f: f.__name__)
def test_value_and_gradient_are_the_same(loss):
    results = []
    for function in (loss, turned(loss)):
        x = X.clone().requires_grad_()
        value = function(x, SAME[loss])
        (gradient,) = torch.autograd.grad(value, x)
        results.append((value.detach(), gradient))
    (value, gradient), (other_value, other_gradient) = results
    torch.testing.assert_close(other_value, value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(other_gradient, gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", SAME, ids=lambda f: f.__name__)
def test_no_loop_is_left(loss):
    tree = tree_of(loss)
    loops = (ast.For, ast.While, ast.ListComp, ast.GeneratorExp)
    assert not any(isinstance(node, loops) for node in ast.walk(tree))


def recurrence(x, y):
    state, total = 0.0, 0.0
    for i in range(len(x)):
        state = 0.5 * state + x[i]
        total = total + ((state - y[i]) ** 2).sum()
    return total


def product(x, y):
    total = 1.0
    for i in range(len(x)):
        total *= (x[i] * y[i]).sum()
    return total


def early_end(x, y):
    total = 0.0
    for i in range(len(x)):
        if y[i, 0] > 1:
            break
        total += x[i].sum()
    return total


def some_are_listed(x, y):
    losses = []
    for i in range(len(x)):
        if y[i, 0] > 0:
            losses.append(x[i].sum())  # noqa: PERF401 - what is tested
    return torch.stack(losses).sum()


def neighbours(x, y):
    total = 0.0
    for i in range(1, len(x)):
        total += (x[i] - x[i - 1]).sum()
    return total


@pytest.mark.parametrize(
    "loss", [recurrence, product, early_end, some_are_listed, neighbours], ids=lambda f: f.__name__
)
def test_what_needs_the_loop_keeps_it(loss):
    with pytest.raises(NotRewrittenError):
        tree_of(loss)


def test_the_text():
    assert ast.unparse(tree_of(sum_over_samples)) == textwrap.dedent(
        """
        def sum_over_samples(x, y):

            def per_sample(x, y):
                return ((x - y) ** 2).sum()
            total = torch.vmap(per_sample)(x, y).sum(0)
            return total / len(y)
        """
    ).strip("\n")


def test_names_of_the_function_are_not_taken():
    def loss(x, per_sample):
        total = 0
        for i in range(len(x)):
            total += x[i] * per_sample
        return total

    assert "def per_sample_2(x)" in ast.unparse(tree_of(loss))
