"""Decode a recording with two decoders and compare what they give."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from soundfile import LibsndfileError, SoundFile

from speechmill.pipeline.audio.buffer import SampleBuffer
from speechmill.pipeline.audio.containers.recognize import Recording
from speechmill.pipeline.audio.decoders import open_recording, open_with_ffmpeg, recognized
from speechmill.pipeline.audio.ffmpeg import Gaps
from speechmill.pipeline.audio.resample import AudioSettings, one_channel, resampled
from speechmill.pipeline.audio.samples import BLOCK, Limits, Samples, Source, step_power, to_float
from speechmill.pipeline.audio.sndfile import stream_of
from speechmill.pipeline.blob import Blob

_OGG_SECONDS = 0.02  # by which FFmpeg's Vorbis may be longer: it decodes whole blocks
_LEAST_SNR = 60.0  # dB
_LEAST_SNR_OF_LOUDNESS = 10.0  # dB
_FFMPEG_CHANNELS = 64  # the most that FFmpeg mixes
# Codings, by libsndfile's names, of which two right decoders give other samples, since ADPCM adds
# up how each of them rounds. So their loudness is compared.
_INEXACT = ("IMA_ADPCM", "MS_ADPCM")
# FFmpeg cannot decode these as libsndfile stores them, or leaves out a part of the last block.
_BY_LIBSNDFILE_ALONE = ("DWVW", "NMS_ADPCM", "GSM610", "G721", "G723")
_STEPS_PER_SECOND = 50  # at which loudness is measured


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
    recording = recognized(data)
    source = open_recording(recording, limits, Gaps(settings.gaps))
    coding = _coding(recording)
    alone = coding.startswith(_BY_LIBSNDFILE_ALONE) or source.num_channels > _FFMPEG_CHANNELS
    other = None if alone else open_with_ffmpeg(recording, limits)
    if other is None:
        num_samples = sum(len(block_TC) for block_TC in source.blocks)
        return Comparison(num_samples / source.sample_rate, has_other=False)
    rate, exact = source.sample_rate, coding not in _INEXACT
    step = 1 if exact else rate // _STEPS_PER_SECOND
    num_samples, num_others, snr = _compare(_mono(source, rate), _mono(other, rate), step)
    seconds, other_seconds = num_samples / rate, num_others / rate
    tolerance = 1 / rate + (_OGG_SECONDS if data[:4] == b"OggS" else 0.0)
    least = _LEAST_SNR if exact else _LEAST_SNR_OF_LOUDNESS
    fault = None
    if abs(seconds - other_seconds) > tolerance:
        fault = f"{seconds:.4f} s, FFmpeg gives {other_seconds:.4f} s"
    elif snr < least:
        fault = f"the ratio of the signal to the difference from FFmpeg is {snr:.1f} dB"
    return Comparison(seconds, True, fault)


def _coding(recording: Recording) -> str:
    """Libsndfile's name of how the samples are stored; empty for what only FFmpeg reads."""
    if not recording.by_libsndfile:
        return ""
    try:
        with SoundFile(stream_of(recording.links[0])) as file:
            return str(file.subtype)
    except LibsndfileError:
        return ""


def _mono(source: Source, rate: int) -> SampleBuffer:
    settings = AudioSettings(channels="mean")
    mono = one_channel(source.blocks, settings)
    return SampleBuffer(resampled(mono, source.sample_rate, rate, settings))


def _compare(one: SampleBuffer, other: SampleBuffer, step: int = 1) -> tuple[int, int, float]:
    """Both lengths in samples, and the ratio of signal and difference in dB.

    A `step` of more samples compares how loud each of them is.
    """
    signal, difference, position = 0.0, 0.0, 0
    while not (one.finished and other.finished):
        for buffer in (one, other):
            buffer.read_to(position + BLOCK)
        end = min(one.end, other.end, position + BLOCK)
        if end > position:
            one_T, other_T = (_measured(b.read(position, end), step) for b in (one, other))
            signal += float(np.square(one_T).sum())
            difference += float(np.square(one_T - other_T).sum())
        position += BLOCK
        for buffer in (one, other):
            buffer.discard_before(min(position, buffer.end))
    ratio = (signal + 1e-12) / (difference + 1e-12)
    return one.end, other.end, 10 * float(np.log10(ratio))


def _measured(audio_T: Samples, step: int) -> npt.NDArray[np.float64]:
    return to_float(audio_T).astype(float) if step == 1 else np.sqrt(step_power(audio_T, step))
