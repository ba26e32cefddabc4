"""Tensors that a loss makes for itself on the CPU, found in its source."""

import torch
from torch import nn

from lossproof.checks.cpu_tensors import held_by_globals, held_by_module, speaks_of_devices
from lossproof.checks.sources import Sources

SOURCES = Sources(__file__)
SHARED = torch.tensor([1.0, 2.0])
MOVED = torch.tensor([1.0, 2.0]).to("cpu")


class Held(nn.Module):
    def __init__(self, given):
        super().__init__()
        self.made = torch.ones(2)
        self.listed = [torch.zeros(1), torch.zeros(2)]
        self.given = given
        self.register_buffer("buffer", torch.ones(2))
        self.inner = nn.Module()


def reads_globals(x):
    return x * SHARED + MOVED


def asks(x):
    return torch.zeros(2, device=x.device)


def test_a_modules_own_tensors_are_those_its_constructor_makes():
    held = held_by_module(Held(torch.ones(2)), SOURCES)
    assert [name for name, _, _ in held] == ["made", "listed", "listed"]


def test_globals_that_the_file_fills_and_does_not_move():
    ((name, tensor, place),) = held_by_globals(reads_globals, SOURCES)
    assert name == "SHARED"
    assert tensor is SHARED
    assert place.source.startswith("SHARED = ")


def test_a_loss_that_asks_for_a_device_speaks_of_devices():
    assert speaks_of_devices(asks, SOURCES)
    assert not speaks_of_devices(reads_globals, SOURCES)
