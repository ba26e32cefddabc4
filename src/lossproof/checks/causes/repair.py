"""The smallest change of a backward that makes its gradient right.

The truth is known (:mod:`~lossproof.checks.witness`), and so the mistake can be undone instead of
guessed at: common mistakes are tried backwards on every expression of the source, in the order of
how plausible they are, until one makes the gradient right at both points. Such a change names the
line, the cause and the mend at once.
"""

from __future__ import annotations

import ast
import collections
import contextlib
import copy
import itertools
import math
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import torch

from lossproof.checks.causes import edits
from lossproof.checks.causes.cause import Cause, Kind
from lossproof.checks.causes.edits import Edit, Piece
from lossproof.checks.causes.instrument import Instrumented, Record, compiled, fresh_context
from lossproof.checks.causes.needed import Needed, Pool, explained_value
from lossproof.checks.causes.source import FunctionSource, source_of
from lossproof.checks.causes.study import Study
from lossproof.checks.ordinary_code import StandInContext
from lossproof.checks.report import Location
from lossproof.checks.trace import Interceptor, tensors_in
from lossproof.checks.witness import relative_error

Tensor = torch.Tensor

PIECES = 36
"""So many expressions of the source are tried as a missing factor or term."""
LARGEST = 20_000
"""Above this many elements trying changes takes too long."""
LONGEST = 90
"""A changed expression longer than this is shown by its line alone."""


@dataclass(frozen=True)
class Repair:
    """A change that makes the gradient of these arguments right."""

    kind: Kind
    arguments: tuple[int, ...]
    location: Location
    before: str
    after: str
    statement: str
    """The corrected statement."""

    @property
    def help(self) -> str:
        """The mend, as code."""
        return f"`{self.statement}`"

    @property
    def cause(self) -> Cause:
        """The change as a cause."""
        if max(len(self.before), len(self.after)) > LONGEST:
            message = f"{_WORDS[self.kind]}: line {self.location.line} of backward"
        else:
            message = f"{_WORDS[self.kind]}: `{self.before}` should be `{self.after}`"
        return Cause(self.kind, message, self.location, self.help)


_WORDS = {
    Kind.SIGN: "a sign is wrong",
    Kind.TRANSPOSED: "a matrix is transposed wrongly",
    Kind.MISSING_FACTOR: "a factor is missing",
    Kind.EXTRA_FACTOR: "a factor is too many",
    Kind.MISSING_TERM: "a term is missing",
    Kind.EXTRA_TERM: "a term is too many",
    Kind.WRONG_CONSTANT: "a number is wrong",
    Kind.WRONG_VARIABLE: "the wrong variable is used",
    Kind.WRONG_OPERATOR: "an operator is wrong",
    Kind.WRONG_FUNCTION: "a function is wrong or missing",
    Kind.WRONG_REDUCTION: "a sum or mean is wrong",
    Kind.WRONG_CONDITION: "a condition is wrong",
}


Effort = Literal["upstream", "plain", "full"]
"""How far to search: only for ``grad_output``; for a slip in what is written; for anything."""
RUNS: dict[Effort, int] = {"upstream": 1000, "plain": 800, "full": 5000}
"""So many changes are tried."""


def find_repairs(
    study: Study, source: FunctionSource | None, wrong: Sequence[int], effort: Effort
) -> list[Repair]:
    """One change that mends everything that is wrong; else one for each argument that has one."""
    if source is None or not wrong or study.function.numel > LARGEST:
        return []
    try:
        bench = _Bench(study, source)
    except (ValueError, SyntaxError, KeyError, TypeError):
        return []  # the source cannot be run outside of its class
    if not bench.usable:
        return []
    whole = bench.search(tuple(wrong), effort)
    if whole is not None:
        return [whole]
    if len(wrong) == 1:
        return []
    alone = [bench.search((k,), "plain") for k in wrong]
    return [repair for repair in alone if repair is not None]


