"""The slips a person makes in a backward, each as a small change of its syntax tree.

An operator looks at one expression (or statement) of a backward and yields what could stand in
its place. Its name is the *kind* of the mutant. Operators know nothing of shapes: whether a
change is loud, harmless or a real bug is for :mod:`benchmarks.mutation.truth` to say.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Change = Iterator[ast.AST]
Operator = Callable[[ast.AST, "Backward"], Change]

EXPRESSION_OPERATORS: dict[str, Operator] = {}
RETURN_OPERATORS: dict[str, Operator] = {}
STATEMENT_OPERATORS: dict[str, Operator] = {}


@dataclass
class Backward:
    """What an operator may know about the backward it changes."""

    function: ast.FunctionDef
    grad_outputs: set[str] = field(init=False)
    saved: list[str] = field(init=False)
    variables: list[str] = field(init=False)
    """The local names, saved tensors included, in the order in which they are assigned."""
    axes: set[ast.AST] = field(init=False)
    """The expressions that say along which dimension something is done."""
    exponents: set[ast.AST] = field(init=False)

    def __post_init__(self) -> None:
        self.grad_outputs = {argument.arg for argument in self.function.args.args[1:]}
        self.saved = []
        self.variables = []
        self.axes = set()
        self.exponents = set()
        for node in ast.walk(self.function):
            self._note(node)

    def _note(self, node: ast.AST) -> None:
        if isinstance(node, ast.Assign):
            names = [n.id for target in node.targets for n in ast.walk(target) if _is_name(n)]
            self.variables += [name for name in names if name not in self.variables]
            if "saved_tensors" in ast.unparse(node.value):
                self.saved += names
        elif isinstance(node, ast.Call):
            self.axes.update(_axes(node))
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            self.exponents.add(node.right)

    def is_grad_output(self, node: ast.AST) -> bool:
        """Whether the expression is made of `grad_output` and nothing else that varies."""
        names = {n.id for n in ast.walk(node) if _is_name(n)} - {"torch", "ctx"}
        return bool(names) and names <= self.grad_outputs


def _is_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Name)


_AXIS_METHODS = {
    "sum", "mean", "prod", "unsqueeze", "squeeze", "flip", "cumsum", "size", "gather", "scatter",
    "index_add_",
}  # fmt: skip


def _axes(call: ast.Call) -> Iterator[ast.AST]:
    for keyword in call.keywords:
        if keyword.arg == "dim":
            yield keyword.value
    method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if method in _AXIS_METHODS and call.args:
        yield call.args[0]


def expression(kind: str) -> Callable[[Operator], Operator]:
    """Register an operator on expressions, under the name of its kind."""
    return _register(EXPRESSION_OPERATORS, kind)


def returned(kind: str) -> Callable[[Operator], Operator]:
    """Register an operator on the returned tuple of gradients."""
    return _register(RETURN_OPERATORS, kind)


def statement(kind: str) -> Callable[[Operator], Operator]:
    """Register an operator on whole statements."""
    return _register(STATEMENT_OPERATORS, kind)


def _register(table: dict[str, Operator], kind: str) -> Callable[[Operator], Operator]:
    def add(operator: Operator) -> Operator:
        table[kind] = operator
        return operator

    return add


# Arithmetic.

_SWAPPED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}


@expression("operator-swapped")
def operator_swapped(node: ast.AST, _: Backward) -> Change:
    """``a + b`` becomes ``a - b``, ``a * b`` becomes ``a / b``, and back."""
    if isinstance(node, ast.BinOp) and type(node.op) in _SWAPPED:
        yield ast.BinOp(node.left, _SWAPPED[type(node.op)](), node.right)


@expression("operand-dropped")
def operand_dropped(node: ast.AST, backward: Backward) -> Change:
    """``a * b`` becomes ``a``, then ``b``; losing `grad_output` is a kind of its own."""
    if not isinstance(node, ast.BinOp) or type(node.op) not in _SWAPPED:
        return
    if not backward.is_grad_output(node.right):
        yield node.left
    if not backward.is_grad_output(node.left):
        yield ast.UnaryOp(ast.USub(), node.right) if isinstance(node.op, ast.Sub) else node.right


@expression("minus-dropped")
def minus_dropped(node: ast.AST, backward: Backward) -> Change:
    """``-a`` becomes ``a``."""
    if (
        isinstance(node, ast.UnaryOp)
        and isinstance(node.op, ast.USub)
        and node not in backward.axes
    ):
        yield node.operand


@expression("constant-changed")
def constant_changed(node: ast.AST, backward: Backward) -> Change:
    """``2`` becomes ``4``, ``1`` and ``3``."""
    if not isinstance(node, ast.Constant) or type(node.value) not in (int, float):
        return
    if node in backward.axes or node in backward.exponents:
        return
    value = node.value
    half = value // 2 if isinstance(value, int) and value % 2 == 0 else value / 2
    for other in dict.fromkeys([value * 2, half, value + 1]):
        if other != value:
            yield ast.Constant(other)


@expression("exponent-changed")
def exponent_changed(node: ast.AST, backward: Backward) -> Change:
    """``a**2`` becomes ``a**3``, ``a``."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Pow):
        return
    yield node.left
    yield ast.BinOp(node.left, ast.Pow(), ast.BinOp(node.right, ast.Add(), ast.Constant(1)))


