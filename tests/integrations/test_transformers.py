"""Losses and balancers in the Trainer of Hugging Face, on tiny models that are made on the spot."""

import sys
import warnings

import pytest
import torch
from torch.nn import functional

pytest.importorskip("transformers")

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of what transformers imports
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        BertForTokenClassification,
        LlamaConfig,
        LlamaForCausalLM,
        Trainer,
        TrainingArguments,
    )

import lossproof
from lossproof.errors import NonFiniteTermError
from lossproof.integrations.transformers import BalancedTerms, loss_function, watch_callback
from lossproof.losses import FocalLoss, cross_entropy_loss, dice_loss, huber_loss
from lossproof.terms import FixedWeights, UncertaintyWeights, UPGrad

WORDS = 29
LENGTH = 12
WEIGHTS = {"next": 1.0, "scale": 0.1, "size": 0.05}


class BalancedTrainer(BalancedTerms, Trainer):
    pass


def language_model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 32}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=WORDS, **sizes, **heads, attn_implementation="eager")
    return LlamaForCausalLM(config).double()


def sentences(count=16):
    """Of as many words each, of which very different numbers count."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for k in range(count):
        words = torch.randint(0, WORDS, (LENGTH,), generator=generator)
        labels = words.clone()
        labels[2 if k % 4 else LENGTH :] = -100
        rows.append({"input_ids": words, "labels": labels})
    return rows


def arguments(folder, **options):
    defaults = {
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 4,
        "num_train_epochs": 1,
        "save_strategy": "no",
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "linear",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "seed": 0,
    }
    return TrainingArguments(output_dir=str(folder), **{**defaults, **options})


def plain_trainer(folder, loss, model=None, **options):
    return Trainer(
        model=model or language_model(),
        args=arguments(folder, **options),
        train_dataset=sentences(),
        eval_dataset=sentences(8),
        compute_loss_func=loss,
    )


def log_scale(input, target, *, mask=None, reduction="mean", normalizer=None):
    values = input.logsumexp(-1).square()
    return lossproof.reduce(values, None, reduction, mask=mask, normalizer=normalizer)


def balanced_trainer(folder, balancer, **options):
    return BalancedTrainer(
        model=language_model(),
        args=arguments(folder, **options),
        train_dataset=sentences(),
        eval_dataset=sentences(8),
        terms={
            "next": loss_function(cross_entropy_loss, causal=True),
            "scale": loss_function(log_scale, causal=True),
            "size": lambda outputs, labels: outputs.logits.square().mean(),
        },
        balancer=balancer,
    )


def parameters_of(trainer):
    return [one.detach().clone() for one in trainer.model.parameters()]


def logged(trainer, key="loss"):
    return [row[key] for row in trainer.state.log_history if key in row]


def trained(trainer, **options):
    trainer.train(**options)
    return parameters_of(trainer)


def close(found, expected, tolerance=1e-6):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# ---- compute_loss_func

LOSSES = {
    "torch's function": functional.cross_entropy,
    "torch's Module": torch.nn.CrossEntropyLoss(),
    "ours": cross_entropy_loss,
    "our Module, which is its limit": FocalLoss(gamma=0.0),
}


@pytest.fixture(scope="module")
def own_loss(tmp_path_factory):
    """The model's own loss of the next word."""
    trainer = plain_trainer(tmp_path_factory.mktemp("own"), None, gradient_accumulation_steps=2)
    parameters = trained(trainer)
    return parameters, logged(trainer), trainer.evaluate()["eval_loss"]


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_cross_entropy_trains_as_the_models_own_loss(tmp_path, own_loss, loss):
    trainer = plain_trainer(
        tmp_path, loss_function(loss, causal=True), gradient_accumulation_steps=2
    )
    close(trained(trainer), own_loss[0])
    close(logged(trainer), own_loss[1])
    close(trainer.evaluate()["eval_loss"], own_loss[2])


@pytest.mark.parametrize("loss", [FocalLoss(gamma=2.0), log_scale])
def test_micro_batches_with_uneven_numbers_of_words_are_the_large_batch(tmp_path, loss):
    compute = loss_function(loss, causal=True)
    whole = plain_trainer(tmp_path, compute, per_device_train_batch_size=8)
    parts = plain_trainer(tmp_path, compute, gradient_accumulation_steps=4)
    close(trained(parts), trained(whole))
    close(logged(parts), logged(whole))


