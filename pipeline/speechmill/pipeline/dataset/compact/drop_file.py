"""Take rows out of a file of a compacted dataset."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import pyarrow as pa

from speechmill.pipeline.dataset.compact.files import write_file
from speechmill.pipeline.dataset.compact.inputs import Inputs
from speechmill.pipeline.dataset.compact.plan import PlannedPart
from speechmill.pipeline.dataset.drop_part import (
    READ,
    Change,
    find_change,
    read_reject_table,
)
from speechmill.pipeline.dataset.layout import SCHEMA, TokenDataset, readable, shard_of
from speechmill.pipeline.dataset.section_rows import RowReader, check_rows_counted, open_parquet
from speechmill.pipeline.dataset.sections import Section, sections_in
from speechmill.pipeline.shards.tar_reader import Reject
from speechmill.pipeline.tokenize.drops import Drops
from speechmill.pipeline.tokenize.schema import reject_table, rejects_of
from speechmill.pipeline.tokenize.writer import footer_of


@dataclass(kw_only=True)
class _Rest(Inputs):
    """What stays of the rows of a file, as `compact` would read it from parts without the rest."""

    reader: RowReader
    sections: Sequence[Section]
    drops: Drops
    rejected: dict[str, list[Reject]] = field(default_factory=dict)  # by tar

    def tables(self) -> Iterator[pa.Table]:
        for section in self.sections:
            url = shard_of(section.footer).url
            rows = self.reader.rows(section.first, section.first + section.rows)
            kept = self.drops.applied(rows, self.rejected.get(url, []), url)
            rejects = reject_table(kept.rejects, url, self.identity[SCHEMA])
            self.footers.append(section.footer | _counts(kept.table, rejects))
            self.rejects.append(rejects)
            self.row_digest.update(kept.table)
            self.reject_digest.update(rejects)
            yield kept.table


def change_file(
    dataset: TokenDataset,
    identity: dict[str, Any],
    name: str,
    has_rejects: bool,
    drops: Drops,
    dry_run: bool,
) -> Change:
    """Rewrite one file, and its rejects before it, if it holds what is dropped.

    The index of the dataset is left as it is.
    """
    url = dataset.part_url(name)
    rejected = _rejects_by_tar(dataset, name, identity[SCHEMA]) if has_rejects else {}
    with dataset.storage.open(url) as stream, readable(url):
        file = open_parquet(stream)
        sections = sections_in(name, footer_of(file.metadata))
        check_rows_counted(sections, file.metadata)
        changes = []
        reader = RowReader(file, READ)
        for section in sections:
            rows = reader.rows(section.first, section.first + section.rows)
            own = rejected.get(shard_of(section.footer).url, [])
            changes.append(find_change(rows, own, section.footer, drops))
        change = _sum(changes)
        if change.changed and not dry_run:
            parts = [PlannedPart(section.part, 0, "") for section in sections]
            rest = _Rest(
                dataset,
                identity,
                parts,
                set(),
                Event(),
                reader=RowReader(file),
                sections=sections,
                drops=drops,
                rejected=rejected,
            )
            write_file(name, rest, dataset, replace=True)
    return change


def _rejects_by_tar(dataset: TokenDataset, name: str, version: int) -> dict[str, list[Reject]]:
    """By tar and not by the counts in the footer, which are late after a kill."""
    table = read_reject_table(dataset, name, version)
    found: dict[str, list[Reject]] = {}
    for tar, reject in zip(table["shard"].to_pylist(), rejects_of(table), strict=True):
        found.setdefault(tar, []).append(reject)
    return found


def _counts(table: pa.Table, rejects: pa.Table) -> dict[str, Any]:
    """What the footer of a part counts."""
    return {
        "rows": len(table),
        "frames": sum(table["num_frames"].to_pylist()),
        "audio_seconds": sum(table["duration"].to_pylist()),
        "rejects": dict(sorted(Counter(rejects["error"].to_pylist()).items())),
    }


def _sum(changes: Sequence[Change]) -> Change:
    return Change(
        sum(change.rows for change in changes),
        sum(change.audio_seconds for change in changes),
        frozenset().union(*(change.found for change in changes)),
        any(change.changed for change in changes),
    )
