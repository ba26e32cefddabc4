"""Losses are told by a file's text, and what only looks like one is left alone."""

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossproof.checks.loss_definitions import losses_in, says_loss


def names(source, kind=None):
    found = losses_in(textwrap.dedent(source))
    return [loss.name for loss in found if kind in (None, loss.kind)]


def module(body):
    return f"import torch\nfrom torch import nn\n{textwrap.dedent(body)}"


LOSSES = [
    "def focal_loss(input, target): return (input - target).mean()",
    "def criterion(outputs, labels, weight=None): return outputs.sum()",
    "def my_mse(y_pred, y_true): return ((y_pred - y_true) ** 2).mean()",
    "def tv_loss(x: 'torch.Tensor') -> torch.Tensor: return x.diff().abs().mean()",
    "def kl_divergence(mu, logvar): return mu.sum(), logvar.sum()",
    "def compute_loss(logits, labels): return nn.CrossEntropyLoss()(logits, labels)",
    "def loss(p, t):\n    total_loss = (p - t).mean()",  # forgot to return it
    "def gradient_penalty(real, fake): return real.sum()",
    "@torch.no_grad()\ndef soft_loss(p, t): return p",
    "bce = lambda p, t: (p - t).mean()",
    "from functools import partial\nmargin_loss = partial(nn.functional.huber_loss, delta=2)",
    "class FocalLoss(nn.Module):\n    def forward(self, input, target): return input.mean()",
    "class Loss(nn.modules.loss._Loss):\n    def forward(self, *, x=0, y): ...\n    __call__ = 1\n"
    "    def forward(self, a, b): return a",
    "class WeightedCE(nn.CrossEntropyLoss):\n    def __init__(self): super().__init__()",
    "class MSELoss(nn.MSELoss):\n    pass",
    "class DiceLoss2d:\n    def __call__(self, p, t): return p.mean()",
    "class Closeness(nn.Module):\n    def forward(self, pred, target):\n"
    "        value = (pred - target).abs().mean()\n        return value * 2 + 1",
    "class Mine(torch.autograd.Function):\n    def forward(ctx, input, target): return input",
    "class Squared(torch.autograd.Function):\n    def forward(ctx, a): return torch.sum(a)",
    "if torch.cuda.is_available():\n    def fast_loss(p, t): return p\nelse:\n    pass",
    "try:\n    import x\nexcept ImportError:\n    x = None\nelse:\n    def l1_loss(p, t): return p",
]

NO_LOSSES = [
    "def _private_loss(p, t): return p",
    "def plot_loss(p, t): return p",
    "def get_loss(name, p): return p",
    "def log_losses(writer, p): return p",
    "def loss_for(model, batch): return model(batch)",
    "def training_loss(params: dict, batch): return batch",
    "def loss_name(p, t): return 'focal'",
    "def focal_loss(gamma):\n    def loss(p, t): return p\n    return loss",
    "def focal_loss(gamma): return lambda p, t: p",
    "def focal_loss(gamma): return FocalLoss(gamma)",
    "def loss_function(kind) -> nn.Module: return kind",
    "def loss(p, t): print(p)",
    "def losses(p, t):\n    yield p",
    "async def a_loss(p, t): return p",
    "def loss(): return 1",
    "def loss(*inputs): return inputs[0]",
    "def to_be_done_loss(p, t):\n    'later'\n    raise NotImplementedError",
    "def numpy_loss(p: 'np.ndarray', t): return p",
    "import pytest\n@pytest.fixture\ndef loss(p, t): return p",
    "if __name__ == '__main__':\n    def loss(p, t): return p",
    "def outer():\n    def loss(p, t): return p",
    "class Net(nn.Module):\n    def forward(self, x): return x.mean()",
    "class GPT(nn.Module):\n    def forward(self, x, targets=None): return x, targets",
    "class Scorer(nn.Module):\n    def forward(self, input, target): return input * target",
    "class LossLogger(nn.Module):\n    def forward(self, p, t): return p",
    "class LossHistory:\n    def add(self, p): return p",
    "class BaseLoss(nn.Module):\n    def forward(self, p, t): raise NotImplementedError",
    "class ALoss(nn.Module):\n    @abstractmethod\n    def forward(self, p, t): return p",
    "class RoundSTE(torch.autograd.Function):\n    def forward(ctx, x): return x.round()",
    "class NoForwardLoss(nn.Module):\n    pass",
    "criterion = nn.MSELoss()",
    "loss = 0.0",
    "class WithModelLoss(nn.Module):\n    def forward(self, model, x): return model(x)",
]