def test_the_mean_of_means_is_another_one(tmp_path):
    """What a loss that is not told of the whole batch would do."""
    compute = loss_function(cross_entropy_loss, causal=True)

    def untold(outputs, labels, num_items_in_batch):
        return compute(outputs, labels) / 4

    whole = plain_trainer(tmp_path, compute, per_device_train_batch_size=8)
    parts = plain_trainer(tmp_path, untold, gradient_accumulation_steps=4)
    assert (
        max((a - b).abs().max() for a, b in zip(trained(parts), trained(whole), strict=True)) > 0.01
    )


@pytest.mark.parametrize("told", [True, False])
def test_a_causal_model_of_ones_own_says_that_it_shifts(tmp_path, told):
    """Or Trainer counts the first position of each row, which nothing predicts."""

    class Bigrams(torch.nn.Module):
        def __init__(self):
            super().__init__()
            if told:
                self.loss_type = "ForCausalLM"
            self.table = torch.nn.Embedding(WORDS, WORDS)

        def forward(self, input_ids, labels=None):
            return {"logits": self.table(input_ids)}

    compute = loss_function(cross_entropy_loss, causal=True)
    trainer = plain_trainer(
        tmp_path, compute, Bigrams(), max_steps=1, per_device_train_batch_size=16, learning_rate=0.0
    )
    trainer.train()
    rows = sentences()
    words, labels = (torch.stack([row[key] for row in rows]) for key in ("input_ids", "labels"))
    counted = (labels[:, 1:] != -100).sum() / (labels != -100).sum()
    mean = functional.cross_entropy(
        trainer.model.table(words)[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    )
    wanted = mean if told else mean * counted
    assert logged(trainer) == pytest.approx([wanted.item()], rel=1e-6)


def test_the_hidden_states_through_a_chunked_output_layer(tmp_path):
    """The model computes the logits of one position, and the loss those of all, in chunks."""
    whole = plain_trainer(tmp_path, loss_function(cross_entropy_loss, causal=True))
    model = language_model()
    chunked = lossproof.chunk(functional.cross_entropy, model.lm_head, chunk_size=7)
    compute = loss_function(chunked, output="hidden_states", causal=True)
    trainer = plain_trainer(tmp_path, compute, model)
    shapes = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))

    def with_hidden_states(rows):
        batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
        return {**batch, "output_hidden_states": True, "logits_to_keep": 1}

    trainer.data_collator = with_hidden_states
    close(trained(trainer), trained(whole))
    assert {tuple(shape) for shape in shapes if len(shape) == 3} == {(2, 1, WORDS)}


# ---- other shapes


def outputs_of(logits, **others):
    return {"logits": logits, **others}


def test_rows_of_a_token_classifier(tmp_path):
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 20,
        "hidden_size": 8,
        "intermediate_size": 8,
        "max_position_embeddings": 16,
    }
    config = BertConfig(num_hidden_layers=1, num_attention_heads=2, num_labels=5, **sizes)
    words = torch.randint(0, 20, (4, 6))
    labels = torch.randint(0, 5, (4, 6))
    labels[1, 2:] = -100
    model = BertForTokenClassification(config).eval()
    found = model(input_ids=words, labels=labels)
    for loss in (cross_entropy_loss, functional.cross_entropy):
        close(loss_function(loss)(found, labels), found.loss)
        parts = [
            loss_function(loss)(outputs_of(found.logits[k : k + 2]), labels[k : k + 2], 20)
            for k in (0, 2)
        ]
        close(sum(parts), found.loss)


@pytest.mark.parametrize("problem", ["regression", "single_label_classification"])
def test_one_label_for_a_sequence(problem):
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 20,
        "hidden_size": 8,
        "intermediate_size": 8,
        "max_position_embeddings": 16,
    }
    regression = problem == "regression"
    config = BertConfig(
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=1 if regression else 3,
        problem_type=problem,
        **sizes,
    )
    words = torch.randint(0, 20, (4, 6))
    labels = torch.randn(4) if regression else torch.randint(0, 3, (4,))
    found = BertForSequenceClassification(config).eval()(input_ids=words, labels=labels)
    loss = functional.mse_loss if regression else functional.cross_entropy
    close(loss_function(loss)(found, labels, 4), found.loss)
    if regression:
        close(
            loss_function(huber_loss)(found, labels, 8), huber_loss(found.logits[:, 0], labels) / 2
        )


