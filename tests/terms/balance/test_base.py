"""The backward pass that all balancers share, by the help of a few small ones."""

from __future__ import annotations

import gc
import weakref
from typing import ClassVar

import pytest
import torch
from torch import nn

from lossproof.errors import NonFiniteTermError
from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.uncertainty import UncertaintyWeights

NAMES = ("a", "b", "c")


class Given(Balancer):
    """Weights that a test gives, from nothing."""

    def __init__(self, weights=(0.5, 2.0, 0.25), **options):
        super().__init__(**options)
        self.given = weights
        self.calls = 0

    def weights_of(self, figures):
        self.calls += 1
        return torch.tensor(self.given, dtype=torch.float64)[: len(figures.names)]


class FromGramian(Given):
    needs: ClassVar = ("gramian",)


class FromNorms(Balancer):
    """Each term by the inverse of its norm, averaged over the steps."""

    needs: ClassVar = ("norm",)

    def initial_state(self, count):
        return {"mean": torch.zeros(count, dtype=torch.float64)}

    def weights_of(self, figures):
        self.mean = 0.5 * self.mean + 0.5 * figures.vector("norm")
        return 1 / self.mean


class Signs(Given):
    """A method that fills something else than the weighted sum."""

    needs: ClassVar = ("gradients",)

    def gradients_of(self, figures, weights):
        return {name: rows.sum(0).sign() for name, rows in figures.gradient_rows().items()}


class Learned(Balancer):
    """The sum over exp(-s) L + s, with s learned."""

    def __init__(self, names=NAMES):
        super().__init__(names)
        self.s = nn.Parameter(torch.zeros(len(names)))

    def weights_of(self, figures):
        return torch.exp(-self.s.to(figures.values))

    def objective(self, values, weights):
        s = self.s.to(values)
        return (torch.exp(-s) * values + s).sum()


class LearnedFromGramian(Learned):
    needs: ClassVar = ("gramian",)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(3, 4)
        self.heads = nn.ModuleDict({name: nn.Linear(4, 1) for name in NAMES})
        self.x = torch.randn(6, 3)

    def terms(self, scale=1.0):
        hidden = torch.tanh(self.trunk(self.x))
        return {name: scale * head(hidden).square().mean() for name, head in self.heads.items()}


def grads(model):
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def reference(net, weights, params=None, scale=1.0):
    """The gradient of the weighted sum, by torch alone."""
    total = sum(w * term for w, term in zip(weights, net.terms(scale).values(), strict=True))
    params = list(net.parameters()) if params is None else list(params)
    return torch.autograd.grad(total, params, allow_unused=True)


def close(found, expected, **how):
    for ours, theirs in zip(found, expected, strict=True):
        if theirs is None:
            assert ours is None
        else:
            torch.testing.assert_close(ours, theirs, **how)


ALL = pytest.mark.parametrize("method", [Given, FromGramian], ids=["values", "gramian"])


# ---- which parameters are filled, and with what


@ALL
@pytest.mark.parametrize("form", ["none", "module", "list"])
def test_the_gradient_of_the_weighted_sum_fills_grad(method, form):
    net = Net()
    params = {"none": None, "module": net, "list": list(net.parameters())}[form]
    step = method().backward(net.terms(), params)
    close(grads(net), reference(net, [0.5, 2.0, 0.25]))
    assert step.names == NAMES
    assert step.refreshed
    assert step.total.item() == pytest.approx(
        sum(w * t.item() for w, t in zip([0.5, 2.0, 0.25], net.terms().values(), strict=True))
    )


@ALL
def test_without_params_every_leaf_is_filled_as_backward_does(method):
    """Inputs that require a gradient are leaves, too; the method does not measure over them."""
    net = Net()
    net.x.requires_grad_()
    balancer = method()
    step = balancer.backward(net.terms())
    close(grads(net), reference(net, [0.5, 2.0, 0.25]))
    close([net.x.grad], reference(net, [0.5, 2.0, 0.25], [net.x]))
    if step.gradients is not None:
        assert len(step.gradients.parameters) == len(list(net.parameters()))


@ALL
def test_leaves_that_are_no_parameters_are_measured_where_there_is_nothing_else(method):
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    method().backward({"a": x.sum(), "b": x.square().sum()})
    assert x.grad.tolist() == [0.5 + 2 * 2.0, 0.5 + 2 * 4.0]


@ALL
def test_parameters_that_were_not_chosen_are_left_alone(method):
    net = Net()
    method().backward(net.terms(), net.trunk)
    close(grads(net.trunk), reference(net, [0.5, 2.0, 0.25], net.trunk.parameters()))
    assert all(grad is None for grad in grads(net.heads))


