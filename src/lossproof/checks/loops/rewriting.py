"""A function without one of its loops: the round as a function, run over all elements at once."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from copy import deepcopy

from lossproof.checks.loops.elements import (
    Element,
    Elements,
    Indexed,
    NotRewrittenError,
    iterated,
)
from lossproof.checks.loops.rounds import Result, Round

Comprehension = ast.ListComp | ast.GeneratorExp


def rewritten(tree: ast.FunctionDef, line: int, torch: str) -> ast.FunctionDef:
    """The function with the loop that begins at a line turned into ``torch.vmap``.

    Args:
        tree: the function.
        line: of the ``for``, or of the comprehension.
        torch: what torch is called in the user's file.

    Raises:
        NotRewrittenError: there is no such loop, or it has a form that is not turned.

    Example:
        >>> import ast
        >>> source = '''
        ... def loss(input, target):
        ...     total = 0
        ...     for i in range(len(target)):
        ...         total += (input[i] - target[i]) ** 2
        ...     return total / len(target)
        ... '''
        >>> print(ast.unparse(rewritten(ast.parse(source).body[0], 4, "torch")))
        def loss(input, target):
        <BLANKLINE>
            def per_sample(input, target):
                return (input - target) ** 2
            total = torch.vmap(per_sample)(input, target).sum(0)
            return total / len(target)
    """
    return _Rewriting(tree, line, torch).function()


class _Rewriting:
    def __init__(self, tree: ast.FunctionDef, line: int, torch: str) -> None:
        self.tree = deepcopy(tree)
        self.line = line
        self.torch = torch
        self.used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        self.lists: set[str] = set()
        self.done = False

    def function(self) -> ast.FunctionDef:
        self.tree.decorator_list = []
        if ast.get_docstring(self.tree) is not None:
            del self.tree.body[0]
        self.tree.body = self._block(self.tree.body)
        if not self.done:
            raise NotRewrittenError("the loop is not a `for` of this function")
        stacked = _Stacked(self.lists, self.torch).visit(self.tree)
        assert isinstance(stacked, ast.FunctionDef)
        for block in _blocks(stacked):
            block[:] = _without_beginnings(block)
        return ast.fix_missing_locations(stacked)

    def _block(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        found: list[ast.stmt] = []
        for statement in body:
            if isinstance(statement, ast.For) and statement.lineno == self.line:
                found += self._loop(statement)
                continue
            for name in ("body", "orelse"):
                if isinstance(getattr(statement, name, None), list):
                    setattr(statement, name, self._block(getattr(statement, name)))
            if not isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
                found += self._comprehensions(statement)
            found.append(statement)
        return found

    # ------------------------------------------------------------------ loops
    def _loop(self, loop: ast.For, around: Round | None = None) -> list[ast.stmt]:
        self.done = True
        if loop.orelse:
            raise NotRewrittenError("a loop with `else`")
        elements, index = iterated(loop.target, loop.iter, self.torch)
        body = self._with_elements(loop.body, loop.iter, elements, index)
        changing = (set() if around is None else around.changing) | set(elements.names)
        name = self._new("per_sample" if around is None else "per_element")
        inner = Round(changing, index, self.torch, self._loop)
        # What the round around this one assigns is, in here, somebody else's.
        inner.own = set(elements.names)
        inner.read(body)
        return self._called(name, elements, inner)

    def _with_elements(
        self,
        body: Sequence[ast.stmt],
        over: ast.expr,
        elements: Elements,
        index: str | None,
    ) -> list[ast.stmt]:
        """The body with the elements in the place of what is indexed."""
        copies = [deepcopy(statement) for statement in body]
        if index is None:
            return copies
        own = {
            node.id
            for statement in body
            for node in ast.walk(statement)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        turned: list[ast.stmt] = [
            Indexed(index, elements, own, _whole(body, index)).visit(one) for one in copies
        ]
        if any(_loads(one, index) for one in map(_without_places(index).visit, deepcopy(turned))):
            count = over.args[0] if isinstance(over, ast.Call) and over.args else None
            if count is None or ast.unparse(over.func) != "range":  # type: ignore[attr-defined]
                raise NotRewrittenError(f"the number `{index}` of a round")
            arange = ast.Attribute(ast.Name(self.torch, ast.Load()), "arange", ast.Load())
            elements.listed.append(Element(index, ast.Call(arange, [count], [])))
        return turned

    def _called(self, name: str, elements: Elements, inner: Round) -> list[ast.stmt]:
        """The round as a function, and what its results make of the names around it."""
        if not inner.results or not elements.listed:
            raise NotRewrittenError("rounds that give nothing, or are given nothing")
        values = list(inner.results.values())
        value = values[0] if len(values) == 1 else ast.Tuple(values, ast.Load())
        function = _function(name, elements.names, [*inner.statements, ast.Return(value)])
        call = self._vmap(name, elements)
        if len(values) == 1:
            return [function, self._used(next(iter(inner.results)), call)]
        parts = [self._new(f"{result.name}_parts") for result in inner.results]
        targets: list[ast.expr] = [ast.Name(part, ast.Store()) for part in parts]
        unpacked = ast.Assign([ast.Tuple(targets, ast.Store())], call)
        return [
            function,
            unpacked,
            *(
                self._used(result, ast.Name(part, ast.Load()))
                for result, part in zip(inner.results, parts, strict=True)
            ),
        ]

    def _used(self, result: Result, value: ast.expr) -> ast.stmt:
        if result.kind == "list":
            self.lists.add(result.name)
        if result.kind == "sum":
            total = ast.Call(ast.Attribute(value, "sum", ast.Load()), [ast.Constant(0)], [])
            operator = ast.Sub() if result.minus else ast.Add()
            value = ast.BinOp(ast.Name(result.name, ast.Load()), operator, total)
        return ast.Assign([ast.Name(result.name, ast.Store())], value)

    def _vmap(self, name: str, elements: Elements) -> ast.Call:
        axes = [element.axis for element in elements.listed]
        keywords = []
        if any(axes):
            dims: list[ast.expr] = [ast.Constant(axis) for axis in axes]
            keywords = [ast.keyword("in_dims", ast.Tuple(dims, ast.Load()))]
        vmap = ast.Attribute(ast.Name(self.torch, ast.Load()), "vmap", ast.Load())
        mapped = ast.Call(vmap, [ast.Name(name, ast.Load())], keywords)
        return ast.Call(mapped, [element.sequence for element in elements.listed], [])

    def _new(self, name: str) -> str:
        """A name that nothing else has."""
        found, number = name, 2
        while found in self.used:
            found, number = f"{name}_{number}", number + 1
        self.used.add(found)
        return found

    # ------------------------------------------------------------------ comprehensions
    def _comprehensions(self, statement: ast.stmt) -> list[ast.stmt]:
        """Put calls in the place of the statement's comprehensions; the functions they call."""
        before: list[ast.stmt] = []
        for parent in ast.walk(statement):
            for name, value in ast.iter_fields(parent):
                items = value if isinstance(value, list) else [value]
                for position, item in enumerate(items):
                    if isinstance(item, Comprehension) and item.lineno == self.line:
                        functions, call = self._comprehension(item)
                        before += functions
                        if isinstance(value, list):
                            value[position] = call
                        else:
                            setattr(parent, name, call)
        if before and isinstance(statement, ast.Assign):
            self._name_list(statement)
        return before

    def _name_list(self, statement: ast.Assign) -> None:
        """A list that gets a name is left a tensor: it is known by the name."""
        value, target = statement.value, statement.targets[0]
        if isinstance(value, ast.Call) and isinstance(target, ast.Name):
            if ast.unparse(value.func) == "list":
                statement.value = value.args[0]
                self.lists.add(target.id)

    def _comprehension(self, node: Comprehension) -> tuple[list[ast.stmt], ast.expr]:
        self.done = True
        if len(node.generators) != 1 or node.generators[0].ifs:
            raise NotRewrittenError("a comprehension with a condition or of two loops")
        over = node.generators[0]
        elements, index = iterated(over.target, over.iter, self.torch)
        (body,) = self._with_elements([ast.Expr(node.elt)], over.iter, elements, index)
        assert isinstance(body, ast.Expr)
        inner = Round(elements.names, index, self.torch, self._loop)
        if not elements.listed:
            raise NotRewrittenError("rounds that are given nothing")
        name = self._new("per_sample")
        function = _function(name, elements.names, [ast.Return(inner.tensors(body.value))])
        call = self._vmap(name, elements)
        return [function], ast.Call(ast.Name("list", ast.Load()), [call], [])


