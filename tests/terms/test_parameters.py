import pytest
import torch
from torch import nn

from lossproof.terms.parameters import chosen_parameters, reusable


def test_all_forms_in_which_parameters_may_be_given():
    layer = nn.Linear(2, 3)
    weight, bias = layer.weight, layer.bias
    forms = {
        "module": (layer, ("weight", "bias")),
        "list": ([weight, bias], ("parameter 0", "parameter 1")),
        "generator": (layer.parameters(), ("parameter 0", "parameter 1")),
        "pairs": (layer.named_parameters(), ("weight", "bias")),
        "mapping": ({"w": weight, "b": bias}, ("w", "b")),
        "modules": ([layer], ("0.weight", "0.bias")),
        "named modules": ({"first": layer}, ("first.weight", "first.bias")),
        "mixed": ([weight, nn.ParameterList([bias])], ("parameter 0", "1.0")),
    }
    for name, (form, names) in forms.items():
        chosen = chosen_parameters(form)
        assert chosen.names == names, name
        assert [id(one) for one in chosen.tensors] == [id(weight), id(bias)], name
    assert chosen_parameters(weight).tensors[0] is weight


def test_tied_parameters_are_taken_once_and_frozen_ones_are_told():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    second.bias.requires_grad_(False)
    chosen = chosen_parameters([first, second, first.weight])
    assert chosen.names == ("0.weight", "0.bias")
    assert chosen.frozen == ("1.bias",)
    assert len(chosen) == 2


def test_two_models_may_have_parameters_of_the_same_name():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    chosen = chosen_parameters([*first.named_parameters(), *second.named_parameters()])
    assert chosen.names == ("weight", "bias", "weight (2)", "bias (2)")


def test_what_can_be_read_once_can_be_kept():
    layer = nn.Linear(2, 2)
    kept = reusable(layer.parameters())
    assert [len(chosen_parameters(kept)) for _ in range(2)] == [2, 2]
    assert reusable(layer) is layer


def test_some_of_them():
    chosen = chosen_parameters({"a": torch.ones(1, requires_grad=True), "b": nn.Linear(1, 1)})
    some = chosen.among([False, True, True])
    assert some.names == ("b.weight", "b.bias")
    assert some.tensors == chosen.tensors[1:]


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        (None, TypeError, "`params` must be a module, a tensor or an iterable of either"),
        ("weights", TypeError, "got str"),
        ([1.0], TypeError, "got float at 0"),
        ({"w": 1.0}, TypeError, "`params` 'w' must be a tensor, got float"),
        ([], ValueError, "requires a gradient, but there is none"),
        ([], ValueError, r"model.parameters\(\) can be read only once"),
        ([torch.ones(2)], ValueError, "but all of them are frozen: 'parameter 0'"),
        ([torch.ones(2, requires_grad=True) * 2], ValueError, "'parameter 0' was computed from"),
    ],
)
def test_wrong_parameters_are_named(params, error, message):
    with pytest.raises(error, match=message):
        chosen_parameters(params)
    with pytest.raises(error, match=message.replace("`params`", "`on`")):
        chosen_parameters(params, "on")
