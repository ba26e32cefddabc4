"""How long the axes are that names, letters and documents speak of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from lossproof.checks.inference.code_words import Words

LETTERS = {
    "batch": re.compile(
        r"^(n|b|bs|bsz|m|batch\w*|minibatch|n_?batch|num_?samples|n_samples|samples)$"
    ),
    "classes": re.compile(r"^(c|k|v|classes|n\w*_?classes|num_?labels|labels|vocab\w*|logits)$"),
    "features": re.compile(r"^(d|dim|f|e|z|emb\w*|feat\w*|hidden\w*|latent\w*)$"),
    "steps": re.compile(r"^(t|l|s|seq\w*|time\w*|steps|tokens|length)$"),
    "side": re.compile(r"^(h|w|height|width)$"),
}
FIXED = {"M": 2, "FEW": 4, "SOUND": 4096, "WIDE": 32, "WIDEST": 192}
"""Lengths that the layouts ask for."""
ANY_NUMBER = frozenset(("*", "...", r"\ldots", r"\dots"))
"""What stands for any number of axes."""


@dataclass
class Sizes:
    """A length for every letter that stands for an axis, all different where that is possible."""

    words: Words
    many: bool
    """Whether tensors have so many axes that a small batch is enough."""
    named: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.classes = self.words.classes or 5
        self.features = self.words.features or 6
        # A batch as long as another axis would hide which of the two is meant.
        self.batch = 2 if self.many else (12 if 8 in (self.classes, self.features) else 8)

    def of(self, letter: str) -> int:
        """The length of one axis."""
        if letter.isdigit():
            return int(letter)
        if letter in FIXED:
            return FIXED[letter]
        by_meaning = {"batch": self.batch, "classes": self.classes, "features": self.features,
                      "steps": 7, "side": 8}  # fmt: skip
        word = letter.lower()
        for meaning, pattern in LETTERS.items():
            if pattern.match(word):
                return by_meaning[meaning]
        return self.named.setdefault(word, 3 + len(self.named) % 3)

    def shape(self, axes: Sequence[str]) -> tuple[int, ...]:
        """The lengths of all axes; what stands for any number of axes stands for none."""
        return tuple(self.of(axis) for axis in filled(axes))


def filled(axes: Sequence[str]) -> tuple[str, ...]:
    """One axis in place of any number of them, where a shape would else have fewer than three."""
    named = [axis for axis in axes if axis not in ANY_NUMBER]
    if len(named) == len(axes) or len(named) > 2:
        return tuple(named)
    if axes[0] in ANY_NUMBER:
        return ("N", "C", *named) if len(named) == 2 else ("N", *named)
    if named:
        named.append("C" if len(named) == 1 else "T")
    return tuple(named)
