"""`lossproof.check`: what it takes, what it refuses, what it says, and what it leaves alone."""

import functools
import random
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from benchmarks.fuzz.kept import settings as settings_of_process
from torch import nn

import lossproof
from lossproof.checks import run as running
from lossproof.checks.report import Severity, Status
from lossproof.checks.rules import RULES
from lossproof.errors import UsageError

PAIR = ("float[6,4]", "float[6,4]")
CLASSES = ("float[6,4]", "int[6]<4")
TELLING = running._internal_error  # before the suite's own settings replace it

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecated, and still in use

    class Squared(nn.Module):
        def forward(self, input, target):
            return ((input - target) ** 2).mean()

    scripted = torch.jit.script(Squared())
    traced = torch.jit.trace(Squared(), (torch.ones(6, 4), torch.ones(6, 4)))


def mse(input, target):
    return ((input - target) ** 2).mean()


def magnitude(input, other):
    other = other.to_dense() if other.is_sparse else other
    return (input - other.to(torch.complex64)).abs().square().sum()


def codes(report):
    return [finding.code for finding in report]


def failures(report):
    """What went wrong within lossproof itself."""
    return [outcome.detail for outcome in report.unproved if "itself failed" in outcome.detail]


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)
        self.register_buffer("scale", torch.ones(4))

    def forward(self, input, target):
        return ((input * self.weight - target) ** 2 * self.frozen * self.scale).mean()


class MSE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, target):
        ctx.save_for_backward(input, target)
        return ((input - target) ** 2).mean()

    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        gradient = grad_output * 2 * (input - target) / input.numel()
        return gradient, -gradient if ctx.needs_input_grad[1] else None


class Object:
    def __call__(self, input, target):
        return mse(input, target)

    def method(self, input, target):
        return mse(input, target)


bound = MSE.apply