@expression("comparison-flipped")
def comparison_flipped(node: ast.AST, _: Backward) -> Change:
    """``a < b`` becomes ``a >= b``."""
    flipped = {ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt}
    if isinstance(node, ast.Compare) and type(node.ops[0]) in flipped:
        yield ast.Compare(node.left, [flipped[type(node.ops[0])]()], node.comparators)


# Functions of tensors.

_SIBLINGS = {
    "sigmoid": ["tanh"], "tanh": ["sigmoid"], "exp": ["log1p", "expm1"], "log": ["log1p"],
    "sqrt": ["square"], "softplus": ["relu"], "relu": ["softplus"], "softmax": ["log_softmax"],
    "log_softmax": ["softmax"], "logsigmoid": ["softplus"], "sign": ["abs", "tanh"],
    "abs": ["neg", "square"], "maximum": ["minimum"], "minimum": ["maximum"], "clamp": ["fmod"],
    "logcumsumexp": ["cumsum"], "cumsum": ["cumprod"], "prod": ["sum"], "zeros_like": ["ones_like"],
    "ones_like": ["zeros_like"], "eye": ["ones"],
}  # fmt: skip


@expression("function-swapped")
def function_swapped(node: ast.AST, _: Backward) -> Change:
    """``torch.sigmoid(a)`` becomes ``torch.tanh(a)``: a sibling by name or by habit."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return
    for sibling in _SIBLINGS.get(node.func.attr, []):
        yield ast.Call(ast.Attribute(node.func.value, sibling), node.args, node.keywords)


_ELEMENTWISE = {
    "sigmoid", "tanh", "exp", "log", "sqrt", "softplus", "relu", "softmax", "log_softmax",
    "logsigmoid", "sign", "abs", "clamp", "flip", "cumsum", "logcumsumexp", "pow",
}  # fmt: skip


@expression("function-dropped")
def function_dropped(node: ast.AST, _: Backward) -> Change:
    """``torch.sigmoid(a)`` becomes ``a``: a factor of the chain rule, or a clamp, is lost."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return
    if node.func.attr in _ELEMENTWISE:
        is_method = not (
            _is_name(node.func.value) and node.func.value.id in ("torch", "functional")
        )
        yield node.func.value if is_method else node.args[0]


@expression("clamp-side-changed")
def clamp_side_changed(node: ast.AST, _: Backward) -> Change:
    """``clamp(min=a)`` becomes ``clamp(max=a)``."""
    if not isinstance(node, ast.Call):
        return
    other = {"min": "max", "max": "min"}
    if any(keyword.arg in other for keyword in node.keywords):
        swapped = [ast.keyword(other.get(k.arg or "", k.arg), k.value) for k in node.keywords]
        yield ast.Call(node.func, node.args, swapped)


