"""LP402 inplace-on-graph: what autograd refuses, and what it does not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.checks.report import Severity, Status

PAIR = ("float[6,4]", "float[6,4]")
CLASSES = ("float[6,4]", "int[6]<4")


def sigmoid_then_clamp(input, target):
    p = torch.sigmoid(input)
    p.clamp_(0.1, 0.9)  # <-- here
    return F.mse_loss(p, target)


def exponential_then_divide(input, target):
    e = torch.exp(input)
    e /= e.sum(1, keepdim=True)  # <-- here
    return -(target * e.log()).sum()


def softmax_then_zero(input, target):
    p = input.softmax(1)
    p[:, 0] = 0  # <-- here
    return ((p - target) ** 2).mean()


def root_then_add(input, target):
    root = ((input - target) ** 2 + 1e-6).sqrt()
    root += 1  # <-- here
    return root.mean()


class Normalised(nn.Module):
    def forward(self, input, target):
        z = torch.tanh(input)
        scaled = z * 2
        z.mul_(0.5)  # <-- here
        return F.mse_loss(scaled, target) + z.mean()


def product_then_add(input, target):
    a = input * 1
    loss = (a * target.exp() * a).sum()
    a.add_(1)  # <-- here
    return loss


def masked(input, target):
    p = input.sigmoid()
    p.masked_fill_(target > 0, 1.0)  # <-- here
    return p.log().mean()


@pytest.mark.parametrize(
    "loss",
    [sigmoid_then_clamp, exponential_then_divide, softmax_then_zero, root_then_add, Normalised,
     product_then_add, masked],
)  # fmt: skip
def test_autograds_refusal_is_told_with_the_writing_line(loss, found, marked):
    (finding,) = found("LP402", loss, "float[6,4]", "prob[6,4]")
    assert finding.location.line == marked(loss)
    assert finding.severity is Severity.ERROR
    assert finding.cause == "needed-for-backward"


def test_an_operation_on_a_leaf_is_found(found, marked):
    class Leaf(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))

        def forward(self, input, target):
            self.scale.clamp_(min=0.1)  # <-- here
            return (self.scale * (input - target) ** 2).mean()

    (finding,) = found("LP402", Leaf, *PAIR)
    assert finding.location.line == marked(Leaf)


# ------------------------------------------------------------------ two names for one tensor


def total_of_parts(logits, target):
    classification = F.cross_entropy(logits, target)
    loss = classification
    loss += logits.pow(2).mean()  # <-- here
    assert classification is not None
    return loss


def dictionary_of_parts(logits, target):
    parts = {}
    main = F.cross_entropy(logits, target)
    total = main
    total += 0.1 * logits.abs().mean()  # <-- here
    parts["main"] = main.detach()
    return total


@pytest.mark.parametrize("loss", [total_of_parts, dictionary_of_parts])
def test_two_names_are_a_warning(loss, found, marked):
    (finding,) = found("LP402", loss, *CLASSES)
    assert finding.location.line == marked(loss)
    assert finding.severity is Severity.WARNING
    assert finding.cause == "two-names"


# ------------------------------------------------------------------ not reported


def accumulates(logits, target):
    loss = 0
    for column in logits.T:
        loss += column.pow(2).mean()
    return loss


def own_sum(logits, target):
    loss = F.cross_entropy(logits, target)
    loss += 0.1 * logits.pow(2).mean()
    return loss


def alias_not_read(logits, target):
    first = F.cross_entropy(logits, target)
    loss = first
    loss += logits.pow(2).mean()
    return loss


def alias_read_before(logits, target):
    first = F.cross_entropy(logits, target)
    assert first.item() < 1e9
    loss = first
    loss += logits.pow(2).mean()
    return loss


def fills_own_buffer(logits, target):
    out = torch.zeros(6)
    for i, (row, label) in enumerate(zip(logits, target, strict=True)):
        out[i] = -row.log_softmax(0)[label]
    return out.mean()


def relu_in_place(logits, target):
    return torch.relu_(logits * 2 - 1).mean()


def new_tensor(logits, target):
    first = F.cross_entropy(logits, target)
    loss = first
    loss = loss + logits.pow(2).mean()
    assert first.item() < 1e9
    return loss


@pytest.mark.parametrize(
    "loss",
    [accumulates, own_sum, alias_not_read, alias_read_before, fills_own_buffer, relu_in_place,
     new_tensor],
)  # fmt: skip
def test_right_in_place_operations_are_silent(loss, silent):
    assert silent("LP402", loss, *CLASSES) is Status.PROVED


def test_the_page(page_code, module_of, found, silent):
    head = (
        "import torch.nn.functional as F\n\n\ndef log(values):\n    pass\n\n\n"
        "def total(logits, target, box, box_target):\n"
    )

    def body(code):
        return head + "".join(f"    {line}\n" for line in code.splitlines()) + "    return loss\n"

    example = page_code("LP402", "Example")
    lines = example.splitlines()
    bad = module_of(body(example), "bad")
    good = module_of(
        body("\n".join([lines[0], page_code("LP402", "Use instead").rstrip(), lines[-1]])), "good"
    )
    inputs = (*CLASSES, "float[6,4]", "float[6,4]")
    (finding,) = found("LP402", bad.total, *inputs)
    assert finding.location.line == 11
    silent("LP402", good.total, *inputs)
