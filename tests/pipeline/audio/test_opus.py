"""Opus gives the samples of libopus, as many as its pages state."""

import ctypes
import io
import os
import struct
from ctypes.util import find_library
from functools import cache

import av
import numpy as np
import pytest
import soundfile

from speechmill.pipeline.audio.containers.ogg import _checksum
from speechmill.pipeline.audio.containers.opus import CLOCK, opus_header
from speechmill.pipeline.audio.decoders import open_audio
from speechmill.pipeline.audio.libopus import LONGEST, libopus
from speechmill.pipeline.audio.samples import Limits
from speechmill.pipeline.errors import OversizedAudio, TruncatedAudio, UndecodableAudio
from speechmill.pipeline.versions import token_versions
from tests.corpus import encode, encode_with_ffmpeg, tone

LEAST_SNR = 80.0  # dB
SPEECH = {"b": "12000", "application": "voip"}  # SILK
HYBRID = {"b": "28000", "application": "voip"}
MUSIC = {"b": "96000"}  # CELT
KINDS = {
    **{f"speech, {ms} ms": SPEECH | {"frame_duration": ms} for ms in ("10", "20", "40", "60")},
    **{f"hybrid, {ms} ms": HYBRID | {"frame_duration": ms} for ms in ("10", "20")},
    **{f"music, {ms} ms": MUSIC | {"frame_duration": ms} for ms in ("2.5", "5", "10", "20", "60")},
    "constant rate": {"b": "32000", "vbr": "off"},
    "silence is not sent": SPEECH | {"dtx": "1"},
}


