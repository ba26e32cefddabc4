"""The parameters as they were before the step that went wrong, kept on a device that runs ahead.

By the time the processor learns that a loss was not finite, the optimizer has long been told to
take the step. So the device itself keeps a copy of the parameters before each step, until its own
flag says that something was not finite: from then on the copy stays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

Tensor = torch.Tensor


class Snapshot:
    """A copy of parameters that is renewed until something goes wrong.

    Args:
        parameters: the tensors to keep, all on one device.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.step = 0
        """The number of the step before which the copy was last renewed, as far as is known."""
        self._parameters = list(parameters)
        self._copies = [parameter.detach().clone() for parameter in parameters]
        self._bad = torch.zeros((), dtype=torch.bool, device=parameters[0].device)

    def renew(self) -> None:
        """Copy the parameters, if nothing was wrong so far."""
        for copy, parameter in zip(self._copies, self._parameters, strict=True):
            torch.where(self._bad, copy, parameter.detach(), out=copy)

    def judge(self, numbers: Tensor) -> None:
        """From now on keep the copy if one of the numbers is not finite."""
        self._bad.logical_or_(torch.isfinite(numbers).all().logical_not())

    def release(self) -> None:
        """Renew the copy again: what was wrong has been looked at."""
        self._bad.zero_()

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """The parameters as they are in the copy, within the context."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for place, parameter in enumerate(self._parameters):
            self._copies[place], parameter.data = parameter.data, self._copies[place]


def bytes_of(tensors: Sequence[Tensor]) -> int:
    """How much memory tensors take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
