"""The GPU half of tokenizing a shard: batches of audio in, one committed part out."""

import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import takewhile
from typing import Any

import pyarrow as pa
import torch

from speechmill.codecs import load_codec
from speechmill.codecs.api import Codec
from speechmill.codecs.errors import CheckpointError
from speechmill.pipeline import metrics
from speechmill.pipeline.errors import StreamBroken
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.batching import Batch, ShardEnd, split
from speechmill.pipeline.tokenize.decode import DecodeSettings, Isolation, decode_shard
from speechmill.pipeline.tokenize.device import (
    DeviceBatch,
    DeviceLock,
    DevicePrefetcher,
    SplittingCodec,
)
from speechmill.pipeline.tokenize.schema import with_codes
from speechmill.pipeline.tokenize.writer import CodecOutput, PartWriter, ShardReport, combined

# Arrays from Ray's object store are read-only, which torch does not support.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


class Tokenizer:
    """Codecs loaded on one device; several shards use them at the same time."""

    def __init__(self, outputs: Sequence[CodecOutput], storage: Storage, settings: DecodeSettings):
        self.outputs = outputs
        self.storage = storage
        self.settings = settings
        self.lock = DeviceLock()
        self.prefetchers = [DevicePrefetcher(output.codec_options["device"]) for output in outputs]
        self.codecs = [SplittingCodec(load_codec(**output.codec_options)) for output in outputs]
        for codec, output in zip(self.codecs, outputs, strict=True):
            if codec.info != output.codec:
                raise CheckpointError(
                    f"{output.codec.name} is revision {codec.info.revision} on "
                    f"{socket.gethostname()}, but {output.codec.revision} at the driver; "
                    "give every node the same checkpoint and the same version of speechmill"
                )

    def __call__(
        self,
        shard: Shard,
        stream: Callable[..., Iterator[Any]],
        isolation: Isolation,
        needed: Sequence[int],
    ) -> ShardReport:
        """Tokenize a shard for the codecs in these positions; it is decoded once."""
        infos = [self.outputs[position].codec for position in needed]
        batches = stream(decode_shard, shard, self.storage, self.settings, infos, None, isolation)
        interrupted = threading.Event()
        streams = split(takewhile(lambda _: not interrupted.is_set(), batches), len(needed))
        arguments = [
            (
                batches_of_one,
                self.codecs[position],
                self._writer(shard, self.outputs[position]),
                self.lock,
                self.prefetchers[position],
            )
            for position, batches_of_one in zip(needed, streams, strict=True)
        ]
        if len(arguments) == 1:  # in this thread, which Ctrl-C interrupts at once
            return combined([tokenize_shard(*arguments[0])])
        with ThreadPoolExecutor(len(arguments)) as threads:
            reports = [threads.submit(tokenize_shard, *each) for each in arguments]
            try:
                wait(reports)
            except BaseException:  # Ctrl-C: a thread that still computed at exit would abort Python
                interrupted.set()
                raise
        return combined([report.result() for report in reports])

    def _writer(self, shard: Shard, output: CodecOutput) -> PartWriter:
        options = output.codec_options
        provenance = {
            "device": device_kind(options["device"]),
            "precision": options["precision"],
            "compile": options.get("compile", False),
        }
        return PartWriter(output.output, shard, self.storage, output.codec, provenance)


def tokenize_shard(
    batches: Iterable[Batch | ShardEnd],
    codec: Codec,
    writer: PartWriter,
    lock: DeviceLock | None = None,
    prefetcher: DevicePrefetcher | None = None,
) -> ShardReport:
    """Encode the batches of one shard and commit its part.

    `lock` is held only while the codec computes, so that the shards in flight share one device.
    Raises `StreamBroken`, and writes nothing, if the batches end without a `ShardEnd`.
    """
    lock = lock or DeviceLock()
    with writer:
        lock.add_shard()
        try:
            ready = (prefetcher or DevicePrefetcher()).prefetch(batches)
            seconds, end = _encode_all(ready, codec, writer, lock)
        finally:
            starved = lock.remove_shard()
        writer.close(end.rejects, end.num_bad_json)
    assert writer.report
    return replace(
        writer.report,
        encode_seconds=seconds,
        starved_seconds=starved,
        decode_seconds=end.decode_seconds,
        decode_cpu_seconds=end.decode_cpu_seconds,
    )


def _encode_all(
    batches: Iterator[DeviceBatch | ShardEnd], codec: Codec, writer: PartWriter, lock: DeviceLock
) -> tuple[float, ShardEnd]:
    """Add the rows of every batch; returns the seconds of the codec, and the end."""
    seconds = 0.0
    for ready in batches:
        if isinstance(ready, ShardEnd):
            return seconds, ready
        with lock:
            started = time.perf_counter()
            codes_BKF = _encode(ready, codec)
            took = time.perf_counter() - started
        writer.add(_rows(ready.batch, codes_BKF, writer.schema))
        seconds += took
        _record(ready.batch, took, codec.info.sample_rate)
    raise StreamBroken(f"{writer.shard.url}: the batches ended before the shard did")


def _record(batch: Batch, seconds: float, sample_rate: int) -> None:
    metrics.record(metrics.BATCHES, 1)
    lengths = batch.num_samples_B.tolist()
    metrics.record(metrics.BATCH_SECONDS, sum(lengths) / sample_rate)
    metrics.record(metrics.PADDED_SECONDS, len(lengths) * max(lengths) / sample_rate)
    metrics.record(metrics.ENCODE_SECONDS, seconds)


def encode_batch(batch: Batch, codec: Codec, schema: pa.Schema) -> pa.RecordBatch:
    """Encode one batch to rows of the token schema."""
    [ready] = DevicePrefetcher().prefetch([batch])
    assert isinstance(ready, DeviceBatch)
    return _rows(batch, _encode(ready, codec), schema)


def _encode(ready: DeviceBatch, codec: Codec) -> torch.Tensor:
    """Return codes_BKF in host memory; the device has then finished the batch."""
    return codec.encode(ready.audio(), torch.from_numpy(ready.batch.num_samples_B)).cpu()


def _rows(batch: Batch, codes_BKF: torch.Tensor, schema: pa.Schema) -> pa.RecordBatch:
    codes_BFK = codes_BKF.transpose(1, 2).numpy()
    return with_codes(batch.rows, codes_BFK, batch.first_frame_B, batch.num_frames_B, schema)


def device_kind(device: str) -> str:
    """The kind of a device, for the footers: only one kind gives identical bytes."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