class _Stacked(ast.NodeTransformer):
    """What was a list of tensors is one tensor: it need not be stacked, nor added up in Python."""

    def __init__(self, lists: set[str], torch: str) -> None:
        self.lists = lists
        self.torch = torch

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if not node.args:
            return node
        inner = self._inner(node.args[0])
        called = ast.unparse(node.func)
        if inner is None or node.keywords or len(node.args) > 1:
            return node
        if called == f"{self.torch}.stack":
            return inner
        if called == "sum":
            return ast.Call(ast.Attribute(inner, "sum", ast.Load()), [ast.Constant(0)], [])
        return node

    def _inner(self, node: ast.expr) -> ast.expr | None:
        """The tensor behind a list."""
        if isinstance(node, ast.Name) and node.id in self.lists:
            return node
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "list" and node.args:
            if f"{self.torch}.vmap(" in ast.unparse(node.args[0]):
                return node.args[0]
        return None


def _function(name: str, arguments: Sequence[str], body: list[ast.stmt]) -> ast.FunctionDef:
    given = ast.arguments([], [ast.arg(one) for one in arguments], None, [], [], None, [])
    function = ast.FunctionDef(name, given, body, [], None)
    if "type_params" in ast.FunctionDef._fields:  # Python 3.12
        function.type_params = []  # type: ignore[attr-defined]
    return function