@pytest.mark.parametrize("source", LOSSES)
def test_a_loss_is_found(source):
    assert len(names(module(source))) == 1


@pytest.mark.parametrize("source", NO_LOSSES)
def test_what_is_no_loss_is_left_alone(source):
    assert names(module(source)) == []


def test_a_subclass_is_what_its_ancestors_are():
    source = module("""
        class Base(nn.Module):
            def forward(self, a, b): return a.mean()
        class DiceLoss(Base):
            pass
        class _Op(torch.autograd.Function):
            def forward(ctx, p, t): return p.mean()
        class DiceOp(_Op):
            pass
    """)
    assert [(loss.name, loss.kind) for loss in losses_in(source)] == [
        ("DiceLoss", "module"),
        ("DiceOp", "autograd.Function"),
    ]


def test_a_class_that_needs_arguments_is_checked_by_its_instances():
    source = module("""
        class FocalLoss(nn.Module):
            def __init__(self, gamma): super().__init__()
            def forward(self, p, t): return p.mean()
        class DiceLoss(nn.Module):
            def forward(self, p, t): return p.mean()
        soft = FocalLoss(2)
        hard = FocalLoss(gamma=5)
        dice = DiceLoss()
    """)
    assert names(source) == ["DiceLoss", "soft", "hard", "dice"]
    assert names(source.replace("soft = ", "_s = ").replace("hard = ", "_h = ")) == [
        "FocalLoss", "DiceLoss", "dice",
    ]  # fmt: skip


def test_an_operation_is_checked_along_with_the_loss_that_applies_it():
    operation = """
        class Squared(torch.autograd.Function):
            def forward(ctx, input, target): return input - target
    """
    applied = """
        def squared_loss(p, t): return Squared.apply(p, t).mean()
    """
    assert names(module(operation)) == ["Squared"]
    assert names(module(operation + applied)) == ["squared_loss"]
    assert names(module(operation + applied.replace("squared_loss", "train"))) == ["Squared"]


def test_the_last_definition_of_a_name_counts():
    source = "def loss(p, t): return p\n\n\ndef loss(p, t): return t\n"
    assert [(loss.name, loss.line) for loss in losses_in(source)] == [("loss", 4)]


@pytest.mark.parametrize(
    ("imports", "found"),
    [
        ("", 1),
        ("import torch.nn.functional as F", 1),
        ("import numpy as np\nfrom torch import nn", 1),
        ("from .base import *", 1),
        ("import numpy as np", 0),
        ("import tensorflow as tf", 0),
        ("from jax import numpy as jnp", 0),
    ],
)
def test_a_loss_of_another_framework_is_none_of_ours(imports, found):
    assert len(losses_in(f"{imports}\ndef a_loss(p, t): return p")) == found


def test_what_is_no_python_is_said():
    with pytest.raises(SyntaxError):
        losses_in("def loss(:")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("DiceCELoss2d", True), ("BCEWithLogitsLoss", True), ("NLLLoss", True), ("lossless", False),
        ("cross_entropy", True), ("CrossEntropyV2", True), ("HTMLParser", False),
        ("is_loss", False),
        ("LossConfig", False), ("MultiScaleSSIMLoss3D", True), ("loss_type", False),
        ("glossary", False), ("損失_loss", True), ("_", False), ("", False), ("ELBO", True),
        ("focal_length", False),
    ],
)  # fmt: skip
def test_what_a_name_says(name, says):
    assert says_loss(name) is says


@given(st.text(max_size=30))
def test_any_text_is_a_name(text):
    assert says_loss(text) in (True, False)
