"""Every format that docs/guide/tokenize.md lists, and tars: cut, extended, joined, bits flipped.

A damaged file is rejected, or it gives the samples of the whole. What cannot be noticed is named.
"""

import gzip
import io
import struct
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmill.pipeline.audio.decoders import open_audio
from speechmill.pipeline.audio.samples import Limits, to_float
from speechmill.pipeline.errors import SampleError, ShardError
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.shards.tar_reader import Sample, read_samples
from speechmill.pipeline.storage import Storage
from tests.corpus import encode_with_ffmpeg, tone
from tests.damage import FORMATS, ID3, good

ODD = Path(__file__).parents[1] / "data" / "odd-audio"
KINDS = {  # container, codec, rate and options
    "mp4": ("mp4", "libopus", 48_000, {}),
    "fragmented mp4": ("mp4", "aac", 16_000, {"movflags": "frag_keyframe+empty_moov"}),
    "alac": ("ipod", "alac", 16_000, {}),
    "mov": ("mov", "pcm_s16le", 16_000, {}),
    "3gp": ("3gp", "libopencore_amrnb", 8_000, {}),
    "live webm": ("webm", "libopus", 48_000, {"live": "1"}),
    "mka": ("matroska", "flac", 16_000, {}),
    "mkv": ("matroska", "ac3", 48_000, {}),
    "amr": ("amr", "libopencore_amrnb", 8_000, {}),
    "wavpack": ("wv", "wavpack", 16_000, {}),
    "mp2": ("mp2", "mp2", 16_000, {}),
    "mp3 without a count": ("mp3", "libmp3lame", 44_100, {"write_xing": "0", "id3v2_version": "0"}),
    "mp3 of ffmpeg": ("mp3", "libmp3lame", 16_000, {}),
    "ogg flac": ("ogg", "flac", 16_000, {}),
    "alac in caf": ("caf", "alac", 16_000, {}),
    "g722 in wav": ("wav", "g722", 16_000, {}),
    "g726 in wav": ("wav", "g726", 8_000, {}),
    "mp3 in wav": ("wav", "libmp3lame", 44_100, {}),
    "ac3 in wav": ("wav", "ac3", 48_000, {}),
}
FILES = {"wma": "v2_16k_5.0.wma", "speex": "speex.ogg", "amr with silence": "amr_dtx.amr"}
MADE = {  # from a file of another format
    "flac without a length": "flac",
    "aac in wav": "aac",
    "webm of a browser": "live webm",
}
ALL = [*FORMATS, *KINDS, *FILES, *MADE]

# Whole if they are cut between two frames, of which nothing states how many there are.
OPEN_ENDED = {
    *("aac", "amr", "amr with silence", "mp2", "mp3 without a count"),
    *("fragmented mp4", "live webm", "webm of a browser", "flac without a length"),
}
# Decoded to the end of the last file.
JOINED = {
    **dict.fromkeys(("mp3", "mp3 of ffmpeg", "mp3 without a count", "mp2"), "MPEG audio"),
    **dict.fromkeys(("vorbis", "opus", "ogg flac", "speex"), "Ogg"),
    "aac": "ADTS",
}
NOTHING_BEHIND = ("flac", "flac24", "flac without a length")  # decoders stop at the last frame
CHECKSUMS = ("vorbis", "opus", "ogg flac", "speex", "flac", "flac24")  # over all that decides
DELAY = 3000  # samples that an encoder may put around the audio of one file

fuzz = settings(max_examples=16, derandomize=True, database=None)
places = st.floats(0, 1, exclude_max=True)


@cache
def file(name: str) -> bytes:
    if name in FORMATS:
        return good(name, 0)
    if name in FILES:
        return (ODD / FILES[name]).read_bytes()
    if name in MADE:
        return _made(name, file(MADE[name]))
    container, codec, rate, options = KINDS[name]
    return encode_with_ffmpeg(tone(0.6, rate), rate, container, codec, **options)


def _made(name: str, data: bytes) -> bytes:
    if name == "flac without a length":
        return data[:21] + bytes([data[21] & 0xF0]) + bytes(4) + data[26:]
    if name == "aac in wav":
        return _in_wav(data)
    at = data.index(b"\x1f\x43\xb6\x75") + 4  # a cluster, whose size becomes unknown
    length = 9 - data[at].bit_length()
    return data[:at] + (2 ** (7 * length + 1) - 1).to_bytes(length) + data[at + length :]


def _in_wav(adts: bytes) -> bytes:
    form = struct.pack("<4sIHHIIHHH", b"fmt ", 18, 0x1600, 1, 16_000, 8_000, 1, 0, 0)
    data = struct.pack("<4sI", b"data", len(adts)) + adts + bytes(len(adts) % 2)
    return struct.pack("<4sI4s", b"RIFF", 4 + len(form) + len(data), b"WAVE") + form + data


def samples(data: bytes):
    """The samples of a file; None if it is rejected. Any other error fails the test."""
    try:
        return np.concatenate([to_float(block) for block in open_audio(data, Limits()).blocks])
    except SampleError:
        return None


