import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lossproof.errors import UnsupportedGraphError
from lossproof.terms.graph import read_graph


def test_masks_tell_which_terms_lie_behind_a_leaf():
    a, b, c = (nn.Parameter(torch.ones(())) for _ in range(3))
    graph = read_graph([a * b, b.sin(), torch.ones(()), a * a])
    assert [graph.mask_of(one) for one in (a, b, c)] == [0b1001, 0b0011, 0]
    assert graph.present == [0, 1, 3]
    assert graph.everyone == 0b1011
    assert graph.roots[2] is None


def test_a_consumer_comes_before_what_it_consumes():
    x = nn.Parameter(torch.ones(3))
    early = x.exp()
    graph = read_graph([(early.sin() + early).sum(), early.cos().sum()])
    place = {node: n for n, node in enumerate(graph.order)}
    assert len(place) == len(graph.order)
    for node in graph.order:
        assert all(place[child] > place[node] for child, _ in node.next_functions)
    (exponential,) = [node for node in graph.order if node.name() == "ExpBackward0"]
    users = sorted(consumer.name() for consumer, _, _ in graph.consumers[exponential])
    assert users == ["AddBackward0", "CosBackward0", "SinBackward0"]


def test_a_graph_may_be_deeper_than_the_stack():
    x = nn.Parameter(torch.ones(()))
    out = x
    for _ in range(20_000):
        out = out + 1
    assert len(read_graph([out, x * 1]).order) == 20_002


def test_only_a_checkpoint_that_hides_its_parameters_is_refused():
    layer, x = nn.Linear(2, 2), torch.ones(1, 2, requires_grad=True)
    read_graph([checkpoint(layer, x, use_reentrant=False).sum()])
    with pytest.raises(UnsupportedGraphError, match="use_reentrant=True"):
        read_graph([checkpoint(layer, x, use_reentrant=True).sum()])
