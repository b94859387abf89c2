"""Decode a recording with two decoders and compare what they give."""

from dataclasses import dataclass

import numpy as np

from speechmill.pipeline.audio.buffer import SampleBuffer
from speechmill.pipeline.audio.decoders import open_audio, open_with_ffmpeg
from speechmill.pipeline.audio.ffmpeg import Gaps
from speechmill.pipeline.audio.resample import AudioSettings, one_channel, resampled
from speechmill.pipeline.audio.samples import BLOCK, Limits, Source, to_float
from speechmill.pipeline.blob import Blob

_OGG_SECONDS = 0.02  # by which FFmpeg's Vorbis may be longer: it decodes whole blocks
_LEAST_SNR = 60.0  # dB
_LEAST_SNR_RESAMPLED = 6.0  # dB; libsndfile decodes Opus at the encoder's rate, FFmpeg at 48 kHz


@dataclass(frozen=True, slots=True)
class Comparison:
    """How long a recording is, and whether a second decoder agrees."""

    seconds: float
    has_other: bool  # whether a second decoder knows the format
    fault: str | None = None  # how the second one differs


def compare_decoders(data: Blob, settings: AudioSettings, limits: Limits) -> Comparison:
    """Compare the decoder of a file with FFmpeg, unless FFmpeg is that decoder.

    Raises a `SampleError` if one of them rejects it.
    """
    source = open_audio(data, limits, Gaps(settings.gaps))
    other = open_with_ffmpeg(data, limits)
    if other is None:
        num_samples = sum(len(block_TC) for block_TC in source.blocks)
        return Comparison(num_samples / source.sample_rate, has_other=False)
    rates = (source.sample_rate, other.sample_rate)
    num_samples, num_others, snr = _compare(_mono(source, rates[0]), _mono(other, rates[0]))
    seconds, other_seconds = num_samples / rates[0], num_others / rates[0]
    tolerance = 1 / rates[0] + (_OGG_SECONDS if data[:4] == b"OggS" else 0.0)
    least = _LEAST_SNR if rates[0] == rates[1] else _LEAST_SNR_RESAMPLED
    fault = None
    if abs(seconds - other_seconds) > tolerance:
        fault = f"{seconds:.4f} s, FFmpeg gives {other_seconds:.4f} s"
    elif snr < least:
        fault = f"the ratio of the signal to the difference from FFmpeg is {snr:.1f} dB"
    return Comparison(seconds, True, fault)


def _mono(source: Source, rate: int) -> SampleBuffer:
    settings = AudioSettings(channels="mean")
    mono = one_channel(source.blocks, settings)
    return SampleBuffer(resampled(mono, source.sample_rate, rate, settings))


def _compare(one: SampleBuffer, other: SampleBuffer) -> tuple[int, int, float]:
    """Both lengths in samples, and the ratio of signal and difference in dB."""
    signal, difference, position = 0.0, 0.0, 0
    while not (one.finished and other.finished):
        for buffer in (one, other):
            buffer.read_to(position + BLOCK)
        end = min(one.end, other.end, position + BLOCK)
        if end > position:
            one_T, other_T = (to_float(b.read(position, end)).astype(float) for b in (one, other))
            signal += float(np.square(one_T).sum())
            difference += float(np.square(one_T - other_T).sum())
        position += BLOCK
        for buffer in (one, other):
            buffer.discard_before(min(position, buffer.end))
    ratio = (signal + 1e-12) / (difference + 1e-12)
    return one.end, other.end, 10 * float(np.log10(ratio))