@ALL
def test_frozen_unused_and_tied_parameters(method):
    net = Net()
    net.spare = nn.Linear(2, 2)
    net.heads["b"].weight = net.heads["a"].weight
    net.trunk.bias.requires_grad_(False)
    method().backward(net.terms(), net)
    used = [
        p for p in net.parameters() if p.requires_grad and p.shape != (2, 2) and p.shape != (2,)
    ]
    close([p.grad for p in used], reference(net, [0.5, 2.0, 0.25], used))
    assert net.spare.weight.grad is None
    assert net.trunk.bias.grad is None


@ALL
def test_params_may_be_generators_that_can_be_read_once(method):
    net = Net()
    terms = net.terms()
    terms["c"] = terms["c"] + (0.0 * terms["c"]).sqrt()  # a look at all, and one at the others
    method().backward(terms, net.parameters(), on=iter([net.trunk]), nonfinite="drop")
    weights = [0.5, 2.0, 0.0] if method is FromGramian else [0.5, 2.0, float("nan")]
    close(grads(net.heads["a"]), reference(net, weights)[2:4])
    assert net.trunk.weight.grad.isfinite().all() == (method is FromGramian)


@ALL
def test_params_that_no_term_depends_on_are_refused(method):
    with pytest.raises(ValueError, match=r"none of the terms .* depends on any of the `params`"):
        method().backward(Net().terms(), nn.Linear(2, 2))


def test_an_optimizer_within_backward_is_no_mistake():
    """It takes each gradient away as it comes."""
    net = Net()
    for parameter in net.parameters():
        parameter.register_post_accumulate_grad_hook(lambda leaf: setattr(leaf, "grad", None))
    Given().backward(net.terms(), net)
    FromGramian().backward(net.terms(), net)


@ALL
def test_a_term_that_is_absent_may_be_the_only_one_of_the_params(method):
    net = Net()
    method().backward({**net.terms(), "b": None}, net.heads["b"])
    assert net.heads["b"].weight.grad is None


@ALL
def test_terms_without_any_gradient_are_refused(method):
    with pytest.raises(ValueError, match=r"none of the terms \['a', 'b'\] depends on a tensor"):
        method().backward({"a": torch.tensor(1.0), "b": torch.tensor(2.0)})


@ALL
def test_a_constant_and_a_term_under_two_names(method):
    net = Net()
    a, b, _ = net.terms().values()
    step = method((0.5, 2.0, 3.0, 1.0)).backward(
        {"a": a, "warm-up": torch.tensor(7.0), "again": a, "b": b}, net
    )
    close(grads(net)[:4], reference(net, [3.5, 1.0, 0.0])[:4])
    assert step.weight["warm-up"] == 2.0


def test_a_parameter_that_is_a_term_itself():
    weight = nn.Parameter(torch.tensor(3.0))
    balancer = Given((0.5,))
    balancer.backward({"a": weight})
    weight.grad.zero_()
    assert balancer.weights.tolist() == [0.5]


def test_measuring_where_no_term_reaches_is_refused():
    """There all gradients are zero, and weights that came of it would mean nothing."""
    net = Net()
    with pytest.raises(ValueError, match=r"none of the terms .* depends on any of the `on`"):
        FromNorms().backward(net.terms(), net, on=nn.Linear(2, 2))
    assert all(parameter.grad is None for parameter in net.parameters())


def test_on_measures_over_some_and_fills_all():
    net = Net()
    norms = FromNorms()
    step = norms.backward(net.terms(), net, on=net.trunk)
    assert step.gradients.parameters == ("weight", "bias")
    expected = []
    for term in net.terms().values():
        parts = torch.autograd.grad(term, list(net.trunk.parameters()), retain_graph=True)
        expected.append(2 / torch.cat([part.flatten() for part in parts]).norm().item())
    assert step.weights.tolist() == pytest.approx(expected)
    close(grads(net), reference(net, step.weights.float()))


@pytest.mark.parametrize("params", ["module", "none"])
def test_on_shared_is_what_two_terms_depend_on(params):
    net = Net()
    first, second = FromNorms(), FromNorms()
    given = net if params == "module" else None
    shared = first.backward(net.terms(), given, on="shared")
    close(grads(net), reference(net, shared.weights.float()))
    by_hand = second.backward(net.terms(), net, on=net.trunk)
    torch.testing.assert_close(shared.weights, by_hand.weights)


def test_exclusive_parameters_may_get_their_plain_gradient():
    net = Net()
    for method, options in ((FromGramian, {}), (Given, {}), (FromGramian, {"refresh": False})):
        for params in (net, None):
            net.zero_grad()
            step = method().backward(net.terms(), params, exclusive="plain", **options)
            weights = step.weights.tolist()
            close(grads(net.trunk), reference(net, weights, net.trunk.parameters()))
            close(grads(net.heads), reference(net, [1.0, 1.0, 1.0], net.heads.parameters()))
            if step.gradients is not None:
                assert len(step.gradients.parameters) == 2


