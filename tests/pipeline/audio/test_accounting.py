"""A file gives the samples of all its frames, whatever tags, padding or other files are around."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmill.pipeline.audio.decoders import open_audio
from speechmill.pipeline.audio.samples import Limits, to_float
from speechmill.pipeline.errors import SampleError, TruncatedAudio, UndecodableAudio
from tests.corpus import encode, encode_with_ffmpeg, tone
from tests.damage import FORMATS, ID3, good

RATE = 44_100
ID3V1 = b"TAG" + b"Info".ljust(125)
APE = b"".join(  # header and footer
    b"APETAGEX" + bytes([0xD0, 7, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, flags]) + bytes(8)
    for flags in (0xA0, 0x80)
)
LYRICS = b"LYRICSBEGIN" + b"IND0000210" * 9 + b"000101LYRICS200"
FRAME = 1152  # samples
DELAY = 1105  # samples, of LAME and of the decoder


def samples(data: bytes):
    source = open_audio(data, Limits())
    return np.concatenate([to_float(block_TC) for block_TC in source.blocks])


def mp3(seconds: float, *, tagged: bool = True) -> bytes:
    options = {"id3v2_version": "0", "write_xing": str(int(tagged))}
    return encode_with_ffmpeg(tone(seconds, RATE), RATE, "mp3", "libmp3lame", **options)


@pytest.mark.parametrize("format", FORMATS)
def test_a_tag_in_front_changes_no_sample(format):
    np.testing.assert_array_equal(samples(ID3 + good(format, 1)), samples(good(format, 1)))


@pytest.mark.parametrize("behind", [ID3V1, APE, ID3, LYRICS, bytes(1000)])
@pytest.mark.parametrize(
    "format", ["wav", "adpcm", "w64", "aiff", "au", "sph", "flac", "mp3", "aac"]
)
def test_tags_and_padding_behind_change_no_sample(format, behind):
    np.testing.assert_array_equal(samples(good(format, 1) + behind), samples(good(format, 1)))


@pytest.mark.parametrize("count", [1, 8, 4096])
@pytest.mark.parametrize("format", ["vorbis", "opus", "m4a", "aac"])
def test_zeros_that_fill_the_last_block_of_a_disk_change_no_sample(format, count):
    data = good(format, 1)
    np.testing.assert_array_equal(samples(data + bytes(count)), samples(data))


@pytest.mark.parametrize("gap", [1, 3000, 20_000])
@pytest.mark.parametrize("tag", [ID3, b""])
def test_zeros_before_the_first_frame_of_an_mp3_change_no_sample(tag, gap):
    data = good("mp3", 1)
    np.testing.assert_array_equal(samples(tag + bytes(gap) + data), samples(data))


def test_a_matroska_to_a_pipe_states_no_length_and_gives_every_sample():
    data = encode_with_ffmpeg(tone(3.0, RATE), RATE, "matroska", "libmp3lame", live="1")
    assert len(samples(data)) >= 3 * RATE


@pytest.mark.parametrize("tag", [ID3, ID3[:10] + b"Xing".ljust(257), b""])
def test_an_mp3_without_a_count_is_decoded_to_its_last_frame_whatever_words_its_tag_has(tag):
    plain = mp3(3.0, tagged=False)
    assert len(samples(tag + plain)) == (3 * RATE // FRAME + 2) * FRAME


def test_an_advertisement_in_front_of_a_talk_does_not_hide_the_talk():
    advertisement, talk = mp3(1.0), mp3(3.0, tagged=False)
    num_frames = (RATE // FRAME + 2) + (3 * RATE // FRAME + 2)
    assert len(samples(advertisement + talk)) == num_frames * FRAME - DELAY


def test_joined_mp3s_are_decoded_to_the_end_of_the_last_one():
    one, other = samples(mp3(1.0)), samples(mp3(2.0))
    joined = samples(ID3 + mp3(1.0) + ID3V1 + ID3 + mp3(2.0))
    assert len(one) + len(other) < len(joined) < len(one) + len(other) + 4 * FRAME


def test_an_mp3_that_begins_inside_a_frame_loses_only_that_frame():
    plain = mp3(2.0, tagged=False)
    assert len(samples(plain[100:])) == len(samples(plain)) - FRAME


@pytest.mark.parametrize("bit", range(0, 32, 5))
def test_a_wrong_count_in_the_tag_of_an_mp3_never_shortens_it(bit):
    damaged = bytearray(mp3(2.0))
    damaged[damaged.index(b"Info") + 8 + bit // 8] ^= 1 << bit % 8
    try:
        decoded = samples(bytes(damaged))
    except SampleError:
        return
    assert len(decoded) >= 2 * RATE


def test_a_flipped_bit_in_the_tag_of_lame_is_found():
    damaged = bytearray(encode(tone(2.0, RATE), RATE, "MP3"))
    damaged[damaged.index(b"LAME") + 22] ^= 8  # samples of padding
    with pytest.raises(UndecodableAudio, match="checksum"):
        samples(bytes(damaged))


@pytest.mark.parametrize(
    "data", [mp3(0.5), encode(tone(0.5), format="MP3")], ids=["ffmpeg", "lame"]
)
def test_a_counted_mp3_cut_at_any_byte_is_rejected_also_between_its_last_two_frames(data):
    for at in range(1, len(data)):
        with pytest.raises(SampleError):
            samples(data[:at])


def test_an_mp3_whose_tag_counts_its_own_frame_is_whole():
    data = mp3(0.5)
    at = data.index(b"Info") + 8
    count = int.from_bytes(data[at : at + 4]) + 1
    assert len(samples(data[:at] + count.to_bytes(4) + data[at + 4 :])) >= 0.5 * RATE


def test_joined_mp3s_are_rejected_if_one_of_them_lacks_a_frame():
    one, other = mp3(0.5), mp3(0.6)
    size = len(one) - one.rindex(one[:2])  # of the last frame
    for data in (one[:-size] + other, other + one[:-size]):
        with pytest.raises(TruncatedAudio, match="counts 4"):
            samples(data)


@pytest.mark.parametrize(("container", "codec"), [("mp3", "libmp3lame"), ("mp2", "mp2")])
def test_mpeg_audio_without_a_count_that_goes_over_into_zeros_is_rejected(container, codec):
    options = {"write_xing": "0"} if container == "mp3" else {}
    data = encode_with_ffmpeg(tone(1.0, RATE), RATE, container, codec, **options)
    for zeros in (2000, 5000):
        with pytest.raises(UndecodableAudio, match=r"zeros|neither"):
            samples(data[: len(data) // 2] + bytes(zeros))


def test_an_mp3_after_more_bytes_than_a_frame_has_is_rejected():
    plain = mp3(0.5, tagged=False)
    np.testing.assert_array_equal(samples(bytes(2000) + plain), samples(plain))
    with pytest.raises(UndecodableAudio, match="2000 bytes before the first"):
        samples(b"\x55" * 2000 + plain)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_chained_ogg_gives_the_samples_of_all_links(subtype):
    links = [encode(tone(seconds), format="OGG", subtype=subtype) for seconds in (0.5, 0.7, 0.2)]
    expected = np.concatenate([samples(link) for link in links])
    np.testing.assert_array_equal(samples(b"".join(links)), expected)


def test_a_chained_ogg_of_two_rates_is_rejected():
    links = [encode(tone(0.5, rate), rate, "OGG", "VORBIS") for rate in (16_000, 24_000)]
    with pytest.raises(UndecodableAudio, match="become"):
        samples(b"".join(links))


def test_a_wav_without_the_byte_that_pads_its_last_chunk_gives_every_sample():
    for subtype, seconds in (("GSM610", 1.3), ("PCM_U8", 0.60005)):
        padded = encode(tone(seconds), format="WAV", subtype=subtype)
        assert padded[-1] == 0
        np.testing.assert_array_equal(samples(padded[:-1]), samples(padded))


@pytest.mark.parametrize("chunks", [["LIST"], ["LIST", "id3 ", "bext"]])
def test_chunks_may_follow_samples_without_the_byte_that_pads_them(chunks):
    audio_T = tone(0.1, 8_000)[:799]
    plain = encode(audio_T, 8_000, format="WAV", subtype="PCM_U8").removesuffix(b"\0")
    assert len(plain) % 2 == 1
    for name in chunks:
        plain += name.encode() + (6).to_bytes(4, "little") + b"abcdef"
    np.testing.assert_array_equal(
        samples(plain), samples(encode(audio_T, 8_000, format="WAV", subtype="PCM_U8"))
    )


@pytest.mark.parametrize("size", [0, 32_000])
def test_a_wav_that_claims_less_than_it_holds_is_rejected_with_the_number_of_bytes(size):
    data = encode(tone(2.0), format="WAV", subtype="PCM_16")
    at = data.index(b"data") + 4
    with pytest.raises(UndecodableAudio, match=f"{64_000 - size} bytes from byte"):
        samples(data[:at] + size.to_bytes(4, "little") + data[at + 4 :])


def with_bytes(data: bytes, at: int, written: bytes) -> bytes:
    return data[:at] + written + data[at + len(written) :]


def damage_of_headers() -> dict[str, bytes]:
    aiff, caf, flac = good("aiff", 0), good("caf", 0), encode(tone(1.0))
    alac = encode(tone(1.0), format="CAF", subtype="ALAC_16")
    dwvw = encode(tone(1.0), format="AIFF", subtype="DWVW_16")
    live = encode_with_ffmpeg(tone(1.0, 48_000), 48_000, "webm", "libopus")
    endless = flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]
    return {
        "au of a pipe": with_bytes(good("au", 0), 8, b"\xff" * 4),
        "caf that is still written": with_bytes(caf, caf.index(b"data") + 4, b"\xff" * 8),
        "aiff whose samples begin later": with_bytes(aiff, aiff.index(b"SSND") + 10, b"\1"),
        "aiff with fewer samples": with_bytes(aiff, aiff.index(b"COMM") + 12, b"\1"),
        "dwvw with zeros": with_bytes(dwvw, 20_000, bytes(2000)),
        "alac with zeros": with_bytes(alac, 20_000, bytes(3000)),
        "flac of another rate": with_bytes(flac, 18, b"\x07\xd0"),
        "flac without a length or a first frame": with_bytes(
            endless, endless.index(b"\xff\xf8"), b"\0"
        ),
        "webm with zeros": with_bytes(live, len(live) - 900, bytes(300)),
        "wav and wavpack": good("wav", 0) + encode_with_ffmpeg(tone(0.5), RATE, "wv", "wavpack"),
    }


@pytest.mark.parametrize("data", damage_of_headers().values(), ids=damage_of_headers())
def test_a_file_that_states_another_length_than_it_has_is_rejected(data):
    with pytest.raises(SampleError):
        samples(data)


@pytest.mark.parametrize("name", ["VOC", "IRCAM", "PAF", "PVF", "AVR"])
def test_a_format_in_which_a_cut_file_looks_whole_is_rejected_by_its_name(name):
    with pytest.raises(SampleError, match=f"{name} files are not supported"):
        samples(encode(tone(1.0), format=name, subtype="PCM_16"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "a Git LFS pointer"),
        (b"\n<!DOCTYPE html><title>404</title>", "an HTML or XML page"),
    ],
)
def test_a_file_that_is_no_audio_at_all_is_said_to_be_what_it_is(data, message):
    with pytest.raises(UndecodableAudio, match=message):
        samples(data)


@settings(max_examples=60)
@given(
    format=st.sampled_from(FORMATS),
    behind=st.one_of(st.binary(min_size=1, max_size=3000), st.integers(1, 9000).map(bytes)),
)
def test_a_file_with_anything_behind_it_is_rejected_or_gives_the_samples_of_the_file(
    format, behind
):
    try:
        extended = samples(good(format, 0) + behind)
    except SampleError:
        return
    np.testing.assert_array_equal(extended, samples(good(format, 0)))


def test_alac_keeps_the_order_of_six_channels():
    audio = np.stack([tone(1.0, seed=seed) for seed in range(6)], axis=1)
    found = samples(encode(audio, format="CAF", subtype="ALAC_16"))
    np.testing.assert_allclose(found, audio, atol=2**-14)
