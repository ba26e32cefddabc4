"""The ``nn.Module`` of a loss that is written as a function."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, ParamSpec
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import nn

from lossproof.write.reduction import legacy_reduction

Tensor = torch.Tensor
P = ParamSpec("P")

# An annotation that means a tensor or nothing, as it is written or as the type itself is shown.
_TENSOR = re.compile(
    r"(<class ')?(typing\.)?(Optional\[)?(torch\.)?(_tensor\.)?Tensor('>)?\]?( \| None)?"
)
# What differs from batch to batch, so that a call may give it, too.
PER_CALL = ("weight", "mask", "normalizer")


class LossModule(nn.Module, Generic[P]):
    """A loss as a layer; made by :func:`as_module`, one class for each function.

    The options of the function go to the constructor, its tensors to the call. Options that are
    tensors are buffers: they move with ``.to(device)`` and are part of the ``state_dict``; an
    ``nn.Parameter``, such as a temperature, is one of the Module's, and is learned. Options that
    differ from batch to batch (``weight``, ``mask``, ``normalizer``) may be given to the call
    as well, where they take the place of the constructor's.
    """

    function: Callable[..., Tensor]
    """The loss itself."""
    defaults: Mapping[str, Any]
    """The options of the constructor, with what they are without it."""
    required: tuple[str, ...]
    """The options that have no default."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "__init__" in vars(cls):  # a subclass that somebody wrote shows its own options
            _, *own = inspect.signature(cls.__init__).parameters.values()
            cls.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]

    def __init__(self, *unnamed: Any, **options: Any) -> None:
        super().__init__()
        if unnamed:
            raise TypeError(
                f"{type(self).__name__} takes its options by name: "
                f"{', '.join(self.defaults) or 'it has none'}"
            )
        if "reduction" in self.defaults:
            options = legacy_reduction(options)
        self._refuse_unknown(options)
        for name, default in self.defaults.items():
            value = options.get(name, default)
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            elif (
                isinstance(default, Tensor) or isinstance(value, Tensor) or name in self._tensors()
            ):
                if not isinstance(value, Tensor | None):
                    raise TypeError(f"`{name}` must be a tensor, got {value!r}")
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    @classmethod
    def _tensors(cls) -> frozenset[str]:
        """The options that are tensors or nothing, by their annotations."""
        parameters = inspect.signature(cls.function).parameters
        return frozenset(
            name for name in cls.defaults if _TENSOR.fullmatch(str(parameters[name].annotation))
        )

    def _refuse_unknown(self, options: Mapping[str, Any]) -> None:
        unknown = sorted(options.keys() - self.defaults.keys())
        missing = [name for name in self.required if name not in options]
        if unknown:
            raise TypeError(
                f"{type(self).__name__} has no option `{unknown[0]}`; "
                f"it has {', '.join(self.defaults) or 'none'}"
            )
        if missing:
            raise TypeError(f"{type(self).__name__} needs the option `{missing[0]}`")

    def forward(self, *tensors: P.args, **per_call: P.kwargs) -> Tensor:
        """The loss of a batch."""
        options = {name: getattr(self, name) for name in self.defaults}
        return type(self).function(*tensors, **{**options, **per_call})

    def extra_repr(self) -> str:
        shown = []
        for name, default in self.defaults.items():
            value = getattr(self, name)
            if isinstance(value, Tensor):
                shown.append(f"{name}={_brief(value)}")
            elif not _is(value, default):
                shown.append(f"{name}={value!r}")
        return ", ".join(shown)

    def __reduce_ex__(self, protocol: Any) -> Any:
        if "function" not in vars(type(self)):  # a subclass that somebody wrote
            return super().__reduce_ex__(protocol)
        # By the function, so that a class under any name, or none, can be pickled.
        return _rebuilt, (type(self).function, type(self).__name__), self.__dict__


def _is(value: Any, default: Any) -> bool:
    """Whether an option is the default; arrays can be asked by their looks alone."""
    plain = all(isinstance(one, int | float | str) for one in (value, default))
    return bool(value == default) if plain else repr(value) == repr(default)


def _brief(value: Tensor) -> str:
    numbers = value.detach().flatten()
    return str(numbers.tolist()) if numbers.numel() <= 8 else f"tensor{list(value.shape)}"


def _rebuilt(function: Callable[..., Tensor], name: str) -> nn.Module:
    cls = as_module(function, name=name)
    return cls.__new__(cls)