@cache
def whole(name: str):
    return samples(file(name))


def is_whole(found, name: str) -> bool:
    return np.array_equal(found, whole(name))


@pytest.mark.parametrize("name", ALL)
def test_a_whole_file_is_decoded(name):
    assert len(whole(name)) > 0.5 * 8_000


@pytest.mark.parametrize("name", ALL)
@fuzz
@given(place=places)
def test_a_file_that_is_cut_anywhere_is_rejected(name, place):
    at = int(place * len(file(name)))
    found = samples(file(name)[:at])
    if found is None:
        return
    if name in OPEN_ENDED:
        np.testing.assert_allclose(found, whole(name)[: len(found)], atol=1e-4)
    else:
        assert is_whole(found, name)


@pytest.mark.parametrize("name", ALL)
@fuzz
@given(
    place=places,
    behind=st.one_of(
        st.binary(min_size=1, max_size=2000),
        st.integers(1, 9000).map(bytes),
        st.sampled_from([ID3, b"TAG" + bytes(125), b"text " * 99, b"\xff" * 999]),
    ),
    keep=st.booleans(),
)
def test_a_file_that_is_extended_is_rejected_or_gives_the_samples_of_the_file(
    name, place, behind, keep
):
    """By bytes of any kind, or by a part of itself, which may be whole frames.

    A frame of silence of AMR is one byte.
    """
    part = file(name)[int(place * len(file(name))) :]
    found = samples(file(name) + (behind if keep else part))
    has_frames = name.startswith("amr") or not keep
    if found is not None and has_frames and (name in JOINED or name in OPEN_ENDED):
        assert len(found) >= len(whole(name))
    else:
        assert found is None or is_whole(found, name)


@pytest.mark.parametrize("name", ALL)
@fuzz
@given(other=st.sampled_from(ALL), place=places)
def test_joined_files_are_rejected_or_all_of_them_are_decoded(name, other, place):
    found = samples(file(name) + file(other))
    if name in NOTHING_BEHIND:
        assert found is None or is_whole(found, name)
    elif found is not None:
        assert JOINED[name] == JOINED[other]
        assert len(found) >= len(whole(name)) + len(whole(other)) - DELAY
        np.testing.assert_allclose(found[:2000], whole(name)[:2000], atol=1e-3)
    cut = file(other)[: int(place * len(file(other)))]
    found = samples(file(name) + cut)
    assert found is None or is_whole(found, name) or {name, other} & OPEN_ENDED


@pytest.mark.parametrize("name", ALL)
@fuzz
@given(place=places, bit=st.integers(0, 7))
def test_a_flipped_bit_gives_samples_or_a_reject(name, place, bit):
    """Of formats with checksums it gives the samples of the whole."""
    damaged = bytearray(file(name))
    damaged[int(place * len(damaged))] ^= 1 << bit
    found = samples(bytes(damaged))
    assert found is None or name not in CHECKSUMS or is_whole(found, name)


def tar(form: int) -> bytes:
    names = ["a.wav", "a.json", "deep/" * 30 + "b.flac", "日本語" * 50 + ".mp3", "x_0.00.txt"]
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=form) as file:
        for size, name in enumerate(names, 500):
            info = tarfile.TarInfo(name)
            info.size = size
            file.addfile(info, io.BytesIO(bytes([size % 256]) * size))
    return sink.getvalue()


def read(data: bytes):
    """The members of each sample; None if the tar is refused. Any other error fails the test."""
    storage = Storage()
    storage.put("memory://fuzz/a.tar", data)
    [shard] = list_shards(["memory://fuzz/a.tar"], storage)
    try:
        found = list(read_samples(shard, storage, 10**9))
    except ShardError:
        return None
    return [(item.key, item.members) for item in found if isinstance(item, Sample)]


TARS = {"gnu": tar(tarfile.GNU_FORMAT), "pax": tar(tarfile.PAX_FORMAT)}
TARS |= {f"{name} in gzip": gzip.compress(data, mtime=0) for name, data in TARS.items()}


@pytest.mark.parametrize("name", TARS)
@settings(fuzz, max_examples=60)
@given(
    place=places,
    behind=st.one_of(st.binary(max_size=2000), st.integers(0, 9000).map(bytes)),
    joined=st.sampled_from([b"", *TARS.values()]),
)
def test_a_tar_that_is_cut_extended_or_joined_is_refused_or_gives_its_samples(
    name, place, behind, joined
):
    data = TARS[name]
    for damaged in (data[: int(place * len(data))], data + behind, data + joined):
        assert read(damaged) in (None, read(data))


@pytest.mark.parametrize("name", TARS)
@settings(fuzz, max_examples=100)
@given(flips=st.lists(st.tuples(places, st.integers(0, 7)), min_size=1, max_size=4))
def test_a_tar_with_flipped_bits_is_read_or_refused(name, flips):
    damaged = bytearray(TARS[name])
    for place, bit in flips:
        damaged[int(place * len(damaged))] ^= 1 << bit
    assert isinstance(read(bytes(damaged)), list | None)
