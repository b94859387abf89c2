"""Encoded audio as a stream of blocks, so that memory does not grow with the recording."""

import soundfile

from speechmill.pipeline.audio.containers.recognize import Recording, recognize
from speechmill.pipeline.audio.ffmpeg import Gaps, read_with_ffmpeg
from speechmill.pipeline.audio.flac import read_flac
from speechmill.pipeline.audio.libopus import libopus
from speechmill.pipeline.audio.opus import read_ogg_opus
from speechmill.pipeline.audio.samples import BLOCK, Limits, Source, check_size
from speechmill.pipeline.audio.sndfile import read_with_libsndfile, stream_of
from speechmill.pipeline.blob import Blob
from speechmill.pipeline.errors import UndecodableAudio
from speechmill.pipeline.mislabelled import describe_mislabelled

# Part of the identity of a dataset; it goes up if a file may give other samples than before.
AUDIO_VERSION = 3

_FLAC_BITS = 24  # of a sample: more are not exact in float32, and dr_flac would not round them
_AT_ONCE = 8 * BLOCK  # samples of all channels, for a decoder that cannot decode in blocks


def open_audio(data: Blob, limits: Limits, gaps: Gaps = Gaps.REJECT) -> Source:
    """Start to decode a file of the formats that docs/guide/tokenize.md lists.

    Raises a `SampleError` for a file that is damaged or over the limits, here or while the blocks
    are read; the blocks before the error must not be used.
    """
    return open_recording(recognized(data), limits, gaps)


def recognized(data: Blob) -> Recording:
    """The container of a file; raises `UndecodableAudio` if it is not supported."""
    recording = recognize(data)
    if recording is None:
        raise UndecodableAudio(_unsupported(data))
    return recording


def open_recording(recording: Recording, limits: Limits, gaps: Gaps) -> Source:
    """The same as `open_audio`, for a file whose container is known."""
    if not recording.by_libsndfile:
        return read_with_ffmpeg(recording, limits, gaps)
    if recording.flac and recording.flac.sample_bits <= _FLAC_BITS:
        header = recording.flac
        if header.num_samples * header.num_channels <= _AT_ONCE:
            return _read_flac(recording, limits)
    if recording.opus and libopus():
        return read_ogg_opus(recording.links, limits)
    try:
        return read_with_libsndfile(recording, limits)
    except UndecodableAudio as error:
        return _second_opinion(recording, limits, gaps, error)


def open_with_ffmpeg(recording: Recording, limits: Limits) -> Source | None:
    """Decode with FFmpeg what `open_audio` gives to another decoder; None for other files."""
    if not recording.by_libsndfile:
        return None
    return read_with_ffmpeg(recording, limits, Gaps.REJECT)


def _read_flac(recording: Recording, limits: Limits) -> Source:
    header, data = recording.flac, recording.links[0]
    assert header
    rate, channels = header.sample_rate, header.num_channels
    check_size(header.num_samples, rate, channels, limits, "the header claims")
    return Source(rate, channels, iter([read_flac(data, header)]))


def _second_opinion(
    recording: Recording, limits: Limits, gaps: Gaps, refusal: UndecodableAudio
) -> Source:
    """Ask FFmpeg for a file that libsndfile refuses to open."""
    try:
        return read_with_ffmpeg(recording, limits, gaps)
    except UndecodableAudio as error:
        raise UndecodableAudio(f"{error}; libsndfile: {refusal}") from error


def _unsupported(data: Blob) -> str:
    if known := describe_mislabelled(data[:256]):
        return f"the file is {known}"
    try:
        name = soundfile.SoundFile(stream_of(data)).format
    except soundfile.LibsndfileError:
        return "Format not recognised."
    return f"{name} files are not supported, since a cut one looks whole; convert them to FLAC"