RIGHT = {
    "function": (mse, PAIR),
    "lambda": (lambda input, target: mse(input, target), PAIR),
    "partial": (functools.partial(F.huber_loss, delta=2.0), PAIR),
    "torch function": (F.mse_loss, PAIR),
    "torch class": (nn.MSELoss, PAIR),
    "torch module": (nn.CrossEntropyLoss(label_smoothing=0.1), CLASSES),
    "module class": (Squared, PAIR),
    "module": (Weighted(), PAIR),
    "module in eval mode": (Weighted().eval(), PAIR),
    "object": (Object(), PAIR),
    "class of objects": (Object, PAIR),
    "bound method": (Object().method, PAIR),
    "Function": (MSE, PAIR),
    "apply": (bound, PAIR),
    "apply in a function": (lambda input, target: bound(input, target), PAIR),
    "TorchScript": (scripted, PAIR),
    "traced": (traced, PAIR),
    "compiled": (torch.compile(mse, backend="eager"), PAIR),
    "compiled module": (torch.compile(Weighted(), backend="eager"), PAIR),
    "one input": (lambda input: input.pow(2).mean(), ("float[6]",)),
    "no axes": (mse, ("float[]", "float[]")),
    "float64": (mse, ("float64[6]", "float64[6]")),
    "float16": (mse, ("float16[6]", "float16[6]")),
    "bfloat16": (mse, ("bfloat16[6]", "bfloat16[6]")),
    "expanded": (mse, (torch.randn(1).expand(3).requires_grad_(), torch.randn(3))),
    "transposed": (mse, (torch.randn(3, 4).T.requires_grad_(), torch.randn(4, 3))),
    "no leaf": (mse, (torch.randn(3, requires_grad=True) * 2, torch.randn(3))),
    "parameter": (mse, (nn.Parameter(torch.randn(3)), torch.randn(3))),
    "numpy target": (
        lambda input, target: mse(input, torch.from_numpy(target)),
        (torch.randn(3), np.ones(3, dtype=np.float32)),
    ),
    "dictionary": (
        lambda outputs, target: mse(outputs["logits"], target),
        ({"logits": torch.randn(3)}, torch.randn(3, requires_grad=True)),
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_loss_in_any_clothing_passes(name):
    loss, inputs = RIGHT[name]
    report = lossproof.check(loss, *inputs)
    assert codes(report) == []
    assert failures(report) == []
    assert {o.code for o in report.outcomes} == set(RULES)
    assert len(report.proved) >= 8


def cut(input, target):
    return ((input.detach() - target) ** 2).mean()


class CutModule(nn.Module):
    def forward(self, input, target):
        return cut(input, target)


class IgnoresGradOutput(MSE):
    @staticmethod
    def backward(ctx, grad_output):
        input, target = ctx.saved_tensors
        return 2 * (input - target) / input.numel(), None


@pytest.mark.parametrize(
    ("loss", "inputs", "code"),
    [
        (cut, PAIR, "LP201"),
        (CutModule, PAIR, "LP201"),
        (functools.partial(cut), PAIR, "LP201"),
        (torch.compile(cut, backend="eager"), PAIR, "LP201"),
        (torch.compile(CutModule(), backend="eager"), PAIR, "LP201"),
        (lambda input, target: input.argmax(1).ne(target).float().mean(), CLASSES, "LP204"),
        (mse, ("float[6,1]", "float[6]"), "LP102"),
        (lambda input, target: mse(input.clamp_(0, 1), target), PAIR, "LP401"),
        (lambda input, target: (input - target) ** 2, PAIR, "LP101"),
        (lambda input, target: None, PAIR, "LP101"),
        (lambda input, target: (mse(input, target),), PAIR, "LP101"),
        (lambda input, target: {"loss": (input - target) ** 2}, PAIR, "LP101"),
        (lambda input, target: "loss", PAIR, "LP101"),
        (lambda input, target: 1.0, PAIR, "LP101"),
        (lambda input, target: torch.complex(input, target).sum(), PAIR, "LP101"),
        (lambda input, target: mse(input, target).item(), PAIR, "LP201"),
        (lambda input, target: mse(input, target) * float("nan"), PAIR, "LP301"),
        (lambda input, target: mse(input, target) / 0, PAIR, "LP301"),
        (mse, ("float[0]", "float[0]"), "LP301"),
        (mse, ("float[6,4]", "float[5]"), "LP408"),
        (F.cross_entropy, ("float[6,4]", "float[6]"), "LP408"),
        (mse, ("int[4]<3", "int[4]<3"), "LP408"),
        (lambda input, target: exit(3), PAIR, "LP408"),
    ],
)
def test_a_wrong_loss_gets_one_finding(loss, inputs, code):
    report = lossproof.check(loss, *inputs)
    assert codes(report) == [code]
    assert failures(report) == []
    assert not report
    assert report.findings[0].location is not None


def test_grad_output_is_looked_at():
    assert "LP203" in codes(lossproof.check(IgnoresGradOutput, *PAIR))


def test_a_backward_that_raises_is_told_once():
    class Broken(MSE):
        @staticmethod
        def backward(ctx, grad_output):
            raise ValueError("nope")

    report = lossproof.check(Broken, *PAIR)
    assert len(report.findings) == 1
    assert "nope" in report.findings[0].message
    assert {o.status for o in report.outcomes if o.code == "LP201"} == {Status.UNPROVED}


def test_after_a_crash_nothing_is_called_proved():
    report = lossproof.check(lambda input, target: input.nothing(), *PAIR)
    assert report.proved == ()
    assert len(report.unproved) > 10


# ------------------------------------------------------------------ refused


def wants_an_object(outputs, batch):
    return outputs.loss + batch.size


def needs_a_keyword(input, target, *, temperature):
    return mse(input, target) / temperature


class NeedsArguments(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.weights = list(network.parameters())

    def forward(self, input, target):
        return mse(input, target)


@pytest.mark.parametrize(
    ("loss", "inputs", "said"),
    [
        (3, PAIR, "`loss` must be a function"),
        ("mse", PAIR, "`loss` must be a function"),
        (NeedsArguments, PAIR, "cannot be made without arguments"),
        (nn.Module, PAIR, "has no `forward`"),
        (wants_an_object, (), "no inputs were given for `wants_an_object`"),
        (lambda: torch.ones(()), (), "takes no inputs and has no parameters"),
        (mse, ("float[3]",), "takes 2 inputs"),
        (mse, ("float[3]",) * 3, "takes 2 inputs"),
        (needs_a_keyword, PAIR, "needs the keyword argument `temperature`"),
        (mse, ("flaot[3]", "float[3]"), "did you mean `float`"),
        (mse, ("float[3", "float[3]"), "takes|cannot read"),
        (mse, ("inptu float[3]", "target float[3]"), "no argument `inptu`; did you mean `input`"),
        (mse, (torch.zeros(3, device="meta"), torch.zeros(3)), "on the meta device"),
        (mse, (torch.eye(3).to_sparse().requires_grad_(), torch.eye(3)), "give it dense"),
    ],
)
def test_a_wrong_request_says_what_is_wanted(loss, inputs, said):
    with pytest.raises(UsageError, match=said):
        lossproof.check(loss, *inputs)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize(
    "loss",
    [
        lambda input, target: mse(input.cuda(), target.cuda()),
        lambda input, target: mse(input.to("cuda:0"), target),
        lambda input, target: mse(input, target) + torch.zeros(1, device="cuda"),
    ],
)
def test_a_device_that_is_asked_for_by_name_explains_the_crash(loss):
    (finding,) = lossproof.check(loss, *PAIR)
    assert (finding.code, finding.cause) == ("LP407", "asks-for-cuda")
    assert finding.location.file == __file__


def test_ctrl_c_is_the_users():
    def interrupted(input, target):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lossproof.check(interrupted, *PAIR)


def test_a_penalty_on_parameters_needs_no_inputs():
    class Penalty(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4))

        def forward(self):
            return self.weight.pow(2).sum()

    assert lossproof.check(Penalty())


# ------------------------------------------------------------------ left alone


def everything():
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_anomaly_enabled(),
        tuple(warnings.filters),
    )


def rude(input, target):
    torch.manual_seed(1)
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True)
    warnings.simplefilter("ignore")
    input.grad = None
    return mse(input + torch.rand_like(input), target)


