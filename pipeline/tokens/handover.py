"""Batches on their way to the codec's device: the next one is made ready while one computes."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from pipeline.tokens.rows import Batch, ShardEnd


@dataclass(frozen=True, slots=True)
class Ready:
    """A batch with its audio where the codec computes."""

    batch: Batch
    audio_BT: torch.Tensor  # float32, zero behind each clip
    copied: torch.cuda.Event | None = None  # the copy to a GPU goes on beside other work

    def audio(self) -> torch.Tensor:
        """The audio for what the current stream does next."""
        if self.copied:
            stream = torch.cuda.current_stream(self.audio_BT.device)
            stream.wait_event(self.copied)
            self.audio_BT.record_stream(stream)
        return self.audio_BT


class Handover:
    """Brings batches to one device."""

    def __init__(self, device: str = "cpu"):
        self.device = torch.device(device)
        on_gpu = self.device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]

    def ready(self, batches: Iterable[Batch | ShardEnd]) -> Iterator[Ready | ShardEnd]:
        """The batches in order; for a GPU in a thread, one batch ahead of who takes them."""
        prepared = (each if isinstance(each, ShardEnd) else self._ready(each) for each in batches)
        return one_ahead(prepared) if self.stream else prepared

    def _ready(self, batch: Batch) -> Ready:
        num_samples = batch.num_samples_B.tolist()
        audio_N = torch.from_numpy(batch.audio_N)
        if self.stream is None:
            return Ready(batch, padded(audio_N, num_samples))
        try:
            with torch.cuda.stream(self.stream):
                # 16-bit samples travel as they are, from memory that the GPU reads by itself.
                there_N = audio_N.pin_memory().to(self.device, non_blocking=True)
                audio_BT = padded(there_N, num_samples)
                return Ready(batch, audio_BT, self.stream.record_event())
        except torch.OutOfMemoryError:
            return Ready(batch, padded(audio_N, num_samples))


def padded(audio_N: torch.Tensor, num_samples: list[int]) -> torch.Tensor:
    """Clips that lie one behind the other, side by side as float32 audio_BT, zero behind each."""
    audio_BT = torch.empty(len(num_samples), max(num_samples), device=audio_N.device)
    clips = torch.split(audio_N, num_samples)
    for row_T, clip_T in zip(audio_BT, clips, strict=True):
        row_T[len(clip_T) :] = 0
        row_T[: len(clip_T)] = clip_T
        if clip_T.dtype == torch.int16:  # a row is still in the cache: half the time of x / 32768
            row_T.mul_(1 / 32768)
    return audio_BT


def one_ahead(items: Iterator[Ready | ShardEnd]) -> Iterator[Ready | ShardEnd]:
    """The items, each of which is made in a thread while the one before is in use."""
    with ThreadPoolExecutor(1, "handover") as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item
