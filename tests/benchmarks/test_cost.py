import torch
from benchmarks.cost import OPERATIONS, drawn, operations, page, seventeen, spread


def test_the_loss_has_as_many_operations_as_the_page_says() -> None:
    assert operations(seventeen) == OPERATIONS == 17


def test_its_gradient_is_finite_where_it_is_measured() -> None:
    given = drawn((32, 10), torch.float32)
    value = seventeen(*given)
    (gradient,) = torch.autograd.grad(value, given[0])
    assert given[0].numel() == 320
    assert bool(torch.isfinite(gradient).all())


def test_the_page_shows_median_and_spread() -> None:
    group = spread([3.0, 1.0, 2.0])
    figures = {
        "small": {"first": 1.0, **group},
        "large": {"seconds": group, "pass": group, "passes": group},
        "command_line": {"help": group, "python": group},
    }
    keys = [
        "date",
        "processor",
        "cores",
        "threads",
        "system",
        "python",
        "torch",
        "lossproof",
        "source",
    ]
    blocks = page({"machine": dict.fromkeys(keys), "figures": figures})
    assert any("| `lossproof --help`, s | 2 | 1 | 3 | 3 | 0.3 |" in block for block in blocks)
