"""Roles: what each argument of a loss is for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lossproof.checks.inputs import Argument, Inputs
from lossproof.checks.roles import position_of, role_by_name, roles_of

FLOAT = torch.zeros(4, 3)
CLASSES = torch.tensor([0, 2, 1, 1])
ROW = torch.zeros(4)
BOOLEAN = torch.tensor([True, False, True, True])


def inputs(*arguments):
    """Inputs from (name, value) pairs; a `*` before the name asks for a gradient."""
    return Inputs(
        tuple(
            Argument(name.removeprefix("*"), value, differentiable=name.startswith("*"))
            for name, value in arguments
        )
    )


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("input", "prediction"),
        ("y_pred", "prediction"),
        ("pred_labels", "prediction"),
        ("student_logits", "prediction"),
        ("mask_pred", "prediction"),
        ("predMask", "mask"),
        ("logits", "prediction"),
        ("target", "target"),
        ("y", "target"),
        ("yTrue", "target"),
        ("teacher_logits", "target"),
        ("target_logits", "target"),
        ("box_t", "target"),
        ("events", "target"),
        ("class_weight", "weight"),
        ("pos_weight", "weight"),
        ("sample_weights", "weight"),
        ("target_mask", "mask"),
        ("is_pad", "mask"),
        ("input_lengths", "length"),
        ("seq_len", "length"),
        ("idx_a", "index"),
        ("actions", "index"),
        ("img1", None),
        ("a", None),
        ("input 1", "prediction"),
        ("", None),
        ("_", None),
    ],
)
def test_a_name_suggests_a_role(name, role):
    assert role_by_name(name) == role


CASES = [
    ("logits and classes", [("*logits", FLOAT), ("y", CLASSES)], ("prediction", "target")),
    ("in the other order", [("y_true", FLOAT), ("*y_pred", FLOAT)], ("target", "prediction")),
    ("the gradient outweighs the name", [("*target", FLOAT), ("pred", FLOAT)],
     ("prediction", "target")),
    ("names that say nothing", [("*img1", FLOAT), ("img2", FLOAT)], ("prediction", "target")),
    ("two predicted sides", [("*x1", FLOAT), ("*x2", FLOAT), ("y", ROW)],
     ("prediction", "prediction", "target")),
    ("a target with a gradient", [("*input", FLOAT), ("*target", FLOAT)],
     ("prediction", "target")),
    ("a layer's own weight", [("*weight", FLOAT), ("*hidden", FLOAT), ("target", CLASSES)],
     ("other", "prediction", "target")),
    ("weight and mask beside a target",
     [("*input", FLOAT), ("target", FLOAT), ("mask", FLOAT), ("weight", torch.ones(3))],
     ("prediction", "target", "mask", "weight")),
    ("a mask to predict", [("*logits", FLOAT), ("mask", FLOAT)], ("prediction", "target")),
    ("a mask that selects", [("*losses", FLOAT), ("pad_mask", FLOAT)], ("prediction", "mask")),
    ("lengths", [("*log_probs", FLOAT), ("targets", CLASSES), ("target_lengths", CLASSES)],
     ("prediction", "target", "length")),
    ("a class index that nothing names", [("*a", FLOAT), ("b", FLOAT), ("c", CLASSES)],
     ("prediction", "other", "target")),
    ("one number per row", [("*a", FLOAT), ("b", ROW)], ("prediction", "target")),
    ("another thing altogether", [("*a", FLOAT), ("b", torch.zeros(7, 2))],
     ("prediction", "other")),
    ("survival", [("*risk", ROW), ("time", ROW), ("event", BOOLEAN)],
     ("prediction", "target", "target")),
    ("alone", [("*x", FLOAT)], ("prediction",)),
    ("no gradient is wanted", [("embeddings", FLOAT), ("labels", CLASSES)],
     ("prediction", "target")),
    ("plain values", [("*pred", FLOAT), ("target", FLOAT), ("reduction", "mean"), ("gamma", 2.0)],
     ("prediction", "target", "other", "other")),
    ("tensors in a list", [("*pred", FLOAT), ("targets", [FLOAT, FLOAT])],
     ("prediction", "target")),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "roles"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_the_roles_of_a_call(arguments, roles):
    assert roles_of(inputs(*arguments)) == roles


def test_the_first_position_of_a_role():
    given_ = inputs(("y_true", FLOAT), ("*y_pred", FLOAT), ("*logits", FLOAT))
    assert position_of(given_, "prediction") == 1
    assert position_of(given_, "target") == 0
    assert position_of(given_, "weight") is None


def test_no_arguments_have_no_roles():
    assert roles_of(Inputs(())) == ()


@given(
    st.lists(
        st.tuples(
            st.text(alphabet="abelmoprstwy_1*", max_size=8),
            st.sampled_from([FLOAT, CLASSES, ROW, BOOLEAN, 0.5, None]),
        ),
        max_size=4,
    )
)
def test_every_argument_has_one_role_and_no_two_ways_of_asking_differ(arguments):
    given_ = inputs(*arguments)
    roles = roles_of(given_)
    assert len(roles) == len(arguments)
    for role in set(roles):
        assert position_of(given_, role) == roles.index(role)
    for argument, role in zip(given_.arguments, roles, strict=True):
        if not isinstance(argument.value, torch.Tensor) and not argument.differentiable:
            assert role == "other"