def test_images_have_their_classes_on_the_second_axis():
    logits, labels = torch.randn(2, 4, 5, 6), torch.randint(0, 4, (2, 5, 6))
    labels[0, 0] = -100
    expected = functional.cross_entropy(logits, labels)
    close(loss_function(functional.cross_entropy)(outputs_of(logits), labels), expected)
    close(loss_function(cross_entropy_loss)(outputs_of(logits), labels, 54), expected)


def test_where_the_axis_of_the_classes_is_open_it_is_asked_for():
    logits, labels = torch.randn(4, 4, 4), torch.randint(0, 4, (4, 4))
    with pytest.raises(ValueError, match="say which by classes='first' or classes='last'"):
        loss_function(cross_entropy_loss)(outputs_of(logits), labels)
    for classes, arranged in (("first", logits), ("last", logits.mT)):
        found = loss_function(cross_entropy_loss, classes=classes)(outputs_of(logits), labels)
        close(found, functional.cross_entropy(arranged, labels))


def test_a_loss_of_whole_vectors_divides_by_their_number():
    """Trainer counts the elements of the labels, of which each vector has five."""

    def distance(input, target, *, reduction="mean"):
        return lossproof.reduce((input - target).norm(dim=1), None, reduction)

    prediction, target = torch.randn(6, 5), torch.randn(6, 5)
    compute = loss_function(distance)
    close(compute(outputs_of(prediction), target, 30), distance(prediction, target))
    parts = [compute(outputs_of(prediction[k::2]), target[k::2], 30) for k in (0, 1)]
    close(sum(parts), distance(prediction, target))


def test_a_loss_of_whole_images():
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    close(loss_function(dice_loss)(outputs_of(logits), labels, 40), dice_loss(logits, labels))


@pytest.mark.parametrize("output", ["scores", 1])
def test_another_output(output):
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    compute = loss_function(functional.cross_entropy, output=output)
    outputs = (
        {"logits": logits * 0, "scores": logits} if output == "scores" else (0 * logits, logits)
    )
    close(compute(outputs, labels, 4), functional.cross_entropy(logits, labels))


def test_what_takes_no_ignored_label_is_given_the_others():
    def absolute(input, target, *, reduction="mean"):
        assert (target >= 0).all()
        values = (input.softmax(-1) - functional.one_hot(target, 3)).abs().sum(-1)
        return lossproof.reduce(values, None, reduction)

    logits, labels = torch.randn(2, 4, 3), torch.tensor([[0, 1, -100, 2], [-100, 1, 2, -100]])
    keep = labels != -100
    expected = absolute(logits[keep], labels[keep])
    close(loss_function(absolute)(outputs_of(logits), labels), expected)
    images, labels = torch.randn(2, 3, 2, 5), torch.full((2, 2, 5), -100)
    with pytest.raises(ValueError, match="takes neither ignore_index nor mask"):
        loss_function(absolute)(outputs_of(images), labels)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: loss_function(torch.nn.MSELoss),
            TypeError,
            "`loss` must be a function or a Module",
        ),
        (lambda: loss_function(dice_loss, output=1.5), TypeError, "`output` must be a name"),
        (lambda: loss_function(dice_loss, causal=1), TypeError, "`causal` must be True or False"),
        (
            lambda: loss_function(dice_loss, classes="middle"),
            ValueError,
            "`classes` must be one of",
        ),
        (
            lambda: loss_function(torch.nn.CrossEntropyLoss(ignore_index=0)),
            ValueError,
            "`loss` ignores the label 0, and Trainer counts all labels but -100",
        ),
        (
            lambda: loss_function(dice_loss)({"logits": torch.zeros(2, 3)}, None),
            ValueError,
            r"needs a column named 'labels', .* remove_unused_columns=False",
        ),
        (
            lambda: loss_function(dice_loss, output="scores")(
                {"logits": torch.zeros(2, 3)}, torch.zeros(2)
            ),
            ValueError,
            r"no tensor called 'scores': choose `output` from \['logits'\]",
        ),
        (
            lambda: loss_function(dice_loss)((torch.zeros(2, 3),), torch.zeros(2)),
            ValueError,
            "it is a tuple, give `output` as a position below 1",
        ),
        (
            lambda: loss_function(dice_loss, causal=True)(
                {"logits": torch.zeros(2, 3, 4)}, torch.zeros(2, 4, dtype=torch.long)
            ),
            ValueError,
            "with `causal` the logits must have the shape of the labels and an axis of classes",
        ),
        (
            lambda: loss_function(lambda input, target: (input - target).square().mean())(
                {"logits": torch.zeros(2, 3)}, torch.zeros(2, 3), 6
            ),
            ValueError,
            "`loss` must follow the contract",
        ),
    ],
)
def test_wrong_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()


