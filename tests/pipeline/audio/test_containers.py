"""Files that libsndfile cannot read, and what containers state about themselves."""

import io
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmill.pipeline.audio.containers.ogg import ogg_links
from speechmill.pipeline.audio.containers.recognize import recognize
from speechmill.pipeline.audio.decoders import open_audio
from speechmill.pipeline.audio.resample import AudioSettings, decode_audio
from speechmill.pipeline.audio.samples import BLOCK, Limits, to_float
from speechmill.pipeline.blob import spool
from speechmill.pipeline.errors import OversizedAudio, SampleError, TruncatedAudio, UndecodableAudio
from tests.corpus import encode, encode_with_ffmpeg, tone

RATE = 16_000
AUDIO = tone(2.0, RATE)
ODD = Path(__file__).parents[2] / "data" / "odd-audio"
KINDS = {  # container, codec, options and rate
    "m4a": ("ipod", "aac", {}, RATE),
    "fragmented mp4": ("mp4", "aac", {"movflags": "frag_keyframe+empty_moov"}, RATE),
    "alac": ("ipod", "alac", {}, RATE),
    "mp4 with flac": ("mp4", "flac", {}, RATE),
    "mov": ("mov", "pcm_s16le", {}, RATE),
    "aac": ("adts", "aac", {}, RATE),
    "webm": ("webm", "libopus", {}, 48_000),
    "live webm": ("webm", "libopus", {"live": "1"}, 48_000),
    "mka": ("matroska", "flac", {}, RATE),
    "ac3 in mkv": ("matroska", "ac3", {}, 48_000),
    "amr": ("amr", "libopencore_amrnb", {}, 8_000),
    "wavpack": ("wv", "wavpack", {}, RATE),
    "ogg flac": ("ogg", "flac", {}, RATE),
    "alac in caf": ("caf", "alac", {}, RATE),
    "g722 in wav": ("wav", "g722", {}, RATE),
    "aac in wav": ("wav", "aac", {}, RATE),
    "mp3 in wav": ("wav", "libmp3lame", {}, 44_100),
    "mp2": ("mp2", "mp2", {}, 48_000),
}
LOSSLESS = ("alac", "mp4 with flac", "mov", "mka", "ogg flac", "alac in caf")
NO_LENGTH = ("aac", "amr", "mp2")  # cut between two frames they are whole


@cache
def data(kind: str) -> bytes:
    if kind in ("OPUS", "VORBIS"):
        return encode(AUDIO, format="OGG", subtype=kind)
    container, codec, options, rate = KINDS[kind]
    return encode_with_ffmpeg(tone(2.0, rate), rate, container, codec, **options)


def decode(encoded: bytes, rate: int = RATE, **settings):
    return decode_audio(encoded, rate, AudioSettings(**settings), Limits())


@pytest.mark.parametrize("kind", KINDS)
def test_formats_that_libsndfile_does_not_support_give_the_encoded_audio(kind):
    rate = KINDS[kind][-1]
    decoded = decode(data(kind), rate)
    expected = tone(2.0, rate)
    audio_T = to_float(decoded.audio_T).astype(np.float32)
    if kind in LOSSLESS:
        np.testing.assert_allclose(audio_T, expected, atol=2**-15)
        return
    assert decoded.duration == pytest.approx(2.0, abs=0.15)
    if kind == "amr":  # a codec of speech, not of tones
        return
    lags = range(0, 4000, 1)
    best = max(lags, key=lambda lag: float(np.dot(audio_T[lag : lag + 8000], expected[:8000])))
    size = min(len(audio_T) - best, 30_000)
    assert np.corrcoef(audio_T[best : best + size], expected[:size])[0, 1] > 0.9


@pytest.mark.parametrize(
    ("name", "num_samples"),
    [
        ("amr_dtx.amr", 41_280),
        ("speex.ogg", 85_120),
        ("opus_cut_without_encoding.opus", 155_111),
        ("v2_16k_5.0.wma", 79_872),
    ],
)
def test_files_of_other_encoders_give_as_many_samples_as_ffmpeg_and_sox(name, num_samples):
    source = open_audio((ODD / name).read_bytes(), Limits())
    assert sum(len(block_TC) for block_TC in source.blocks) == num_samples


def retimed(moved) -> bytes:
    """A WebM of Opus whose frames begin at other times, in ms; without the frames at None."""
    sink = io.BytesIO()
    with av.open(io.BytesIO(data("webm"))) as file, av.open(sink, "w", format="webm") as out:
        stream = out.add_stream_from_template(file.streams.audio[0])
        for number, packet in enumerate(file.demux()):
            time = None if packet.pts is None else moved(number, packet.pts)
            if time is not None:
                packet.stream = stream
                packet.pts = packet.dts = time
                out.mux(packet)
    return sink.getvalue()


