"""The losses that a Python file defines, told from its text alone: nothing is imported.

What a sweep checks is what this module finds. It would rather leave out a loss with an unusual name
than take a training loop for one; what it leaves out can be named on the command line or in the
configuration.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["function", "module", "autograd.Function", "instance"]
FunctionDef = ast.FunctionDef | ast.AsyncFunctionDef

WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z]|\d|_|$)|[A-Z]?[a-z]+|\d+")
"""The words of a name: ``DiceCELoss2d`` has Dice, CE, Loss, 2, d."""
LOSS_WORDS = {
    "loss", "criterion", "objective", "penalty", "divergence", "nll", "bce", "nllloss", "elbo",
}  # fmt: skip
LOSS_NAMES = {"mse", "rmse", "mae", "huber", "focal", "hinge", "charbonnier"}
"""What a loss may be called without saying so, at the end of its name."""
WORTH_PARSING = re.compile(
    rb"mse|mae|huber|focal|hinge|charbonnier|loss|criterion|objective|penalty|divergence|nll|bce|"
    rb"elbo|cross_?entropy|forward",
    re.I,
)
"""What the bytes of a file that defines a loss hold."""
NOT_A_LOSS_FIRST = {
    "get", "build", "make", "create", "plot", "print", "save", "load", "register", "test", "train",
    "eval", "evaluate", "validate", "update", "parse", "add", "set", "is", "has", "init", "reset",
    "record", "show", "draw", "display", "format", "configure", "setup", "visualize", "report",
    "find", "list", "select", "choose", "resolve", "check", "assert", "mock", "run", "fit", "use",
    "average", "read", "write", "collect", "wrap", "replace", "optimize", "minimize", "backward",
    "base", "abstract",
}  # fmt: skip
"""Verbs: what such a function does is not to compute a loss."""
NOT_A_LOSS_LAST = {
    "logger", "tracker", "history", "meter", "config", "cfg", "factory", "registry", "base",
    "mixin", "manager", "callback", "trainer", "net", "model", "network", "metric", "metrics",
    "scheduler", "type", "name", "names", "key", "fig", "plot", "curve", "curves", "weight",
    "weights", "dict", "output", "outputs", "error", "warning", "test", "args", "kwargs", "inputs",
    "backward", "wrapper", "strategy", "graph",
}  # fmt: skip
"""Things: what is called so is not a loss itself."""
NO_TENSORS = re.compile(
    r"^(\w*_)?(models?|net|networks?|modules?|cfg|config|conf|args|opts?|options|hparams|trainer|"
    r"(data_?)?loader|dataset|optimi[sz]er|history|losses|loss|loss_?fn|criterion|path|file|"
    r"file_?name|folder|name|names|writer|logger|epochs?|device|type|fn|func|function|"
    r"callback|key|state|sess|session|rng|self|cls|batch_?fn)$"
)
"""Arguments without a default that no tensor can be given for."""
NO_TENSOR_TYPES = {
    "str", "bool", "Module", "Callable", "DataLoader", "Dataset", "Optimizer", "Path", "Namespace",
    "Config", "dict", "Dict", "Mapping", "ndarray", "DataFrame", "Series", "Generator",
}  # fmt: skip
NO_LOSS_TYPES = {"str", "bool", "None", "Module", "Callable", "type", "Type", "Path", "Figure"}
"""What a loss does not return."""
DECORATORS = {
    "fixture", "property", "overload", "abstractmethod", "contextmanager", "command", "route",
    "cached_property", "singledispatch",
}  # fmt: skip
"""What makes something else of a function than a loss."""
LOSS_CLASS = re.compile(r"[A-Z]\w*(Loss|Criterion)(V?\d|\dd)?$")
"""What the losses of other modules are called. ``_Loss`` is a base without a ``forward``."""
PREDICTIONS = re.compile(
    r"^(y_?pred\w*|y_?hat|pred\w*|inputs?|outputs?|logits?|scores?|probs?|probabilities|recon\w*|"
    r"estimate\w*|student\w*|x|p)$",
    re.I,
)
TARGETS = re.compile(r"^(y|y_?true|y_?gt|targets?|labels?|gts?|ground_?truth\w*|truth|t)$", re.I)
REDUCTIONS = {"mean", "sum", "nanmean", "logsumexp"}
FRAMEWORKS = {"torch", "numpy", "tensorflow", "jax", "keras", "mxnet", "paddle", "cupy"}


@dataclass(frozen=True)
class Definition:
    """A loss: the name it has in its module, the line it begins at, and what it is."""

    name: str
    line: int
    kind: Kind


def losses_in(text: str) -> tuple[Definition, ...]:
    """The losses that a module of this text defines, in its order.

    Args:
        text: Python source.

    Raises:
        SyntaxError: it is not.

    Example:
        >>> for loss in losses_in('''
        ... import torch
        ... def huber_loss(input, target): return (input - target).abs().mean()
        ... def plot_loss(history): ...
        ... class Dice(torch.autograd.Function):
        ...     def forward(ctx, input, target): return (input * target).sum()
        ... '''):
        ...     print(loss)
        Definition(name='huber_loss', line=3, kind='function')
        Definition(name='Dice', line=5, kind='autograd.Function')
    """
    module = _Module(ast.parse(text))
    if not module.may_use_torch:
        return ()
    found = {loss.name: loss for loss in module.losses()}
    return tuple(sorted(found.values(), key=lambda loss: loss.line))


def says_loss(name: str) -> bool:
    """Whether a name says that what it names is a loss."""
    words = [word.lower() for word in WORDS.findall(name)]
    while words and (words[-1].isdigit() or words[-1] in ("v", "d")):
        words.pop()
    if not words or words[0] in NOT_A_LOSS_FIRST or words[-1] in NOT_A_LOSS_LAST:
        return False
    known = words[-1] in LOSS_NAMES or "crossentropy" in "".join(words)
    return known or bool(LOSS_WORDS.intersection(words))


class _Module:
    """The statements that run when a module is imported, and what they define."""

    def __init__(self, tree: ast.Module) -> None:
        self.statements = list(_run_on_import(tree.body))
        self.classes = {
            node.name: node for node in self.statements if isinstance(node, ast.ClassDef)
        }
        imported = {name.partition(".")[0] for name in _imports(tree)}
        frameworks = FRAMEWORKS & imported
        self.may_use_torch = "torch" in frameworks or not frameworks

    def losses(self) -> Iterator[Definition]:
        made = set()
        for node in self.statements:
            if isinstance(node, ast.FunctionDef) and _is_loss_function(node):
                yield Definition(node.name, node.lineno, "function")
            elif isinstance(node, ast.Assign) and (found := self._assigned(node)) is not None:
                if isinstance(node.value, ast.Call):
                    made.add(_last(node.value.func))
                yield found
        for node in self.classes.values():
            kind = self._kind(node)
            checked_by_instance = node.name in made and self._needs_arguments(node)
            if kind is not None and not checked_by_instance and not self._is_applied(node):
                yield Definition(node.name, node.lineno, kind)

    # ------------------------------------------------------------------ classes
    def _kind(self, node: ast.ClassDef) -> Kind | None:
        if node.name.startswith("_"):
            return None
        if self._descends(node, "Function"):
            return "autograd.Function" if self._is_loss_operation(node) else None
        return "module" if self._is_loss_module(node) else None

    def _is_loss_operation(self, node: ast.ClassDef) -> bool:
        forward = self._method(node, "forward")
        if forward is None or _only_raises(forward):
            return False
        return says_loss(node.name) or _returns_scalar(forward) or _compares(forward)

    def _is_loss_module(self, node: ast.ClassDef) -> bool:
        """Whether it can be called with tensors, and its name or its ``forward`` says loss."""
        call = self._method(node, "forward") or self._method(node, "__call__")
        if call is None:
            return self._inherits_a_loss(node)
        if _only_raises(call) or _is_abstract(node) or not _takes_tensors(call, bound=True):
            return False
        if says_loss(node.name) or self._inherits_a_loss(node):
            return True
        return self._descends(node, "Module") and _compares(call) and _returns_scalar(call)

    def _is_applied(self, operation: ast.ClassDef) -> bool:
        """Whether a loss of this file applies the operation: then it is checked along with it."""
        return any(
            isinstance(part, ast.Attribute)
            and part.attr == "apply"
            and getattr(part.value, "id", "") == operation.name
            for node in self.statements
            if node is not operation
            and (
                (isinstance(node, ast.FunctionDef) and _is_loss_function(node))
                or (isinstance(node, ast.ClassDef) and self._kind(node) == "module")
            )
            for part in ast.walk(node)
        )

    def _inherits_a_loss(self, node: ast.ClassDef) -> bool:
        """Whether it descends from a loss of another module, as far as its name says."""
        return any(
            LOSS_CLASS.match(_last(base))
            for cls in self._ancestry(node)
            for base in cls.bases
            if not isinstance(base, ast.Name) or self.classes.get(base.id) in (None, cls)
        )

    def _descends(self, node: ast.ClassDef, name: str) -> bool:
        return any(_last(base) == name for cls in self._ancestry(node) for base in cls.bases)

    def _ancestry(self, node: ast.ClassDef) -> list[ast.ClassDef]:
        """The class and its ancestors, as far as they are in this file."""
        found = [node]
        for cls in found:
            for base in cls.bases:
                ancestor = self.classes.get(base.id) if isinstance(base, ast.Name) else None
                if ancestor is not None and ancestor not in found:
                    found.append(ancestor)
        return found

    def _method(self, node: ast.ClassDef, name: str) -> FunctionDef | None:
        for cls in self._ancestry(node):
            for item in reversed(cls.body):
                if isinstance(item, FunctionDef) and item.name == name:
                    return item
        return None

    def _needs_arguments(self, node: ast.ClassDef) -> bool:
        init = self._method(node, "__init__")
        if init is None:
            return False
        return bool(_required(init.args)[1:]) or None in init.args.kw_defaults

    # ------------------------------------------------------------------ instances
    def _assigned(self, node: ast.Assign) -> Definition | None:
        """An instance of a loss of this file; a ``partial`` or a ``lambda`` called a loss."""
        target, value = node.targets[0], node.value
        if len(node.targets) != 1 or not isinstance(target, ast.Name) or target.id.startswith("_"):
            return None
        if isinstance(value, ast.Lambda):
            if says_loss(target.id) and _required(value.args) and not _refused(value.args):
                return Definition(target.id, node.lineno, "function")
        elif isinstance(value, ast.Call):
            cls = self.classes.get(_last(value.func))
            if cls is not None and isinstance(value.func, ast.Name):
                if self._kind(cls) == "module":
                    return Definition(target.id, node.lineno, "instance")
            elif says_loss(target.id) and _last(value.func) == "partial":
                return Definition(target.id, node.lineno, "instance")
        return None


def _is_loss_function(node: ast.FunctionDef) -> bool:
    """Whether a function computes a loss from tensors, as far as its text says."""
    return (
        not node.name.startswith("_")
        and says_loss(node.name)
        and DECORATORS.isdisjoint(map(_last, node.decorator_list))
        and NO_LOSS_TYPES.isdisjoint(_annotated(node.returns))
        and _takes_tensors(node, bound=False)
        and not _only_raises(node)
        and _returns_a_value(node)
    )


def _run_on_import(statements: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements at the top of a module, also within ``if`` and ``try``."""
    for statement in statements:
        if isinstance(statement, ast.If):
            if "__main__" not in ast.dump(statement.test):
                yield from _run_on_import([*statement.body, *statement.orelse])
        elif isinstance(statement, ast.Try):
            parts = [*statement.body, *statement.orelse, *statement.finalbody]
            yield from _run_on_import(parts)
        elif isinstance(statement, ast.With):
            yield from _run_on_import(statement.body)
        else:
            yield statement


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def _last(node: ast.expr) -> str:
    """The last name of a dotted expression, also of what is called or subscripted."""
    if isinstance(node, ast.Call):
        return _last(node.func)
    if isinstance(node, ast.Subscript):
        return _last(node.value)
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _annotated(annotation: ast.expr | None) -> set[str]:
    """The names in an annotation; a union or an ``Optional`` has several."""
    if annotation is None:
        return set()
    if isinstance(annotation, ast.Constant):
        return set(re.findall(r"\w+", str(annotation.value)))
    if isinstance(annotation, ast.BinOp):
        return _annotated(annotation.left) | _annotated(annotation.right)
    return {_last(annotation)}