def _whole(body: Sequence[ast.stmt], index: str) -> set[str]:
    """The names that the body reads other than with the index, too."""
    indexed = {
        id(inner)
        for statement in body
        for node in ast.walk(statement)
        if isinstance(node, ast.Subscript) and _loads(node.slice, index)
        for inner in ast.walk(node.value)
    }
    return {
        node.id
        for statement in body
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and id(node) not in indexed
    }


def _without_places(index: str) -> ast.NodeTransformer:
    """Takes out what the index stands in on the left of an assignment: ``losses[i] = ...``."""

    class Places(ast.NodeTransformer):
        def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
            stored = isinstance(node.ctx, ast.Store) and ast.unparse(node.slice) == index
            return node.value if stored else self.generic_visit(node)  # type: ignore[return-value]

    return Places()


def _loads(node: ast.AST, name: str) -> bool:
    return any(isinstance(one, ast.Name) and one.id == name for one in ast.walk(node))


def _blocks(tree: ast.AST) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(tree):
        for name in ("body", "orelse"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                yield block


def _without_beginnings(block: list[ast.stmt]) -> list[ast.stmt]:
    """``total = 0`` before ``total = total + x`` is ``total = x``; an empty list is not needed."""
    found = list(block)
    for first in block:
        name = _begins(first)
        if name is None:
            continue
        later = found[found.index(first) + 1 :]
        use = next((one for one in later if _loads(one, name)), None)
        if isinstance(use, ast.Assign) and ast.unparse(use.targets[0]) == name:
            if isinstance(use.value, ast.BinOp) and ast.unparse(use.value.left) == name:
                if not isinstance(use.value.op, ast.Add) or _is_list(first):
                    continue
                use.value = use.value.right
            elif _loads(use.value, name):
                continue
            found.remove(first)
    return found


def _begins(statement: ast.stmt) -> str | None:
    """The name that is set to zero or to an empty list."""
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        text = ast.unparse(statement.value)
        if text in ("0", "0.0", "[]") and len(statement.targets) == 1:
            return statement.targets[0].id
    return None


def _is_list(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Assign) and isinstance(statement.value, ast.List)
