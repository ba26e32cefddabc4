"""The pages of the balancers, and the table of all in their guide.

A page is made from the balancer's docstring; what its weights sum to is found by training with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from lossproof.show import balancer_page
from lossproof.show.balancer_page import Facts
from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.listing import NAMES, BalancerEntry, balancers
from lossproof.terms.balance.point_balancer import PointBalancer
from lossproof.terms.balance.samples import SampledBalancer

FOLDER = Path(__file__).parents[1] / "terms"
TABLE = "<!-- balancers: written by docs/build.py -->\n"


def pages() -> Mapping[Path, str]:
    """The text of the page of each balancer, and the guide with the table of all."""
    entries = balancers()
    facts = {entry.name: facts_of(entry) for entry in entries}
    guide = FOLDER / "README.md"
    before, _, after = guide.read_text(encoding="utf-8").split(TABLE)
    table = balancer_page.table(entries, facts)
    written = {guide: f"{before}{TABLE}\n{table}\n{TABLE}{after}"}
    for entry in entries:
        written[FOLDER / f"{entry.name}.md"] = balancer_page.page(entry, facts[entry.name])
    return written


def facts_of(entry: BalancerEntry) -> Facts:
    """What a balancer keeps, and what its weights sum to in a short training."""
    if entry.kind == "adapter":
        return Facts("what the method gives", ())
    balancer = entry.example()
    kept = {key.partition("._extra_state")[0] for key in balancer.state_dict()}
    state = tuple(sorted(kept - {"weights", "_extra_state"}))
    if isinstance(balancer, PointBalancer):
        return Facts("one weight for each point", state)
    if entry.name in {"FixedWeights", "ScheduledWeights"}:
        return Facts("what you give", state)
    sums = torch.stack([step.sum() for step in short_training(balancer)])
    for number, words in ((1.0, "1"), (float(len(NAMES)), "K")):
        if torch.allclose(sums, torch.full_like(sums, number)):
            return Facts(words, state)
    if torch.allclose(sums.abs(), torch.ones_like(sums)):
        return Facts("1 or -1", state)
    return Facts("nothing fixed", state)


def short_training(balancer: Balancer) -> list[torch.Tensor]:
    """The weights of eight steps with terms that conflict and are of very different sizes."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.zeros(4, 1, requires_grad=True)
    optimizer = torch.optim.SGD([weight, *balancer.parameters()], lr=1e-6)
    found = []
    for _ in range(8):
        optimizer.zero_grad()
        points = 1 + torch.randn(len(NAMES), 6, 4, generator=generator)
        given = {
            name: (10.0**k) * ((points[k] @ weight)[:, 0] + (-1) ** k)
            for k, name in enumerate(NAMES)
        }
        found.append(balancer.backward(as_wanted(balancer, given), [weight]).weights)
        optimizer.step()
    return found


def as_wanted(balancer: Balancer, residuals: dict[str, torch.Tensor]) -> dict[str, object]:
    """Residuals, or their mean squares, or those of its parts, as the balancer takes them."""
    if isinstance(balancer, SampledBalancer):
        parts = {name: one.view(balancer.samples, -1) for name, one in residuals.items()}
        return {name: part.square().mean(1) for name, part in parts.items()}
    if type(balancer).scalars is not Balancer.scalars:
        return dict(residuals)
    return {name: residual.square().mean() for name, residual in residuals.items()}
