"""Install the package where nothing else is, and use a little of everything.

::

    python scripts/smoke_test.py dist/*.whl
    python scripts/smoke_test.py dist/*.whl --python python3.10 --python python3.13
    python scripts/smoke_test.py lossproof==0.1.0
    python scripts/smoke_test.py --here

Each ``--python`` gets an environment of its own in a temporary folder: torch first, then the
package with what it asks for, then pytest. ``--here`` tests what is installed beside the
interpreter that runs it. The exit code is the number of Pythons that something failed with.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

LOSSES = '''
import torch


class Wrong(torch.autograd.Function):
    """The wrong mean squared error of the README."""

    @staticmethod
    def forward(ctx, prediction, target):
        ctx.save_for_backward(prediction, target)
        return (prediction - target).square().mean()

    @staticmethod
    def backward(ctx, grad_output):
        prediction, target = ctx.saved_tensors
        return torch.mean(2 * (prediction - target)).repeat(len(target)), None


def right(prediction, target):
    return (prediction - target).square().mean()
'''
TEST = """
def test_right(lossproof):
    from losses import right

    lossproof(right, "float[20]", "float[20]")
"""
INPUTS = ("--inputs", "float[20], float[20]")
SCRIPTS = Path(sysconfig.get_path("scripts"))
STEPS: list[Callable[[], object]] = []


def step(function: Callable[[], object]) -> Callable[[], object]:
    """Register what is tried; the docstring says what it is."""
    STEPS.append(function)
    return function


def command(*words: str, code: int = 0, shows: str = "") -> str:
    """Run a command of the environment; compare its exit code, and a part of what it prints."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    said = f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    assert done.returncode == code, said
    assert shows in done.stdout, said
    return done.stdout


def lossproof(*words: str, code: int = 0, shows: str = "") -> str:
    """Run the command line as it is installed."""
    program = shutil.which("lossproof", path=str(SCRIPTS))
    assert program is not None, f"there is no command `lossproof` in {SCRIPTS}"
    return command(program, *words, code=code, shows=shows)


# ------------------------------------------------------------------ what is installed


@step
def is_installed() -> None:
    """The installed package is what is imported, with its version, its types and its pages."""
    import lossproof

    folder = Path(lossproof.__file__).parent
    assert folder.parent == Path(sysconfig.get_path("purelib")), f"imported from {folder}"
    assert importlib.metadata.version("lossproof") == lossproof.__version__
    assert (folder / "py.typed").is_file()
    assert (folder / "losses" / "__init__.pyi").is_file()
    assert (folder / "show" / "templates" / "report.html").is_file()


@step
def asks_for_what_is_there() -> None:
    """Nothing that lossproof asks for is missing or too old."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False
    )
    broken = [line for line in done.stdout.splitlines() if line.startswith("lossproof ")]
    assert not broken, "\n".join(broken)


# ------------------------------------------------------------------ the command line


@step
def has_a_command() -> None:
    """The command, and the module that stands for it."""
    import lossproof as package

    lossproof("--help", shows="check")
    version = f"lossproof {package.__version__}\n"
    assert command(sys.executable, "-m", "lossproof", "--version") == version


@step
def finds_what_is_wrong() -> None:
    """A wrong loss is told, and what is wrong with it."""
    shown = lossproof("check", "losses.py:Wrong", *INPUTS, code=1, shows="error[LP202]")
    assert "error[LP203]" in shown


@step
def proves_what_is_right() -> None:
    """A right loss is proved; the report is a page, too."""
    lossproof("check", "losses.py:right", *INPUTS, "--html", "report.html", shows="proved")
    assert "<html" in Path("report.html").read_text(encoding="utf-8")


@step
def compares() -> None:
    """A loss beside torch's, and the whole folder."""
    lossproof("compare", "losses.py:right", "torch.nn:MSELoss", *INPUTS)
    lossproof("check", ".", "--output-format", "json", code=1, shows="LP202")


@step
def explains() -> None:
    """The pages of a rule and of a loss, and a test file."""
    lossproof("explain", "LP203", shows="grad-output-ignored")
    lossproof("losses", "focal", shows="focal_loss")
    lossproof("init", ".", "--output", "test_written.py")
    assert "right" in Path("test_written.py").read_text(encoding="utf-8")


@step
def plugs_into_pytest() -> None:
    """The fixture."""
    Path("test_losses.py").write_text(TEST, encoding="utf-8")
    command(sys.executable, "-m", "pytest", "-q", "test_losses.py", shows="1 passed")


# ------------------------------------------------------------------ Python


@step
def writes_a_loss() -> None:
    """A function becomes a Module that a check proves."""
    import torch

    import lossproof as package

    def quartic_loss(input, target, *, reduction="mean"):  # type: ignore[no-untyped-def] # noqa: A002
        return package.reduce((input - target) ** 4, reduction=reduction)

    module = package.as_module(quartic_loss)(reduction="sum")
    given = torch.randn(8, requires_grad=True), torch.randn(8)
    assert package.check(module, *given).ok
    torch.testing.assert_close(module(*given), ((given[0] - given[1]) ** 4).sum())


