"""Clips in batches of fixed shapes, as the pipeline makes them, on any device."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from speechmill.codecs import CodecInfo
from speechmill.codecs.shapes import BatchShapes
from speechmill.pipeline.audio.segment import Clip
from speechmill.pipeline.tokenize.batching import concatenate_clips
from speechmill.pipeline.tokenize.bucket_pool import FixedBatch, PartlyEncoded, ShardClips
from speechmill.pipeline.tokenize.fixed_batches import BatchEncoder

PCM = npt.NDArray[np.int16]


def noise_clips(info: CodecInfo, shapes: BatchShapes, bucket: int, seed: int = 0) -> list[PCM]:
    """Return clips that fill a batch, of all the lengths that go into it, with syllables.

    Speed does not depend on the signal; masks and padding depend on the lengths.
    """
    width, count = shapes.widths[bucket], shapes.rows[bucket]
    narrower = shapes.widths[bucket - 1] if bucket else round(0.8 * width)
    random = np.random.default_rng(seed)
    envelope_T = np.sin(5 * np.pi * np.arange(width) / info.sample_rate).clip(0.05)
    clips = []
    for length in np.linspace(width, narrower + 1, count).astype(int):
        audio_T = 3_000 * random.standard_normal(length) * envelope_T[:length]
        clips.append(audio_T.astype(np.int16))
    return clips


def fixed_batch(clips: Sequence[npt.NDArray[Any]], info: CodecInfo, bucket: int) -> FixedBatch:
    """Return the clips as the pool of the encode thread gives them to a `BatchEncoder`."""
    parts = [
        Clip(audio_T, 0.0, 1.0, info.num_frames(len(audio_T)), index=index, key=str(index))
        for index, audio_T in enumerate(clips)
    ]
    whole = PartlyEncoded(concatenate_clips(parts, "a.tar"), ShardClips(0), info)
    return FixedBatch(0, bucket, list(whole.clips()))


def on_device(
    clips: Sequence[npt.NDArray[Any]], shape: tuple[int, int], device: str
) -> tuple[Tensor, Tensor]:
    """Return audio_RT and lengths_R on the device; rows without a clip are silence."""
    audio_RT, lengths_R = torch.zeros(shape), torch.full(shape[:1], shape[1])
    for row, clip_T in enumerate(clips):
        scale = 1 / 32768 if clip_T.dtype == np.int16 else 1.0
        audio_RT[row, : len(clip_T)] = torch.from_numpy(clip_T) * scale
        lengths_R[row] = len(clip_T)
    return audio_RT.to(device), lengths_R.to(device)


def seconds_per_batch(
    encoder: BatchEncoder, clips: Sequence[PCM], bucket: int, rounds: int = 12, warm: int = 3
) -> float:
    """Return the seconds of a batch from clips to codes, both on the host, two in flight.

    The first call chooses kernels and captures the graph.
    """
    batch = fixed_batch(clips, encoder.info, bucket)
    for _ in range(warm):
        encoder.finish(encoder.launch(batch))
    started = time.perf_counter()
    flying = encoder.launch(batch)
    for _ in range(rounds - 1):
        following = encoder.launch(batch)
        encoder.finish(flying)
        flying = following
    encoder.finish(flying)
    return (time.perf_counter() - started) / rounds
