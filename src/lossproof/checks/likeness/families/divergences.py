"""Divergences of distributions: of Gaussians in closed form, and of categorical ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch

from lossproof.checks.likeness.binding import (
    autoencoder,
    gaussian_parameters,
    named_pair,
    single,
    told_pair,
)
from lossproof.checks.likeness.known import (
    Binding,
    Definition,
    KnownLoss,
    Reading,
    Slot,
    Term,
    Terms,
    Usual,
)

Tensor = torch.Tensor


# ---------------------------------------------------------------------------- Gaussians
def _to_standard_normal(mean: Tensor, log_variance: Tensor, group: str = "") -> dict[str, Term]:
    return {
        "mean^2": Term(mean**2, 0.5, group),
        "variance": Term(log_variance.exp(), 0.5, group),
        "log variance": Term(log_variance, -0.5, group),
        "sigma": Term((log_variance / 2).exp(), 0.0, group),
        "(log sigma)^2": Term(log_variance**2 / 4, 0.0, group),
        "|mean|": Term(mean.abs(), 0.0, group),
        "mean": Term(mean, 0.0, group),
    }


def wider_prior(found: Mapping[str, float], constant: float, terms: Terms) -> bool:
    """Whether the prior is N(0, s^2): then the constant is ``c (log s^2 - 1)``."""
    a, b, c = found["mean^2"], found["variance"], -found["log variance"]
    strays = sum(abs(found[name]) for name, term in terms.items() if term.right == 0)
    if a <= 0 or c <= 0 or abs(a - b) > 1e-6 * a or strays > 1e-6 * a:
        return False
    wanted = terms["mean^2"].value.numel() * c * (math.log(c / a) - 1)
    return abs(constant - wanted) <= 1e-6 * abs(wanted)


def normal_log_variance(mean: Tensor, spread: Tensor) -> Terms:
    return _to_standard_normal(mean, spread)


def normal_log_sigma(mean: Tensor, spread: Tensor) -> Terms:
    return _to_standard_normal(mean, 2 * spread)


def normal_variance(mean: Tensor, spread: Tensor) -> Terms:
    return _to_standard_normal(mean, torch.log(spread))


def normal_sigma(mean: Tensor, spread: Tensor) -> Terms:
    return _to_standard_normal(mean, 2 * torch.log(spread))


def _reconstructed(recon: Tensor, data: Tensor, mean: Tensor, log_variance: Tensor) -> Terms:
    terms = _to_standard_normal(mean, log_variance, "kl")
    del terms["mean"], terms["|mean|"]
    return terms


def autoencoder_squared(recon: Tensor, data: Tensor, mean: Tensor, spread: Tensor) -> Terms:
    terms = dict(_reconstructed(recon, data, mean, spread))
    terms["squared error"] = Term((recon - data) ** 2, 1.0, "reconstruction")
    return terms


def autoencoder_absolute(recon: Tensor, data: Tensor, mean: Tensor, spread: Tensor) -> Terms:
    terms = dict(_reconstructed(recon, data, mean, spread))
    terms["absolute error"] = Term((recon - data).abs(), 1.0, "reconstruction")
    return terms


def _binary(logits: Tensor, data: Tensor) -> Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, data, reduction="none")


def autoencoder_binary(recon: Tensor, data: Tensor, mean: Tensor, spread: Tensor) -> Terms:
    if not (bool((recon > 0).all()) and bool((recon < 1).all())):
        return {}
    terms = dict(_reconstructed(recon, data, mean, spread))
    terms["cross entropy"] = Term(_binary(torch.logit(recon), data), 1.0, "reconstruction")
    return terms


def autoencoder_binary_logits(recon: Tensor, data: Tensor, mean: Tensor, spread: Tensor) -> Terms:
    terms = dict(_reconstructed(recon, data, mean, spread))
    terms["cross entropy"] = Term(_binary(recon, data), 1.0, "reconstruction")
    return terms


def _with_log_sigma(definition: Definition) -> Definition:
    def terms(recon: Tensor, data: Tensor, mean: Tensor, spread: Tensor) -> Terms:
        return definition(recon, data, mean, 2 * spread)

    return terms


def _with_sigma(definition: Definition) -> Definition:
    def terms(recon: Tensor, data: Tensor, mean: Tensor, spread: Tensor) -> Terms:
        if not bool((spread > 0).all()):
            return {}
        return definition(recon, data, mean, 2 * torch.log(spread))

    return terms


def kl_averaged(factors: Mapping[str, float], binding: Binding) -> str | None:
    """The reconstruction summed, the KL term averaged: it weighs 1/D of what it should."""
    rows, latent = len(binding["mean"].value), binding["mean"].value[0].numel()
    whole = [factor * share for factor in (1.0, 0.5) for share in (1.0, 1 / rows)]
    summed = any(abs(factors["reconstruction"] / f - 1) < 1e-6 for f in whole)
    averaged = [1 / latent, 1 / latent / rows]
    if latent > 1 and summed and any(abs(factors["kl"] / f - 1) < 1e-6 for f in averaged):
        return (
            f"averages the KL term over the {latent} latent dimensions and sums the "
            f"reconstruction: the KL term has 1/{latent} of its weight"
        )
    return None


AUTOENCODERS = (
    autoencoder_binary, autoencoder_squared, autoencoder_binary_logits, autoencoder_absolute,
)  # fmt: skip


def two_gaussians(slots: tuple[Slot, ...]) -> Iterator[Binding]:
    """``mean``, ``spread``, ``other_mean`` and ``other_spread``, in either order of pairs."""
    if len(slots) == 4 and len({tuple(s.value.shape) for s in slots}) == 1:
        a, b, c, d = slots
        yield {"mean": a, "spread": b, "other_mean": c, "other_spread": d}
        yield {"mean": c, "spread": d, "other_mean": a, "other_spread": b}
        yield {"mean": a, "spread": c, "other_mean": b, "other_spread": d}


def _gaussians(mean: Tensor, log_var: Tensor, other: Tensor, other_log_var: Tensor) -> Terms:
    difference = (mean - other) ** 2
    return {
        "log of the variances' ratio": Term(other_log_var - log_var),
        "ratio of the variances": Term((log_var - other_log_var).exp()),
        "(difference of means)^2 / variance of the second": Term(difference / other_log_var.exp()),
        "(difference of means)^2 / variance of the first": Term(difference / log_var.exp(), 0.0),
        "inverse ratio of the variances": Term((other_log_var - log_var).exp(), 0.0),
    }


def gaussians_log_variance(
    mean: Tensor, spread: Tensor, other_mean: Tensor, other_spread: Tensor
) -> Terms:
    return _gaussians(mean, spread, other_mean, other_spread)


def gaussians_log_sigma(
    mean: Tensor, spread: Tensor, other_mean: Tensor, other_spread: Tensor
) -> Terms:
    return _gaussians(mean, 2 * spread, other_mean, 2 * other_spread)


def gaussians_variance(
    mean: Tensor, spread: Tensor, other_mean: Tensor, other_spread: Tensor
) -> Terms:
    return _gaussians(mean, spread.log(), other_mean, other_spread.log())


def gaussians_sigma(
    mean: Tensor, spread: Tensor, other_mean: Tensor, other_spread: Tensor
) -> Terms:
    return _gaussians(mean, 2 * spread.log(), other_mean, 2 * other_spread.log())


# ---------------------------------------------------------------------------- categorical
def _is_distribution(x: Tensor, axis: int) -> bool:
    return bool((x >= 0).all()) and bool(((x.sum(axis) - 1).abs() < 1e-2).all())


def _log(x: Tensor) -> Tensor:
    return torch.log(x.clamp_min(1e-300))


def _kl(p: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    return torch.where(p > 0, p * (log_p - log_q), 0)


def _logs(x: Tensor, kind: str, axis: int, temperature: float = 1.0) -> Tensor | None:
    """Log-probabilities from logits, probabilities or log-probabilities."""
    if kind == "logits":
        return torch.log_softmax(x / temperature, axis)
    if kind == "probabilities":
        return _log(x) if _is_distribution(x, axis) else None
    return x if _is_distribution(x.exp(), axis) else None


def _axes(x: Tensor) -> list[int]:
    return list(dict.fromkeys([x.dim() - 1, min(1, x.dim() - 1)]))


def _both_logs(
    input: Tensor, target: Tensor, kinds: tuple[str, str], place: int, temperature: float
) -> tuple[Tensor, Tensor] | None:
    """The log-probabilities of input and target, along one of the input's axes."""
    axes = _axes(input)
    if place >= len(axes):
        return None
    log_q = _logs(input, kinds[0], axes[place], temperature)
    log_p = _logs(target, kinds[1], axes[place], temperature)
    return None if log_q is None or log_p is None else (log_q, log_p)