def test_nothing_shared_to_balance_on():
    x, y = (torch.ones(2, requires_grad=True) for _ in range(2))
    terms = {"a": x.sum(), "b": y.sum()}
    for options in ({"on": "shared"}, {"exclusive": "plain"}):
        with pytest.raises(ValueError, match="no parameter is shared by two terms"):
            FromGramian().backward(terms, [x, y], **options)


@pytest.mark.parametrize("options", [{"on": "shared"}, {"exclusive": "plain"}])
def test_a_single_present_term_is_no_mistake(options):
    net = Net()
    balancer = FromGramian()
    balancer.backward(net.terms(), net, **options)
    net.zero_grad()
    terms = net.terms()
    step = balancer.backward({"a": terms["a"], "b": None, "c": None}, net, **options)
    plain = [1.0 if options.get("exclusive") else 0.5, 0.0, 0.0]
    close(grads(net)[:4], reference(net, plain)[:4])
    assert step.weights.tolist() == [0.5]


# ---- methods of other kinds


def test_a_method_of_its_own_gradients():
    net = Net()
    step = Signs().backward(net.terms(), net)
    signs = [g.sign() for g in reference(net, [1.0, 1.0, 1.0])]
    close(grads(net), signs)
    assert step.refreshed
    net.zero_grad()
    Signs().backward(net.terms(), net, on=net.trunk)
    close(grads(net.trunk), signs[:2])
    close(grads(net.heads), reference(net, [0.5, 2.0, 0.25])[2:])


@pytest.mark.parametrize("method", [Learned, LearnedFromGramian])
@pytest.mark.parametrize("params", ["module", "none"])
def test_parameters_of_the_balancer_are_filled(method, params):
    net, balancer = Net(), method()
    with torch.no_grad():
        balancer.s.copy_(torch.tensor([0.3, -0.2, 1.0]))
    for times in (1, 2):  # it accumulates as everything does
        step = balancer.backward(net.terms(), net if params == "module" else None)
        values = torch.stack(list(net.terms().values())).detach()
        weights = torch.exp(-balancer.s.detach())
        close([balancer.s.grad], [times * (1 - weights * values)])
        close(grads(net), [times * g for g in reference(net, weights)])
    assert step.total.item() == pytest.approx(float((weights * values + balancer.s.detach()).sum()))


@pytest.mark.parametrize("method", [Learned, LearnedFromGramian])
def test_parameters_of_the_balancer_where_terms_are_absent(method):
    net, balancer = Net(), method()
    balancer.backward({**net.terms(), "b": None}, net)
    values = torch.stack(list(net.terms().values())).detach()
    expected = 1 - values
    expected[1] = 0.0
    close([balancer.s.grad], [expected])
    assert isinstance(balancer.s, nn.Parameter)
    assert balancer.names == NAMES


def test_forward_gives_a_scalar_to_call_backward_on():
    net, balancer = Net(), Given()
    balancer(net.terms()).backward()
    close(grads(net), reference(net, [0.5, 2.0, 0.25]))
    assert balancer.steps == 1


def test_forward_in_evaluation_learns_nothing_and_takes_any_method():
    net, balancer = Net(), FromNorms()
    with pytest.raises(TypeError, match=r"FromNorms needs the gradients of the terms: call"):
        balancer(net.terms())
    balancer.backward(net.terms(), net)
    before = balancer.state_dict()
    with torch.no_grad():
        total = balancer.eval()(net.terms())
    values = torch.stack(list(net.terms().values())).detach().double()
    assert total.item() == pytest.approx(float((balancer.weights * values).sum()), rel=1e-6)
    after = balancer.state_dict()
    assert after["_extra_state"] == before["_extra_state"]
    assert torch.equal(after["mean"], before["mean"])


def test_forward_with_a_term_that_is_not_finite():
    net = Net()
    terms = net.terms()
    terms["b"] = terms["b"] * float("nan")
    with pytest.raises(NonFiniteTermError, match="'b'"):
        Given()(terms)
    assert Given()(terms, nonfinite="drop").isfinite()
    assert Given()(terms, nonfinite="ignore").isnan()


# ---- names


def test_terms_are_known_by_their_names_not_by_their_order():
    net, balancer = Net(), Given()
    balancer.backward(net.terms(), net)
    net.zero_grad()
    terms = net.terms()
    step = balancer.backward({name: terms[name] for name in reversed(NAMES)}, net)
    assert step.names == NAMES
    close(grads(net), reference(net, [0.5, 2.0, 0.25]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda terms: terms.pop("b"), r"\['a', 'b', 'c'\], but \['b'\] missing; give None"),
        (lambda terms: terms.update(d=terms["a"]), r"but \['d'\] unknown"),
    ],
)
def test_missing_and_unknown_terms_are_named(change, message):
    net, balancer = Net(), Given()
    balancer.backward(net.terms(), net)
    terms = net.terms()
    change(terms)
    with pytest.raises(ValueError, match=message):
        balancer.backward(terms, net)