@expression("branch-changed")
def branch_changed(node: ast.AST, _: Backward) -> Change:
    """``torch.where(c, a, b)`` becomes ``torch.where(c, b, a)``, ``a``, ``b``."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.where":
        condition, first, second = node.args
        yield ast.Call(node.func, [condition, second, first], [])
        yield first
        yield second


# Reductions, shapes and axes.


@expression("reduction-swapped")
def reduction_swapped(node: ast.AST, _: Backward) -> Change:
    """``.sum(...)`` becomes ``.mean(...)``, and back."""
    other = {"sum": "mean", "mean": "sum"}
    if isinstance(node, ast.Attribute) and node.attr in other:
        yield ast.Attribute(node.value, other[node.attr])


@expression("normaliser-changed")
def normaliser_changed(node: ast.AST, _: Backward) -> Change:
    """``a.numel()`` becomes ``a.shape[0]``, ``a.shape[-1]``, 1; ``a.shape[0]`` the others."""
    text = ast.unparse(node)
    if isinstance(node, ast.Call) and text.endswith((".numel()", ".size(0)")):
        owner = node.func.value  # type: ignore[attr-defined]
    elif isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith(".shape"):
        owner = node.value.value  # type: ignore[attr-defined]
    else:
        return
    for other in (".numel()", ".shape[0]", ".shape[-1]"):
        if not text.endswith(other):
            yield ast.parse(f"{ast.unparse(owner)}{other}", mode="eval").body
    yield ast.Constant(1)


@expression("axis-changed")
def axis_changed(node: ast.AST, backward: Backward) -> Change:
    """``dim=1`` becomes ``dim=0``; ``keepdim=True`` becomes ``keepdim=False``."""
    if node in backward.axes and isinstance(node, (ast.Constant, ast.UnaryOp)):
        axis = ast.literal_eval(node)
        yield ast.Constant({-1: 0, 0: 1, 1: 0, 2: 1}[axis])
        if axis in (1, 2):
            yield ast.Constant({1: 2, 2: 0}[axis])
    elif isinstance(node, ast.keyword) and node.arg == "keepdim":
        yield ast.keyword("keepdim", ast.Constant(not ast.literal_eval(node.value)))


@expression("slice-changed")
def slice_changed(node: ast.AST, _: Backward) -> Change:
    """``a[1:]`` becomes ``a[:1]``: the two ends of a slice are exchanged; an index moves by one."""
    if isinstance(node, ast.Slice):
        yield ast.Slice(node.upper, node.lower)
    elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
        for position, part in enumerate(node.slice.elts):
            if isinstance(part, ast.Constant) and isinstance(part.value, int):
                parts = [*node.slice.elts]
                parts[position] = ast.Constant(1 - part.value)
                yield ast.Subscript(node.value, ast.Tuple(parts, ast.Load()))


@expression("transpose-changed")
def transpose_changed(node: ast.AST, _: Backward) -> Change:
    """``a.T`` becomes ``a``; ``a @ b`` becomes ``b @ a``, ``a.T @ b`` and ``a @ b.T``."""
    if isinstance(node, ast.Attribute) and node.attr in ("T", "mT"):
        yield node.value
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        yield ast.BinOp(node.right, ast.MatMult(), node.left)
        yield ast.BinOp(ast.Attribute(node.left, "T"), ast.MatMult(), node.right)
        yield ast.BinOp(node.left, ast.MatMult(), ast.Attribute(node.right, "T"))


@expression("arguments-changed")
def arguments_changed(node: ast.AST, _: Backward) -> Change:
    """The two bounds of a clamp, or two numbers of a tuple of padding, change places."""
    if isinstance(node, ast.Tuple) and all(isinstance(e, ast.Constant) for e in node.elts):
        half = len(node.elts) // 2
        yield ast.Tuple([*node.elts[half:], *node.elts[:half]], ast.Load())
        yield ast.Tuple(node.elts[::-1], ast.Load())


# Names.


@expression("variable-replaced")
def variable_replaced(node: ast.AST, backward: Backward) -> Change:
    """A tensor is mistaken for the next one: saved tensors among themselves, and the others."""
    if not isinstance(node, ast.Name) or not isinstance(node.ctx, ast.Load):
        return
    derived = [name for name in backward.variables if name not in backward.saved]
    for group in (backward.saved, derived):
        if node.id in group and len(group) > 1:
            yield ast.Name(group[(group.index(node.id) + 1) % len(group)], ast.Load())


@expression("detached")
def detached(node: ast.AST, backward: Backward) -> Change:
    """A saved tensor is detached: the gradient is right, the gradient of the gradient is not."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in backward.saved:
        yield ast.Call(ast.Attribute(node, "detach"), [], [])


