"""What arguments mean by their names."""

import pytest

from lossproof.checks.inference.meanings import meaning_of, slots_of, words_in


def slots(*names):
    return slots_of(names, [None] * len(names), {})


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("y_pred", "prediction"),
        ("yhat", "prediction"),
        ("output", "prediction"),
        ("class_logits", "logits"),
        ("cls_pred", "prediction"),
        ("logits", "logits"),
        ("probs", "probability"),
        ("log_probs", "log probability"),
        ("anchor", "embedding"),
        ("student_logits", "student"),
        ("teacher_logits", "teacher"),
        ("mu", "location"),
        ("log_var", "log scale"),
        ("sigma", "scale"),
        ("pred_boxes", "box"),
        ("target_mask", "mask"),
        ("is_pad", "mask"),
        ("targets", "target"),
        ("labels", "labels"),
        ("sample_weight", "weight"),
        ("pos_weight", "class weight"),
        ("input_lengths", "length"),
        ("duration", "time"),
        ("censored", "event"),
        ("actions", "index"),
        ("advantages", "value"),
        ("reduction", "option"),
        ("foo", "unknown"),
    ],
)
def test_a_name_has_a_meaning(name, meaning):
    assert meaning_of(name) == meaning


def test_an_annotation_makes_an_option():
    assert meaning_of("score", float) == "option"
    assert meaning_of("score", "int") == "option"


def test_the_order_of_keras_is_told_by_the_names():
    assert [slot.meaning for slot in slots("y_true", "y_pred")] == ["target", "prediction"]


@pytest.mark.parametrize(
    ("names", "partners"),
    [
        (("steer", "speed", "steer_gt", "speed_gt"), [None, None, 0, 1]),
        (("y1pred", "y2pred", "y1", "y2"), [None, None, 0, 1]),
        (("feat_s", "feat_t"), [None, 0]),
        (("student_out", "teacher_out"), [None, 0]),
        (("preds_s", "preds_t"), [None, 0]),
        (("pred", "target"), [None, None]),
    ],
)
def test_each_prediction_has_its_own_target(names, partners):
    assert [slot.partner for slot in slots(*names)] == partners


def test_beside_an_event_a_single_letter_is_a_time():
    assert [slot.meaning for slot in slots("risk", "t", "e")] == ["prediction", "time", "event"]
    assert [slot.meaning for slot in slots("p", "t")] == ["prediction", "target"]


def test_somebody_predicts():
    assert [slot.meaning for slot in slots("a", "b")] == ["prediction", "target"]
    assert [slot.meaning for slot in slots("foo", "bar")] == ["prediction", "target"]
    assert [slot.meaning for slot in slots("foo", "bar", "y")] == [
        "prediction", "prediction", "target",
    ]  # fmt: skip


def test_words_of_a_name():
    assert words_in("logProbOld") == ("logprob", "old")
    assert words_in("YTrue") == ("ytrue",)
    assert words_in("x1") == ("x", "1")


def test_beside_a_reconstruction_x_is_the_original():
    assert [slot.meaning for slot in slots("recon", "x", "mu", "logvar")] == [
        "prediction", "target", "location", "log scale",
    ]  # fmt: skip
    assert [slot.meaning for slot in slots("mu", "log_sigma", "x")][2] == "target"
    assert [slot.meaning for slot in slots("x", "y")] == ["prediction", "target"]


def test_what_a_critic_says_is_predicted_of_fakes_and_of_real_ones():
    assert [slot.meaning for slot in slots("real_scores", "fake_scores")] == ["prediction"] * 2
    assert slots("real", "pred")[0].meaning == "target"


def test_what_an_older_policy_said_is_no_prediction():
    assert [slot.meaning for slot in slots("logprobs", "old_logprobs")][1] == "teacher"
