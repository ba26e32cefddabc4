"""One slip in a right backward: the rule, the cause, the line and the mend."""

import pytest
import torch

from lossproof.checks.causes import Kind, examine_functions

HEAD = """\
import math
import torch
import torch.nn.functional as F
from torch.autograd import Function


"""

MSE = """\
class Loss(Function):
    @staticmethod
    def forward(ctx, input, target):
        ctx.save_for_backward(input, target)
        return ((input - target) ** 2).mean()

    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        grad = 2 * (input - target) / input.numel()
        return grad_output * grad, -grad_output * grad
"""

FOCAL = """\
class Loss(Function):
    @staticmethod
    def forward(ctx, input, target, gamma):
        ctx.save_for_backward(input, target)
        ctx.gamma = gamma
        pt = torch.sigmoid(input * target)
        weight = (1 - pt) ** gamma
        nll = -torch.log(pt)
        return (weight * nll).sum(-1)

    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        pt = torch.sigmoid(input * target)
        nll = -torch.log(pt)
        dweight = -ctx.gamma * (1 - pt) ** ctx.gamma * pt
        dnll = -(1 - pt)
        slope = dweight * nll + (1 - pt) ** ctx.gamma * dnll
        grad = slope * grad_output.unsqueeze(-1)
        return grad * target, grad * input, None
"""

DICE = """\
class Loss(Function):
    @staticmethod
    def forward(ctx, p, t):
        overlap = (p * t).sum()
        size = p.pow(2).sum() + t.pow(2).sum() + 1.0
        ctx.save_for_backward(p, t, overlap, size)
        return 1 - (2 * overlap + 1.0) / size

    @staticmethod
    def backward(ctx, grad_output):
        p, t, overlap, size = ctx.saved_tensors
        top = 2 * overlap + 1.0
        grad_p = -(2 * t / size - top * 2 * p / size**2)
        grad_t = -(2 * p / size - top * 2 * t / size**2)
        return grad_output * grad_p, grad_output * grad_t
"""

WEIGHTED = """\
class Loss(Function):
    @staticmethod
    def forward(ctx, p, t, w):
        d = p - t
        r = torch.sqrt(d * d + 1e-3)
        ctx.save_for_backward(d, r, w)
        return (w * r).mean()

    @staticmethod
    def backward(ctx, grad_output):
        d, r, w = ctx.saved_tensors
        n = d.numel()
        grad = w * d / r / n
        grad_w = (r / n).sum(-1, keepdim=True)
        return grad_output * grad, -grad_output * grad, grad_output * grad_w
"""

GRAM = """\
class Loss(Function):
    @staticmethod
    def forward(ctx, p, t):
        s = p @ t
        ctx.save_for_backward(p, t, s)
        return (s * s).sum()

    @staticmethod
    def backward(ctx, grad_output):
        p, t, s = ctx.saved_tensors
        grad_p = 2 * s @ t.T
        grad_t = 2 * p.T @ s
        return grad_output * grad_p, grad_output * grad_t
"""

HUBER = """\
class Loss(Function):
    @staticmethod
    def forward(ctx, input, target):
        d = input - target
        ctx.save_for_backward(d)
        return torch.where(d.abs() < 1, 0.5 * d * d, d.abs() - 0.5).sum()

    @staticmethod
    def backward(ctx, grad_output):
        (d,) = ctx.saved_tensors
        slope = torch.where(d.abs() < 1, d, d.sign())
        return grad_output * slope, -grad_output * slope
"""

LINE = len(HEAD.splitlines())


def inputs_of(source):
    def draw(*shape):
        return torch.randn(*shape, requires_grad=True)

    if source is GRAM:
        return draw(4, 4), draw(4, 4)
    made = (draw(6, 4), draw(6, 4))
    if source is WEIGHTED:
        return (*made, (torch.rand(6, 1) + 0.5).requires_grad_())
    return (*made, 2.0) if source is FOCAL else made


