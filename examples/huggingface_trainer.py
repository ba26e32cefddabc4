"""A causal language model in the Trainer of Hugging Face, with a loss of the catalogue.

Sentences differ in length, so that micro-batches hold different numbers of tokens. With
``loss_function`` four of them are the one large batch; a mean over each micro-batch is not. Then
two terms are trained with a balancer. The model is made on the spot: nothing is downloaded. Run it
with ``python examples/huggingface_trainer.py``; it takes some seconds.
"""

import argparse
import tempfile
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from lossproof.integrations.transformers import BalancedTerms, loss_function
from lossproof.losses import cross_entropy_loss, focal_loss
from lossproof.terms import UncertaintyWeights

WORDS = 40
LONGEST = 24


class BalancedTrainer(BalancedTerms, Trainer):
    """A Trainer with a balancer."""


def model() -> LlamaForCausalLM:
    """A tiny one, with the same weights each time."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, **sizes, **heads))


def sentences(count: int) -> list[dict[str, torch.Tensor]]:
    """Words that count upwards by 1 to 3; most sentences are short, and padding does not count."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for k in range(count):
        steps = torch.randint(1, 4, (LONGEST,), generator=generator)
        words = steps.cumsum(0) % WORDS
        labels = words.clone()
        labels[LONGEST if k % 5 == 0 else 4 :] = -100
        rows.append({"input_ids": words, "labels": labels})
    return rows


def arguments(batch: int, accumulate: int, steps: int) -> TrainingArguments:
    """So many rows in a micro-batch, and so many of these in a step."""
    return TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulate,
        max_steps=steps,
        learning_rate=3e-3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )


def losses(trainer: Trainer) -> list[float]:
    """What it logged in each step."""
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def compare_ways(steps: int) -> None:
    """One large batch, micro-batches, and micro-batches that are averaged."""
    compute = loss_function(focal_loss, causal=True)

    def mean_of_means(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any) -> torch.Tensor:
        return compute(outputs, labels) / 4

    ways = {
        "one batch of 16": (compute, 16, 1),
        "4 of 4, by tokens": (compute, 4, 4),
        "4 of 4, mean of means": (mean_of_means, 4, 4),
    }
    print("loss in the first steps")
    for name, (loss, batch, accumulate) in ways.items():
        args = arguments(batch, accumulate, steps)
        trainer = Trainer(
            model=model(), args=args, train_dataset=sentences(160), compute_loss_func=loss
        )
        print(f"{name:>22}  {' '.join(f'{one:.6f}' for one in losses(trainer))}")


def balance(steps: int) -> None:
    """The next word, and logits that stay small."""

    def size(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        return outputs.logits.square().mean()

    trainer = BalancedTrainer(
        model=model(),
        args=arguments(4, 4, steps),
        train_dataset=sentences(160),
        terms={"next": loss_function(cross_entropy_loss, causal=True), "size": size},
        balancer=UncertaintyWeights(["next", "size"]),
    )
    losses(trainer)
    row = [row for row in trainer.state.log_history if "terms/total" in row][-1]
    print("the last step with a balancer")
    for name in ("next", "size"):
        value, weight = row[f"terms/value/{name}"], row[f"terms/weight/{name}"]
        print(f"{name:>6}  value {value:.4f}  weight {weight:.4f}")


def main() -> None:
    """Show both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4)
    steps = parser.parse_args().steps
    compare_ways(steps)
    balance(steps)


if __name__ == "__main__":
    main()
