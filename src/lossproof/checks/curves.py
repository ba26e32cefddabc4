"""The value and the derivative of a loss along a line through its prediction, as charts.

One number moves: an element of the prediction, or, where the elements depend on each other, the
probability of a class, a logit, or the angle of a rotation. Everything else stays as it was given.
The derivative is taken twice, by autograd and by finite differences: where the two part, the
gradient of the loss is not the derivative of its value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lossproof.checks.chart import Chart, LineChart, Number, Series, Unmeasured
from lossproof.checks.domain import Domain, Kind, domain_of, largest
from lossproof.checks.examination import Evaluation, Examination
from lossproof.checks.inputs import Inputs
from lossproof.checks.moved_inputs import moved_inputs
from lossproof.checks.spots import GRID, in_float64, single_element

Tensor = torch.Tensor

TITLE = "Value and derivative"
POINTS, DOTS = 60, 20
"""Points of the curves, and points at which finite differences are taken."""
FEW_POINTS, FEW_DOTS = 20, 7
"""The same for a loss whose calls take long."""
STEP = 1e-4
"""The step of finite differences, as a share of the whole line."""
NEAR = 1e-2
"""Special points nearer to zero than this share of the line would show as zero itself."""


@dataclass(frozen=True, eq=False)
class Line:
    """A line through the inputs of the loss. All floating values are float64."""

    values: tuple[Any, ...]
    position: int
    """Which argument moves."""
    leaf: int
    """Which of the inputs that want a gradient that is."""
    at: Callable[[Tensor], Tensor]
    """The moving argument at a number, differentiable."""
    start: float
    stop: float
    label: str
    """What the number is."""
    name: str = ""
    """What is special about this line beside another one of the same chart."""

    def point(self, number: float) -> tuple[Any, ...]:
        """All arguments at a number."""
        moved = self.at(torch.tensor(number, dtype=torch.float64)).detach()
        return tuple(moved if i == self.position else v for i, v in enumerate(self.values))

    def slope(self, number: float, gradient: Tensor) -> float:
        """The derivative along the line that a gradient of the moving argument amounts to."""
        t = torch.tensor(number, dtype=torch.float64, requires_grad=True)
        return float(torch.autograd.grad(self.at(t), t, gradient.double())[0])


def curves(case: Examination, hold_stops: bool, *, patient: bool = False) -> tuple[Chart, ...]:
    """The value and the derivative of the loss along a line through its prediction.

    Args:
        case: the loss and its inputs.
        hold_stops: whether finite differences hold fixed what the loss detaches: on purpose, where
            no rule convicts it.
        patient: whether it may take as long as it takes.
    """
    lines = _lines(case)
    if not lines:
        return (Unmeasured(TITLE, "no input wants a gradient that numbers can be put into"),)
    if patient or case.affordable(2 * POINTS):
        points, dots = POINTS, DOTS
    elif case.affordable(2 * FEW_POINTS):
        points, dots = FEW_POINTS, FEW_DOTS
    else:
        return (Unmeasured(TITLE, f"one call of the loss takes {case.call_seconds:.2g} s"),)
    walks = [_Walk(case, line, points, dots, hold_stops) for line in lines]
    return _value_chart(walks), _derivative_chart(walks)


# ---------------------------------------------------------------------------- charts
def _value_chart(walks: Sequence[_Walk]) -> Chart:
    series = tuple(Series(walk.line.name or "value", walk.x, walk.values) for walk in walks)
    return LineChart(
        "Value",
        walks[0].line.label,
        "loss" if walks[0].scalar else "sum of the losses",
        series,
        "The loss while one number of its inputs moves, in float64." + _gaps(series),
    )


def _derivative_chart(walks: Sequence[_Walk]) -> Chart:
    series = tuple(series for walk in walks for series in walk.slopes())
    return LineChart(
        "Derivative",
        walks[0].line.label,
        "derivative",
        series,
        "What autograd returns, and what the value itself does (finite differences): on a right "
        "loss every dot lies on its line." + _gaps(series),
    )


def _gaps(series: Sequence[Series]) -> str:
    """Where there is no number to draw."""
    holes = sorted(
        {x for one in series for x, y in zip(one.x, one.y, strict=True) if y is None and one.x}
    )
    if not holes:
        return ""
    shown = ", ".join(f"{x:.3g}" for x in holes[:3])
    return f" There is no finite number at {shown}{', ...' if len(holes) > 3 else ''}."


class _Walk:
    """The loss along one line."""

    def __init__(
        self, case: Examination, line: Line, points: int, dots: int, hold_stops: bool
    ) -> None:
        self.case, self.line, self.hold_stops = case, line, hold_stops
        span = line.stop - line.start
        # Between the round numbers, where the kinks are: there finite differences mean nothing.
        self.dots = tuple(line.start + (k + 0.47) * span / dots for k in range(dots))
        self.x = tuple(sorted({*_grid(line, points), *self.dots}))
        found = [self._measured(number) for number in self.x]
        value = case.base.value
        self.scalar = value is None or value.numel() == 1
        self.values = tuple(value for value, _ in found)
        self.autograd = tuple(slope for _, slope in found)

    def slopes(self) -> Iterator[Series]:
        """The derivative by autograd, and by finite differences."""
        aside = f" ({self.line.name})" if self.line.name else ""
        differences = tuple(self._difference(number) for number in self.dots)
        yield Series(f"autograd{aside}", self.x, self.autograd)
        yield Series(f"finite differences{aside}", self.dots, differences, "dots")

    def _measured(self, number: float) -> tuple[Number, Number]:
        found = self._evaluate(number)
        if found.failed or found.value is None:
            return None, None
        slope = self.line.slope(number, found.gradient(self.line.leaf))
        return _finite(found.scalar), _finite(slope)

    def _difference(self, number: float) -> Number:
        """The derivative by central differences at two steps, extrapolated."""
        stops = None
        if self.hold_stops:
            trace = self._evaluate(number, record=True).trace
            stops = trace.stops if trace is not None else None
        step = STEP * (self.line.stop - self.line.start)
        quotients = []
        for size in (step, step / 2):
            ahead, behind = (
                self._evaluate(number + shift, replay=stops, backward=False)
                for shift in (size, -size)
            )
            if ahead.error or behind.error or ahead.value is None or behind.value is None:
                return None
            quotients.append((ahead.scalar - behind.scalar) / (2 * size))
        coarse, fine = quotients
        return _finite((4 * fine - coarse) / 3)

    def _evaluate(self, number: float, **options: Any) -> Evaluation:
        return self.case.evaluate(
            self.line.point(number), dtype=torch.float64, upstream=torch.ones_like, **options
        )


def _grid(line: Line, points: int) -> Iterator[float]:
    """Evenly spaced numbers, and the special ones between them."""
    span = line.stop - line.start
    yield from (line.start + k * span / points for k in range(points + 1))
    for number in GRID:
        if line.start < number < line.stop and (number == 0 or abs(number) > NEAR * span):
            yield number


def _finite(number: float) -> Number:
    return number if math.isfinite(number) else None


# ---------------------------------------------------------------------------- lines
def _lines(case: Examination) -> list[Line]:
    """The lines to walk along: one, or one for each label where there are two."""
    full = in_float64(case.small)
    moved = moved_inputs(full)
    if not moved:
        return []
    position = moved[0].position
    leaf = full.differentiable.index(position)
    domain, name = moved[0].domain, full.arguments[position].name
    # A hand-written backward may be right for one element alone and wrong for several: the 1/N.
    single = None if case.calls else single_element(case, full)
    if single is not None:
        line = _element_line(single, full.values[position], position, leaf, domain, name, 0)
        return list(_with_labels(line, full, single))
    found = case.evaluate(full.values, dtype=torch.float64)
    if found.failed or found.value is None:
        return []
    index = int(found.gradient(leaf).abs().nan_to_num(0.0).reshape(-1).argmax())
    if domain.is_free:
        tensor = full.values[position]
        return [_element_line(full, tensor, position, leaf, domain, name, index)]
    return [_coupled_line(full, position, leaf, domain, name, index)]


def _element_line(
    inputs: Inputs, full: Tensor, position: int, leaf: int, domain: Domain, name: str, index: int
) -> Line:
    tensor = inputs.values[position].detach()
    start, stop = _range(domain, full)

    def at(t: Tensor) -> Tensor:
        flat = tensor.reshape(-1)
        return torch.cat([flat[:index], t.reshape(1), flat[index + 1 :]]).reshape(tensor.shape)

    place = "" if tensor.numel() == 1 else _place(index, tuple(tensor.shape))
    return Line(inputs.values, position, leaf, at, start, stop, f"{name}{place}")


def _range(domain: Domain, tensor: Tensor) -> tuple[float, float]:
    """From where to where one element is moved: some way beyond the values it was given."""
    size = largest(tensor)
    ranges = {
        Kind.UNIT: (0.0, 1.0),
        Kind.POSITIVE: (0.02 * size, 2 * size),
        Kind.NONNEGATIVE: (0.0, 2 * size),
        Kind.NEGATIVE: (-2 * size, 0.0),
    }
    reach = max(3.0, 1.5 * size)
    return ranges.get(domain.kind, (-reach, reach))


def _with_labels(line: Line, full: Inputs, single: Inputs) -> Iterator[Line]:
    """One line for each of the two labels, where the other tensor holds such."""
    moving = full.values[line.position]
    for other, value in enumerate(full.values):
        if other == line.position or not isinstance(value, Tensor) or value.shape != moving.shape:
            continue
        kind = domain_of(value).kind
        labels = {Kind.BINARY: (0.0, 1.0), Kind.SIGN: (-1.0, 1.0)}.get(kind)
        if labels is not None:
            for label in labels:
                values = list(single.values)
                values[other] = torch.full_like(values[other], label)
                name = f"{full.arguments[other].name} is {label:g}"
                yield Line(
                    tuple(values), line.position, line.leaf, line.at, line.start, line.stop,
                    line.label, name,
                )  # fmt: skip
            return
    yield line


def _coupled_line(
    inputs: Inputs, position: int, leaf: int, domain: Domain, name: str, index: int
) -> Line:
    """A line on which the elements of one sample keep what binds them together."""
    tensor = inputs.values[position].detach()
    if domain.kind is Kind.ROTATION:
        at = _turned(tensor, index // tensor.shape[-1] ** 2)
        label = f"angle by which a matrix of {name} is turned"
        return Line(inputs.values, position, leaf, at, -math.pi, math.pi, label)
    axis = domain.axis
    assert axis is not None
    size = tensor.shape[axis]
    places = torch.arange(tensor.numel()).reshape(tensor.shape).movedim(axis, -1).reshape(-1, size)
    row, column = (int(n) for n in (places == index).nonzero()[0])
    vector = tensor.movedim(axis, -1).reshape(-1, size)[row]
    bend, start, stop, label = _bent(domain.kind, vector, column, name)

    def at_row(t: Tensor) -> Tensor:
        moved = tensor.movedim(axis, -1)
        rows = moved.reshape(-1, size)
        changed = torch.cat([rows[:row], bend(t)[None], rows[row + 1 :]])
        return changed.reshape(moved.shape).movedim(-1, axis)

    return Line(inputs.values, position, leaf, at_row, start, stop, label)


Bend = Callable[[Tensor], Tensor]


def _bent(kind: Kind, vector: Tensor, column: int, name: str) -> tuple[Bend, float, float, str]:
    """How one vector moves, from where to where, and what the number is called."""
    one = torch.zeros_like(vector)
    one[column] = 1.0
    rest = vector * (1 - one)
    if kind is Kind.PROBABILITY:
        others = rest / rest.sum() if float(rest.sum()) > 0 else (1 - one) / (len(vector) - 1)
        label = f"probability of class {column} in {name}"
        return lambda t: one * t + others * (1 - t), 0.0, 1.0, label
    if kind is Kind.LOG_PROBABILITY:
        label = f"added to the logit of class {column} in {name}"
        return lambda t: torch.log_softmax(vector + one * t, 0), -8.0, 8.0, label
    across = one - vector * vector[column]
    if float(across.norm()) < 1e-6:  # the vector is that axis: turn towards another
        across = torch.roll(one, 1)
    across = across / across.norm()
    label = f"angle by which a vector of {name} is turned"
    return lambda t: vector * t.cos() + across * t.sin(), -math.pi, math.pi, label


def _turned(tensor: Tensor, which: int) -> Bend:
    """Turns one of several rotation matrices in the plane of its first two columns."""
    size = tensor.shape[-1]
    matrices = tensor.reshape(-1, size, size)
    plane, swap = torch.zeros(2, size, size, dtype=tensor.dtype)
    plane[0, 0] = plane[1, 1] = 1.0
    swap[1, 0], swap[0, 1] = 1.0, -1.0
    eye = torch.eye(size, dtype=tensor.dtype)

    def at(t: Tensor) -> Tensor:
        turn = eye + plane * (t.cos() - 1) + swap * t.sin()
        new = (matrices[which] @ turn)[None]
        return torch.cat([matrices[:which], new, matrices[which + 1 :]]).reshape(tensor.shape)

    return at


def _place(flat: int, shape: tuple[int, ...]) -> str:
    index = torch.unravel_index(torch.tensor(flat), shape)
    return f"[{', '.join(str(int(i)) for i in index)}]"