# The slip; the rule, the cause, the line of the class (from 1), and words of the mend.
# ruff: noqa: E501 (one slip a line)
SLIPS = [
    (MSE, "2 * (input", "(input", "LP202", Kind.CONSTANT_FACTOR, 10, "2"),
    (MSE, "2 * (input", "4 * (input", "LP202", Kind.CONSTANT_FACTOR, 10, "2 * (input - target)"),
    (MSE, " / input.numel()", "", "LP202", Kind.MISSING_MEAN, 10, "input.numel()"),
    (MSE, "input.numel()", "input.numel() ** 2", "LP202", Kind.EXTRA_MEAN, 10, "/ input.numel()`"),
    (MSE, "input.numel()", "input.shape[0]", "LP202", Kind.MISSING_MEAN, 10, "numel()"),
    (MSE, "/ input.numel()", "* input.numel()", "LP202", Kind.MISSING_MEAN, 10, "/ input.numel()"),
    (MSE, "-grad_output * grad", "grad_output * grad", "LP202", Kind.SIGN, 11, "-(grad_output * grad)"),
    (MSE, "return grad_output * grad, -grad_output * grad", "return grad, -grad",
     "LP203", Kind.GRAD_OUTPUT_IGNORED, 10, "grad_output"),
    (MSE, ", -grad_output * grad", ", -grad", "LP203", Kind.GRAD_OUTPUT_IGNORED, 11, "grad_output"),
    (MSE, "return grad_output * grad", "return grad_output * grad_output * grad",
     "LP203", Kind.GRAD_OUTPUT_TWICE, 11, "grad_output * grad"),
    (MSE, "return grad_output * grad", "return grad / grad_output",
     "LP203", Kind.GRAD_OUTPUT_INVERTED, 11, "*"),
    (MSE, "return grad_output * grad", "return grad_output + grad",
     "LP203", Kind.GRAD_OUTPUT_PARTLY, 11, "grad_output * grad"),
    (MSE, ", -grad_output * grad", ", None", "LP202", Kind.NONE_RETURNED, 11, "target"),
    (MSE, ", -grad_output * grad", ", 0 * grad_output * grad", "LP202", Kind.ZERO, 11, "grad_output"),
    (MSE, "return grad_output * grad", "return grad_output * grad.mean() * torch.ones_like(grad)",
     "LP202", Kind.MEAN_REPEATED, 11, None),
    (MSE, "(input - target)", "(input - target.abs())", "LP202", Kind.WRONG_FUNCTION, 10, "target"),
    (MSE, "(input - target)", "(input + target)", "LP202", Kind.WRONG_OPERATOR, 10, "input - target"),
    (FOCAL, "dweight * nll + ", "", "LP206", Kind.MISSING_PATH, 7, None),
    (FOCAL, " + (1 - pt) ** ctx.gamma * dnll", "", "LP206", Kind.MISSING_PATH, 8, None),
    (FOCAL, "dweight = -ctx", "dweight = ctx", "LP206", Kind.PATH_SIGN, 7, None),
    (FOCAL, "dweight = -ctx", "dweight = -0.5 * ctx", "LP206", Kind.PATH_WEIGHT, 7, "ctx.gamma"),
    (FOCAL, "* grad_output.unsqueeze(-1)", "* grad_output.mean()",
     "LP203", Kind.GRAD_OUTPUT_REDUCED, 19, "unsqueeze(-1)"),
    (FOCAL, "* grad_output.unsqueeze(-1)", "* 1", "LP203", Kind.GRAD_OUTPUT_IGNORED, 19, "unsqueeze(-1)"),
    (FOCAL, "grad * target, grad * input", "grad * input, grad * target",
     "LP202", Kind.SWAPPED, 20, "input"),
    (FOCAL, "dnll = -(1 - pt)", "dnll = -(1 - nll)", "LP202", Kind.WRONG_VARIABLE, 17, "1 - pt"),
    (DICE, "2 * t / size - top * 2 * p / size**2", "2 * t / size", "LP206", Kind.MISSING_PATH, 5, None),
    (DICE, "2 * t / size - top", "2 * t / size + top", "LP206", Kind.PATH_SIGN, 5, "- top"),
    (DICE, "top * 2 * p / size**2", "top * 2 * p / size", "LP202", Kind.MISSING_FACTOR, 13, "size"),
    (WEIGHTED, "(r / n).sum(-1, keepdim=True)", "(r / n).mean(-1, keepdim=True)",
     "LP202", Kind.EXTRA_MEAN, 14, ".sum(-1, keepdim=True)"),
    (WEIGHTED, "(r / n).sum(-1, keepdim=True)", "(r / n)[:, :1]", "LP202", Kind.BROADCAST_SUM, 14, "sum"),
    (WEIGHTED, "(r / n).sum(-1, keepdim=True)", "(r / n).sum().expand_as(w)",
     "LP202", Kind.BROADCAST_SUM, 14, "sum"),
    (WEIGHTED, "w * d / r / n", "d / r / n", "LP202", Kind.MISSING_FACTOR, 13, "w"),
    (GRAM, "2 * s @ t.T", "2 * (t @ s.T)", "LP202", Kind.TRANSPOSED, 11, None),
    (GRAM, "2 * s @ t.T", "2 * s @ t", "LP202", Kind.TRANSPOSED, 11, "s @ t.mT"),
    (HUBER, "d.abs() < 1, d, d.sign()", "d.abs() < 2, d, d.sign()",
     "LP202", Kind.WRONG_CONSTANT, 11, "< 1"),
    (HUBER, "d.abs() < 1, d, d.sign()", "d.abs() > 1, d, d.sign()",
     "LP202", Kind.WRONG_CONDITION, 11, "d.abs() < 1"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "right", "wrong", "code", "kind", "line", "mend"),
    SLIPS,
    ids=[f"{slip[4].value}-{i}" for i, slip in enumerate(SLIPS)],
)
def test_a_slip_is_named(module_of, examination, source, right, wrong, code, kind, line, mend):
    assert source.count(right) >= 1
    # The slip is in backward, which comes last.
    text = wrong.join(source.rsplit(right, 1))
    loss = module_of(HEAD + text).Loss
    case = examination(loss, *inputs_of(source))
    (diagnosis,) = examine_functions(case)
    (fault,) = diagnosis.faults
    assert fault.cause is not None
    assert (fault.rule, fault.cause.kind) == (code, kind)

    from lossproof.checks.report import Finding
    from lossproof.checks.rules import RULES

    (finding,) = [v for v in RULES[code].examine(case) if isinstance(v, Finding)]
    assert finding.cause == kind.value
    assert finding.location.line == LINE + line
    if mend is not None:
        assert mend in finding.help


