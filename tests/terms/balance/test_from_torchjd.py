"""TorchJD's aggregators and weightings as balancers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lossproof.terms import TermGradients
from lossproof.terms.balance.base import Balancer
from lossproof.terms.balance.from_torchjd import FromTorchJD, as_balancer
from lossproof.terms.balance.pcgrad import PCGrad

aggregation = pytest.importorskip("torchjd.aggregation")
from torchjd.linalg import PSDMatrix  # noqa: E402, after the check that it is there


def preference(count: int) -> torch.Tensor:
    return torch.linspace(0.5, 1.5, count)


OF_GRAMIAN: dict[str, Callable[[], nn.Module]] = {
    "AlignedMTL": aggregation.AlignedMTL,
    "AlignedMTL with preferences": lambda: aggregation.AlignedMTL(preference(3)),
    "DualProj": aggregation.DualProj,
    "IMTLG": aggregation.IMTLG,
    "MGDA": aggregation.MGDA,
    "UPGrad": aggregation.UPGrad,
    "UPGrad with preferences": lambda: aggregation.UPGrad(pref_vector=preference(3)),
    "FairGrad": lambda: aggregation.FairGrad(1.0),
    "Krum": lambda: aggregation.Krum(n_byzantine=0, n_selected=2),
    "PCGrad": aggregation.PCGrad,
    "GradVac": aggregation.GradVac,
}
OF_MATRIX: dict[str, Callable[[], nn.Module]] = {
    "Mean": aggregation.Mean,
    "Sum": aggregation.Sum,
    "Constant": lambda: aggregation.Constant(torch.tensor([1.0, 2.0, 3.0])),
    "Random": aggregation.Random,
}
WHOLE: dict[str, Callable[[], nn.Module]] = {
    "ConFIG": aggregation.ConFIG,
    "GradDrop": aggregation.GradDrop,
    "TrimmedMean": lambda: aggregation.TrimmedMean(1),
}
WEIGHTINGS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "UPGradWeighting": (aggregation.UPGradWeighting, "gramian"),
    "GradVacWeighting": (aggregation.GradVacWeighting, "gramian"),
    "MeanWeighting": (aggregation.MeanWeighting, "matrix"),
    "ExcessMTLWeighting": (aggregation.ExcessMTLWeighting, "matrix"),
    "CRMOGMWeighting of the Gramian": (
        lambda: aggregation.CRMOGMWeighting(aggregation.MGDAWeighting()),
        "gramian",
    ),
}
STATEFUL = {
    "GradVac": lambda: aggregation.GradVac(beta=0.4),
    "MoDo": lambda: aggregation.MoDoWeighting(gamma=0.05),
    "SDMGrad": lambda: aggregation.SDMGradWeighting(lr=0.1, n_iter=1),
    "ExcessMTL": lambda: aggregation.ExcessMTLWeighting(n_warmup_steps=2),
    "CRMOGM": lambda: aggregation.CRMOGMWeighting(aggregation.UPGradWeighting()),
}


def network() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Linear(4, 2)})


def terms_of(model: nn.ModuleDict, seed: int = 0) -> dict[str, torch.Tensor]:
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed))
    out = model["b"](model["a"](x).tanh())
    return {
        "fit": (out - 1).square().mean(),
        "size": 0.2 * (out + 1 + x[:, :1]).abs().mean(),
        "sum": -(out[:, 0] * x[:, 1]).mean(),
    }


def matrix_of(model: nn.ModuleDict) -> torch.Tensor:
    rows = [
        torch.autograd.grad(term, list(model.parameters()), retain_graph=True)
        for term in terms_of(model).values()
    ]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


def flat_gradient(model: nn.ModuleDict) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("name", [*OF_GRAMIAN, *OF_MATRIX, *WHOLE])
def test_an_aggregator_gives_its_own_step(name: str) -> None:
    make = {**OF_GRAMIAN, **OF_MATRIX, **WHOLE}[name]
    model = network()
    torch.manual_seed(7)  # what it draws
    wanted = make()(matrix_of(model))
    torch.manual_seed(7)
    balancer = FromTorchJD(make())
    assert balancer.needs == (("gramian",) if name in OF_GRAMIAN else ("gradients",))
    step = balancer.backward(terms_of(model), model)
    torch.testing.assert_close(flat_gradient(model), wanted, rtol=2e-3, atol=1e-4)
    assert step.names == ("fit", "size", "sum")
    if name in WHOLE:
        assert step.weights.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_weighting_is_given_what_it_asks_for(name: str) -> None:
    make, fed = WEIGHTINGS[name]
    model = network()
    matrix = matrix_of(model)
    torch.manual_seed(7)
    wanted = make()(matrix @ matrix.T if fed == "gramian" else matrix)
    torch.manual_seed(7)
    step = FromTorchJD(make()).backward(terms_of(model), model)
    torch.testing.assert_close(step.weights.float(), wanted, rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(
        flat_gradient(model), step.weights.float() @ matrix, rtol=1e-4, atol=1e-5
    )


class Unclear(aggregation.Weighting):
    """Its ``forward`` does not say what it is given."""

    def forward(self, stat, /):
        return stat.new_ones(stat.shape[0])


class OfTheGramian(aggregation.Weighting[PSDMatrix]):
    """A user's own."""

    def forward(self, gramian: PSDMatrix, /) -> torch.Tensor:
        return 1 / gramian.diagonal().sqrt()


