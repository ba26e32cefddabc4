import torch

from lossproof.terms import term_gradients
from lossproof.terms.autocast import autocast_off


def test_products_are_of_float32_inside_and_of_half_precision_outside():
    rows = torch.randn(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with autocast_off(rows.device):
            assert (rows @ rows.T).dtype == torch.float32
        assert (rows @ rows.T).dtype == torch.bfloat16
    with autocast_off(rows.device), autocast_off(torch.device("meta")):
        assert (rows @ rows.T).dtype == torch.float32


def test_per_term_gradients_are_not_rounded():
    layer, x = torch.nn.Linear(30, 2), torch.randn(5, 30)
    out = layer(x)
    terms = {"a": out[:, 0].square().mean(), "b": out[:, 1].square().mean()}
    expected = term_gradients(terms, layer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = term_gradients(terms, layer)
    torch.testing.assert_close(found.gramian, expected.gramian, rtol=1e-6, atol=0.0)
