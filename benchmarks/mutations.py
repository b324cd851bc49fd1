"""The changes that mutation testing makes to a source: each mutant differs from the original in one node of its syntax tree."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Mutant", "find_mutants", "mutate"]

_COMPARISONS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
}  # fmt: skip
_OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Div, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "floor": "ceil", "ceil": "floor"}
_IDENTIFIER = re.compile(r"[a-z_][a-z_.]*")
"""A text of this form decides something; every other text is for readers."""


class Mutant(NamedTuple):
    """One change of one file."""

    path: str
    number: int
    line: int
    function: str
    """The outermost function that contains it, e.g. ``Rows.of``; empty outside of functions."""
    change: str


def find_mutants(path: Path) -> list[Mutant]:
    """Return all mutants of a file."""
    tree = ast.parse(path.read_text())
    functions = list(_functions(tree))
    return [
        Mutant(
            str(path),
            number,
            getattr(node, "lineno", 0),
            _find_function(functions, node),
            f"{_show(node)}  →  {_show(other) if other is not None else '(nothing)'}",
        )
        for number, (_, node, other) in enumerate(_variants(tree))
    ]


def _functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, set[int]]]:
    """Yield the name of each outermost function, and the identities of the nodes in its body."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            yield f"{prefix}{node.name}", {id(inner) for statement in node.body for inner in ast.walk(statement)}


def _find_function(functions: list[tuple[str, set[int]]], node: ast.AST) -> str:
    return next((name for name, body in functions if id(node) in body), "")


def mutate(source: str, number: int) -> str:
    """Return the source of a mutant."""
    tree = ast.parse(source)
    for index, (place, _, other) in enumerate(_variants(tree)):
        if index == number:
            _replace(place, other)
            return ast.unparse(ast.fix_missing_locations(tree))
    raise IndexError(number)


def _replace(place: tuple[ast.AST, str, int | None], other: Any) -> None:
    parent, field, index = place
    if index is None:
        setattr(parent, field, other)
    elif other is None:
        del getattr(parent, field)[index]
    else:
        getattr(parent, field)[index] = other


def _variants(tree: ast.AST) -> Iterator[tuple[tuple[ast.AST, str, int | None], ast.AST, ast.AST | None]]:
    """Yield (place, node, other node) for each change, always in the same order. None leaves the node out."""
    for place, node in list(_nodes(tree)):
        for other in _others(node, place[0]):
            yield place, node, other


def _nodes(node: ast.AST) -> Iterator[tuple[tuple[ast.AST, str, int | None], ast.AST]]:
    for field, value in ast.iter_fields(node):
        for index, child in enumerate(value) if isinstance(value, list) else ((None, value),):
            if isinstance(child, ast.AST) and not _is_left_alone(child, node, field):
                yield (node, field, index), child
                yield from _nodes(child)


def _is_left_alone(node: ast.AST, parent: ast.AST, field: str) -> bool:
    if field in ("annotation", "returns", "decorator_list", "ctx", "bases") or (isinstance(parent, ast.AnnAssign) and field == "target"):
        return True
    if isinstance(node, ast.Assign) and any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets):
        return True
    is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    is_strict = isinstance(node, ast.keyword) and node.arg == "strict"
    return is_docstring or is_strict or isinstance(node, (ast.Assert, ast.Import, ast.ImportFrom, ast.JoinedStr, ast.Raise))


def _others(node: ast.AST, parent: ast.AST) -> Iterator[ast.AST | None]:
    match node:
        case ast.Compare(ops=[operator]):
            for kind in _COMPARISONS[type(operator)]:
                yield _change(node, ops=[kind()])
        case ast.Compare(ops=[*operators]):
            for index, operator in enumerate(operators):
                yield _change(node, ops=[*operators[:index], _COMPARISONS[type(operator)][0](), *operators[index + 1 :]])
        case ast.BoolOp(op=operator):
            yield _change(node, op=ast.Or() if isinstance(operator, ast.And) else ast.And())
        case ast.BinOp(op=operator) | ast.AugAssign(op=operator) if type(operator) in _OPERATORS:
            yield _change(node, op=_OPERATORS[type(operator)]())
        case ast.UnaryOp(operand=operand):
            yield operand
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value + 1)
        case ast.Constant(value=str() as value) if _IDENTIFIER.fullmatch(value):
            yield ast.Constant(f"XX{value}")
        case ast.Name(id=name) if name in _NAMES:
            yield ast.Name(_NAMES[name], ast.Load())
        case ast.Attribute(attr=name) if name in _NAMES:
            yield _change(node, attr=_NAMES[name])
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test) if not isinstance(test, (ast.Compare, ast.UnaryOp)):
            yield _change(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.Expr():
            yield ast.Pass()
        case ast.Continue():
            yield ast.Break()
        case ast.Break():
            yield ast.Continue()
        case ast.keyword() if isinstance(parent, ast.Call) and node.arg is not None:
            yield None
        case ast.comprehension(ifs=[_, *_]):
            yield _change(node, ifs=[])


def _change(node: ast.AST, **fields: Any) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _show(node: ast.AST) -> str:
    if isinstance(node, ast.comprehension):
        node = ast.Tuple([node.target, *node.ifs], ast.Load())
    text = " ".join(ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).split())
    return text if len(text) <= 90 else f"{text[:90]}…"
