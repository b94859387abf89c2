"""Files that libsndfile cannot read, and what containers state about themselves."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmill.pipeline.audio.containers.matroska import check_matroska
from speechmill.pipeline.audio.containers.mpeg4 import check_mpeg4
from speechmill.pipeline.audio.containers.ogg import ogg_links
from speechmill.pipeline.audio.resample import AudioSettings, decode_audio
from speechmill.pipeline.audio.samples import BLOCK, Limits
from speechmill.pipeline.errors import SampleError, TruncatedAudio, UndecodableAudio
from tests.corpus import encode, encode_with_ffmpeg, tone

RATE = 16_000
AUDIO = tone(2.0, RATE)
KINDS = {
    "m4a": ("ipod", "aac", {}),
    "fragmented mp4": ("mp4", "aac", {"movflags": "frag_keyframe+empty_moov"}),
    "alac": ("ipod", "alac", {}),
    "aac": ("adts", "aac", {}),
    "webm": ("webm", "libopus", {}),
    "live webm": ("webm", "libopus", {"live": "1"}),
    "mka": ("matroska", "flac", {}),
}


@cache
def data(kind: str) -> bytes:
    if kind in ("OPUS", "VORBIS"):
        return encode(AUDIO, format="OGG", subtype=kind)
    container, codec, options = KINDS[kind]
    rate = 48_000 if codec == "libopus" else RATE
    return encode_with_ffmpeg(tone(2.0, rate), rate, container, codec, **options)


def decode(encoded: bytes, rate: int = RATE):
    return decode_audio(encoded, rate, AudioSettings(), Limits())


@pytest.mark.parametrize("kind", KINDS)
def test_containers_that_libsndfile_does_not_support_give_the_encoded_audio(kind):
    decoded = decode(data(kind), 48_000 if "webm" in kind else RATE)
    expected = tone(2.0, 48_000) if "webm" in kind else AUDIO
    audio_T = decoded.audio_T.astype(np.float32)
    lags = range(0, 4000, 1)
    best = max(lags, key=lambda lag: float(np.dot(audio_T[lag : lag + 8000], expected[:8000])))
    assert np.corrcoef(audio_T[best : best + 30_000], expected[:30_000])[0, 1] > 0.9
    assert decoded.duration == pytest.approx(2.0, abs=0.15)


@pytest.mark.parametrize("kind", [*KINDS, "OPUS", "VORBIS"])
@settings(max_examples=12, deadline=None)
@given(share=st.floats(0.02, 0.999))
def test_a_container_cut_anywhere_is_rejected(kind, share):
    cut = data(kind)[: int(len(data(kind)) * share)]
    if kind in ("live webm", "fragmented mp4"):  # whole, if the cut is between two blocks
        check = check_matroska if kind == "live webm" else check_mpeg4
        cut = cut[:-1] if _passes(check, cut) else cut
    with pytest.raises(SampleError):
        decode(cut)


def _passes(check, encoded: bytes) -> bool:
    try:
        check(encoded)
    except SampleError:
        return False
    return True


@pytest.mark.parametrize("kind", ["OPUS", "VORBIS"])
@settings(max_examples=30, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_anywhere_in_an_ogg_is_found(kind, place, bit):
    damaged = bytearray(data(kind))
    damaged[int(place * len(damaged))] ^= 1 << bit
    with pytest.raises(SampleError):
        decode(bytes(damaged))


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
    import io

    import av

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