@pytest.mark.parametrize("loss", [mse, rude, cut, lambda input, target: input.x])
def test_nothing_of_the_callers_is_changed(loss):
    input, target = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)
    input.grad = torch.ones(6, 4)
    kept = input.grad, input.detach().clone(), target.clone(), input._version
    before = everything()
    lossproof.check(loss, input, target)
    assert everything() == before
    assert input.grad is kept[0]
    assert torch.equal(input.grad, torch.ones(6, 4))
    assert torch.equal(input, kept[1])
    assert torch.equal(target, kept[2])
    assert input._version == kept[3]
    assert input.requires_grad


def test_a_module_is_left_as_it_was():
    class Busy(Weighted):
        def forward(self, input, target):
            self.scale += 1
            self.calls = getattr(self, "calls", 0) + 1
            return super().forward(input, target)

    module = Busy().eval()
    module.weight.grad = torch.full((4,), 2.0)
    lossproof.check(module, torch.randn(6, 4), torch.randn(6, 4))
    assert not hasattr(module, "calls")
    assert torch.equal(module.scale, torch.ones(4))
    assert torch.equal(module.weight.grad, torch.full((4,), 2.0))
    assert not module.training
    assert module.weight.dtype is torch.float32


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(mode):
    with mode():
        assert lossproof.check(mse, *PAIR)
        assert lossproof.check(mse, torch.randn(3), torch.randn(3))
        assert codes(lossproof.check(cut, *PAIR)) == ["LP201"]


def test_it_works_with_another_default_type():
    torch.set_default_dtype(torch.float64)
    try:
        assert lossproof.check(mse, *PAIR)
        assert codes(lossproof.check(cut, *PAIR)) == ["LP201"]
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_the_loss_warns_of_is_no_matter():
    def warns(input, target):
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
        return mse(input, target)

    assert lossproof.check(warns, *PAIR)


