"""Losses of two players and of policies: adversarial ones, clipped and plain policy gradients."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from lossproof.checks.likeness.binding import named_pair, named_triple, scores_of_two
from lossproof.checks.likeness.known import Definition, KnownLoss, Reading, Term, Terms, Usual

Tensor = torch.Tensor


# ---------------------------------------------------------------------------- adversarial
def hinge(real: Tensor, fake: Tensor) -> Terms:
    return {
        "(1 - real)+": Term(torch.relu(1 - real), 1.0, "real"),
        "(1 + real)+": Term(torch.relu(1 + real), 0.0, "real"),
        "real": Term(real, 0.0, "real"),
        "(1 + fake)+": Term(torch.relu(1 + fake), 1.0, "fake"),
        "(1 - fake)+": Term(torch.relu(1 - fake), 0.0, "fake"),
        "fake": Term(fake, 0.0, "fake"),
    }


def hinge_exchanged(real: Tensor, fake: Tensor) -> Terms:
    return {"hinge": Term(torch.relu(1 + real).mean() + torch.relu(1 - fake).mean())}


def least_squares(real: Tensor, fake: Tensor) -> Terms:
    return {
        "(real - 1)^2": Term((real - 1) ** 2, 1.0, "real"),
        "real^2": Term(real**2, 0.0, "real"),
        "fake^2": Term(fake**2, 1.0, "fake"),
        "(fake - 1)^2": Term((fake - 1) ** 2, 0.0, "fake"),
    }


def least_squares_exchanged(real: Tensor, fake: Tensor) -> Terms:
    return {"squares": Term((real**2).mean() + ((fake - 1) ** 2).mean())}


def wasserstein(real: Tensor, fake: Tensor) -> Terms:
    return {"fake": Term(fake), "real": Term(real, -1.0)}


def logistic(real: Tensor, fake: Tensor) -> Terms:
    return {
        "-log sigmoid(real)": Term(-F.logsigmoid(real), 1.0, "real"),
        "-log sigmoid(-real)": Term(-F.logsigmoid(-real), 0.0, "real"),
        "-log sigmoid(-fake)": Term(-F.logsigmoid(-fake), 1.0, "fake"),
        "-log sigmoid(fake)": Term(-F.logsigmoid(fake), 0.0, "fake"),
    }


def smoothed_labels(found: Mapping[str, float], constant: float, terms: Terms) -> bool:
    """Whether the labels are smoothed: less than half of each term is the other one."""
    del constant
    return all(
        found[stray] + 1e-9 >= 0 and abs(found[stray]) < found[main]
        for main, stray in zip(list(terms)[::2], list(terms)[1::2], strict=True)
    )


def logistic_of_probabilities(real: Tensor, fake: Tensor) -> Terms:
    inside = all(bool((x > 0).all()) and bool((x < 1).all()) for x in (real, fake))
    return logistic(torch.logit(real), torch.logit(fake)) if inside else {}


# ---------------------------------------------------------------------------- policies
def _clipped(how: str) -> Definition:
    def terms(new: Tensor, old: Tensor, advantage: Tensor, *, clip: Usual = (0.2, 0.1)) -> Terms:
        e = float(clip)
        if not 0 < e < 1:
            return {}
        ratio = torch.exp(old - new) if how == "reciprocal" else torch.exp(new - old)
        if how == "no exp":
            ratio = new - old
        if how == "quotient of logs":
            ratio = new / old
        plain, clipped = ratio * advantage, ratio.clamp(1 - e, 1 + e) * advantage
        if how == "max":
            return {"-max(r A, clip(r) A)": Term(-torch.maximum(plain, clipped))}
        if how == "ratio first":
            return {"-min(r, clip(r)) A": Term(
                -torch.minimum(ratio, ratio.clamp(1 - e, 1 + e)) * advantage)}  # fmt: skip
        if how == "clipped only":
            return {"-clip(r) A": Term(-clipped)}
        return {"-min(r A, clip(r) A)": Term(-torch.minimum(plain, clipped))}

    return terms


def policy_gradient(log_probability: Tensor, advantage: Tensor) -> Terms:
    return {"-log p A": Term(-log_probability * advantage)}


PPO = "-torch.min(ratio * advantage, ratio.clamp(1 - eps, 1 + eps) * advantage).mean()"
DISCRIMINATOR = r"disc|\bd loss|dloss|critic|gan|advers|\badv"
GENERATOR = r"\bgen\b|\bg loss|generator|gloss|gen loss|feature|gradient|penalty"
ROLES = {"real": r"real|true", "fake": r"fake|gen|false"}

LOSSES = (
    KnownLoss(
        "gan-hinge", "the hinge loss of a discriminator", "Lim and Ye, Geometric GAN, 2017",
        r"hinge", scores_of_two,
        (
            Reading(hinge),
            Reading(hinge_exchanged, "has real and fake in each other's place",
                    "F.relu(1 - real).mean() + F.relu(1 + fake).mean()", needs=ROLES),
        ),
        unlike=rf"{GENERATOR}|rank|triplet|embedding|svm|squared",
        mend="F.relu(1 - real).mean() + F.relu(1 + fake).mean()",
    ),
    KnownLoss(
        "gan-least-squares", "the least squares loss of a discriminator",
        "Mao et al., Least Squares GAN, 2017", r"ls ?gan|least square", scores_of_two,
        (
            Reading(least_squares),
            Reading(least_squares_exchanged, "has real and fake in each other's place",
                    "((real - 1) ** 2).mean() + (fake**2).mean()", needs=ROLES),
        ),
        unlike=GENERATOR, excuse=smoothed_labels,
        mend="((real - 1) ** 2).mean() + (fake**2).mean()",
    ),
    KnownLoss(
        "gan-wasserstein", "the Wasserstein loss of a critic", "Arjovsky et al., 2017",
        r"wgan|critic", scores_of_two, (Reading(wasserstein),),
        unlike=rf"{GENERATOR}|distance|sinkhorn|dice",
        mend="fake.mean() - real.mean()",
    ),
    KnownLoss(
        "gan-logistic", "the loss of a discriminator", "Goodfellow et al., 2014", DISCRIMINATOR,
        scores_of_two, (Reading(logistic), Reading(logistic_of_probabilities)),
        unlike=rf"{GENERATOR}|hinge|ls ?gan|wgan|wasserstein|relativ|discount|discrete|discrep",
        excuse=smoothed_labels,
        mend="F.softplus(-real).mean() + F.softplus(fake).mean()",
    ),
    KnownLoss(
        "ppo", "the clipped policy loss", "Schulman et al., PPO, 2017",
        r"\bppo|clipped|clip\w* (surrogate|policy|objective)|surrogate",
        named_triple("new", "old", "advantage"),
        (
            Reading(_clipped("")),
            Reading(_clipped("max"), "takes the larger of the two, where the smaller is the lower "
                    "bound", PPO),
            Reading(_clipped("ratio first"), "takes the minimum before it multiplies by the "
                    "advantage, which is another one where the advantage is negative", PPO),
            Reading(_clipped("clipped only"), "takes the clipped ratio alone, which has no "
                    "gradient outside the range", PPO),
            Reading(_clipped("no exp"), "takes the difference of the log-probabilities for the "
                    "ratio, without `exp`", "ratio = torch.exp(new - old)"),
            Reading(_clipped("quotient of logs"), "takes the quotient of log-probabilities for "
                    "the ratio", "ratio = torch.exp(new - old)"),
        ),
        unlike=r"value|vf|kl|dual",
        named={"advantage": r"adv", "new": r"new|log|prob", "old": r"old|behav|prev"},
    ),
    KnownLoss(
        "policy-gradient", "the policy gradient loss", "Williams, REINFORCE, 1992",
        r"reinforce|policy grad|policy loss|pg loss|actor|vanilla pg",
        named_pair("log_probability", "advantage"), (Reading(policy_gradient),),
        named={"log_probability": r"log", "advantage": r"adv|return|reward"},
        mend="-(log_prob * advantage).mean()",
    ),
)  # fmt: skip
