"""A condition on a sample's metadata: Python's syntax for comparisons and nothing else.

`lang == "en" and snr > 10 and speaker.age in [20, 30]`: names are keys of the sample's JSON, dots
and brackets select inside it, and a missing value is `None`. Nothing is ever passed to `eval`.
"""

import ast
import operator
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from speechmill.pipeline.errors import InputError

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, container: item in container,
    ast.NotIn: lambda item, container: item not in container,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {"len": len, "lower": str.lower, "abs": abs}
_MOST_NODES = 200  # far below where nesting would exhaust the stack


class Expression:
    """A parsed condition.

    Raises `InputError` on construction, with the part that is not allowed.
    """

    def __init__(self, text: str, setting: str):
        self.text, self._setting = text, setting
        try:
            self.tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise InputError(f"{setting} is {text!r}: {error}") from error
        nodes = list(ast.walk(self.tree))
        if len(nodes) > _MOST_NODES:
            raise InputError(f"{setting} has {len(nodes)} parts; at most {_MOST_NODES} are allowed")
        for node in nodes:
            if not _is_allowed(node):
                raise InputError(
                    f"{setting} is {text!r}: {ast.unparse(node)!r} is not allowed; use names, "
                    f"constants, comparisons, and, or, not, + - * / and {', '.join(_FUNCTIONS)}"
                )
            if isinstance(node, ast.Compare) and not _is_fit_for_is(node):
                raise InputError(
                    f"{setting} is {text!r}: compare by == and !=, and by is only with None, True "
                    "or False"
                )

    def __call__(self, fields: Any) -> bool:
        """Whether it is true for parsed JSON; raises `TypeError` or the like if types clash."""
        return bool(_value(self.tree, fields))

    @property
    def names(self) -> list[str]:
        """The names at the roots of its values, in alphabetical order."""
        nodes = list(ast.walk(self.tree))
        functions = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
        names = (node for node in nodes if isinstance(node, ast.Name))
        return sorted({node.id for node in names if id(node) not in functions})

    def conjuncts(self) -> "list[Expression]":
        """The conditions that `and` joins, or only this one."""
        match self.tree:
            case ast.BoolOp(op=ast.And(), values=values):
                return [Expression(ast.unparse(value), self._setting) for value in values]
        return [self]


def _is_allowed(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        known = isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
        return known and len(node.args) == 1 and not node.keywords
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str | int | float | bool | None)
    if isinstance(node, ast.BinOp):
        return type(node.op) in _ARITHMETIC
    plain = (ast.BoolOp, ast.boolop, ast.Compare, ast.cmpop, ast.Name, ast.Load, ast.operator)
    nested = (ast.Attribute, ast.Subscript, ast.List, ast.Tuple)
    signs = (ast.UnaryOp, ast.Not, ast.USub)
    return isinstance(node, plain + nested + signs)


def _is_fit_for_is(node: ast.Compare) -> bool:
    """Whether each `is` has None, True or False on a side; of equal texts there may be several."""
    sides = pairwise([node.left, *node.comparators])
    return all(
        _is_singleton(left) or _is_singleton(right)
        for operation, (left, right) in zip(node.ops, sides, strict=True)
        if isinstance(operation, ast.Is | ast.IsNot)
    )


def _is_singleton(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, bool | None)


def _value(node: ast.AST, fields: Any) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return _entry(fields, node.id)
        case ast.Attribute():
            return _entry(_value(node.value, fields), node.attr)
        case ast.Subscript():
            return _entry(_value(node.value, fields), _value(node.slice, fields))
        case ast.List() | ast.Tuple():
            return [_value(item, fields) for item in node.elts]
        case ast.Call(func=ast.Name(id=name)):
            return _FUNCTIONS[name](_value(node.args[0], fields))
        case ast.UnaryOp(op=ast.Not()):
            return not _value(node.operand, fields)
        case ast.UnaryOp():
            return -_value(node.operand, fields)
        case ast.BinOp():
            numbers = [_number(_value(side, fields)) for side in (node.left, node.right)]
            return _ARITHMETIC[type(node.op)](*numbers)
        case ast.BoolOp(op=ast.And()):
            return all(_value(item, fields) for item in node.values)
        case ast.BoolOp():
            return any(_value(item, fields) for item in node.values)
        case ast.Compare():
            return _compare(node, fields)
    raise TypeError(ast.unparse(node))


def _compare(node: ast.Compare, fields: Any) -> bool:
    left = _value(node.left, fields)
    for operation, side in zip(node.ops, node.comparators, strict=True):
        right = _value(side, fields)
        if not COMPARISONS[type(operation)](left, right):
            return False
        left = right
    return True


def _entry(container: Any, key: Any) -> Any:
    if isinstance(container, dict):
        return container.get(key)
    if isinstance(container, list) and isinstance(key, int):
        return container[key] if -len(container) <= key < len(container) else None
    return None


def _number(value: Any) -> float:
    """Only numbers: arithmetic must not make strings and lists grow."""
    if isinstance(value, int | float):
        return value
    raise TypeError(f"{value!r} is not a number")