def test_terms_that_are_absent_in_the_first_step_are_terms():
    net, balancer = Net(), Given()
    terms = net.terms()
    step = balancer.backward({"a": terms["a"], "b": None, "c": terms["c"]}, net)
    assert balancer.names == NAMES
    assert step.names == ("a", "c")
    assert balancer.weights.tolist() == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("names", [(), ("a", "a")])
def test_wrong_names(names):
    with pytest.raises(ValueError, match="`names` must be different names of terms"):
        Given(names=names)


def test_a_method_that_returns_too_few_weights_is_told():
    class Wrong(Balancer):
        def weights_of(self, figures):
            return torch.ones(2)

    with pytest.raises(ValueError, match=r"one weight for each of 3 terms, got the shape \[2\]"):
        Wrong().backward(Net().terms())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"on": "everything"}, ValueError, "`on` must be one of 'shared', got 'everything'"),
        ({"exclusive": "none"}, ValueError, "`exclusive` must be"),
        ({"nonfinite": "skip"}, ValueError, "`nonfinite` must be"),
        ({"clip": 0.0}, ValueError, "`clip` must be"),
        ({"clip": "1"}, TypeError, "`clip` must be"),
        ({"clip_terms": -1.0}, ValueError, "`clip_terms` must be"),
        ({"clip_terms": {"z": 1.0}}, ValueError, r"`clip_terms` must name terms .* got \['z'\]"),
        ({"clip_terms": {"a": 0}}, ValueError, r"`clip_terms\['a'\]` must be"),
        ({"refresh": 1}, TypeError, "`refresh` must be"),
        ({"retain_graph": None}, TypeError, "`retain_graph` must be"),
        ({"scaler": 2.0}, TypeError, "`scaler` must be a torch.amp.GradScaler, got float"),
        ({"factor": 0.0}, ValueError, "`factor` must be a number above 0, got 0"),
        ({"factor": "1"}, TypeError, "`factor` must be a number above 0"),
        ({"factor": torch.ones(2)}, ValueError, "`factor` must hold one number"),
        ({"params": 3}, TypeError, "`params` must be a module"),
    ],
)
def test_wrong_options(options, error, message):
    net, balancer = Net(), FromNorms()
    with pytest.raises(error, match=message):
        balancer.backward(net.terms(), **{"params": net, **options})
    assert balancer.steps == 0
    assert balancer.mean.tolist() == [0.0, 0.0, 0.0]
    assert all(grad is None for grad in grads(net))


# ---- when the weights are computed anew


def test_every_nth_step_and_what_is_asked_for():
    net, balancer = Net(), FromGramian(every=3)
    refreshed = [balancer.backward(net.terms(), net).refreshed for _ in range(7)]
    assert refreshed == [True, False, False, True, False, False, True]
    assert balancer.backward(net.terms(), net, refresh=True).refreshed
    assert not balancer.backward(net.terms(), net, refresh=False).refreshed
    assert balancer.steps == 8
    with balancer.held(), balancer.held():
        assert not balancer.backward(net.terms(), net).refreshed
    assert balancer.steps == 8
    assert balancer.backward(net.terms(), net).refreshed is False
    assert balancer.backward(net.terms(), net).refreshed is True


def test_micro_batches_add_up_to_the_whole_batch():
    net, balancer = Net(), FromNorms()
    whole = balancer.backward(net.terms(), net).weights
    net.zero_grad()
    batches = net.x.split(2)
    x = net.x
    for batch in batches:
        net.x = batch
        balancer.backward(net.terms(1 / len(batches)), net, refresh=False)
    net.x = x
    close(grads(net), reference(net, whole.float()))
    assert torch.equal(balancer.weights, whole)


@ALL
def test_gradients_add_to_what_is_there(method):
    net = Net()
    balancer = method()
    for _ in range(2):
        balancer.backward(net.terms(), net)
    close(grads(net), [2 * g for g in reference(net, [0.5, 2.0, 0.25])])


@ALL
def test_the_graph_is_freed_or_kept_as_asked(method):
    net, balancer = Net(), method()
    terms = net.terms()
    balancer.backward(terms, net, retain_graph=True)
    balancer.backward(terms, net)
    with pytest.raises(RuntimeError, match="second time"):
        balancer.backward(terms, net)


def test_a_step_that_fails_does_not_count():
    class Fails(FromNorms):
        def weights_of(self, figures):
            super().weights_of(figures)
            raise ArithmeticError

    net, balancer = Net(), Fails(NAMES)
    with pytest.raises(ArithmeticError):
        balancer.backward({**net.terms(), "b": None}, net)
    assert balancer.steps == 0
    assert balancer.names == NAMES
    assert balancer.mean.tolist() == [0.0, 0.0, 0.0]


# ---- closures


