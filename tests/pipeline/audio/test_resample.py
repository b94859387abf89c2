import hashlib
import io
import struct

import numpy as np
import pytest
import soundfile

from speechmill.pipeline.audio.resample import AudioSettings, Decoded, decode_audio
from speechmill.pipeline.audio.samples import Limits
from speechmill.pipeline.errors import (
    EmptyAudio,
    InputError,
    NonFiniteAudio,
    OversizedAudio,
    TruncatedAudio,
    UndecodableAudio,
    UnsuitableAudio,
)
from tests.corpus import encode, tone

AUDIO = tone(2.0)
LOSSY = [("MP3", None), ("OGG", "VORBIS"), ("OGG", "OPUS")]
LOSSLESS = [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("FLAC", "PCM_16")]


def decode(data: bytes, rate: int = 16_000, **settings: str) -> Decoded:
    return decode_audio(data, rate, AudioSettings(**settings), Limits())


@pytest.mark.parametrize(("format", "subtype"), LOSSLESS)
def test_lossless_formats_give_the_samples_that_were_written(format, subtype):
    decoded = decode(encode(AUDIO, format=format, subtype=subtype))
    scale = 32768 if decoded.audio_T.dtype == np.int16 else 1
    np.testing.assert_allclose(decoded.audio_T / scale, AUDIO, atol=1 / 32000)
    assert decoded.duration == 2.0


@pytest.mark.parametrize(("format", "subtype"), LOSSY)
def test_lossy_formats_give_audio_of_the_same_length_and_shape(format, subtype):
    decoded = decode(encode(AUDIO, format=format, subtype=subtype))
    assert len(decoded.audio_T) == pytest.approx(len(AUDIO), abs=1)
    assert np.corrcoef(decoded.audio_T[: len(AUDIO)], AUDIO[: len(decoded.audio_T)])[0, 1] > 0.9


def test_16_bit_pcm_stays_int16_and_equals_the_float_read_to_the_last_bit():
    data = encode(AUDIO)
    as_float, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    decoded = decode(data)
    assert decoded.audio_T.dtype == np.int16
    np.testing.assert_array_equal(decoded.audio_T / np.float32(32768), as_float)


def test_channels_are_averaged_or_the_first_is_taken_or_they_are_refused():
    stereo = np.stack([AUDIO, -0.5 * AUDIO], axis=1)
    data = encode(stereo, format="WAV", subtype="FLOAT")
    np.testing.assert_allclose(decode(data).audio_T, 0.25 * AUDIO, atol=1e-6)
    np.testing.assert_array_equal(decode(data, channels="first").audio_T, AUDIO)
    np.testing.assert_array_equal(decode(data, channels=1).audio_T, -0.5 * AUDIO)
    assert decode(data).num_channels == 2
    with pytest.raises(UnsuitableAudio, match=r"2 channels; audio\.channels is 2, counted from 0"):
        decode(data, channels=2)
    with pytest.raises(UnsuitableAudio, match="2 channels"):
        decode(data, channels="error")


@pytest.mark.parametrize("resampler", ["soxr_hq", "soxr_vhq", "torchaudio"])
@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_a_tone_in_place(resampler, rate):
    t = np.arange(rate) / rate
    data = encode(np.sin(2 * np.pi * 440 * t).astype(np.float32), rate, "WAV", "FLOAT")
    decoded = decode(data, resampler=resampler)
    expected = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert len(decoded.audio_T) == 16_000
    assert decoded.sample_rate == rate
    np.testing.assert_allclose(decoded.audio_T[1000:-1000], expected[1000:-1000], atol=5e-3)


@pytest.mark.parametrize(("format", "subtype"), [*LOSSLESS, *LOSSY])
@pytest.mark.parametrize("lost", [1, 40, 3000])
def test_a_truncated_file_is_rejected_never_shortened(format, subtype, lost):
    data = encode(AUDIO, format=format, subtype=subtype)
    with pytest.raises((TruncatedAudio, UndecodableAudio)):
        decode(data[:-lost])


@pytest.mark.parametrize("data", [b"", b"RIFF", b"this is text, not a wav file " * 40, bytes(9000)])
def test_bytes_that_are_not_audio_are_undecodable(data):
    with pytest.raises(UndecodableAudio):
        decode(data)


def test_a_header_that_claims_too_many_samples_is_rejected_before_memory_is_allocated():
    flac = bytearray(encode(AUDIO))
    flac[22:26] = struct.pack(">I", 2**31)
    with pytest.raises(TruncatedAudio, match="2147483648 samples"):
        decode(bytes(flac))
    wav = bytearray(encode(AUDIO, format="WAV"))
    wav[40:44] = struct.pack("<I", 2**32 - 1)
    with pytest.raises(TruncatedAudio, match="claims 4294903295 bytes more"):
        decode(bytes(wav))


def without_length(format: str) -> bytes:
    """A file as an encoder writes it into a pipe, where it cannot seek back to the header."""
    data = encode(AUDIO, format=format)
    if format == "MP3":
        return data[data.index(data[:2], 4) :]
    return data[:22] + bytes(4) + data[26:]


@pytest.mark.parametrize("format", ["FLAC", "MP3"])
def test_a_file_that_does_not_state_its_length_is_read_to_its_end(format):
    decoded = decode(without_length(format))
    assert decoded.duration == pytest.approx(2.0, abs=0.15)
    assert np.abs(decoded.audio_T[-8000:]).max() > 0.1


def test_damage_in_a_file_that_does_not_state_its_length_is_not_concealed():
    data = bytearray(without_length("FLAC"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(UndecodableAudio, match=r"FFmpeg|samples are missing .* next frame$"):
        decode(bytes(data))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_samples_are_rejected_and_counted(value):
    audio = AUDIO.copy()
    audio[[5, 900]] = value
    with pytest.raises(NonFiniteAudio, match="2 samples"):
        decode(encode(audio, format="WAV", subtype="FLOAT"))


@pytest.mark.parametrize("rate", [0, 1_000_000])
def test_an_impossible_sample_rate_is_rejected(rate):
    wav = bytearray(encode(AUDIO, format="WAV"))
    wav[24:28] = struct.pack("<I", rate)
    with pytest.raises((UnsuitableAudio, UndecodableAudio)):
        decode(bytes(wav))


def test_a_file_of_0_samples_is_empty():
    with pytest.raises(EmptyAudio):
        decode(encode(AUDIO[:0], format="WAV"))


def test_a_clip_over_the_limit_of_seconds_is_oversized():
    with pytest.raises(OversizedAudio, match=r"limits\.seconds is 1\.5"):
        decode_audio(encode(AUDIO), 16_000, AudioSettings(), Limits(seconds=1.5))


def test_flac_in_which_libsndfile_loses_sync_is_complete_by_its_digest(real_speech):
    paths = sorted((real_speech.parent / "corrupt").glob("*.flac"))
    assert paths
    for path in paths:
        data = path.read_bytes()
        with pytest.raises(soundfile.LibsndfileError):
            soundfile.read(path)
        stream_info_md5 = data[26:42]  # of all samples, taken by the encoder
        assert hashlib.md5(decode(data).audio_T.tobytes()).digest() == stream_info_md5


@pytest.mark.parametrize("settings", [{"channels": "left"}, {"resampler": "sinc"}])
def test_unknown_settings_are_refused_with_the_known_ones(settings):
    with pytest.raises(InputError, match="use "):
        AudioSettings(**settings)