@pytest.mark.parametrize("source", [MSE, FOCAL, DICE, WEIGHTED, GRAM, HUBER])
def test_without_a_slip_there_is_no_fault(module_of, examination, source):
    loss = module_of(HEAD + source).Loss
    (diagnosis,) = examine_functions(examination(loss, *inputs_of(source)))
    assert diagnosis.verdict.status == "proved"
    assert not diagnosis.faults


def test_two_faults_are_two_findings(module_of, examination, found):
    """The mean repeated, without its 1/N; and `grad_output` ignored besides."""
    text = MSE.replace(
        "2 * (input - target) / input.numel()", "(2 * (input - target)).mean().repeat(6, 4)"
    )
    text = text.replace("grad_output * grad, -grad_output * grad", "grad, -grad")
    loss = module_of(HEAD + text).Loss
    (wrong,) = found("LP202", loss, *inputs_of(MSE))
    (ignored,) = found("LP203", loss, *inputs_of(MSE))
    assert wrong.cause == "mean-repeated"
    assert "1/N is missing (N = 24)" in wrong.message
    assert wrong.help == "`grad = 2 * (input - target) / input.numel()`"
    assert ignored.cause == "grad-output-ignored"
    assert ignored.location.line == LINE + 11


def test_the_mend_is_the_corrected_line(module_of, examination, found):
    """Every mend that is given as code makes the gradient right."""
    for right, wrong in (
        ("(input - target)", "(input + target)"),
        ("/ input.numel()", "/ input.shape[0]"),
        ("2 * (input", "3 * (input"),
    ):
        text = wrong.join(MSE.rsplit(right, 1))
        module = module_of(HEAD + text, name="wrong_line")
        (finding,) = found("LP202", module.Loss, *inputs_of(MSE))
        lines = (HEAD + text).splitlines()
        number = finding.location.line - 1
        indent = lines[number][: len(lines[number]) - len(lines[number].lstrip())]
        lines[number] = indent + finding.help.strip("`")
        mended = module_of("\n".join(lines), name="mended_line")
        assert not found("LP202", mended.Loss, *inputs_of(MSE))


def test_no_cause_is_named_by_coincidence(module_of, examination):
    """At this point the gradient is twice the right one; at others it is not."""
    text = MSE.replace("grad = 2 * (input", "grad = input.abs().max() * 2 / 3.0 * 2 * (input")
    loss = module_of(HEAD + text).Loss
    input = torch.full((6, 4), 3.0, requires_grad=True)
    (diagnosis,) = examine_functions(
        examination(loss, input, torch.randn(6, 4, requires_grad=True))
    )
    kinds = {fault.cause.kind for fault in diagnosis.faults if fault.cause is not None}
    assert Kind.CONSTANT_FACTOR not in kinds


def test_a_backward_without_source_is_judged_all_the_same(examination, found):
    namespace = {}
    exec(HEAD + MSE.replace("2 * (input", "3 * (input"), namespace)
    (finding,) = found("LP202", namespace["Loss"], *inputs_of(MSE))
    assert finding.cause == "constant-factor"
    assert finding.evidence["factor"] == pytest.approx(1.5)


def test_a_phantom_gradient(module_of, found):
    text = MSE.replace("((input - target) ** 2).mean()", "((input - target)[:3] ** 2).sum()")
    text = text.replace(" / input.numel()", "")
    loss = module_of(HEAD + text).Loss
    (finding,) = found("LP202", loss, *inputs_of(MSE))
    assert finding.cause == "phantom"
    assert finding.evidence["phantom"] == 12