def _forward(kind: str, target_kind: str, place: int, reverse: bool = False) -> Definition:
    def terms(input: Tensor, target: Tensor, *, temperature: Usual = (1.0,)) -> Terms:
        logs = _both_logs(input, target, (kind, target_kind), place, temperature)
        if logs is None:
            return {}
        log_q, log_p = logs
        if reverse:
            log_p, log_q = log_q, log_p
        return {"KL": Term(_kl(log_p.exp(), log_p, log_q))}

    return terms


def _cross(kind: str, target_kind: str, place: int) -> Definition:
    def terms(input: Tensor, target: Tensor, *, temperature: Usual = (1.0,)) -> Terms:
        logs = _both_logs(input, target, (kind, target_kind), place, temperature)
        if logs is None:
            return {}
        log_q, log_p = logs
        p = log_p.exp()
        return {"cross entropy": Term(torch.where(p > 0, -p * log_q, 0))}

    return terms


def _without_log(kind: str, target_kind: str, place: int) -> Definition:
    """``kl_div`` of probabilities where it wants log-probabilities."""

    def terms(input: Tensor, target: Tensor, *, temperature: Usual = (1.0,)) -> Terms:
        logs = _both_logs(input, target, (kind, target_kind), place, temperature)
        if logs is None:
            return {}
        log_q, log_p = logs
        p = log_p.exp()
        return {"t (log t - q)": Term(torch.where(p > 0, p * (log_p - log_q.exp()), 0))}

    return terms


