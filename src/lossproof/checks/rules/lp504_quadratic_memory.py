"""Memory grows with the square of the batch.

## What it does
Calls the loss on its batch and on twice the batch, and looks for tensors that became four times as
large. It reports the first such line where that tensor already takes 64 MiB at the batch that was
given; below, it says under *unproved* what it would take at a large one.

## Why it matters
A matrix over all pairs of the batch, and its gradient, is small at 256 samples and 4 GiB at 32,768.
The loss that was tested at one size stops with *out of memory* at another.

## Example
```python
def info_nce(a, b, temperature=0.07):
    similarity = a @ b.T / temperature                     # [N, N]
    return torch.nn.functional.cross_entropy(similarity, torch.arange(len(a)))
```

## Use instead
Where all pairs are wanted, reduce them block by block and keep nothing but the reduced rows:
compute `torch.logsumexp` over chunks of columns, each under `torch.utils.checkpoint`. Where they
are not wanted (`pred[N, 1] - target[N]`), make the shapes equal: see LP102.

## Not reported
A matrix over pairs below 64 MiB: a contrastive loss has one on purpose. Tensors that grow with the
product of two different axes, such as positions by classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lossproof.checks.batch import batch_of
from lossproof.checks.report import Severity
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.sources import Site
from lossproof.checks.trace import Recorder, tensors_in

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

RULE = RULES["LP504"]
LARGE = 64 * 2**20
"""Bytes from which one tensor over all pairs is reported."""
QUADRATIC = 3.9
"""How much larger a tensor over all pairs is at twice the batch, at least (4 without rounding)."""
AT = 32_768
"""The batch for which the page of the result says how much it would be."""

SLOW = 2.0
"""A loss whose one call takes more seconds is not called on twice the batch."""

Sizes = dict[Site, int]


def examine(case: Examination) -> Iterable[Verdict]:
    """Compare the sizes of all tensors at the batch and at twice the batch."""
    batch = batch_of(case)
    if batch is None:
        yield RULE.not_applicable("the inputs have no batch that could be doubled")
        return
    if case.call_seconds > SLOW:
        yield RULE.unproved("the loss is too slow to be called on twice the batch")
        return
    values = case.small.values
    small, large = (_sizes(case, v) for v in (values, batch.repeated(values, 2)))
    if small is None or large is None:
        yield RULE.unproved("the loss raises at twice the batch")
        return
    quadratic = [site for site, size in large.items() if size >= QUADRATIC * small.get(site, size)]
    if not quadratic:
        yield RULE.proved(f"no tensor grows faster than the batch, from {batch.size} samples on")
        return
    given = _bytes(case.trace)
    site = max(quadratic, key=lambda site: given.get(site, 0))
    yield _verdict(site, given.get(site, 0), batch.size)


def _verdict(site: Site, bytes_: int, samples: int) -> Verdict:
    expected = bytes_ * (AT / samples) ** 2
    if bytes_ < LARGE:
        return RULE.unproved(
            f"`{site.text}` holds all pairs of the batch: at {AT:,} samples it would take "
            f"{_readable(expected)}"
        )
    return RULE.finding(
        f"`{site.text}` takes {_readable(bytes_)}, and four times as much at twice the batch",
        severity=Severity.PERFORMANCE,
        location=site.location,
        cause="all-pairs",
        evidence={"bytes": bytes_, "samples": samples},
        notes=(f"at {AT:,} samples it would take {_readable(expected)}",),
        help="compute the pairs in blocks and keep only their reduction over each row",
    )


def _sizes(case: Examination, values: tuple[Any, ...]) -> Sizes | None:
    found = case.evaluate(values, record=True, backward=False)
    return None if found.error is not None or found.trace is None else _bytes(found.trace)


def _bytes(trace: Recorder) -> Sizes:
    """The bytes of the largest tensor that each place makes."""
    sizes: Sizes = {}
    for operation, result in trace.results.values():
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(result))
        sizes[operation.site] = max(sizes.get(operation.site, 0), size)
    return sizes


def _readable(bytes_: float) -> str:
    """Bytes for people.

    Example:
        >>> _readable(3 * 2**20)
        '3 MiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if bytes_ < 1024:
            return f"{bytes_:.3g} {unit}"
        bytes_ /= 1024
    return f"{bytes_:.3g} TiB"
