"""Tokenize parts of shards to measure what a run will take; nothing is written.

The stages are those of a run: the same decoders, codec, batches, canary and Parquet writer. A part
begins at a random place of its tar, because tars may be sorted, by length for example.
"""

from __future__ import annotations

import io
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import pyarrow.parquet as pq

from speechmill.codecs.api import CodecInfo
from speechmill.pipeline.shards.gunzip import is_gzip
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.shards.tar_headers import BLOCK, find_header
from speechmill.pipeline.shards.tar_reader import Reject, Sample
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.batching import Batch, ShardEnd
from speechmill.pipeline.tokenize.decode import DecodeSettings, Isolation, decode_shard
from speechmill.pipeline.tokenize.encode import Tokenizer, device_kind
from speechmill.pipeline.tokenize.job import TokenizeJob
from speechmill.pipeline.tokenize.writer import CodecOutput, PartWriter, ShardReport, combined

# Of the first part of a process, which pays for imports and, on a GPU, for a graph of each width.
_WARM_UP_BYTES = 2**18
_WARM_UP_BYTES_ON_GPU = 2**26
_WARM_UP_SECONDS = 5.0
_SEARCHED = 2**23  # bytes that are read to find the next member
_PAGE_HEADERS = 64  # bytes in a column, about
_SLOW = 2.0  # times its share of the time, after which a part ends whatever was expected


@dataclass(frozen=True, slots=True)
class PartLimit:
    """How much of a shard is read: whole samples, until one of these is reached."""

    num_bytes: float
    seconds: float
    place: float | None = None  # of its middle, as a share of the tar; None: it is at the start


@dataclass(frozen=True, slots=True)
class PartEnd(ShardEnd):
    """The end of the part of a shard that was read."""

    bytes_read: float = 0.0  # of the tar
    whole: bool = False


@dataclass(frozen=True, slots=True)
class ProbedCodec:
    """What one codec made of the part of a shard."""

    report: ShardReport
    part_bytes: int  # of the Parquet file in tokens/
    fixed_bytes: float  # of them, those that do not grow with the rows, such as dictionaries
    reject_bytes: int  # of the one in rejects/


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbedShard(ShardReport):
    """What the part of a shard took and gave."""

    bytes_read: float  # of the tar
    whole: bool
    warm: bool  # the process had finished a part before
    device: str
    codecs: dict[int, ProbedCodec]  # by position

    @property
    def work_seconds(self) -> float:
        """The seconds in which it was decoded or encoded."""
        return self.decode_cpu_seconds + self.encode_seconds


@dataclass(frozen=True)
class ProbeJob:
    """A job that measures parts of shards; `seconds` is the work on each, None for whole shards."""

    job: TokenizeJob
    seconds: float | None

    @property
    def output(self) -> str:
        return self.job.output

    @property
    def num_outputs(self) -> int:
        return self.job.num_outputs

    @property
    def waiting_shards(self) -> int:
        return self.job.waiting_shards

    @property
    def object_mb(self) -> float:
        return self.job.object_mb

    def load(self) -> Prober:
        """Load the codecs as for a run."""
        return Prober(self.job.outputs, self.job.storage, self.job.decode, self.seconds)


