"""A named cause, as data, and the fixed words for causes."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lossproof.checks.report import Location, Number


class Kind(str, enum.Enum):
    """The vocabulary of causes. The values are stable: a finding's ``cause`` is one of them."""

    GRAD_OUTPUT_IGNORED = "grad-output-ignored"
    """backward never uses ``grad_output``."""
    GRAD_OUTPUT_REDUCED = "grad-output-reduced"
    """backward uses the mean or the sum of ``grad_output`` instead of one value per element."""
    GRAD_OUTPUT_TWICE = "grad-output-twice"
    """backward multiplies by ``grad_output`` twice."""
    GRAD_OUTPUT_INVERTED = "grad-output-inverted"
    """backward divides by ``grad_output``."""
    GRAD_OUTPUT_PARTLY = "grad-output-partly-ignored"
    """One term of the gradient is multiplied by ``grad_output``, another is not."""
    GRAD_OUTPUT_NONLINEAR = "grad-output-nonlinear"
    """The gradient is no linear function of ``grad_output``."""
    NONE_RETURNED = "none-returned"
    """backward returns ``None`` for an input that the loss depends on."""
    ZERO = "zero"
    """backward returns zeros for an input that the loss depends on."""
    PHANTOM = "phantom"
    """backward returns a gradient for an input, or a part of it, that the loss does not use."""
    SWAPPED = "swapped"
    """The gradients of two inputs are returned in each other's place."""
    SIGN = "sign"
    """The right gradient with the wrong sign."""
    MISSING_MEAN = "missing-1/N"
    """The right gradient times N: the division of a mean is missing."""
    EXTRA_MEAN = "extra-1/N"
    """The right gradient divided by N once too often."""
    LOG_BASE = "log-base"
    """The right gradient times the logarithm of a base."""
    CONSTANT_FACTOR = "constant-factor"
    """The right gradient times another constant."""
    MEAN_REPEATED = "mean-repeated"
    """The mean of the gradient repeated in place of each element's own value."""
    TRANSPOSED = "transposed"
    """The right matrix, transposed."""
    REORDERED = "reordered"
    """The right numbers in the wrong places."""
    BROADCAST_SUM = "broadcast-sum"
    """The gradient of a broadcast input is not summed over what it was broadcast along."""
    MISSING_PATH = "missing-path"
    """A path through ``forward`` is left out: a value is treated as a constant."""
    PATH_SIGN = "path-sign"
    """A path through ``forward`` enters with the wrong sign."""
    PATH_WEIGHT = "path-weight"
    """A path through ``forward`` enters with the wrong weight."""
    CHAIN_RULE = "chain-rule"
    """The derivative of one operation is left out of the product, or is in it twice."""
    MISSING_FACTOR = "missing-factor"
    """A factor that is no constant is missing."""
    EXTRA_FACTOR = "extra-factor"
    """A factor that is no constant is there once too often."""
    MISSING_TERM = "missing-term"
    """A term of a sum in backward is missing."""
    EXTRA_TERM = "extra-term"
    """A sum in backward has a term too many."""
    WRONG_CONSTANT = "wrong-constant"
    """A number in backward should be another one."""
    WRONG_VARIABLE = "wrong-variable"
    """A variable in backward should be another one."""
    WRONG_OPERATOR = "wrong-operator"
    """An operator in backward should be another one."""
    WRONG_FUNCTION = "wrong-function"
    """A function is applied in backward that should be another one, or none."""
    WRONG_REDUCTION = "wrong-reduction"
    """A sum or mean in backward that should be another one, or runs over the wrong axis."""
    WRONG_CONDITION = "wrong-condition"
    """A comparison in backward selects the wrong elements."""
    REGION = "region"
    """The gradient is wrong only in a region of the inputs."""
    NOT_FINITE = "not-finite"
    """backward gives ``nan`` or ``inf`` where the derivative is finite."""


@dataclass(frozen=True)
class Cause:
    """What is wrong with a gradient."""

    kind: Kind
    message: str
    """What is wrong, as a clause about backward: lower case, no full stop."""
    location: Location | None = None
    """The place of the fault, where the cause knows it: in ``backward``, or in ``forward``."""
    help: str | None = None
    evidence: Mapping[str, Number] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    related: tuple[tuple[str, Location], ...] = ()

    def replace(self, **changes: Any) -> Cause:
        """A copy with some fields changed."""
        return replace(self, **changes)
