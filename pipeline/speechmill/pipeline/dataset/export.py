"""A token dataset in the formats that trainers of language models read, part by part."""

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from speechmill.pipeline.dataset import megatron
from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.dataset.patterns import VERSION, Codes, Pattern
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.storage import Storage, join
from speechmill.pipeline.tokenize.schema import row_name

_KEPT = ["key", "text", "start", "end", "num_frames"]


def export(
    dataset: TokenDataset,
    output: str,
    storage: Storage,
    kind: str,
    pattern: Pattern,
) -> Iterator[tuple[str, int]]:
    """Write what is not there yet below `data/`; yield the name of each part and its rows.

    `export.json` says what the ids mean; another export in the same folder is refused.
    """
    if kind not in FORMATS:
        raise InputError(f"format is {kind!r}; use one of {', '.join(FORMATS)}")
    identity = dataset.read_identity()
    if identity is None:
        raise InputError(f"no token dataset at {dataset.root}: there is no dataset.json")
    _claim(output, storage, describe(identity, kind, pattern))
    done = {info.url.rpartition("/")[2] for info in storage.list_files(join(output, "done"))}
    for name in sorted(dataset.parts()):
        if name in done:
            continue
        table = pq.read_table(io.BytesIO(dataset.storage.read_bytes(dataset.part_url(name))))
        for file, data in FORMATS[kind](name, table, pattern):
            storage.put(join(output, "data", file), data)
        storage.put(join(output, "done", name), b"")
        yield name, len(table)


def describe(identity: dict[str, Any], kind: str, pattern: Pattern) -> dict[str, Any]:
    """What must be known to turn the ids back into codes."""
    facts = {name: identity[name] for name in ("codec", "revision", "trained", "frame_rate")}
    return facts | {
        "format": kind,
        "pattern": pattern.name,
        "pattern_version": VERSION,
        "num_codebooks": len(pattern.sizes),
        "codebook_sizes": list(pattern.sizes),
        "delays": list(pattern.delays),
        "padding": "the size of the codebook" if pattern.name == "delay" else None,
        "first_ids": pattern.bases[:-1].tolist() if _is_flat(kind, pattern) else None,
        "num_ids": int(pattern.bases[-1]) if _is_flat(kind, pattern) else None,
    }


def codes_of(table: pa.Table, num_codebooks: int) -> Iterator[Codes]:
    """codes_FK of every row, of the first `num_codebooks` codebooks."""
    books = table["num_codebooks"].to_pylist()
    for row, codes in zip(books, table["codes"], strict=True):
        yield codes.values.to_numpy().reshape(-1, row)[:, :num_codebooks]


def _claim(output: str, storage: Storage, wanted: dict[str, Any]) -> None:
    url = join(output, "export.json")
    if storage.exists(url) and json.loads(storage.read_bytes(url)) != wanted:
        raise InputError(f"{output} holds another export; set another output")
    storage.put(url, (json.dumps(wanted, indent=2) + "\n").encode())


def _is_flat(kind: str, pattern: Pattern) -> bool:
    return kind == "megatron" or pattern.name == "flatten"


def _parquet(name: str, table: pa.Table, pattern: Pattern) -> Iterator[tuple[str, bytes]]:
    """`input_ids`, or one column of codes for each codebook."""
    columns = {column: table[column] for column in _KEPT}
    codes = list(codes_of(table, len(pattern.sizes)))
    if pattern.name == "flatten":
        ids = [pattern.flat(codes_FK) for codes_FK in codes]
        columns["input_ids"] = pa.array(ids, type=pa.list_(pa.int32()))
    else:
        rows = [pattern.rows(codes_FK) for codes_FK in codes]
        for book in range(len(pattern.sizes)):
            kind = pa.uint16() if pattern.sizes[book] < 2**16 else pa.uint32()
            columns[f"codes_{book}"] = pa.array([r[:, book] for r in rows], type=pa.list_(kind))
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    yield f"{name}.parquet", sink.getvalue()


def _megatron(name: str, table: pa.Table, pattern: Pattern) -> Iterator[tuple[str, bytes]]:
    ids = [pattern.flat(codes_FK) for codes_FK in codes_of(table, len(pattern.sizes))]
    data, index = megatron.pack(ids, int(pattern.bases[-1]))
    yield f"{name}.bin", data
    yield f"{name}.idx", index


def _npy(name: str, table: pa.Table, pattern: Pattern) -> Iterator[tuple[str, bytes]]:
    """One file for each utterance: (K, T), or (T,) where flat."""
    for key, start, codes_FK in zip(
        table["key"].to_pylist(),
        table["start"].to_pylist(),
        codes_of(table, len(pattern.sizes)),
        strict=True,
    ):
        flat = pattern.name == "flatten"
        array = pattern.flat(codes_FK) if flat else pattern.rows(codes_FK).T
        sink = io.BytesIO()
        np.save(sink, np.ascontiguousarray(array, dtype=np.int32))
        yield f"{name}/{row_name(key, start)}.npy", sink.getvalue()


FORMATS: dict[str, Callable[[str, pa.Table, Pattern], Iterator[tuple[str, bytes]]]] = {
    "parquet": _parquet,
    "megatron": _megatron,
    "npy": _npy,
}
