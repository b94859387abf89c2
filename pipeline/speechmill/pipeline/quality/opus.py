"""Opus (RFC 6716) as a baseline: libopus in FFmpeg, for mono speech at 16 kHz.

Application `voip`, frames of 20 ms and constrained variable bit rate, with which quality at a given
rate is higher than with a constant one. The rate that is reported is that of the packets.
"""

import io
import time
from collections.abc import Iterable, Iterator

import av
import numpy as np
import soxr

from speechmill.pipeline.audio.resample import AudioSettings, decode_audio
from speechmill.pipeline.audio.samples import Limits, Samples, to_float
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.quality import RATE
from speechmill.pipeline.quality.reconstruct import Reconstruction
from speechmill.pipeline.quality.signal import match_length
from speechmill.pipeline.quality.testset import Utterance

_OPTIONS = {"application": "voip", "vbr": "constrained", "frame_duration": "20"}
_LOWEST, _HIGHEST = 0.5, 256.0  # kbit/s that libopus takes for one channel
_DECODED = 48_000  # Hz
_RESIDUE = 10  # samples at 48 kHz, more than the delay that is left after decoding


def check_bit_rate(kbps: float) -> None:
    """Raise `InputError` for a bit rate that libopus cannot have."""
    if not _LOWEST <= kbps <= _HIGHEST:
        raise InputError(
            f"baselines.opus holds {kbps:g}; libopus takes {_LOWEST:g} to {_HIGHEST:g} kbit/s"
        )


class OpusBaseline:
    """Encodes and decodes clips at one nominal bit rate, and measures the real one."""

    def __init__(self, kbps: float, limits: Limits):
        check_bit_rate(kbps)
        self._kbps = kbps
        self._limits = limits
        self._bytes = 0
        self._seconds = 0.0

    @property
    def measured_kbps(self) -> float:
        """Bit rate of the packets of all clips so far, without their container."""
        return self._bytes * 8 / 1000 / self._seconds if self._seconds else 0.0

    def reconstruct(self, utterances: Iterable[Utterance]) -> Iterator[Reconstruction]:
        """Yield each clip decoded, at 16 kHz and aligned with the original."""
        for utterance in utterances:
            started = time.perf_counter()
            data, packet_bytes = _encode(utterance.input_T, self._kbps)
            encoded = time.perf_counter()
            decoded = decode_audio(data, _DECODED, AudioSettings(), self._limits)
            decode_seconds = time.perf_counter() - encoded
            self._bytes += packet_bytes
            self._seconds += utterance.seconds
            audio_T = _aligned(to_float(decoded.audio_T), utterance.input_T)
            yield Reconstruction(
                utterance=utterance,
                num_codebooks=0,
                audio_T=audio_T,
                sample_rate=RATE,
                encode_seconds=encoded - started,
                decode_seconds=decode_seconds,
            )


def _encode(audio_T: Samples, kbps: float) -> tuple[bytes, int]:
    """Return an Ogg Opus file and the bytes of its packets."""
    packet_bytes = 0
    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=RATE, layout="mono", options=_OPTIONS)
        stream.bit_rate = round(kbps * 1000)
        frame = av.AudioFrame.from_ndarray(audio_T[None].astype(np.float32), "flt", "mono")
        frame.sample_rate = RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            packet_bytes += packet.size
            container.mux(packet)
    return file.getvalue(), packet_bytes


def _aligned(decoded_T: Samples, original_T: Samples) -> Samples:
    """Return the decoded audio at 16 kHz, shifted to where it correlates best with the original.

    Decoding takes away the delay that the encoder states (RFC 7845, section 4.2). The resamplers
    inside libopus leave up to 0.1 ms of it, which depends on the bandwidth that the encoder chose.
    """
    reference_T = soxr.resample(original_T, RATE, _DECODED, "VHQ")
    decoded_T = np.pad(match_length(decoded_T, len(reference_T)), _RESIDUE)
    lags = sorted(range(-_RESIDUE, _RESIDUE + 1), key=abs)  # 0 for silence
    shifted = [decoded_T[_RESIDUE + lag :][: len(reference_T)] for lag in lags]
    best_T = max(shifted, key=lambda shifted_T: float(reference_T @ shifted_T))
    return np.asarray(soxr.resample(best_T, _DECODED, RATE, "VHQ"), np.float32)
