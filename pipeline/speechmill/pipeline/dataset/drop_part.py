"""Take rows out of one part of a token dataset."""

import io
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from speechmill.pipeline.dataset.layout import TokenDataset, codec_of, readable, shard_of
from speechmill.pipeline.dataset.section_rows import open_parquet
from speechmill.pipeline.errors import Dropped
from speechmill.pipeline.parquet import read_parquet
from speechmill.pipeline.shards.tar_reader import Reject
from speechmill.pipeline.tokenize.batching import ShardEnd
from speechmill.pipeline.tokenize.drops import COLUMNS, Drops
from speechmill.pipeline.tokenize.schema import reject_schema, reject_table, rejects_of
from speechmill.pipeline.tokenize.writer import PartWriter, read_footer

DROPPED = Dropped.__name__
READ = [*COLUMNS, "duration"]
_COUNTED = ("rows", "frames", "audio_seconds", "rejects", "bad_json", "cleaned", "passed_over")


@dataclass(frozen=True, slots=True)
class Change:
    """What a file of a dataset loses."""

    rows: int
    audio_seconds: float
    found: frozenset[int]  # positions of the entries that select something in it
    changed: bool


def change_part(
    dataset: TokenDataset, name: str, has_rejects: bool, drops: Drops, dry_run: bool
) -> Change:
    """Rewrite one part, and its rejects before it, if it holds what is dropped."""
    url = dataset.part_url(name)
    data = dataset.storage.read_bytes(url)
    with readable(url):
        footer = read_footer(data)
        if (shard := shard_of(footer)).name != name:  # it would be written over another part
            raise ValueError(f"it is named for another tar than {shard.url}")
        table = read_parquet(data, READ)
        rejects = read_rejects(dataset, name, footer["schema_version"]) if has_rejects else []
        change = find_change(table, rejects, footer, drops)
        if change.changed and not dry_run:
            _rewrite(dataset, data, rejects, drops)
    return change


def find_change(
    table: pa.Table, rejects: list[Reject], footer: dict[str, Any], drops: Drops
) -> Change:
    """Compare the rows and rejects of one tar, and the counts of its footer, with what stays."""
    url, version = shard_of(footer).url, footer["schema_version"]
    kept = drops.applied(table, rejects, url)
    after = reject_table(kept.rejects, url, version)
    lost = len(table) - len(kept.table)
    same = not lost and after.equals(reject_table(rejects, url, version))
    # A call that was killed between the two files has dropped from the first one only.
    counted = footer["rejects"].get(DROPPED, 0) == Counter(after["error"].to_pylist())[DROPPED]
    seconds = [pc.sum(rows["duration"]).as_py() or 0.0 for rows in (table, kept.table)]
    return Change(lost, seconds[0] - seconds[1], frozenset(kept.found), not (same and counted))


def read_rejects(dataset: TokenDataset, name: str, version: int) -> list[Reject]:
    """All rejects of a file; raises `InputError` if it is damaged."""
    return rejects_of(read_reject_table(dataset, name, version))


def read_reject_table(dataset: TokenDataset, name: str, version: int) -> pa.Table:
    """The rejects of a file as a table; raises `InputError` if it is damaged."""
    url = dataset.rejects_url(name)
    data = dataset.storage.read_bytes(url)
    with readable(url):
        schema = reject_schema(version)
        table = read_parquet(data).select(schema.names).cast(schema)
        rejects_of(table)
        return table


def _rewrite(dataset: TokenDataset, data: bytes, rejects: list[Reject], drops: Drops) -> None:
    """Give the rows of a part to the writer again, which leaves out those that are dropped."""
    footer = read_footer(data)
    writer = PartWriter(
        dataset.root,
        shard_of(footer),
        dataset.storage,
        codec_of(footer),
        {name: value for name, value in footer.items() if name not in _COUNTED},
        footer["schema_version"],
        drops,
        replace=True,
    )
    table = open_parquet(io.BytesIO(data)).read()
    counts = [footer.get(name, 0) for name in ("bad_json", "cleaned", "passed_over")]
    with writer:
        for batch in table.to_batches():
            writer.add(batch)
        writer.close(ShardEnd(rejects, *counts))
