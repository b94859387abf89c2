"""The rows of many parts, in order, in few large files with an index."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from speechmill.pipeline.dataset.compact.digest import ContentDigest
from speechmill.pipeline.dataset.compact.inputs import Inputs
from speechmill.pipeline.dataset.compact.plan import CompactionPlan
from speechmill.pipeline.dataset.compact.regroup import regrouped
from speechmill.pipeline.dataset.layout import COMPACTED, DAMAGE, SCHEMA, TokenDataset
from speechmill.pipeline.dataset.row_groups import INDEX, index_of
from speechmill.pipeline.dataset.section_rows import open_parquet
from speechmill.pipeline.dataset.sections import joined_footer
from speechmill.pipeline.errors import StorageError, StorageNotFound
from speechmill.pipeline.storage import join
from speechmill.pipeline.tokenize.schema import reject_schema
from speechmill.pipeline.tokenize.writer import (
    ROWS_PER_GROUP,
    add_footer,
    footer_of,
    library_versions,
    parquet_writer,
)


@dataclass(frozen=True, slots=True)
class CompactedFile:
    """A file of a compacted dataset that was read back."""

    name: str
    parts: int
    rows: int
    row_groups: int
    bytes: int


def write_files(
    plan: CompactionPlan, source: TokenDataset, target: TokenDataset
) -> Iterator[CompactedFile]:
    """Write the files of a plan that are not there yet; yield each after it was read back.

    A file is read back before the next one is written. So of those that a killed process left, only
    the last one is read again. Raises `InputError` for a damaged part, and `StorageError` for a
    file that does not hold what was written.
    """
    for folder in ("", "tokens", "rejects"):
        target.storage.clear_leftovers(join(target.root, folder))
    there, with_rejects = target.parts(), source.parts("rejects")
    for number, parts in enumerate(plan.files):
        name = plan.name(number)
        if name not in there:
            _write(name, Inputs(source, plan.identity, parts, with_rejects), target)
        elif name != max(there):
            continue
        yield _read_back(name, [part.name for part in parts], target)


def finish(plan: CompactionPlan, source: TokenDataset, target: TokenDataset) -> None:
    """Make the files a dataset: add failures, logs of runs, the identity, and last the index."""
    storage = target.storage
    for name, record in plan.failed.items():
        storage.put(join(target.root, "failed", f"{name}.json"), _json(record))
    runs = storage.absolute(join(source.root, "runs"))
    for info in storage.list_files(runs):
        storage.put(f"{target.root}/runs{info.url[len(runs) :]}", storage.read_bytes(info.url))
    made = {"source": plan.source, "parts": len(plan.parts), "file_mb": plan.file_mb}
    index = _index(plan, target)
    storage.put(join(target.root, target.identity_file), _json(plan.identity | {COMPACTED: made}))
    storage.put(join(target.root, INDEX), index)


def is_finished(target: TokenDataset) -> bool:
    """Whether a dataset has its index, which is written last."""
    return target.storage.exists(join(target.root, INDEX))


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _write(name: str, inputs: Inputs, target: TokenDataset) -> None:
    """Write the rejects of some parts, then their rows; an existing file of rows wins."""
    sink, seconds = io.BytesIO(), []
    sizes = inputs.identity["codebook_sizes"]
    with parquet_writer(sink, inputs.schema, sizes) as file:
        for rows in regrouped(inputs.tables()):
            file.write_table(rows, row_group_size=len(rows))
            seconds.append(pc.sum(rows["duration"]).as_py())
        footer = _footer(inputs, seconds)
        add_footer(file, footer)
    if inputs.reject_digest.rows:
        rejects = _rejects(inputs, footer)
        target.storage.put(_rejects_url(target, name), rejects)
    target.storage.put_new(target.part_url(name), sink.getvalue())


def _footer(inputs: Inputs, seconds: list[float]) -> dict[str, Any]:
    footer = joined_footer([part.name for part in inputs.parts], inputs.footers)
    footer[COMPACTED] |= {
        "row_group_seconds": seconds,
        "xxh3": {
            "tokens": inputs.row_digest.by_column(),
            "rejects": inputs.reject_digest.by_column(),
        },
        "libraries": library_versions(),
    }
    return footer


def _rejects(inputs: Inputs, footer: dict[str, Any]) -> bytes:
    sink, schema = io.BytesIO(), reject_schema(inputs.identity[SCHEMA])
    with parquet_writer(sink, schema, inputs.identity["codebook_sizes"]) as file:
        file.write_table(pa.concat_tables(inputs.rejects), row_group_size=ROWS_PER_GROUP)
        add_footer(file, footer)
    return sink.getvalue()


def _rejects_url(target: TokenDataset, name: str) -> str:
    return join(target.root, "rejects", f"{name}.parquet")


def _read_back(name: str, parts: list[str], target: TokenDataset) -> CompactedFile:
    """Compare a file and its rejects, as they are on storage, with the parts they were made of.

    Removes the file and raises `StorageError` if they differ, so that the next run writes it again.
    """
    url = target.part_url(name)
    try:
        found = _verified(name, parts, target)
    except (*DAMAGE, StorageNotFound) as error:
        target.storage.delete(url)
        raise StorageError(
            f"{url} is not what was written: {error}; it was removed, run the same command again"
        ) from error
    return found


def _verified(name: str, parts: list[str], target: TokenDataset) -> CompactedFile:
    """Raise `ValueError` if rows or rejects are not those that the digests in the footer say."""
    url, storage = target.part_url(name), target.storage
    with storage.open(url) as stream:
        file = open_parquet(stream)
        footer = footer_of(file.metadata)
        if [own["part"] for own in footer[COMPACTED]["parts"]] != parts:
            raise ValueError("it holds other parts than planned")
        digests = footer[COMPACTED]["xxh3"]
        _compare(file, digests["tokens"])
        found = CompactedFile(
            name, len(parts), file.metadata.num_rows, file.num_row_groups, storage.info(url).size
        )
    if digests["rejects"]:
        with storage.open(_rejects_url(target, name)) as stream:
            _compare(pq.ParquetFile(stream, page_checksum_verification=True), digests["rejects"])
    return found


def _compare(file: pq.ParquetFile, expected: dict[str, str]) -> None:
    digest = ContentDigest()
    for number in range(file.num_row_groups):
        digest.update(file.read_row_group(number))
    found = digest.by_column()
    if differ := [name for name in expected if found.get(name) != expected[name]]:
        raise ValueError(f"the column {differ[0]!r} holds other values")


def _index(plan: CompactionPlan, target: TokenDataset) -> bytes:
    names = [plan.name(number) for number in range(len(plan.files))]
    sink = io.BytesIO()
    table = index_of(target, names, len(plan.identity["codebook_sizes"]))
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()