# ---- terms and a balancer


def plain_loop(balancer, model, batches, micro, learning_rate=1e-2):
    """The same training by hand, with batches that are not split; returns what each step told."""
    optimizer = torch.optim.SGD([*model.parameters(), *balancer.parameters()], lr=learning_rate)
    told = []
    for k in range(0, len(batches), micro):
        optimizer.zero_grad()
        for j, batch in enumerate(batches[k : k + micro]):
            labels = batch["labels"][:, 1:].flatten()
            count = sum((one["labels"][:, 1:] != -100).sum() for one in batches[k : k + micro])
            logits = model(input_ids=batch["input_ids"]).logits
            rows = logits[:, :-1].flatten(0, 1)[labels != -100]
            terms = {
                "next": functional.cross_entropy(
                    rows, labels[labels != -100], reduction="sum"
                ) * micro / count,
                "scale": rows.logsumexp(-1).square().sum() * micro / count,
                "size": logits.square().mean(),
            }  # fmt: skip
            refresh = None if j == 0 else False
            step = balancer.backward(terms, model, factor=1 / micro, refresh=refresh)
            told += [step] if j == 0 else []
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return told


MAKES = {
    "fixed": lambda: FixedWeights(WEIGHTS),
    "from the Gramian": lambda: UPGrad(tuple(WEIGHTS)),
    "learned": lambda: UncertaintyWeights(tuple(WEIGHTS)),
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_a_balancer_does_what_a_plain_loop_does(tmp_path, make):
    trainer = balanced_trainer(
        tmp_path,
        make(),
        gradient_accumulation_steps=4,
        optim="sgd",
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
    )
    found = trained(trainer)
    balancer, model, rows = make(), language_model(), sentences()
    batches = [
        {key: torch.stack([row[key] for row in rows[k : k + 2]]) for key in rows[0]}
        for k in range(0, len(rows), 2)
    ]
    told = plain_loop(balancer, model, batches, 4)
    close(found, [one.detach() for one in model.parameters()])
    close(list(trainer.balancer.parameters()), list(balancer.parameters()))
    for name in WEIGHTS:
        weights = [float(step.weight[name]) for step in told]
        close(logged(trainer, f"terms/weight/{name}"), weights)
        assert len(weights) == 2


def test_micro_batches_of_terms_are_the_large_batch(tmp_path):
    whole = balanced_trainer(tmp_path, MAKES["fixed"](), per_device_train_batch_size=8)
    parts = balanced_trainer(tmp_path, MAKES["fixed"](), gradient_accumulation_steps=4)
    close(trained(parts), trained(whole))
    for key in ("loss", "grad_norm", "terms/total", *(f"terms/value/{name}" for name in WEIGHTS)):
        close(logged(parts, key), logged(whole, key))
        assert len(logged(parts, key)) == 2
    assert parts.evaluate()["eval_loss"] == pytest.approx(whole.evaluate()["eval_loss"], rel=1e-6)


def test_the_loss_in_training_and_evaluation_is_the_plain_sum(tmp_path):
    trainer = balanced_trainer(
        tmp_path,
        MAKES["from the Gramian"](),
        gradient_accumulation_steps=2,
        per_device_eval_batch_size=8,
    )
    trainer.train()
    values = [sum(row[f"terms/value/{name}"] for name in WEIGHTS)
        for row in trainer.state.log_history if "terms/total" in row]  # fmt: skip
    close(logged(trainer), values)
    steps = trainer.balancer.steps
    found = trainer.evaluate()["eval_loss"]
    rows = sentences(8)
    words, labels = (torch.stack([row[key] for row in rows]) for key in ("input_ids", "labels"))
    with torch.no_grad():
        outputs = trainer.model(input_ids=words)
        expected = sum(term(outputs, labels) for term in trainer.terms.values())
    assert found == pytest.approx(float(expected), rel=1e-6)
    assert trainer.balancer.steps == steps == 4


@pytest.mark.parametrize("make", [MAKES["from the Gramian"], MAKES["learned"]])
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path, make):
    saving = {"save_strategy": "steps", "save_steps": 2, "gradient_accumulation_steps": 2}
    whole = balanced_trainer(tmp_path, make(), **saving, num_train_epochs=2)
    expected = trained(whole)
    resumed = balanced_trainer(tmp_path, make(), **saving, num_train_epochs=2)
    found = trained(resumed, resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    close(found, expected, 0.0)
    state, other = (one.balancer.state_dict() for one in (resumed, whole))
    assert state.pop("_extra_state") == other.pop("_extra_state")
    close(state, other, 0.0)
    assert resumed.balancer.steps == 8
    rows, others = (
        [row for row in one.state.log_history if "loss" in row] for one in (resumed, whole)
    )
    assert rows == others
    assert len(rows) == 8
    assert all("terms/weight/next" in row for row in rows)


def test_bfloat16(tmp_path):
    trainer = balanced_trainer(tmp_path, MAKES["from the Gramian"](), bf16=True)
    trainer.model.float()
    trainer.train()
    plain = balanced_trainer(tmp_path, MAKES["from the Gramian"]())
    plain.train()
    close(logged(trainer), logged(plain), 0.05)
    assert logged(trainer) != logged(plain)


def test_float16_with_a_scaler(tmp_path):
    """Accelerate wants a GPU for it; the scaler itself works without."""
    options = {"max_steps": 1, "optim": "sgd", "max_grad_norm": 0.0}
    trainer = balanced_trainer(tmp_path, MAKES["from the Gramian"](), **options)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    found = trained(trainer)
    plain = balanced_trainer(tmp_path, MAKES["from the Gramian"](), **options)
    close(found, trained(plain))
    assert trainer.accelerator.scaler.get_scale() == 2.0**10


def test_a_checkpoint_without_a_balancer_is_refused(tmp_path):
    plain_trainer(tmp_path, None, save_strategy="steps", save_steps=4, max_steps=4).train()
    trainer = balanced_trainer(tmp_path, MAKES["fixed"](), max_steps=8)
    with pytest.raises(ValueError, match="has no balancer.pt: it was made without this balancer"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_another_prefix_or_none(tmp_path):
    trainer = balanced_trainer(tmp_path, MAKES["fixed"](), max_steps=1)
    trainer.terms_prefix = ""
    trainer.train()
    assert "value/next" in trainer.state.log_history[0]
    trainer.terms_prefix = None
    trainer.train()
    assert not any("value/next" in row for row in trainer.state.log_history)


# ---- what does not work is refused


def trainer_of(folder, **options):
    term = loss_function(cross_entropy_loss, causal=True)
    defaults = {"terms": {"next": term}, "balancer": FixedWeights(), "args": arguments(folder)}
    return BalancedTrainer(model=language_model(), **{**defaults, **options})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"terms": []}, TypeError, r"`terms` must map names to functions, got \[\]"),
        ({"terms": {"next": 3}}, TypeError, "`terms` must map names to functions"),
        ({"balancer": torch.nn.Linear(2, 2)}, TypeError, "`balancer` must be a Balancer"),
        ({"compute_loss_func": max}, ValueError, "`compute_loss_func` is made of `terms`"),
    ],
)
def test_wrong_arguments(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        trainer_of(tmp_path, **options)


def test_an_optimizer_that_leaves_the_balancer_out_is_refused(tmp_path):
    model, balancer = language_model(), UncertaintyWeights(["next"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = trainer_of(tmp_path, balancer=balancer, optimizers=(optimizer, None))
    with pytest.raises(ValueError, match=r"add balancer.parameters\(\) to it"):
        trainer.create_optimizer()


@pytest.mark.parametrize("kind", ["DEEPSPEED", "FSDP", "XLA"])
def test_what_takes_the_backward_pass_is_refused(tmp_path, monkeypatch, kind):
    import accelerate

    how = getattr(accelerate.DistributedType, kind)
    trainer = trainer_of(tmp_path)
    monkeypatch.setattr(type(trainer.accelerator), "distributed_type", how)
    from lossproof.integrations.transformers import _refuse_what_does_not_work

    with pytest.raises(ValueError, match=f"does not work with {kind}"):
        _refuse_what_does_not_work(trainer)


def test_several_devices_in_one_process_are_refused(tmp_path):
    args = arguments(tmp_path)
    args._n_gpu = 2
    with pytest.raises(ValueError, match="DataParallel, .* start it with torchrun"):
        trainer_of(tmp_path, args=args)


# ---- the training guard


class Rooted(torch.nn.Module):
    """The root of a line through 0, which has no finite gradient where the line is 0."""

    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x, **others):
        return {"logits": (self.slope * x).abs().sqrt()}


def rooted_trainer(folder, kind=Trainer, **options):
    rows = [{"x": torch.full((3,), float(k < 8)), "labels": torch.zeros(3)} for k in range(12)]
    sequential = {"train_sampling_strategy": "sequential", "remove_unused_columns": False}
    args = arguments(folder, max_grad_norm=0.0, **sequential)
    return kind(model=Rooted(), args=args, train_dataset=rows, **options)


def test_a_training_is_watched(tmp_path):
    alarms = []
    compute = loss_function(functional.l1_loss)
    trainer = rooted_trainer(tmp_path, compute_loss_func=compute)
    watching = watch_callback(trainer, on_alarm=alarms.append, share=1.0)
    trainer.train()
    alarm = alarms[0]
    assert (alarm.kind.value, alarm.step) == ("non-finite-gradient", 5)
    assert alarm.diagnosis.operation == "sqrt"
    assert alarm.diagnosis.location.file.endswith("test_transformers.py")
    rows = [row for row in trainer.state.log_history if "watch/loss" in row]
    assert [row["watch/loss"] for row in rows[:4]] == pytest.approx(logged(trainer)[:4])
    assert [row["watch/alarms"] for row in rows[:5]] == [0, 0, 0, 0, 1]
    assert watching.guard.retired is None
    assert "stopped" in repr(watching.guard)


def test_terms_are_watched_with_their_gradients(tmp_path):
    terms = {
        "root": loss_function(functional.l1_loss),
        "size": lambda outputs, labels: outputs["logits"].square().mean(),
    }
    balancer = UPGrad(["root", "size"])
    trainer = rooted_trainer(tmp_path, BalancedTrainer, terms=terms, balancer=balancer)
    watching = watch_callback(trainer, on_alarm="raise", share=1.0, prefix="")
    with pytest.raises(NonFiniteTermError, match="root"):
        trainer.train()
    assert "stopped" in repr(watching.guard)  # though no callback was told of the end
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert len(rows) == 4
    for row in rows:
        for name in terms:
            assert row[f"gradient_norm/{name}"] == pytest.approx(row[f"terms/norm/{name}"])
            assert row[name] == pytest.approx(row[f"terms/value/{name}"])


def test_a_model_that_is_made_anew_for_the_training_is_watched(tmp_path):
    options = {"model_init": language_model, "args": arguments(tmp_path, max_steps=3)}
    trainer = Trainer(
        **options,
        train_dataset=sentences(),
        compute_loss_func=loss_function(cross_entropy_loss, causal=True),
    )
    watching = watch_callback(trainer)
    trainer.train()
    assert len(watching.guard.history) == 3
    assert logged(trainer, "watch/loss") == pytest.approx(logged(trainer))


def test_what_is_no_trainer_cannot_be_watched():
    with pytest.raises(TypeError, match="`trainer` must be a transformers.Trainer, got Linear"):
        watch_callback(torch.nn.Linear(2, 2))


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'lossproof\[transformers\]'"):
        watch_callback(object())
