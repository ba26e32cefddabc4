"""The examples run, and tell what their pages promise."""

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


@pytest.fixture(scope="module")
def helmholtz():
    return runpy.run_path(str(EXAMPLES / "helmholtz_pinn.py"))


def test_the_solution_of_the_helmholtz_example_solves_its_equation(helmholtz):
    points = (2 * torch.rand(50, 2, dtype=torch.float64) - 1).requires_grad_()
    u = helmholtz["solution"](points)
    (slopes,) = torch.autograd.grad(u.sum(), points, create_graph=True)
    torch.testing.assert_close(helmholtz["slopes"](points), slopes)
    bends = [torch.autograd.grad(slopes[:, k].sum(), points, retain_graph=True)[0] for k in (0, 1)]
    torch.testing.assert_close(bends[0][:, 0] + bends[1][:, 1] + u, helmholtz["source"](points))


def test_the_derivatives_of_the_helmholtz_network_are_those_of_autograd(helmholtz):
    network = helmholtz["Network"](width=7).double()
    points = (2 * torch.rand(20, 2, dtype=torch.float64) - 1).requires_grad_()
    value, first, laplacian = network.derivatives(points)
    torch.testing.assert_close(value, network(points))
    (slopes,) = torch.autograd.grad(network(points).sum(), points, create_graph=True)
    torch.testing.assert_close(first, slopes)
    bends = [torch.autograd.grad(slopes[:, k].sum(), points, retain_graph=True)[0] for k in (0, 1)]
    torch.testing.assert_close(laplacian, bends[0][:, 0] + bends[1][:, 1])