class Prober(Tokenizer):
    """Reads some samples of each shard, and measures the part of the dataset they become."""

    def __init__(
        self,
        outputs: Sequence[CodecOutput],
        storage: Storage,
        settings: DecodeSettings,
        seconds: float | None,
    ):
        super().__init__(outputs, storage, settings)
        self._seconds = seconds
        self._measured: list[ProbedShard] = []
        self._writers: dict[tuple[Shard, int], _UnwrittenPart] = {}
        self._lock = threading.Lock()

    def __call__(
        self,
        shard: Shard,
        stream: Callable[..., Iterator[Any]],
        isolation: Isolation,
        needed: Sequence[int],
    ) -> ProbedShard:
        warm = bool(self._measured)
        try:
            reports = self.reports(shard, stream, isolation, needed)
        finally:
            writers = {position: self._writers.pop((shard, position), None) for position in needed}
        ended = {position: writer for position, writer in writers.items() if writer}
        codecs = {
            position: ended[position].measured(report)
            for position, report in zip(needed, reports, strict=True)
        }
        whole, end = combined(reports), ended[needed[0]].part_end
        probed = ProbedShard(
            **{field.name: getattr(whole, field.name) for field in fields(ShardReport)},
            bytes_read=end.bytes_read,
            whole=end.whole,
            warm=warm,
            device=device_kind(self.outputs[0].codec_options["device"]),
            codecs=codecs,
        )
        with self._lock:
            self._measured.append(probed)
        return probed

    def _limit(self, shard: Shard) -> PartLimit | None:
        """How much to read of the next shard; None for all of it."""
        with self._lock:
            if not self._measured:
                on_gpu = self.outputs[0].batch is not None
                first = _WARM_UP_BYTES_ON_GPU if on_gpu else _WARM_UP_BYTES
                return PartLimit(first, _WARM_UP_SECONDS)
            if self._seconds is None:
                return None
            # Each time that a shard comes again, more of it is read.
            before = sum(part.shard == shard.name and part.warm for part in self._measured)
            seconds = self._seconds * 4**before
            speeds = [part for part in self._measured if part.warm] or self._measured
            work = sum(part.work_seconds for part in speeds)
            speed = sum(part.bytes_read for part in speeds) / work if work else float("inf")
            place = random.Random(f"{shard.name} {before}").random()
            return PartLimit(seconds * speed, seconds * _SLOW, place)

    def _decoding(
        self, shard: Shard, infos: Sequence[CodecInfo], isolation: Isolation
    ) -> tuple[Any, ...]:
        limit = self._limit(shard)
        return decode_part, shard, self.storage, self.settings, infos, isolation, limit

    def _writer(self, shard: Shard, position: int) -> PartWriter:
        writer = super()._writer(shard, position)
        unwritten = _UnwrittenPart(
            writer.root, shard, _Sizes(), writer.codec, writer.provenance, writer.version
        )
        self._writers[shard, position] = unwritten
        return unwritten


class _Sizes(Storage):
    """A store that keeps only sizes of what is written, by folder."""

    def __post_init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.fixed_bytes = 0  # of the part

    def put(self, url: str, data: bytes) -> None:
        folder = PurePosixPath(url).parent.name
        self.sizes[folder] = len(data)
        if folder == "tokens":
            self.fixed_bytes = _fixed_bytes(data)

    def put_new(self, url: str, data: bytes) -> bool:
        self.put(url, data)
        return True


class _UnwrittenPart(PartWriter):
    """A part that is made as for a run, and measured."""

    part_end = PartEnd([])

    def close(self, end: ShardEnd) -> None:
        assert isinstance(end, PartEnd)
        self.part_end = end
        super().close(end)

    def measured(self, report: ShardReport) -> ProbedCodec:
        store = self.storage
        assert isinstance(store, _Sizes)
        sizes = store.sizes
        return ProbedCodec(report, sizes["tokens"], store.fixed_bytes, sizes.get("rejects", 0))


def decode_part(
    shard: Shard,
    storage: Storage,
    settings: DecodeSettings,
    codecs: Sequence[CodecInfo],
    isolation: Isolation,
    limit: PartLimit | None,
) -> Iterator[Batch | ShardEnd]:
    """Yield the batches of some samples of a shard, then for each codec a `PartEnd`."""
    first, limit = _placed(shard, limit)
    for start in sorted({0, first}, reverse=True):
        source = _WatchedStorage(storage.options, storage.patience, storage._urls, start)
        part = _Part(shard, source, limit)
        for item in decode_shard(shard, source, settings, codecs, None, isolation, part.samples):
            if source.start and not part.count:
                break  # no whole sample follows this place
            yield part.end(item) if isinstance(item, ShardEnd) else item
        else:
            return


def _placed(shard: Shard, limit: PartLimit | None) -> tuple[int, PartLimit | None]:
    """Return where a part begins, and its limit: at the start of a tar a part may be half as long.

    So no place is rarer than others if the middles of parts are evenly spread.
    """
    if limit is None or limit.place is None or limit.num_bytes >= shard.size:
        return 0, limit
    begin = limit.place * shard.size - limit.num_bytes / 2
    return max(0, int(begin)), replace(limit, num_bytes=limit.num_bytes + min(0.0, begin))


