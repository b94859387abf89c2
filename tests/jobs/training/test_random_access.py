"""A crop read by random access equals that part of the whole recording."""

import numpy as np
import pytest

from speechmill.jobs.training.random_access import RandomAccessAudio
from speechmill.pipeline.audio.resample import AudioSettings, decode_audio
from speechmill.pipeline.audio.samples import Limits, to_float
from speechmill.pipeline.errors import OversizedAudio, SampleError, UnsuitableAudio
from tests.corpus import clip, encode, tone

KINDS = {
    "flac": clip(2.0),
    "24 bit": encode(tone(2.0), subtype="PCM_24"),
    "stereo": encode(np.stack([tone(2.0), tone(2.0, seed=1)], 1)),
    "another rate": encode(tone(2.0, rate=22_050), rate=22_050),
    "wav": encode(tone(2.0), format="WAV"),
}


def recording(data: bytes) -> RandomAccessAudio:
    return RandomAccessAudio(data, 16_000, AudioSettings(), Limits())


@pytest.mark.parametrize("kind", KINDS)
def test_a_crop_equals_that_part_of_the_whole_recording(kind: str) -> None:
    whole = decode_audio(KINDS[kind], 16_000, AudioSettings(), Limits())
    found = recording(KINDS[kind])
    assert found.num_samples == len(whole.audio_T)
    for start, size in ((0, 4_096), (1, 5_000), (31_000, 1_000), (0, 32_000)):
        part_T = found.cut(start, size)
        assert part_T.dtype == np.float32
        np.testing.assert_array_equal(part_T, to_float(whole.audio_T)[start : start + size])


def test_zeros_follow_the_end() -> None:
    audio_T = recording(clip(0.5)).cut(0, 10_000)
    assert audio_T.shape == (10_000,)
    assert audio_T[:8_000].any()
    assert not audio_T[8_000:].any()


def test_only_the_crop_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    found = recording(KINDS["flac"])
    monkeypatch.setattr(RandomAccessAudio, "_whole", lambda self: pytest.fail("decoded whole"))
    assert found.cut(9_000, 3_000).any()


def test_damage_inside_the_crop_is_a_sample_error() -> None:
    data = bytearray(KINDS["flac"])
    middle = len(data) // 2
    data[middle : middle + 3_000] = bytes(3_000)
    found = recording(bytes(data))
    with pytest.raises(SampleError):
        found.cut(14_000, 6_000)
    with pytest.raises(SampleError):
        recording(KINDS["flac"][:middle]).cut(20_000, 6_000)


def test_a_recording_whose_header_exceeds_the_limit_is_refused() -> None:
    with pytest.raises(OversizedAudio):
        RandomAccessAudio(KINDS["flac"], 16_000, AudioSettings(), Limits(seconds=1.0))


def test_a_channel_that_a_recording_does_not_have_is_refused() -> None:
    RandomAccessAudio(KINDS["flac"], 16_000, AudioSettings(channels=0), Limits())
    with pytest.raises(UnsuitableAudio):
        RandomAccessAudio(KINDS["flac"], 16_000, AudioSettings(channels=1), Limits())
