"""A better prediction costs more.

## What it does
Walks from random predictions toward better ones and looks at value and gradient. What better means
follows from the names, types and values of the arguments:

- scores, logits or probabilities for labels: the label's own entry upward, the others downward;
  a loss named after an overlap (Dice, IoU, Tversky) is 0 or -1 at the mask itself;
- an estimate of numbers: the target itself (or its logarithm, logit, softmax: convicted only if the
  loss is worse for all of them); a loss of the difference must be lowest where there is none, and
  its branches must meet;
- embeddings with class labels: classes compact and apart; an anchor, a positive and a negative; the
  scores of a positive and a negative; a pair with a label called `same` or `different`;
- mean and scale of a latent (`mu`, `logvar`): the divergence from the prior is 0 at its minimum;
- risk, time and event: a negative log partial likelihood is at least 0, and risks that fall with
  time are better than risks that grow.

## Why it matters
The optimiser does what the loss says. A Dice coefficient returned for `1 - dice`, a term with the
wrong sign or a reversed hinge train the network away from its data, and the curve falls all the
while.

## Example
```python
def dice_loss(probability, target):
    overlap = (probability * target).sum()
    return 2 * overlap / (probability.sum() + target.sum())
```

## Use instead
```python
def dice_loss(probability, target):
    overlap = (probability * target).sum()
    return 1 - 2 * overlap / (probability.sum() + target.sum())
```

## Not reported
Losses whose names say that prediction and target are not to meet (adversarial losses, critics,
policies and rewards, diversity, independence, unlearning, distances and energies); losses with
parameters of their own, which may shift what is best; losses that never compare the two
(regularisers, separable terms); negative values as such (a log-likelihood, -SNR); a label
convention that the arguments do not settle (is 1 the same pair, or a different one?); labels that
another place predicts (a language model's next token); a jump where an element is weighted or left
out from a threshold on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from lossproof.checks.conventions import Call, Fault
from lossproof.checks.direction import STARTS, Comparison, comparison_of, has_another_aim
from lossproof.checks.direction.branches import branches_do_not_meet
from lossproof.checks.direction.embeddings import (
    classes_apart_cost_more,
    negative_scores_rewarded,
    negatives_pulled,
    same_pairs_pushed,
)
from lossproof.checks.direction.estimates import better_estimates_cost_more, is_estimate
from lossproof.checks.direction.labels import better_scores_cost_more, is_scored
from lossproof.checks.direction.latents import latent_of, prior_is_no_minimum
from lossproof.checks.direction.overlaps import perfect_overlap_costs
from lossproof.checks.direction.survival import partial_likelihood_is_wrong
from lossproof.checks.rules import RULES, Verdict

if TYPE_CHECKING:
    from lossproof.checks.examination import Examination

RULE = RULES["LP107"]

CALLS = 40
"""So many evaluations the walks take at most, for an ordinary loss."""


def examine(case: Examination) -> Iterable[Verdict]:
    """Read the arguments in every way that fits, and walk."""
    case = case.few_rows
    call = Call(case)
    comparison = comparison_of(call)
    if not case.affordable(CALLS):
        yield RULE.unproved("the loss is too slow for so many evaluations")
        return
    # One wrong sign shows in several ways: the first says it best.
    fault = next(_faults(call, comparison), None)
    if fault is not None:
        yield RULE.finding(
            fault.message,
            severity=fault.severity,
            location=fault.location or case.subject.location,
            cause=fault.cause,
            evidence=fault.evidence,
            notes=fault.notes,
            help=fault.help,
        )
    else:
        yield _acquittal(call, comparison)


def _faults(call: Call, comparison: Comparison | None) -> Iterator[Fault]:
    yield from prior_is_no_minimum(call)
    yield from partial_likelihood_is_wrong(call)
    if has_another_aim(call.case):
        if comparison is not None and not call.case.subject.state.parameters():
            yield from branches_do_not_meet(comparison)
        return
    for pairwise in (negatives_pulled, negative_scores_rewarded, same_pairs_pushed):
        yield from pairwise(call)
    if comparison is not None and not call.case.subject.state.parameters():
        yield from better_scores_cost_more(comparison)
        yield from perfect_overlap_costs(comparison)
        yield from better_estimates_cost_more(comparison)
        yield from branches_do_not_meet(comparison)
        yield from classes_apart_cost_more(comparison)


def _acquittal(call: Call, comparison: Comparison | None) -> Verdict:
    if latent_of(call) is not None:
        return RULE.proved("the divergence is smallest at the prior, among 31 scales")
    if has_another_aim(call.case):
        return RULE.not_applicable("its names say that prediction and target are not to meet")
    if comparison is None:
        return RULE.not_applicable("not one prediction that is compared with one target")
    if call.case.subject.state.parameters():
        return RULE.unproved("the loss's own parameters decide which prediction is best")
    if is_scored(comparison) or is_estimate(comparison):
        return RULE.proved(f"better predictions do not cost more, from {STARTS} random ones on")
    return RULE.unproved("nothing says what a perfect prediction looks like")
