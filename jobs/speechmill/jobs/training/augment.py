"""Random changes to a crop before training: level, room and noise."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from speechmill.jobs.training.config import AugmentSettings, MixSettings
from speechmill.jobs.training.stream import intact_samples
from speechmill.pipeline.audio.resample import AudioSettings, decode_audio
from speechmill.pipeline.audio.samples import Limits, Samples, to_float
from speechmill.pipeline.errors import InputError, SampleError
from speechmill.pipeline.shards.tar_reader import Sample
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.describe import audio_suffix

_PEAK = 0.99
_SILENT = 1e-4  # RMS of silence, whose level is not changed: it would become loud noise


@dataclass(frozen=True, slots=True)
class Crop:
    """One crop, float32, with its enhanced version if there is one."""

    audio_T: Samples
    enhanced_T: Samples | None
    key: str


@dataclass(frozen=True)
class Augment:
    """Changes crops by `settings`, with recordings from the pools of noises and rooms.

    Room and noise change the audio only; the level changes its enhanced version too. With
    `keep_clean` the enhanced version is the crop before room and noise.
    """

    settings: AugmentSettings
    noises: Sequence[Samples] = ()
    rooms: Sequence[Samples] = ()
    keep_clean: bool = False

    def __call__(self, crop: Crop, random: np.random.Generator) -> Crop:
        audio_T = np.asarray(crop.audio_T, dtype=np.float32)
        enhanced_T = audio_T if self.keep_clean else crop.enhanced_T
        if random.random() < self.settings.rooms.probability:
            audio_T = reverberate(audio_T, self.rooms[int(random.integers(len(self.rooms)))])
        if random.random() < self.settings.noise.probability:
            noise_T = self.noises[int(random.integers(len(self.noises)))]
            snr_db = _between(self.settings.noise.snr_db, random)
            audio_T = add_noise(audio_T, _excerpt(noise_T, len(audio_T), random), snr_db)
        gain = self._gain(audio_T, random)
        if enhanced_T is not None:
            enhanced_T = enhanced_T * gain
        return replace(crop, audio_T=audio_T * gain, enhanced_T=enhanced_T)

    def _gain(self, audio_T: Samples, random: np.random.Generator) -> np.float32:
        level = 0.0
        if self.settings.level_db:
            level = float(10 ** (_between(self.settings.level_db, random) / 20))
        rms, peak = _rms(audio_T), float(np.abs(audio_T).max(initial=0))
        gain = level / rms if level and rms > _SILENT else 1.0
        return np.float32(min(gain, _PEAK / peak) if peak * gain > _PEAK else gain)


def load_pool(
    settings: MixSettings, sample_rate: int, storage: Storage, audio: AudioSettings
) -> list[Samples]:
    """Return the recordings of the shards in their order, until the pool is full."""
    if not settings.probability:
        return []
    pool: list[Samples] = []
    held, size = 0, int(settings.pool_mb * 1e6)
    for sample in intact_samples(settings.shards, storage, size):
        recording_T = _decoded(sample, sample_rate, audio)
        if recording_T is not None:
            pool.append(recording_T)
            held += recording_T.nbytes
            if held > size:
                break
    if not pool:
        raise InputError(f"no audio in {', '.join(settings.shards)} can be mixed in")
    return pool


def add_noise(audio_T: Samples, noise_T: Samples, snr_db: float) -> Samples:
    """Add noise at a ratio of powers, unless one of both is silent."""
    speech, noise = _rms(audio_T), _rms(noise_T)
    if min(speech, noise) < _SILENT:
        return audio_T
    return audio_T + noise_T * np.float32(speech / noise * 10 ** (-snr_db / 20))


def reverberate(audio_T: Samples, room_T: Samples) -> Samples:
    """Convolve with an impulse response from its peak on; the power of the audio stays."""
    peak = int(np.abs(to_float(room_T)).argmax())
    tail_T = to_float(room_T[peak:])
    size = 1 << (len(audio_T) + len(tail_T) - 1).bit_length()
    spectrum = np.fft.rfft(audio_T, size) * np.fft.rfft(tail_T, size)
    wet_T: npt.NDArray[np.float32] = np.fft.irfft(spectrum, size)[: len(audio_T)].astype(np.float32)
    return wet_T * np.float32(_rms(audio_T) / max(_rms(wet_T), _SILENT))


def _excerpt(noise_T: Samples, num_samples: int, random: np.random.Generator) -> Samples:
    """Return `num_samples` from a random place of a recording; a short one is repeated."""
    start = int(random.integers(max(1, len(noise_T) - num_samples + 1)))
    return np.resize(to_float(noise_T[start:]), num_samples)


def _between(edges: list[float], random: np.random.Generator) -> float:
    low, high = edges
    return float(random.uniform(low, high))


def _decoded(sample: Sample, sample_rate: int, audio: AudioSettings) -> Samples | None:
    try:
        data = sample.members[audio_suffix(sample, None)]
        recording_T = decode_audio(data, sample_rate, audio, Limits()).audio_T
    except SampleError:
        return None
    return recording_T if np.any(recording_T) else None


def _rms(audio_T: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(audio_T, dtype=np.float64))))
