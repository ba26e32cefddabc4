"""Balancers: weights of the terms of a composite loss, from their values or their gradients."""

from __future__ import annotations

from lossproof.terms.balance.aligned_mtl import AlignedMTL
from lossproof.terms.balance.annealing import LearningRateAnnealing
from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.cagrad import CAGrad
from lossproof.terms.balance.causal import CausalWeighting
from lossproof.terms.balance.config import ConFIG
from lossproof.terms.balance.db_mtl import DBMTL
from lossproof.terms.balance.dwa import DWA
from lossproof.terms.balance.fairgrad import FairGrad
from lossproof.terms.balance.famo import FAMO
from lossproof.terms.balance.fixed import FixedWeights
from lossproof.terms.balance.from_torchjd import FromTorchJD, as_balancer
from lossproof.terms.balance.geometric_mean import GeometricMean
from lossproof.terms.balance.grad_drop import GradDrop
from lossproof.terms.balance.gradnorm import GradNorm
from lossproof.terms.balance.imtl import IMTL, IMTLG, IMTLL
from lossproof.terms.balance.inverse_dirichlet import InverseDirichlet
from lossproof.terms.balance.listing import balancers
from lossproof.terms.balance.mgda import MGDA
from lossproof.terms.balance.modo import MoDo
from lossproof.terms.balance.nash_mtl import NashMTL
from lossproof.terms.balance.ntk import NTKTrace
from lossproof.terms.balance.pcgrad import GradVac, PCGrad
from lossproof.terms.balance.point_balancer import PointBalancer
from lossproof.terms.balance.relobralo import ReLoBRaLo
from lossproof.terms.balance.residual_attention import ResidualAttention
from lossproof.terms.balance.rlw import RLW
from lossproof.terms.balance.schedules import ScheduledWeights
from lossproof.terms.balance.sdmgrad import SDMGrad
from lossproof.terms.balance.self_adaptive_norms import SelfAdaptiveNorms
from lossproof.terms.balance.self_adaptive_points import SelfAdaptivePoints
from lossproof.terms.balance.sign_agreement import SignAgreement
from lossproof.terms.balance.soft_adapt import SoftAdapt
from lossproof.terms.balance.stch import STCH
from lossproof.terms.balance.step import BalanceStep
from lossproof.terms.balance.trimmed_mean import TrimmedMean
from lossproof.terms.balance.uncertainty import UncertaintyWeights
from lossproof.terms.balance.upgrad import DualProj, UPGrad

__all__ = [
    "DBMTL",
    "DWA",
    "FAMO",
    "IMTL",
    "IMTLG",
    "IMTLL",
    "MGDA",
    "RLW",
    "STCH",
    "AlignedMTL",
    "BalanceStep",
    "Balancer",
    "CAGrad",
    "CausalWeighting",
    "ConFIG",
    "DualProj",
    "FairGrad",
    "FixedWeights",
    "FromTorchJD",
    "GeometricMean",
    "GradDrop",
    "GradNorm",
    "GradVac",
    "InverseDirichlet",
    "LearningRateAnnealing",
    "MoDo",
    "NTKTrace",
    "NashMTL",
    "PCGrad",
    "PointBalancer",
    "ReLoBRaLo",
    "ResidualAttention",
    "SDMGrad",
    "ScheduledWeights",
    "SelfAdaptiveNorms",
    "SelfAdaptivePoints",
    "SignAgreement",
    "SoftAdapt",
    "TrimmedMean",
    "UPGrad",
    "UncertaintyWeights",
    "as_balancer",
    "balancers",
]
