"""Decodes a part of a shard, for a worker that measures; without torch, as decoders run.

A part begins at a random place of its tar, because tars may be sorted, by length for example.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace

from speechmill.codecs.api import CodecInfo
from speechmill.pipeline.filesystems import FileInfo
from speechmill.pipeline.object_reader import ObjectStream
from speechmill.pipeline.shards.gunzip import is_gzip
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.shards.tar_headers import BLOCK, find_header
from speechmill.pipeline.shards.tar_reader import Reject, Sample
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.batching import Batch, ShardEnd
from speechmill.pipeline.tokenize.decode import DecodeSettings, Isolation, decode_shard

_SEARCHED = 2**23  # bytes that are read to find the next member


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
        source = _WatchedStorage(storage.options, storage.patience, storage._urls, start=start)
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
    _opened: ObjectStream = field(init=False)

    def stream(self, url: str, version: FileInfo | None = None) -> ObjectStream:
        self._opened = super().stream(url, version)
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
