import io

import numpy as np
import pytest
import soundfile

from speechmill.pipeline.audio.buffer import SampleBuffer
from speechmill.pipeline.audio.comparison import _compare, compare_decoders
from speechmill.pipeline.audio.resample import AudioSettings
from speechmill.pipeline.audio.samples import Limits
from tests.corpus import tone
from tests.damage import FORMATS, good


@pytest.mark.parametrize("format", FORMATS)
def test_two_decoders_agree_on_a_good_file(format):
    for variant in range(3):
        data = good(format, variant)
        assert compare_decoders(data, AudioSettings(), Limits()).fault is None


def test_other_samples_and_lengths_are_measured_in_blocks_of_any_size():
    audio_T = tone(2.0)
    noisy_T = audio_T + 0.001 * tone(2.0, seed=1)
    buffers = [
        SampleBuffer(iter(np.split(audio_T, [100, 7000]))),
        SampleBuffer(iter(np.split(noisy_T[:-50], 5))),
    ]
    one, other, snr = _compare(*buffers)
    assert (one, other) == (32_000, 31_950)
    assert snr == pytest.approx(60, abs=2)


CODINGS = [
    *(("OGG", "OPUS"), ("AIFF", "IMA_ADPCM"), ("WAV", "MS_ADPCM"), ("AIFF", "GSM610")),
    *(("WAV", "GSM610"), ("AU", "G723_40"), ("WAV", "NMS_ADPCM_16"), ("AIFF", "DWVW_16")),
]


@pytest.mark.parametrize(("container", "coding"), CODINGS)
def test_a_coding_that_two_decoders_round_differently_is_no_fault(container, coding):
    sink = io.BytesIO()
    soundfile.write(sink, tone(1.0), 16_000, format=container, subtype=coding)
    found = compare_decoders(sink.getvalue(), AudioSettings(), Limits())
    assert (found.fault, found.seconds) == (None, pytest.approx(1.0, abs=0.05))


def test_more_channels_than_ffmpeg_mixes_are_left_to_one_decoder():
    sink = io.BytesIO()
    soundfile.write(sink, np.zeros((800, 65), np.float32), 16_000, format="WAV")
    found = compare_decoders(sink.getvalue(), AudioSettings(), Limits())
    assert (found.fault, found.has_other) == (None, False)


def test_by_loudness_other_speech_differs_and_a_short_delay_does_not():
    ramp_T = tone(2.0) * np.linspace(0, 1, 32_000, dtype=np.float32)

    def ratio(other_T):
        return _compare(SampleBuffer(iter([ramp_T])), SampleBuffer(iter([other_T])), 320)[2]

    assert ratio(np.roll(ramp_T, 40)) > 10
    assert ratio(ramp_T[::-1]) < 10
