"""Where someone speaks, by Silero's voice activity detector.

The network is in the PyPI package `silero-vad` (snakers4/silero-vad, MIT). Only its file is read:
the package itself imports torch, which decoding does not need. Of the files in it, this one gives
the probabilities of `silero_vad.onnx`, bit for bit, in a third of the time, because it takes many
windows at once. The speech that is found is that of its `get_speech_timestamps`, to the sample.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from speechmill.pipeline.audio.buffer import SampleBuffer
from speechmill.pipeline.audio.samples import Samples
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.imports import load_extra

RATE = 16_000  # Hz, of what the network hears
FILE = "silero_vad_16k_sequence.onnx"
SHA256 = "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85"
VERSION = "6.2.3"  # of the package that holds it
WINDOW = 512  # samples of one probability
_CONTEXT = 64  # samples before a window that the network hears too
_WINDOWS_AT_ONCE = 100
_STATE = (1, 1, 128)
_HYSTERESIS, _LOWEST = 0.15, 0.01  # speech ends that much below the threshold
_PAUSE = 98 * RATE // 1000  # samples; only a longer pause may split speech that is too long

Stretch = tuple[int, int]  # first sample, and the one after the last, at 16 kHz


@dataclass(frozen=True, slots=True)
class SpeechSettings:
    """What one stretch of speech is, in seconds."""

    threshold: float  # probability from which a window is speech
    min_speech: float  # shorter speech is left out
    min_silence: float  # ends a stretch
    pad: float  # is added on both sides
    longest: float  # longer speech is split, in its longest pause


@dataclass(frozen=True, slots=True)
class Heard:
    """What some seconds more of a recording tell."""

    speech: list[Stretch]
    needed: int  # the first sample of which later speech may still be a part


def find_speech(blocks: Iterator[Samples], settings: SpeechSettings) -> Iterator[Heard]:
    """Yield the speech in float32 audio at 16 kHz, in order, some seconds at a time.

    The sizes of the blocks do not matter. Raises `InputError` as `load_network` does.
    """
    stretches, padding = _Stretches(settings), _Padding(settings.pad * RATE)
    buffer = SampleBuffer(blocks)
    for probabilities in _probabilities(buffer):
        found = [stretch for each in probabilities for stretch in stretches.add(each)]
        yield padding.add(found, stretches.free)
    yield padding.end(stretches.end(buffer.end), buffer.end)


@cache
def load_network() -> Any:
    """The session of the network, on one thread: sums keep their order.

    Raises `InputError` if the package or onnxruntime is missing, or if it holds another network.
    """
    onnxruntime = load_extra("onnxruntime", "vad")
    spec = find_spec("silero_vad")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("silero_vad is not installed; pip install 'speechmill[vad]'")
    path = Path(spec.submodule_search_locations[0]) / "data" / FILE
    data = path.read_bytes() if path.exists() else b""
    if (found := hashlib.sha256(data).hexdigest()) != SHA256:
        what = f"has the sha256 {found}, not {SHA256}" if data else "does not exist"
        raise InputError(f"{path} {what}; pip install 'silero-vad=={VERSION}'")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _probabilities(buffer: SampleBuffer) -> Iterator[list[float]]:
    """The probability of speech in each window; the last window is filled with zeros."""
    network = load_network()
    hidden = cell = np.zeros(_STATE, np.float32)
    before_T = np.zeros(_CONTEXT, np.float32)
    step = _WINDOWS_AT_ONCE * WINDOW
    start = 0
    while True:
        buffer.read_to(start + step)
        audio_T = buffer.read(start, min(start + step, buffer.end)) if buffer.end > start else None
        if audio_T is None:
            return
        buffer.discard_before(start + step)
        start += step
        count = -(-len(audio_T) // WINDOW)
        heard_T = np.zeros(_CONTEXT + count * WINDOW, np.float32)
        heard_T[:_CONTEXT] = before_T
        heard_T[_CONTEXT : _CONTEXT + len(audio_T)] = audio_T
        windows_NT = np.lib.stride_tricks.sliding_window_view(heard_T, _CONTEXT + WINDOW)[::WINDOW]
        inputs = {"input": np.ascontiguousarray(windows_NT), "h": hidden, "c": cell}
        found, hidden, cell = network.run(["speech_probs", "hn", "cn"], inputs)
        before_T = heard_T[-_CONTEXT:]
        yield found.reshape(-1).tolist()


class _Stretches:
    """Joins windows of speech to stretches, as `get_speech_timestamps` does; without padding."""

    def __init__(self, settings: SpeechSettings):
        self._threshold = settings.threshold
        self._quiet_below = max(settings.threshold - _HYSTERESIS, _LOWEST)
        self._min_speech = settings.min_speech * RATE
        self._min_silence = settings.min_silence * RATE
        self._longest = settings.longest * RATE - WINDOW - 2 * settings.pad * RATE
        self._position = 0  # of the next window
        self._begin: int | None = None  # of the stretch
        self._quiet: int | None = None  # where it may have ended
        self._pauses: list[Stretch] = []  # in it

    @property
    def free(self) -> int:
        """Where the next stretch that is found begins, or a sample before."""
        return self._position if self._begin is None else self._begin

    def add(self, probability: float) -> Iterator[Stretch]:
        """Take the next window; yield the stretch that it ends."""
        position = self._position
        self._position += WINDOW
        if probability >= self._threshold:
            if self._quiet is not None and position - self._quiet > _PAUSE:
                self._pauses.append((self._quiet, position))
            self._quiet = None
            if self._begin is None:
                self._begin = position
                return
        if self._begin is not None and position - self._begin > self._longest:
            yield self._split(position)
        if self._begin is not None and probability < self._quiet_below:
            self._quiet = position if self._quiet is None else self._quiet
            if position - self._quiet >= self._min_silence:
                yield from self._ended(self._quiet)

    def end(self, length: int) -> Iterator[Stretch]:
        """Yield the stretch that the recording ends."""
        if self._begin is not None:
            yield from self._ended(length)

    def _split(self, position: int) -> Stretch:
        """End the stretch in its longest pause; without a pause, here."""
        assert self._begin is not None
        begin, self._begin, stop = self._begin, None, position
        if self._pauses:
            stop, self._begin = max(self._pauses, key=lambda pause: pause[1] - pause[0])
        self._quiet, self._pauses = None, []
        return begin, stop

    def _ended(self, stop: int) -> Iterator[Stretch]:
        assert self._begin is not None
        if stop - self._begin > self._min_speech:
            yield self._begin, stop
        self._begin, self._quiet, self._pauses = None, None, []


class _Padding:
    """Adds samples around each stretch; two stretches share what is between them."""

    def __init__(self, pad: float):
        self._pad = pad  # samples
        self._last: Stretch | None = None  # with its padding before it only

    def add(self, found: list[Stretch], free: int) -> Heard:
        """Take stretches; later ones begin at `free` or after."""
        speech = [each for start, stop in found for each in self._next(start, stop)]
        if self._last and free - self._last[1] >= 2 * self._pad:
            start, stop = self._last
            speech.append((start, int(stop + self._pad)))
            self._last = None
        needed = free - self._pad if self._last is None else self._last[0]
        return Heard(speech, max(0, int(needed)))

    def end(self, found: Iterator[Stretch], length: int) -> Heard:
        speech = [each for start, stop in found for each in self._next(start, stop)]
        if self._last:
            start, stop = self._last
            speech.append((start, int(min(length, stop + self._pad))))
        return Heard(speech, length)

    def _next(self, start: int, stop: int) -> Iterator[Stretch]:
        before = self._pad
        if self._last:
            first, last = self._last
            gap = start - last
            shared = gap < 2 * self._pad
            before = gap // 2 if shared else self._pad
            yield first, last + gap // 2 if shared else int(last + self._pad)
        self._last = int(max(0, start - before)), stop
