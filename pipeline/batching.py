"""Clips of like length side by side, under a budget of padded seconds."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.errors import InputError
from pipeline.tokens import Clip


@dataclass
class BatchSettings:
    """How clips are grouped; a batch is a function of its shard alone."""

    seconds: float = 160.0  # padded seconds in one batch; a longer clip makes a batch of its own
    window_seconds: float = 1280.0  # clips are sorted by length within windows of this size

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= self.window_seconds:
            raise InputError(
                f"batch.seconds ({self.seconds}) must be above 0 and at most "
                f"batch.window_seconds ({self.window_seconds})"
            )


def make_batches(
    clips: Iterable[Clip], settings: BatchSettings, sample_rate: int
) -> Iterator[list[Clip]]:
    """Sort the clips of each window by length and cut them into batches.

    Holds one window of audio in memory; clips of one batch are in order of length, then position.
    """
    for window in _windows(clips, int(settings.window_seconds * sample_rate)):
        window.sort(key=lambda clip: (len(clip.audio_T), clip.index))
        yield from _cut(window, int(settings.seconds * sample_rate))


def _windows(clips: Iterable[Clip], max_samples: int) -> Iterator[list[Clip]]:
    window: list[Clip] = []
    num_samples = 0
    for clip in clips:
        if window and num_samples + len(clip.audio_T) > max_samples:
            yield window
            window, num_samples = [], 0
        window.append(clip)
        num_samples += len(clip.audio_T)
    if window:
        yield window


def _cut(window: list[Clip], budget: int) -> Iterator[list[Clip]]:
    """Cut an ascending list so that count x longest stays within the budget of samples."""
    batch: list[Clip] = []
    for clip in window:
        if batch and (len(batch) + 1) * len(clip.audio_T) > budget:
            yield batch
            batch = []
        batch.append(clip)
    if batch:
        yield batch
