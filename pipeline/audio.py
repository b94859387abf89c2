"""Encoded audio to one channel of samples at the codec's rate."""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from pipeline.errors import (
    EmptyAudio,
    InputError,
    NonFiniteAudio,
    OversizedAudio,
    TruncatedAudio,
    UndecodableAudio,
    UnsuitableAudio,
)
from pipeline.ffmpeg import read_with_ffmpeg
from pipeline.flac import flac_header, read_flac

Samples = npt.NDArray[Any]  # int16 or float32

SAMPLE_RATES = range(2_000, 384_001)  # Hz; a header outside is taken for damage
_UNKNOWN_LENGTH = 2**63 - 1  # frames, as libsndfile says of a FLAC that was written to a pipe
_MP3_TAG = 2**16  # bytes among which the Xing or Info tag stands, behind an ID3 tag


@dataclass
class AudioSettings:
    """How audio becomes what a codec takes; part of a token dataset's identity."""

    channels: str = "mean"  # mean | first | error: what to do with more than one channel
    resampler: str = "soxr_hq"  # soxr_hq | soxr_vhq | torchaudio
    member: str | None = None  # suffix of the audio member where a sample has several

    def __post_init__(self) -> None:
        if self.channels not in _CHANNELS:
            raise InputError(f"audio.channels is {self.channels!r}; use mean, first or error")
        if self.resampler not in _RESAMPLERS:
            known = ", ".join(_RESAMPLERS)
            raise InputError(f"audio.resampler is {self.resampler!r}; use one of {known}")


@dataclass
class Limits:
    """What a sample may cost at most; beyond it is rejected, not read."""

    member_mb: float = 2048.0  # MB of one tar member
    seconds: float = 3600.0  # of audio


@dataclass(frozen=True, slots=True)
class Decoded:
    """One clip at the codec's rate, and what it was in its file."""

    audio_T: Samples  # int16 where that is exact, else float32 in about [-1, 1]
    sample_rate: int  # Hz, of the source
    num_channels: int  # of the source
    duration: float  # s


def decode_audio(data: bytes, target_rate: int, settings: AudioSettings, limits: Limits) -> Decoded:
    """Decode WAV, FLAC, MP3, Ogg Vorbis or Opus to one channel at `target_rate` Hz.

    16-bit PCM that needs neither mixing nor resampling stays int16: `x / 32768` in float32 is then
    the same to the last bit. Raises a `SampleError` for audio that is damaged or not wanted.
    """
    source_TC, rate = _read(data, limits)
    num_samples, num_channels = source_TC.shape
    if not num_samples:
        raise EmptyAudio("0 samples")
    if source_TC.dtype != np.int16 and not np.isfinite(source_TC).all():
        raise NonFiniteAudio(f"{np.count_nonzero(~np.isfinite(source_TC))} samples are NaN or inf")
    audio_T = source_TC[:, 0] if num_channels == 1 else _CHANNELS[settings.channels](source_TC)
    if rate != target_rate:
        audio_T = _RESAMPLERS[settings.resampler](to_float(audio_T), rate, target_rate)
    return Decoded(audio_T, rate, num_channels, num_samples / rate)


def _read(data: bytes, limits: Limits) -> tuple[Samples, int]:
    if header := flac_header(data):
        _check_size(header.num_samples, header.sample_rate, limits)
        samples_TC = read_flac(data, header)
        one_channel = header.num_channels == 1
        return samples_TC if one_channel else to_float(samples_TC), header.sample_rate
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if not _states_length(file, data):
                return read_with_ffmpeg(data, limits.seconds)
            _check_size(file.frames, file.samplerate, limits)
            # libsndfile gives zeros for float WAV read as int16.
            dtype = "int16" if file.subtype == "PCM_16" and file.channels == 1 else "float32"
            samples_TC = np.asarray(file.read(dtype=dtype, always_2d=True))
            claimed, rate = file.frames, file.samplerate
    except soundfile.LibsndfileError as error:
        raise UndecodableAudio(_reason(error)) from error
    if len(samples_TC) != claimed:
        raise TruncatedAudio(
            f"the header claims {claimed} samples, the body holds {len(samples_TC)}"
        )
    if missing := _missing_bytes(data):
        raise TruncatedAudio(
            f"the container claims {missing} bytes more than there are; if it was written to a "
            "pipe, write it to a file instead"
        )
    return samples_TC, rate


def _states_length(file: soundfile.SoundFile, data: bytes) -> bool:
    """Whether the file says how long it is; libsndfile guesses for an MP3 and stops there."""
    if file.format == "MP3":
        return b"Xing" in data[:_MP3_TAG] or b"Info" in data[:_MP3_TAG]
    return bool(file.frames != _UNKNOWN_LENGTH)


def _check_size(num_samples: int, rate: int, limits: Limits) -> None:
    if rate not in SAMPLE_RATES:
        raise UnsuitableAudio(f"sample rate {rate} Hz")
    if num_samples / rate > limits.seconds:
        raise OversizedAudio(
            f"the header claims {num_samples} samples, {num_samples / rate:.0f} s; "
            f"limits.seconds is {limits.seconds:g}"
        )


def _missing_bytes(data: bytes) -> int:
    """Bytes by which a WAV's data chunk or the last page of an Ogg outruns the file.

    libsndfile takes the shorter length for the whole in silence.
    """
    if data[:4] == b"RIFF":
        return max(0, _end_of_wav_data(data) - len(data))
    if data[:4] == b"OggS":
        page = data.rfind(b"OggS")
        segments = data[page + 27 : page + 27 + data[min(page + 26, len(data) - 1)]]
        return max(0, page + 27 + len(segments) + sum(segments) - len(data))
    return 0


def _end_of_wav_data(data: bytes) -> int:
    position = 12
    while position + 8 <= len(data):
        kind: bytes
        size: int
        kind, size = struct.unpack_from("<4sI", data, position)
        position += 8 + size
        if kind == b"data":
            return position
        position += size % 2
    return 0


def _reason(error: soundfile.LibsndfileError) -> str:
    """libsndfile's message without the address of the buffer, so that it is the same every time."""
    return str(error.error_string).strip()


def to_float(audio_T: Samples) -> Samples:
    """Samples as float32 in [-1, 1), exactly."""
    return audio_T / np.float32(32768) if audio_T.dtype == np.int16 else audio_T


def _mean(audio_TC: Samples) -> Samples:
    return np.asarray(audio_TC.mean(axis=1, dtype=np.float32))


def _first(audio_TC: Samples) -> Samples:
    return np.ascontiguousarray(audio_TC[:, 0])


def _refuse(audio_TC: Samples) -> Samples:
    raise UnsuitableAudio(f"{audio_TC.shape[1]} channels; audio.channels is error")


def _torchaudio(audio_T: Samples, rate: int, target_rate: int) -> Samples:
    import torch
    from torchaudio.functional import resample

    return np.asarray(resample(torch.from_numpy(audio_T), rate, target_rate))


def _soxr(quality: str) -> Callable[[Samples, int, int], Samples]:
    return lambda audio_T, rate, target: np.asarray(soxr.resample(audio_T, rate, target, quality))


_CHANNELS: dict[str, Callable[[Samples], Samples]] = {
    "mean": _mean,
    "first": _first,
    "error": _refuse,
}
_RESAMPLERS: dict[str, Callable[[Samples, int, int], Samples]] = {
    "soxr_hq": _soxr("HQ"),
    "soxr_vhq": _soxr("VHQ"),
    "torchaudio": _torchaudio,
}
