"""The places in a module where its parameters and buffers stand, and other tensors in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

Place = tuple[dict[str, Tensor | None], str]


class Slots:
    """All parameters and buffers of a module, each once, and all places where it stands.

    Attributes:
        names: their names, the parameters first.
        parameter_count: how many of them are parameters.
    """

    def __init__(self, module: nn.Module) -> None:
        self.names: list[str] = []
        self._places: list[list[Place]] = []
        seen: dict[int, int] = {}
        for kind in ("_parameters", "_buffers"):
            for prefix, part in module.named_modules():
                held: dict[str, Tensor | None] = getattr(part, kind)
                for name, tensor in held.items():
                    if tensor is None:
                        continue
                    if id(tensor) not in seen:
                        seen[id(tensor)] = len(self.names)
                        self.names.append(f"{prefix}.{name}" if prefix else name)
                        self._places.append([])
                    self._places[seen[id(tensor)]].append((held, name))
            if kind == "_parameters":
                self.parameter_count = len(self.names)

    def tensors(self) -> list[Tensor]:
        """The tensors that stand there now."""
        return [held[name] for ((held, name), *_) in self._places]  # type: ignore[misc]

    def put(self, position: int, tensor: Tensor) -> None:
        """Put another tensor in all the places of one."""
        for held, name in self._places[position]:
            held[name] = tensor

    @contextmanager
    def replaced(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """Inside, these tensors stand there."""
        before = self.tensors()
        try:
            for position, tensor in enumerate(tensors):
                self.put(position, tensor)
            yield
        finally:
            for position, tensor in enumerate(before):
                self.put(position, tensor)
