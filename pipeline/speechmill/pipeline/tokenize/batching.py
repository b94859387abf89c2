"""Clips of like length side by side, under a budget of padded seconds."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.tokenize.schema import Clip


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
    """Sort the clips of each window by length and cut them into batches."""
    batcher = Batcher(settings, sample_rate)
    for clip in clips:
        yield from batcher.add(clip)
    yield from batcher.finish()


class Batcher:
    """Holds one window of audio; clips of a batch are in order of length, then position."""

    def __init__(self, settings: BatchSettings, sample_rate: int):
        self._budget = int(settings.seconds * sample_rate)
        self._max_samples = int(settings.window_seconds * sample_rate)
        self._window: list[Clip] = []
        self._num_samples = 0

    def add(self, clip: Clip) -> Iterator[list[Clip]]:
        """Take a clip; gives the batches of the window that it did not fit in any more."""
        if self._window and self._num_samples + len(clip.audio_T) > self._max_samples:
            yield from self.finish()
        self._window.append(clip)
        self._num_samples += len(clip.audio_T)

    def finish(self) -> Iterator[list[Clip]]:
        """Give the batches of the last window."""
        window, self._window, self._num_samples = self._window, [], 0
        window.sort(key=lambda clip: (len(clip.audio_T), clip.index, clip.start))
        yield from _cut(window, self._budget)


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
