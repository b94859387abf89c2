"""The codec's half of tokenizing a shard: batches of audio in, one committed part out."""

import time
import warnings
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch

from pipeline import metrics
from pipeline.bottleneck import Turn
from pipeline.errors import StreamBroken
from pipeline.tokens import Batch, ShardEnd, with_codes
from pipeline.writer import PartWriter, ShardReport
from speech_codecs.api import Codec

# Arrays out of Ray's object store are read-only, which torch has no notion of.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


def tokenize_shard(
    batches: Iterable[Batch | ShardEnd],
    codec: Codec,
    writer: PartWriter,
    turn: Turn | None = None,
) -> ShardReport:
    """Encode the batches of one shard and commit its part.

    `turn` is held while the codec computes, so that shards in flight share one device. Raises
    `StreamBroken` where the batches end without a `ShardEnd`; nothing is written then.
    """
    turn = turn or Turn()
    with writer:
        turn.join()
        try:
            seconds, end = _encode_all(batches, codec, writer, turn)
        finally:
            starved = turn.leave()
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
    batches: Iterable[Batch | ShardEnd], codec: Codec, writer: PartWriter, turn: Turn
) -> tuple[float, ShardEnd]:
    """Add the rows of every batch; gives the seconds that the codec took, and the end."""
    seconds = 0.0
    for batch in batches:
        if isinstance(batch, ShardEnd):
            return seconds, batch
        with turn:
            started = time.perf_counter()
            rows = encode_batch(batch, codec, writer.schema)
            took = time.perf_counter() - started
        writer.add(rows)
        seconds += took
        _count(batch, took, codec.info.sample_rate)
    raise StreamBroken(f"{writer.shard.url}: the batches ended before the shard did")


def _count(batch: Batch, seconds: float, sample_rate: int) -> None:
    metrics.record(metrics.BATCHES, 1)
    lengths = batch.num_samples_B.tolist()
    metrics.record(metrics.BATCH_SECONDS, sum(lengths) / sample_rate)
    metrics.record(metrics.PADDED_SECONDS, len(lengths) * max(lengths) / sample_rate)
    metrics.record(metrics.ENCODE_SECONDS, seconds)


def encode_batch(batch: Batch, codec: Codec, schema: pa.Schema) -> pa.RecordBatch:
    """Rows of the token schema for one batch."""
    num_samples_B = torch.from_numpy(batch.num_samples_B)
    codes_BKF = codec.encode(padded(batch), num_samples_B)
    num_frames_B = np.array([codec.info.num_frames(n) for n in num_samples_B.tolist()])
    codes_BFK = codes_BKF.transpose(1, 2).cpu().numpy()
    return with_codes(batch.rows, codes_BFK, num_frames_B, schema)


def device_kind(device: str) -> str:
    """What a device is called in the footers: tokens are the same bytes on one kind only."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"


def padded(batch: Batch) -> torch.Tensor:
    """The clips side by side as float32 audio_BT, zero behind each of them."""
    num_samples = batch.num_samples_B.tolist()
    audio_BT = torch.empty(len(num_samples), max(num_samples))
    clips = torch.split(torch.from_numpy(batch.audio_N), num_samples)
    for row_T, clip_T in zip(audio_BT, clips, strict=True):
        row_T[len(clip_T) :] = 0
        row_T[: len(clip_T)] = clip_T
        if clip_T.dtype == torch.int16:  # a row is still in the cache: half the time of x / 32768
            row_T.mul_(1 / 32768)
    return audio_BT
