"""The row groups of a token dataset: what a reader can read, and shuffle, without the rest."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from speechmill.pipeline.dataset.checks import check_identity
from speechmill.pipeline.dataset.layout import COMPACTED, TokenDataset, readable
from speechmill.pipeline.errors import DatasetConflict, InputError, StorageNotFound
from speechmill.pipeline.parquet import read_parquet
from speechmill.pipeline.storage import join
from speechmill.pipeline.tokenize.writer import CODES_PATH, footer_of

INDEX = "index.parquet"  # of a compacted dataset, beside `tokens/`
INDEX_SCHEMA = pa.schema(
    [
        pa.field("part", pa.string(), nullable=False),
        pa.field("row_group", pa.int32(), nullable=False),
        pa.field("rows", pa.int32(), nullable=False),
        pa.field("frames", pa.int64(), nullable=False),
        pa.field("audio_seconds", pa.float64(), nullable=False),
    ]
)
COMPACTED_PART = re.compile(r"part-[0-9]{5,}")


@dataclass(frozen=True, slots=True, order=True)
class RowGroup:
    """Some thousand rows of a part that lie together in its file."""

    part: str  # name of the file below `tokens/`, without suffix
    number: int  # of the row group in the file
    rows: int
    frames: int


def list_row_groups(dataset: TokenDataset) -> list[RowGroup]:
    """Every row group that is committed, sorted by part and number.

    Of a compacted dataset its index is read, of another one the end of each part, many at the same
    time. Raises `InputError` without a dataset, for a damaged file, or if the index is missing, and
    `DatasetConflict` for a part of another codec, revision or schema than `dataset.json` says.
    """
    identity = dataset.require_identity()
    if COMPACTED in identity:
        return _indexed(dataset)
    groups = dataset.map_names(partial(_groups_of_part, dataset, identity), sorted(dataset.parts()))
    return [group for part in groups for group in part]


def read_index(dataset: TokenDataset) -> pa.Table:
    """The index of a compacted dataset; raises `InputError` if it is missing or damaged."""
    url = join(dataset.root, INDEX)
    try:
        data = dataset.storage.read_bytes(url)
    except StorageNotFound as error:
        raise InputError(
            f"{url} is missing: {dataset.root} is not compacted yet; run `speechmill compact` again"
        ) from error
    with readable(url):
        index = read_parquet(data)
        if not index.schema.equals(INDEX_SCHEMA):
            raise ValueError(f"its columns are {index.schema.names}")
        for part in index["part"].unique().to_pylist():
            if not COMPACTED_PART.fullmatch(part):  # it becomes a part of a URL
                raise ValueError(f"{part!r} is not the name of a part")
        return index


def index_of(dataset: TokenDataset, names: Sequence[str], num_codebooks: int) -> pa.Table:
    """The index of files that `compact` wrote, from their own ends."""

    def groups(name: str) -> list[tuple[str, int, int, int, float]]:
        metadata = dataset.metadata(name)
        with readable(dataset.part_url(name)):
            seconds = footer_of(metadata)[COMPACTED]["row_group_seconds"]
            found = row_groups_of(metadata, name, num_codebooks)
            return [
                (group.part, group.number, group.rows, group.frames, length)
                for group, length in zip(found, seconds, strict=True)
            ]

    rows = [row for file in dataset.map_names(groups, names) for row in file]
    columns = [[row[place] for row in rows] for place in range(len(INDEX_SCHEMA.names))]
    with readable(dataset.root):
        return pa.table(columns, schema=INDEX_SCHEMA)


def _indexed(dataset: TokenDataset) -> list[RowGroup]:
    index = read_index(dataset)
    groups = sorted(map(RowGroup, *(index[name].to_pylist() for name in INDEX_SCHEMA.names[:-1])))
    with readable(join(dataset.root, INDEX)):
        part, following = "", 0
        for group in groups:
            following = following if group.part == part else 0
            if group.number != following:
                raise ValueError(f"row group {following} of {group.part} is missing or there twice")
            part, following = group.part, following + 1
    return groups


def _groups_of_part(dataset: TokenDataset, identity: dict[str, Any], name: str) -> list[RowGroup]:
    metadata = dataset.metadata(name)
    footer = checked_footer(dataset, identity, name, metadata)
    with readable(dataset.part_url(name)):
        groups = row_groups_of(metadata, name, len(identity["codebook_sizes"]))
        if sum(group.frames for group in groups) != footer["frames"]:
            raise ValueError(f"its footer counts {footer['frames']} frames, its codes are others")
    return groups


def checked_footer(
    dataset: TokenDataset, identity: dict[str, Any], name: str, metadata: pq.FileMetaData
) -> dict[str, Any]:
    """The footer of a part; raises `DatasetConflict` if it is not of the dataset's identity."""
    url = dataset.part_url(name)
    with readable(url):
        footer = footer_of(metadata)
        refuse_foreign(url, footer, identity)
    return footer


def refuse_foreign(url: str, footer: dict[str, Any], identity: dict[str, Any]) -> None:
    """Raise `DatasetConflict` if a footer is not that of a part of the dataset."""
    for _, message in check_identity(footer, identity):
        raise DatasetConflict(f"{url} is a part of another dataset: {message}; move it away")


def row_groups_of(metadata: pq.FileMetaData, name: str, num_codebooks: int) -> list[RowGroup]:
    """The row groups of one part, by its Parquet metadata."""
    paths = [metadata.schema.column(place).path for place in range(metadata.num_columns)]
    codes = paths.index(CODES_PATH)
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    return [
        RowGroup(name, number, group.num_rows, _num_codes(group.column(codes)) // num_codebooks)
        for number, group in enumerate(groups)
    ]


def _num_codes(codes: pq.ColumnChunkMetaData) -> int:
    """The codes of a row group; Parquet also counts a value for a row without codes, as null."""
    return int((codes.statistics or codes).num_values)
