"""The example of distributed training: the same parameters from one process, DDP and FSDP2."""

import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("torch.distributed")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("needs torch.distributed with gloo", allow_module_level=True)

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
EXAMPLE = EXAMPLES / "distributed.py"
PAGE = ROOT / "docs" / "distributed.md"
LIMIT = 180.0
"""Seconds after which the processes have hung."""
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(EXAMPLE))


@pytest.fixture(scope="module")
def alone(example):
    """The parameters that one process ends at, by balancer."""
    found = {}

    def train(name):
        if name not in found:
            with contextlib.redirect_stdout(io.StringIO()):
                found[name] = example["train"](example["balancer_of"](name))
        return found[name]

    return train


def in_two_processes(tmp_path, *options):
    """Run the example under torchrun, and return the parameters and what was printed."""
    file = tmp_path / "parameters.pt"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    result = subprocess.run(
        [sys.executable, *launcher, EXAMPLE, *options, "--save", file],
        capture_output=True,
        text=True,
        env=environment,
        timeout=LIMIT,
    )
    assert result.returncode == 0, result.stderr
    return torch.load(file, weights_only=True), result.stdout


def apart(one, other):
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.parametrize(
    ("balancer", "options"), [("UncertaintyWeights", []), ("UPGrad", ["--fsdp"])]
)
def test_two_processes_end_where_one_does(tmp_path, alone, balancer, options):
    parameters, printed = in_two_processes(tmp_path, *options, "--balancer", balancer)
    assert apart(parameters, alone(balancer)) < TOLERANCE
    assert printed.count("step 0\n") == 1  # one rank prints, not both


def test_the_mean_of_means_ends_elsewhere(tmp_path, alone):
    parameters, _ = in_two_processes(tmp_path, "--mean-of-means")
    assert apart(parameters, alone("UncertaintyWeights")) > 0.01


def test_the_training_of_the_example_trains(example, alone):
    torch.manual_seed(0)
    fresh = dict(example["Net"]().double().named_parameters())
    assert apart({name: one.detach() for name, one in fresh.items()}, alone("UPGrad")) > 0.1


def test_labels_are_missing_unevenly(example):
    halves = [
        [int((example["whole_batch"](step).part(rank, 2).label != -100).sum()) for rank in (0, 1)]
        for step in range(example["STEPS"])
    ]
    assert any(second == 0 < first for first, second in halves)
    assert any(0 < second < first for first, second in halves)
    assert {len(example["whole_batch"](0).part(rank, 2).x) for rank in (0, 1)} == {13, 14}


def test_the_terms_are_the_weighted_means_of_pytorch(example):
    batch = example["whole_batch"](3)
    net = example["Net"]().double()
    terms = example["compute_terms"](net, batch, example["normalizers"](batch))
    value, logits = net(batch.x)
    each = torch.nn.functional.huber_loss(value, batch.value, reduction="none")
    torch.testing.assert_close(terms["value"], (batch.trust * each).sum() / batch.trust.sum())
    torch.testing.assert_close(
        terms["label"],
        torch.nn.functional.cross_entropy(logits, batch.label, weight=example["CLASS_WEIGHT"]),
    )


def test_every_way_to_start_it_that_is_told_is_tried_above():
    told = EXAMPLE.read_text(encoding="utf-8") + PAGE.read_text(encoding="utf-8")
    commands = re.findall(r"^ *(?:\$ )?((?:python|torchrun) .*distributed\.py.*)$", told, re.M)
    assert len(commands) >= 4
    tried = Path(__file__).read_text(encoding="utf-8")
    for command in commands:
        options = [word for word in shlex.split(command) if word.startswith("--")]
        assert all(f'"{option}"' in tried for option in options), command
