"""Encoded audio as a stream of blocks, so that memory does not grow with the recording.

The first bytes of a file decide its format. Each format has a check that its bytes account for its
samples, and a decoder; a file of a format without such a check is rejected.
"""

from collections.abc import Callable

import soundfile

from speechmill.pipeline.audio.containers.chunks import check_chunks
from speechmill.pipeline.audio.containers.flac import check_flac, flac_header
from speechmill.pipeline.audio.containers.frames import adts_bytes, check_adts, check_amr
from speechmill.pipeline.audio.containers.headers import check_au, check_sphere
from speechmill.pipeline.audio.containers.held import Held
from speechmill.pipeline.audio.containers.matroska import check_matroska
from speechmill.pipeline.audio.containers.mp3 import scan_mp3
from speechmill.pipeline.audio.containers.mpeg4 import check_mpeg4
from speechmill.pipeline.audio.containers.ogg import ogg_links
from speechmill.pipeline.audio.containers.tags import end_of_tags
from speechmill.pipeline.audio.ffmpeg import read_with_ffmpeg
from speechmill.pipeline.audio.flac import read_flac
from speechmill.pipeline.audio.samples import BLOCK, Limits, Source, check_size, to_float
from speechmill.pipeline.audio.sndfile import read_with_libsndfile, stream_of
from speechmill.pipeline.blob import Blob, section, spool
from speechmill.pipeline.errors import UndecodableAudio

# Of how files become samples. It goes up if a file may give other samples than before, and is part
# of the identity of a dataset.
AUDIO_VERSION = 2

# Suffixes of members that are audio.
AUDIO_SUFFIXES = (
    *("wav", "flac", "mp3", "ogg", "oga", "opus", "aiff", "aif", "au", "caf", "w64"),
    *("m4a", "aac", "mp4", "webm", "mka", "wma", "amr"),
)

_AT_ONCE = 8 * BLOCK  # samples of all channels, for a decoder that cannot decode in blocks
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free")  # that begin an MP4 or QuickTime file

_Opener = Callable[[Blob, Limits], Source]


def open_audio(data: Blob, limits: Limits) -> Source:
    """Start to decode WAV, FLAC, MP3, Ogg, AIFF, AAC, M4A, MP4, WebM or a similar format.

    Raises a `SampleError` for a file that is damaged or over the limits, here or while the blocks
    are read; the blocks before the error must not be used.
    """
    start = end_of_tags(data)
    data = section(data, min(start, len(data)), len(data))
    if data[4:8] in _BOXES:
        return _open_mpeg4(data, limits)
    if adts_bytes(data, 0):
        return _open_adts(data, limits)
    opener = _BY_FIRST_BYTES.get(data[:4], _open_mp3)
    return opener(data, limits)


def _open_flac(data: Blob, limits: Limits) -> Source:
    header = flac_header(data)
    if header is None:
        raise UndecodableAudio("the stream info of the FLAC file is damaged")
    rate, channels = header.sample_rate, header.num_channels
    check_size(header.num_samples, rate, channels, limits, "the header claims")
    check_flac(data, header)
    if not header.num_samples:
        return read_with_ffmpeg(stream_of(data), "flac", Held(), limits)
    if header.sample_bits != 16 or header.num_samples * channels > _AT_ONCE:
        return read_with_libsndfile([data], Held(), limits)
    samples_TC = read_flac(data, header)
    return Source(rate, channels, iter([samples_TC if channels == 1 else to_float(samples_TC)]))


def _open_ogg(data: Blob, limits: Limits) -> Source:
    return read_with_libsndfile(ogg_links(data), Held(), limits)


def _open_mp3(data: Blob, limits: Limits) -> Source:
    """libsndfile drops the encoder's padding, but goes by the tag; without one it guesses."""
    mp3 = scan_mp3(data)
    if mp3 is None:
        raise UndecodableAudio(_unsupported(data))
    frames = mp3.frames(data)
    if mp3.is_counted:
        return read_with_libsndfile([frames], Held(), limits)
    return read_with_ffmpeg(stream_of(frames), "mp3", Held(num_samples=mp3.num_samples), limits)


def _unsupported(data: Blob) -> str:
    try:
        name = soundfile.SoundFile(stream_of(data)).format
    except soundfile.LibsndfileError:
        return "Format not recognised."
    return f"{name} files are not supported, since a cut one looks whole; convert them to FLAC"


def _by_libsndfile(check: Callable[[Blob], Held]) -> _Opener:
    def opened(data: Blob, limits: Limits) -> Source:
        held = check(data)
        return read_with_libsndfile([_bare(data, held)], held, limits)

    return opened


def _bare(data: Blob, held: Held) -> Blob:
    """The container alone: libsndfile takes tags after some codings for samples.

    If only the padding is missing, libsndfile loses the last block of other codings.
    """
    end = len(data) if held.end is None else held.end
    bare = section(data, 0, min(end, len(data)))
    return bare if end <= len(data) else spool([bare[:], bytes(end - len(data))], end)


def _by_ffmpeg(check: Callable[[Blob], Held], demuxer: str) -> _Opener:
    return lambda data, limits: read_with_ffmpeg(stream_of(data), demuxer, check(data), limits)


_open_mpeg4 = _by_ffmpeg(check_mpeg4, "mov")
_open_adts = _by_ffmpeg(check_adts, "aac")
_BY_FIRST_BYTES: dict[bytes, _Opener] = {
    b"fLaC": _open_flac,
    b"OggS": _open_ogg,
    **dict.fromkeys(
        (b"RIFF", b"RIFX", b"RF64", b"FORM", b"caff", b"riff"), _by_libsndfile(check_chunks)
    ),
    **dict.fromkeys((b".snd", b"dns."), _by_libsndfile(check_au)),
    b"NIST": _by_libsndfile(check_sphere),
    b"\x1a\x45\xdf\xa3": _by_ffmpeg(check_matroska, "matroska"),
    b"#!AM": _by_ffmpeg(check_amr, "amr"),
    b"\x30\x26\xb2\x75": _by_ffmpeg(lambda data: Held(), "asf"),
}
