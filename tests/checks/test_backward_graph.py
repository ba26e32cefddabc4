"""The graph of derivatives of one call."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossproof.checks.backward_graph import BackwardGraph


def product(a, b, c):
    weighed = a * (b - c)
    return weighed.mean() + c.pow(2).mean()


def graph_of(examination, loss, count):
    leaves = [torch.randn(4, generator=torch.Generator().manual_seed(n)) for n in range(count)]
    case = examination(loss, *(leaf.requires_grad_() for leaf in leaves))
    return case, BackwardGraph(case.base)


def test_a_node_knows_its_leaves_and_its_operation(examination):
    _, graph = graph_of(examination, product, 3)
    (node,) = [node for node in graph.nodes if node.name() == "MulBackward0"]
    assert sorted(graph.leaves(node)) == [0, 1, 2]
    assert sorted(sorted(graph.leaves(o)) for o in graph.operands(node)) == [[0], [1, 2]]
    assert graph.operation(node).site.location.source.strip() == "weighed = a * (b - c)"


def test_the_gradient_that_arrives_is_that_of_the_result(examination):
    case, graph = graph_of(examination, product, 3)
    (node,) = [node for node in graph.nodes if node.name() == "SubBackward0"]
    expected = float((case.inputs.values[0].detach() / 4).abs().max())
    assert abs(graph.gradient_at(node) - expected) < 1e-6


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_the_leaves_of_a_sum_are_those_that_are_added(picked):
    from lossproof.checks.examination import Examination
    from lossproof.checks.inputs import inputs_for
    from lossproof.checks.subject import subject_of

    def added(a, b, c, d):
        return sum((a, b, c, d)[index].sum() for index in picked)

    subject = subject_of(added)
    leaves = [torch.ones(2, requires_grad=True) for _ in range(4)]
    case = Examination(subject, inputs_for(subject, leaves, 0))
    graph = BackwardGraph(case.base)
    assert graph.leaves(case.base.value.grad_fn) == frozenset(picked)
