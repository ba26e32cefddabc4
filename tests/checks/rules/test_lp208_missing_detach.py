"""LP208 missing-detach: where the gradient arrives and should not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.report import Severity, Status


def leaf(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))).requires_grad_()


def constant(*shape):
    return leaf(*shape).detach() + 0.5


def a2c(log_prob, value, returns):
    advantage = returns - value  # <-- here
    return -(log_prob * advantage).mean() + 0.5 * F.mse_loss(value, returns)


def reinforce(logits, baseline, returns, actions):
    log_prob = F.log_softmax(logits, 1).gather(1, actions[:, None])[:, 0]
    return -((returns - baseline) * log_prob).mean()  # <-- here


def bootstrapped_advantage(log_probs, values, rewards, gamma=0.9):
    delta = rewards[:-1] + gamma * values[1:] - values[:-1]  # <-- here
    return -(log_probs[:-1] * delta).mean() + delta.pow(2).mean()


def critic_by_what_it_is_fitted_to(length, estimate, scores, actions):
    chosen = scores.log_softmax(1).gather(1, actions[:, None])[:, 0]
    policy = ((length - estimate) * chosen).mean()  # <-- here
    return policy + F.mse_loss(estimate, length)


def entropy_coefficient(log_alpha, log_pi):
    return -(log_alpha.exp() * (log_pi + 3)).mean()  # <-- here


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (a2c, (leaf(5), leaf(5), constant(5))),
        (reinforce, (leaf(5, 3), leaf(5), constant(5), torch.tensor([0, 1, 2, 1, 0]))),
        (bootstrapped_advantage, (leaf(5), leaf(5), constant(5))),
        (
            critic_by_what_it_is_fitted_to,
            (constant(5), leaf(5), leaf(5, 3), torch.tensor([0, 1, 2, 1, 0])),
        ),
        (entropy_coefficient, (leaf(1), leaf(5))),
    ],
)
def test_an_advantage_that_trains_the_critic_is_found(loss, inputs, found, marked):
    (finding,) = found("LP208", loss, *inputs)
    assert finding.cause == "advantage"
    assert finding.severity is Severity.ERROR
    assert finding.location.line == marked(loss)
    assert finding.evidence["largest_gradient"] > 0


def surrogate(new_log_probs, old_log_probs, advantage):
    ratio = (new_log_probs - old_log_probs).exp()  # <-- here
    return -torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()


def distilled(student_logits, teacher_logits):
    teacher = F.softmax(teacher_logits / 2, 1)  # <-- here
    return F.kl_div(F.log_softmax(student_logits / 2, 1), teacher, reduction="batchmean")


def student_and_teacher(logits_s, logits_t):
    return F.mse_loss(logits_s, logits_t)  # <-- here


@pytest.mark.parametrize(
    ("loss", "inputs", "name"),
    [
        (surrogate, (leaf(5), leaf(5), constant(5)), "old_log_probs"),
        (student_and_teacher, (leaf(5, 3), leaf(5, 3) + 1), "logits_t"),
    ],
)
def test_an_input_that_is_constant_by_name_is_found(loss, inputs, name, found, marked):
    (finding,) = found("LP208", loss, *inputs)
    assert finding.cause == "constant-input"
    assert f"`{name}`" in finding.message
    assert finding.location.line == marked(loss)


def test_a_teacher_is_found(found, marked):
    (finding,) = found("LP208", distilled, leaf(5, 3), leaf(5, 3))
    assert finding.location.line == marked(distilled)


class OwnTeacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.student, self.teacher = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, features):
        return F.mse_loss(self.student(features), self.teacher(features))


class TargetNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.target_net = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, state, following, reward):
        best = self.target_net(following).max(1)[0]
        return F.mse_loss(self.q(state).max(1)[0], reward + 0.9 * best)


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (OwnTeacher, (constant(5, 3),)),
        (TargetNetwork, (constant(5, 3), constant(5, 3), constant(5))),
    ],
)
def test_a_network_that_is_constant_by_name_is_found(loss, inputs, found):
    (finding,) = found("LP208", loss, *inputs)
    assert finding.cause == "constant-input"
    assert "requires_grad_(False)" in finding.help


def q_learning(q, q_following, reward):
    target = reward + 0.9 * q_following.max(1)[0]  # <-- here
    return F.smooth_l1_loss(q.max(1)[0], target)


def temporal_difference(values, rewards):
    td_target = rewards[:-1] + 0.9 * values[1:]  # <-- here
    return ((values[:-1] - td_target) ** 2).mean()


def self_training(weak, strong):
    pseudo_label = F.softmax(weak, 1)  # <-- here
    return -(pseudo_label * F.log_softmax(strong, 1)).sum(1).mean()


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (q_learning, (leaf(5, 3), leaf(5, 3), constant(5))),
        (temporal_difference, (leaf(5), constant(5))),
        (self_training, (leaf(5, 3), leaf(5, 3))),
    ],
)
def test_a_target_made_from_a_prediction_is_found(loss, inputs, found, marked):
    (finding,) = found("LP208", loss, *inputs)
    assert finding.cause == "target"
    assert finding.location.line == marked(loss)


def quantiser(z, quantized, beta=0.25):
    return F.mse_loss(quantized, z) + beta * F.mse_loss(z, quantized)  # <-- here


def two_views(p1, p2, z1, z2):
    return -(F.cosine_similarity(p1, z2) + F.cosine_similarity(p2, z1)).mean()  # <-- here


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [(quantiser, (leaf(5, 3), leaf(5, 3))), (two_views, [leaf(5, 3) for _ in range(4)])],
)
def test_two_sides_that_both_move_are_found(loss, inputs, found, marked):
    (finding,) = found("LP208", loss, *inputs)
    assert finding.cause == "two-sided"
    assert finding.location.line == marked(loss)


# ------------------------------------------------------------------ not reported


def a2c_detached(log_prob, value, returns):
    advantage = returns - value
    return -(log_prob * advantage.detach()).mean() + advantage.pow(2).mean()


def surrogate_detached(new_log_probs, old_log_probs, advantage):
    ratio = (new_log_probs - old_log_probs.detach()).exp()
    return -(ratio * advantage.detach()).mean()


def distilled_detached(student_logits, teacher_logits):
    teacher = F.softmax(teacher_logits.detach(), 1)
    return F.kl_div(F.log_softmax(student_logits, 1), teacher, reduction="batchmean")


def q_learning_detached(q, next_q, reward):
    with torch.no_grad():
        target = reward + 0.9 * next_q.max(1)[0]
    return F.smooth_l1_loss(q.max(1)[0], target)


def quantiser_detached(z, quantized, beta=0.25):
    return F.mse_loss(quantized, z.detach()) + beta * F.mse_loss(quantized.detach(), z)


def two_views_detached(p1, p2, z1, z2):
    ours, theirs = F.cosine_similarity(p1, z2.detach()), F.cosine_similarity(p2, z1.detach())
    return -(ours + theirs).mean()


def clip(image_embedding, text_embedding):
    logits = image_embedding @ text_embedding.T
    rows = torch.arange(len(logits), device=logits.device)
    return F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)


def jensen_shannon(p_logits, q_logits):
    p, q = p_logits.softmax(1), q_logits.softmax(1)
    mean = (p + q) / 2
    return ((p * (p / mean).log()) + (q * (q / mean).log())).sum(1).mean()


def mutual(logits1, logits2):
    one, other = F.log_softmax(logits1, 1), F.log_softmax(logits2, 1)
    return (one.exp() * (one - other)).sum(1).mean() + (other.exp() * (other - one)).sum(1).mean()


def heteroscedastic(mean, log_var):
    return (mean**2 * (-log_var).exp() + log_var).mean()


def focal_weight(logits, features):
    weight = (1 - logits.sigmoid()) ** 2
    return -(weight * F.logsigmoid(logits)).mean() + features.pow(2).mean()


def weighted_by_uncertainty(scores, log_scale, actions):
    chosen = scores.log_softmax(1).gather(1, actions[:, None])[:, 0]
    return -(chosen * (-log_scale).exp()).mean() + log_scale.pow(2).mean()


def arc(logits, features):
    target = logits.gather(1, torch.zeros(len(logits), 1, dtype=torch.long))
    return (logits.logsumexp(1) - target[:, 0]).mean() + features.pow(2).mean()


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (a2c_detached, (leaf(5), leaf(5), constant(5))),
        (surrogate_detached, (leaf(5), leaf(5), leaf(5))),
        (distilled_detached, (leaf(5, 3), leaf(5, 3))),
        (q_learning_detached, (leaf(5, 3), leaf(5, 3), constant(5))),
        (quantiser_detached, (leaf(5, 3), leaf(5, 3))),
        (two_views_detached, [leaf(5, 3) for _ in range(4)]),
        (clip, (leaf(5, 3), leaf(5, 3))),
        (jensen_shannon, (leaf(5, 3), leaf(5, 3))),
        (mutual, (leaf(5, 3), leaf(5, 3))),
        (heteroscedastic, (leaf(5, 3), leaf(5, 3))),
        (focal_weight, (leaf(5, 3), leaf(5, 3))),
        (arc, (leaf(5, 3), leaf(5, 3))),
        (weighted_by_uncertainty, (leaf(5, 3), leaf(5), torch.tensor([0, 1, 2, 1, 0]))),
        (F.triplet_margin_loss, (leaf(5, 3), leaf(5, 3) + 1, leaf(5, 3) - 1)),
        (F.mse_loss, (leaf(5, 3), leaf(5, 3))),
    ],
)
def test_right_losses_are_proved(loss, inputs, silent):
    assert silent("LP208", loss, *inputs) is Status.PROVED


def test_what_requires_no_gradient_is_constant_already(silent):
    inputs = (leaf(5), constant(5), constant(5))
    assert silent("LP208", a2c, *inputs) is Status.NOT_APPLICABLE


def test_a_loss_without_gradient_is_not_applicable(silent):
    def cut(log_prob, value):
        return (log_prob - value).mean().detach()

    assert silent("LP208", cut, leaf(5), leaf(5)) is Status.NOT_APPLICABLE


def test_the_page(page_code, module_of, found, silent):
    head = "import torch.nn.functional as F\n\n\n"
    bad = module_of(head + page_code("LP208", "Example"), "bad")
    good = module_of(head + page_code("LP208", "Use instead"), "good")
    inputs = (leaf(5), leaf(5), constant(5))
    (finding,) = found("LP208", bad.a2c_loss, *inputs)
    assert finding.location.line == 5
    assert silent("LP208", good.a2c_loss, *inputs) is Status.PROVED


def test_two_views_that_teach_each_other_are_no_teacher_and_student(silent):
    def swapped_assignments(scores_t, scores_s):
        wanted = [scores.detach().softmax(1) for scores in (scores_t, scores_s)]
        learned = [scores.log_softmax(1) for scores in (scores_s, scores_t)]
        return -sum((q * p).sum(1).mean() for q, p in zip(wanted, learned, strict=True))

    assert silent("LP208", swapped_assignments, leaf(5, 3), leaf(5, 3)) is Status.PROVED
