"""Losses of event times: the Cox partial likelihood."""

from __future__ import annotations

import torch

from lossproof.checks.likeness.binding import survival
from lossproof.checks.likeness.known import Definition, KnownLoss, Reading, Term, Terms

Tensor = torch.Tensor


def _cox(how: str) -> Definition:
    def terms(risk: Tensor, time: Tensor, event: Tensor) -> Terms:
        risk, time, happened = risk.reshape(-1), time.reshape(-1), event.reshape(-1) > 0
        at_risk = time[None, :] >= time[:, None]
        if how == "reversed":
            at_risk = time[None, :] <= time[:, None]
        if how == "strict":
            at_risk = (time[None, :] > time[:, None]) & happened[:, None]
            if not bool(at_risk[happened].any(1).all()):
                return {}
        if how == "everyone":
            at_risk = torch.ones_like(at_risk)
        logs = risk.expand(len(risk), -1).masked_fill(~at_risk, -torch.inf).logsumexp(1)
        if how == "mean":
            logs = logs - at_risk.sum(1).double().log()
        each = torch.where(at_risk.any(1), logs - risk, 0)
        counted = torch.ones_like(happened) if how == "censored, too" else happened
        return {"log of those at risk - risk": Term(each[counted])}

    return terms


def _cox_without_log(risk: Tensor, time: Tensor, event: Tensor) -> Terms:
    risk, time, happened = risk.reshape(-1), time.reshape(-1), event.reshape(-1) > 0
    at_risk = time[None, :] >= time[:, None]
    total = torch.where(at_risk, risk.expand(len(risk), -1).exp(), 0).sum(1)
    return {"sum of exp(risk)": Term((total - risk)[happened])}


MEND = (
    "log_risk = risk.expand(n, n).masked_fill(~(time[None] >= time[:, None]), float('-inf'))"
    ".logsumexp(1)"
)

LOSSES = (
    KnownLoss(
        "cox", "the negative Cox partial log-likelihood",
        "Cox, Partial Likelihood, 1975; Breslow, 1974",
        r"cox|partial|surv|hazard|deep surv|neg\w* log lik|negative log|nll", survival,
        (
            Reading(_cox("")),
            Reading(_cox("mean"), "takes the mean over the risk set where the sum belongs", MEND),
            Reading(_cox("reversed"), "takes those whose time is shorter for the risk set; at risk "
                    "are those whose time is not shorter", MEND),
            Reading(_cox("strict"), "leaves the subject itself out of its risk set", MEND),
            Reading(_cox("censored, too"), "counts censored subjects as events",
                    "((log_risk - risk) * event).sum() / event.sum()"),
            Reading(_cox("everyone"), "takes everyone for the risk set, whatever their times",
                    MEND),
            Reading(_cox_without_log, "has no logarithm of the sum over the risk set", MEND),
        ),
        unlike=r"discrete|rank|concord|deep hit|deephit|time bin|weibull|pmf|logistic",
        constant="none",
        named={"risk": r"risk|haz|log_?h", "time": r"time|dur|^t$|^y$", "event": r"event|^e$|cens"},
    ),
)  # fmt: skip
