"""Clips of similar length in one batch, within a budget of padded seconds."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from speechmill.pipeline.arrow_arrays import of_values
from speechmill.pipeline.audio.samples import Samples, to_float
from speechmill.pipeline.audio.segment import Clip
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.shards.tar_reader import Reject
from speechmill.pipeline.tokenize.schema import ROW_SCHEMA, distinct_strings

_MOST_TEXT = 2**27  # characters of a window: a column of strings holds 2 GiB

Item = TypeVar("Item")


@dataclass
class BatchSettings:
    """How clips are grouped; on CPUs a batch is a function of its shard alone."""

    seconds: float = 160.0  # padded seconds in one batch; a longer clip makes a batch of its own
    window_seconds: float = 1280.0  # clips are sorted by length within windows of this size

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= self.window_seconds:
            raise InputError(
                f"batch.seconds ({self.seconds}) must be above 0 and at most "
                f"batch.window_seconds ({self.window_seconds})"
            )


ALONE = BatchSettings(seconds=1e-9, window_seconds=1e-9)  # each clip is a batch of its own


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips for one call of the codec, and their rows without the codes."""

    audio_N: Samples  # int16 or float32, all clips concatenated without padding
    num_samples_B: npt.NDArray[np.int64]
    first_frame_B: npt.NDArray[np.int64]  # of each row, among the frames of its clip
    num_frames_B: npt.NDArray[np.int64]
    rows: pa.RecordBatch
    codec: int = 0  # position among the codecs of the run


@dataclass(frozen=True, slots=True)
class ShardEnd:
    """The last item of a shard's stream; a stream without it is incomplete."""

    rejects: list[Reject]
    num_bad_json: int = 0
    num_cleaned: int = 0  # names and texts with U+FFFD for what is not UTF-8
    num_passed_over: int = 0  # members that macOS added, which are not part of the corpus
    read_seconds: float = 0.0  # spent reading the tar
    decode_seconds: float = 0.0  # spent reading and decoding
    decode_cpu_seconds: float = 0.0  # the part of them spent computing
    codec: int = 0  # position among the codecs of the run


class Batcher:
    """Cuts each window of audio into batches, with its clips ordered by length, then position."""

    def __init__(self, settings: BatchSettings, sample_rate: int):
        self._budget = int(settings.seconds * sample_rate)
        self._max_samples = int(settings.window_seconds * sample_rate)
        self._window: list[Clip] = []
        self._num_samples = self._num_characters = 0

    def add(self, clip: Clip) -> Iterator[list[Clip]]:
        """Take a clip; yield the batches of the window before it if the window is full."""
        full = self._num_samples + len(clip.audio_T) > self._max_samples
        if self._window and (full or self._num_characters > _MOST_TEXT):
            yield from self.finish()
        previous = self._window[-1].metadata if self._window else None
        self._window.append(clip)
        self._num_samples += len(clip.audio_T)
        self._num_characters += len(clip.text or "")
        self._num_characters += 0 if clip.metadata is previous else len(clip.metadata or "")

    def finish(self) -> Iterator[list[Clip]]:
        """Yield the batches of the last window."""
        window, self._window = self._window, []
        self._num_samples = self._num_characters = 0
        window.sort(key=lambda clip: (len(clip.audio_T), clip.index, clip.start))
        yield from cut_batches(window, lambda clip: len(clip.audio_T), self._budget)


def cut_batches(
    items: Iterable[Item], length: Callable[[Item], int], budget: int
) -> Iterator[list[Item]]:
    """Cut items, ordered by length, into batches in which count x longest is within `budget`.

    An item longer than the budget is a batch of its own.
    """
    batch: list[Item] = []
    for item in items:
        if batch and (len(batch) + 1) * length(item) > budget:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def concatenate_clips(clips: Sequence[Clip], shard_url: str) -> Batch:
    """Join the clips of a batch, all for the same codec; int16 if all of them are, else float32."""
    exact = all(clip.audio_T.dtype == np.int16 for clip in clips)
    return Batch(
        audio_N=np.concatenate([c.audio_T if exact else to_float(c.audio_T) for c in clips]),
        num_samples_B=np.array([len(clip.audio_T) for clip in clips], dtype=np.int64),
        first_frame_B=np.array([clip.first_frame for clip in clips], dtype=np.int64),
        num_frames_B=np.array([clip.num_frames for clip in clips], dtype=np.int64),
        rows=_rows(clips, shard_url),
        codec=clips[0].codec,
    )


def _rows(clips: Sequence[Clip], shard_url: str) -> pa.RecordBatch:
    values: dict[str, list[Any]] = {
        "duration": [clip.end - clip.start for clip in clips],
        "shard": [shard_url] * len(clips),
    }
    columns = {"metadata": distinct_strings([clip.metadata for clip in clips])}
    for field in ROW_SCHEMA:
        if field.name not in columns:
            own = values.get(field.name) or [getattr(clip, field.name) for clip in clips]
            columns[field.name] = of_values(own, field.type)
    return pa.RecordBatch.from_arrays([columns[n] for n in ROW_SCHEMA.names], schema=ROW_SCHEMA)


def split(items: Iterable[Batch | ShardEnd], count: int) -> list[Iterator[Batch | ShardEnd]]:
    """One stream for each codec, up to its `ShardEnd`, for readers in different threads.

    A reader that looks for its next item keeps the items of the others for them.
    """
    stream, lock = iter(items), threading.Lock()
    waiting: list[deque[Batch | ShardEnd]] = [deque() for _ in range(count)]

    def reader(codec: int) -> Iterator[Batch | ShardEnd]:
        while True:
            with lock:
                while not waiting[codec]:
                    item = next(stream, None)
                    if item is None:
                        return
                    waiting[item.codec].append(item)
                found = waiting[codec].popleft()
            yield found
            if isinstance(found, ShardEnd):
                return

    return [reader(codec) for codec in range(count)]