@dataclass
class _WatchedStorage(Storage):
    """A store that opens a tar at a member after `start`, and knows how far it has been read."""

    start: int = 0  # bytes
    is_packed: bool = False  # gzip
    _opened: BinaryIO = field(init=False)

    def open(self, url: str) -> BinaryIO:
        self._opened = super().open(url)
        found = find_header(self._opened, self.start, _SEARCHED) if self.start else 0
        # None is found in gzip, and before the end of a long recording.
        self.start = found or 0
        self._opened.seek(self.start)
        self.is_packed = is_gzip(self._opened)
        return self._opened

    def position(self) -> int:
        return self._opened.tell()


class _Part:
    """Some samples of a shard, and the bytes that they take in the tar."""

    def __init__(self, shard: Shard, source: _WatchedStorage, limit: PartLimit | None):
        self._shard, self._source, self._limit = shard, source, limit
        self._whole = False
        self.count = 0
        self._last = 0  # how far the reader was at the latest sample
        self._first = self._alone = 0  # the same at the first one, and its bytes
        self._begin = 0  # of the part in the tar
        self._end: int | None = None

    def samples(self, samples: Iterator[Sample | Reject]) -> Iterator[Sample | Reject]:
        started, is_over = time.monotonic(), False
        for number, sample in enumerate(samples):
            begin = self._last - _beginning(sample)  # the reader was in this sample already
            self._last = self._source.position()
            if is_over:
                self._end = begin
                return
            if self._source.start and not number:  # it may lack members
                continue
            if not self.count:
                self._first, self._alone = self._last, _blocks(sample)
                self._begin = begin if self._source.start else 0
            self.count += 1
            yield sample
            is_over = self._limit is not None and (
                self.bytes_read >= self._limit.num_bytes
                or time.monotonic() - started >= self._limit.seconds
            )
        self._end = self._shard.size
        self._whole = not self._source.start

    @property
    def bytes_read(self) -> float:
        """The bytes of the samples so far.

        Gzip is unpacked in large steps, so there it is the distance between samples that counts.
        """
        if self._whole or not self._source.is_packed:
            return (self._end or self._last) - self._begin
        if self.count < 2:
            return min(self._alone, self._shard.size)
        return (self._last - self._first) * self.count / (self.count - 1)

    def end(self, end: ShardEnd) -> PartEnd:
        facts = {field.name: getattr(end, field.name) for field in fields(ShardEnd)}
        return PartEnd(**facts, bytes_read=self.bytes_read, whole=self._whole)


def _once_of(column: pq.ColumnChunkMetaData) -> int:
    """The bytes of a column that another row does not add to."""
    is_of_codes = column.path_in_schema.startswith("codes.") and column.has_dictionary_page
    dictionary = column.data_page_offset - column.dictionary_page_offset if is_of_codes else 0
    return min(int(column.total_compressed_size), dictionary + _PAGE_HEADERS)


def _fixed_bytes(part: bytes) -> int:
    """The bytes of a part that do not grow with its rows: schema, footer, dictionary of codes."""
    metadata = pq.read_metadata(io.BytesIO(part))
    fixed = len(part)
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for column in map(group.column, range(group.num_columns)):
            fixed += (0 if number else _once_of(column)) - column.total_compressed_size
    return fixed


def _beginning(sample: Sample | Reject) -> int:
    """The bytes of a sample that are read before the sample before it is known to be complete."""
    if isinstance(sample, Reject):
        return BLOCK + sample.num_bytes
    return BLOCK + len(next(iter(sample.members.values())))


def _blocks(sample: Sample | Reject) -> int:
    """The bytes that a sample takes in a tar with plain headers."""
    if isinstance(sample, Reject):
        return BLOCK + sample.num_bytes
    return sum(BLOCK + -(-len(data) // BLOCK) * BLOCK for data in sample.members.values())
