"""Good files of every format, and every kind of damage that can be known to be damage.

A flipped bit in PCM, MP3 or AAC makes another recording, not a broken file; so it is not here.
"""

import io
import struct
import tarfile
from collections.abc import Callable
from functools import cache
from random import Random

import numpy as np

from tests.corpus import encode, encode_with_ffmpeg, tar_bytes, tone

RATE = 16_000
SECONDS = 0.6
ID3 = b"ID3\x04\0\0\0\0\x02\x01" + b"Info " * 51 + b"ab"  # a tag in front of a file
_PLAIN = {
    "wav": ("WAV", "PCM_16"),
    "wav24": ("WAV", "PCM_24"),
    "wavfloat": ("WAV", "FLOAT"),
    "adpcm": ("WAV", "IMA_ADPCM"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "ULAW"),
    "sph": ("NIST", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "flac24": ("FLAC", "PCM_24"),
    "mp3": ("MP3", None),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
}
_FFMPEG = {"m4a": ("ipod", "aac"), "aac": ("adts", "aac"), "webm": ("webm", "libopus")}
_SUFFIXES = {"wavfloat": "wav", "wav24": "wav", "adpcm": "wav", "rf64": "wav", "flac24": "flac"}
_SUFFIXES |= {"vorbis": "ogg"}
FORMATS = [*_PLAIN, *_FFMPEG]
_CHECKED = ("flac", "flac24", "vorbis", "opus")  # with checksums over what they hold
_HEADERS = {"flac": 800, "flac24": 800, "vorbis": 0, "opus": 0}


def suffix(format: str) -> str:
    return _SUFFIXES.get(format, format)


@cache
def good(format: str, variant: int) -> bytes:
    """A whole file; some variants are stereo or of another rate."""
    rate = (RATE, 48_000, 24_000)[variant % 3]
    audio = tone(SECONDS, rate, seed=variant)
    if format in _FFMPEG:
        rate = 48_000 if format == "webm" else rate
        return encode_with_ffmpeg(tone(SECONDS, rate, seed=variant), rate, *_FFMPEG[format])
    stereo = variant % 2 and format not in ("adpcm",)
    container, subtype = _PLAIN[format]
    return encode(np.stack([audio, audio], 1) if stereo else audio, rate, container, subtype)


def cut(data: bytes, format: str, random: Random) -> bytes:
    at = random.randrange(1, len(data) - 1)
    if format == "aac":  # a cut between two frames leaves a whole, shorter file
        at = data.index(b"\xff\xf1", at) + 3 if b"\xff\xf1" in data[at:] else len(data) - 3
    return data[:at]


def zeroed(data: bytes, format: str, random: Random) -> bytes:
    at = random.randrange(_HEADERS[format], len(data) - 64)
    while not any(data[at : at + 64]):  # a comment's padding
        at = random.randrange(_HEADERS[format], len(data) - 64)
    return data[:at] + bytes(64) + data[at + 64 :]


def flipped(data: bytes, format: str, random: Random) -> bytes:
    damaged = bytearray(data)
    damaged[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(damaged)


def without_a_part(data: bytes, format: str, random: Random) -> bytes:
    at = random.randrange(_HEADERS.get(format, 300), len(data) * 9 // 10 - 50)
    return data[:at] + data[at + 50 :]


def not_finite(data: bytes, format: str, random: Random) -> bytes:
    audio = tone(SECONDS, seed=random.randrange(9))
    audio[random.randrange(len(audio))] = random.choice([np.nan, np.inf, -np.inf])
    return encode(audio, format="WAV", subtype="FLOAT")


def another_rate(data: bytes, format: str, random: Random) -> bytes:
    return data[:24] + struct.pack("<I", random.choice([0, 1, 999, 400_000, 2**31])) + data[28:]


def longer(data: bytes, format: str, random: Random) -> bytes:
    """The header claims more than there is."""
    if format == "wav":
        at = data.index(b"data") + 4
        size = struct.unpack_from("<I", data, at)[0] + random.randrange(2, 2**20)
        return data[:at] + struct.pack("<I", size) + data[at + 4 :]
    claimed = int.from_bytes(data[21:26]) + random.randrange(1, 2**30)
    return data[:21] + claimed.to_bytes(5) + data[26:]


def shorter(data: bytes, format: str, random: Random) -> bytes:
    """The header claims less than there is."""
    if format == "flac":
        claimed = random.randrange(1, int(RATE * SECONDS))
        return data[:21] + bytes([data[21] & 0xF0]) + claimed.to_bytes(4) + data[26:]
    if format == "sph":
        count = b"sample_count -i %d" % int(RATE * SECONDS)
        return data.replace(count, b"sample_count -i %d" % random.randrange(1000, 9000))
    at, order = (8, ">I") if format == "au" else (data.index(b"data") + 4, "<I")
    size = struct.unpack_from(order, data, at)[0]
    return data[:at] + struct.pack(order, 2 * random.randrange(size // 2)) + data[at + 4 :]


def with_another_behind(data: bytes, format: str, random: Random) -> bytes:
    """Joined files, of which decoders give the first."""
    return data + good(format, random.randrange(4))


def tagged_and_cut(data: bytes, format: str, random: Random) -> bytes:
    return ID3 + cut(data, format, random)


def empty(data: bytes, format: str, random: Random) -> bytes:
    return random.choice([b"", encode(np.zeros(0, np.float32), format="WAV"), b"\x00"])


def unaccountable(data: bytes, format: str, random: Random) -> bytes:
    """A format in which a cut file looks whole."""
    name = random.choice(["VOC", "IRCAM", "PAF", "PVF", "AVR", "HTK", "SVX", "MAT5", "SDS"])
    file = encode(tone(SECONDS), format=name, subtype="PCM_16")
    return file[: random.randrange(len(file) // 2, len(file) + 1)]


def junk(data: bytes, format: str, random: Random) -> bytes:
    size = random.randrange(1, 20_000)
    starts = (
        b"",
        b"RIFF",
        b"fLaC",
        b"OggS",
        b"ID3\x04",
        b"\x00\x00\x00\x18ftypM4A ",
        b"\x1a\x45\xdf\xa3",
    )
    return random.choice(starts) + random.choice([random.randbytes(size), b"text " * size])


_ANY = tuple(FORMATS)
DAMAGES: dict[Callable[[bytes, str, Random], bytes], tuple[str, ...]] = {
    cut: _ANY,
    zeroed: _CHECKED,
    flipped: ("vorbis", "opus"),
    without_a_part: ("wav", "wav24", "rf64", "w64", "aiff", "au", "m4a", "webm", *_CHECKED),
    not_finite: ("wav",),
    another_rate: ("wav", "wav24", "wavfloat"),
    longer: ("wav", "flac", "flac24"),
    shorter: ("wav", "flac", "au", "sph"),
    # Joined MP3 and AAC are decoded to the end of the last one, and so are the links of an Ogg.
    with_another_behind: tuple(f for f in FORMATS if f not in ("mp3", "aac", "vorbis", "opus")),
    tagged_and_cut: _ANY,
    unaccountable: ("wav",),
    empty: _ANY,
    junk: _ANY,
}


def damaged(random: Random) -> tuple[str, str, bytes]:
    """The name of a damage, a format, and a file of that format so damaged."""
    damage = random.choice(list(DAMAGES))
    format = random.choice(DAMAGES[damage])
    variant = 0 if damage in (longer, shorter, another_rate) else random.randrange(4)
    data = good(format, variant)
    return damage.__name__, format, damage(data, format, random)


def cut_tar(data: bytes, random: Random) -> bytes:
    return data[: random.randrange(1, len(data) - 10_240)]  # `tarfile` fills up to 10,240 bytes


def tar_with_damaged_header(data: bytes, random: Random) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        header = random.choice(tar.getmembers()).offset
    at = header + random.randrange(148)  # up to the checksum, which may be written in several ways
    damaged = bytearray(data)
    damaged[at] ^= 1 << random.randrange(7)
    return bytes(damaged)


def joined_tars(data: bytes, random: Random) -> bytes:
    return data + tar_bytes([("another.flac", good("flac", 0))])


TAR_DAMAGES = [cut_tar, tar_with_damaged_header, joined_tars]
