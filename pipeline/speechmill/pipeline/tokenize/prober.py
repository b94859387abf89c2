"""Tokenizes parts of shards in a worker, and measures that; nothing is written.

The stages are those of a run: the same decoders, codec, batches, canary and Parquet writer.
"""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from speechmill.codecs.api import CodecInfo
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.batching import ShardEnd
from speechmill.pipeline.tokenize.decode import DecodeSettings, Isolation
from speechmill.pipeline.tokenize.decode_part import PartEnd, PartLimit, decode_part
from speechmill.pipeline.tokenize.encode import Tokenizer, device_kind
from speechmill.pipeline.tokenize.probed import ProbedCodec, ProbedShard
from speechmill.pipeline.tokenize.writer import CodecOutput, PartWriter, ShardReport, combined

# Of the first part of a process, which pays for imports and, on a GPU, for a graph of each width.
_WARM_UP_BYTES = 2**18
_WARM_UP_BYTES_ON_GPU = 2**26
_WARM_UP_SECONDS = 5.0
_PAGE_HEADERS = 64  # bytes in a column, about
_SLOW = 2.0  # times its share of the time, after which a part ends whatever was expected


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
            writer.root,
            shard,
            _Sizes(),
            writer.codec,
            writer.provenance,
            writer.version,
            writer.drops,
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
