"""The inputs a loss is checked on: given tensors, or tensors made from a specification.

A specification is text. ``"float[8,10], int[8]<10"`` is a float32 tensor of shape (8, 10) and a
tensor of 8 integers from 0 to 9; ``"int[8]>0<10"`` leaves out the 0. Names may stand before the
types (``"logits float[8,10]; target int[8]<10"``), items are separated by commas or semicolons, and
a literal (``0.5``, ``True``, ``'mean'``) stands for itself. Where nothing is given,
:mod:`lossproof.checks.inference` finds specifications that fit.
"""

from __future__ import annotations

import ast
import difflib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lossproof.checks.subject import Subject
from lossproof.checks.trace import tensors_in
from lossproof.errors import UsageError

Tensor = torch.Tensor

FLOATS = {
    "float": torch.float32, "float32": torch.float32, "float64": torch.float64,
    "double": torch.float64, "float16": torch.float16, "half": torch.float16,
    "bfloat16": torch.bfloat16,
}  # fmt: skip
INTEGERS = {
    "int": torch.int64, "int64": torch.int64, "long": torch.int64, "int32": torch.int32,
    "int16": torch.int16, "int8": torch.int8, "uint8": torch.uint8,
}  # fmt: skip

COMPLEXES = {
    "complex": torch.complex64, "complex64": torch.complex64, "complex128": torch.complex128,
}  # fmt: skip


def _class_axis(shape: tuple[int, ...]) -> int:
    """The axis of the classes: the last, but the second of what has rows and columns."""
    return 1 if len(shape) >= 4 else -1