# ------------------------------------------------------------------ the report


def test_the_same_seed_gives_the_same_report():
    one, two = (lossproof.check(cut, *PAIR, seed=3).replace(seconds=0.0) for _ in range(2))
    assert one == two
    assert lossproof.check(cut, *PAIR, seed=4).replace(seconds=0.0, seed=3) != one


def test_the_report_says_what_was_checked():
    report = lossproof.check(mse, "float[6,4]", "target float[6,4]")
    assert report.subject == "mse"
    assert report.location.file == __file__
    assert report.inputs == ("input: float32[6, 4], requires grad", "target: float32[6, 4]")
    assert report.assumptions == (
        "no input requires a gradient: `input` was taken as the prediction",
    )
    assert report.reproduce.endswith(':mse --inputs "float[6,4], float[6,4]" --seed 0')
    assert report.seconds > 0


@pytest.mark.parametrize(
    ("tensor", "specification"),
    [
        (torch.ones(3, dtype=torch.complex64), "complex[3]"),
        (torch.ones(3, dtype=torch.complex128), "complex128[3]"),
        (torch.ones(3, dtype=torch.bfloat16), "bfloat16[3]"),
        (torch.ones(3, dtype=torch.float8_e5m2), "float16[3]"),  # the nearest that there is
        (torch.ones(3, dtype=torch.bool), "bool[3]"),
        (torch.tensor([1, 4, 0], dtype=torch.int16), "int16[3]<5"),
        (torch.tensor([1, 4, 0], dtype=torch.uint16), "int[3]<5"),
        (torch.tensor([1, 4, 0]).to_sparse(), "int[3]<5"),
        (torch.tensor([], dtype=torch.uint32), "int[0]<1"),
    ],
)
def test_how_to_check_again_is_told_of_tensors_of_any_kind(tensor, specification):
    report = lossproof.check(magnitude, torch.zeros(len(tensor)), tensor, select=["LP101"])
    inputs = f"float[{len(tensor)}], {specification}"
    assert report.reproduce.endswith(f':magnitude --inputs "{inputs}" --seed 0')
    again = lossproof.check(magnitude, inputs, select=["LP101"])
    assert again.inputs[1].count(f"[{len(tensor)}]") == 1
    assert [one.code for one in again.findings] == [one.code for one in report.findings]


def test_a_loss_without_a_name_cannot_be_called_on_a_command_line():
    assert lossproof.check(lambda input: input.sum(), "float[3]").reproduce is None


def test_a_compiled_loss_says_that_its_original_was_checked():
    report = lossproof.check(torch.compile(cut, backend="eager"), *PAIR)
    assert "eager original" in report.assumptions[0]
    assert report.location.file == __file__


def test_a_scripted_loss_says_what_was_not_looked_at():
    assert "TorchScript" in lossproof.check(scripted, *PAIR).assumptions[0]


def test_the_reference_is_compared():
    assert lossproof.check(mse, *PAIR, reference=F.mse_loss)
    report = lossproof.check(mse, *PAIR, reference=nn.MSELoss(reduction="sum"))
    assert codes(report) == ["LP103"]


def test_an_endless_loss_is_found_where_it_was(marked):
    def endless(input, target):
        turns = 0
        while True:
            turns += 1  # <-- here

    start = time.perf_counter()
    report = lossproof.check(endless, *PAIR, time_limit=0.3)
    assert time.perf_counter() - start < 30
    (finding,) = report.findings
    assert finding.cause == "time-limit"
    assert finding.severity is Severity.ERROR
    assert abs(finding.location.line - marked(endless)) <= 1
    assert torch.is_grad_enabled()
    assert all("time limit" in outcome.detail for outcome in report.unproved)