KINDS = ("log-probabilities", "probabilities", "logits")
"""Logits last: the softmax of what is normalised already has its value, and another gradient."""
PAIRS = [(a, b) for a in KINDS for b in KINDS]


def _mixed(x: Tensor, kind: str, place: int) -> Tensor | None:
    axes = _axes(x)
    return _logs(x, kind, axes[place]) if place < len(axes) else None


def _js_terms(log_p: Tensor, log_q: Tensor, log_m: Tensor) -> Terms:
    p, q, m = log_p.exp(), log_q.exp(), log_m.exp()
    return {
        "KL(P || M)": Term(_kl(p, log_p, log_m)),
        "KL(Q || M)": Term(_kl(q, log_q, log_m)),
        "KL(M || P)": Term(_kl(m, log_m, log_p), 0.0),
        "KL(M || Q)": Term(_kl(m, log_m, log_q), 0.0),
    }


def _js(kind: str, place: int, mixture: str) -> Definition:
    def terms(one: Tensor, other: Tensor) -> Terms:
        log_p, log_q = _mixed(one, kind, place), _mixed(other, kind, place)
        if log_p is None or log_q is None:
            return {}
        half = torch.log(torch.tensor(0.5, dtype=torch.float64))
        if mixture == "mean":
            return _js_terms(log_p, log_q, torch.logaddexp(log_p, log_q) + half)
        middle = (log_p + log_q) / 2
        p, q = log_p.exp(), log_q.exp()
        return {"KL to the mean of the logs": Term(_kl(p, log_p, middle) + _kl(q, log_q, middle))}

    return terms


def _symmetric(kind: str, place: int) -> Definition:
    def terms(one: Tensor, other: Tensor) -> Terms:
        log_p, log_q = _mixed(one, kind, place), _mixed(other, kind, place)
        if log_p is None or log_q is None:
            return {}
        p, q = log_p.exp(), log_q.exp()
        return {"KL both ways": Term(_kl(p, log_p, log_q) + _kl(q, log_q, log_p))}

    return terms


def _entropy(kind: str, place: int) -> Definition:
    def terms(input: Tensor) -> Terms:
        log_p = _mixed(input, kind, place)
        if log_p is None:
            return {}
        return {"p log p": Term(_kl(log_p.exp(), log_p, torch.zeros_like(log_p)), -1.0)}

    return terms


MEANT = r"revers|rkl|teach|stud|distil|mode|seek|symm|adver|clean|\bvat\b|\bref|old|mutual|r drop"

