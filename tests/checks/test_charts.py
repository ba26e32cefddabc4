"""The charts of a report: measured when wanted, once, on what the check saw."""

import copy
import math
import pickle
import sys
import time

import pytest
import torch

import lossproof
from lossproof.checks import charts as module
from lossproof.checks.accuracy import Accuracy
from lossproof.checks.chart import HeatMap, LineChart, Unmeasured
from lossproof.checks.report import Report


def mse(p, t):
    return ((p - t) ** 2).mean()


def checked(loss=mse, *inputs, select=("LP1", "LP202")):
    return lossproof.check(loss, *(inputs or ("float[4,3]", "float[4,3]")), select=select)


def test_a_check_measures_no_chart_and_a_reader_may():
    report = checked()
    assert report.charts == ()
    whole = report.with_charts()
    assert [chart.title for chart in whole.charts] == [
        "Value", "Derivative", "Accuracy of the value", "Accuracy of the gradient",
    ]  # fmt: skip
    assert all(isinstance(chart, LineChart) for chart in whole.charts)
    assert report.with_charts().charts is whole.charts  # measured once
    assert whole.with_charts() is whole


def test_a_wrong_gradient_has_a_map():
    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx, p, t):
            ctx.save_for_backward(p, t)
            return mse(p, t)

        @staticmethod
        def backward(ctx, g):
            p, t = ctx.saved_tensors
            return g * (p - t) / p.numel(), None

    charts = checked(Halved).with_charts().charts
    assert any(isinstance(chart, HeatMap) for chart in charts)


def test_charts_survive_data_and_pickles_and_their_measure_does_not():
    report = checked()
    again = Report.from_dict(report.to_dict(charts=True))
    assert again == report.with_charts()
    assert again.measure is None and again.with_charts() is again
    assert report.to_dict()["charts"] == []
    assert "measure" not in report.to_dict(charts=True)
    for copied in (pickle.loads(pickle.dumps(report)), copy.deepcopy(report)):
        assert copied == report and copied.measure is None
    assert report.replace(seed=9).measure is report.measure
    assert "measure" not in repr(report)


def test_what_the_caller_does_to_the_inputs_afterwards_changes_nothing():
    def tensors():
        generator = torch.Generator().manual_seed(3)
        return [torch.randn(4, generator=generator) for _ in range(2)]

    p, t = tensors()
    report, same = checked(mse, p, t), checked(mse, *tensors())
    p.mul_(100.0)
    t.zero_()
    values = [one.with_charts().charts[0] for one in (report, same)]
    assert values[0] == values[1]


def test_large_inputs_are_kept_in_part(monkeypatch):
    monkeypatch.setattr(module, "KEPT", 100)
    p, t = torch.randn(64, 4), torch.randn(64, 4)
    charts = checked(mse, p, t).with_charts().charts
    assert charts[0].title == "Value"
    assert charts[0].caption.endswith("Measured on the first rows of the inputs.")

    def only_whole(p, t):
        assert len(p) == 64
        return mse(p, t)

    (chart,) = checked(only_whole, p, t).with_charts().charts
    assert isinstance(chart, Unmeasured)
    flat = torch.randn(1, 200)
    assert checked(mse, flat, torch.randn(1, 200)).measure is None


def test_nothing_is_measured_of_a_loss_that_does_not_run():
    def raises(p, t):
        raise ValueError("no")

    assert checked(raises, select=("LP408",)).with_charts().charts == ()

    def text(p, t):
        return "loss"

    assert checked(text).with_charts().charts == ()


def test_a_loss_that_hangs_when_charted_is_given_up(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    hanging = []

    def hangs(p, t):
        while hanging:
            time.sleep(0.001)
        return mse(p, t)

    report = checked(hangs)
    hanging.append(True)
    assert "more than 0.05 s" in report.with_charts().charts[-1].why


def test_a_fault_of_ours_is_told(monkeypatch):
    def fail(case, codes):
        raise RuntimeError("the map is torn")

    monkeypatch.setattr(module, "gradient_map", fail)
    why = [c.why for c in checked().with_charts().charts if isinstance(c, Unmeasured)]
    assert len(why) == 1 and "the map is torn" in why[0] and "please report it" in why[0]


def test_measuring_touches_nothing(capsys):
    def talks(p, t):
        sys.stdout.write("called")
        return mse(p, t)

    report = checked(talks)
    capsys.readouterr()
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.inference_mode():
        assert len(report.with_charts().charts) == 4
    assert capsys.readouterr().out == ""
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_accuracy_on_logarithmic_axes(monkeypatch, examination):
    def accuracy(case, narrow):
        name = str(narrow).removeprefix("torch.")
        return [Accuracy(1.0, name, 0.0, 1e-3), Accuracy(10.0, name, 1e-2, math.inf)]

    monkeypatch.setattr(module, "accuracy", accuracy)
    value, gradient = module.accuracy_charts(examination(mse, "float[3]", "float[3]"))
    assert [s.label for s in value.series] == ["float32", "bfloat16", "float16"]
    assert value.series[0].y == (module.EXACT, 1e-2)
    assert gradient.series[0].y == (1e-3, None)
    assert "Not finite: float32 at 10; bfloat16 at 10; float16 at 10." in gradient.caption
    assert (value.x_scale, value.y_scale) == ("log", "log")


def test_a_type_in_which_the_loss_raises_is_left_out(examination):
    def no_half(p, t):
        if p.dtype is torch.float16:
            raise RuntimeError("not implemented for 'Half'")
        return mse(p, t)

    value, _ = module.accuracy_charts(examination(no_half, "float[3]", "float[3]"))
    assert [s.label for s in value.series] == ["float32", "bfloat16"]


def test_a_slow_loss_is_measured_in_one_type_or_none(examination):
    case = examination(mse, "float[3]", "float[3]")
    vars(case)["call_seconds"] = 0.01
    assert [s.label for s in module.accuracy_charts(case)[0].series] == ["float32"]
    vars(case)["call_seconds"] = 1.0
    (chart,) = module.accuracy_charts(case)
    assert chart.why == "one call of the loss takes 1 s"


def test_rotations_have_no_magnitude(examination):
    loss = examination(mse, torch.eye(3).expand(2, 3, 3).clone(), torch.eye(3).expand(2, 3, 3))
    (chart,) = module.accuracy_charts(loss)
    assert "no input has a magnitude" in chart.why


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_types_of_inputs(dtype):
    p, t = torch.randn(4, dtype=dtype), torch.randn(4, dtype=dtype)
    assert checked(mse, p, t).with_charts().charts[0].title == "Value"
