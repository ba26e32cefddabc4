"""Names, options by name, and what a balancer looks like when it is printed."""

import inspect
from collections import OrderedDict

import pytest
import torch
from tests.terms.balance.every_balancer import CLASSES, SPECIAL, make

from lossproof.terms import LearningRateAnnealing, UPGrad
from lossproof.terms.balance.state import checked_names

NAMED = sorted(name for name in CLASSES if "names" in inspect.signature(CLASSES[name]).parameters)


def terms(x):
    return {"a": x[0] - x[1], "b": x[1].square()}


@pytest.mark.parametrize("name", [name for name in NAMED if name not in SPECIAL])
@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ("ab", TypeError, "`names` must be .*'ab'"),
        ({"a": 1.0, "b": 1.0}, TypeError, "`names` must be .*'a': 1.0"),
        ([1, 2], TypeError, "`names` must hold strings, got 1"),
        (3, TypeError, "`names` must be .*got 3"),
        (["a", "a"], ValueError, r"`names` must be different names of terms, got \['a', 'a'\]"),
    ],
)
def test_names_that_are_none(name, names, error, message):
    with pytest.raises(error, match=message):
        CLASSES[name](names)


def test_a_set_has_no_order():
    with pytest.raises(TypeError, match="`names` must be a sequence"):
        checked_names({"a", "b"})
    assert checked_names(OrderedDict(b=1, a=2).keys()) == ("b", "a")
    assert checked_names(name for name in "ba") == ("b", "a")


BY_NAME = [
    ("UPGrad", "preference"), ("DualProj", "preference"), ("ConFIG", "preference"),
    ("AlignedMTL", "preference"), ("STCH", "preference"), ("STCH", "ideal"),
    ("FAMO", "min_losses"), ("GradNorm", "initial_losses"), ("GradDrop", "leak"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "option"), BY_NAME)
@pytest.mark.parametrize("given", [{"a": 0.5}, {"a": 0.5, "b": 0.5, "misspelt": 0.5}])
def test_an_option_by_name_is_for_all_terms_and_no_others(method, option, given):
    """At once where the names are given, else at the first step, which may then be made again."""
    message = rf"`{option}` must hold a number for each of the terms \['a', 'b'\], got \['a'"
    with pytest.raises(ValueError, match=message):
        CLASSES[method](["a", "b"], **{option: given})
    balancer = CLASSES[method](**{option: given})
    x = torch.tensor([2.0, 1.0], requires_grad=True)
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            balancer.backward(terms(x), [x])
    assert balancer.names is None


def test_of_sampled_terms_the_option_names_the_terms():
    option = {"preference": {"a": 1.0, "c": 1.0}}
    with pytest.raises(ValueError, match=r"the terms \['a', 'b'\], got \['a', 'c'\]"):
        CLASSES["SDMGrad"](["a", "b"], **option)
    assert CLASSES["SDMGrad"](["c", "a"], **option).terms == ("c", "a")


OF_THREE = {"a": 0.25, "b": 0.75, "c": 0.5}


def step_of(balancer, names):
    """A step in which only these of three terms are there, on fresh parameters."""
    x = torch.tensor([2.0, 1.0, 3.0], requires_grad=True)
    every = dict(zip(OF_THREE, x + 0.5 * x.sum(), strict=True))
    known = balancer.names or ()
    given = {name: every[name] if name in names else None for name in known}
    return balancer.backward(given, [x]).weights, x.grad


@pytest.mark.parametrize(("method", "option"), [*BY_NAME, ("FixedWeights", "weights")])
def test_where_terms_are_absent_the_numbers_are_those_of_the_others(method, option):
    """Also after a step with all of them, for which they were looked up; the state is the same."""

    def made(names):
        numbers = {option: {name: OF_THREE[name] for name in names}}
        return CLASSES[method](**numbers, **({} if option == "weights" else {"names": names}))

    balancer, fresh = made(["a", "b", "c"]), made(["a", "c"])
    before = {name: one for name, one in balancer.state_dict().items() if "_extra" not in name}
    before = {name: one.clone() for name, one in before.items()}
    step_of(balancer, "abc")
    balancer.load_state_dict(before, strict=False)
    for found, wanted in zip(step_of(balancer, "ac"), step_of(fresh, "ac"), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_it_says_its_names_when_printed(name):
    text = repr(make(name))
    assert text.startswith(name + "(")
    assert "object at" not in text
    assert "data" in text


@pytest.mark.parametrize(
    ("balancer", "text"),
    [
        (UPGrad(), "UPGrad()"),
        (
            UPGrad(["a", "b"], preference={"a": 1, "b": 2}, every=3),
            "UPGrad(names=['a', 'b'], preference={'a': 1.0, 'b': 2.0}, every=3)",
        ),
        (CLASSES["CAGrad"](c=0.4), "CAGrad(c=0.4)"),
        (CLASSES["FixedWeights"]({"a": 2}), "FixedWeights(weights={'a': 2.0})"),
        (
            CLASSES["UncertaintyWeights"](["a"], form="classification", initial=-0.5),
            "UncertaintyWeights(names=['a'], form='classification', initial=-0.5)",
        ),
    ],
)
def test_it_says_what_is_not_the_default(balancer, text):
    assert repr(balancer) == text


def test_a_first_step_with_the_wrong_terms_binds_nothing():
    balancer = LearningRateAnnealing(reference="pde", ratio="norm")
    x = torch.tensor([2.0, 1.0], requires_grad=True)
    with pytest.raises(ValueError, match="`reference` must be one of the terms"):
        balancer.backward(terms(x), [x])
    right = {"pde" if name == "a" else name: term for name, term in terms(x).items()}
    assert balancer.backward(right, [x]).weights[0] == 1


def test_a_tensor_is_no_sequence_of_names():
    with pytest.raises(TypeError, match="`names` must be a sequence of the names of the terms"):
        checked_names(torch.tensor(2))


@pytest.mark.parametrize("name", sorted(CLASSES))
@pytest.mark.parametrize("given", [None, [torch.ones(8)], 3, torch.ones(3)])
def test_terms_that_are_no_mapping(name, given):
    with pytest.raises(TypeError, match="`(terms|residuals)` must be a mapping"):
        make(name).backward(given, torch.nn.Linear(1, 1))