def _one_hot(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    scores = torch.rand(shape, generator=generator)
    if not scores.numel() or not shape:
        return torch.ones(shape)
    axis = _class_axis(shape)
    return torch.zeros(shape).scatter_(axis, scores.argmax(axis, keepdim=True), 1.0)


def _boxes(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Boxes as two opposite corners, x1, y1, x2, y2, that overlap with one another."""
    if not shape or shape[-1] % 4:
        raise UsageError(f"the last axis of `boxes` must hold x1, y1, x2, y2, got {list(shape)}")
    corners = torch.rand((*shape[:-1], shape[-1] // 4, 2, 2), generator=generator)
    low, size = corners.unbind(-2)
    return torch.stack((low * 4, low * 4 + 4 + size * 8), -2).reshape(shape)


def _rotations(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Rotation matrices, as the exponential of skew-symmetric ones."""
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise UsageError(f"the last two axes of `rotation` must be equal, got {list(shape)}")
    matrices = torch.randn(shape, generator=generator, dtype=torch.float64)
    skew: Tensor = torch.linalg.matrix_exp(0.5 * (matrices - matrices.mT))
    return skew.float()


DRAWS: dict[str, Callable[[tuple[int, ...], torch.Generator], Tensor]] = {
    "prob": lambda s, g: torch.softmax(torch.randn(s, generator=g), _class_axis(s)),
    "logprob": lambda s, g: torch.log_softmax(torch.randn(s, generator=g), _class_axis(s)),
    "onehot": _one_hot,
    "unit": lambda s, g: torch.rand(s, generator=g) * 0.9 + 0.05,
    "positive": lambda s, g: torch.rand(s, generator=g) * 2 + 0.1,
    "binary": lambda s, g: torch.randint(0, 2, s, generator=g).float(),
    "sign": lambda s, g: torch.randint(0, 2, s, generator=g).float() * 2 - 1,
    "bool": lambda s, g: torch.randint(0, 2, s, generator=g).bool(),
    "count": lambda s, g: torch.randint(0, 6, s, generator=g).float(),
    "boxes": _boxes,
    "rotation": _rotations,
}
KINDS = (*FLOATS, *INTEGERS, *COMPLEXES, *DRAWS)
GRAMMAR = (
    "a specification is a type with a shape, such as `float[8,10]`, `int[8]<10` or `prob[8,10]`; "
    f"the types are {', '.join(KINDS)}"
)
_ITEM = re.compile(
    r"^(?:(?P<name>[A-Za-z_]\w*)\s*[:=\s]\s*)?(?P<kind>[A-Za-z_]\w*)\s*"
    r"\[(?P<shape>[^\]]*)\]\s*(?:>\s*(?P<above>-?\w+)\s*)?(?:<\s*(?P<bound>-?\w+))?$"
)

MOST_ELEMENTS = 10**9
"""A tensor made from a specification is no larger: 8 GB in float64, and a check has several."""

# What people call the argument that a gradient is wanted for, and the one it is compared with.
PREDICTION = re.compile(
    r"^(y_?pred\w*|y_?hat|yhat|y_?pr|pred\w*|inputs?|outputs?|logits?|scores?\w*|prob\w*|p|x|"
    r"student\w*|hypothesis|estimate\w*|recon\w*|anchor|emb\w*|features?|mu|mean|log_?var|risk\w*|"
    r"log_?prob\w*|z\w*|q\w*|a|u)$",
    re.I,
)
TARGET = re.compile(
    r"^(y|y_?true|y_?gt|target\w*|label\w*|gt\w*|truth|teacher\w*|reference|t|mask\w*|weight\w*|"
    r"event\w*|time\w*|reward\w*|advantage\w*|return\w*|action\w*|index|idx|length\w*)$",
    re.I,
)


@dataclass(frozen=True)
class Argument:
    """One argument of the call."""

    name: str
    value: Any
    differentiable: bool = False
    """Whether a gradient is wanted for it."""

    def __str__(self) -> str:
        if not isinstance(self.value, Tensor):
            return f"{self.name}: {self.value!r}"
        dtype = str(self.value.dtype).removeprefix("torch.")
        grad = ", requires grad" if self.differentiable else ""
        return f"{self.name}: {dtype}{list(self.value.shape)}{grad}"


@dataclass(frozen=True)
class Inputs:
    """The arguments of the call, in order."""

    arguments: tuple[Argument, ...]
    assumptions: tuple[str, ...] = ()
    inferred: tuple[str, ...] = ()
    """The specifications that were inferred, where nothing was given."""

    @property
    def values(self) -> tuple[Any, ...]:
        """The bare values."""
        return tuple(argument.value for argument in self.arguments)

    @property
    def differentiable(self) -> tuple[int, ...]:
        """The positions of the arguments that a gradient is wanted for."""
        return tuple(i for i, argument in enumerate(self.arguments) if argument.differentiable)

    @property
    def numel(self) -> int:
        """How many elements all tensors have together."""
        return sum(value.numel() for value in self.values if isinstance(value, Tensor))

    def with_values(self, values: Sequence[Any]) -> Inputs:
        """The same arguments with other values."""
        arguments = tuple(
            replace(argument, value=value)
            for argument, value in zip(self.arguments, values, strict=True)
        )
        return replace(self, arguments=arguments)


def inputs_for(subject: Subject, given: Sequence[Any], seed: int) -> Inputs:
    """Make the arguments of a call from what the user gave.

    Args:
        subject: the loss.
        given: tensors and other values, or specifications as text; nothing, to have them inferred.
        seed: seeds the tensors made from specifications.

    Raises:
        UsageError: nothing was given and nothing could be inferred, a specification has a typo, or
            the number of arguments does not fit the loss's signature.
    """
    if not given and not _needs_none(subject):
        return _inferred(subject, seed)
    arguments = _read(subject, given, seed)
    _check_count(subject, arguments)
    for argument in arguments:
        _refuse_unusable(argument)
    return _with_roles(subject, arguments)


def _needs_none(subject: Subject) -> bool:
    """Whether the loss is a function of its own parameters alone, such as a weight penalty."""
    none = subject.signature is not None and subject.required == 0
    return none and bool(subject.state.parameters())


def _inferred(subject: Subject, seed: int) -> Inputs:
    # Inference calls the loss, for which it needs what stands on this module.
    from lossproof.checks.inference import infer_inputs

    if subject.signature is not None and not subject.signature.parameters:
        raise UsageError(
            f"`{subject.name}` takes no inputs and has no parameters: there is nothing to vary"
        )
    _check_keywords(subject)
    return infer_inputs(subject, seed)


def _read(subject: Subject, given: Sequence[Any], seed: int) -> list[Argument]:
    generator = torch.Generator().manual_seed(seed + 61_803)
    arguments: list[Argument] = []
    for value in given:
        if isinstance(value, str) and "[" in value:
            arguments += parse_specifications(value, generator)
        else:
            arguments.append(Argument("", value))
    names = subject.parameter_names
    named = []
    for position, argument in enumerate(arguments):
        default = names[position] if position < len(names) else f"input {position}"
        named.append(replace(argument, name=argument.name or default))
    return _ordered(subject, named, [argument.name for argument in arguments if argument.name])


def _ordered(subject: Subject, arguments: list[Argument], given: Sequence[str]) -> list[Argument]:
    """Named specifications may come in any order; the loss's own order counts.

    Names of which the loss has none are labels for the report, and change nothing.
    """
    names = subject.parameter_names
    for position, name in enumerate(given):
        if name in given[:position]:
            raise UsageError(f"`{name}` is given twice in the inputs")
    known = [name for name in given if name in names]
    for name in given:
        if known and name not in names:
            near = difflib.get_close_matches(name, names, 1, 0.5)
            hint = f"did you mean `{near[0]}`? " if near else ""
            raise UsageError(
                f"`{subject.name}` has no argument `{name}`; {hint}it takes ({', '.join(names)})"
            )
    if not known or len({argument.name for argument in arguments}) < len(arguments):
        return arguments
    return sorted(arguments, key=lambda argument: names.index(argument.name))


def parse_specifications(text: str, generator: torch.Generator) -> list[Argument]:
    """Read a text of one or several specifications.

    Raises:
        UsageError: an item is no specification; the message names it and the nearest type.

    Example:
        >>> import torch
        >>> [str(a) for a in parse_specifications("logits float[4,3]; int[4]<3",
        ...                                       torch.Generator().manual_seed(0))]
        ['logits: float32[4, 3]', ': int64[4]']
    """
    return [_parse_item(item, generator) for item in _split(text)]


def _split(text: str) -> list[str]:
    """Cut at commas and semicolons that stand outside brackets and quotes."""
    items, depth, quote, start = [], 0, "", 0
    for position, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "[(":
            depth += 1
        elif character in "])":
            depth -= 1
        elif character in ",;" and depth == 0:
            items.append(text[start:position])
            start = position + 1
    items.append(text[start:])
    return [item.strip() for item in items if item.strip()]


def _parse_item(item: str, generator: torch.Generator) -> Argument:
    match = _ITEM.match(item)
    if match is None:
        try:
            return Argument("", ast.literal_eval(item))
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # nested too deeply
            raise UsageError(f"cannot read `{item}` in the inputs; {GRAMMAR}") from None
    try:
        return _drawn(item, match, generator)
    except (RuntimeError, MemoryError) as error:
        raise UsageError(f"`{item}` cannot be made: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _drawn(item: str, match: re.Match[str], generator: torch.Generator) -> Argument:
    kind = match["kind"]
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, 1, 0.5)
        hint = f"did you mean `{near[0]}`? " if near else ""
        raise UsageError(f"`{kind}` in `{item}` is no type; {hint}{GRAMMAR}")
    shape = _parse_shape(match["shape"], item)
    bound = match["bound"]
    if kind in INTEGERS:
        whole = _integers(kind, shape, match["above"], bound, item, generator)
        return Argument(match["name"] or "", whole)
    if bound is not None or match["above"] is not None:
        sign = f"<{bound}" if bound is not None else f">{match['above']}"
        raise UsageError(f"`{sign}` in `{item}` is for integers only, such as `int[8]<10`")
    if kind in FLOATS:
        value = torch.randn(shape, generator=generator, dtype=torch.float64).to(FLOATS[kind])
    elif kind in COMPLEXES:
        value = torch.randn(shape, generator=generator, dtype=torch.complex128).to(COMPLEXES[kind])
    else:
        value = DRAWS[kind](shape, generator)
    return Argument(match["name"] or "", value)


def _parse_shape(text: str, item: str) -> tuple[int, ...]:
    sizes = [size.strip() for size in text.split(",") if size.strip()]
    if not all(map(_is_whole, sizes)):
        raise UsageError(f"the shape in `{item}` must hold whole numbers, got `[{text}]`")
    shape = tuple(int(size) for size in sizes)
    elements = max(math.prod(shape), *shape, 0)  # an axis of none leaves the others no room either
    if elements > MOST_ELEMENTS:
        raise UsageError(f"`{item}` is too large: at most 1e9 elements can be made")
    return shape


def _is_whole(text: str) -> bool:
    """Whether a text is a whole number, in digits that Python reads and of which there are few."""
    return text.isdecimal() and len(text) < 30


def _integers(
    kind: str,
    shape: tuple[int, ...],
    above: str | None,
    bound: str | None,
    item: str,
    generator: torch.Generator,
) -> Tensor:
    if bound is None:
        raise UsageError(
            f"`{item}` needs a bound, such as `{kind}[{','.join(map(str, shape))}]<10` "
            "for integers from 0 to 9"
        )
    if not _is_whole(bound) or int(bound) < 1:
        raise UsageError(f"the bound in `{item}` must be a whole number above 0, got `{bound}`")
    largest = torch.iinfo(INTEGERS[kind]).max
    if int(bound) - 1 > largest:
        raise UsageError(f"`{kind}` holds no integers above {largest}, got `{item}`")
    least = _least(above, int(bound), kind, item)
    return torch.randint(least, int(bound), shape, generator=generator).to(INTEGERS[kind])


def _least(above: str | None, bound: int, kind: str, item: str) -> int:
    """The smallest whole number that a specification asks for."""
    if above is None:
        return 0
    if not _is_whole(above.removeprefix("-")):
        raise UsageError(f"what `>` stands before in `{item}` must be a whole number")
    least = int(above) + 1
    if not torch.iinfo(INTEGERS[kind]).min <= least < bound:
        raise UsageError(f"there is no `{kind}` above {above} and below {bound} in `{item}`")
    return least


def _check_count(subject: Subject, arguments: Sequence[Argument]) -> None:
    signature = subject.signature
    if signature is None:
        return
    _check_keywords(subject)
    if any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values()):
        return
    least, most = subject.required, len(subject.parameter_names)
    if not least <= len(arguments) <= most:
        wants = f"{least}" if least == most else f"{least} to {most}"
        raise UsageError(
            f"`{subject.name}` takes {wants} inputs ({', '.join(subject.parameter_names)}), "
            f"got {len(arguments)}"
        )


def _check_keywords(subject: Subject) -> None:
    """Refuse a keyword argument without a default: a call by position cannot give it."""
    for parameter in subject.signature.parameters.values() if subject.signature else ():
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            raise UsageError(
                f"`{subject.name}` needs the keyword argument `{parameter.name}`; bind it first: "
                f"`functools.partial({subject.name.rpartition('.')[2]}, {parameter.name}=...)`"
            )


def _refuse_unusable(argument: Argument) -> None:
    value = argument.value
    if not isinstance(value, Tensor):
        return
    if value.is_meta:
        raise UsageError(
            f"`{argument.name}` is on the meta device and has no numbers; give it some"
        )
    if value.requires_grad and value.layout is not torch.strided:
        raise UsageError(
            f"`{argument.name}` requires a gradient and has the layout {value.layout}; give it "
            "dense (`.to_dense()`), and make it sparse in a function around the loss"
        )


def _with_roles(subject: Subject, arguments: Sequence[Argument]) -> Inputs:
    """Decide which inputs a gradient is wanted for: those that say so, else the prediction."""
    wanting = [
        isinstance(argument.value, Tensor)
        and argument.value.requires_grad
        and argument.value.is_floating_point()
        for argument in arguments
    ]
    assumptions = subject.assumptions + _constants(arguments)
    if not any(wanting):
        floating = [
            i
            for i, argument in enumerate(arguments)
            if isinstance(argument.value, Tensor) and argument.value.is_floating_point()
        ]
        own = ", ".join(f"`{name}`" for name in subject.state.parameters())
        chosen = _prediction(arguments, floating, by_name=bool(own))
        if chosen is not None:
            wanting = [i == chosen for i in range(len(arguments))]
            assumptions += (
                f"no input requires a gradient: `{arguments[chosen].name}` was taken "
                "as the prediction",
            )
        elif own and floating:
            assumptions += (
                f"no input requires a gradient: one is wanted for the loss's own {own} alone",
            )
    return Inputs(
        tuple(
            replace(argument, differentiable=wants)
            for argument, wants in zip(arguments, wanting, strict=True)
        ),
        assumptions,
    )


def _constants(arguments: Sequence[Argument]) -> tuple[str, ...]:
    """Say of which tensors with a gradient the gradient is not looked at."""
    said = []
    for argument in arguments:
        value = argument.value
        if isinstance(value, Tensor):
            if value.requires_grad and value.is_complex():
                said.append(
                    f"`{argument.name}` is complex and is taken as a constant: to check its "
                    "gradient, wrap the loss in a function that takes its real and imaginary parts"
                )
        elif any(tensor.requires_grad for tensor in tensors_in(value)):
            said.append(
                f"the tensors in `{argument.name}` (a {type(value).__name__}) are taken as "
                "constants: to check their gradients, wrap the loss in a function that takes them "
                "one by one"
            )
    return tuple(said)


def _prediction(
    arguments: Sequence[Argument], floating: Sequence[int], by_name: bool
) -> int | None:
    """The likeliest prediction: by its name, else the first that is not called a target.

    Args:
        arguments: all arguments.
        floating: the positions of the floating tensors among them.
        by_name: take nothing but what is called a prediction (a loss with parameters of its own
            may be given nothing but data).
    """
    for i in floating:
        if PREDICTION.match(arguments[i].name) and not TARGET.match(arguments[i].name):
            return i
    if by_name:
        return None
    for i in floating:
        if not TARGET.match(arguments[i].name):
            return i
    return floating[0] if floating else None
