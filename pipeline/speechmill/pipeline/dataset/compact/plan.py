"""Which parts of a dataset go into which file of a compacted one; recorded before the first file.

So a compaction that was killed goes on to the same files, though the dataset grew.
"""

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from speechmill.pipeline.dataset.layout import (
    COMPACTED,
    COMPACTION_PLAN,
    DAMAGE,
    TokenDataset,
    readable,
    shard_of,
)
from speechmill.pipeline.dataset.row_groups import checked_footer
from speechmill.pipeline.dataset.sections import PART_NAME
from speechmill.pipeline.errors import DatasetConflict, InputError, StorageNotFound
from speechmill.pipeline.parquet import read_parquet
from speechmill.pipeline.storage import join
from speechmill.pipeline.tokenize.writer import FOOTER_KEY

LARGEST_MB = 4096.0
_PARTS_PER_FILE = 10_000  # the footer names each, with its counts: some MB of JSON
_REJECTS_PER_FILE = 2**20  # they are in memory too
_FACTS = ("source", "identity", "file_mb", "failed")
_SCHEMA = pa.schema(
    [
        pa.field("file", pa.int32(), nullable=False),
        pa.field("part", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class PlannedPart:
    """A part as a listing of the dataset shows it."""

    name: str
    bytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class CompactionPlan:
    """The files of a compacted dataset, and what else was found in the dataset at the start."""

    source: str
    identity: dict[str, Any]
    file_mb: float
    failed: dict[str, Any]  # records of shards that have no part, by name
    files: tuple[tuple[PlannedPart, ...], ...]

    @property
    def parts(self) -> list[PlannedPart]:
        return [part for file in self.files for part in file]

    def name(self, number: int) -> str:
        """The name of a file, without suffix; names sort as the files do."""
        digits = max(5, len(str(len(self.files) - 1)))
        return f"part-{number:0{digits}}"


def recorded_plan(
    source: TokenDataset, target: TokenDataset, file_mb: float, *, without_failed: bool
) -> CompactionPlan:
    """The plan that the target folder has, or a new one, which is then recorded there.

    Raises `InputError` for a wrong size, a dataset that is compacted already, a part that is
    damaged or has the same tar as another one, a failed shard unless `without_failed`, or a target
    that holds other files; `DatasetConflict` if the plan was made for another dataset or size.
    """
    if not 0 < file_mb <= LARGEST_MB:
        raise InputError(
            f"file_mb is {file_mb:g}; give up to {LARGEST_MB:g}, because a file is built in memory"
        )
    identity = _source_identity(source, target)
    found = _read_plan(target)
    if found is None:
        _refuse_used(target)
        listed = _listed(source)
        plan = CompactionPlan(
            source.root,
            identity,
            file_mb,
            _failed(source, {part.name for part in listed}, without_failed),
            _files(source, identity, listed, file_mb),
        )
        target.storage.put_new(_plan_url(target), _plan_bytes(plan))
        found = _read_plan(target)  # another process may have been first
        assert found
    _refuse_other(found, identity, file_mb, target)
    return found


def parts_since(plan: CompactionPlan, source: TokenDataset, target: TokenDataset) -> int:
    """How many parts the dataset has that are not in the plan.

    Raises `DatasetConflict` for a part of the plan that is gone or was replaced.
    """
    now = {part.name: part for part in _listed(source)}
    for part in plan.parts:
        if now.get(part.name) != part:
            state = "was replaced" if part.name in now else "is gone"
            raise DatasetConflict(
                f"{source.part_url(part.name)} {state} since {target.root} was planned; delete "
                f"{target.root} and compact again, or set another folder"
            )
    return len(now) - len(plan.parts)


def _listed(dataset: TokenDataset) -> list[PlannedPart]:
    files = sorted(dataset.listed().items())
    return [PlannedPart(name, info.size, info.etag) for name, info in files]


def _source_identity(source: TokenDataset, target: TokenDataset) -> dict[str, Any]:
    identity = source.require_identity()
    if COMPACTED in identity:
        with readable(source.root):
            origin = identity[COMPACTED]["source"]
        raise InputError(f"{source.root} is compacted already; compact {origin}, its source")
    source.refuse_inside(target.root)
    return identity


def _refuse_used(target: TokenDataset) -> None:
    """Raise for files that are not hidden: a write that was killed leaves a hidden one.

    If there is a plan, another compaction began in the meantime, and they are its files.
    """
    urls = [info.url for info in target.storage.list_files(target.root)]
    others = [url for url in urls if not url.rpartition("/")[2].startswith(".")]
    if others and _plan_url(target) not in others:
        raise InputError(f"{target.root} holds other files, such as {others[0]}; set another")


def _failed(source: TokenDataset, parts: set[str], without_failed: bool) -> dict[str, Any]:
    """The records of failed shards; those of shards that have a part by now do not count."""
    names = sorted(source.parts("failed") - parts)
    with readable(join(source.root, "failed")):
        failed = {name: source.failure(name) for name in names}
        urls = [str(record["shard"]) for record in failed.values()]
    if urls and not without_failed:
        raise InputError(
            f"{len(urls)} shards of {source.root} failed, such as {urls[0]}; run `speechmill "
            "tokenize` again, or compact the others by --without-failed"
        )
    return failed


def _files(
    source: TokenDataset, identity: dict[str, Any], parts: Sequence[PlannedPart], file_mb: float
) -> tuple[tuple[PlannedPart, ...], ...]:
    """Cut the parts, in order, into files; what is known of each part is read from its footer."""
    if not parts:
        raise InputError(f"{source.root} has no parts yet; run `speechmill tokenize` first")
    found = source.map_names(partial(_footprint, source, identity), [p.name for p in parts])
    first: dict[str, str] = {}
    for part, (shard, _, _) in zip(parts, found, strict=True):
        if (other := first.setdefault(shard, part.name)) != part.name:
            raise DatasetConflict(
                f"{source.part_url(part.name)} and {other} are both of {shard}; delete one of them"
            )
    counts = cut_evenly([size for _, size, _ in found], [r for *_, r in found], file_mb * 1e6)
    ends = list(accumulate(counts, initial=0))
    return tuple(tuple(parts[start:end]) for start, end in pairwise(ends))


def cut_evenly(sizes: Sequence[int], rejects: Sequence[int], largest: float) -> list[int]:
    """How many parts go into each file, so that the files are about equal.

    They have up to about `largest` bytes, and of several none has much less than half of that.
    """
    total = sum(sizes)
    number = max(1, math.ceil(total / largest))
    counts: list[int] = []
    before, place, held = 0, -1, 0
    for size, rejected in zip(sizes, rejects, strict=True):
        wanted = min(int((before + size / 2) * number / max(total, 1)), number - 1)
        is_full = (counts and counts[-1] == _PARTS_PER_FILE) or held + rejected > _REJECTS_PER_FILE
        if wanted != place or is_full:
            counts.append(0)
            place, held = wanted, 0
        counts[-1] += 1
        held += rejected
        before += size
    return counts


def _footprint(source: TokenDataset, identity: dict[str, Any], name: str) -> tuple[str, int, int]:
    """The URL of the tar of a part, the bytes of its columns, and the number of its rejects."""
    if not PART_NAME.fullmatch(name):
        raise DatasetConflict(
            f"{source.part_url(name)} is not named <tar>-<12 hex>.parquet; move it away"
        )
    metadata = source.metadata(name)
    footer = checked_footer(source, identity, name, metadata)
    with readable(source.part_url(name)):
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        columns = [g.column(place) for g in groups for place in range(metadata.num_columns)]
        size = sum(column.total_compressed_size for column in columns)
        return shard_of(footer).url, size, sum(footer["rejects"].values())


def _plan_url(target: TokenDataset) -> str:
    return join(target.root, COMPACTION_PLAN)


def _plan_bytes(plan: CompactionPlan) -> bytes:
    rows = [
        (number, part.name, part.bytes, part.etag)
        for number, parts in enumerate(plan.files)
        for part in parts
    ]
    columns = [list(column) for column in zip(*rows, strict=True)]
    facts = {name: getattr(plan, name) for name in _FACTS}
    table = pa.table(columns, schema=_SCHEMA.with_metadata({FOOTER_KEY: json.dumps(facts)}))
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def _read_plan(target: TokenDataset) -> CompactionPlan | None:
    url = _plan_url(target)
    try:
        data = target.storage.read_bytes(url)
    except StorageNotFound:
        return None
    try:
        return _parsed_plan(data)
    except DAMAGE as error:
        raise InputError(
            f"{url} is damaged: {' '.join(str(error).split())}; delete {target.root} and compact "
            "again, or set another folder"
        ) from error


def _parsed_plan(data: bytes) -> CompactionPlan:
    table = read_parquet(data)
    facts = json.loads(table.schema.metadata[FOOTER_KEY.encode()])
    columns = [table[name].to_pylist() for name in _SCHEMA.names]
    files: dict[int, list[PlannedPart]] = {}
    for number, *part in zip(*columns, strict=True):
        files.setdefault(number, []).append(PlannedPart(*part))
    if odd := [name for name in facts["failed"] if "/" in name]:
        raise ValueError(f"{odd[0]!r} is not the name of a shard")
    return CompactionPlan(
        **{name: facts[name] for name in _FACTS},
        files=tuple(tuple(files[number]) for number in range(len(files))),
    )


def _refuse_other(
    plan: CompactionPlan, identity: dict[str, Any], file_mb: float, target: TokenDataset
) -> None:
    """Raise `DatasetConflict` if a plan was made for another dataset or size."""
    begun = target.read_identity()
    if begun is not None and COMPACTED not in begun:
        raise DatasetConflict(f"{target.root} holds another dataset by now; set another folder")
    # The first run on GPUs adds a key to the identity of a dataset.
    for key, value in plan.identity.items():
        if identity.get(key) != value:
            raise DatasetConflict(
                f"{target.root} is compacted from tokens of {key} = {value!r}, here it is "
                f"{identity.get(key)!r}; set another folder"
            )
    if plan.file_mb != file_mb:
        raise DatasetConflict(
            f"{target.root} was begun with --file-mb {plan.file_mb:g}; give it again, or set "
            "another folder"
        )
