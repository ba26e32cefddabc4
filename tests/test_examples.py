"""The examples run, and tell what their pages promise."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def run(*arguments, cwd):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=cwd
    )


def number_of_line(path, text):
    lines = path.read_text(encoding="utf-8").splitlines()
    return 1 + next(i for i, line in enumerate(lines) if text in line)


@pytest.fixture(scope="module")
def regression():
    return runpy.run_path(str(EXAMPLES / "linear_regression.py"))


@pytest.fixture(scope="module")
def reference_curve(regression):
    return regression["train"](functional.mse_loss)


def test_the_reference_curve(reference_curve):
    # torch promises the same random numbers for a seed on one platform and release only.
    assert len(reference_curve) == 25
    assert reference_curve[0] == pytest.approx(953.65, rel=1e-3)
    assert reference_curve[1] == pytest.approx(910.05, rel=1e-3)
    assert reference_curve[-1] == pytest.approx(0.08352, rel=1e-2)


@pytest.mark.parametrize("name", ["OwnMSE", "RightMSE"])
def test_the_right_losses_train_alike(regression, reference_curve, name):
    loss = regression[name]
    if issubclass(loss, torch.nn.Module):
        loss = loss()
    curve = regression["train"](regression["as_function"](loss))
    assert curve == pytest.approx(reference_curve, rel=1e-4)


def test_the_wrong_loss_explodes(regression):
    curve = torch.tensor(regression["train"](regression["as_function"](regression["WrongMSE"])))
    assert curve[0].item() == pytest.approx(953.65, rel=1e-3)
    assert curve[3] > 1e29
    assert not curve[4:].isfinite().any()


def test_linear_regression_tells_its_story(tmp_path):
    pytest.importorskip("matplotlib")
    result = run(EXAMPLES / "linear_regression.py", "--picture", "curves.png", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "error[LP202] wrong-backward" in result.stdout
    assert "error[LP203] grad-output-ignored" in result.stdout
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_function_or_layer_tells_its_story(tmp_path):
    path = EXAMPLES / "function_or_layer.py"
    result = run(path, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    line = number_of_line(path, "argmax")
    assert "error[LP204] flat-loss: `argmax`" in result.stdout
    assert f"function_or_layer.py:{line}" in result.stdout
    assert "does not require grad" in result.stdout
    words = " ".join(result.stdout.split())  # a report breaks its lines where it must
    line = number_of_line(path, ".abs()")
    assert f"`abs` at line {line}: gradient 0 when `prediction` equals `target`" in words
    assert "no input requires a gradient: `prediction` was taken as the prediction" in words

    assert "declared surrogate: straight-through `error_rate`" in words


def test_catalogue_tells_its_story(tmp_path):
    path = EXAMPLES / "catalogue.py"
    result = run(path, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    words = " ".join(result.stdout.split())
    assert "FocalLoss(gamma=1.5, weight=[1.0, 1.0, 2.0, 5.0])" in words
    assert "state ['loss.weight']" in words
    assert "HuberLoss(reduction='sum'): DeprecationWarning" in words
    assert "`gradient` must be the derivative of `value`" in words
    assert words.count("0 errors, 0 warnings") == 2
    layer = re.search(r"layer +([\d.]+)", result.stdout)
    function = re.search(r"function +([\d.]+)", result.stdout)
    whole = re.search(r"QuarticLoss\(scale=2.0\): ([\d.]+)", result.stdout)
    halves = re.search(r"in two halves of the batch: ([\d.]+)", result.stdout)
    assert layer[1] == function[1]
    assert whole[1] == halves[1]


def test_the_losses_of_the_catalogue_example_are_their_formulas():
    example = runpy.run_path(str(EXAMPLES / "catalogue.py"))
    prediction, target = example["inputs"]()
    error = (prediction - target).detach()
    torch.testing.assert_close(
        example["quartic_loss"](prediction, target).detach(), (error**4).mean()
    )
    fair = error.abs() - torch.log1p(error.abs())
    torch.testing.assert_close(example["fair_loss"](prediction, target).detach(), fair.mean())


def test_cross_entropy_tells_its_story(tmp_path):
    path = EXAMPLES / "cross_entropy.py"
    result = run(path, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    words = " ".join(result.stdout.split())
    line = number_of_line(path, "row.exp()")
    assert "gives nan when `logits` is 100 for the class in `target`" in words
    assert f"`row.exp()` overflows (cross_entropy.py:{line})" in words
    assert "loss.backward(gradient=torch.ones_like(loss))" in words
    assert "it is the gradient of the mean: True" in words


def test_every_example_is_told_above():
    told = Path(__file__).read_text(encoding="utf-8")
    names = [path.name for path in EXAMPLES.iterdir() if path.suffix in {".py", ".sh"}]
    assert [name for name in names if f'EXAMPLES / "{name}"' not in told] == []


@pytest.mark.skipif(os.name != "posix", reason="the demo is a shell script")
def test_the_demo_convicts_the_wrong_and_acquits_the_right():
    environment = {**os.environ, "BIN": str(Path(sys.executable).parent)}
    result = subprocess.run([EXAMPLES / "demo.sh"], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "error[LP203]" in result.stdout
    assert result.stdout.count("exit code") == 2