LOSSES = (
    KnownLoss(
        "kl-standard-normal", "the KL divergence of a Gaussian from N(0, 1)",
        "Kingma and Welling, Auto-Encoding Variational Bayes, 2014, appendix B",
        r"\bkl|kld|vae|elbo|kullback|latent", gaussian_parameters,
        (
            Reading(normal_log_variance),
            Reading(normal_log_sigma),
            Reading(normal_variance),
            Reading(normal_sigma),
        ),
        named={"mean": r"^(z_?)?(mu|mean|m|loc)", "spread": r"log_?var|sigma|std|var|logv|scale"},
        unlike=r"annealed|hyper|student", excuse=wider_prior,
        mend="0.5 * (mean**2 + var - torch.log(var) - 1)",
    ),
    KnownLoss(
        "vae", "the negative ELBO with a standard normal prior",
        "Kingma and Welling, Auto-Encoding Variational Bayes, 2014, appendix B",
        r"vae|elbo|variational|\bkl|kld|autoencod", autoencoder,
        tuple(
            Reading(wrapped)
            for definition in AUTOENCODERS
            for wrapped in (definition, _with_log_sigma(definition), _with_sigma(definition))
        ),
        named={"mean": r"^(z_?)?(mu|mean|m|loc)", "spread": r"log_?var|sigma|std|var|logv|scale"},
        mend="kl = 0.5 * (mean**2 + var - torch.log(var) - 1).sum(1).mean()",
        balance=kl_averaged, excuse=wider_prior,
    ),
    KnownLoss(
        "kl-gaussians", "the KL divergence of two Gaussians",
        "Kullback and Leibler, On Information and Sufficiency, 1951",
        r"\bkl|kld|kullback", two_gaussians,
        (
            Reading(gaussians_log_variance),
            Reading(gaussians_log_sigma),
            Reading(gaussians_variance),
            Reading(gaussians_sigma),
        ),
        mend="0.5 * (log_var2 - log_var1 + (var1 + (mean1 - mean2) ** 2) / var2 - 1)",
    ),
    KnownLoss(
        "kl", "the KL divergence of the target from the prediction",
        "Kullback and Leibler, On Information and Sufficiency, 1951; torch.nn.KLDivLoss",
        r"\bkl\b|kld|kl div|kldiv|kullback|distil|\bkd\b", told_pair,
        (
            *(Reading(_forward(a, b, place)) for place in (0, 1) for a, b in PAIRS),
            *(Reading(_cross(a, b, place)) for place in (0, 1) for a, b in PAIRS),
            *(
                Reading(_without_log(a, b, place), "takes probabilities where `kl_div` takes "
                        "log-probabilities", "F.kl_div(F.log_softmax(input, -1), target, "
                        'reduction="batchmean")')
                for place in (0, 1)
                for a, b in PAIRS
            ),
            *(
                Reading(_forward(a, b, place, True), "is the divergence in the other direction, "
                        "of the prediction from the target",
                        'F.kl_div(log_prediction, target, reduction="batchmean")', MEANT,
                        {"target": r"target|label|true|truth|\bgt\b"})
                for place in (0, 1)
                for a, b in PAIRS
            ),
        ),
        unlike=r"\bjs|jensen|symm|standard|normal|gauss", calls=("kl_div",),
        ordered=False,
    ),
    KnownLoss(
        "js", "the Jensen-Shannon divergence", "Lin, Divergence Measures, 1991",
        r"\bjs\b|jsd|jensen|js div", named_pair("one", "other"),
        (
            *(Reading(_js(kind, place, "mean")) for place in (0, 1) for kind in KINDS),
            *(
                Reading(_js(kind, place, "logs"), "takes the mean of the log-probabilities for "
                        "the mixture, which is the mean of the probabilities",
                        "log_m = torch.log(0.5 * (p + q))")
                for place in (0, 1)
                for kind in KINDS
            ),
            *(
                Reading(_symmetric(kind, place), "is the symmetric KL divergence: there is no "
                        "mixture in it",
                        "m = 0.5 * (p + q); 0.5 * KL(p || m) + 0.5 * KL(q || m)", r"symm|jeffr")
                for place in (0, 1)
                for kind in KINDS
            ),
        ),
        mend="m = 0.5 * (p + q); 0.5 * (F.kl_div(m.log(), p) + F.kl_div(m.log(), q))",
    ),
    KnownLoss(
        "entropy", "the entropy", "Shannon, 1948", r"entropy", single,
        tuple(Reading(_entropy(kind, place)) for place in (0, 1) for kind in KINDS),
        unlike=r"cross|max|loss|regular|penal|minim|relative",
    ),
)  # fmt: skip