@pytest.mark.parametrize("variant", [[], ["--neumann"]])
def test_the_helmholtz_network_tells_its_story(tmp_path, variant):
    pytest.importorskip("matplotlib")
    path = EXAMPLES / "helmholtz_pinn.py"
    result = run(path, "--iterations", 200, "--picture", "found.png", *variant, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    names = ["residual", "dirichlet", *(["neumann"] if variant else [])]
    for name in names:
        assert len(re.findall(rf"^ *{name}( +-?[\d.e+-]+){{4}}$", result.stdout, re.MULTILINE)) == 2
    plain, annealed = re.findall(r"^ +200 +([\d.]+) +([\d.]+)$", result.stdout, re.MULTILINE)[0]
    assert variant or float(annealed) < float(plain)
    weights = re.search(
        r"The weights at the end: \{'residual': 1.0, 'dirichlet': ([\d.]+)", result.stdout
    )
    assert float(weights[1]) > 3
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")


def test_multi_task_compares_the_balancers(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    path = EXAMPLES / "multi_task.py"
    result = run(path, "--seeds", 2, "--epochs", 1, "--picture", "errors.png", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = re.findall(
        r"^ *([\w-]+(?: \w+)?)((?: +-?[\d.]+ ± +[\d.]+){4})", result.stdout, re.MULTILINE
    )
    numbers = {
        name: [float(one) for one in re.findall(r"(-?[\d.]+) ±", text)] for name, text in rows
    }
    assert {"single tasks", "plain sum", "tuned weights", "UPGrad"} <= set(numbers)
    assert numbers["single tasks"][3] == 0
    different = {tuple(one) for one in numbers.values()}
    assert len(different) >= len(numbers) - 1  # DWA begins as the plain sum
    assert all(0 < error <= 100 for one in numbers.values() for error in one[:2])
    assert "surely better than the tuned weights: " in result.stdout
    assert (tmp_path / "errors.png").read_bytes().startswith(b"\x89PNG")


def test_the_multi_task_example_judges_by_paired_differences():
    pytest.importorskip("sklearn")
    example = runpy.run_path(str(EXAMPLES / "multi_task.py"))

    def outcome(relative):
        return example["Outcome"]([], relative, 1.0)

    surely = example["surely_better"]
    assert surely(outcome([1.0, 11.0, 21.0]), outcome([2.0, 12.5, 22.0]))
    assert not surely(outcome([1.0, 11.0, 21.0]), outcome([9.0, 3.0, 22.0]))
    assert not surely(outcome([1.0]), outcome([2.0]))
    halves = {"digit": 10.0, "even": 20.0, "lower half": 30.0}
    worse = {"digit": 11.0, "even": 24.0, "lower half": 30.0}
    assert example["relative"](worse, halves) == pytest.approx(10.0)


def figures_of(pattern, text):
    return [float(one) for one in re.findall(pattern, text)]


def test_large_vocabulary_trains_alike_with_less_memory(tmp_path):
    path = EXAMPLES / "large_vocabulary.py"
    result = run(path, "--words", 8000, "--steps", 6, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (first,) = re.findall(r"^ +0 +([\d.]+) +([\d.]+)$", result.stdout, re.MULTILINE)
    (last,) = re.findall(r"^ +5 +([\d.]+) +([\d.]+)$", result.stdout, re.MULTILINE)
    assert first[0] == first[1]
    assert float(last[0]) < 0.9 * float(first[0])
    (apart,) = figures_of(r"at most (\S+) apart", result.stdout)
    assert apart < 1e-5
    logits, chunks = figures_of(r"hold +([\d.]+) MB", result.stdout)
    assert chunks < 0.4 * logits


def test_the_chunked_loss_of_the_vocabulary_example_has_the_gradients_of_the_plain_one():
    example = runpy.run_path(str(EXAMPLES / "large_vocabulary.py"))
    model, language = example["Model"](900, width=8).double(), example["Language"](900)
    batch = [language_batch(language, sentences) for sentences in (5, 11)]
    found = []
    for way in (example["plain_loss"], example["chunked_loss"]):
        model.zero_grad()
        value = example["step"](batch, way(model))
        found.append([torch.tensor(value), *(one.grad for one in model.parameters())])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)
    assert found[0][1].abs().max() > 0


def language_batch(language, sentences):
    micro = language.micro_batch(sentences)
    return type(micro)(micro.words, micro.next_words, micro.weight.double())


def test_contrastive_large_batch_trains_alike_with_less_memory(tmp_path):
    path = EXAMPLES / "contrastive_large_batch.py"
    result = run(path, "--steps", 3, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (apart,) = figures_of(r"at most (\S+) apart", result.stdout)
    assert apart < 1e-5
    matrix, blocks = figures_of(r"hold +([\d.]+) MB", result.stdout)
    assert blocks < 0.3 * matrix
    matrix, blocks = figures_of(r"([\d.]+) % of 500", result.stdout)
    assert min(matrix, blocks) > 30
    assert abs(matrix - blocks) <= 2


def test_lightning_multi_task_sets_a_balancer_beside_the_plain_sum(tmp_path):
    pytest.importorskip("lightning")
    path = EXAMPLES / "lightning_multi_task.py"
    result = run(path, "--epochs", 4, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = re.findall(
        r"^ *(plain sum|annealed) +([\d.]+) +([\d.]+) % +(\S+), (\S+)$", result.stdout, re.MULTILINE
    )
    (plain, *fixed), (annealed, *moved) = ((row[0], *map(float, row[1:])) for row in rows)
    assert (plain, annealed) == ("plain sum", "annealed")
    assert fixed[2:] == [1.0, 1.0]
    assert min(moved[2:]) > 3
    assert 0 < moved[1] < fixed[1] < 60


def test_huggingface_trainer_divides_by_the_tokens_of_the_whole_batch(tmp_path):
    pytest.importorskip("transformers")
    path = EXAMPLES / "huggingface_trainer.py"
    result = run(path, "--steps", 2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = re.findall(r"^ *(\S.*?)  ([\d.]+) ([\d.]+)$", result.stdout, re.MULTILINE)
    losses = {name: [float(one) for one in figures] for name, *figures in rows}
    assert losses["4 of 4, by tokens"] == pytest.approx(losses["one batch of 16"], abs=2e-6)
    wrong = losses["4 of 4, mean of means"]
    assert wrong[0] != pytest.approx(losses["one batch of 16"][0], abs=1e-4)
    found = re.findall(r"value ([\d.]+) +weight ([\d.]+)$", result.stdout, re.MULTILINE)
    assert len(found) == 2
    assert all(float(weight) > 0 for _, weight in found)


def test_every_example_is_told_above():
    here = [Path(__file__), Path(__file__).with_name("test_distributed_example.py")]
    told = "".join(path.read_text(encoding="utf-8") for path in here)
    names = [path.name for path in EXAMPLES.iterdir() if path.suffix == ".py"]
    assert [name for name in names if f'EXAMPLES / "{name}"' not in told] == []