@expression("grad-output-dropped")
def grad_output_dropped(node: ast.AST, backward: Backward) -> Change:
    """``grad_output * a`` becomes ``a``."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, (ast.Mult, ast.Div)):
        return
    if backward.is_grad_output(node.left) and isinstance(node.op, ast.Mult):
        yield _signed_like(node.left, node.right)
    if backward.is_grad_output(node.right):
        yield _signed_like(node.right, node.left)


def _signed_like(dropped: ast.expr, kept: ast.expr) -> ast.expr:
    """The factor that is kept, with the minus that stood before the one that is dropped."""
    negative = isinstance(dropped, ast.UnaryOp) and isinstance(dropped.op, ast.USub)
    return ast.UnaryOp(ast.USub(), kept) if negative else kept


@expression("grad-output-reduced")
def grad_output_reduced(node: ast.AST, backward: Backward) -> Change:
    """``grad_output`` becomes its sum or mean: right for a scalar loss only."""
    if isinstance(node, ast.Name) and node.id in backward.grad_outputs:
        for reduction in ("sum", "mean"):
            yield ast.Call(ast.Attribute(node, reduction), [], [])


# What is returned.


def _returned(node: ast.AST) -> list[ast.expr]:
    return [*node.elts] if isinstance(node, ast.Tuple) else [node]  # type: ignore[list-item]


def _gradients(node: ast.AST) -> Iterator[tuple[int, ast.expr, Callable[[ast.expr], ast.AST]]]:
    """Each returned gradient that is not None, with a way to put another in its place."""
    parts = _returned(node)
    for position, part in enumerate(parts):
        if isinstance(part, ast.Constant) and part.value is None:
            continue

        def put(other: ast.expr, position: int = position) -> ast.AST:
            changed = [*parts]
            changed[position] = other
            return ast.Tuple(changed, ast.Load()) if len(parts) > 1 else other

        yield position, part, put


@returned("return-none")
def return_none(node: ast.AST, _: Backward) -> Change:
    """A gradient is not given at all."""
    for _position, _part, put in _gradients(node):
        yield put(ast.Constant(None))


@returned("return-zeros")
def return_zeros(node: ast.AST, _: Backward) -> Change:
    """A gradient is zero everywhere."""
    for _position, part, put in _gradients(node):
        yield put(ast.BinOp(ast.Constant(0), ast.Mult(), part))


@returned("return-swapped")
def return_swapped(node: ast.AST, _: Backward) -> Change:
    """Two gradients come back in the wrong order."""
    parts = _returned(node)
    found = [position for position, _part, _put in _gradients(node)]
    for first, second in itertools.pairwise(found):
        changed = [*parts]
        changed[first], changed[second] = parts[second], parts[first]
        yield ast.Tuple(changed, ast.Load())


@returned("sign-flipped")
def sign_flipped(node: ast.AST, _: Backward) -> Change:
    """A gradient points uphill; then all of them do."""
    for _position, part, put in _gradients(node):
        yield put(ast.UnaryOp(ast.USub(), part))
    flipped = [
        part
        if isinstance(part, ast.Constant)
        else ast.UnaryOp(ast.USub(), part)
        for part in _returned(node)
    ]  # fmt: skip
    if len(flipped) > 1:
        yield ast.Tuple(flipped, ast.Load())


@returned("normaliser-added")
def normaliser_added(node: ast.AST, backward: Backward) -> Change:
    """A gradient is divided by the number of elements once more."""
    for _position, part, put in _gradients(node):
        count = ast.parse(f"{backward.saved[0]}.numel()", mode="eval").body
        yield put(ast.BinOp(part, ast.Div(), count))


@returned("mean-repeated")
def mean_repeated(node: ast.AST, backward: Backward) -> Change:
    """Every element of a gradient is replaced by the mean of them all."""
    for _position, part, put in _gradients(node):
        mean = ast.Call(ast.Attribute(part, "mean"), [], [])
        ones = ast.Call(ast.parse("torch.ones_like", mode="eval").body, [part], [])
        yield put(ast.BinOp(mean, ast.Mult(), ones))


# Whole statements.


@statement("statement-dropped")
def statement_dropped(node: ast.AST, _: Backward) -> Change:
    """An update in place, or of a variable from its own value, is forgotten."""
    if isinstance(node, (ast.AugAssign, ast.Expr)):
        yield ast.Pass()
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        name = node.targets[0].id
        if any(_is_name(n) and n.id == name for n in ast.walk(node.value)):
            yield ast.Pass()


KINDS = [*EXPRESSION_OPERATORS, *RETURN_OPERATORS, *STATEMENT_OPERATORS, "grad-output-ignored"]
"""Every kind of mutant; the last one changes all places at once, see ``mutants.py``."""
