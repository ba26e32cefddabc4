"""Memory grows with the square of the batch, or with the classes of an output layer.

## What it does
Calls the loss on its batch and on twice the batch, and looks for tensors that became four times as
large. It reports the first such line where that tensor already takes 64 MiB at the batch that was
given; below, it says under *unproved* what it would take at a large one. It also reports logits of
64 MiB that the loss computes itself from rows that are at least eight times smaller.

## Why it matters
A matrix over all pairs of the batch, and its gradient, is small at 256 samples and 4 GiB at 32,768.
The logits of 8,192 tokens over 128,000 classes take 4 GiB, their softmax and its gradient as much
again each. The loss that was tested at one size stops with *out of memory* at another.

## Example
```python
def info_nce(a, b, temperature=0.07):
    similarity = a @ b.T / temperature                     # [N, N]
    return torch.nn.functional.cross_entropy(similarity, torch.arange(len(a)))
```

## Use instead
Where all pairs are wanted, `lossproof.pairs` reduces them block by block and keeps the rows:
```python
rows = lossproof.pairs(lambda a, b: a @ b.T / 0.07, "logsumexp")

def info_nce(a, b):
    return (rows(a, b) - (a * b).sum(1) / 0.07).mean()
```
Where they are not wanted (`pred[N, 1] - target[N]`), make the shapes equal: see LP102. For logits,
`lossproof.chunk(loss, head)(hidden, target)` computes loss and gradients a chunk of rows at a time.
The finding shows such a call with the names of the loss where they can be read off its source; it
was not run.

## Not reported
A matrix over pairs below 64 MiB: a contrastive loss has one on purpose. Tensors that grow with the
product of two different axes, such as positions by classes. Logits that the loss is given: they
exist already. What `lossproof.fuse`, `lossproof.chunk` and `lossproof.pairs` hold in one part.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from lossproof.checks.batch import batch_of
from lossproof.checks.memory_mends import OutputLayer, chunk_call, output_layer, pairs_call
from lossproof.checks.report import Severity
from lossproof.checks.rules import RULES, Verdict
from lossproof.checks.sources import Site
from lossproof.checks.trace import Recorder, tensors_in

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

Tensor = torch.Tensor

RULE = RULES["LP504"]
LARGE = 64 * 2**20
"""Bytes from which one tensor over all pairs is reported."""
QUADRATIC = 3.9
"""How much larger a tensor over all pairs is at twice the batch, at least (4 without rounding)."""
AT = 32_768
"""The batch for which the page of the result says how much it would be."""

WIDER = 8
"""How many times more elements logits have than the rows they are made of, to be reported."""
PAIRS = "reduce the pairs block by block with `lossproof.pairs`, which keeps the reduced rows"
CHUNK = "compute loss and gradients a chunk of rows at a time with `lossproof.chunk`"
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
    layer = output_layer(case.trace, WIDER)
    of_pairs = layer is not None and layer.operation.site in quadratic
    if layer is not None and not of_pairs and _size(layer.logits) >= LARGE:
        yield _logits(case, layer)
    elif not quadratic:
        yield RULE.proved(f"no tensor grows faster than the batch, from {batch.size} samples on")
    else:
        given = _bytes(case.trace)
        site = max(quadratic, key=lambda site: given.get(site, 0))
        yield _all_pairs(case, site, given.get(site, 0), small[site] / batch.size**2)


def _all_pairs(case: Examination, site: Site, bytes_: int, bytes_a_pair: float) -> Verdict:
    expected = bytes_a_pair * AT**2
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
        evidence={"bytes": bytes_, "samples": round((bytes_ / bytes_a_pair) ** 0.5)},
        notes=(f"at {AT:,} samples it would take {_readable(expected)}",),
        help=_mend(PAIRS, pairs_call(case, _largest(case.trace, site))),
    )


def _logits(case: Examination, layer: OutputLayer) -> Verdict:
    site, rows = layer.operation.site, layer.hidden.numel() // layer.hidden.shape[-1]
    return RULE.finding(
        f"`{site.text}` makes logits that take {_readable(_size(layer.logits))}, and their "
        "gradient as much again",
        severity=Severity.PERFORMANCE,
        location=site.location,
        cause="output-layer",
        evidence={
            "bytes": _size(layer.logits),
            "rows": rows,
            "classes": layer.logits.shape[-1],
            "features": layer.hidden.shape[-1],
        },
        help=_mend(CHUNK, chunk_call(case, layer)),
    )


def _mend(words: str, call: str | None) -> str:
    return words if call is None else f"{words}, such as:\n{call}"


def _largest(trace: Recorder, site: Site) -> Tensor:
    """The largest tensor that a place makes."""
    made = [
        tensor
        for operation, result in trace.results.values()
        if operation.site == site
        for tensor in tensors_in(result)
    ]
    return max(made, key=_size)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _sizes(case: Examination, values: tuple[Any, ...]) -> Sizes | None:
    found = case.evaluate(values, record=True, backward=False)
    return None if found.error is not None or found.trace is None else _bytes(found.trace)


def _bytes(trace: Recorder) -> Sizes:
    """The bytes of the largest tensor that each place makes."""
    sizes: Sizes = {}
    for operation, result in trace.results.values():
        size = sum(map(_size, tensors_in(result)))
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
