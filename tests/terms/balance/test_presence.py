import pytest
import torch

from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.presence import axes_of_terms, only

NAMES = ("a", "b", "c")


class Stateful(Balancer):
    def initial_state(self, count):
        return {
            "vector": torch.arange(count, dtype=torch.float64),
            "history": torch.zeros(3, count, dtype=torch.float64),
            "matrix": torch.arange(count * count, dtype=torch.float64).view(count, count),
            "counter": torch.zeros((), dtype=torch.int64),
            "constant": torch.zeros(3),
        }


def test_the_axes_that_grow_with_the_number_of_terms():
    """Three entries are not one for each of three terms, where there always are three."""
    assert Stateful(NAMES).axes_of_state() == {
        "weights": (0,),
        "vector": (0,),
        "history": (1,),
        "matrix": (0, 1),
        "counter": (),
        "constant": (),
    }


def test_a_state_of_pairs_must_say_what_its_entries_are():
    pairs = {"pairs": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"`pairs` of shape \[3\] has no entry for each of the 3"):
        axes_of_terms(pairs, {"pairs": torch.zeros(6)}, 3)


def test_inside_the_balancer_is_one_for_the_others():
    balancer = Stateful(NAMES)
    with only(balancer, ["c", "a"]):
        assert balancer.names == ("c", "a")
        assert balancer.vector.tolist() == [2.0, 0.0]
        assert balancer.matrix.tolist() == [[8.0, 6.0], [2.0, 0.0]]
        assert balancer.history.shape == (3, 2)
        assert balancer.weights.shape == (2,)


def test_what_it_makes_of_its_part_is_put_back():
    balancer = Stateful(NAMES)
    with only(balancer, ["a", "c"]):
        balancer.vector = torch.tensor([10.0, 30.0])
        balancer.matrix.mul_(-1)
        balancer.history[1] = 7.0
        balancer.counter = balancer.counter + 1
    assert balancer.names == NAMES
    assert balancer.vector.tolist() == [10.0, 1.0, 30.0]
    assert balancer.vector.dtype == torch.float64
    assert balancer.matrix.tolist() == [[0.0, 1.0, -2.0], [3.0, 4.0, 5.0], [-6.0, 7.0, -8.0]]
    assert balancer.history.tolist() == [[0.0] * 3, [7.0, 0.0, 7.0], [0.0] * 3]
    assert balancer.counter == 1


def test_after_an_exception_everything_is_as_it_was():
    balancer = Stateful(NAMES)
    before = {name: buffer.clone() for name, buffer in balancer.named_buffers()}
    with pytest.raises(ArithmeticError), only(balancer, ["b"]):
        balancer.vector.add_(1)
        balancer.counter.add_(1)
        balancer.matrix = torch.zeros(1, 1)
        raise ArithmeticError
    assert balancer.names == NAMES
    for name, buffer in balancer.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_gradients_flow_through_the_part_of_a_parameter():
    balancer = Stateful(NAMES)
    balancer.scale = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    with only(balancer, ["c", "a"]):
        assert balancer.scale.tolist() == [3.0, 1.0]
        (balancer.scale * torch.tensor([5.0, 7.0])).sum().backward()
    assert balancer.scale.grad.tolist() == [7.0, 0.0, 5.0]
    assert isinstance(balancer.scale, torch.nn.Parameter)


def test_the_part_of_a_parameter_has_a_graph_where_gradients_are_switched_off():
    balancer = Stateful(NAMES)
    balancer.scale = torch.nn.Parameter(torch.ones(3))
    with torch.no_grad(), only(balancer, ["b"]):
        assert balancer.scale.requires_grad
        assert not balancer.vector.requires_grad


def test_with_everyone_present_nothing_is_copied():
    balancer = Stateful(NAMES)
    vector = balancer.vector
    with only(balancer, NAMES):
        assert balancer.vector is vector