def test_a_fault_of_ours_is_told_and_costs_one_rule_only(monkeypatch):
    from lossproof.checks.rules import lp102_silent_broadcast

    def broken(case):
        raise AssertionError("ours")

    monkeypatch.setattr(lp102_silent_broadcast, "examine", broken)
    monkeypatch.setattr(running, "_internal_error", TELLING)
    report = lossproof.check(cut, *PAIR)
    assert codes(report) == ["LP201"]
    (said,) = failures(report)
    assert "AssertionError: ours" in said


def test_every_rule_has_a_verdict_for_every_loss():
    for loss in (mse, cut, lambda input, target: None, lambda input, target: input.x):
        report = lossproof.check(loss, *PAIR)
        spoken = {verdict.code for verdict in (*report.findings, *report.outcomes)}
        assert spoken == set(RULES)


def test_the_rules_that_may_speak_of_failures_exist():
    assert {*running.AFTER_A_CRASH, *running.AFTER_A_FAILED_BACKWARD} <= set(RULES)


def test_what_a_loss_prints_is_shown_once(capsys):
    def talkative(input, target):
        print("called")  # noqa: T201 - what is tested
        return ((input - target) ** 2).mean()

    lossproof.check(talkative, *PAIR)
    assert capsys.readouterr().out == "called\n"


def test_one_fault_is_one_finding():
    class NothingForTarget(torch.autograd.Function):
        @staticmethod
        def forward(ctx, input, target):
            ctx.save_for_backward(input, target)
            return ((input - target) ** 2).mean()

        @staticmethod
        def backward(ctx, grad_output):
            input, target = ctx.saved_tensors
            return grad_output * 2 * (input - target) / input.numel(), None

    wanted = [torch.randn(6, 4, requires_grad=True) for _ in range(2)]
    report = lossproof.check(NothingForTarget, *wanted)
    assert [(finding.code, finding.cause) for finding in report] == [("LP202", "none-returned")]


def test_what_is_seen_nearer_is_said_once():
    """A Dice coefficient is also not minimal at the target: the nearer word is kept."""

    class DiceLoss(nn.Module):
        def forward(self, pred, target):
            overlap = (pred * target).sum()
            return 2 * overlap / (pred.sum() + target.sum())

    codes = [
        finding.code for finding in lossproof.check(DiceLoss(), "unit[2,1,6,6]", "binary[2,1,6,6]")
    ]
    assert codes == ["LP111"]
    alone = lossproof.check(DiceLoss(), "unit[2,1,6,6]", "binary[2,1,6,6]", select=["LP107"])
    assert [finding.code for finding in alone] == ["LP107"]


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("seed", 0.5, TypeError),
        ("seed", None, TypeError),
        ("time_limit", torch.ones(3), TypeError),
        ("time_limit", 0, ValueError),
        ("time_limit", float("nan"), ValueError),
        ("select", 3, UsageError),
        ("ignore", torch.tensor(1.0), UsageError),
    ],
)
def test_options_of_a_wrong_kind(option, value, error):
    with pytest.raises(error, match=f"`{option}`"):
        lossproof.check(mse, "float[3]", "float[3]", **{option: value})
    if option in {"seed", "time_limit"}:
        with pytest.raises(error, match=f"`{option}`"):
            lossproof.compare(mse, mse, "float[3]", "float[3]", **{option: value})


def test_an_input_that_is_a_class():
    report = lossproof.check(nn.L1Loss, torch.Tensor, torch.ones(3), select=["LP101"])
    assert "class 'torch.Tensor'" in report.reproduce


def test_checks_in_several_threads_take_turns():
    """What belongs to the process is set by each: the others would find it, and keep it so."""
    losses = [nn.MSELoss(), nn.L1Loss(), nn.SmoothL1Loss(), nn.HuberLoss()]
    alone = [lossproof.check(loss, *PAIR) for loss in losses]
    settings, generator = settings_of_process(), torch.get_rng_state()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda loss: lossproof.check(loss, *PAIR), losses * 2))
    assert [one.outcomes for one in together] == [one.outcomes for one in alone * 2]
    assert settings_of_process() == settings
    assert torch.equal(torch.get_rng_state(), generator)
