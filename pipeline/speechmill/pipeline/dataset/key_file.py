"""A file that lists samples or rows of datasets: what `duplicates` writes and `drop` reads.

A line of a plain file is a key. JSON lines, CSV, TSV and Parquet have a column `key` or
`audio_xxh3`; the other columns narrow an entry to one dataset, tar, position, segment or channel.
"""

import io
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from speechmill.pipeline.dataset.layout import DAMAGE
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.parquet import read_parquet
from speechmill.pipeline.storage import Storage

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("audio_xxh3", pa.uint64()),
        pa.field("dataset", pa.string()),
        pa.field("shard", pa.string()),
        pa.field("index", pa.int32()),
        pa.field("start", pa.float64()),
        pa.field("channel", pa.uint8()),
    ]
)
_NAMES = ("key", "audio_xxh3")  # one of them must be given
_FORMATS = ".parquet, .csv, .tsv, .jsonl"


def read_keys(url: str, storage: Storage) -> pa.Table:
    """The entries of a file, by the end of its name; the columns are those of `SCHEMA`.

    Raises `InputError` if it is damaged, a plain file without a key, or if an entry has neither key
    nor hash. A table may be empty: `duplicates` has found none.
    """
    suffix = url.rpartition(".")[2].lower()
    parse, data = _PARSERS.get(suffix, _lines), storage.read_bytes(url)
    try:
        found = parse(data)
        _check_columns(found)
        table = pa.table(
            [
                found[field.name].cast(field.type)
                if field.name in found.column_names
                else pa.nulls(len(found), field.type)
                for field in SCHEMA
            ],
            schema=SCHEMA,
        )
        if pa.compute.any(pa.compute.is_nan(table["start"])).as_py():
            raise ValueError("a start is NaN; leave it empty")
    except DAMAGE as error:
        raise InputError(f"{url} is not a list of keys: {' '.join(str(error).split())}") from error
    named = pa.compute.or_(*(table[name].is_valid() for name in _NAMES))
    if not all(good := named.to_pylist()):
        raise InputError(f"{url}: entry {good.index(False) + 1} has neither key nor audio_xxh3")
    return table


def _check_columns(table: pa.Table) -> None:
    names = table.column_names
    if not set(_NAMES) & set(names):
        raise ValueError(f"it has no column key or audio_xxh3, only {names}")
    if twice := [name for name in SCHEMA.names if names.count(name) > 1]:
        raise ValueError(f"it has two columns {twice[0]}")
    if "audio_xxh3" in names and pa.types.is_floating(table["audio_xxh3"].type):
        raise ValueError("audio_xxh3 has floats, which do not hold all digits of a hash")


def write_keys(table: pa.Table, url: str, storage: Storage) -> None:
    """Write entries, with any columns, in the format that the end of the name says.

    Raises `InputError` for another end.
    """
    storage.put(url, writer_of(url)(table))


def writer_of(url: str) -> Callable[[pa.Table], bytes]:
    """The function that turns entries into the bytes of a file of this name."""
    suffix = url.rpartition(".")[2].lower()
    if suffix not in _WRITERS:
        raise InputError(f"{url} must end in one of {_FORMATS}")
    return _WRITERS[suffix]


def _lines(data: bytes) -> pa.Table:
    """A key on each line."""
    lines = [line.rstrip("\r") for line in data.decode("utf-8-sig").split("\n")]
    if not (keys := [line for line in lines if line]):
        raise ValueError("it is empty")
    return pa.table({"key": pa.array(keys, pa.string())})


def _json_lines(data: bytes) -> pa.Table:
    rows = [json.loads(line) for line in data.decode("utf-8-sig").split("\n") if line.strip()]
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"entry {number + 1} is not an object")
    names = [name for name in SCHEMA.names if any(name in row for row in rows)]
    columns = [_json_column([row.get(name) for row in rows], SCHEMA.field(name)) for name in names]
    return pa.table(columns, names=names) if rows else SCHEMA.empty_table()


def _json_column(values: list[Any], field: pa.Field) -> pa.Array:
    if pa.types.is_integer(field.type):  # pyarrow would cut 1.5 to 1
        for value in values:
            if isinstance(value, float):
                raise ValueError(f"{field.name} {value} is not an integer")
    return pa.array(values, field.type)


def _csv(data: bytes, delimiter: str = ",") -> pa.Table:
    """CSV with a header; an empty field is null, and a key may look like a number."""
    types = {field.name: field.type for field in SCHEMA}
    convert = pyarrow.csv.ConvertOptions(
        column_types=types, null_values=[""], strings_can_be_null=True
    )
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter)
    return pyarrow.csv.read_csv(io.BytesIO(data), parse_options=parse, convert_options=convert)


def _parquet(data: bytes) -> pa.Table:
    return read_parquet(data, SCHEMA.names)


def _to_json_lines(table: pa.Table) -> bytes:
    rows = ({name: v for name, v in row.items() if v is not None} for row in table.to_pylist())
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _to_csv(table: pa.Table, delimiter: str = ",") -> bytes:
    sink = io.BytesIO()
    pyarrow.csv.write_csv(table, sink, pyarrow.csv.WriteOptions(delimiter=delimiter))
    return sink.getvalue()


def _to_parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


_PARSERS: dict[str, Callable[[bytes], pa.Table]] = {
    "jsonl": _json_lines,
    "ndjson": _json_lines,
    "json": _json_lines,
    "csv": _csv,
    "tsv": partial(_csv, delimiter="\t"),
    "parquet": _parquet,
}
_WRITERS: dict[str, Callable[[pa.Table], bytes]] = {
    "jsonl": _to_json_lines,
    "csv": _to_csv,
    "tsv": partial(_to_csv, delimiter="\t"),
    "parquet": _to_parquet,
}