@pytest.mark.parametrize("method", [FromNorms, FromGramian, Given])
@pytest.mark.parametrize("anew", [True, False])
def test_lbfgs_trains_with_weights_that_hold_within_a_step(method, anew):
    net, balancer = Net(), method()
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=8, line_search_fn="strong_wolfe")
    evaluations, weights = [], []

    def compute():
        evaluations.append(len(weights))
        return net.terms()

    closure = balancer.closure(compute, optimizer, net.parameters())
    first = sum(term.item() for term in net.terms().values())
    for _ in range(4):
        optimizer.step(balancer.closure(compute, optimizer, net) if anew else closure)
        weights.append(balancer.weights.clone())
    assert len(evaluations) > 8
    assert balancer.steps == 4
    assert sum(term.item() for term in net.terms().values()) < 0.05 * first
    if method is FromNorms:
        assert not torch.equal(weights[0], weights[1])


def test_a_line_search_that_goes_too_far_is_told():
    """It would end at NaN."""
    x = nn.Parameter(torch.tensor([3.0]))
    optimizer = torch.optim.LBFGS([x], lr=300.0, line_search_fn="strong_wolfe")

    def compute():
        return {"a": torch.exp(x.square().sum()) - 1, "b": x.square().sum()}

    with pytest.raises(NonFiniteTermError, match=r"'a' \(value inf\)"):
        optimizer.step(Given().closure(compute, optimizer))


def test_a_closure_returns_the_total_and_zeroes_the_gradients():
    net, balancer = Net(), Given()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    closure = balancer.closure(net.terms, optimizer)
    for _ in range(2):
        total = optimizer.step(closure)
        close(grads(net), reference(net, [0.5, 2.0, 0.25]))
    assert total.item() == pytest.approx(
        sum(w * t.item() for w, t in zip([0.5, 2.0, 0.25], net.terms().values(), strict=True))
    )


def test_an_optimizer_keeps_no_closure_alive():
    net, balancer = Net(), Given()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.step(balancer.closure(net.terms, optimizer))
    closure = balancer.closure(net.terms, optimizer)
    weak = weakref.ref(closure)
    del closure
    gc.collect()
    assert weak() is None
    assert not optimizer._optimizer_step_pre_hooks


def test_wrong_closures():
    net, balancer = Net(), Given()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"`optimizer` must be a torch.optim.Optimizer, got Net"):
        balancer.closure(net.terms, net)
    with pytest.raises(TypeError, match=r"`compute_terms` must be a function .* got dict"):
        balancer.closure(net.terms(), optimizer)


# ---- clipping


def total_norm(model):
    parts = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat(parts).double().norm().item()


CLIPPED = pytest.mark.parametrize(
    ("method", "options"),
    [
        (Given, {}),
        (FromGramian, {}),
        (FromGramian, {"refresh": False}),
        (FromNorms, {}),
        (FromGramian, {"on": "shared"}),
        (FromGramian, {"exclusive": "plain"}),
        (Signs, {}),
    ],
)


@CLIPPED
@pytest.mark.parametrize("params", ["module", "none"])
def test_what_is_added_is_clipped_to_a_norm(method, options, params):
    net = Net()
    given = net if params == "module" else None
    method().backward(net.terms(), given, **options)
    plain, norm = grads(net), total_norm(net)
    net.zero_grad()
    for limit, factor in ((norm / 3, 1 / 3), (norm * 2, 1.0)):
        balancer = method()
        step = balancer.backward(net.terms(), given, clip=limit, **options)
        assert step.norm.item() == pytest.approx(norm, rel=1e-5)
        close(grads(net), [None if g is None else factor * g for g in plain])
        net.zero_grad()


@pytest.mark.parametrize("method", [Learned, LearnedFromGramian])
def test_parameters_of_the_balancer_are_clipped_with_the_others(method):
    net, balancer = Net(), method()
    balancer.backward(net.terms(), net)
    norm = (total_norm(net) ** 2 + balancer.s.grad.norm().item() ** 2) ** 0.5
    plain = [*grads(net), balancer.s.grad]
    net.zero_grad()
    balancer.s.grad = None
    step = balancer.backward(net.terms(), net, clip=norm / 4)
    assert step.norm.item() == pytest.approx(norm)
    close([*grads(net), balancer.s.grad], [part / 4 for part in plain])


def test_what_was_there_before_is_not_clipped():
    net = Net()
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 5.0)
    for method in (Given, FromGramian):
        before = grads(net)
        method().backward(net.terms(), net, clip=1e-3)
        added = [after - b for after, b in zip(grads(net), before, strict=True)]
        norm = torch.cat([part.flatten() for part in added]).norm().item()
        assert norm == pytest.approx(1e-3, rel=1e-2)


def test_where_the_terms_cancel_the_norm_is_that_of_what_is_left():
    """From the Gramian in float32 nothing could be said about it."""
    weight = nn.Parameter(torch.randn(50))
    direction, small = torch.randn(50), 1e-6 * torch.randn(50)
    terms = {"a": weight @ direction, "b": -(weight @ direction) + weight @ small}
    step = FromGramian((1.0, 1.0)).backward(terms, [weight], clip=1e-8)
    assert step.norm.item() == pytest.approx(small.norm().item(), rel=0.2)
    assert weight.grad.norm().item() == pytest.approx(1e-8, rel=1e-5)


