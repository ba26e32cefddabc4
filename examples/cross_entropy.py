"""My cross entropy against PyTorch's: equal as far as the eye can see. What did it miss?

A cross entropy written as a Python loop gives the value and the gradient of `nn.CrossEntropyLoss`.
Comparing them by hand has a trap of its own, and tells nothing about large logits, speed or shapes.
`lossproof.compare` looks at all of it.

    python examples/cross_entropy.py
    lossproof compare examples/cross_entropy.py:cross_entropy torch.nn:CrossEntropyLoss
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import lossproof


def cross_entropies(logits: Tensor, target: Tensor) -> Tensor:
    """-log(exp(logits[target]) / sum(exp(logits))) for each sample, written as it is read.

    The classes lie on the second axis, as PyTorch has it; further axes hold more samples.
    """
    rows = logits.movedim(1, -1).reshape(-1, logits.shape[1])
    losses = []
    for row, label in zip(rows, target.reshape(-1), strict=True):
        odds = row.exp()
        losses.append(-(odds[label] / odds.sum()).log())
    return torch.stack(losses)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """The mean over the samples."""
    return cross_entropies(logits, target).mean()


def inputs() -> tuple[Tensor, Tensor]:
    """Logits of 32 samples over 10 classes, and their classes."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(32, 10, generator=generator, requires_grad=True)
    return logits, torch.randint(10, (32,), generator=generator)


def by_hand() -> None:
    """The trap: `b = a` is no second tensor, so both losses add to one and the same gradient."""
    print("== Comparing by hand\n")
    logits, target = inputs()
    same = logits
    cross_entropy(logits, target).backward()
    nn.CrossEntropyLoss()(same, target).backward()
    print(f"equal gradients: {torch.equal(logits.grad, same.grad)}, of course:", end=" ")
    print(f"they are one tensor ({logits.grad is same.grad}), which holds the sum of both.\n")


def side_by_side() -> None:
    """Fresh leaves for each side, and everything else that may differ."""
    print("== Comparing with lossproof\n")
    print(lossproof.compare(cross_entropy, nn.CrossEntropyLoss(), *inputs()), "\n")


def large_logits() -> None:
    """What the comparison says of logits of 100, seen with one's own eyes."""
    print("== Logits of 100\n")
    target = torch.tensor([0])
    logits = torch.tensor([[100.0, 0.0]])
    print(f"the loop: {cross_entropy(logits, target)}, because exp(100) is {logits[0, 0].exp()}")
    print(f"PyTorch:  {nn.CrossEntropyLoss()(logits, target)}, by log_softmax\n")


def one_loss_per_sample() -> None:
    """A vector cannot be sent backward as it is; a gradient for each element can."""
    print("== A loss that is a vector\n")
    logits, target = inputs()
    losses = cross_entropies(logits, target)
    try:
        losses.backward()
    except RuntimeError as error:
        print(f"backward() says: {error}")
    losses.backward(gradient=torch.full_like(losses, 1 / len(losses)))
    mean = torch.autograd.grad(cross_entropy(logits, target), logits)[0]
    same = torch.allclose(logits.grad, mean)
    print(f"with gradient= 1/N for each, it is the gradient of the mean: {same}\n")
    print(lossproof.compare(cross_entropies, nn.CrossEntropyLoss(), *inputs()))


def without_the_loop() -> None:
    """The same loss as one call of `torch.vmap`, which `check` derives, tries and times."""
    print("\n== The loop\n")
    report = lossproof.check(cross_entropy, *inputs(), select=["python-loop"])
    for finding in report:
        print(finding.notes[0], finding.help, sep="\n\n")


def main() -> None:
    """Tell the story."""
    by_hand()
    side_by_side()
    large_logits()
    one_loss_per_sample()
    without_the_loop()


if __name__ == "__main__":
    main()
