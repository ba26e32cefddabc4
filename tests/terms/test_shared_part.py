import torch
from torch import nn

from lossproof.terms.graph import read_graph
from lossproof.terms.shared_part import entries, through_shared_part


def trunk():
    first, second = nn.Linear(3, 4).double(), nn.Linear(4, 4).double()
    hidden = first(torch.randn(5, 3, dtype=torch.float64)).tanh()
    return first, second, hidden


def test_one_pass_gives_the_gradients_of_all_terms():
    first, second, hidden = trunk()
    terms = [second(hidden).square().sum(), hidden.sin().sum(), hidden.cos().sum()]
    doors = entries(read_graph(terms))
    assert [door.node for door in doors] == [hidden.grad_fn]
    arriving = [torch.autograd.grad(term, doors, retain_graph=True) for term in terms]
    wanted = [torch.autograd.grad(term, first.weight, retain_graph=True)[0] for term in terms]
    (found,) = through_shared_part(doors, arriving, [first.weight], True)
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-12, atol=1e-12)
    arriving[1] = (None,)
    (found,) = through_shared_part(doors, arriving, [first.weight], False)
    assert not found[1].any()
    torch.testing.assert_close(found[2], wanted[2], rtol=1e-12, atol=1e-12)


def test_nothing_arrives_or_nothing_is_wanted():
    first, _, hidden = trunk()
    doors = entries(read_graph([hidden.sum(), hidden.sin().sum()]))
    (found,) = through_shared_part(doors, [[None], [None]], [first.weight], True)
    assert found.shape == (2, 4, 3)
    assert not found.any()
    assert through_shared_part(doors, [[None], [None]], [], True) == ()


def test_a_door_behind_another_is_refused():
    """What enters at the first would come by the second again."""
    _, _, hidden = trunk()
    later = hidden.exp()
    assert entries(read_graph([later.sum() + hidden.sum(), later.sin().sum()])) is None


def test_a_leaf_is_no_door():
    w = nn.Parameter(torch.ones(3))
    assert entries(read_graph([w.sum(), w.sin().sum()])) is None


def test_a_term_may_be_a_door():
    _, _, hidden = trunk()
    first = hidden.sum()
    doors = entries(read_graph([first, first.square()]))
    assert [door.node for door in doors] == [first.grad_fn]
