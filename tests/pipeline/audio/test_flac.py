from io import BytesIO

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from speechmill.pipeline.audio.containers.flac import flac_header
from speechmill.pipeline.audio.decoders import open_audio
from speechmill.pipeline.audio.flac import read_flac
from speechmill.pipeline.audio.samples import Limits, to_float
from speechmill.pipeline.errors import TruncatedAudio, UndecodableAudio
from tests.corpus import encode, tone

AUDIO = tone(1.0)
FLAC = encode(AUDIO)


def decode(data):
    return read_flac(data, flac_header(data))


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("bits", ["PCM_S8", "PCM_16", "PCM_24"])
def test_samples_equal_those_of_libsndfile(bits, channels):
    audio_TC = np.stack([AUDIO / (1 + i) for i in range(channels)], axis=1)
    data = encode(audio_TC, subtype=bits)
    expected_TC, rate = soundfile.read(BytesIO(data), dtype="float32", always_2d=True)
    header = flac_header(data)
    assert (header.sample_rate, header.num_channels) == (rate, channels)
    np.testing.assert_array_equal(to_float(decode(data)), expected_TC)


@given(st.integers(42, len(FLAC) - 1), st.integers(0, 7))
def test_a_flipped_bit_is_found_or_changes_no_sample(at, bit):
    damaged = bytearray(FLAC)
    damaged[at] ^= 1 << bit
    try:
        samples_TC = decode(bytes(damaged))
    except (TruncatedAudio, UndecodableAudio):
        return
    np.testing.assert_array_equal(samples_TC, decode(FLAC))


@pytest.mark.parametrize(
    "data",
    [
        encode(AUDIO, format="OGG", subtype="VORBIS"),
        FLAC[:9],
        b"",
    ],
    ids=["ogg", "cut", "empty"],
)
def test_other_formats_are_left_to_other_decoders(data):
    assert flac_header(data) is None


OTHERS = {
    "the same file": FLAC,
    "another of its length": encode(tone(1.0, seed=1)),
    "longer": encode(tone(1.5)),
    "two channels": encode(np.stack([AUDIO, AUDIO], 1)),
    "another rate": encode(AUDIO, 8_000),
    "24 bits": encode(AUDIO, subtype="PCM_24"),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("kept", [1.0, 0.5])
def test_another_file_after_a_flac_is_refused(name, kept):
    first = FLAC[: int(kept * len(FLAC))]
    with pytest.raises((TruncatedAudio, UndecodableAudio)):
        list(open_audio(first + OTHERS[name], Limits()).blocks)


@pytest.mark.parametrize("tail", [b"TAG" + bytes(125), bytes(5000), FLAC[:4], FLAC[-3000:-2000]])
def test_what_follows_the_last_frame_is_ignored_if_it_is_no_file(tail):
    [samples_TC] = open_audio(FLAC + tail, Limits()).blocks
    np.testing.assert_array_equal(samples_TC, decode(FLAC))
