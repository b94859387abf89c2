"""Mix decoded audio to one channel and resample it to the codec's rate."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import soxr

from speechmill.pipeline.audio.decoders import open_audio
from speechmill.pipeline.audio.ffmpeg import Gaps
from speechmill.pipeline.audio.samples import MOST_CHANNELS, Limits, Samples, Source, to_float
from speechmill.pipeline.blob import Blob
from speechmill.pipeline.errors import (
    EmptyAudio,
    InputError,
    NonFiniteAudio,
    UnsuitableAudio,
    check_choice,
)


@dataclass
class AudioSettings:
    """How audio becomes the input of a codec; part of a token dataset's identity."""

    channel_choices: ClassVar[tuple[str, ...]] = ("mean", "first", "error")

    # mean | first | error, for more than one channel; or the number of one, counted from 0.
    channels: Any = "mean"
    resampler: str = "soxr_hq"  # soxr_hq | soxr_vhq | torchaudio
    gaps: str = "reject"  # reject | silence | join: time that no frame of a WebM or MP4 fills
    member: str | None = None  # suffix of the audio member if a sample has several

    def __post_init__(self) -> None:
        if type(self.channels) is int:
            known = self.channels in range(MOST_CHANNELS)
        else:
            known = isinstance(self.channels, str) and self.channels in self.channel_choices
        if not known:
            choices = ", ".join(self.channel_choices)
            raise InputError(
                f"audio.channels is {self.channels!r}; use {choices} or the number of a channel, "
                "counted from 0"
            )
        check_choice("audio.gaps", self.gaps, Gaps)
        check_choice("audio.resampler", self.resampler, _RESAMPLERS)


@dataclass(frozen=True, slots=True)
class Decoded:
    """One clip at the codec's rate, and facts about its file."""

    audio_T: Samples  # int16 if that is exact, else float32 in about [-1, 1]
    sample_rate: int  # Hz, of the source
    num_channels: int  # of the source
    duration: float  # s


def decode_audio(data: Blob, target_rate: int, settings: AudioSettings, limits: Limits) -> Decoded:
    """Decode a whole file to one channel at `target_rate` Hz.

    16-bit PCM that needs neither mixing nor resampling stays int16: `x / 32768` in float32 is
    exact. Raises a `SampleError` for audio that is damaged or refused by the settings.
    """
    source = open_audio(data, limits, Gaps(settings.gaps))
    counter = SampleCounter(source)
    mono = one_channel(counter.count(source.blocks), settings)
    blocks = list(resampled(mono, source.sample_rate, target_rate, settings))
    audio_T = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    return Decoded(audio_T, source.sample_rate, source.num_channels, counter.seconds)


class SampleCounter:
    """Counts the samples of a source while they are read."""

    def __init__(self, source: Source):
        self.rate = source.sample_rate
        self.num_samples = 0

    @property
    def seconds(self) -> float:
        return self.num_samples / self.rate

    def count(self, blocks: Iterator[Samples]) -> Iterator[Samples]:
        for block_TC in blocks:
            self.num_samples += len(block_TC)
            yield block_TC


def one_channel(blocks: Iterator[Samples], settings: AudioSettings) -> Iterator[Samples]:
    """Mix the channels of every block.

    Raises `NonFiniteAudio`, `UnsuitableAudio`, and `EmptyAudio` without a block.
    """
    empty = True
    for block_TC in blocks:
        empty = False
        if block_TC.dtype != np.int16 and not np.isfinite(block_TC).all():
            bad = np.count_nonzero(~np.isfinite(block_TC))
            raise NonFiniteAudio(f"{bad} samples are NaN or inf")
        if isinstance(settings.channels, int):
            yield _numbered(block_TC, settings.channels)
        else:
            mono = block_TC.shape[1] == 1
            yield block_TC[:, 0] if mono else _CHANNELS[settings.channels](block_TC)
    if empty:
        raise EmptyAudio("0 samples")


def resampled(
    blocks: Iterator[Samples], rate: int, target_rate: int, settings: AudioSettings
) -> Iterator[Samples]:
    """Resample to `target_rate` Hz; block sizes may change."""
    if rate == target_rate:
        return blocks
    return _RESAMPLERS[settings.resampler](map(to_float, blocks), rate, target_rate)


def _mean(audio_TC: Samples) -> Samples:
    if audio_TC.shape[1] == 2 and audio_TC.dtype == np.float32:  # the same samples, in less time
        return np.asarray((audio_TC[:, 0] + audio_TC[:, 1]) * np.float32(0.5))
    return np.asarray(audio_TC.mean(axis=1, dtype=np.float32))


def _first(audio_TC: Samples) -> Samples:
    return np.ascontiguousarray(audio_TC[:, 0])


def _numbered(audio_TC: Samples, number: int) -> Samples:
    if number >= audio_TC.shape[1]:
        raise UnsuitableAudio(
            f"{audio_TC.shape[1]} channels; audio.channels is {number}, counted from 0"
        )
    return np.ascontiguousarray(audio_TC[:, number])


def _refuse(audio_TC: Samples) -> Samples:
    raise UnsuitableAudio(f"{audio_TC.shape[1]} channels; audio.channels is error")


def _soxr(
    quality: str, blocks: Iterator[Samples], rate: int, target_rate: int
) -> Iterator[Samples]:
    first_T = next(blocks)
    second_T = next(blocks, None)
    if second_T is None:  # the same samples as from a stream, in 0.7 of the time
        yield np.asarray(soxr.resample(first_T, rate, target_rate, quality))
        return
    stream = soxr.ResampleStream(rate, target_rate, 1, dtype="float32", quality=quality)
    for block_T in chain([first_T, second_T], blocks):
        yield np.asarray(stream.resample_chunk(block_T))
    yield np.asarray(stream.resample_chunk(first_T[:0], last=True))


def _torchaudio(blocks: Iterator[Samples], rate: int, target_rate: int) -> Iterator[Samples]:
    """Resample each block together with as much of its neighbours as the filter spans."""
    import torch
    from torchaudio.functional import resample

    step = rate // np.gcd(rate, target_rate)  # input samples after which the filter repeats
    margin = step * -(-64 * max(rate, target_rate) // (target_rate * step))
    held_T, start = next(blocks), 0  # samples from `start` on are still to be resampled
    for block_T in chain(blocks, [None]):
        stop = len(held_T) if block_T is None else (len(held_T) - margin) // step * step
        if stop > start or block_T is None:
            out_T = np.asarray(resample(torch.from_numpy(held_T), rate, target_rate))
            end = len(out_T) if block_T is None else stop * target_rate // rate
            yield out_T[start * target_rate // rate : end]
            kept = max(0, stop - margin)
            held_T, start = held_T[kept:], stop - kept
        if block_T is not None:
            held_T = np.concatenate([held_T, block_T])


_CHANNELS: dict[str, Callable[[Samples], Samples]] = {
    "mean": _mean,
    "first": _first,
    "error": _refuse,
}
_RESAMPLERS: dict[str, Callable[[Iterator[Samples], int, int], Iterator[Samples]]] = {
    "soxr_hq": partial(_soxr, "HQ"),
    "soxr_vhq": partial(_soxr, "VHQ"),
    "torchaudio": _torchaudio,
}
