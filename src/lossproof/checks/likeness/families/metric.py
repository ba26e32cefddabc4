"""Losses of distances and similarities: triplets, pairs, contrasts over a batch, margins."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from lossproof.checks.likeness.binding import (
    grouped,
    labelled,
    named_pair,
    triplet,
    vectors_and_label,
)
from lossproof.checks.likeness.known import Definition, KnownLoss, Reading, Term, Terms, Usual

Tensor = torch.Tensor


# ---------------------------------------------------------------------------- distances
def _distance(a: Tensor, b: Tensor, kind: str) -> Tensor:
    if a.dim() < 2:
        a, b = a[None], b[None]
    if kind == "euclidean":
        return ((a - b) ** 2).sum(-1).sqrt()
    if kind == "euclidean with eps":
        return ((a - b + 1e-6) ** 2).sum(-1).sqrt()
    if kind == "squared":
        return ((a - b) ** 2).sum(-1)
    if kind == "mean squared":
        return ((a - b) ** 2).mean(-1)
    if kind == "absolute":
        return (a - b).abs().sum(-1)
    if kind == "cosine":
        return 1 - F.cosine_similarity(a, b, dim=-1)
    a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    return _distance(a, b, kind.removeprefix("normalised "))


DISTANCES = ("euclidean", "euclidean with eps", "squared", "cosine", "mean squared", "absolute",
             "normalised euclidean", "normalised squared")  # fmt: skip


# ---------------------------------------------------------------------------- triplets
def _triplet(distance: str, how: str) -> Definition:
    def terms(
        anchor: Tensor, positive: Tensor, negative: Tensor, *,
        margin: Usual = (1.0, 0.2, 0.3, 0.5),
    ) -> Terms:  # fmt: skip
        near, far = _distance(anchor, positive, distance), _distance(anchor, negative, distance)
        m = float(margin)
        if how == "swap":
            far = torch.minimum(far, _distance(positive, negative, distance))
        if how == "sum of the batch":
            return {"hinge": Term(torch.relu((near - far).mean() + m))}
        if how == "opposite":
            return {"hinge": Term(torch.relu(far - near + m))}
        if how == "margin subtracted":
            return {"hinge": Term(torch.relu(near - far - m))}
        if how == "margin outside":
            return {"hinge": Term(torch.relu(near - far))}
        if how == "sum":
            return {"hinge": Term(torch.relu(near + far + m))}
        if how == "no hinge":
            return {"difference": Term(near - far)}
        return {"hinge": Term(torch.relu(near - far + m))}

    return terms


def _soft_triplet(distance: str) -> Definition:
    def terms(anchor: Tensor, positive: Tensor, negative: Tensor) -> Terms:
        near, far = _distance(anchor, positive, distance), _distance(anchor, negative, distance)
        return {"softplus": Term(F.softplus(near - far))}

    return terms


def _similarity_triplet(anchor: Tensor, positive: Tensor, negative: Tensor, *,
                        margin: Usual = (1.0, 0.2, 0.3, 0.5)) -> Terms:  # fmt: skip
    near = F.cosine_similarity(anchor, positive, dim=-1)
    far = F.cosine_similarity(anchor, negative, dim=-1)
    return {"hinge": Term(torch.relu(near - far + float(margin)))}


def _batch_hard(distance: str, how: str) -> Definition:
    def terms(input: Tensor, target: Tensor, *, margin: Usual = (0.3, 0.2, 1.0, 0.5)) -> Terms:
        labels = target.reshape(-1)
        gaps = _distance(input[:, None], input[None], distance)
        same = labels[:, None] == labels
        off = same & ~torch.eye(len(labels), dtype=torch.bool)
        if not bool((~same).any(1).all()):
            return {}
        near = gaps.masked_fill(~same, -torch.inf).amax(1)
        far = gaps.masked_fill(same, torch.inf).amin(1)
        if how == "easiest negative":
            far = gaps.masked_fill(same, -torch.inf).amax(1)
        if how == "easiest positive":
            if not bool(off.any(1).all()):
                return {}
            near = gaps.masked_fill(~off, torch.inf).amin(1)
        if how == "soft":
            return {"softplus": Term(F.softplus(near - far))}
        return {"hinge": Term(torch.relu(near - far + float(margin)))}

    return terms


# ---------------------------------------------------------------------------- pairs
def _same(target: Tensor) -> Tensor | None:
    """1 for one kind of pair, 0 for the other."""
    y = target.double().reshape(-1)
    if bool(((y == 0) | (y == 1)).all()):
        return y
    return (y + 1) / 2 if bool((y.abs() == 1).all()) else None


def _contrastive(distance: str, which: int, how: str) -> Definition:
    """``which`` is the label of a pair that belongs together."""

    def terms(
        one: Tensor, other: Tensor, target: Tensor, *, margin: Usual = (1.0, 2.0, 0.5)
    ) -> Terms:
        y = _same(target)
        if y is None:
            return {}
        same = y if which == 1 else 1 - y
        d, m = _distance(one, other, distance), float(margin)
        if how == "square inside":
            apart = torch.relu(m - d**2)
        elif how == "square of the square":
            apart = torch.relu(m - d**2) ** 2
        elif how == "opposite":
            apart = torch.relu(d - m) ** 2
        elif how == "no hinge":
            apart = (m - d) ** 2
        elif how == "linear":
            apart = torch.relu(m - d)
        else:
            apart = torch.relu(m - d) ** 2
        near = d if how == "linear" else d**2
        return {
            "d^2 of same pairs": Term(same * near, None),
            "(margin - d)+^2 of different pairs": Term((1 - same) * apart, None),
        }

    return terms


def _cosine_embedding(how: str) -> Definition:
    def terms(one: Tensor, other: Tensor, target: Tensor, *, margin: Usual = (0.0, 0.5)) -> Terms:
        y = target.double().reshape(-1)
        if not bool((y.abs() == 1).all()):
            return {}
        cosine = F.cosine_similarity(one, other, dim=1)
        m = float(margin)
        apart = torch.relu(m - cosine) if how == "opposite" else torch.relu(cosine - m)
        return {
            "1 - cos of same pairs": Term((1 - cosine) * (y == 1)),
            "(cos - margin)+ of different pairs": Term(apart * (y == -1)),
        }

    return terms


# ---------------------------------------------------------------------------- over a batch
def _similarities(one: Tensor, other: Tensor, normalised: bool, temperature: float) -> Tensor:
    if normalised:
        one, other = F.normalize(one, dim=-1), F.normalize(other, dim=-1)
    return one @ other.t() / temperature


def _info_nce(normalised: bool, how: str) -> Definition:
    def terms(one: Tensor, other: Tensor, *, temperature: Usual = (0.1, 0.5, 0.07, 1.0)) -> Terms:
        t = float(temperature)
        if one.dim() != 2 or t <= 0:
            return {}
        if how == "times temperature":
            if t >= 1:
                return {}
            t = 1 / t
        scores = _similarities(one, other, normalised, t)
        rows = torch.log_softmax(scores, 1).diagonal()
        columns = torch.log_softmax(scores, 0).diagonal()
        if how == "both":
            return {"-log p": Term(-(rows + columns))}
        if how == "log of mean":
            return {"-log mean p": Term(-rows.exp().mean().log())}
        if how == "without the positive below":
            eye = torch.eye(len(scores), dtype=torch.bool)
            rest = scores.masked_fill(eye, -torch.inf).logsumexp(1)
            return {"-log ratio": Term(rest - scores.diagonal())}
        return {"-log p": Term(-(columns if how == "columns" else rows))}

    return terms


def _nt_xent(normalised: bool, how: str) -> Definition:
    def terms(one: Tensor, other: Tensor, *, temperature: Usual = (0.5, 0.1, 0.07, 1.0)) -> Terms:
        t = float(temperature)
        if one.dim() != 2 or t <= 0:
            return {}
        if how == "times temperature":
            if t >= 1:
                return {}
            t = 1 / t
        both = torch.cat([one, other])
        scores = _similarities(both, both, normalised, t)
        count = len(one)
        eye = torch.eye(2 * count, dtype=torch.bool)
        partner = torch.arange(2 * count).roll(count)
        own = scores[torch.arange(2 * count), partner]
        if how != "with itself below":
            scores = scores.masked_fill(eye, -torch.inf)
        if how == "without the positive below":
            scores = scores.clone()
            scores[torch.arange(2 * count), partner] = -torch.inf
        return {"-log p": Term(scores.logsumexp(1) - own)}

    return terms


def _siglip(one: Tensor, other: Tensor, *, temperature: Usual = (1.0,)) -> Terms:
    scores = _similarities(one, other, True, float(temperature))
    signs = 2 * torch.eye(len(one), dtype=torch.float64) - 1
    return {"-log sigmoid": Term(-F.logsigmoid(signs * scores))}


def _sup_con(given: str, how: str) -> Definition:
    def terms(
        input: Tensor, target: Tensor, *, temperature: Usual = (0.07, 0.1, 0.5, 1.0)
    ) -> Terms:
        t = float(temperature)
        labels = target.reshape(-1)
        if given == "similarities":
            if input.shape[0] != input.shape[1]:
                return {}
            scores = input / t
        else:
            scores = _similarities(input, input, given == "normalised", t)
        count = len(scores)
        eye = torch.eye(count, dtype=torch.bool)
        logs = scores - scores.masked_fill(eye, -torch.inf).logsumexp(1, keepdim=True)
        if how == "itself below":
            logs = scores - scores.logsumexp(1, keepdim=True)
        mates = (labels[:, None] == labels) & ~eye
        counted = mates.sum(1)
        if how == "itself a positive":
            counted = counted + 1
            mates = mates | eye if given != "similarities" else mates
        elif how == "itself counted":
            counted = counted + 1
        if how == "inside":
            inner = torch.where(mates, logs.exp(), 0).sum(1)[counted > 0]
            return {"-log mean p": Term(-torch.log(inner / counted[counted > 0]))}
        kept = counted > 0
        each = -torch.where(mates, logs, 0).sum(1)[kept] / counted[kept]
        if how == "all pairs":
            return {"-log p": Term(-torch.where(mates, logs, 0))}
        return {"-mean log p": Term(each)}

    return terms


# ---------------------------------------------------------------------------- angular margins
def _angular(which: str, sign: float) -> Definition:
    def terms(
        input: Tensor, target: Tensor, *, margin: Usual = (0.5, 0.35),
        scale: Usual = (64.0, 30.0),
    ) -> Terms:  # fmt: skip
        if input.dim() != 2 or float(input.abs().max()) > 1:
            return {}
        labels, m, s = target.reshape(-1), float(margin), float(scale)
        own = input.gather(1, labels[:, None])
        if which == "cosine":
            moved = own - sign * m
        elif which == "angle, easy":
            moved = torch.where(own > 0, torch.cos(torch.acos(own) + m), own)
        elif which == "angle, monotonic":
            bent = torch.cos(torch.acos(own) + m)
            moved = torch.where(own > -math.cos(m), bent, own - m * math.sin(m))
        else:
            moved = torch.cos(torch.acos(own) + sign * m)
        logits = s * input.scatter(1, labels[:, None], moved)
        return {"-log p": Term(F.cross_entropy(logits, labels, reduction="none"))}

    return terms


TRIPLET = "torch.relu(d(anchor, positive) - d(anchor, negative) + margin).mean()"
CONTRASTIVE = "same * d**2 + (1 - same) * torch.relu(margin - d) ** 2"
SCHROFF = "Schroff et al., FaceNet, 2015"
HADSELL = "Hadsell et al., Dimensionality Reduction by Learning an Invariant Mapping, 2006"
POSITIONS = {"positive": r"pos|\bp\b", "negative": r"neg|\bn\b"}
NOT_NCE = r"^(?!.*(nce|xent|sim ?clr))|decoupl|dcl"
VIEWS = named_pair("one", "other")
SHIFTS = ("euclidean", "squared", "cosine", "euclidean with eps")


def _triplet_slip(how: str, wrong: str, unless: str | None = None) -> tuple[Reading, ...]:
    needs = POSITIONS if how == "opposite" else {}
    return tuple(Reading(_triplet(d, how), wrong, TRIPLET, unless, needs) for d in SHIFTS)


def _contrastive_slip(how: str, wrong: str) -> tuple[Reading, ...]:
    return tuple(
        Reading(_contrastive(d, which, how), wrong, CONTRASTIVE)
        for d in ("euclidean", "euclidean with eps")
        for which in (0, 1)
    )


LOSSES = (
    KnownLoss(
        "triplet", "the triplet loss", SCHROFF, r"triplet", triplet,
        (
            *(Reading(_triplet(d, "")) for d in DISTANCES),
            *(Reading(_triplet(d, "swap")) for d in SHIFTS),
            *(Reading(_soft_triplet(d)) for d in DISTANCES),
            *_triplet_slip("opposite", "pulls the negative towards the anchor and pushes the "
                           "positive away: their distances are in each other's place"),
            *_triplet_slip("margin subtracted", "subtracts the margin, so that a negative may be "
                           "nearer than the positive"),
            *_triplet_slip("margin outside", "adds the margin outside the hinge, where it has no "
                           "gradient"),
            *_triplet_slip("sum of the batch", "takes the hinge of the batch mean, so that easy "
                           "triplets make up for hard ones"),
            *_triplet_slip("sum", "adds the distance to the negative instead of subtracting it"),
            *_triplet_slip("no hinge", "has no hinge: it has no lower bound", r"no hinge|linear"),
            Reading(_similarity_triplet, "takes similarities as distances: it pulls the negative "
                    "to the anchor", TRIPLET),
        ),
        everyday=True,
        named={"anchor": r"anc|^a$", "positive": r"pos|^p$", "negative": r"neg|^n$"},
    ),
    KnownLoss(
        "batch-hard-triplet", "the batch-hard triplet loss",
        "Hermans et al., In Defense of the Triplet Loss, 2017", r"triplet|batch hard", grouped,
        (
            *(Reading(_batch_hard(d, "")) for d in SHIFTS),
            *(Reading(_batch_hard(d, "soft")) for d in SHIFTS),
            *(Reading(_batch_hard(d, "easiest negative"), "takes the farthest negative, which is "
                      "the easiest, for the hardest",
                      "hardest_negative = distances.masked_fill(same, float('inf')).amin(1)",
                      r"eas") for d in SHIFTS),
            *(Reading(_batch_hard(d, "easiest positive"), "takes the nearest positive, which is "
                      "the easiest, for the hardest",
                      "hardest_positive = distances.masked_fill(~same, 0).amax(1)", r"eas")
              for d in SHIFTS),
        ),
    ),
    KnownLoss(
        "contrastive", "the contrastive loss", HADSELL, r"contrastive|siamese|hadsell|signet",
        vectors_and_label,
        (
            *(Reading(_contrastive(d, which, ""))
              for d in ("euclidean", "euclidean with eps", "cosine", "normalised euclidean")
              for which in (0, 1)),
            *(Reading(_contrastive(d, which, how))
              for how in ("square inside", "linear") for d in ("euclidean", "euclidean with eps",
                                                               "cosine") for which in (0, 1)),
            *_contrastive_slip("opposite", "pulls different pairs together once they are further "
                               "apart than the margin: the difference in the hinge has the "
                               "opposite sign"),
            *_contrastive_slip("no hinge", "has no hinge on different pairs: those further apart "
                               "than the margin are pulled back"),
            *_contrastive_slip("square of the square", "compares the margin with the squared "
                               "distance, and squares again"),
        ),
        unlike=r"sup|supervised|info|nt xent|ntxent",
        mend=CONTRASTIVE,
    ),
    KnownLoss(
        "cosine-embedding", "the cosine embedding loss", "torch.nn.CosineEmbeddingLoss",
        r"cosine emb|cos emb|cosine loss", vectors_and_label,
        (
            Reading(_cosine_embedding("")),
            Reading(_cosine_embedding("opposite"), "pushes different pairs until they are alike: "
                    "the hinge has the opposite sign", "torch.relu(cosine - margin)"),
        ),
        everyday=True,
        mend="torch.where(y == 1, 1 - cosine, torch.relu(cosine - margin))",
    ),
    KnownLoss(
        "info-nce", "the InfoNCE loss", "van den Oord et al., 2018; Radford et al., CLIP, 2021",
        r"info nce|infonce|\bnce\b|contrastive|\bclip\b|ntxent|nt xent|sim clr|simclr|n pair",
        VIEWS,
        (
            *(Reading(_info_nce(n, how))
              for how in ("both", "rows", "columns") for n in (True, False)),
            *(Reading(_nt_xent(n, "")) for n in (True, False)),
            *(Reading(_info_nce(n, "times temperature"), "multiplies the similarities by the "
                      "temperature instead of dividing them",
                      "logits = similarity / temperature", r"logit scale") for n in (True, False)),
            *(Reading(_nt_xent(n, "times temperature"), "multiplies the similarities by the "
                      "temperature instead of dividing them",
                      "logits = similarity / temperature", r"logit scale") for n in (True, False)),
            *(Reading(_nt_xent(n, "with itself below"), "counts every sample's similarity with "
                      "itself among the negatives",
                      "logits.fill_diagonal_(float('-inf'))") for n in (True, False)),
            *(Reading(_info_nce(n, "log of mean"), "takes the logarithm of the mean, not the mean "
                      "of the logarithms", "F.cross_entropy(logits, torch.arange(len(logits)))")
              for n in (True, False)),
            *(Reading(_info_nce(n, "without the positive below"), "leaves the positive out of the "
                      "denominator: it has no lower bound",
                      "F.cross_entropy(logits, torch.arange(len(logits)))", NOT_NCE)
              for n in (True, False)),
            *(Reading(_nt_xent(n, "without the positive below"), "leaves the positive out of the "
                      "denominator: it has no lower bound",
                      "logits.masked_fill(eye, float('-inf')).logsumexp(1) - positive",
                      NOT_NCE) for n in (True, False)),
        ),
        unlike=r"sup|supervised|siamese|predictive coding|margin|noise",
    ),
    KnownLoss(
        "siglip", "the pairwise sigmoid loss", "Zhai et al., SigLIP, 2023", r"sig ?lip", VIEWS,
        (Reading(_siglip),),
    ),
    KnownLoss(
        "sup-con", "the supervised contrastive loss", "Khosla et al., 2020",
        r"sup ?con|supervised contrast", grouped,
        (
            *(Reading(_sup_con(given, how))
              for given in ("normalised", "raw", "similarities")
              for how in ("", "all pairs", "inside", "itself below")),
            *(Reading(_sup_con(given, how), "counts every sample as a positive of itself, which "
                      "adds a part that cannot be learned",
                      "positives = (labels[:, None] == labels) & ~torch.eye(n, dtype=torch.bool)")
              for given in ("normalised", "raw", "similarities")
              for how in ("itself counted", "itself a positive")),
        ),
    ),
    KnownLoss(
        "arc-face", "the ArcFace loss", "Deng et al., ArcFace, 2019", r"arc ?face|arc margin|aam",
        labelled,
        (
            Reading(_angular("angle", 1.0)),
            Reading(_angular("angle, easy", 1.0)),
            Reading(_angular("angle, monotonic", 1.0)),
            Reading(_angular("angle", -1.0), "subtracts the margin from the angle, which makes the "
                    "right class easier", "torch.cos(theta + margin)"),
        ),
        unlike=r"sub ?cent",
    ),
    KnownLoss(
        "cos-face", "the CosFace loss", "Wang et al., CosFace, 2018", r"cos ?face|am softmax|lmcl",
        labelled,
        (
            Reading(_angular("cosine", 1.0)),
            Reading(_angular("cosine", -1.0), "adds the margin to the cosine, which makes the "
                    "right class easier", "scale * (cosine - margin)"),
        ),
    ),
)  # fmt: skip