def _required(arguments: ast.arguments) -> list[ast.arg]:
    """The positional arguments without a default."""
    positional = [*arguments.posonlyargs, *arguments.args]
    return positional[: len(positional) - len(arguments.defaults)]


def _refused(arguments: ast.arguments, bound: bool = False) -> bool:
    """Whether an argument without a default cannot be a tensor."""
    return any(
        NO_TENSORS.match(argument.arg.lower())
        or not NO_TENSOR_TYPES.isdisjoint(_annotated(argument.annotation))
        for argument in _required(arguments)[bound:]
    )


def _takes_tensors(node: FunctionDef, bound: bool) -> bool:
    """Whether it takes arguments, and tensors will do; ``bound`` leaves out ``self``."""
    takes = len(_required(node.args)) > bound or (bound and len(node.args.args) > 1)
    return takes and not _refused(node.args, bound)


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Everything within a function but what is in functions and classes inside it."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            yield from _own_nodes(child)


def _returned(node: FunctionDef) -> list[ast.expr]:
    returns = (child for child in _own_nodes(node) if isinstance(child, ast.Return))
    return [child.value for child in returns if child.value is not None]


def _returns_a_value(node: FunctionDef) -> bool:
    """Whether it returns something that may be a tensor, or has forgotten to."""
    if any(isinstance(child, (ast.Yield, ast.YieldFrom)) for child in _own_nodes(node)):
        return False
    values = _returned(node)
    if not values:
        last = node.body[-1]
        return isinstance(last, ast.Assign) and "loss" in ast.unparse(last.targets[0]).lower()
    inner = {child.name for child in node.body if isinstance(child, (FunctionDef, ast.ClassDef))}
    return any(not _makes_a_loss(value, inner) for value in values)