@cache
def opus(kind: str, rate: int = CLOCK, channels: int = 1, container: str = "ogg") -> bytes:
    """A second of tones, and in its middle silence."""
    audio_T = tone(1.003, rate)
    audio_T[rate // 3 : rate // 2] = 0
    audio = audio_T if channels == 1 else np.stack([audio_T, 0.5 * audio_T[::-1]], axis=1)
    options = {"page_duration": "200000"} if container == "ogg" else {}  # µs
    return encode_with_ffmpeg(audio, rate, container, "libopus", KINDS[kind], **options)


def samples(data: bytes):
    source = open_audio(data, Limits())
    return source.sample_rate, np.concatenate(list(source.blocks))


def assert_close(found_TC, expected_TC):
    assert found_TC.shape == expected_TC.shape
    signal, noise = (
        np.square(part, dtype=float).sum() for part in (expected_TC, found_TC - expected_TC)
    )
    assert 10 * np.log10((signal + 1e-12) / (noise + 1e-12)) > LEAST_SNR


def by_libsndfile(data: bytes):
    """What the libopus that is a part of libsndfile gives."""
    audio_TC, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return rate, audio_TC


def by_system(data: bytes, rate: int):
    """Every sample that the system's libopus gives for the packets that FFmpeg finds."""
    name = find_library("opus")
    if name is None and not os.environ.get("CI"):
        pytest.skip("no libopus on this system: apt-get install libopus0")
    assert name, ".ci/run installs libopus0"
    library = ctypes.CDLL(name)
    library.opus_decoder_create.restype = ctypes.c_void_p
    library.opus_decoder_destroy.argtypes = [ctypes.c_void_p]
    with av.open(io.BytesIO(data)) as file:
        channels = file.streams.audio[0].channels
        packets = [bytes(packet) for packet in file.demux() if packet.size]
    decoder = ctypes.c_void_p(library.opus_decoder_create(rate, channels, None))
    room_TC, parts = np.empty((LONGEST, channels), np.float32), []
    for packet in packets:
        sink = room_TC.ctypes.data_as(ctypes.c_void_p)
        size = library.opus_decode_float(decoder, packet, len(packet), sink, LONGEST, 0)
        parts.append(room_TC[:size].copy())
    library.opus_decoder_destroy(decoder)
    return np.concatenate(parts)


def edited(data: bytes, page: int, at: int, written: bytes) -> bytes:
    """The Ogg with bytes of a page replaced, and with the right checksum; -1 is the last page."""
    begins = [n for n in range(len(data)) if data[n : n + 4] == b"OggS"]
    begin = begins[page]
    end = ([*begins, len(data)])[begins.index(begin) + 1]
    new = bytearray(data[begin:end])
    new[at : at + len(written)] = written
    new[22:26] = _checksum(bytes(new)).to_bytes(4, "little")
    return data[:begin] + bytes(new) + data[end:]


def with_field(data: bytes, offset: int, layout: str, value: int) -> bytes:
    """The Ogg with another value in its OpusHead."""
    return edited(data, 0, 28 + offset, struct.pack(layout, value))


def moved(data: bytes, page: int, ticks: int) -> bytes:
    """The Ogg with another position on a page."""
    begins = [n for n in range(len(data)) if data[n : n + 4] == b"OggS"]
    [granule] = struct.unpack_from("<q", data, begins[page] + 6)
    return edited(data, page, 6, struct.pack("<q", granule + ticks))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_an_ogg_gives_the_samples_of_libsndfile_and_of_the_libopus_of_the_system(kind, channels):
    data = opus(kind, CLOCK, channels)
    rate, found_TC = samples(data)
    expected_rate, expected_TC = by_libsndfile(data)
    assert rate == expected_rate == CLOCK
    assert_close(found_TC, expected_TC)
    skip = opus_header(data[28:47]).pre_skip
    assert_close(found_TC, by_system(data, CLOCK)[skip : skip + len(found_TC)])


@pytest.mark.parametrize("rate", [8_000, 12_000, 16_000, 24_000])
@pytest.mark.parametrize("kind", ["speech, 20 ms", "music, 20 ms"])
def test_audio_of_a_lower_rate_is_decoded_at_that_rate(kind, rate):
    data = opus(kind, rate)
    found_rate, found_TC = samples(data)
    assert found_rate == rate
    assert_close(found_TC, by_libsndfile(data)[1])
    skip = opus_header(data[28:47]).pre_skip * rate // CLOCK
    assert_close(found_TC, by_system(data, rate)[skip : skip + len(found_TC)])


def test_a_rate_that_the_encoder_did_not_state_is_48_khz():
    unknown = with_field(opus("music, 20 ms"), 12, "<I", 0)
    np.testing.assert_array_equal(samples(unknown)[1], samples(opus("music, 20 ms"))[1])


@pytest.mark.parametrize("gain", [256, -1536, 2048])
def test_the_gain_of_the_header_multiplies_the_samples(gain):
    data = opus("music, 20 ms", CLOCK, 2)
    louder = with_field(data, 16, "<h", gain)
    assert_close(samples(louder)[1], samples(data)[1] * 10 ** (gain / 256 / 20))
    assert_close(samples(louder)[1], by_libsndfile(louder)[1])


@pytest.mark.parametrize("pre_skip", [0, 1, 313, 3840, 30_000])
@pytest.mark.parametrize("rate", [16_000, CLOCK])
def test_samples_before_the_audio_are_left_out(pre_skip, rate):
    data = with_field(opus("speech, 20 ms", rate), 10, "<H", pre_skip)
    assert_close(samples(data)[1], by_libsndfile(data)[1])


@pytest.mark.parametrize("ticks", [-1, -5, -300, 1])
@pytest.mark.parametrize("rate", [16_000, CLOCK])
def test_samples_after_the_end_are_left_out(ticks, rate):
    data = moved(opus("speech, 20 ms", rate), -1, ticks)
    assert_close(samples(data)[1], by_libsndfile(data)[1])


def test_a_part_of_a_longer_recording_begins_at_its_first_page():
    whole = opus("music, 2.5 ms")
    later = whole
    for page in range(2, whole.count(b"OggS")):
        later = moved(later, page, 3600 * CLOCK)
    np.testing.assert_array_equal(samples(later)[1], samples(whole)[1])


@pytest.mark.parametrize("container", ["webm", "matroska", "mp4"])
@pytest.mark.parametrize(("kind", "channels"), [("speech, 20 ms", 1), ("music, 20 ms", 2)])
def test_other_containers_give_the_samples_of_the_ogg(container, kind, channels):
    rate, found_TC = samples(opus(kind, CLOCK, channels, container))
    expected_rate, expected_TC = samples(opus(kind, CLOCK, channels))
    assert rate == expected_rate
    # An MP4 of FFmpeg keeps the padding of the last frame.
    if container == "mp4":
        found_TC = found_TC[: len(expected_TC)]
    np.testing.assert_array_equal(found_TC, expected_TC)


@pytest.mark.parametrize("container", ["ogg", "webm"])
def test_blocks_of_any_size_hold_the_same_samples(container, monkeypatch):
    data = opus("music, 20 ms", CLOCK, 2, container)
    whole = samples(data)[1]
    for module in ("opus", "ffmpeg"):
        monkeypatch.setattr(f"speechmill.pipeline.audio.{module}.BLOCK", 5000)
    monkeypatch.setattr("speechmill.pipeline.audio.ffmpeg._AT_ONCE", 4)
    blocks = list(open_audio(data, Limits()).blocks)
    assert max(map(len, blocks)) < whole.size / 3
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_surround_has_the_channels_in_the_order_of_libsndfile():
    audio_TC = np.stack([tone(0.5, CLOCK, seed) for seed in range(6)], axis=1)
    data = encode(audio_TC, CLOCK, "OGG", "OPUS")
    assert_close(samples(data)[1], by_libsndfile(data)[1])


def test_without_libopus_another_decoder_gives_as_many_samples(monkeypatch):
    for module in ("decoders", "ffmpeg"):
        monkeypatch.setattr(f"speechmill.pipeline.audio.{module}.libopus", lambda: None)
    for container in ("ogg", "webm"):
        assert samples(opus("music, 20 ms", container=container))[1].shape == (48_144, 1)


def test_the_library_is_that_of_pyav():
    assert libopus()
    assert str(token_versions()["libopus"])[0].isdigit()


def ogg_of(packets: list[bytes], granule: int, cut: int = 0) -> bytes:
    """The packets on one page, without the last bytes of the last one."""
    head = opus("speech, 20 ms")
    begins = [n for n in range(len(head)) if head[n : n + 4] == b"OggS"]
    lacing = b"".join(bytes([*[255] * (len(p) // 255), len(p) % 255]) for p in packets)
    body = b"".join(packets)
    if cut:
        lacing, body = lacing[:-1], body[:-cut]
    page = struct.pack("<4sBBq4sIIB", b"OggS", 0, 4, granule, head[14:18], 2, 0, len(lacing))
    return edited(head[: begins[2]] + page + lacing + body, -1, 0, b"OggS")


TONE = b"\xf8" + bytes(300)  # a packet of CELT, 20 ms
DAMAGE = {
    "samples are missing between two pages": (moved(opus("music, 20 ms"), 3, 960), "its packets"),
    "the last page states more than there is": (moved(opus("music, 20 ms"), -1, 2000), "hold"),
    "the last page states less than the others": (
        moved(opus("music, 20 ms"), -1, -CLOCK),
        "the others",
    ),
    "an empty packet": (ogg_of([TONE, b"", TONE], 2880), "it is empty"),
    "a packet that is not Opus": (ogg_of([TONE, b"\xff\xff\xff"], 1920), "corrupted"),
    "a packet that is cut": (ogg_of([TONE, TONE], 1920, cut=46), "is cut"),
    "more streams than channels": (
        with_field(opus("music, 20 ms"), 18, "<B", 255),
        r"Opus|malformed",
    ),
}


@pytest.mark.parametrize(("data", "message"), DAMAGE.values(), ids=DAMAGE)
def test_an_ogg_whose_packets_are_not_what_its_pages_state_is_rejected(data, message):
    with pytest.raises((UndecodableAudio, TruncatedAudio), match=message):
        samples(data)


def test_the_packets_that_the_damage_is_made_of_are_good_ones():
    assert samples(ogg_of([TONE, TONE], 1920))[1].shape == (1920 - 312, 1)


def test_an_ogg_of_headers_alone_is_empty():
    assert not list(open_audio(ogg_of([], 0), Limits()).blocks)


def test_an_opus_is_over_the_limits_before_it_is_decoded():
    with pytest.raises(OversizedAudio, match="the pages state 48144 samples"):
        open_audio(opus("music, 20 ms"), Limits(seconds=0.5))
