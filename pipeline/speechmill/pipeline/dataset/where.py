"""A condition over the rows of a token dataset: `duration > 1 and metadata.lang == "en"`."""

import ast
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from speechmill.pipeline.audio.expression import COMPARISONS, Expression
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.tokenize.schema import token_schema

_METADATA = "metadata"
_SCHEMA = token_schema((2,), version=2)
_COLUMNS = [name for name in _SCHEMA.names if name != "codes"]
_NUMBERS = {name for name in _COLUMNS if name not in ("key", "text", _METADATA, "shard")}
# numpy compares these as Python does; the 64 bits of audio_xxh3 and null channels it would not.
_COMPARED_AT_ONCE = _NUMBERS - {"audio_xxh3", "channel"}
_EXACT = 2**53  # up to here, a float64 holds every integer
_NUMBER, _TEXT = "a number", "a text"
_ORDERS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)

Mask = npt.NDArray[np.bool_]


class Where:
    """Selects rows by the values of their columns, in the syntax of `filters.metadata`.

    Names are columns, all but `codes`; `metadata` is the JSON of a sample, and fields are selected
    in it. Null, a missing field and a column that a dataset lacks are `None`. As with
    `filters.metadata`, a row for which the condition cannot be evaluated is not selected: a field
    is not of the type that a comparison needs, or the metadata is not JSON. Raises `InputError`
    for an unknown column, and if a number is compared with text.
    """

    def __init__(self, text: str, setting: str = "where"):
        if not isinstance(text, str):
            raise InputError(f"{setting} is {text!r}; give a condition as text")
        condition = Expression(text, setting)
        self.text = text
        for message in _mistakes(condition):
            raise InputError(f"{setting} is {text!r}: {message}")
        self.columns = tuple(name for name in _COLUMNS if name in condition.names)
        self._conditions = [(each, _Comparison.of(each)) for each in condition.conjuncts()]

    def select(self, table: pa.Table) -> pa.Table:
        """The rows for which the condition is true, in their order, with all columns."""
        return table.filter(pa.array(self.mask(table)))

    def mask(self, table: pa.Table) -> Mask:
        """Whether each row of a table, which has `columns`, is selected."""
        columns = {name: _Column.of(table, name) for name in self.columns}
        selected_N = np.ones(len(table), dtype=np.bool_)
        if _METADATA in columns:
            columns[_METADATA], selected_N = columns[_METADATA].parsed()
        for condition, comparison in self._conditions:
            if comparison:
                selected_N &= comparison(table)
            else:
                selected_N &= _evaluated(condition, columns, selected_N)
        return selected_N


@dataclass(frozen=True, slots=True)
class _Column:
    """The distinct values of a column, and the place of each row's value among them."""

    values: list[Any]
    places_N: npt.NDArray[np.int32]

    @classmethod
    def of(cls, table: pa.Table, name: str) -> "_Column":
        if name not in table.column_names:  # such as `channel`
            return cls([None], np.zeros(len(table), dtype=np.int32))
        encoded = table[name].combine_chunks()
        if not pa.types.is_dictionary(encoded.type):
            encoded = encoded.dictionary_encode()
        values = [*encoded.dictionary.to_pylist(), None]
        return cls(values, encoded.indices.cast(pa.int32()).fill_null(len(values) - 1).to_numpy())

    def parsed(self) -> "tuple[_Column, Mask]":
        """The values of JSON texts, and which rows have JSON or null."""
        values, good = [], []
        for text in self.values:
            try:
                values.append(None if text is None else json.loads(text))
                good.append(True)
            except (ValueError, RecursionError):
                values.append(None)
                good.append(False)
        return _Column(values, self.places_N), np.array(good, dtype=np.bool_)[self.places_N]


def _evaluated(condition: Expression, columns: dict[str, _Column], wanted_N: Mask) -> Mask:
    """Whether a condition is true for the wanted rows: evaluated once for each distinct value.

    A condition over several columns is evaluated row by row.
    """
    names = condition.names
    if len(names) == 1:
        [column] = (columns[name] for name in names)
        true = [_is_true(condition, {names[0]: value}) for value in column.values]
        return np.array(true, dtype=np.bool_)[column.places_N]
    used = {name: columns[name] for name in names}
    true_N = np.zeros(len(wanted_N), dtype=np.bool_)
    for row in np.flatnonzero(wanted_N):
        fields = {name: column.values[column.places_N[row]] for name, column in used.items()}
        true_N[row] = _is_true(condition, fields)
    return true_N


