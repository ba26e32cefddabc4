"""What each argument of a loss is for: prediction, target, weight, mask, length, index.

Told by what people call it, by its type and shape, and by whether a gradient is wanted for it.
Where these disagree, the gradient decides: what is differentiated is predicted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import torch

from lossproof.checks.inputs import Argument, Inputs
from lossproof.checks.trace import tensors_in

Tensor = torch.Tensor
Role = Literal["prediction", "target", "weight", "mask", "length", "index", "other"]

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

# The last word of a name says what a thing is: `target_mask` is a mask, `input_lengths` lengths.
_HEADS: dict[Role, frozenset[str]] = {
    "length": frozenset("length lengths len lens il tl".split()),
    "weight": frozenset("weight weights w importance weighting".split()),
    "mask": frozenset("mask masks valid pad padding padded ignore ignored keep visible".split()),
    "index": frozenset("index indices idx ids action actions position positions".split()),
}
# One of these anywhere outweighs what stands beside it: `teacher_logits`, `pred_labels`.
_SURELY_PREDICTED = frozenset(
    """
    pred preds prediction predictions predicted hat yhat ypred student estimate estimates
    estimated estimation hypothesis recon reconstruction reconstructed generated fake
    """.split()
)
_SURELY_TARGET = frozenset(
    """
    target targets targ tgt label labels gt truth true ytrue teacher reference ref real expected
    clean groundtruth onehot annotation annotations answer answers
    """.split()
)
_LIKELY_PREDICTED = frozenset(
    """
    input inputs output outputs out logit logits score scores prob probs probability probabilities
    anchor emb embs embedding embeddings feature features feat feats z q risk mu mean var logvar
    sigma std logp logprob logprobs pr hazard hazards hz
    """.split()
)
_LIKELY_TARGET = frozenset(
    """
    y t e event events time times duration durations censor censored status reward rewards return
    returns advantage advantages class classes correct gold
    """.split()
)
_BY_WORD: tuple[tuple[Role, frozenset[str]], ...] = (
    ("prediction", _SURELY_PREDICTED),
    ("target", _SURELY_TARGET),
    ("prediction", _LIKELY_PREDICTED),
    ("target", _LIKELY_TARGET),
)
_KNOWN = frozenset().union(*_HEADS.values(), *(words for _, words in _BY_WORD))
# A lone mask with such a word says which elements count; a bare `mask` is the one to predict.
_SELECTING = frozenset(
    "pad padding padded loss valid ignore ignored keep visible attention".split()
)


def roles_of(inputs: Inputs) -> tuple[Role, ...]:
    """The role of every argument of the call, in order.

    Example:
        >>> import torch
        >>> from lossproof.checks.inputs import Argument, Inputs
        >>> roles_of(Inputs((Argument("logits", torch.randn(4, 3), differentiable=True),
        ...                  Argument("y", torch.tensor([0, 2, 1, 1])),
        ...                  Argument("class_weight", torch.ones(3)))))
        ('prediction', 'target', 'weight')
    """
    arguments = inputs.arguments
    named = [role_by_name(argument.name) for argument in arguments]
    roles: list[Role] = ["other"] * len(arguments)
    predictions = _predictions(arguments, named)
    for position in predictions:
        roles[position] = "prediction"
    for position, argument in enumerate(arguments):
        if position not in predictions:
            roles[position] = _beside_predictions(argument, named[position])
    _appoint_target(arguments, named, roles)
    return tuple(roles)


def position_of(inputs: Inputs, role: Role) -> int | None:
    """The position of the first argument with this role, if there is one."""
    roles = roles_of(inputs)
    return roles.index(role) if role in roles else None


def role_by_name(name: str) -> Role | None:
    """The role that a name alone suggests; ``None`` for a name that says nothing.

    Example:
        >>> [role_by_name(name) for name in ("y_pred", "target_mask", "teacher_logits", "img1")]
        ['prediction', 'mask', 'target', None]
    """
    words = [word.lower() for word in _WORD.findall(name)]
    if not words:
        return None
    head = next((word for word in reversed(words) if word in _KNOWN), words[-1])
    for role, heads in _HEADS.items():
        if head in heads or (role == "mask" and words[0] == "is"):
            return role
    for role, group in _BY_WORD:
        if not group.isdisjoint(words):
            return role
    return None


def _predictions(arguments: Sequence[Argument], named: Sequence[Role | None]) -> list[int]:
    """What a gradient is wanted for, less what is plainly something else beside a prediction.

    Where no gradient is wanted for any argument (a loss of its own parameters), the names decide.
    """
    wanted = [i for i, argument in enumerate(arguments) if argument.differentiable]
    if not wanted:
        return [
            i
            for i, argument in enumerate(arguments)
            if named[i] == "prediction"
            and isinstance(argument.value, Tensor)
            and argument.value.is_floating_point()
        ][:1]
    plain = [i for i in wanted if named[i] in (None, "prediction")]
    return plain or wanted


def _beside_predictions(argument: Argument, named: Role | None) -> Role:
    """The role of an argument that is no prediction; ``other`` where it is not plain."""
    if next(tensors_in(argument.value), None) is None:
        return "other"
    if argument.differentiable:
        # A gradient for a `target` is a convenience; for a `weight`, it is a layer's own.
        return "target" if named == "target" else "other"
    return "other" if named in (None, "prediction") else named


def _appoint_target(
    arguments: Sequence[Argument], named: Sequence[Role | None], roles: list[Role]
) -> None:
    """Where no name says so, find the argument that the prediction is compared with."""
    if "target" in roles or "prediction" not in roles:
        return
    prediction = arguments[roles.index("prediction")].value
    ranked = [
        *_unnamed(arguments, roles, integers=True),
        *(i for i in _unnamed(arguments, roles) if _alike(arguments[i].value, prediction)),
        *(i for i, role in enumerate(roles) if role == "mask" and _predictable(arguments[i])),
    ]
    if ranked:
        roles[ranked[0]] = "target"


def _unnamed(
    arguments: Sequence[Argument], roles: Sequence[Role], integers: bool = False
) -> list[int]:
    """The tensors without a role and without a gradient, of whole numbers or of others."""
    return [
        i
        for i, argument in enumerate(arguments)
        if roles[i] == "other"
        and not argument.differentiable
        and isinstance(argument.value, Tensor)
        and argument.value.is_floating_point() != integers
    ]


def _alike(value: Tensor, prediction: object) -> bool:
    """Whether one can be compared with the other: one number, or one row, for each."""
    if not isinstance(prediction, Tensor):
        return False
    rows = value.dim() > 0 and prediction.dim() > 0 and len(value) == len(prediction)
    return value.shape == prediction.shape or (rows and value.dim() < prediction.dim())


def _predictable(argument: Argument) -> bool:
    words = {word.lower() for word in _WORD.findall(argument.name)}
    return _SELECTING.isdisjoint(words) and isinstance(argument.value, Tensor)
