"""The losses of pytorch-metric-learning."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_metric_learning import losses as pml

from benchmarks.libraries.draw import Draw, wanted
from benchmarks.libraries.entry import Entries

ENTRIES = Entries()
add = ENTRIES.add
CLASSES, FEATURES = 4, 8


def embeddings(d: Draw) -> tuple[Any, ...]:
    """Three samples of each class."""
    return wanted(d.normal(3 * CLASSES, FEATURES)), torch.arange(3 * CLASSES) % CLASSES


def paired(d: Draw) -> tuple[Any, ...]:
    return wanted(d.normal(8, FEATURES)), wanted(d.normal(8, FEATURES))


for of_pairs in (
    pml.AngularLoss, pml.CircleLoss, pml.ContrastiveLoss, pml.DynamicSoftMarginLoss,
    pml.FastAPLoss, pml.GeneralizedLiftedStructureLoss, pml.HistogramLoss, pml.InstanceLoss,
    pml.IntraPairVarianceLoss, pml.LiftedStructureLoss, pml.MarginLoss, pml.MultiSimilarityLoss,
    pml.NCALoss, pml.NPairsLoss, pml.NTXentLoss, pml.PNPLoss,
    pml.SignalToNoiseRatioContrastiveLoss, pml.SmoothAPLoss, pml.SupConLoss,
    pml.ThresholdConsistentMarginLoss, pml.TripletMarginLoss, pml.TupletMarginLoss,
):  # fmt: skip
    add(of_pairs.__name__, of_pairs, embeddings)

for of_proxies in (
    pml.ArcFaceLoss, pml.CosFaceLoss, pml.LargeMarginSoftmaxLoss, pml.NormalizedSoftmaxLoss,
    pml.ProxyAnchorLoss, pml.ProxyNCALoss, pml.SoftTripleLoss, pml.SphereFaceLoss,
    pml.SubCenterArcFaceLoss,
):  # fmt: skip
    add(
        of_proxies.__name__,
        lambda make=of_proxies: make(num_classes=CLASSES, embedding_size=FEATURES),
        embeddings,
    )

add(
    "P2SGradLoss",
    lambda: pml.P2SGradLoss(descriptors_dim=FEATURES, num_classes=CLASSES),
    embeddings,
)
add("RankedListLoss", lambda: pml.RankedListLoss(margin=0.2, Tn=1), embeddings)
add("SelfSupervisedLoss", lambda: pml.SelfSupervisedLoss(pml.NTXentLoss()), paired)
add("VICRegLoss", pml.VICRegLoss, lambda d: (paired(d)[0], None, None, paired(d)[1]))
add(
    "ManifoldLoss",
    lambda: pml.ManifoldLoss(l=FEATURES, K=3),
    lambda d: (wanted(d.normal(8, FEATURES)),),
)