@pytest.mark.parametrize(
    "moved",
    [
        lambda number, time: time + 8 * (number % 3),
        lambda number, time: time + 3000,
        lambda number, time: round(time * 1.0003),
    ],
    ids=["jitter", "late start", "another clock"],
)
def test_times_of_live_recordings_cost_no_sample(moved):
    assert decode(retimed(moved), 48_000).duration == decode(data("webm"), 48_000).duration


def test_a_missing_frame_is_rejected_and_the_message_names_the_option():
    with pytest.raises(UndecodableAudio, match=r"\+0\.020 s .* audio\.gaps=silence"):
        decode(retimed(lambda number, time: None if number == 50 else time), 48_000)


def test_a_pause_is_filled_or_left_out_as_the_settings_say():
    paused = retimed(lambda number, time: time + 500 * (number > 50))
    with pytest.raises(UndecodableAudio, match=r"audio\.gaps"):
        decode(paused, 48_000)
    whole = decode(data("webm"), 48_000).duration
    assert decode(paused, 48_000, gaps="join").duration == whole
    silence = decode(paused, 48_000, gaps="silence")
    assert silence.duration == pytest.approx(whole + 0.5, abs=0.002)


def test_a_pause_of_years_is_over_the_limits_instead_of_the_memory():
    paused = retimed(lambda number, time: time + 2**40 * (number > 50))
    with pytest.raises(OversizedAudio, match=r"limits\.seconds"):
        decode_audio(paused, 48_000, AudioSettings(gaps="silence"), Limits(seconds=60))


@pytest.mark.parametrize("kind", [*KINDS, "OPUS", "VORBIS"])
@settings(max_examples=12)
@given(share=st.floats(0.02, 0.999))
def test_a_container_cut_anywhere_is_rejected_or_loses_only_a_tag(kind, share):
    cut = data(kind)[: int(len(data(kind)) * share)]
    if kind in ("live webm", "fragmented mp4", *NO_LENGTH):  # whole if cut between two blocks
        cut = cut[:-1] if _is_recognized(cut) else cut
    try:
        found = decode(cut).audio_T
    except SampleError:
        return
    np.testing.assert_array_equal(found, decode(data(kind)).audio_T)


def _is_recognized(encoded: bytes) -> bool:
    try:
        return recognize(encoded) is not None
    except SampleError:
        return False


@pytest.mark.parametrize("kind", ["OPUS", "VORBIS"])
@settings(max_examples=30)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_anywhere_in_an_ogg_is_found(kind, place, bit):
    damaged = bytearray(data(kind))
    damaged[int(place * len(damaged))] ^= 1 << bit
    with pytest.raises(SampleError):
        decode(bytes(damaged))


def test_a_mapped_file_whose_table_points_beyond_it_is_rejected_like_its_bytes(monkeypatch):
    table = data("m4a").index(b"stco") + 12  # bytes of the first chunk
    damaged = data("m4a")[:table] + b"\x7f\xff\xff\xff" + data("m4a")[table + 4 :]
    monkeypatch.setattr("speechmill.pipeline.blob._IN_MEMORY", 0)
    for encoded in (damaged, spool([damaged], len(damaged))):
        with pytest.raises(SampleError):
            decode(encoded)


def test_a_missing_ogg_page_is_found():
    pages = data("OPUS").split(b"OggS")
    with pytest.raises(UndecodableAudio, match="follows"):
        ogg_links(b"OggS".join(pages[:3] + pages[4:]))
    with pytest.raises(TruncatedAudio, match="not marked as the end"):
        ogg_links(b"OggS".join(pages[:-1]))


@pytest.mark.parametrize(
    "junk", [b"", b"plain text " * 99, bytes(5000), b"ID3" + bytes(500), b"\xff\xfb" * 500]
)
def test_text_and_zeros_are_not_audio(junk):
    with pytest.raises(UndecodableAudio, match="not recognised"):
        decode(junk)


def test_a_video_without_sound_is_undecodable():
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with pytest.raises(UndecodableAudio, match="no audio among 1 streams"):
        decode(sink.getvalue())


@pytest.mark.parametrize("resampler", ["soxr_hq", "soxr_vhq", "torchaudio"])
@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_resampling_in_blocks_gives_the_samples_of_the_whole(resampler, rate, monkeypatch):
    encoded = encode(tone(9.0, rate), rate)
    whole = decode_audio(encoded, RATE, AudioSettings(resampler=resampler), Limits())
    monkeypatch.setattr("speechmill.pipeline.audio.sndfile.BLOCK", BLOCK // 16)
    monkeypatch.setattr("speechmill.pipeline.audio.decoders._AT_ONCE", 0)
    blocks = decode_audio(encoded, RATE, AudioSettings(resampler=resampler), Limits())
    assert len(whole.audio_T) == len(blocks.audio_T)
    if resampler == "torchaudio":  # its convolution sums in another order for another length
        np.testing.assert_allclose(whole.audio_T, blocks.audio_T, atol=1e-6)
    else:
        np.testing.assert_array_equal(whole.audio_T, blocks.audio_T)