class _Bench:
    """Runs a backward, as written and changed, at every point of a study."""

    def __init__(self, study: Study, source: FunctionSource) -> None:
        self.study = study
        self.source = source
        self.instrumented = Instrumented(source)
        self.contexts: list[StandInContext] = []
        self.upstream: list[tuple[Any, ...]] = []
        for scene in study.scenes:
            outputs, ctx = study.function.run(scene.args)
            self.contexts.append(ctx)
            self.upstream.append(
                tuple(_upstream(i, out, scene.upstream) for i, out in enumerate(outputs))
            )
        self.floors = [scene.floor for scene in study.scenes]
        self._parents = {
            id(child): node
            for node in ast.walk(source.tree)
            for child in ast.iter_child_nodes(node)
        }
        self._uses = collections.Counter(
            node.id
            for node in ast.walk(source.tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        )
        self.mode: Any = contextlib.nullcontext
        self.writes = True
        versions = self._versions()
        self.usable = self._runs_as_claimed()
        self.writes = versions != self._versions() or _writes_in_place(source.tree)
        if not self.usable:
            self.mode = _lifted
            self.usable = self._runs_as_claimed()

    def _runs_as_claimed(self) -> bool:
        """Whether plain runs give what torch's own machinery gave."""
        self.records: list[Record] = []
        self.plain: list[list[Tensor]] = []
        for s, scene in enumerate(self.study.scenes):
            try:
                with torch.no_grad(), self.mode():
                    found, record = self.instrumented.recorded(self._arguments(s))
                gradients = self._shaped(found, s)
            except Exception:  # it needs what only torch's own `ctx` has
                return False
            if gradients is None or any(
                relative_error(g, c, scene.floor) > self.study.tolerance
                for g, c in zip(gradients, scene.claim, strict=True)
                if bool(torch.isfinite(c).all())
            ):
                return False
            self.records.append(record)
            self.plain.append(gradients)
        return True

    def _arguments(self, s: int) -> tuple[Any, ...]:
        ctx = self.contexts[s]
        return (fresh_context(ctx) if self.writes else ctx, *self.upstream[s])

    def _versions(self) -> list[int]:
        tensors = [*tensors_in([vars(ctx) for ctx in self.contexts]), *tensors_in(self.upstream)]
        return [tensor._version for tensor in tensors]

    def _shaped(self, found: Any, s: int) -> list[Tensor] | None:
        """What torch makes of what a backward returns; ``None`` where it would refuse."""
        returned = found if isinstance(found, (tuple, list)) else (found,)
        gradients = []
        for k, position in enumerate(self.study.function.wanted):
            like = self.study.scenes[s].point[k]
            gradient = returned[position] if position < len(returned) else None
            if gradient is None:
                gradients.append(torch.zeros_like(like))
                continue
            if not isinstance(gradient, Tensor):
                return None
            if gradient.shape != like.shape:
                gradient = gradient.sum_to_size(like.shape)
            gradients.append(gradient.to(like.dtype))
        return gradients

    def run(self, s: int, edit: Edit) -> list[Tensor] | None:
        """The gradients with a change; ``None`` where it cannot be computed."""
        try:
            with self.mode():
                found = self.instrumented.run(
                    self._arguments(s), edit.number, lambda *operands: edit.instead(s, *operands)
                )
            return self._shaped(found, s)
        except Exception:  # most changes fit no shapes
            return None

    # ------------------------------------------------------------------ the search
    def search(self, wrong: tuple[int, ...], effort: Effort) -> Repair | None:
        """The first change that makes ``wrong`` right and leaves the others as they are."""
        self._runs = 0
        with torch.no_grad():
            for edit in self._candidates(self._sites(wrong), wrong, effort):
                self._runs += 1
                if self._runs > RUNS[effort]:
                    return None
                if self._mends(edit, wrong):
                    repair = self._confirmed(edit, wrong)
                    if repair is not None:
                        return repair
        return None

    def _sites(self, wrong: tuple[int, ...]) -> list[int]:
        """The expressions that matter to all that is wrong, and to nothing that is right."""
        # Behind a comparison a small change may show in a part of what is wrong only.
        branches = any(isinstance(n, (ast.Compare, ast.IfExp)) for n in ast.walk(self.source.tree))
        found = []
        for number in self.records[0].values:
            changed = self._changed(number)
            if (
                changed is None
                or changed == set(wrong)
                or (branches and len(changed) > 0 and changed <= set(wrong))
            ):
                found.append(number)
        return sorted(found, key=self._order)

    def _order(self, number: int) -> tuple[int, int]:
        """By line; the whole expression before its parts."""
        node = self.instrumented.nodes[number]
        return node.lineno, number  # type: ignore[attr-defined]

    def _changed(self, number: int) -> set[int] | None:
        """Which gradients depend on an expression; ``None`` where that cannot be tried."""
        value = self.records[0].values[number]
        if isinstance(value, bool) or not isinstance(value, (int, float, Tensor)):
            return None if isinstance(self.instrumented.nodes[number], ast.Constant) else set()
        if isinstance(value, Tensor) and not value.is_floating_point():
            return None
        for other in (_nudged(value), -value):
            edit = Edit(number, Kind.SIGN, lambda s, *_, o=other: o, ast.Constant(0))
            found = self.run(0, edit)
            if found is None:
                return None
            pairs = zip(found, self.plain[0], strict=True)
            changed = {k for k, (new, old) in enumerate(pairs) if not torch.equal(new, old)}
            if changed:  # a small change does not show behind a comparison
                return changed
        return set()

    def _candidates(
        self, sites: Sequence[int], wrong: tuple[int, ...], effort: Effort
    ) -> Iterator[Edit]:
        """All changes, the plausible ones first."""
        nodes, record = self.instrumented.nodes, self.records[0]
        names = self._names()
        values = [n for n in sites if self._is_value(n)]
        if effort == "upstream":
            # What is nearest to the `return` first: there people multiply by `grad_output`.
            nearest = sorted(values, key=lambda n: -nodes[n].lineno)  # type: ignore[attr-defined]
            yield from self._plain(sites)
            pieces = self._upstream_pieces(names)
            yield from self._replaced(nearest, pieces, any_shape=True)
            yield from self._joined(nearest, [*pieces, *names])
            yield from self._replaced(values, names)
            return
        yield from self._plain(sites)
        sizes = [n for n in values if isinstance(record.values[n], int)]
        yield from self._replaced(sizes, names)
        solved = [self._solved_constant(number, wrong) for number in sites]
        yield from (edit for edit, plain in solved if edit is not None and plain)
        yield from self._unreduced(values, names)
        yield from self._replaced(values, names)
        if effort == "plain":
            yield from self._negated(values)
            yield from self._joined(values, [*self._numbers(), *names])
        else:
            yield from self._anything(values, wrong, names)
        yield from (edit for edit, plain in solved if edit is not None and not plain)

    def _anything(
        self, values: Sequence[int], wrong: tuple[int, ...], names: Sequence[Piece]
    ) -> Iterator[Edit]:
        """What is left out of the source, or has been written instead of it."""
        theirs, pieces = self._pieces_of_forward(names), self._pieces(names)
        yield from self._needed(values, wrong, [*names, *pieces, *theirs])
        yield from self._wrapped(values)
        yield from self._replaced(values, theirs)
        yield from self._joined(values, [*self._numbers(), *names])
        yield from self._joined(values, [*theirs, *pieces])
        yield from self._joined_from_left(values, [*names, *theirs, *pieces])

    def _plain(self, sites: Sequence[int]) -> Iterator[Edit]:
        """What is written there: operators, signs and comparisons first, then calls."""
        nodes, axes = self.instrumented.nodes, edits.axis_constants(self.source.tree)
        for calls in (False, True):
            for number in sites:
                if isinstance(nodes[number], ast.Call) == calls:
                    operands = self.records[0].operands[number]
                    yield from edits.plain_edits(number, nodes[number], operands, axes)

    def _negated(self, sites: Sequence[int]) -> Iterator[Edit]:
        for number in sites:
            if Kind.MISSING_FACTOR in self._open_to(number) and not self._is_alias(number):
                yield self._on_value(edits.negated(number, self.instrumented.nodes[number]))  # type: ignore[arg-type]

    def _numbers(self) -> list[Piece]:
        points = len(self.contexts)
        return [Piece(ast.Constant(n), [n] * points, 0) for n in (2, 0.5, 3, 4)]

    def _needed(
        self, sites: Sequence[int], wrong: tuple[int, ...], pieces: Sequence[Piece]
    ) -> Iterator[Edit]:
        """Changes by what an expression's value should have been, where that can be computed."""
        pools: dict[tuple[torch.Size, ...], Pool] = {}
        for number in sites:
            if self._is_alias(number) or not self._open_to(number):
                continue
            needed = [self._needed_value(s, number, wrong) for s in range(len(self.contexts))]
            found = [value for value in needed if value is not None]
            if len(found) == len(needed):
                node = self.instrumented.nodes[number]
                shapes = tuple(at.needed.shape for at in found)
                pool = pools[shapes] = pools.get(shapes) or Pool(pieces, shapes)
                for edit in explained_value(number, node, found, pool):  # type: ignore[arg-type]
                    yield self._on_value(edit)

    def _needed_value(self, s: int, number: int, wrong: tuple[int, ...]) -> Needed | None:
        """What an expression should have been, where the gradient is linear in it elementwise."""
        value, k = self.records[s].values[number], wrong[0]
        truth = self.study.truth[s][k]
        if not isinstance(value, Tensor) or not edits.broadcasts(value, truth.shape):
            return None
        once, twice = self.plain[s][k], self._with_value(s, number, 2 * value)
        self._runs += 2
        if twice is None:
            return None
        slope = twice[k] - once
        matters = slope.abs() > 1e-9 * slope.abs().max()
        if not bool(matters.any()):
            return None
        factor = torch.where(matters, (truth - once + slope) / slope, 1.0)
        if factor.shape != value.shape:
            common = _common(factor, value.shape)
            if common is None or not bool(matters.all()):
                return None
            factor = common
            matters = torch.ones_like(factor, dtype=torch.bool)
        found = self._with_value(s, number, value * factor)
        if not self._is_right(found, s, wrong):
            return None
        return Needed(value, value * factor, matters)

    def _with_value(self, s: int, number: int, value: Tensor) -> list[Tensor] | None:
        return self.run(s, Edit(number, Kind.MISSING_FACTOR, lambda s, *_: value, ast.Constant(0)))

    def _unreduced(self, sites: Sequence[int], names: Sequence[Piece]) -> Iterator[Edit]:
        numbers = {id(node): number for number, node in enumerate(self.instrumented.nodes)}
        points = [record.values for record in self.records]
        sizes = [piece for piece in names if isinstance(piece.values[0], int)]
        for number in sites:
            node = self.instrumented.nodes[number]
            if isinstance(self.records[0].values[number], Tensor):
                yield from edits.unreduced(number, node, numbers, points, sizes)  # type: ignore[arg-type]

    def _replaced(
        self, sites: Sequence[int], pieces: Sequence[Piece], *, any_shape: bool = False
    ) -> Iterator[Edit]:
        for number in sites:
            node, value = self.instrumented.nodes[number], self.records[0].values[number]
            yield from edits.replaced(number, node, value, pieces, any_shape=any_shape)  # type: ignore[arg-type]

    def _wrapped(self, sites: Sequence[int]) -> Iterator[Edit]:
        more = edits.harvested(self._trees(), self.source.function.__globals__)
        for number in sites:
            if not isinstance(self.records[0].values[number], Tensor) or self._is_alias(number):
                continue
            for edit in edits.wrapped(number, self.instrumented.nodes[number], more):  # type: ignore[arg-type]
                if edit.kind is not Kind.SIGN or Kind.MISSING_FACTOR in self._open_to(number):
                    yield self._on_value(edit)

    def _joined(self, sites: Sequence[int], pieces: Sequence[Piece]) -> Iterator[Edit]:
        for number in sites:
            node, value = self.instrumented.nodes[number], self.records[0].values[number]
            kinds = self._open_to(number)
            if kinds and not self._is_alias(number):
                for edit in edits.joined(number, node, value, pieces, kinds):  # type: ignore[arg-type]
                    yield self._on_value(edit)

    def _joined_from_left(self, sites: Sequence[int], pieces: Sequence[Piece]) -> Iterator[Edit]:
        for number in sites:
            kinds = self._open_to(number)
            if kinds and not self._is_alias(number):
                node = self.instrumented.nodes[number]
                for edit in edits.joined_from_left(number, node, pieces, kinds):  # type: ignore[arg-type]
                    yield self._on_value(edit)

    def _open_to(self, number: int) -> list[Kind]:
        """Whether a factor, or a term, here is not the same as one in the expression around it."""
        node = self.instrumented.nodes[number]
        parent = self._parents.get(id(node))
        found = [Kind.MISSING_FACTOR, Kind.MISSING_TERM]
        if isinstance(parent, ast.UnaryOp):
            return []
        if isinstance(parent, ast.BinOp):
            if isinstance(parent.op, (ast.Add, ast.Sub)):
                found.remove(Kind.MISSING_TERM)
            if isinstance(parent.op, ast.Mult) or (
                isinstance(parent.op, ast.Div) and parent.left is node
            ):
                found.remove(Kind.MISSING_FACTOR)
        return found

    def _is_alias(self, number: int) -> bool:
        """Whether it is the only use of a variable: a change where that is assigned is the same."""
        node = self.instrumented.nodes[number]
        return isinstance(node, ast.Name) and self._uses.get(node.id) == 1

    def _is_value(self, number: int) -> bool:
        value = self.records[0].values[number]
        if not isinstance(self.instrumented.nodes[number], ast.expr):
            return False
        if isinstance(value, Tensor):
            return value.is_floating_point()
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    def _on_value(self, change: Edit) -> Edit:
        """A change that takes the value of an expression instead of its operands."""
        usual, inner = self.instrumented.usual(change.number), change.instead
        change.instead = lambda s, *operands: inner(s, usual(*operands))
        return change

    def _trees(self) -> list[ast.AST]:
        cls = self.study.function.cls
        forward = source_of(getattr(cls, "forward", None))
        return [self.source.tree, *([forward.tree] if forward is not None else [])]

    # ------------------------------------------------------------------ what is at hand
    def _names(self) -> list[Piece]:
        """The variables of backward and the sizes of its tensors."""
        found: dict[str, Piece] = {}
        again = self._assigned_again()
        for number, node in enumerate(self.instrumented.nodes):
            if isinstance(node, ast.Name) and node.id in again:
                continue
            if isinstance(node, ast.Name) or _is_option(node):
                self._add(found, number, node)  # type: ignore[arg-type]
        for piece in self._unread_names():
            found.setdefault(piece.text, piece)
        for piece in list(found.values()):
            if isinstance(piece.values[0], Tensor) and isinstance(piece.node, ast.Name):
                _add_sizes(found, piece)
        return [*found.values(), *self._versions_of(again)]

    def _assigned_again(self) -> dict[str, list[ast.Assign]]:
        """The variables that get a second value, with their assignments."""
        found: dict[str, list[ast.Assign]] = {}
        for node in ast.walk(self.source.tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                found.setdefault(node.targets[0].id, []).append(node)
        arguments = {argument.arg for argument in self.source.tree.args.args}
        return {n: places for n, places in found.items() if len(places) > 1 or n in arguments}

    def _versions_of(self, again: dict[str, list[ast.Assign]]) -> Iterator[Piece]:
        """Each value of a variable that has several, from its assignment to the next."""
        numbers = {id(node): number for number, node in enumerate(self.instrumented.nodes)}
        for name, places in again.items():
            for place, following in itertools.zip_longest(places, places[1:]):
                found: dict[str, Piece] = {}
                number = numbers.get(id(place.value))
                if number is not None:
                    self._add(found, number, place.value)
                until = 10**9 if following is None else following.lineno
                for piece in found.values():
                    line = (place.end_lineno or place.lineno) + 1
                    yield Piece(ast.Name(name, ast.Load()), piece.values, line, until)

    def _unread_names(self) -> Iterator[Piece]:
        """Variables that are assigned but never read any more: the mistake may be just that."""
        read = {n.id for n in ast.walk(self.source.tree)
                if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}  # fmt: skip
        probe = copy.deepcopy(self.source.tree)
        for name, line in _assigned(self.source.tree):
            if name in read:
                continue
            probe.body = _before_return(self.source.tree.body, ast.Name(name, ast.Load()))
            try:
                function = compiled(self.source, probe, {})
                with torch.no_grad(), self.mode():
                    values = [function(*self._arguments(s)) for s in range(len(self.contexts))]
            except Exception:  # not assigned on this way through the code
                continue
            if all(isinstance(v, (Tensor, int, float)) for v in values):
                yield Piece(ast.Name(name, ast.Load()), values, line + 1)

    def _upstream_pieces(self, names: Sequence[Piece]) -> list[Piece]:
        """``grad_output``, also with the axes that it lacks."""
        arguments = {argument.arg for argument in self.source.tree.args.args[1:]}
        found = []
        for piece in names:
            if piece.text in arguments and isinstance(piece.values[0], Tensor):
                found.append(piece)
                for form in ("{}.unsqueeze(-1)", "{}.unsqueeze(0)", "{}[..., None, None]"):
                    found += self._evaluated(form.format(piece.text), names)
        if not found:
            found = self._unread_arguments(arguments)
        return found

    def _unread_arguments(self, arguments: Set[str]) -> list[Piece]:
        """``grad_output`` where the source never mentions it."""
        names = [a.arg for a in self.source.tree.args.args[1:]]
        pieces = [
            Piece(ast.Name(name, ast.Load()), [up[i] for up in self.upstream], 0)
            for i, name in enumerate(names)
            if i < len(self.upstream[0]) and isinstance(self.upstream[0][i], Tensor)
        ]
        forms = ("{}.unsqueeze(-1)", "{}.unsqueeze(0)", "{}[..., None, None]")
        more = [p for piece in pieces for f in forms
                for p in self._evaluated(f.format(piece.text), pieces)]  # fmt: skip
        return [*pieces, *more]

    def _pieces(self, names: Sequence[Piece]) -> list[Piece]:
        """The other expressions of backward, short ones first, and simple functions of names."""
        found: dict[str, Piece] = {}
        for number, node in enumerate(self.instrumented.nodes):
            if isinstance(node, (ast.BinOp, ast.Call, ast.Subscript, ast.UnaryOp)):
                self._add(found, number, node)
        pieces = sorted(found.values(), key=lambda piece: len(piece.text))[:PIECES]
        for piece in names:
            value = piece.values[0]
            if isinstance(value, Tensor) and value.is_floating_point():
                for form in FORMS:
                    pieces += self._evaluated(form.format(piece.text), names)
        return pieces

    def _pieces_of_forward(self, names: Sequence[Piece]) -> list[Piece]:
        """Expressions of forward that can be written in backward, too."""
        forward = source_of(getattr(self.study.function.cls, "forward", None))
        if forward is None:
            return []
        known = {piece.text for piece in names}
        own = {ast.unparse(node) for node in self.instrumented.nodes}
        found: dict[str, Piece] = {}
        for node in ast.walk(forward.tree):
            if not isinstance(node, (ast.BinOp, ast.Call, ast.Subscript, ast.UnaryOp)):
                continue
            text = ast.unparse(_as_in_backward(node, known))
            if text not in own and text not in found:
                for piece in self._evaluated(text, names):
                    found[text] = piece
        return sorted(found.values(), key=lambda piece: len(piece.text))[:PIECES]

    def _evaluated(self, text: str, names: Sequence[Piece]) -> list[Piece]:
        """An expression of variables, where it has a value: one piece, else none."""
        node = ast.parse(text, mode="eval").body
        used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        inner = [
            p for p in names if {n.id for n in ast.walk(p.node) if isinstance(n, ast.Name)} & used
        ]
        line = max((p.line for p in inner if isinstance(p.node, ast.Name)), default=0)
        code = compile(ast.Expression(ast.fix_missing_locations(node)), "<piece>", "eval")
        values = []
        try:
            for s in range(len(self.contexts)):
                local = {p.text: p.values[s] for p in inner if isinstance(p.node, ast.Name)}
                local["ctx"] = self.contexts[s]
                with torch.no_grad(), self.mode():
                    values.append(eval(code, self.source.function.__globals__, local))
        except Exception:  # a name that backward does not have
            return []
        fits = isinstance(values[0], (int, float)) and not isinstance(values[0], bool)
        if not fits and not (isinstance(values[0], Tensor) and values[0].is_floating_point()):
            return []
        return [Piece(node, values, line)]

    def _add(self, found: dict[str, Piece], number: int, node: ast.expr) -> None:
        if any(record.runs.get(number) != 1 for record in self.records):
            return
        values = [record.values[number] for record in self.records]
        usable = isinstance(values[0], (int, float)) and not isinstance(values[0], bool)
        if not usable and not (isinstance(values[0], Tensor) and values[0].is_floating_point()):
            return
        text = ast.unparse(node)
        if text not in found and text != "ctx":
            found[text] = Piece(node, values, self._defined(node))

    def _defined(self, node: ast.expr) -> int:
        """The first line on which an expression can be written."""
        assigned = dict(_assigned(self.source.tree))
        lines = [
            assigned[n.id] + 1
            for n in ast.walk(node)
            if isinstance(n, ast.Name) and n.id in assigned
        ]
        return max(lines, default=0)

    # ------------------------------------------------------------------ a number that is wrong
    def _solved_constant(self, number: int, wrong: tuple[int, ...]) -> tuple[Edit | None, bool]:
        """The number that makes the gradient right, and whether it is a plain one."""
        node = self.instrumented.nodes[number]
        if not isinstance(node, ast.Constant) or isinstance(node.value, bool):
            return None, False
        assert isinstance(node.value, (int, float))
        here = float(node.value)
        for _ in range(8):
            step = self._newton_step(number, here, wrong)
            if step is None or not math.isfinite(step):
                return None, False
            here += step
            if abs(step) <= 1e-12 * max(abs(here), 1e-3):
                break
        plain = _plain_number(here)
        few_digits = abs(plain - float(f"{plain:.3g}")) <= 1e-12 * abs(plain)
        return edits.constant_edit(number, plain), few_digits

    def _newton_step(self, number: int, here: float, wrong: tuple[int, ...]) -> float | None:
        size = 1e-6 * max(abs(here), 1e-3)
        base = self._at_constant(number, here, wrong)
        moved = self._at_constant(number, here + size, wrong)
        self._runs += 2
        if base is None or moved is None:
            return None
        target = torch.cat([self.study.truth[0][k].flatten() for k in wrong])
        slope = (moved - base) / size
        square = float((slope * slope).sum())
        return float(((target - base) * slope).sum()) / square if square > 0 else None

    def _at_constant(self, number: int, value: float, wrong: tuple[int, ...]) -> Tensor | None:
        found = self.run(0, Edit(number, Kind.WRONG_CONSTANT, lambda s, x: value, ast.Constant(0)))
        return None if found is None else torch.cat([found[k].flatten() for k in wrong])

    # ------------------------------------------------------------------ whether it mends
    def _mends(self, edit: Edit, wrong: tuple[int, ...]) -> bool:
        return all(
            self._is_right(self.run(s, edit), s, wrong) for s in range(len(self.study.scenes))
        )

    def _is_right(self, found: list[Tensor] | None, s: int, wrong: tuple[int, ...]) -> bool:
        """Whether what was wrong is right, and what was right still is."""
        if found is None:
            return False
        others = [k for k in range(len(found)) if k not in wrong and k not in self.study.wrong]
        return all(self._near(found[k], self.study.truth[s][k], s) for k in wrong) and all(
            self._near(found[k], self.plain[s][k], s)
            or self._near(found[k], self.study.truth[s][k], s)
            for k in others
        )

    def _near(self, found: Tensor, wanted: Tensor, s: int) -> bool:
        limit = self.study.tolerance * max(float(wanted.abs().max()), self.floors[s])
        return float((found - wanted).abs().max()) <= limit

    def _confirmed(self, edit: Edit, wrong: tuple[int, ...]) -> Repair | None:
        """Compile the changed source and run it: what is shown is what was tried."""
        node = self.instrumented.nodes[edit.number]
        tree, statement = _changed_tree(self.source.tree, node, edit.rewritten)
        try:
            function = compiled(self.source, tree, {})
            for s in range(len(self.study.scenes)):
                with torch.no_grad(), self.mode():
                    found = self._shaped(function(*self._arguments(s)), s)
                if not self._is_right(found, s, wrong):
                    return None
        except Exception:  # a name that is not known yet on that line
            return None
        return Repair(
            edit.kind,
            wrong,
            self.source.location(node),
            ast.unparse(node),
            ast.unparse(ast.fix_missing_locations(copy.deepcopy(edit.rewritten))),
            statement,
        )


def _upstream(i: int, output: Any, upstream: dict[int, Tensor]) -> Tensor | None:
    """What torch hands to backward for one output."""
    if i in upstream:
        return upstream[i]
    return torch.zeros_like(output) if isinstance(output, Tensor) else None


class _Lift(Interceptor):
    """Turns casts to float32 into casts to float64, and nothing else."""

    def operate(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args, **kwargs)


def _lifted() -> _Lift:
    return _Lift(lift=True)


def _writes_in_place(tree: ast.AST) -> bool:
    """Whether the source writes to a tensor, perhaps to one that was saved."""
    return any(
        isinstance(node, ast.AugAssign)
        or (isinstance(node, ast.Attribute) and node.attr.endswith("_") and node.attr[:1] != "_")
        or (isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store))
        for node in ast.walk(tree)
    )


def _common(tensor: Tensor, shape: torch.Size) -> Tensor | None:
    """A tensor of a smaller shape that broadcasts to ``tensor``; ``None`` where there is none."""
    small = tensor
    while small.dim() > len(shape):
        small = small.select(0, 0)
    for axis, size in enumerate(shape):
        if size == 1 and small.shape[axis] != 1:
            small = small.narrow(axis, 0, 1)
    if small.shape != shape or float((small.expand_as(tensor) - tensor).abs().max()) > 1e-9 * float(
        tensor.abs().max()
    ):
        return None
    return small


def _nudged(value: Any) -> Any:
    """A value a little away."""
    if isinstance(value, Tensor):
        generator = torch.Generator().manual_seed(11)
        noise = torch.rand(value.shape, generator=generator, dtype=torch.float64)
        return value * (1 + 1e-3 * noise).to(value.dtype) + 1e-3
    return value * 1.001 + 1e-3


def _plain_number(value: float) -> float:
    """The whole number or simple fraction that a computed number stands for."""
    for largest in (1, 2, 4, 10, 100):
        fraction = Fraction(value).limit_denominator(largest)
        if abs(value - float(fraction)) <= 1e-9 * max(abs(value), 1e-3):
            return float(fraction)
    return float(f"{value:.12g}")


def _is_option(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)


def _add_sizes(found: dict[str, Piece], piece: Piece) -> None:
    """``x.numel()`` and ``x.shape[0]`` as far as they are numbers that nothing else gives yet."""
    known = {tuple(p.values) for p in found.values() if isinstance(p.values[0], int)}
    forms = [(f"{piece.text}.numel()", tuple(tensor.numel() for tensor in piece.values))]
    for axis in range(piece.values[0].dim()):
        sizes = tuple(tensor.shape[axis] for tensor in piece.values)
        forms.append((f"{piece.text}.shape[{axis}]", sizes))
    for text, sizes in forms:
        if sizes[0] > 1 and sizes not in known:
            known.add(sizes)
            node = ast.parse(text, mode="eval").body
            found[text] = Piece(node, list(sizes), piece.line, piece.until)


FORMS = (
    "(1 - {})", "{}**2", "{}.T", "{}.unsqueeze(-1)", "torch.exp({})", "torch.exp(-{})",
    "torch.sigmoid({})", "torch.sign({})", "{0} * (1 - {0})",
)  # fmt: skip
"""Simple functions of a variable."""


def _as_in_backward(node: ast.expr, known: Set[str]) -> ast.expr:
    """An expression of forward with its options read from ``ctx`` where backward does so."""

    class Options(ast.NodeTransformer):
        def visit_Name(self, name: ast.Name) -> ast.expr:
            if name.id not in known and f"ctx.{name.id}" in known:
                return ast.Attribute(ast.Name("ctx", ast.Load()), name.id, ast.Load())
            return name

    new: ast.expr = Options().visit(copy.deepcopy(node))
    return new


def _assigned(tree: ast.FunctionDef) -> list[tuple[str, int]]:
    """Variables with the last line of the statement that first assigns them."""
    found: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                for name in ast.walk(target):
                    if isinstance(name, ast.Name):
                        line = node.end_lineno or node.lineno
                        found[name.id] = min(line, found.get(name.id, line))
    return list(found.items())


def _before_return(body: Sequence[ast.stmt], value: ast.expr) -> list[ast.stmt]:
    """The statements with the final ``return`` giving ``value`` instead."""
    new = [copy.deepcopy(statement) for statement in body]
    if new and isinstance(new[-1], ast.Return):
        new[-1] = ast.Return(value)
    return new


def _changed_tree(
    tree: ast.FunctionDef, node: ast.AST, instead: ast.expr
) -> tuple[ast.FunctionDef, str]:
    """A copy with one expression replaced, and the statement it stands in as it reads then."""
    order = next(i for i, other in enumerate(ast.walk(tree)) if other is node)
    new = copy.deepcopy(tree)
    old = next(other for i, other in enumerate(ast.walk(new)) if i == order)

    class Replace(ast.NodeTransformer):
        def visit(self, other: ast.AST) -> Any:
            return copy.deepcopy(instead) if other is old else self.generic_visit(other)

    statement = _simple_statement(new, old)
    changed = Replace().visit(new)
    ast.fix_missing_locations(changed)
    return changed, as_written(statement if statement is not None else instead)


def as_written(node: ast.AST) -> str:
    """A statement as people write it: ``return a, b`` without brackets."""
    if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple) and node.value.elts:
        return f"return {', '.join(ast.unparse(item) for item in node.value.elts)}"
    return ast.unparse(node)


def _simple_statement(tree: ast.AST, node: ast.AST) -> ast.stmt | None:
    for statement in ast.walk(tree):
        if isinstance(statement, (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Return, ast.Expr)):
            if any(child is node for child in ast.walk(statement)):
                return statement
    return None
