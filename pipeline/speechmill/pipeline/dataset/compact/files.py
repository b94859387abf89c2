"""The rows of many parts, in order, in few large files with an index."""

import io
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
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
from speechmill.pipeline.errors import InputError, StorageError, StorageNotFound
from speechmill.pipeline.storage import join
from speechmill.pipeline.text import json_file
from speechmill.pipeline.tokenize.schema import reject_schema
from speechmill.pipeline.tokenize.writer import (
    ROWS_PER_GROUP,
    add_footer,
    footer_of,
    parquet_writer,
)
from speechmill.pipeline.versions import library_versions

MOST_THREADS = 16


@dataclass(frozen=True, slots=True)
class CompactedFile:
    """A file of a compacted dataset that was read back."""

    name: str
    parts: int
    rows: int
    row_groups: int
    bytes: int


def write_files(
    plan: CompactionPlan, source: TokenDataset, target: TokenDataset, threads: int
) -> Iterator[CompactedFile]:
    """Write the files of a plan that are not there yet, and yield each after it was read back.

    Up to `threads` files are written at the same time, and always the first ones of those that are
    left. So after a kill only the last few may not have been read back, and these are read again.
    Raises `InputError` for a damaged part, and `StorageError` for a file that does not hold what
    was written.
    """
    for folder in ("", "tokens", "rejects"):
        target.storage.clear_leftovers(join(target.root, folder))
    there, with_rejects = target.parts(), source.parts("rejects")
    unread = sorted(there)[-MOST_THREADS:]
    running: deque[Future[CompactedFile]] = deque()
    stop = Event()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for number, parts in enumerate(plan.files):
                name = plan.name(number)
                if name in there and name not in unread:
                    continue
                inputs = Inputs(source, plan.identity, parts, with_rejects, stop)
                running.append(pool.submit(_make, name, inputs, target, name in there))
                if len(running) == threads:
                    yield running.popleft().result()
            for last in running:
                yield last.result()
        finally:
            stop.set()


def check_threads(threads: int) -> None:
    """Raise `InputError` for a number of files at the same time that is out of range."""
    if not 1 <= threads <= MOST_THREADS:
        raise InputError(f"threads is {threads}; give 1 to {MOST_THREADS}")


def _make(name: str, inputs: Inputs, target: TokenDataset, is_there: bool) -> CompactedFile:
    if not is_there:
        write_file(name, inputs, target)
    return _read_back(name, [part.name for part in inputs.parts], target)


def finish(plan: CompactionPlan, source: TokenDataset, target: TokenDataset) -> None:
    """Make the files a dataset: add failures, logs of runs, the identity, and last the index."""
    storage = target.storage
    for name, record in plan.failed.items():
        storage.put(join(target.root, "failed", f"{name}.json"), json_file(record))
    runs = storage.absolute(join(source.root, "runs"))
    for info in storage.list_files(runs):
        storage.put(f"{target.root}/runs{info.url[len(runs) :]}", storage.read_bytes(info.url))
    made = {"source": plan.source, "parts": len(plan.parts), "file_mb": plan.file_mb}
    index = _index([plan.name(number) for number in range(len(plan.files))], plan.identity, target)
    storage.put(
        join(target.root, target.identity_file), json_file(plan.identity | {COMPACTED: made})
    )
    storage.put(join(target.root, INDEX), index)


def is_finished(target: TokenDataset) -> bool:
    """Whether a dataset has its index, which is written last."""
    return target.storage.exists(join(target.root, INDEX))


def write_file(name: str, inputs: Inputs, target: TokenDataset, *, replace: bool = False) -> None:
    """Write the rejects of some parts, then their rows.

    An existing file of rows wins, unless `replace` is set.
    """
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
        target.storage.put(target.rejects_url(name), rejects)
    put = target.storage.put if replace else target.storage.put_new
    put(target.part_url(name), sink.getvalue())


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
        with storage.open(target.rejects_url(name)) as stream:
            _compare(pq.ParquetFile(stream, page_checksum_verification=True), digests["rejects"])
    return found


def _compare(file: pq.ParquetFile, expected: dict[str, str]) -> None:
    digest = ContentDigest()
    for number in range(file.num_row_groups):
        digest.update(file.read_row_group(number))
    found = digest.by_column()
    if differ := [name for name in expected if found.get(name) != expected[name]]:
        raise ValueError(f"the column {differ[0]!r} holds other values")


def renew_index(dataset: TokenDataset) -> None:
    """Write the index again if it is not that of the files."""
    url = join(dataset.root, INDEX)
    index = _index(sorted(dataset.parts()), dataset.require_identity(), dataset)
    if dataset.storage.read_bytes(url) != index:
        dataset.storage.put(url, index)


def _index(names: Sequence[str], identity: dict[str, Any], target: TokenDataset) -> bytes:
    sink = io.BytesIO()
    table = index_of(target, names, len(identity["codebook_sizes"]))
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()
