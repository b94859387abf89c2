"""The parts that go into one file of a compacted dataset, read in order and some of them ahead."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import Event
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from speechmill.pipeline.dataset.compact.digest import ContentDigest
from speechmill.pipeline.dataset.compact.plan import PlannedPart
from speechmill.pipeline.dataset.layout import SCHEMA, TokenDataset, readable
from speechmill.pipeline.dataset.row_groups import checked_footer
from speechmill.pipeline.dataset.section_rows import open_parquet
from speechmill.pipeline.dataset.sections import joined_footer
from speechmill.pipeline.errors import RunStopped
from speechmill.pipeline.in_order import in_order
from speechmill.pipeline.parquet import read_parquet
from speechmill.pipeline.tokenize.schema import ROW_SCHEMA, reject_schema, token_schema

_READS = 16  # parts that are read at the same time
_AHEAD_BYTES = 2**26  # of parts that wait in memory; a larger one waits alone


@dataclass(frozen=True, slots=True)
class _Fetched:
    """The bytes of a part, and of its rejects if there are any."""

    name: str
    rows: bytes
    rejects: bytes | None


@dataclass
class Inputs:
    """Reads parts, and keeps what the file that holds their rows says of them."""

    source: TokenDataset
    identity: dict[str, Any]
    parts: Sequence[PlannedPart]
    with_rejects: set[str]  # names of all parts that have a file in `rejects/`
    stop: Event  # set if the file is not wanted any more
    footers: list[dict[str, Any]] = field(default_factory=list)
    rejects: list[pa.Table] = field(default_factory=list)
    row_digest: ContentDigest = field(default_factory=ContentDigest)
    reject_digest: ContentDigest = field(default_factory=ContentDigest)

    @cached_property
    def schema(self) -> pa.Schema:
        """Of the rows; metadata is a dictionary, since the rows of a recording share it."""
        schema = token_schema(self.identity["codebook_sizes"], self.identity[SCHEMA])
        place = schema.get_field_index("metadata")
        return schema.set(place, ROW_SCHEMA.field("metadata"))

    def tables(self) -> Iterator[pa.Table]:
        """The row groups of every part.

        Raises `InputError` for a part that is damaged, and `RunStopped` when it should stop.
        """
        for part in self._fetched():
            if self.stop.is_set():
                raise RunStopped("compaction was stopped")
            url = self.source.part_url(part.name)
            with readable(url):
                file = open_parquet(io.BytesIO(part.rows))
            footer = checked_footer(self.source, self.identity, part.name, file.metadata)
            rows = frames = 0
            for number in range(file.num_row_groups):
                with readable(url):
                    table = file.read_row_group(number)
                    self._check(table)
                    rows, frames = rows + len(table), frames + pc.sum(table["num_frames"]).as_py()
                self.row_digest.update(table)
                yield table
            with readable(url):
                _compare("rows", rows, footer["rows"])
                _compare("frames", frames, footer["frames"])
                self._take_rejects(part, sum(footer["rejects"].values()))
                joined_footer([part.name], [footer])  # raises here for counts that are no numbers
            self.footers.append(footer)

    def _check(self, table: pa.Table) -> None:
        if not table.schema.equals(self.schema):
            raise ValueError("its columns are not those of a token dataset")
        frames_B = pc.cast(table["num_frames"], pa.int64())
        wanted_B = pc.multiply(frames_B, len(self.identity["codebook_sizes"]))
        if not pc.all(pc.equal(pc.list_value_length(table["codes"]), wanted_B)).as_py():
            raise ValueError("a row has another number of codes than num_frames * num_codebooks")

    def _take_rejects(self, part: _Fetched, count: int) -> None:
        schema = reject_schema(self.identity[SCHEMA])
        table = schema.empty_table()
        if part.rejects is not None:
            with readable(self.source.rejects_url(part.name)):
                table = read_parquet(part.rejects, schema.names).cast(schema)
        _compare("rejects", len(table), count)
        self.reject_digest.update(table)
        self.rejects.append(table)

    def _fetched(self) -> Iterator[_Fetched]:
        """Read files by several threads while earlier ones are used."""
        return in_order(
            self.parts, self._fetch, lambda part: part.bytes, _AHEAD_BYTES, threads=_READS
        )

    def _fetch(self, part: PlannedPart) -> _Fetched:
        name, read = part.name, self.source.storage.read_bytes
        rejects = read(self.source.rejects_url(name)) if name in self.with_rejects else None
        return _Fetched(name, read(self.source.part_url(name)), rejects)


def _compare(what: str, found: int, counted: int) -> None:
    if found != counted:
        raise ValueError(f"its footer counts {counted} {what}, there are {found}")
