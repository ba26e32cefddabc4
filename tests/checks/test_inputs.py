"""Inputs from tensors and from specifications, and which of them is the prediction."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lossproof.checks.inputs import (
    DRAWS,
    FLOATS,
    INTEGERS,
    Argument,
    Inputs,
    inputs_for,
    parse_specifications,
)
from lossproof.checks.run import _specification
from lossproof.checks.subject import subject_of
from lossproof.errors import UsageError


def loss(input, target, weight=None):
    return ((input - target) ** 2).mean()


def parsed(text, seed=0):
    return parse_specifications(text, torch.Generator().manual_seed(seed))


def made(*given, of=loss, seed=0):
    return inputs_for(subject_of(of), given, seed)


SHAPES = st.lists(st.integers(0, 5), max_size=4)


OF_A_SHAPE = ("boxes", "rotation")


@given(st.sampled_from([*FLOATS, *(set(DRAWS) - set(OF_A_SHAPE))]), SHAPES, st.integers(0, 100))
def test_a_specification_gives_its_shape_and_type(kind, shape, seed):
    (argument,) = parsed(f"{kind}[{','.join(map(str, shape))}]", seed)
    value = argument.value
    assert list(value.shape) == shape
    wanted = FLOATS.get(kind, torch.bool if kind == "bool" else torch.float32)
    assert value.dtype is wanted
    if not value.numel():
        return
    if kind in ("unit", "prob", "binary"):
        assert 0 <= value.min() <= value.max() <= 1
    classes = 1 if len(shape) >= 4 else -1
    if kind in ("prob", "logprob", "onehot") and shape:
        total = (value.exp() if kind == "logprob" else value).sum(classes)
        torch.testing.assert_close(total, torch.ones(total.shape))
    if kind in ("onehot", "binary"):
        assert set(value.flatten().tolist()) <= {0.0, 1.0}
    if kind == "count":
        assert torch.equal(value, value.round()) and value.min() >= 0
    if kind == "positive":
        assert value.min() > 0
    if kind == "sign":
        assert set(value.flatten().tolist()) <= {-1.0, 1.0}


def test_boxes_have_two_corners_in_order():
    (argument,) = parsed("boxes[20,4]")
    corners = argument.value.reshape(20, 2, 2)
    assert (corners[:, 0] < corners[:, 1]).all()
    with pytest.raises(UsageError, match="must hold x1, y1, x2, y2"):
        parsed("boxes[20,5]")


def test_rotations_are_orthogonal_and_keep_the_orientation():
    (argument,) = parsed("rotation[6,3,3]")
    eye = torch.eye(3).expand(6, 3, 3)
    torch.testing.assert_close(argument.value @ argument.value.mT, eye, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(argument.value), torch.ones(6))
    with pytest.raises(UsageError, match="must be equal"):
        parsed("rotation[3,2]")


@given(st.integers(-5, 5), st.integers(1, 6), st.integers(0, 100))
def test_whole_numbers_between_two_bounds(above, span, seed):
    bound = max(above + 1, 0) + span
    (argument,) = parsed(f"int[50]>{above}<{bound}", seed)
    assert above < argument.value.min() <= argument.value.max() < bound


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("int[3]>5<5", "no `int` above 5 and below 5"),
        ("int[3]>x<5", "must be a whole number"),
        ("float[3]>0", "is for integers only"),
        ("uint8[3]>-4<5", "no `uint8` above -4"),
    ],
)
def test_lower_bounds_that_make_no_sense(text, said):
    with pytest.raises(UsageError, match=said):
        parsed(text)


@given(st.sampled_from(list(INTEGERS)), SHAPES, st.integers(1, 100))
def test_integers_stay_below_their_bound(kind, shape, bound):
    (argument,) = parsed(f"{kind}[{','.join(map(str, shape))}]<{bound}")
    assert argument.value.dtype is INTEGERS[kind]
    assert list(argument.value.shape) == shape
    if argument.value.numel():
        assert 0 <= argument.value.min() <= argument.value.max() < bound


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["float", "float64", "bfloat16", "bool", "int<7", "uint8<3"]), SHAPES
        ),
        min_size=1,
        max_size=4,
    )
)
def test_the_specification_of_an_input_reads_back_as_one_like_it(items):
    texts = []
    for kind, shape in items:
        name, _, bound = kind.partition("<")
        texts.append(f"{name}[{','.join(map(str, shape))}]" + (f"<{bound}" if bound else ""))
    first = parsed(", ".join(texts))
    again = parsed(", ".join(_specification(argument.value) for argument in first))
    assert [(a.value.shape, a.value.dtype) for a in first] == [
        (a.value.shape, a.value.dtype) for a in again
    ]


def test_the_same_seed_gives_the_same_inputs_and_another_seed_others():
    one, again, other = (made("float[8,3]", "float[8,3]", seed=s).values for s in (3, 3, 4))
    assert torch.equal(one[0], again[0])
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[0], one[1])


@pytest.mark.parametrize(
    "text",
    [
        "logits float[4,3]; int[4]<3",
        "logits:float[4,3],int[4]<3",
        "logits = float[4, 3] , target int[4] < 3 ",
        "logits\tfloat[4,3];;int[4]<3;",
    ],
)
def test_names_and_separators_may_be_written_in_several_ways(text):
    logits, target = parsed(text)
    assert (logits.name, list(logits.value.shape)) == ("logits", [4, 3])
    assert target.value.dtype is torch.int64


def test_literals_stand_for_themselves():
    values = [
        a.value for a in parsed("float[2], 0.5, True, None, 'mean', \"a,b\", -3, (1, 2), [1]")
    ]
    assert values[1:] == [0.5, True, None, "mean", "a,b", -3, (1, 2), [1]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("flaot[3]", "`flaot` in `flaot[3]` is no type; did you mean `float`?"),
        ("float[3", "cannot read `float[3` in the inputs"),
        ("float(3)", "cannot read `float(3)` in the inputs"),
        ("float", "cannot read `float` in the inputs"),
        ("float[a,3]", "the shape in `float[a,3]` must hold whole numbers, got `[a,3]`"),
        ("float[-1]", "must hold whole numbers"),
        ("float[2.5]", "must hold whole numbers"),
        ("int[3]", "`int[3]` needs a bound, such as `int[3]<10`"),
        ("int[3]<0", "must be a whole number above 0, got `0`"),
        ("int[3]<-2", "must be a whole number above 0, got `-2`"),
        ("int[3]<n", "must be a whole number above 0, got `n`"),
        ("int[3]<=2", "cannot read `int[3]<=2`"),
        ("float[3]<2", "`<2` in `float[3]<2` is for integers only"),
        ("prob[3]<2", "is for integers only"),
        ("tensor[3]", "`tensor` in `tensor[3]` is no type"),
        ("float[3] int[3]<2", "cannot read"),
        ("x y float[3]", "cannot read"),
        ("uint8[3]<300", "`uint8` holds no integers above 255"),
        ("int8[3]<200", "`int8` holds no integers above 127"),
    ],
)
def test_a_typo_says_what_was_read_and_what_is_wanted(text, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        parsed(text)


def test_text_without_brackets_among_tensors_is_a_literal_option():
    values = made(torch.randn(3), torch.randn(3), "mean").values
    assert values[2] == "mean"


def test_a_list_given_as_text_may_hold_several_items():
    assert [a.name for a in made("float[4,3], float[4,3]").arguments] == ["input", "target"]


def test_names_order_the_inputs():
    inputs = made("target float[2]; input float[5]")
    assert [(a.name, len(a.value)) for a in inputs.arguments] == [("input", 5), ("target", 2)]


def test_a_name_that_the_loss_has_not_is_refused():
    with pytest.raises(UsageError, match=r"`loss` has no argument `targte`; did you mean `target`"):
        made("input float[2]; targte float[2]")
    with pytest.raises(UsageError, match=r"`input` is given twice"):
        made("input float[2]; input float[2]")


def test_a_wrong_number_of_inputs_names_the_arguments():
    with pytest.raises(
        UsageError, match=r"`loss` takes 2 to 3 inputs \(input, target, weight\), got 1"
    ):
        made("float[3]")
    with pytest.raises(UsageError, match="got 4"):
        made(*["float[3]"] * 4)

    def exact(a, b):
        return a

    with pytest.raises(UsageError, match=r"takes 2 inputs \(a, b\), got 3"):
        made(*["float[3]"] * 3, of=exact)


def test_a_required_keyword_is_named():
    def needs(input, target, *, temperature):
        return input

    with pytest.raises(
        UsageError, match=r"needs` needs the keyword .*`functools.partial\(needs, temp"
    ):
        made("float[3]", "float[3]", of=needs)


def test_any_number_is_right_for_star_arguments():
    def many(*tensors):
        return sum(t.sum() for t in tensors)

    assert len(made("float[2]", "float[2]", "float[2]", of=many).arguments) == 3


# ------------------------------------------------------------------ the prediction


def named(*names):
    space = {}
    exec(f"def f({', '.join(names)}):\n    return None\n", space)
    return space["f"]


@pytest.mark.parametrize(
    ("names", "given", "prediction"),
    [
        (("input", "target"), ("float[3]", "float[3]"), 0),
        (("y_true", "y_pred"), ("float[3]", "float[3]"), 1),
        (("target", "output"), ("float[3]", "float[3]"), 1),
        (("labels", "logits"), ("int[3]<2", "float[3,2]"), 1),
        (("y", "y_hat"), ("float[3]", "float[3]"), 1),
        (("gt_boxes", "boxes"), ("float[3]", "float[3]"), 1),
        (("weight", "a", "b"), ("float[3]", "float[3]", "float[3]"), 1),
        (("mask", "pred", "true"), ("bool[3]", "float[3]", "float[3]"), 1),
        (("teacher", "student"), ("float[3]", "float[3]"), 1),
        (("foo", "bar"), ("int[3]<2", "float[3]"), 1),
        (("target", "labels"), ("float[3]", "float[3]"), 0),
    ],
)
def test_the_prediction_is_told_by_its_name(names, given, prediction):
    inputs = made(*given, of=named(*names))
    assert inputs.differentiable == (prediction,)
    assert names[prediction] in inputs.assumptions[0]


def test_what_requires_a_gradient_is_wanted_and_nothing_is_assumed():
    a, b = torch.randn(3), torch.randn(3, requires_grad=True)
    inputs = made(a, b)
    assert inputs.differentiable == (1,)
    assert inputs.assumptions == ()


class Centre(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.centre = torch.nn.Parameter(torch.ones(3))

    def forward(self, input, target):
        return ((input - self.centre) ** 2).mean()


class Residual(Centre):
    def forward(self, positions, target):
        return ((positions * self.centre - target) ** 2).mean()


def test_a_loss_with_parameters_takes_a_prediction_by_its_name_only():
    assert made("float[3]", "float[3]", of=Centre()).differentiable == (0,)
    inputs = made("float[3]", "float[3]", of=Residual())
    assert inputs.differentiable == ()
    assert "`self.centre` alone" in inputs.assumptions[0]


def test_tensors_within_containers_are_said_to_be_constants():
    def of_dict(outputs, target):
        return outputs["logits"].sum()

    given = {"logits": torch.randn(3, requires_grad=True)}
    inputs = made(given, torch.randn(3), of=of_dict)
    assert any("`outputs`" in text and "constant" in text for text in inputs.assumptions)


@pytest.mark.parametrize(
    "given",
    [
        ("int[3]<2", "int[3]<2"),
        ("bool[3]", "bool[3]"),
        (0.5, 0.5),
    ],
)
def test_no_floating_input_leaves_nothing_to_differentiate(given):
    assert made(*given).differentiable == ()


def test_the_callers_tensors_are_the_values_and_stay_as_they_are():
    tensor = torch.randn(3)
    inputs = made(tensor, "float[3]")
    assert inputs.values[0] is tensor
    assert not tensor.requires_grad


def test_description():
    assert str(Argument("input", torch.zeros(2, 3), True)) == "input: float32[2, 3], requires grad"
    assert str(Argument("target", torch.zeros(2).long())) == "target: int64[2]"
    assert str(Argument("scale", 0.5)) == "scale: 0.5"
    inputs = Inputs(
        (Argument("a", torch.zeros(2, 3)), Argument("b", 2), Argument("c", torch.ones(4)))
    )
    assert inputs.numel == 10
    assert inputs.with_values([1, 2, 3]).values == (1, 2, 3)
