"""Classes whose constructors need arguments are made with the usual ones."""

import pytest
import torch
from torch import nn

import lossproof
from lossproof.checks.construction import made_with_natural_values
from lossproof.checks.natural_values import UNKNOWN, natural_value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_classes", 5),
        ("n_classes", 5),
        ("feat_dim", 6),
        ("embedding_size", 6),
        ("margin", 0.5),
        ("eps", 1e-6),
        ("reduction", "mean"),
        ("weight", 1.0),
        ("class_weights", None),
        ("ignore_index", -100),
        ("use_gpu", False),
        ("device", "cpu"),
    ],
)
def test_the_usual_value_of_an_option(name, value):
    assert natural_value(name) == value


def test_annotations_help_where_names_do_not():
    assert natural_value("foo") is UNKNOWN
    assert natural_value("foo", int) == 4
    assert natural_value("foo", "float") == 0.5
    assert natural_value("foo", "Tensor | None") is None
    assert isinstance(natural_value("step", float), float)


class Margins(nn.Module):
    def __init__(self, num_classes, feat_dim, s, m, *, easy_margin):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_classes, feat_dim))

    def forward(self, embeddings, labels):
        cosine = nn.functional.normalize(embeddings) @ nn.functional.normalize(self.weight).T
        return nn.functional.cross_entropy(cosine * 4, labels)


class Wants:
    def __init__(self, foo, bar):
        self.sum = foo + bar.bit_length()

    def __call__(self, input, target):
        return (input - target).pow(2).mean() * self.sum


def test_a_class_is_made_and_the_call_is_told():
    instance, call = made_with_natural_values(Margins)
    assert isinstance(instance, Margins)
    assert call == "Margins(num_classes=5, feat_dim=6, s=1.0, m=0.5, easy_margin=False)"


def test_unknown_arguments_are_tried():
    instance, call = made_with_natural_values(Wants)
    assert call == "Wants(foo=4, bar=4)"
    assert instance.sum == 7


def test_what_cannot_be_made_is_not():
    class Network(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.parts = list(network.children())

    assert made_with_natural_values(Network) is None


def test_the_random_numbers_of_the_caller_are_left_alone():
    state = torch.get_rng_state()
    made_with_natural_values(Margins)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_class_is_checked_and_the_report_says_how_it_was_made():
    report = lossproof.check(Margins)
    assert report.ok, str(report)
    assert "made as `Margins(num_classes=5" in report.assumptions[0]
    assert "inferred" in report.assumptions[1]
