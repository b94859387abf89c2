"""A random-access reader: a crop of a recording, without decoding all of it if that is possible."""

import io

import numpy as np
import soundfile

from speechmill.pipeline.audio.containers.flac import check_flac, flac_header
from speechmill.pipeline.audio.resample import AudioSettings, decode_audio
from speechmill.pipeline.audio.samples import Limits, Samples, to_float
from speechmill.pipeline.blob import Blob


class RandomAccessAudio:
    """One recording at the codec's rate, float32.

    Only the requested part of a 16-bit FLAC at that rate is decoded: a crop of 1 s from 10 s takes
    a third of the time. The samples are the same to the last bit; damage outside the crop is not
    noticed. Raises a `SampleError` for audio that is damaged or outside the limits.
    """

    def __init__(
        self, data: Blob, sample_rate: int, settings: AudioSettings, limits: Limits
    ) -> None:
        self._data = data
        self._target = (sample_rate, settings, limits)
        self._whole_T: Samples | None = None
        header = flac_header(data)
        if (
            header is None
            or settings.channels not in ("mean", "first", "error", 0)  # of a file with one
            or (header.sample_bits, header.sample_rate, header.num_channels) != (16, sample_rate, 1)
            or not 0 < header.num_samples <= limits.seconds * sample_rate
        ):
            self.num_samples = len(self._whole())
        else:
            check_flac(data, header)
            self.num_samples = header.num_samples

    def cut(self, start: int, num_samples: int) -> Samples:
        """Return `num_samples` samples, with zeros after the end of the recording."""
        size = min(num_samples, self.num_samples - start)
        part_T = None
        if self._whole_T is None and size < self.num_samples:
            part_T = _read(self._data, start, size)
        if part_T is None:
            part_T = self._whole()[start : start + size]
        return np.pad(part_T, (0, num_samples - len(part_T)))

    def _whole(self) -> Samples:
        if self._whole_T is None:
            self._whole_T = to_float(decode_audio(self._data, *self._target).audio_T)
        return self._whole_T


def _read(data: Blob, start: int, size: int) -> Samples | None:
    """Return None if the part cannot be read; decoding the whole file then raises the reason."""
    try:
        with soundfile.SoundFile(io.BytesIO(data[:])) as file:
            file.seek(start)
            part_T = file.read(size, dtype="int16")
    except soundfile.LibsndfileError:
        return None
    return to_float(part_T) if len(part_T) == size else None