def _makes_a_loss(value: ast.expr, inner: set[str]) -> bool:
    """Whether a returned value is a loss function or a name of one, and not a loss."""
    if isinstance(value, (ast.Lambda, ast.Constant, ast.Dict, ast.JoinedStr, ast.List)):
        return True
    if isinstance(value, ast.Name):
        return value.id in inner
    if isinstance(value, ast.Call) and not isinstance(value.func, ast.Call):
        name = _last(value.func)
        return name == "partial" or (name[:1].isupper() and not name.isupper())
    return False


def _only_raises(node: FunctionDef) -> bool:
    """Whether the body is a docstring, ``pass``, ``...`` or ``raise`` alone."""
    return all(
        isinstance(item, (ast.Raise, ast.Pass))
        or (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))
        for item in node.body
    )


def _is_abstract(node: ast.ClassDef) -> bool:
    return any(
        isinstance(item, FunctionDef) and "abstractmethod" in map(_last, item.decorator_list)
        for item in node.body
    )


def _compares(node: FunctionDef) -> bool:
    """Whether it takes a prediction and a target, as far as the names say."""
    names = [argument.arg for argument in _required(node.args)]
    return any(map(PREDICTIONS.match, names)) and any(map(TARGETS.match, names))


def _returns_scalar(node: FunctionDef) -> bool:
    """Whether all that it returns is reduced to one number, as far as can be seen."""
    reduced = {
        target.id
        for child in _own_nodes(node)
        if isinstance(child, ast.Assign) and _is_scalar(child.value, set())
        for target in child.targets
        if isinstance(target, ast.Name)
    }
    values = _returned(node)
    return bool(values) and all(_is_scalar(value, reduced) for value in values)


def _is_scalar(value: ast.expr, reduced: set[str]) -> bool:
    if isinstance(value, ast.Name):
        return value.id in reduced
    if isinstance(value, ast.UnaryOp):
        return _is_scalar(value.operand, reduced)
    if isinstance(value, ast.BinOp):
        parts = (value.left, value.right)
        return all(isinstance(part, ast.Constant) or _is_scalar(part, reduced) for part in parts)
    if not isinstance(value, ast.Call):
        return False
    if _last(value.func) not in REDUCTIONS:
        return says_loss(_last(value.func))
    function = value.func
    of_torch = isinstance(function, ast.Attribute) and _last(function.value) == "torch"
    whole = all(keyword.arg not in ("dim", "axis") for keyword in value.keywords)
    return whole and len(value.args) <= of_torch
