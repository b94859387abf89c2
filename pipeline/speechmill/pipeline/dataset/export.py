"""A token dataset in the formats that trainers of language models read, part by part."""

import io
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from speechmill.pipeline.dataset.documents import Codes
from speechmill.pipeline.dataset.layout import TokenDataset, readable
from speechmill.pipeline.dataset.patterns import Pattern
from speechmill.pipeline.errors import InputError, check_choice
from speechmill.pipeline.paths import safe_names
from speechmill.pipeline.storage import Storage, join
from speechmill.pipeline.tokenize.schema import channels_of, row_name

_KEPT = ["key", "text", "start", "end", "channel", "num_frames"]
_MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
_UINT16, _INT32 = (8, np.dtype("<u2")), (4, np.dtype("<i4"))  # code and type of the ids
_UINT16_IDS = 65_500  # Megatron uses uint16 below this number of ids


def export_parts(
    dataset: TokenDataset,
    output: str,
    storage: Storage,
    kind: str,
    pattern: Pattern,
    first_id: int = 0,
) -> Iterator[tuple[str, int]]:
    """Write the missing parts below `data/`; yield the name of each one and its number of rows.

    `export.json` describes the ids; another export into the same folder is refused.
    """
    check_choice("format", kind, FORMATS)
    pattern = pattern.flat() if kind == "megatron" else pattern
    first_id = first_id if pattern.streams is None else 0
    _claim(output, storage, _description(dataset.require_identity(), kind, pattern, first_id))
    done = {info.url.rpartition("/")[2] for info in storage.list_files(join(output, "done"))}
    for name in sorted(dataset.parts()):
        if name in done:
            continue
        table = dataset.read_columns(name, [*_KEPT, "codes", "num_codebooks"])
        with readable(dataset.part_url(name)):
            for file, data in FORMATS[kind](name, table, pattern, first_id):
                storage.put(join(output, "data", file), data)
        storage.put(join(output, "done", name), b"")
        yield name, len(table)


def _description(
    identity: dict[str, Any], kind: str, pattern: Pattern, first_id: int
) -> dict[str, Any]:
    """All facts needed to turn the ids back into codes."""
    facts = {name: identity[name] for name in ("codec", "revision", "trained", "frame_rate")}
    return facts | {
        "format": kind,
        "pattern": pattern.description(),
        "first_id": first_id,
        "num_ids": first_id + pattern.num_ids,
    }


def codes_of(table: pa.Table, num_codebooks: int) -> Iterator[Codes]:
    """codes_FK of every row, for the first `num_codebooks` codebooks."""
    books = table["num_codebooks"].to_pylist()
    for row, codes in zip(books, table["codes"], strict=True):
        yield codes.values.to_numpy().reshape(-1, row)[:, :num_codebooks]


def _claim(output: str, storage: Storage, wanted: dict[str, Any]) -> None:
    url = join(output, "export.json")
    if storage.exists(url) and json.loads(storage.read_bytes(url)) != wanted:
        raise InputError(f"{output} holds another export; set another output")
    storage.put(url, (json.dumps(wanted, indent=2) + "\n").encode())


def _parquet(
    name: str, table: pa.Table, pattern: Pattern, first_id: int
) -> Iterator[tuple[str, bytes]]:
    """A column `input_ids`, or a column of codes for each codebook."""
    columns = {column: table[column] for column in _KEPT if column in table.column_names}
    codes = list(codes_of(table, len(pattern.sizes)))
    if pattern.streams is None:
        ids = [pattern.encode(codes_FK) + first_id for codes_FK in codes]
        columns["input_ids"] = pa.array(ids, type=pa.list_(pa.int32()))
    else:
        rows = [pattern.encode(codes_FK) for codes_FK in codes]
        for book in range(len(pattern.sizes)):
            kind = pa.uint16() if pattern.sizes[book] < 2**16 else pa.uint32()
            columns[f"codes_{book}"] = pa.array([r[:, book] for r in rows], type=pa.list_(kind))
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    yield f"{name}.parquet", sink.getvalue()


def _megatron(
    name: str, table: pa.Table, pattern: Pattern, first_id: int
) -> Iterator[tuple[str, bytes]]:
    codes = codes_of(table, len(pattern.sizes))
    ids = [pattern.encode(codes_FK) + first_id for codes_FK in codes]
    data, index = _indexed_dataset(ids, first_id + pattern.num_ids)
    yield f"{name}.bin", data
    yield f"{name}.idx", index


def _indexed_dataset(sequences: Sequence[npt.NDArray[Any]], num_ids: int) -> tuple[bytes, bytes]:
    """The `.bin` and `.idx` of Megatron-Core, with each sequence as a document.

    The format is that of `megatron/core/datasets/indexed_dataset.py`. `.bin` holds the ids of all
    sequences, concatenated. `.idx`, little-endian: the magic, version 1 (u64), a code of the ids'
    type (u8), the numbers of sequences and of document ends (u64 each), then lengths (i32),
    positions in the `.bin` in bytes (i64) and document ends (i64). Ids are below `num_ids`.
    """
    code, kind = _UINT16 if num_ids < _UINT16_IDS else _INT32
    lengths = np.array([len(sequence) for sequence in sequences], dtype="<i4")
    ends = np.cumsum(lengths, dtype="<i8") * kind.itemsize
    positions = np.concatenate([[0], ends[:-1]]).astype("<i8") if len(ends) else ends
    documents = np.arange(len(sequences) + 1, dtype="<i8")
    header = _MEGATRON_MAGIC + struct.pack("<QBQQ", 1, code, len(lengths), len(documents))
    data = b"".join(sequence.astype(kind).tobytes() for sequence in sequences)
    return data, header + lengths.tobytes() + positions.tobytes() + documents.tobytes()


def file_names(table: pa.Table, suffix: str) -> list[str]:
    """A distinct name below the output for each row of a part, without the suffix."""
    starts = table["start"].to_pylist()
    places = zip(table["key"].to_pylist(), starts, channels_of(table), strict=True)
    return safe_names((row_name(*place) for place in places), suffix)


def _npy(
    name: str, table: pa.Table, pattern: Pattern, first_id: int
) -> Iterator[tuple[str, bytes]]:
    """One file for each utterance, of shape (K, T), or (T,) for flat ids."""
    codes = codes_of(table, len(pattern.sizes))
    for file, codes_FK in zip(file_names(table, ".npy"), codes, strict=True):
        ids = pattern.encode(codes_FK)
        array = ids + first_id if pattern.streams is None else ids.T
        sink = io.BytesIO()
        np.save(sink, np.ascontiguousarray(array, dtype=np.int32))
        yield f"{name}/{file}.npy", sink.getvalue()


FORMATS: dict[str, Callable[[str, pa.Table, Pattern, int], Iterator[tuple[str, bytes]]]] = {
    "parquet": _parquet,
    "megatron": _megatron,
    "npy": _npy,
}