def test_a_weighting_of_ones_own() -> None:
    model = network()
    step = FromTorchJD(OfTheGramian()).backward(terms_of(model), model)
    torch.testing.assert_close(step.weights.float(), 1 / matrix_of(model).norm(dim=1))
    with pytest.raises(ValueError, match="`fed` must be 'gramian' or 'matrix': the annotation of"):
        FromTorchJD(Unclear())
    assert FromTorchJD(Unclear(), fed="matrix").needs == ("gradients",)
    assert FromTorchJD(Unclear(), fed="gramian").needs == ("gramian",)


def test_an_annotation_of_an_unknown_name_does_not_say_what_is_given() -> None:
    class Unknown(aggregation.Weighting):
        def forward(self, stat: NowhereDefined) -> torch.Tensor:  # noqa: F821
            return stat.diagonal()

    with pytest.raises(ValueError, match="`fed` must be 'gramian' or 'matrix'"):
        FromTorchJD(Unknown())
    assert FromTorchJD(Unknown(), fed="gramian").needs == ("gramian",)


def test_half_precision_gradients() -> None:
    """TorchJD's solvers refuse bfloat16; the Gramian of such gradients is float64."""
    matrix = torch.randn(3, 20).bfloat16()
    figures = TermGradients.from_matrix(matrix, names=("a", "b", "c"))
    for method in (aggregation.UPGrad(), aggregation.ConFIG()):
        balancer = FromTorchJD(method, figures.names)
        (step,) = balancer.gradients_of(figures, balancer.weights_of(figures)).values()
        assert step.dtype == torch.bfloat16
        torch.testing.assert_close(step.float(), method(matrix.float()), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", STATEFUL)
def test_a_resumed_run_is_the_same_to_the_last_bit(name: str, tmp_path) -> None:
    """TorchJD's own ``state_dict`` of these is not loaded again."""

    fed = {"fed": "gramian"} if name in ("MoDo", "SDMGrad") else {}

    def start() -> Balancer:
        return FromTorchJD(STATEFUL[name](), **fed)

    def step(balancer: Balancer, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)  # what the method draws from
        return balancer.backward(terms_of(model, seed), model).weights

    model = network()
    whole, first, second = start(), start(), start()
    run = [step(whole, seed) for seed in range(6)]
    fresh = step(start(), 3)
    for seed in range(3):
        step(first, seed)
    torch.save(first.state_dict(), tmp_path / "balancer.pt")
    second.load_state_dict(torch.load(tmp_path / "balancer.pt", weights_only=True))
    assert second.names == ("fit", "size", "sum")
    for seed in range(3, 6):
        assert torch.equal(step(second, seed), run[seed])
    # Going back to the checkpoint forgets what came after it.
    second.load_state_dict(torch.load(tmp_path / "balancer.pt", weights_only=True))
    assert torch.equal(step(second, 3), run[3])
    assert not torch.equal(fresh, run[3])  # the state matters


def test_an_empty_state_goes_back_to_the_beginning() -> None:
    model = network()
    balancer = FromTorchJD(aggregation.GradVac(beta=0.4), ["fit", "size", "sum"])
    at_first = balancer.state_dict()
    torch.manual_seed(1)
    first = balancer.backward(terms_of(model), model).weights.clone()
    balancer.load_state_dict(at_first)
    torch.manual_seed(1)
    assert torch.equal(balancer.backward(terms_of(model), model).weights, first)


def test_options_are_not_part_of_the_state() -> None:
    model = network()
    first, second = (FromTorchJD(aggregation.GradVac(beta=beta)) for beta in (0.1, 0.9))
    first.backward(terms_of(model), model)
    second.load_state_dict(first.state_dict())
    assert second.state.method.beta == 0.9


class Keeps(OfTheGramian):
    """Its state is of a type that cannot be saved safely."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = None

    def forward(self, gramian: PSDMatrix, /) -> torch.Tensor:
        self.seen = {"gramian": gramian}
        return gramian.diagonal()


def test_a_state_that_cannot_be_saved_is_refused() -> None:
    model = network()
    balancer = FromTorchJD(Keeps())
    balancer.backward(terms_of(model), model)
    with pytest.raises(TypeError, match="the state of Keeps cannot be saved: `.seen` is of the"):
        balancer.state_dict()


def test_a_kept_state_belongs_to_its_terms() -> None:
    model = network()
    balancer = FromTorchJD(aggregation.GradVac(beta=0.4))
    balancer.backward(terms_of(model), model)
    with pytest.raises(ValueError, match="GradVac keeps a state for the terms"):
        balancer.backward({**terms_of(model), "sum": None}, model)
    stateless = FromTorchJD(aggregation.UPGrad())
    stateless.backward(terms_of(model), model)
    step = stateless.backward({**terms_of(model), "sum": None}, model)
    assert step.names == ("fit", "size")


def test_weights_are_held_between_refreshes() -> None:
    model = network()
    balancer = FromTorchJD(aggregation.Random(), every=2)
    first = balancer.backward(terms_of(model), model).weights
    assert torch.equal(balancer.backward(terms_of(model), model).weights, first)
    with pytest.raises(ValueError, match="`every` must be 1: ConFIG has no weights"):
        FromTorchJD(aggregation.ConFIG(), every=2)


def test_errors_of_torchjd_name_the_terms() -> None:
    model = network()
    balancer = FromTorchJD(aggregation.Constant(torch.tensor([1.0, 2.0])))
    words = r"torchjd's Constant failed on the matrix of the terms \['fit', 'size', 'sum'\]"
    with pytest.raises(RuntimeError, match=words):
        balancer.backward(terms_of(model), model)


class TooFew(OfTheGramian):
    def forward(self, gramian: PSDMatrix, /) -> torch.Tensor:
        return gramian.diagonal()[1:]


def test_a_wrong_number_of_weights_is_refused() -> None:
    model = network()
    with pytest.raises(RuntimeError, match="must return one weight for each term, 3 numbers"):
        FromTorchJD(TooFew()).backward(terms_of(model), model)


def test_whatever_is_a_balancer_becomes_one() -> None:
    own = PCGrad()
    assert as_balancer(own) is own
    assert isinstance(as_balancer(aggregation.UPGrad()), FromTorchJD)
    assert isinstance(as_balancer(aggregation.UPGradWeighting()), FromTorchJD)
    for wrong, words in (
        (aggregation.UPGrad, "the class UPGrad"),
        (nn.Linear(2, 2), "Linear"),
        (None, "NoneType"),
    ):
        with pytest.raises(TypeError, match=f"`balancer` must be a Balancer.*got {words}"):
            as_balancer(wrong)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: FromTorchJD(aggregation.UPGrad), TypeError, "`method` must be .* the class UPGr"),
        (lambda: FromTorchJD(PCGrad()), TypeError, "`method` must be an Aggregator or Weighting"),
        (lambda: FromTorchJD(Unclear(), fed="rows"), ValueError, "`fed` must be one of"),
        (lambda: FromTorchJD(aggregation.MoDoWeighting()), ValueError, "of two independent batch"),
        (lambda: FromTorchJD(aggregation.UPGrad(), fed="gramian"), ValueError, "`fed` of an aggr"),
    ],
)
def test_wrong_options(make: Callable, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()