@step
def balances_terms() -> None:
    """A step of a balancer, and the gradients of the terms."""
    import torch

    from lossproof.terms import UPGrad, term_gradients

    model = torch.nn.Linear(3, 2)
    out = model(torch.randn(16, 3))
    terms = {"fit": (out[:, 0] - 1).square().mean(), "size": out[:, 1].square().mean()}
    found = term_gradients(terms, model)
    (direct,) = torch.autograd.grad(terms["fit"], model.bias, retain_graph=True)
    assert found.norm["fit"] >= direct.norm()
    step = UPGrad().backward(terms, model)
    assert "fit" in str(step)
    assert model.weight.grad is not None


@step
def computes_in_parts() -> None:
    """A loss in chunks, and one over pairs, as without."""
    import torch

    import lossproof as package

    head = torch.nn.Linear(4, 50)
    hidden, target = torch.randn(30, 4), torch.randint(50, (30,))
    per_token = torch.nn.functional.cross_entropy
    chunked = package.chunk(lambda z, t: per_token(z, t, reduction="none"), head)
    torch.testing.assert_close(chunked(hidden, target), per_token(head(hidden), target))
    x = torch.randn(40, 3)
    total = package.pairs(lambda a, b: a @ b.T, "logsumexp", dim=1)(x, x)
    torch.testing.assert_close(total, (x @ x.T).logsumexp(1))


@step
def compiles() -> None:
    """A fused loss; Inductor needs a compiler of C++."""
    import torch

    import lossproof as package

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.log(torch.cosh(x - y)).mean()

    x, y = torch.randn(1000, requires_grad=True), torch.randn(1000)
    fused = package.fuse(loss, measure=False)
    (gradient,) = torch.autograd.grad(fused(x, y), x)
    (plain,) = torch.autograd.grad(loss(x, y), x)
    torch.testing.assert_close(gradient, plain)
    if any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl")):
        assert [choice.way for choice in fused.choices] == ["fused"], fused.report()


@step
def watches_a_training() -> None:
    """The guard says nothing of a step that is right, and names the term of one that is not."""
    import warnings

    import torch

    import lossproof as package

    model, criterion = torch.nn.Linear(3, 1), torch.nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    found = {}
    for name, target in (("right", torch.randn(8, 1)), ("wrong", torch.full((8, 1), torch.inf))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with package.watch(model, criterion) as guard:
                optimizer.zero_grad()
                criterion(model(torch.randn(8, 3)), target).backward()
                optimizer.step()
        found[name] = [alarm.kind for alarm in guard.alarms]
        assert guard.retired is None, guard.retired
    assert not found["right"], found
    assert found["wrong"], found


# ------------------------------------------------------------------ environments


def try_all() -> bool:
    """Take every step with this interpreter, in an empty folder; whether all went well."""
    well = True
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="lossproof-smoke-") as folder:
        os.chdir(folder)
        Path("losses.py").write_text(LOSSES, encoding="utf-8")
        for one in STEPS:
            started = time.perf_counter()
            try:
                one()
                said = "ok"
            except Exception:
                said, well = f"FAILED\n{traceback.format_exc()}", False
            title = (one.__doc__ or one.__name__).splitlines()[0]
            print(f"  {time.perf_counter() - started:5.1f} s  {title} {said}", flush=True)
        os.chdir(os.sep)
    return well


def versions() -> str:
    """What is tested with what."""
    names = ("lossproof", "torch", "numpy")
    found = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return f"Python {sys.version.split()[0]}, {found}"


def install_and_try(python: str, torch: str, package: str) -> bool:
    """Make an environment, install into it, and take every step there."""
    with tempfile.TemporaryDirectory(prefix="lossproof-venv-") as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        inside = Path(folder) / SCRIPTS.name / "python"
        pip = [str(inside), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        for wanted in (torch, package, "pytest"):
            subprocess.run([*pip, wanted], check=True)
        done = subprocess.run([str(inside), str(Path(__file__).resolve()), "--here"], check=False)
    return done.returncode == 0


def main() -> int:
    """Read the command line, and test with each Python."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("package", nargs="?", help="what to install: a wheel, or a requirement")
    parser.add_argument("--python", action="append", help="an interpreter (default: this one)")
    parser.add_argument("--torch", default="torch", help="what pip is asked for first")
    parser.add_argument("--here", action="store_true", help="test what is installed here")
    given = parser.parse_args()
    if given.here:
        print(versions(), flush=True)
        return int(not try_all())
    if given.package is None:
        parser.error("name a wheel, or say --here")
    pythons = given.python or [sys.executable]
    return sum(not install_and_try(python, given.torch, given.package) for python in pythons)


if __name__ == "__main__":
    sys.exit(main())