def test_the_gradient_of_each_term_is_clipped_before_it_is_weighed():
    net = Net()
    rows = [
        torch.cat([p.flatten() for p in torch.autograd.grad(term, list(net.trunk.parameters()))])
        for term in (net.terms()[name] for name in NAMES)
    ]
    norms = torch.stack([row.norm() for row in rows])
    limits = {"a": norms[0].item() / 4, "c": norms[2].item() * 4}
    factors = torch.tensor([0.25, 1.0, 1.0])
    for method, options in ((FromNorms, {}), (FromGramian, {}), (Given, {})):
        for held in ({}, {"refresh": False}):
            net.zero_grad()
            step = method().backward(net.terms(), net.trunk, clip_terms=limits, **options, **held)
            effective = step.weights.float() * factors
            close(grads(net.trunk), reference(net, effective, net.trunk.parameters()))
    step = FromNorms().backward(net.terms(), net.trunk, clip_terms=limits)
    torch.testing.assert_close(step.weights.float(), 2 / (norms * factors))
    torch.testing.assert_close(step.gradients.vector("norm").float(), norms * factors)


def test_one_limit_for_all_terms_and_other_measures():
    net = Net()
    step = FromGramian().backward(net.terms(), net, clip_terms=1e-3, on="shared")
    torch.testing.assert_close(
        step.gradients.gramian.diagonal().sqrt(), torch.full((3,), 1e-3).double()
    )
    net.zero_grad()
    step = Learned().backward(net.terms(), net, clip_terms=1e-3)
    sizes = step.gradients.vector("norm")
    torch.testing.assert_close(sizes, torch.full((3,), 1e-3).double())
    assert total_norm(net) <= 3.001e-3


# ---- hooks, compiled models, checkpoints


@ALL
def test_hooks_of_parameters_see_the_gradient_that_fills_grad_once(method):
    net, seen = Net(), []
    weight = net.trunk.weight
    weight.register_hook(lambda gradient: seen.append(gradient.clone()) or gradient * 2)
    weight.register_post_accumulate_grad_hook(lambda leaf: seen.append(leaf.grad.clone()))
    method().backward(net.terms(), net)
    weight._backward_hooks.clear()
    expected = reference(net, [0.5, 2.0, 0.25])[0]
    close(seen, [expected, 2 * expected])


@pytest.mark.parametrize("method", [Given, FromGramian])
def test_clipping_runs_hooks_once(method):
    net, seen = Net(), []
    net.trunk.weight.register_hook(lambda gradient: seen.append(gradient.norm().item()))
    method().backward(net.terms(), net, clip=1e-3)
    assert len(seen) == 1
    assert seen[0] <= 1e-3


@pytest.mark.parametrize("method", [FromGramian, FromNorms])
def test_compiled_models(method):
    net = Net()
    expected = method().backward(net.terms(), net).weights
    plain = grads(net)
    net.zero_grad()
    torch._dynamo.reset()
    compiled = torch.compile(net.trunk, backend="aot_eager")
    hidden = torch.tanh(compiled(net.x))
    terms = {name: head(hidden).square().mean() for name, head in net.heads.items()}
    step = method().backward(terms, net)
    torch.testing.assert_close(step.weights, expected)
    close(grads(net), plain)


def test_reentrant_checkpoints_are_refused_and_others_work():
    net = Net()
    for reentrant in (True, False):
        x = net.x.clone().requires_grad_()
        hidden = torch.utils.checkpoint.checkpoint(net.trunk, x, use_reentrant=reentrant)
        terms = {name: head(hidden).square().mean() for name, head in net.heads.items()}
        if reentrant:
            with pytest.raises(RuntimeError, match="use_reentrant=True"):
                FromGramian().backward(terms, net)
        else:
            FromGramian().backward(terms, net)
            assert net.trunk.weight.grad.abs().sum() > 0


# ---- what is not finite


def broken(net, **changes):
    """The terms, some of which are finite while their gradient is not."""
    terms = net.terms()
    for name, change in changes.items():
        terms[name] = terms[name] + change(0.0 * terms[name])
    return terms


@pytest.mark.parametrize("method", [FromGramian, FromNorms, Signs])
def test_a_gradient_that_is_not_finite_is_named(method):
    net, balancer = Net(), method()
    with pytest.raises(NonFiniteTermError, match=r"in their gradient, are the terms 'b' \(value 0"):
        balancer.backward(broken(net, b=torch.sqrt), net)
    assert all(grad is None for grad in grads(net))
    assert balancer.steps == 0


