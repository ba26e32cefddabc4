"""LP501 python-loop."""

import pytest
import torch
import torch.nn.functional as F

import lossproof
from lossproof.checks.report import Severity, Status

CODE = "LP501"


def over_samples(logits, target):
    loss = 0
    for i in range(len(target)):
        loss = loss - torch.log_softmax(logits[i], 0)[target[i]]
    return loss / len(target)


def over_items(logits, target):
    losses = [
        F.cross_entropy(row[None], label[None]) for row, label in zip(logits, target, strict=True)
    ]
    return torch.stack(losses).mean()


def one_item(row, label):
    return -torch.log_softmax(row, 0)[label]


def over_calls(logits, target):
    return torch.stack(list(map(one_item, logits, target))).mean()


def while_loop(logits, target):
    i, loss = 0, 0
    while i < len(target):
        loss = loss + F.cross_entropy(logits[i], target[i])
        i += 1
    return loss / i


@pytest.mark.parametrize("loss", [over_samples, over_items, while_loop])
def test_a_loop_over_samples(found, loss):
    (finding,) = found(CODE, loss, "float[16,5]", "int[16]<5")
    assert (finding.cause, finding.severity) == ("batch", Severity.PERFORMANCE)
    assert finding.evidence["rounds"] == 16
    lines = loss.__code__.co_firstlineno + 1, loss.__code__.co_firstlineno + 2
    assert finding.location.line in lines


def test_map_is_a_loop_too(found):
    (finding,) = found(CODE, over_calls, "float[16,5]", "int[16]<5")
    assert finding.location.file == __file__


def test_a_loop_over_classes(found, marked):
    def per_class(logits, target):
        probabilities, losses = logits.softmax(1), []
        for c in range(logits.shape[1]):  # <-- here
            mine = (target == c).float()
            overlap = (probabilities[:, c] * mine).sum()
            losses.append(1 - 2 * overlap / (probabilities[:, c].sum() + mine.sum() + 1))
        return torch.stack(losses).mean()

    (finding,) = found(CODE, per_class, "float[4,12]", "int[4]<12")
    assert (finding.cause, finding.location.line) == ("axis", marked(per_class))
    assert "axis 1 of `logits`" in finding.message


def test_a_loop_over_a_few_classes_is_fast_enough(silent):
    def per_class(logits, target):
        return sum(F.cross_entropy(logits[c::3], target[c::3]) for c in range(3))

    assert silent(CODE, per_class, "float[9,5]", "int[9]<5") is Status.PROVED


def test_the_steps_of_a_solver_do_not_follow_the_inputs(silent):
    def sinkhorn_like(input, target):
        cost = (input[:, None] - target[None]).pow(2)
        u = torch.zeros(len(input))
        for _ in range(20):
            u = -torch.logsumexp(u[None] - cost, 1)
        return (u * u).sum()

    assert silent(CODE, sinkhorn_like, "float[6]", "float[6]") is Status.NOT_APPLICABLE


def test_tensor_operations_are_proved(silent):
    assert silent(CODE, F.cross_entropy, "float[16,5]", "int[16]<5") is Status.PROVED


def test_the_loop_is_shown_as_vmap(found):
    (finding,) = found(CODE, over_samples, "float[64,5]", "int[64]<5")
    first, *code = finding.help.splitlines()
    assert "tried on these inputs, with the same value and gradient" in first
    names = {"torch": torch}
    exec("\n".join(code), names)
    logits, target = torch.randn(7, 5), torch.randint(5, (7,))
    torch.testing.assert_close(names["over_samples"](logits, target), over_samples(logits, target))
    assert finding.evidence["times_faster"] > 1
    assert finding.evidence["seconds"] > finding.evidence["seconds_with_vmap"]
    assert "times as fast" in finding.notes[0]


def test_what_cannot_be_derived_is_said_in_words(found):
    (finding,) = found(CODE, while_loop, "float[16,5]", "int[16]<5")
    assert "`torch.vmap`" in finding.help
    assert "\n" not in finding.help
    assert "seconds" not in finding.evidence


def test_a_call_of_a_library_that_loops_is_no_loop(silent):
    """Each round of the loop inside runs the user's one line once."""
    network = torch.nn.Sequential(*[torch.nn.Linear(4, 4) for _ in range(12)])

    def loss(input, target):
        return F.mse_loss(network(input), target)

    assert silent(CODE, loss, "float[12,4]", "float[12,4]") is Status.PROVED


def test_the_chunks_of_lossproof_are_no_loop(silent):
    chunked = lossproof.chunk(F.cross_entropy, torch.nn.Linear(4, 3), chunk_size=1)

    def loss(hidden, target):
        return 2 * chunked(hidden, target)

    assert silent(CODE, loss, "float[16,4]", "int[16]<3") is Status.PROVED


def test_the_page_shows_what_is_right(page_code, module_of):
    source = page_code(CODE, "Example")
    wrong = module_of("import torch\n\n" + source, "wrong").cross_entropy
    body = page_code(CODE, "Use instead")
    right = module_of(f"import torch\n\ndef cross_entropy(logits, target):\n{body}", "right")
    given = torch.randn(6, 4), torch.randint(4, (6,))
    torch.testing.assert_close(wrong(*given), right.cross_entropy(*given))
