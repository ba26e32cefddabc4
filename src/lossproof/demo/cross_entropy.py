"""Story 4: my cross entropy against PyTorch's, equal as far as the eye can see."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import lossproof
from lossproof.checks.chart import LineChart, Series
from lossproof.checks.comparison import Comparison
from lossproof.demo.story import Claim, Outline, Part, Pictures, Said, code_of, found, table


# ---------------------------------------------------------------------------- the losses
def cross_entropies(logits: Tensor, target: Tensor) -> Tensor:
    """-log(exp(logits[target]) / sum(exp(logits))) for each sample."""
    rows = logits.movedim(1, -1).reshape(-1, logits.shape[1])
    losses = []
    for row, label in zip(rows, target.reshape(-1), strict=True):
        odds = row.exp()
        losses.append(-(odds[label] / odds.sum()).log())
    return torch.stack(losses)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """The mean over the samples."""
    return cross_entropies(logits, target).mean()


def inputs() -> tuple[Tensor, Tensor]:
    """Logits of 32 samples over 10 classes, and their classes."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(32, 10, generator=generator, requires_grad=True)
    return logits, torch.randint(10, (32,), generator=generator)


# ---------------------------------------------------------------------------- the story
def by_hand() -> Part:
    """Two names for one tensor."""
    logits, target = inputs()
    same = logits
    cross_entropy(logits, target).backward()  # type: ignore[no-untyped-call]
    alone = None if logits.grad is None else logits.grad.clone()
    nn.CrossEntropyLoss()(same, target).backward()
    both = logits.grad
    assert alone is not None and both is not None
    return Part(
        "Two names for one tensor",
        (
            "A comparison by hand: one loss on `a`, the other on `b = a`, and then "
            "`a.grad == b.grad`. That holds for any two losses: there is one tensor, and its one "
            "`.grad` is the sum of both gradients.",
            code_of(cross_entropies),
            table(
                ("", "norm of `.grad`"),
                ("after my backward", alone.norm().item()),
                ("after both, by either name", both.norm().item()),
            ),
        ),
        (
            Claim("the two names share one `.grad`", same.grad is both),
            Claim("which is the sum of both gradients", torch.allclose(both, 2 * alone)),
        ),
    )


def side_by_side() -> Part:
    """Fresh leaves for each side."""
    made = lossproof.compare(cross_entropy, nn.CrossEntropyLoss(), *inputs())
    rearranged = [(one.a.same, one.b.same) for one in made.rearrangements]
    return Part(
        "Fresh leaves for each side",
        ("`lossproof.compare(mine, theirs, logits, target)`:", made),
        (
            Claim("the same value and gradient at ordinary logits", made.same),
            Claim(
                "at logits of 100 mine overflows, and PyTorch's does not", overflows_at_100(made)
            ),
            Claim(
                "both stay the same under another order or shape of the batch",
                bool(rearranged) and all(a and b for a, b in rearranged),
            ),
        ),
    )


def overflows_at_100(made: Comparison) -> bool:
    """Whether the first of the two fails at a logit of 100, and the second nowhere."""
    at_100 = [extreme for extreme in made.extremes if "is 100" in extreme.words]
    mine = [extreme.a.fails for extreme in at_100]
    return any(mine) and not any(extreme.b.fails for extreme in made.extremes)


def large_logits() -> Part:
    """Logits that grow."""
    logits, target = inputs()
    largest = logits.detach().abs().max()
    sizes = [0.5 * k for k in range(2, 241)]
    grown = [logits.detach() / largest * size for size in sizes]
    mine = [cross_entropy(one, target).item() for one in grown]
    theirs = [nn.functional.cross_entropy(one, target).item() for one in grown]
    last = max(size for size, value in zip(sizes, mine, strict=True) if math.isfinite(value))
    limit = math.log(torch.finfo(torch.float32).max)
    return Part(
        "Logits that grow",
        (
            f"`exp` of more than {limit:.2f} is infinite in float32, and infinity over infinity is "
            "not a number. PyTorch subtracts the largest logit first.",
            Pictures((growth_chart(sizes, mine, theirs, last),)),
        ),
        (
            Claim(f"mine is finite up to logits of {last:g}, and no further", last < sizes[-1]),
            Claim(f"PyTorch's is finite up to {sizes[-1]:g}", all(map(math.isfinite, theirs))),
        ),
    )


def growth_chart(
    sizes: Sequence[float], mine: Sequence[float], theirs: Sequence[float], last: float
) -> LineChart:
    """Both losses over the size of the logits."""
    some = slice(None, None, 6)
    dots = tuple(value if math.isfinite(value) else None for value in mine[some])
    return LineChart(
        "Both losses while the logits grow",
        "largest logit",
        "cross entropy",
        (
            Series("PyTorch's", tuple(sizes), tuple(theirs)),
            Series("mine", tuple(sizes[some]), dots, "dots"),
        ),
        f"They are the same up to {last:g}; from there on mine has nothing to draw.",
    )


def one_loss_per_sample() -> Part:
    """A loss that is a vector."""
    logits, target = inputs()
    values = cross_entropies(logits, target)
    message = ""
    try:
        values.backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        message = str(error)
    values.backward(gradient=torch.full_like(values, 1 / len(values)))  # type: ignore[no-untyped-call]
    (mean,) = torch.autograd.grad(cross_entropy(logits, target), logits)
    assert logits.grad is not None
    return Part(
        "A loss that is a vector",
        (
            "A vector of losses cannot be sent backward as it is. With `gradient=`, a number for "
            "each element, it can: `losses.backward(gradient=torch.full_like(losses, 1 / N))`.",
            Said("RuntimeError", message),
        ),
        (
            Claim("without `gradient=` it is refused", "scalar" in message),
            Claim(
                "with 1/N for each it is the gradient of the mean",
                torch.allclose(logits.grad, mean, atol=1e-7),
            ),
        ),
    )


def without_the_loop() -> Part:
    """The loop."""
    report = lossproof.check(cross_entropy, *inputs(), select=["python-loop"])
    return Part(
        "The loop",
        ("What takes the time is a Python loop. The check derives the same without it:", report),
        (
            Claim("`check` names the loop (LP501)", found(report, "LP501")),
            Claim(
                "and gives the same loss without it, tried on these inputs",
                any("torch.vmap" in (one.help or "") for one in report.findings),
            ),
        ),
    )


OUTLINE = Outline(
    "cross entropy",
    "My cross entropy against the library's",
    "I wrote a cross entropy as a loop, and it agrees with `nn.CrossEntropyLoss`. Am I done?",
    "They agree at ordinary logits, and only there. `compare` also looks at large logits, at time, "
    "at memory and at other shapes, with fresh leaves for each side.",
    (by_hand, side_by_side, large_logits, one_loss_per_sample, without_the_loop),
)
