"""Names of what is held constant."""

import pytest

from lossproof.checks.constants import is_constant, is_log_prob, is_temperature, is_value, words

CONSTANT = """
old_log_probs log_probs_old teacher_logits teacherLogits ema_features advantages returns rewards
next_q q_next next_values next_state_values target_q target_net.weight targetNet.fc.bias
ref_log_probs pseudo_labels momentum_encoder.weight frozen_features
""".split()
MOVING = """
target targets label input pred student_logits value q log_prob scale gold_weight embedding
reference anchor next holdout return_loss features2 targeted
""".split()


@pytest.mark.parametrize("name", CONSTANT)
def test_constant_by_name(name):
    assert is_constant(name)


@pytest.mark.parametrize("name", MOVING)
def test_moving_by_name(name):
    assert not is_constant(name)


def test_the_teachers_letter_counts_beside_the_students():
    assert is_constant("f_T", ["f_S", "f_T"])
    assert not is_constant("f_t", ["f_t", "x"])


@pytest.mark.parametrize(
    "name", ["value", "values", "state_value", "baseline", "v", "critic.weight"]
)
def test_values(name):
    assert is_value(name)
    assert not is_log_prob(name)


@pytest.mark.parametrize(
    "name", ["log_prob", "log_probs", "action_logp", "logits", "policy", "log_pi", "newLogProbs"]
)
def test_log_probabilities(name):
    assert is_log_prob(name)
    assert not is_value(name)


def test_the_temperature_of_soft_actor_critic():
    assert is_temperature("log_alpha")
    assert not is_temperature("alpha")


def test_words():
    assert words("targetNet.weight_2") == ("target", "net", "weight", "2")
