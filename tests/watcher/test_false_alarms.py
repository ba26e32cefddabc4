"""Ordinary trainings in which nothing is wrong: whatever the guard says is one alarm too many."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossproof

TRAININGS = {}


def training(function):
    """A generator that takes a guard and yields after each of its steps."""
    TRAININGS[function.__name__] = function
    return function


def perceptron(*widths, act=nn.ReLU):
    layers = []
    for before, after in zip(widths, widths[1:]):  # noqa: B905, RUF007
        layers += [nn.Linear(before, after), act()]
    return nn.Sequential(*layers[:-1])


def step(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@training
def memorised_until_nothing_is_left(watch):
    """Adam at a loss of 1e-13 jumps by ten orders now and then."""
    model = perceptron(8, 64, 64, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    x, y = torch.randn(16, 8), torch.randn(16, 1)
    loss = watch(model).wrap(lambda: F.mse_loss(model(x), y))
    for _ in range(400):
        yield step(optimizer, loss())


@training
def a_variational_autoencoder(watch):
    """Its second term grows from nothing."""
    encoder, decoder = perceptron(10, 32, 4), perceptron(2, 32, 10)
    model = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    nn.init.zeros_(encoder[2].weight)
    nn.init.zeros_(encoder[2].bias)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def terms_of(x):
        mean, log_variance = encoder(x).chunk(2, 1)
        code = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)
        return {
            "fit": (decoder(code) - x).square().sum(1).mean(),
            "divergence": divergence.sum(1).mean(),
        }

    compute = watch(model).wrap(terms_of)
    base = torch.randn(2, 10)
    for _ in range(150):
        yield step(optimizer, sum(compute(torch.randn(64, 2) @ base).values()))


@training
def two_networks_against_each_other(watch):
    maker, judge = perceptron(2, 32, 2), perceptron(2, 32, 1)
    both = nn.ModuleDict({"maker": maker, "judge": judge})
    guard = watch(both)
    judged = torch.optim.Adam(judge.parameters(), lr=2e-3, betas=(0.5, 0.9))
    made = torch.optim.Adam(maker.parameters(), lr=2e-3, betas=(0.5, 0.9))

    def judge_loss(real, fake):
        return F.softplus(-judge(real)).mean() + F.softplus(judge(fake)).mean()

    judge_loss = guard.wrap(judge_loss, "judge")
    maker_loss = guard.wrap(lambda noise: F.softplus(-judge(maker(noise))).mean(), "maker")
    for _ in range(150):
        real, noise = torch.randn(64, 2) + 3, torch.randn(64, 2)
        step(judged, judge_loss(real, maker(noise).detach()))
        yield step(made, maker_loss(noise))


@training
def a_margin_that_is_met(watch):
    """The loss is exactly 0 in the end, and so is its gradient."""
    model = perceptron(2, 32, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.cat([torch.randn(32, 2) + 5, torch.randn(32, 2) - 5])
    sign = torch.cat([torch.ones(32), -torch.ones(32)])
    loss = watch(model).wrap(lambda: F.relu(1 - sign * model(x).squeeze(1)).mean())
    for _ in range(200):
        yield step(optimizer, loss())


@training
def a_warm_restart_of_the_learning_rate(watch):
    model = perceptron(8, 32, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 40)
    loss = watch(model).wrap(lambda x, y: F.mse_loss(model(x), y))
    for _ in range(200):
        x = torch.randn(32, 8)
        step(optimizer, loss(x, x.sum(1, keepdim=True)))
        yield schedule.step()


@training
def clipped_gradients_of_a_recurrent_network(watch):
    model = nn.GRU(4, 16, batch_first=True)
    head = nn.Linear(16, 1)
    both = nn.ModuleList([model, head])
    optimizer = torch.optim.Adam(both.parameters(), lr=1e-2)
    loss = watch(both).wrap(
        lambda x: F.mse_loss(head(model(x)[0][:, -1]), x[..., 0].sum(1, keepdim=True))
    )
    for _ in range(80):
        optimizer.zero_grad()
        loss(torch.randn(32, 12, 4)).backward()
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        yield optimizer.step()


@training
def policies_with_returns_of_either_sign(watch):
    """The value of the loss is noise around 0."""
    model = perceptron(4, 32, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def loss_of(state, action, advantage):
        chosen = model(state).log_softmax(1).gather(1, action[:, None])[:, 0]
        return -(advantage * chosen).mean()

    loss = watch(model).wrap(loss_of)
    for _ in range(200):
        state = torch.randn(16, 4)
        action = torch.randint(3, (16,))
        returns = (action == state[:, :3].argmax(1)).float() * torch.randn(16).exp() * 10
        yield step(optimizer, loss(state, action, returns - returns.mean()))


@training
def experts_of_which_one_is_used(watch):
    experts = nn.ModuleList([perceptron(4, 16, 1) for _ in range(4)])
    optimizer = torch.optim.Adam(experts.parameters(), lr=1e-2)
    loss = watch(experts).wrap(lambda x, which: F.mse_loss(experts[which](x), x.sum(1, True)))
    for number in range(80):
        optimizer.zero_grad()
        loss(torch.randn(16, 4), number % 4).backward()
        yield optimizer.step()


@training
def a_part_that_is_thawed_later(watch):
    model = perceptron(8, 32, 32, 1)
    model[0].requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    loss = watch(model).wrap(lambda x: F.mse_loss(model(x), x.sum(1, keepdim=True)))
    for number in range(60):
        if number == 30:
            model[0].requires_grad_(True)
        yield step(optimizer, loss(torch.randn(32, 8)))


@training
def accumulated_gradients_and_a_loss_scale(watch):
    model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30, growth_interval=5)
    criterion = nn.CrossEntropyLoss()
    watch(model, criterion)
    for _ in range(40):
        optimizer.zero_grad()
        for _ in range(4):
            x = torch.randn(16, 8)
            with torch.autocast("cpu", torch.bfloat16):
                loss = criterion(model(x), x[:, :4].argmax(1))
            scaler.scale(loss / 4).backward()
        scaler.step(optimizer)
        yield scaler.update()


@training
def a_rare_batch_with_outliers(watch):
    """The error of one batch in twenty is a hundred times the usual."""
    model = perceptron(8, 32, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss = watch(model).wrap(lambda x, y: F.mse_loss(model(x), y))
    for number in range(200):
        x = torch.randn(32, 8)
        noise = torch.randn(32, 1) * (10.0 if number % 20 == 19 else 1.0)
        yield step(optimizer, loss(x, x.sum(1, keepdim=True) + noise))


@training
def a_learned_loss_weight(watch):
    model, weights = perceptron(4, 16, 2), nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([*model.parameters(), weights], lr=3e-2)

    def terms_of(x):
        out = model(x)
        errors = (out - torch.stack([x.sum(1), 100 * x.prod(1)], 1)).square().mean(0)
        return dict(zip(("a", "b"), errors / weights.exp() + weights, strict=True))

    compute = watch(model).wrap(terms_of)
    for _ in range(150):
        yield step(optimizer, sum(compute(torch.randn(32, 4)).values()))


@pytest.mark.parametrize("name", TRAININGS)
def test_nothing_is_said(name):
    alarms, guards = [], []

    def watch(model, loss=None):
        guard = lossproof.watch(model, loss, on_alarm=alarms.append, share=1.0)
        guards.append(guard.start())
        return guard

    torch.manual_seed(0)
    count = sum(1 for _ in TRAININGS[name](watch))
    (guard,) = guards
    guard.stop()
    assert guard.retired is None
    assert len(guard.history) == min(64, guard.history[-1].step)
    assert guard.history[-1].step >= count
    assert not alarms, "\n".join(map(str, alarms))
