"""The codec's half of tokenizing a shard: batches of audio in, one committed part out."""

import time
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

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
    turn: AbstractContextManager[Any] | None = None,
) -> ShardReport:
    """Encode the batches of one shard and commit its part.

    `turn` is held while the codec computes, so that shards in flight share one device. Raises
    `StreamBroken` where the batches end without a `ShardEnd`; nothing is written then.
    """
    seconds = 0.0
    turn = turn or nullcontext()
    with writer:
        for batch in batches:
            if isinstance(batch, ShardEnd):
                writer.close(batch.rejects, batch.num_bad_json)
                break
            with turn:
                started = time.perf_counter()
                rows = encode_batch(batch, codec, writer.schema)
                seconds += time.perf_counter() - started
            writer.add(rows)
        else:
            raise StreamBroken(f"{writer.shard.url}: the batches ended before the shard did")
    assert writer.report
    return replace(writer.report, encode_seconds=seconds)


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
