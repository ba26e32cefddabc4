"""A reading of a loss: a layout and a domain, from which all its arguments follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lossproof.checks.inference.layouts import Domain, Layout
from lossproof.checks.inference.meanings import Meaning, Slot
from lossproof.checks.inference.sizes import Sizes


@dataclass(frozen=True)
class Frame:
    """What the main prediction is, and what it is compared with."""

    layout: Layout
    domain: Domain
    cost: float
    slots: Sequence[Slot]
    sizes: Sizes
    main: int
    """The position of the main prediction."""
    against: int | None
    """The position of what it is compared with, if there is such a thing."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the prediction."""
        return self.sizes.shape(self.layout.axes)

    @property
    def predicted(self) -> str:
        """The specification of the main prediction."""
        return f"{self.domain.predicted}[{','.join(map(str, self.shape))}]"

    @property
    def meaning(self) -> Meaning:
        """What the main prediction means."""
        return self.slots[self.main].meaning

    @property
    def compared_slot(self) -> Slot | None:
        """What the main prediction is compared with."""
        return None if self.against is None else self.slots[self.against]

    @property
    def possible(self) -> bool:
        """Whether there is an axis of classes where class indices need one."""
        if self.against is None or self.domain.compared != "index":
            return True
        return self.layout.class_axis is not None and self.classes > 1

    @property
    def reduced(self) -> tuple[int, ...]:
        """The shape of the prediction without the classes."""
        axis = self.layout.class_axis
        shape = self.shape
        return shape if axis is None else (*shape[:axis], *shape[axis + 1 :])

    @property
    def rows(self) -> tuple[int, ...]:
        """One number for each sample."""
        return self.shape[:1]

    @property
    def classes(self) -> int:
        """How many classes the labels are drawn from."""
        axis = self.layout.class_axis
        letter = None if axis is None else self.layout.axes[axis]
        if axis is None or letter in ("D", "N") or self.meaning == "embedding":
            return self.sizes.classes
        return self.shape[axis]
