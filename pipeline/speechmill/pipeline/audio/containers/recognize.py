"""Which container a file is, by its first bytes, and whether it accounts for its bytes."""

from collections.abc import Callable
from dataclasses import dataclass, field

from speechmill.pipeline.audio.containers.asf import check_asf
from speechmill.pipeline.audio.containers.chunks import check_chunks
from speechmill.pipeline.audio.containers.flac import FlacHeader, check_flac, flac_header
from speechmill.pipeline.audio.containers.frames import (
    adts_bytes,
    check_adts,
    check_amr,
    check_wavpack,
)
from speechmill.pipeline.audio.containers.headers import check_au, check_sphere
from speechmill.pipeline.audio.containers.held import Held
from speechmill.pipeline.audio.containers.matroska import check_matroska
from speechmill.pipeline.audio.containers.mp3 import scan_mp3
from speechmill.pipeline.audio.containers.mpeg4 import BOXES, check_mpeg4
from speechmill.pipeline.audio.containers.ogg import first_packet, ogg_links, stated_samples
from speechmill.pipeline.audio.containers.opus import OpusHeader, opus_header
from speechmill.pipeline.audio.containers.tags import end_of_tags
from speechmill.pipeline.blob import Blob, section, spool
from speechmill.pipeline.errors import UndecodableAudio

# Names of audio files that end in one of these, in any case. A sample with one of the usual ones
# has its audio there: beside it, the others may be a video or another copy.
USUAL_SUFFIXES = (
    *("wav", "flac", "mp3", "ogg", "oga", "opus", "aiff", "aif", "au", "caf", "w64"),
    *("m4a", "aac", "mp4", "webm", "mka", "wma", "amr"),
)
OTHER_SUFFIXES = (
    *("wave", "bwf", "rf64", "aifc", "aiffc", "snd", "sph", "nist", "wv"),
    *("mp2", "mpga", "mpa", "adts", "spx", "ogx", "awb", "3ga", "m4b", "m4r", "weba"),
    *("mkv", "mov", "qt", "m4v", "3gp", "3g2", "f4a", "f4v", "ogv", "asf", "wmv"),  # video
)
AUDIO_SUFFIXES = (*USUAL_SUFFIXES, *OTHER_SUFFIXES)


@dataclass(frozen=True, slots=True)
class Recording:
    """A file that accounts for its bytes, without the tags around it."""

    container: str  # its name
    links: list[Blob]  # files that follow each other, as in a chained Ogg; mostly it is one
    demuxer: str  # name of FFmpeg for it
    held: Held = field(default_factory=Held)
    by_libsndfile: bool = True  # whether libsndfile decodes it, or FFmpeg
    flac: FlacHeader | None = None
    opus: OpusHeader | None = None  # of the first link of an Ogg


def recognize(data: Blob) -> Recording | None:
    """Find the container and check that its bytes account for its samples; None for other bytes.

    Raises a `SampleError` for a container that is cut or damaged, or holds more than it claims.
    """
    start = end_of_tags(data)
    data = section(data, min(start, len(data)), len(data))
    if data[4:8] in BOXES:
        return Recording("MP4", [data], "mov", check_mpeg4(data), by_libsndfile=False)
    if adts_bytes(data, 0):
        return _checked(data, "AAC", "aac", check_adts, by_libsndfile=False)
    return _BY_FIRST_BYTES.get(data[:4], _mp3)(data)


def _flac(data: Blob) -> Recording:
    header = flac_header(data)
    if header is None:
        raise UndecodableAudio("the stream info of the FLAC file is damaged")
    held = Held(num_samples=check_flac(data, header))
    stated = bool(header.num_samples)
    return Recording("FLAC", [data], "flac", held, by_libsndfile=stated, flac=header)


def _ogg(data: Blob) -> Recording:
    links = ogg_links(data)
    held = Held(num_samples=stated_samples(data))
    return Recording("Ogg", links, "ogg", held, opus=opus_header(first_packet(links[0])))


def _mp3(data: Blob) -> Recording | None:
    """libsndfile drops the encoder's padding, but goes by the tag; without one it guesses."""
    mp3 = scan_mp3(data)
    if mp3 is None:
        return None
    held = Held() if mp3.is_counted else Held(num_samples=mp3.num_samples)
    return Recording("MP3", [mp3.frames(data)], "mp3", held, by_libsndfile=mp3.is_counted)


def _wav(data: Blob) -> Recording | None:
    recording = _checked(data, "WAV", "wav", check_chunks)
    inner = recording.held.mp3
    return _mp3(section(data, *inner)) if inner else recording


def _caf(data: Blob) -> Recording:
    """libsndfile does not notice damaged packets of ALAC; FFmpeg reorders over two channels."""
    by_ffmpeg = data[28:32] == b"alac" and int.from_bytes(data[44:48]) <= 2
    return _checked(data, "CAF", "caf", check_chunks, by_libsndfile=not by_ffmpeg)


def _checked(
    data: Blob, name: str, demuxer: str, check: Callable[[Blob], Held], by_libsndfile: bool = True
) -> Recording:
    """The container alone: libsndfile takes tags after some codings for samples.

    If only the padding is missing, libsndfile loses the last block of other codings.
    """
    held = check(data)
    end = len(data) if held.end is None else held.end
    bare = section(data, 0, min(end, len(data)))
    if end > len(data):
        bare = spool([bare[:], bytes(end - len(data))], end)
    return Recording(name, [bare], demuxer, held, by_libsndfile)


def _of(
    name: str, demuxer: str, check: Callable[[Blob], Held], by_libsndfile: bool = True
) -> Callable[[Blob], Recording]:
    return lambda data: _checked(data, name, demuxer, check, by_libsndfile)


_BY_FIRST_BYTES: dict[bytes, Callable[[Blob], Recording | None]] = {
    b"fLaC": _flac,
    b"OggS": _ogg,
    b"RIFF": _wav,
    b"RIFX": _wav,
    b"RF64": _wav,
    b"FORM": _of("AIFF", "aiff", check_chunks),
    b"caff": _caf,
    b"riff": _of("Wave64", "w64", check_chunks),
    b".snd": _of("AU", "au", check_au),
    b"dns.": _of("AU", "au", check_au),
    b"NIST": _of("SPHERE", "nistsphere", check_sphere),
    b"\x1a\x45\xdf\xa3": _of("Matroska", "matroska", check_matroska, by_libsndfile=False),
    b"wvpk": _of("WavPack", "wv", check_wavpack, by_libsndfile=False),
    b"#!AM": _of("AMR", "amr", check_amr, by_libsndfile=False),
    b"\x30\x26\xb2\x75": _of("WMA", "asf", check_asf, by_libsndfile=False),
}
