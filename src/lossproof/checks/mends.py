"""What to write instead of an operation that left the finite numbers.

The mend depends on what the operation was given: the logarithm of a softmax has a stable form of
its own, the logarithm of a distance needs a small constant.
"""

from __future__ import annotations

from lossproof.checks.nonfinite import Culprit


def mend(culprit: Culprit) -> str | None:
    """The stable formulation, as code."""
    if culprit.produced == "inf" and culprit.operation in _GROWING and culprit.operand != 0:
        return (
            "the result has no room in this type: compute it in a wider one (`x.float()`), "
            "or scale down before"
        )
    maker = _MENDS.get(culprit.operation)
    if maker is not None:
        return maker(culprit)
    return _GENERAL.get(culprit.operation)


def _log(culprit: Culprit) -> str:
    chain = culprit.chain
    if _before(chain, "sub", "softmax"):
        return (
            "`log(1 - softmax(x)[k])` is `torch.logsumexp(others, -1) - torch.logsumexp(x, -1)`, "
            "where `others` are the logits without the `k`-th"
        )
    if _before(chain, "sub", "sigmoid"):
        return "`log(1 - sigmoid(x))` is `torch.nn.functional.logsigmoid(-x)`"
    if _has(chain, "softmax"):
        return "use `torch.log_softmax(x, dim)` in place of `log(softmax(x))`"
    if _has(chain, "sigmoid"):
        return "use `torch.nn.functional.logsigmoid(x)` in place of `log(sigmoid(x))`"
    if _has(chain, "cosh"):
        return "use `x + torch.nn.functional.softplus(-2 * x) - math.log(2)` for `log(cosh(x))`"
    if _before(chain, "sum", "exp") or _before(chain, "cumsum", "exp"):
        return "use `torch.logsumexp(x, dim)` (or `logcumsumexp`) in place of `log(sum(exp(x)))`"
    if _before(chain, "add", "exp"):
        return "use `torch.nn.functional.softplus(x)` in place of `log(1 + exp(x))`"
    if _has(chain, "exp"):
        return "stay in log space: use `torch.logsumexp` or `torch.logaddexp`"
    if _has(chain, "sub"):
        return (
            "take logits and use `torch.nn.functional.logsigmoid`, or clamp: "
            "`torch.log((1 - p).clamp_min(eps))` (an `eps` below 1e-7 is lost in float32)"
        )
    return (
        "`torch.log(x.clamp_min(eps))`, or `torch.xlogy(y, x)` for `y * log(x)`; "
        "where `x` comes from a softmax or a sigmoid take its logits and work in log space"
    )


def _exp(culprit: Culprit) -> str:
    return (
        "keep the exponent at most 0 or stay in log space: `torch.logsumexp`, "
        "`torch.nn.functional.softplus`, `torch.sigmoid`, or subtract the maximum first"
    )


def _before(chain: tuple[str, ...], outer: str, inner: str) -> bool:
    """Whether ``outer`` was applied to something made by ``inner``."""
    return outer in chain and inner in chain[chain.index(outer) + 1 :]


def _has(chain: tuple[str, ...], name: str) -> bool:
    return name in chain


_GROWING = frozenset(
    "add sub mul pow sum mean mm bmm addmm dot mv prod cumsum cumprod square".split()
)
_MENDS = {"log": _log, "log2": _log, "log10": _log, "exp": _exp, "cosh": _exp, "sinh": _exp}

_GENERAL = {
    "sqrt": "keep the root away from 0: `torch.sqrt(x + eps)`; "
    "for a length, `torch.linalg.vector_norm` has the gradient 0 there",
    "rsqrt": "keep the root away from 0: `torch.rsqrt(x + eps)`",
    "div": "keep the divisor away from 0: `a / (b + eps)` or `a / b.clamp_min(eps)`",
    "acos": "`torch.acos(x.clamp(-1 + eps, 1 - eps))`, or `torch.atan2(sine, cosine)`, "
    "whose slope is finite",
    "asin": "`torch.asin(x.clamp(-1 + eps, 1 - eps))`, or `torch.atan2(sine, cosine)`",
    "atan2": "both arguments of `torch.atan2` are 0 here: add `eps` to one of them",
    "atanh": "`torch.atanh(x.clamp(-1 + eps, 1 - eps))`",
    "acosh": "`torch.acosh(x.clamp_min(1 + eps))`",
    "pow": "a fractional power needs a positive base: `(x.clamp_min(0) + eps) ** power`",
    "norm": "`torch.sqrt((x ** 2).sum(dim) + eps)`",
    "log1p": "keep the argument above -1: `torch.log1p(x.clamp_min(-1 + eps))`",
    "logit": "`torch.logit(p, eps)`, or work with the logits themselves",
    "erfinv": "`torch.erfinv(x.clamp(-1 + eps, 1 - eps))`",
    "mul": "0 times infinity is nan, so a mask must be put in before the infinity is made: "
    "`torch.where(mask, f(torch.where(mask, x, safe)), 0)`",
    "std": "one value has no spread and a constant has none: add `eps` under the root of `x.var()`",
    "softmax": "a row in which everything is masked with -inf has no softmax: mask with a large "
    "negative number, or leave the row out",
}
