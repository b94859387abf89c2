"""Samples to batches of crops, decoded in threads ahead of the training step."""

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from speechmill.jobs.training.augment import Augment, Crop
from speechmill.jobs.training.config import DataSettings
from speechmill.jobs.training.random_access import RandomAccessAudio
from speechmill.jobs.training.stream import SampleStream, StreamState
from speechmill.pipeline.audio.resample import AudioSettings
from speechmill.pipeline.audio.samples import Limits, Samples
from speechmill.pipeline.errors import InputError, SampleError
from speechmill.pipeline.shards.tar_reader import Sample
from speechmill.pipeline.text import shown
from speechmill.pipeline.tokenize.describe import audio_suffix

ENHANCED = "enhanced.flac"  # the member that `speechmill enhance` adds to a sample

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CropBatch:
    """Crops of one length, and the state of the stream after them."""

    audio_BT: Tensor  # float32
    enhanced_BT: Tensor | None
    keys: list[str]
    state: StreamState

    @classmethod
    def of(cls, crops: list[Crop], state: StreamState, pin_memory: bool) -> "CropBatch":
        enhanced = [crop.enhanced_T for crop in crops if crop.enhanced_T is not None]
        return cls(
            audio_BT=_stack([crop.audio_T for crop in crops], pin_memory),
            enhanced_BT=_stack(enhanced, pin_memory) if enhanced else None,
            keys=[crop.key for crop in crops],
            state=state,
        )


def _stack(crops: list[Samples], pin_memory: bool) -> Tensor:
    crops_BT = torch.from_numpy(np.stack(crops))
    return crops_BT.pin_memory() if pin_memory else crops_BT


@dataclass(frozen=True)
class Cropper:
    """Turns a sample into one crop at the codec's rate."""

    sample_rate: int
    num_samples: int
    enhanced: bool  # whether each sample must hold its enhanced version
    augment: Augment
    audio: AudioSettings = field(default_factory=AudioSettings)
    limits: Limits = field(default_factory=Limits)

    def crop(self, sample: Sample, seed: tuple[int, ...]) -> Crop | None:
        """Return None for a sample whose audio is damaged."""
        random = np.random.default_rng((*seed, 1))
        try:
            audio = self._open(sample, audio_suffix(sample, self.audio.member))
            pair = self._open_pair(sample, audio.num_samples) if self.enhanced else None
            start = int(random.integers(max(1, audio.num_samples - self.num_samples + 1)))
            audio_T = audio.cut(start, self.num_samples)
            pair_T = None if pair is None else pair.cut(start, self.num_samples)
        except SampleError as error:
            logger.warning("left out %s: %s", shown(sample.key), shown(error))
            return None
        return self.augment(Crop(audio_T, pair_T, sample.key), random)

    def _open(self, sample: Sample, suffix: str) -> RandomAccessAudio:
        data = sample.members[suffix]
        return RandomAccessAudio(data, self.sample_rate, self.audio, self.limits)

    def _open_pair(self, sample: Sample, num_samples: int) -> RandomAccessAudio:
        if ENHANCED not in sample.members:
            raise InputError(
                f"enhancement is offline, but sample {sample.key!r} has no .{ENHANCED}; run "
                "`speechmill enhance` on these shards, or set enhancement to online, clean or none"
            )
        pair = self._open(sample, ENHANCED)
        if abs(pair.num_samples - num_samples) > 1:  # resampling may round the last sample away
            raise InputError(
                f"sample {sample.key!r} has {num_samples} samples at {self.sample_rate} Hz, its "
                f".{ENHANCED} {pair.num_samples}; they must be one recording in time"
            )
        return pair


def batches(
    stream: SampleStream,
    cropper: Cropper,
    settings: DataSettings,
    start: StreamState,
    pin_memory: bool = False,
) -> Iterator[CropBatch]:
    """Yield batches without end, decoded in threads ahead of the consumer."""
    with ThreadPoolExecutor(settings.threads, thread_name_prefix="decode") as pool:
        pending: deque[tuple[Future[Crop | None], StreamState]] = deque()
        crops: list[Crop] = []
        usable = False
        for draw in stream.samples(start):
            pending.append((pool.submit(cropper.crop, draw.sample, draw.seed), draw.state))
            if len(pending) <= 2 * settings.threads:
                continue
            future, state = pending.popleft()
            if state.epoch > start.epoch + 1 and not usable:
                raise InputError("a whole epoch had no audio that can be decoded; see the warnings")
            if crop := future.result():
                usable = True
                crops.append(crop)
            if len(crops) == settings.batch_size:
                yield CropBatch.of(crops, state, pin_memory)
                crops = []


class BatchPrefetcher:
    """Runs an iterator of batches in a thread, a few items ahead; use it as a context."""

    def __init__(self, make: Callable[[], Iterator[CropBatch]], ahead: int):
        self._queue: queue.Queue[CropBatch | BaseException] = queue.Queue(max(1, ahead))
        self._stopped = threading.Event()
        self._make = make
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)

    def __enter__(self) -> "BatchPrefetcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)  # makes room, so that a waiting `put` can end
            except queue.Empty:
                self._thread.join(timeout=0.05)

    def __next__(self) -> CropBatch:
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def _run(self) -> None:
        try:
            for batch in self._make():
                self._queue.put(batch)
                if self._stopped.is_set():
                    return
        except BaseException as error:  # the consumer raises it
            self._queue.put(error)