def as_module(function: Callable[P, Tensor], *, name: str | None = None) -> type[LossModule[P]]:
    """Make the ``nn.Module`` class of a loss function.

    Arguments before the ``*`` of the signature are tensors of the batch: they go to the call. What
    stands after it is an option: it goes to the constructor, and is an attribute, or, where it is a
    tensor, a buffer, and where it is an ``nn.Parameter``, a parameter. ``weight``, ``mask`` and
    ``normalizer`` may also be given to the call. ``size_average`` and ``reduce``, which
    ``torch.nn`` had before ``reduction``, are understood with a deprecation warning.

    Args:
        function: the loss, such as ``loss(input, target, *, gamma=2.0, reduction="mean")``.
        name: what the class is called; without it, ``focal_loss`` becomes ``FocalLoss``.

    Returns:
        The class. The same function and name give the same class, and its objects can be pickled,
        copied and compiled wherever the function can.

    Raises:
        TypeError: ``function`` is no function, or takes ``*args`` or ``**kwargs``, of which nobody
            can tell which are options; ``name`` is no name.

    Example:
        >>> import torch
        >>> from lossproof import as_module, reduce
        >>> def quartic_loss(input, target, *, scale=1.0, weight=None, reduction="mean"):
        ...     '''The fourth power of the error.'''
        ...     return reduce(((input - target) / scale) ** 4, weight, reduction)
        >>> QuarticLoss = as_module(quartic_loss)
        >>> loss = QuarticLoss(scale=2.0, reduction="sum")
        >>> loss
        QuarticLoss(scale=2.0, reduction='sum')
        >>> loss(torch.tensor([2.0, 4.0]), torch.zeros(2))
        tensor(17.)
    """
    if isinstance(function, type) or not hasattr(function, "__name__"):
        raise TypeError(f"`function` must be a function, got {function!r}")
    if name is None:
        name = class_name(function)
    if not _is_name(name):
        raise TypeError(f"`name` must be a name for a class, got {name!r}")
    made = _MADE.setdefault(function, WeakValueDictionary())
    cls = made.get(name)
    if cls is None:
        cls = made[name] = _module_class(function, name)
    return cls


_ANY = inspect.Parameter("any", inspect.Parameter.POSITIONAL_OR_KEYWORD)

# The classes there are. A class keeps its function, with all that this closes over; nothing else
# keeps either, so that both go when nobody has the class any more.
_MADE: WeakKeyDictionary[Callable[..., Any], WeakValueDictionary[str, type[LossModule[Any]]]]
_MADE = WeakKeyDictionary()


def _module_class(function: Callable[..., Tensor], name: str) -> type[LossModule[Any]]:
    signature = _signature(function)
    tensors: list[inspect.Parameter] = []
    options: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(
                f"`function` must name its arguments, got `{parameter}` in "
                f"{getattr(function, '__name__', function)}{signature}"
            )
        (options if parameter.kind is parameter.KEYWORD_ONLY else tensors).append(parameter)
    defaults = {option.name: option.default for option in options}
    required = tuple(o.name for o in options if o.default is o.empty)
    cls = type(
        name,
        (LossModule,),
        {
            "__doc__": function.__doc__,
            "__module__": function.__module__,
            "__qualname__": name,
            "function": staticmethod(function),
            "defaults": {n: None if n in required else d for n, d in defaults.items()},
            "required": required,
            "forward": _forward(tensors, [o for o in options if o.name in PER_CALL]),
            "__signature__": inspect.Signature(options),
        },
    )
    return cls


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name.isidentifier()


def _signature(function: Callable[..., Tensor]) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError) as error:  # no function, or one of those that are written in C
        raise TypeError(f"`function` must have a signature, got {function!r}") from error


def _forward(
    tensors: list[inspect.Parameter], per_call: list[inspect.Parameter]
) -> Callable[..., Tensor]:
    """A ``forward`` that shows what it takes."""

    def forward(self: LossModule[Any], *tensors: Any, **per_call: Any) -> Tensor:
        return LossModule.forward(self, *tensors, **per_call)

    self = inspect.Parameter("self", min(p.kind for p in (*tensors, _ANY)))
    forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [self, *tensors, *per_call], return_annotation=Tensor
    )
    forward.__doc__ = "The loss of a batch."
    return forward


def class_name(function: Callable[..., Any]) -> str:
    """What the Module of a function is called: ``focal_loss`` becomes ``FocalLoss``."""
    return "".join(word[:1].upper() + word[1:] for word in function.__name__.split("_"))
