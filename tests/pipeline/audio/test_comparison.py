import numpy as np
import pytest

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
