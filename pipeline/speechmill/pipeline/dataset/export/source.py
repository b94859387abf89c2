"""The parts of a dataset as an export reads them: checked, selected and encoded by row groups."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import xxhash

from speechmill.codecs.api import CodecInfo
from speechmill.pipeline.dataset.checks import check_code_values
from speechmill.pipeline.dataset.documents import Documents, Utterances, utterances_of
from speechmill.pipeline.dataset.drop import require_applied
from speechmill.pipeline.dataset.export.ids import Ids
from speechmill.pipeline.dataset.export.part import Rows
from speechmill.pipeline.dataset.layout import SCHEMA, TokenDataset, codec_of, readable
from speechmill.pipeline.dataset.names import part_stem
from speechmill.pipeline.dataset.row_groups import refuse_foreign
from speechmill.pipeline.dataset.same_recording import rows_at_end
from speechmill.pipeline.dataset.section_rows import open_parquet
from speechmill.pipeline.dataset.where import Where
from speechmill.pipeline.filesystems import FileInfo
from speechmill.pipeline.tokenize.schema import ROW_SCHEMA, token_schema

_CODES = ("codes", "num_codebooks")


@dataclass(frozen=True, slots=True)
class SourcePart:
    """A part of a dataset by its footer."""

    name: str
    bytes: int
    codec: CodecInfo
    version: int  # of its schema
    digest: str  # changes with the content of the part

    @property
    def stem(self) -> str:
        """The name of its files in an export."""
        return part_stem(self.name)


def source_parts(dataset: TokenDataset) -> list[SourcePart]:
    """All parts, sorted by name.

    Raises `InputError` if a footer is damaged or a `drop` was stopped, and `DatasetConflict` if a
    part is of another codec or another version of the schema than the dataset.
    """
    identity = dataset.require_identity()
    require_applied(dataset)
    files = sorted(dataset.listed().items())
    footers = dataset.footers([name for name, _ in files])
    return [
        _source_part(name, info, footer, identity)
        for (name, info), footer in zip(files, footers, strict=True)
    ]


def _source_part(
    name: str, info: FileInfo, footer: dict[str, Any], identity: dict[str, Any]
) -> SourcePart:
    url = info.url
    with readable(url):
        refuse_foreign(url, footer, identity)
        digest = xxhash.xxh3_64_hexdigest(json.dumps(footer, sort_keys=True).encode())
        return SourcePart(name, info.size, codec_of(footer), footer[SCHEMA], digest)


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads the rows of parts that fulfil a condition, with a document for each."""

    dataset: TokenDataset
    ids: Ids
    codebooks: int  # the first ones of the dataset
    where: Where | None = None

    def rows(self, part: SourcePart) -> Iterator[Rows]:
        """The rows of a part that have a document, about a row group at a time.

        The rows of one recording stay together, because a template may join their documents.
        """
        for table in _whole_recordings(self._selected(part)):
            if len(table):
                found = utterances_of(table, part.codec.num_codebooks)
                codes_NK = found.codes_NK[:, : self.codebooks]
                documents = self.ids.encode(Utterances(codes_NK, found.num_frames_B, table))
                has_one_B = documents.lengths_B > 0
                if has_one_B.any():
                    kept = table.drop_columns(list(_CODES)).filter(pa.array(has_one_B))
                    documents = Documents(documents.ids, documents.lengths_B[has_one_B])
                    yield Rows(kept, documents, self.ids.num_frames(documents))

    def _selected(self, part: SourcePart) -> Iterator[pa.Table]:
        """The row groups with the rows that fulfil the condition."""
        url = self.dataset.part_url(part.name)
        with self.dataset.storage.open(url) as stream:
            with readable(url):
                file = open_parquet(stream)
            for group in range(file.num_row_groups):
                with readable(url):
                    table = file.read_row_group(group)
                    _refuse_damage(table, part)
                yield self.where.select(table) if self.where else table


def _refuse_damage(table: pa.Table, part: SourcePart) -> None:
    """Raise unless a table is sound and has the columns and codes of its codec."""
    table.validate(full=True)
    wanted = token_schema(part.codec.codebook_sizes, part.version)
    metadata = wanted.get_field_index("metadata")
    if not table.schema.equals(wanted.set(metadata, ROW_SCHEMA.field("metadata"))):
        raise ValueError("the columns are not those of a token dataset of this codec")
    for _, message in check_code_values(table, part.codec):
        raise ValueError(message)


def _whole_recordings(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Move rows from the end of each table to the next one that goes on with their recording."""
    held: pa.Table | None = None
    for table in tables:
        joined = table if held is None else pa.concat_tables([held, table])
        own = rows_at_end(joined, joined.slice(len(joined) - 1)) if len(joined) else 0
        yield joined.slice(0, len(joined) - own)
        held = joined.slice(len(joined) - own)
    if held is not None:
        yield held