def _is_true(condition: Expression, fields: dict[str, Any]) -> bool:
    try:
        return condition(fields)
    except (TypeError, ValueError, ArithmeticError, RecursionError):
        return False


@dataclass(frozen=True, slots=True)
class _Comparison:
    """A condition that compares whole columns with each other or with numbers."""

    sides: Sequence[ast.expr]
    operations: Sequence[ast.cmpop]

    @classmethod
    def of(cls, condition: Expression) -> "_Comparison | None":
        """The comparison that a condition is; None if it is something else."""
        node = condition.tree
        if not (isinstance(node, ast.Compare) and condition.names):
            return None
        sides = [node.left, *node.comparators]
        plain = all(map(_is_number, sides)) and all(isinstance(op, _ORDERS) for op in node.ops)
        return cls(sides, node.ops) if plain else None

    def __call__(self, table: pa.Table) -> Mask:
        values = pairwise([_numbers(side, table) for side in self.sides])
        true_N = np.ones(len(table), dtype=np.bool_)
        for operation, (left, right) in zip(self.operations, values, strict=True):
            true_N &= COMPARISONS[type(operation)](left, right)
        return true_N


def _is_number(side: ast.expr) -> bool:
    match side:
        case ast.Name(id=name):
            return name in _COMPARED_AT_ONCE
        case ast.Constant(value=float()):
            return True
        case ast.Constant(value=int(value)):
            return type(value) is int and abs(value) <= _EXACT
    return False


def _numbers(side: ast.expr, table: pa.Table) -> Any:
    """The values of a column, or a constant."""
    if isinstance(side, ast.Name):
        return table[side.id].to_numpy()
    assert isinstance(side, ast.Constant)
    return side.value


def _mistakes(condition: Expression) -> Iterator[str]:
    """What is wrong with the names of a condition, and with the types of what it compares."""
    for name in condition.names:
        if name not in _COLUMNS:
            near = get_close_matches(name, _COLUMNS, n=1, cutoff=0.0)
            yield (
                f"a row has no column {name!r}; did you mean {near[0]!r}, or the field "
                f"metadata.{name}? The columns are {', '.join(_COLUMNS)}"
            )
    for node in ast.walk(condition.tree):
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.value, ast.Name):
            if node.value.id != _METADATA:
                yield f"only metadata has fields, {node.value.id!r} has none"
        elif isinstance(node, ast.Compare):
            sides = pairwise([node.left, *node.comparators])
            for operation, (left, right) in zip(node.ops, sides, strict=True):
                if _clash(operation, left, right):
                    yield f"{_described(left)} is compared with {_described(right)}"


def _clash(operation: ast.cmpop, left: ast.expr, right: ast.expr) -> bool:
    """Whether the types of two values exclude that they are compared."""
    kinds = _kind(left), _kind(right)
    match operation:
        case ast.Is() | ast.IsNot():
            return False
        case ast.In() | ast.NotIn() if isinstance(right, ast.List | ast.Tuple):
            return any(_clash(ast.Eq(), left, each) for each in right.elts)
        case ast.In() | ast.NotIn():
            return kinds[1] == _NUMBER or kinds == (_NUMBER, _TEXT)
    return set(kinds) == {_NUMBER, _TEXT}


def _kind(node: ast.expr) -> str | None:
    """The type of a value; None if each row decides it."""
    match node:
        case ast.Name(id=name) if name != _METADATA:
            return _NUMBER if name in _NUMBERS else _TEXT
        case ast.Call(func=ast.Name(id=name)):
            return _TEXT if name == "lower" else _NUMBER
        case ast.Constant(value=str()):
            return _TEXT
        case ast.Constant(value=int() | float()) | ast.BinOp() | ast.UnaryOp(op=ast.USub()):
            return _NUMBER
    return None


def _described(node: ast.expr) -> str:
    return f"{ast.unparse(node)} ({_kind(node) or 'a list'})"