@pytest.mark.parametrize("method", [FromGramian, Signs])
def test_several_terms_that_are_not_finite_are_dropped_at_once(method):
    net, balancer = Net(), method()
    terms = broken(net, b=torch.sqrt, c=lambda zero: zero + float("nan"))
    step = balancer.backward(terms, net, nonfinite="drop")
    assert step.dropped == ("b", "c")
    assert step.weights.tolist() == [0.5, 0.0, 0.0]
    assert step.gradients.names == ("a",)
    assert all(grad is None or grad.isfinite().all() for grad in grads(net))


@ALL
def test_where_no_term_is_left_the_step_fails(method):
    net = Net()
    terms = {name: term * float("nan") for name, term in net.terms().items()}
    with pytest.raises(NonFiniteTermError, match="'a' .*, 'b' .*, 'c' "):
        method().backward(terms, net, nonfinite="drop")


@ALL
def test_nothing_is_looked_at_where_it_is_to_be_ignored(method):
    net = Net()
    step = method().backward(broken(net, b=torch.sqrt), net, nonfinite="ignore")
    assert step.dropped == ()
    assert net.trunk.weight.grad.isnan().all()


def test_a_dropped_term_may_be_the_only_one_of_the_params():
    net = Net()
    FromGramian().backward(
        broken(net, b=torch.sqrt), net.heads["b"], on=net.trunk, nonfinite="drop"
    )
    assert net.heads["b"].weight.grad is None


# ---- automatic mixed precision


def test_half_precision_gradients_do_not_vanish_under_a_scale():
    """Their size is that of float32, while without a scale float16 holds nothing of them."""
    net = Net()
    expected = FromNorms().backward(net.terms(1e-8), net.trunk).gradients.vector("norm")
    for scale in (None, 2.0**16):
        scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
        with torch.autocast("cpu", dtype=torch.float16):
            hidden = torch.tanh(net.trunk(net.x))
            out = {name: head(hidden) for name, head in net.heads.items()}
            terms = {name: 1e-8 * part.float().square().mean() for name, part in out.items()}
        balancer = FromNorms()
        if scale is None:
            step = balancer.backward(terms, net.trunk)
            assert step.gradients.vector("norm").sum() < 0.1 * expected.sum()
        else:
            net.zero_grad()
            step = balancer.backward(terms, net.trunk, scaler=scaler)
            torch.testing.assert_close(step.gradients.vector("norm"), expected, rtol=0.02, atol=0.0)
            scaler.unscale_(torch.optim.SGD(net.trunk.parameters(), lr=1.0))
            close(
                [net.trunk.weight.grad],
                reference(net, step.weights.float(), [net.trunk.weight], 1e-8),
                rtol=0.05,
                atol=0.05,
            )


@pytest.mark.parametrize("method", [Given, FromGramian, Learned, Signs])
def test_clipping_is_of_the_unscaled_norm(method):
    net = Net()
    method().backward(net.terms(), net, clip=0.1)
    plain = grads(net)
    net.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    method().backward(net.terms(), net, clip=0.1, scaler=scaler)
    close(grads(net), [1024 * part for part in plain])


@pytest.mark.parametrize("method", [Given, FromGramian, Learned, Signs])
def test_a_factor_comes_after_the_clipping(method):
    net = Net()
    whole = method().backward(net.terms(), net, clip=0.1)
    plain = grads(net)
    net.zero_grad()
    part = method().backward(net.terms(), net, clip=0.1, factor=0.25)
    close(grads(net), [0.25 * one for one in plain])
    close([part.norm], [whole.norm])


def test_with_a_factor_micro_batches_add_up_to_the_batch_for_any_objective():
    """Divided terms would add the part of the objective that is no term n times."""
    values = torch.tensor([4.0, 8.0], dtype=torch.float64)
    model = torch.ones((), dtype=torch.float64, requires_grad=True)
    whole, parts = UncertaintyWeights(["a"]), UncertaintyWeights(["a"])
    whole.backward({"a": (model * values).mean()})
    expected, model.grad = model.grad, None
    for number, value in enumerate(values):
        first = None if number == 0 else False
        parts.backward({"a": model * value}, factor=0.5, refresh=first)
    close([model.grad], [expected])
    close(*([parameter.grad for parameter in one.parameters()] for one in (parts, whole)))


def test_a_scaler_that_is_switched_off_is_none():
    net = Net()
    FromGramian().backward(net.terms(), net, scaler=torch.amp.GradScaler("cpu", enabled=False))
    close(grads(net), reference(net, [0.5, 2.0, 0.25]))


@pytest.mark.parametrize("policy", ["raise", "drop"])
def test_a_value_that_is_not_finite_is_no_overflow_of_the_scale(policy):
    net = Net()
    terms = net.terms()
    terms["b"] = terms["b"] * float("inf")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    if policy == "raise":
        with pytest.raises(NonFiniteTermError, match="'b'"):
            FromGramian().backward(terms, net, scaler=scaler)
    else:
        step = FromGramian().backward(terms, net, scaler=scaler, nonfinite=policy)
        assert step.dropped == ("b",)
        assert net.trunk.weight.grad.isfinite().all()


