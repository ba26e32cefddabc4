"""The first operation that made a loss or a gradient non-finite: its line, its samples, its mend.

Every case has a culprit that is known from how it was made; its line is marked in this file.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossproof.watcher.alarm import AlarmKind
from lossproof.watcher.diagnosis import diagnose

NAN = float("nan")


def of_value(recording, model, term=None):
    return diagnose(AlarmKind.NON_FINITE_LOSS, recording.record, model, term=term)


def of_gradient(recording, model, term=None):
    return diagnose(AlarmKind.NON_FINITE_GRADIENT, recording.record, model, term=term)


# ---------------------------------------------------------------------------- values
def test_a_logarithm_of_0_for_one_sample_in_one_of_three_terms(recording, network, marked):
    def terms_of(out, target, weight):
        probability = torch.sigmoid(out)
        return {
            "fit": (probability - target).square().mean(),
            "log": -torch.log(probability * weight).mean(),  # <-- here
            "size": probability.abs().mean(),
        }

    model, weight = network(), torch.ones(64)
    weight[17] = 0
    out = recording.model(model, torch.randn(64, 3)).squeeze(1)
    terms = recording.terms(terms_of, out, torch.rand(64), weight)
    assert terms["log"].isinf()
    for term in ("log", None):
        found = of_value(recording, model, term)
        assert (found.part, found.phase, found.operation) == ("loss", "forward", "log")
        assert found.location.line == marked(terms_of)
        assert found.text == "torch.log(probability * weight)"
        assert found.samples == (17,)
        assert found.evidence["operand"] == 0
        assert found.notes[0] == "`log` of 0 is -inf, for sample 17 of 64"
        assert found.notes[1] == "its operand was made by `mul` of `sigmoid`"
        assert "xlogy" in found.help
        assert found.caveat is None


def test_the_mend_of_a_pair_that_has_a_stable_form(recording, network):
    def loss(out):
        return -torch.log(torch.sigmoid(1000 * out)).mean()

    model = network()
    out = recording.model(model, torch.randn(64, 3))
    assert recording.terms(loss, out).isinf()
    found = of_value(recording, model)
    expected = (torch.sigmoid(1000 * out) == 0).flatten().nonzero().flatten().tolist()
    assert expected
    assert found.samples == tuple(expected[:8])
    assert "logsigmoid(x)" in found.help


def test_a_count_of_0_for_some_samples(recording, network, marked):
    def masked(out, target, mask):
        errors = (out - target).square() * mask
        per_sample = errors.sum(1) / mask.sum(1)  # <-- here
        return per_sample.mean()

    model, mask = network(out=5), torch.ones(8, 5)
    mask[2] = mask[6] = 0
    out = recording.model(model, torch.randn(8, 3))
    recording.terms(masked, out, torch.randn(8, 5), mask)
    found = of_value(recording, model)
    assert (found.operation, found.location.line) == ("div", marked(masked))
    assert found.samples == (2, 6)
    assert found.notes[0] == "0 / 0 is nan, for samples 2, 6 of 8"
    assert "a / (b + eps)" in found.help


def test_an_exponential_that_overflows_in_one_term(recording, network, marked):
    def terms_of(out, log_variance):
        precision = torch.exp(-log_variance)  # <-- here
        return {"nll": (out.square() * precision + log_variance).mean(), "l1": out.abs().mean()}

    model, log_variance = network(), torch.zeros(10, 1)
    log_variance[3] = -100.0
    recording.terms(terms_of, recording.model(model, torch.randn(10, 3)), log_variance)
    found = of_value(recording, model, "nll")
    assert (found.operation, found.location.line) == ("exp", marked(terms_of))
    assert (found.samples, found.evidence["operand"]) == ((3,), 100.0)


def test_an_infinity_that_is_dealt_with_is_innocent(recording, network, marked):
    def attention(out, allowed, target):
        weights = torch.softmax(out + torch.log(allowed), 1)  # its -inf is meant
        return torch.log(weights - target).mean()  # <-- here

    model, allowed = network(out=4), torch.ones(6, 4)
    allowed[:, 3] = 0
    recording.terms(attention, recording.model(model, torch.randn(6, 3)), allowed, torch.ones(6, 4))
    found = of_value(recording, model)
    assert (found.operation, found.location.line) == ("log", marked(attention))
    assert found.samples == (0, 1, 2, 3, 4, 5)
    assert "all 6 samples" in found.notes[0]


def test_samples_of_a_loss_that_reduces_before_it_fails(recording, network):
    def log_of_product(out, weight):
        return torch.log((torch.sigmoid(out).squeeze(1) * weight).prod())

    model, weight = network(), torch.ones(33)
    weight[20] = 0
    recording.terms(log_of_product, recording.model(model, torch.randn(33, 3)), weight)
    found = of_value(recording, model)
    assert (found.operation, found.samples) == ("log", (20,))


def test_samples_of_sequences_that_were_made_flat(recording):
    def loss(logits, labels):
        flat = torch.softmax(logits, -1).reshape(-1, 4)
        flat = flat * (labels.reshape(-1, 1) >= 0)
        return -torch.log(flat).mean()

    model, labels = nn.Linear(3, 4), torch.zeros(5, 7)
    labels[3, 2] = -1
    recording.terms(loss, recording.model(model, torch.randn(5, 7, 3)), labels)
    assert of_value(recording, model).samples == (3,)


def test_half_precision_overflows(recording, marked):
    def loss(out):
        return (out * 300.0).square().mean()  # <-- here

    model = nn.Linear(3, 1).to(torch.float16)
    x = torch.zeros(4, 3, dtype=torch.float16)
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.zero_()
    x[2] = 1.0  # 900 squared is more than 65504
    recording.terms(loss, recording.model(model, x))
    found = of_value(recording, model)
    assert (found.operation, found.samples) == ("pow", (2,))
    assert found.location.line == marked(loss)
    assert "inf in float16" in found.notes[0]
    assert "x.float()" in found.help


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_autocast_made_overflow(recording, dtype, marked):
    def loss(out):
        scaled = out @ torch.full((1, 1), 6e4 if dtype is torch.float16 else 3e38)  # <-- here
        return scaled.float().mean()

    model, x = nn.Linear(1, 1), torch.ones(4, 1)
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.zero_()
    x[1] = 30.0
    with torch.autocast("cpu", dtype):
        assert not torch.isfinite(recording.terms(loss, recording.model(model, x)))
    found = of_value(recording, model)
    assert (found.operation, found.location.line) == ("mm", marked(loss))
    assert found.samples == (1,)
    assert f"in {str(dtype).removeprefix('torch.')}" in found.notes[0]


# ---------------------------------------------------------------------------- where it was made
def test_a_layer_of_the_model(recording, marked):
    class Log(nn.Module):
        def forward(self, x):
            return torch.log(x)  # <-- here

    model = nn.Sequential(nn.Identity(), nn.Sequential(Log(), nn.Linear(2, 1)))
    x = torch.ones(5, 2)
    x[4, 1] = 0
    recording.terms(lambda out: out.square().mean(), recording.model(model, x))
    found = of_value(recording, model)
    assert (found.part, found.operation) == ("model", "log")
    assert found.location.line == marked(Log)
    assert found.samples == (4,)
    assert found.notes[-1] == "in the module `1.0` of the model"


def test_a_model_that_the_terms_call_themselves(recording, marked):
    class Root(nn.Module):
        def forward(self, x):
            return torch.sqrt(x)  # <-- here

    model = nn.Sequential(nn.Linear(1, 1), Root())
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.zero_()

    def terms_of(x):
        return {"size": model(x).mean()}

    recording.terms(terms_of, torch.tensor([[1.0], [-4.0], [9.0]]))
    found = of_value(recording, model)
    assert (found.part, found.operation, found.samples) == ("model", "sqrt", (1,))
    assert found.location.line == marked(Root)


def test_between_the_model_and_the_loss(recording):
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [2.0, 1.0]])
    out = recording.model(model, x)
    recording.terms(nn.MSELoss(), torch.log(out), torch.zeros(3, 1))
    found = of_value(recording, model)
    assert (found.part, found.phase, found.operation) == ("between", "forward", "log")
    assert found.samples == (1,)
    assert "`input` was not finite when `loss` got it" in found.notes[0]


def test_a_model_that_overflows_before_code_in_between(recording, marked):
    class Wide(nn.Module):
        def forward(self, x):
            return torch.exp(x)  # <-- here

    def loss(out, target):
        return (out - target * out).square().mean()  # an infinity minus itself is nan here

    model, x = Wide(), torch.zeros(5, 1, requires_grad=True)
    with torch.no_grad():
        x[3] = 200.0
    recording.terms(loss, recording.model(model, x)[:, 0], torch.ones(5))
    found = of_value(recording, model)
    assert (found.part, found.operation, found.samples) == ("model", "exp", (3,))
    assert found.location.line == marked(Wide)


def test_an_infinity_that_the_model_returns_on_purpose(recording, marked):
    class Masked(nn.Linear):
        def forward(self, x):
            return super().forward(x).masked_fill(torch.tensor([False, False, True]), -math.inf)

    def loss(logits, target):
        probability = torch.softmax(logits, 1)[:, 0]
        return (torch.log(target) * probability).mean()  # <-- here

    model, target = Masked(2, 3), torch.ones(5)
    target[4] = 0
    recording.terms(loss, recording.model(model, torch.randn(5, 2)), target)
    found = of_value(recording, model)
    assert (found.part, found.operation, found.samples) == ("loss", "log", (4,))
    assert found.location.line == marked(loss)


def test_terms_that_are_finite_while_their_sum_is_not(recording, network):
    model = network()
    recording.terms(nn.MSELoss(), recording.model(model, torch.randn(4, 3)), torch.zeros(4, 1))
    assert of_value(recording, model).part == "between"


@pytest.mark.parametrize("place", ["input", "target"])
def test_a_nan_in_the_batch(recording, network, place):
    model = network()
    given = {"input": torch.randn(9, 3), "target": torch.randn(9, 1)}
    given[place][6, 0] = NAN
    recording.terms(F.mse_loss, recording.model(model, given["input"]), given["target"])
    found = of_value(recording, model)
    assert (found.part, found.samples) == ("data", (6,))
    assert f"`{place}` holds 1 nan" in found.notes[0]


def test_a_nan_in_the_batch_that_the_loss_leaves_out(recording, network, marked):
    def loss(out, target):
        known = ~target.isnan()
        fit = torch.where(known, out - torch.where(known, target, 0.0), 0.0).square().mean()
        return fit + torch.log(out - out.detach()).mean()  # <-- here

    model, target = network(), torch.randn(4, 1)
    target[1] = NAN
    recording.terms(loss, recording.model(model, torch.randn(4, 3)), target)
    found = of_value(recording, model)
    assert (found.part, found.operation) == ("loss", "log")
    assert found.location.line == marked(loss)


def test_an_infinity_in_the_batch(recording, network):
    model, target = network(), torch.zeros(4, 1)
    target[2] = math.inf
    recording.terms(F.l1_loss, recording.model(model, torch.randn(4, 3)), target)
    found = of_value(recording, model)
    assert (found.part, found.samples) == ("data", (2,))


def test_parameters_that_are_broken_already(recording, network):
    model = network()
    with torch.no_grad():
        model[2].weight[0, 1] = NAN
    recording.terms(nn.MSELoss(), recording.model(model, torch.randn(4, 3)), torch.zeros(4, 1))
    found = of_value(recording, model)
    assert found.part == "parameters"
    assert "`2.weight`" in found.notes[0]
    assert found.evidence == {"parameters not finite": 1, "parameters": 4}


def test_what_broke_them_in_the_step_before(recording, next_recording, network, marked):
    def spread(out):
        return (out - out.detach()).square().sum(1).sqrt().mean()  # <-- here

    model = network(out=2)
    loss = recording.terms(spread, recording.model(model, torch.ones(6, 3)))
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not all(one.isfinite().all() for one in model.parameters())
    following = next_recording
    following.terms(spread, following.model(model, torch.randn(6, 3)))
    assert of_value(following, model).part == "parameters"
    following.record.before = recording.record
    found = of_value(following, model)
    assert (found.part, found.phase, found.operation) == ("loss", "backward", "sqrt")
    assert found.location.line == marked(spread)
    assert "since the update of step 12" in found.notes[0]


def test_one_of_several_micro_batches(recording, network):
    def loss(out, target):
        return torch.log(target).mean() + out.mean()

    model = network()
    for number in range(4):
        target = torch.ones(3)
        target[1] = float(number != 2)
        recording.terms(loss, recording.model(model, torch.randn(3, 3)), target)
    found = of_value(recording, model)
    assert found.samples == (1,)
    assert found.notes[-1] == "in call 3 of 4 of `loss` in this step"


def test_what_is_said_where_nothing_is_held(recording, network):
    recording.record.terms["noted"] = torch.tensor(NAN)
    found = of_value(recording, network(), "noted")
    assert found.caveat == "only the value of `noted` is known, not the call that made it"
    recording.record.dropped = "more than 1 MiB would have been held"
    assert of_value(recording, network()).caveat == recording.record.dropped


# ---------------------------------------------------------------------------- gradients
def test_a_root_at_0_whose_value_is_fine(recording, network, marked):
    def loss(out, target):
        distance = (out - target).square().sum(1).sqrt()  # <-- here
        return {"distance": distance.mean(), "size": out.abs().mean()}

    model = network(out=2)
    out = recording.model(model, torch.randn(16, 3))
    target = torch.randn(16, 2)
    target[5], target[11] = out[5].detach(), out[11].detach()
    recording.terms(loss, out, target)
    found = of_gradient(recording, model)
    assert (found.part, found.phase, found.operation) == ("loss", "backward", "sqrt")
    assert found.location.line == marked(loss)
    assert found.samples == (5, 11)
    assert "the gradient of `distance` is the one that is not finite" in found.notes
    assert found.caveat is None


def test_a_logarithm_that_a_mask_hides(recording, network, marked):
    def loss(probability, mask):
        logs = torch.log(probability)  # <-- here
        return -(torch.where(mask, logs, torch.zeros(()))).mean()

    model, mask = nn.Linear(3, 1, bias=False), torch.ones(12, 1).bool()
    with torch.no_grad():
        model.weight.fill_(1.0)
    x = torch.rand(12, 3) + 0.5
    x[7] = 0
    mask[7] = False
    assert recording.terms(loss, recording.model(model, x), mask).isfinite()
    found = of_gradient(recording, model)
    assert (found.operation, found.samples) == ("log", (7,))
    assert found.location.line == marked(loss)


def test_it_is_followed_into_the_model(recording, marked):
    class Length(nn.Module):
        def forward(self, x):
            return x.square().sum(1, keepdim=True).sqrt()  # <-- here

    model = nn.Sequential(nn.Linear(2, 2, bias=False), Length())
    x = torch.randn(6, 2)
    x[3] = 0
    out = recording.model(model, x)
    loss = recording.terms(nn.MSELoss(), out.squeeze(1), torch.ones(6))
    loss.backward()
    assert not torch.isfinite(model[0].weight.grad).all()
    found = of_gradient(recording, model)
    assert (found.part, found.operation, found.samples) == ("model", "sqrt", (3,))
    assert found.location.line == marked(Length)
    assert "in the module `1` of the model" in found.notes


def test_between_the_graph_itself_is_asked(recording):
    model = nn.Linear(2, 2, bias=False)
    x = torch.randn(6, 2)
    x[3] = 0
    out = recording.model(model, x).square().sum(1).sqrt()
    recording.terms(nn.MSELoss(), out, torch.ones(6))
    found = of_gradient(recording, model)
    assert (found.part, found.operation, found.samples) == ("between", "sqrt", (3,))


def test_a_handwritten_backward(recording, network, marked):
    class Absolute(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.abs().mean()

        @staticmethod
        def backward(ctx, grad_output):
            (x,) = ctx.saved_tensors
            return grad_output * x / x.abs() / x.numel()  # <-- here

    def loss(out, mask):
        return Absolute.apply(out * mask)

    model, mask = network(), torch.ones(7, 1)
    mask[2] = 0
    recording.terms(loss, recording.model(model, torch.randn(7, 3)), mask)
    found = of_gradient(recording, model)
    assert (found.phase, found.samples) == ("backward", (2,))
    assert found.location.line == marked(Absolute)


def test_0_times_infinity(recording, network, marked):
    def loss(out, mask):
        return (mask * torch.exp(out * 1e4).clamp(max=2.0)).mean()  # <-- here

    model, mask = network(), torch.ones(5, 1)
    with torch.no_grad():
        model[2].weight.fill_(1.0)
        model[2].bias.fill_(5.0)
    recording.terms(loss, recording.model(model, torch.randn(5, 3)), mask)
    found = of_gradient(recording, model)
    # The derivative of `exp` is its value: 0 from the clamp times infinity.
    assert found.operation == "exp"
    assert found.location.line == marked(loss)


def test_a_gradient_that_is_finite_when_it_is_taken_again(recording, network):
    model = network()
    recording.terms(nn.MSELoss(), recording.model(model, torch.randn(4, 3)), torch.zeros(4, 1))
    found = of_gradient(recording, model)
    assert found.operation is None
    assert "was finite when the step was performed again" in found.caveat
