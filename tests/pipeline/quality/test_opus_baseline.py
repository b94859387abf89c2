"""The baseline Opus, on speech that ships with the project."""

import numpy as np
import pytest

from speechmill.pipeline.audio.resample import AudioSettings, decode_audio
from speechmill.pipeline.audio.samples import Limits, to_float
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.quality import RATE
from speechmill.pipeline.quality.opus import OpusBaseline
from speechmill.pipeline.quality.signal import SIGNAL_METRICS, match_length
from speechmill.pipeline.quality.testset import Utterance
from tests.conftest import REPOSITORY


def utterance(audio_T):
    audio_T = np.asarray(audio_T, np.float32)
    return Utterance("clip", b"", audio_T, audio_T, RATE, None)


@pytest.fixture(scope="module")
def clips():
    paths = [REPOSITORY / "samples" / "en" / name for name in ("market.mp3", "kettle.wav")]
    decoded = [decode_audio(p.read_bytes(), RATE, AudioSettings(), Limits()) for p in paths]
    return [utterance(to_float(each.audio_T)) for each in decoded]


@pytest.fixture(scope="module")
def coded(clips):
    """By nominal bit rate, the measured one and the decoded clips."""
    baselines = {kbps: OpusBaseline(kbps, Limits()) for kbps in (6, 12)}
    decoded = {kbps: list(each.reconstruct(clips)) for kbps, each in baselines.items()}
    return {kbps: (baselines[kbps].measured_kbps, decoded[kbps]) for kbps in baselines}


def delay(reference_T, estimate_T):
    """Samples between two signals: the peak of their correlation, interpolated 16 times."""
    size = 1 << (2 * len(reference_T)).bit_length()
    cross_F = np.fft.rfft(estimate_T, size) * np.fft.rfft(reference_T, size).conj()
    peak = int(np.argmax(np.fft.irfft(cross_F, 16 * size)))
    return (peak if peak < 8 * size else peak - 16 * size) / 16


def test_the_measure_of_delay_sees_half_a_sample(clips):
    shift_F = np.exp(-2j * np.pi * np.fft.rfftfreq(len(clips[1].input_T)) * 2.5)
    late_T = np.fft.irfft(np.fft.rfft(clips[1].input_T) * shift_F, len(clips[1].input_T))
    assert delay(clips[1].input_T, late_T) == pytest.approx(2.5, abs=0.1)


@pytest.mark.parametrize("kbps", [6, 12])
def test_a_decoded_clip_is_as_long_as_the_original_and_aligned_with_it(clips, coded, kbps):
    for clip, decoded in zip(clips, coded[kbps][1], strict=True):
        assert decoded.sample_rate == RATE
        assert abs(len(decoded.audio_T) - len(clip.input_T)) <= 1
        estimate_T = match_length(decoded.audio_T, len(clip.input_T))
        assert abs(delay(clip.input_T, estimate_T)) < 0.35  # a sample at Opus's 48 kHz


@pytest.mark.parametrize("kbps", [6, 12])
def test_the_bit_rate_of_the_packets_is_near_the_nominal_one(coded, kbps):
    assert coded[kbps][0] == pytest.approx(kbps, rel=0.2)


@pytest.mark.parametrize("metric", ["stoi", "pesq"])
def test_twice_the_bit_rate_sounds_better(clips, coded, metric):
    if metric == "pesq":
        pytest.importorskip("pesq", reason="PESQ is built with a C compiler")
    for clip, low, high in zip(clips, coded[6][1], coded[12][1], strict=True):
        scores = [
            SIGNAL_METRICS[metric](clip.input_T, match_length(each.audio_T, len(clip.input_T)))
            for each in (low, high)
        ]
        assert scores[0] + 0.02 < scores[1]


@pytest.mark.parametrize("num_samples", [1, 100, 3000])
def test_silence_and_short_clips_are_coded_too(num_samples):
    [decoded] = OpusBaseline(6, Limits()).reconstruct([utterance(np.zeros(num_samples))])
    assert abs(len(decoded.audio_T) - num_samples) <= 1
    assert np.abs(decoded.audio_T).max(initial=0) < 0.01


@pytest.mark.parametrize("kbps", [0, 0.4, 300])
def test_a_bit_rate_that_libopus_cannot_have_is_named(kbps):
    with pytest.raises(InputError, match=rf"baselines.opus holds {kbps}; libopus takes 0.5 to 256"):
        OpusBaseline(kbps, Limits())
