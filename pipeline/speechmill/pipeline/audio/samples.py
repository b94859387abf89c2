"""Decoded audio, and the most of it that a recording may give."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from speechmill.pipeline.errors import InputError, OversizedAudio, UnsuitableAudio

Samples = npt.NDArray[Any]  # int16 or float32

BLOCK = 2**20  # samples of each channel
MOST_CHANNELS = 255  # of a row
SAMPLE_RATES = range(2_000, 384_001)  # Hz; another rate counts as damage


@dataclass
class Limits:
    """The most that a sample may cost; beyond these limits it is rejected."""

    member_mb: float = 2048.0  # MB of one tar member, and of all members of a sample
    metadata_mb: float = 16.0  # MB of a sample's .json, and of its .txt
    seconds: float = 3600.0  # of audio
    decoded_mb: float = 8192.0  # MB of decoded audio: 4 bytes a sample, of all channels
    decode_seconds: float = 300.0  # s of decoding
    memory_mb: float = 4096.0  # MB of decoding, on top of the memory of the process
    expansion: float = 4.0  # times the recording: the sum of the spans that its metadata lists

    @property
    def member_bytes(self) -> int:
        return int(self.member_mb * 1e6)

    @property
    def metadata_bytes(self) -> int:
        return int(self.metadata_mb * 1e6)

    def __post_init__(self) -> None:
        if not self.expansion >= 1:
            raise InputError(f"limits.expansion is {self.expansion}; give at least 1")


@dataclass(frozen=True, slots=True)
class Source:
    """One recording, as its file stores it."""

    sample_rate: int  # Hz
    num_channels: int
    blocks: Iterator[Samples]  # (T, C), int16 where the file is 16-bit PCM of one channel


def to_float(audio: Samples) -> Samples:
    """Samples as float32 in [-1, 1), exactly."""
    return audio / np.float32(32768) if audio.dtype == np.int16 else audio


def step_power(audio_T: Samples, step: int) -> npt.NDArray[np.float64]:
    """power_S: the mean power of each `step` samples, where zeros complete the last step."""
    padded_T = np.pad(to_float(audio_T), (0, -len(audio_T) % step))
    return np.asarray(np.square(padded_T.reshape(-1, step), dtype=np.float64).mean(axis=1))


def check_size(num_samples: int, rate: int, channels: int, limits: Limits, claim: str) -> None:
    """Raise for more audio than the limits allow; `claim` begins the message with its source."""
    if rate not in SAMPLE_RATES:
        raise UnsuitableAudio(f"sample rate {rate} Hz")
    if channels > MOST_CHANNELS:
        raise UnsuitableAudio(f"{channels} channels; a row has at most {MOST_CHANNELS}")
    if num_samples / rate > limits.seconds:
        raise OversizedAudio(
            f"{claim} {num_samples} samples, {num_samples / rate:.0f} s; "
            f"limits.seconds is {limits.seconds:g}"
        )
    if (size := num_samples * channels * 4 / 1e6) > limits.decoded_mb:
        raise OversizedAudio(
            f"{claim} {size:.0f} MB of samples; limits.decoded_mb is {limits.decoded_mb:g}"
        )