def test_after_an_overflow_the_weights_are_due_again():
    net, balancer = Net(), FromGramian(every=3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    step = balancer.backward(net.terms(1e6), net, scaler=scaler)
    assert not step.refreshed
    assert balancer.calls == 0
    assert balancer.steps == 0
    assert not net.trunk.weight.grad.isfinite().all()
    scaler.update(1.0)
    net.zero_grad()
    assert balancer.backward(net.terms(), net, scaler=scaler).refreshed


@pytest.mark.parametrize("method", [Learned, Given, Signs])
def test_an_overflow_in_clipped_terms_stands_in_grad_for_the_scaler_to_see(method):
    net = Net()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    step = method().backward(net.terms(1e6), net, scaler=scaler, clip_terms=1.0)
    assert not step.refreshed
    assert not net.trunk.weight.grad.isfinite().all()


def test_terms_of_half_precision():
    net = Net().to(torch.bfloat16)
    net.x = net.x.to(torch.bfloat16)
    balancer = FromGramian()
    step = balancer.backward(net.terms(), net)
    assert step.values.dtype == step.weights.dtype == torch.float64
    assert step.gradients.gramian.dtype == torch.float64
    assert net.trunk.weight.grad.dtype == torch.bfloat16
    close(grads(net), reference(net, [0.5, 2.0, 0.25]), rtol=0.02, atol=0.01)


@pytest.mark.parametrize("method", [FromGramian, FromNorms, Learned])
def test_terms_may_be_handed_over_under_autocast(method):
    """In bfloat16 the products of the gradients would keep three digits."""
    net = Net()
    expected = method().backward(net.terms(), net)
    plain = grads(net)
    net.zero_grad()
    terms = net.terms()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step = method().backward(terms, net, clip=1e6)
    torch.testing.assert_close(step.weights, expected.weights, rtol=1e-6, atol=0.0)
    close(grads(net), plain, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", [Given, FromGramian, Learned, LearnedFromGramian])
def test_gradients_need_not_be_on_for_a_backward_pass(method):
    net, balancer = Net(), method()
    balancer.backward(net.terms(), net)
    plain = grads(net)
    net.zero_grad()
    terms = net.terms()
    with torch.no_grad():
        method().backward(terms, net)
    close(grads(net), plain)


# ---- state


def test_the_state_is_moved_with_the_terms_and_keeps_its_precision():
    balancer = FromNorms(NAMES)
    assert balancer.half().mean.dtype == torch.float64
    assert balancer.to("meta").mean.device.type == "meta"
    assert balancer.mean.dtype == torch.float64
    learned = Learned().half()
    assert learned.s.dtype == torch.float16
    assert learned.weights.dtype == torch.float64


def test_a_device_without_float64(monkeypatch):
    """As mps is; here it is said of another one."""
    monkeypatch.setattr(
        "lossproof.terms.balance.state.solving_dtype",
        lambda device: torch.float32 if device.type == "meta" else torch.float64,
    )

    def refusing(tensor):
        assert tensor.dtype != torch.float64
        return tensor.to("meta")

    balancer = FromNorms(NAMES)._apply(refusing)
    assert balancer.mean.dtype == balancer.weights.dtype == torch.float32


def test_shared_memory_and_other_in_place_changes_reach_the_state():
    balancer = FromNorms(NAMES).share_memory()
    assert balancer.mean.is_shared()


def test_what_is_loaded_before_the_first_step_is_used():
    net, balancer = Net(), FromNorms()
    balancer.backward(net.terms(), net)
    fresh = FromNorms()
    fresh.load_state_dict(balancer.state_dict())
    assert fresh.names == NAMES
    assert fresh.steps == 1
    assert torch.equal(fresh.mean, balancer.mean)


def test_a_balancer_in_a_model_is_loaded_with_it():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.balancer = Net(), FromNorms()

    first, second = Model(), Model()
    first.balancer.backward(first.net.terms(), first.net)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.balancer.weights, first.balancer.weights)
    with pytest.raises(RuntimeError, match="Missing key.*balancer.mean"):
        second.load_state_dict(Model().state_dict())
    with pytest.raises(RuntimeError, match="Unexpected key.*balancer.other"):
        second.load_state_dict({**first.state_dict(), "balancer.other": torch.ones(1)})


def test_a_checkpoint_of_another_order_is_refused():
    with pytest.raises(
        RuntimeError, match=r"of the terms \['b', 'a'\], this balancer of \['a', 'b'"
    ):
        FromNorms(("a", "b")).load_state_dict(FromNorms(("b", "a")).state_dict())


def test_averaged_models():
    model = nn.ModuleDict({"net": Net(), "balancer": FromNorms(NAMES)})
    averaged = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    model["balancer"].backward(model["net"].terms(), model["net"])
    averaged.update_parameters(model)
    assert torch.equal(averaged.module["balancer"].mean, model["balancer"].mean)
