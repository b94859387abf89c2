"""A stretch of a recording, without decoding all that lies around it where that can be had."""

import io

import numpy as np
import soundfile

from speechmill.pipeline.audio.decoders import Limits, Samples, to_float
from speechmill.pipeline.audio.flac import flac_header
from speechmill.pipeline.audio.resample import AudioSettings, decode_audio
from speechmill.pipeline.blob import Blob


class Recording:
    """One clip at the codec's rate, float32.

    Of 16-bit FLAC at that rate only what is asked for is decoded: of 10 s, a stretch of 1 s takes a
    third of the time. It is the same to the last bit; damage outside of it goes unseen. Raises a
    `SampleError` for audio that is damaged or not wanted.
    """

    def __init__(
        self, data: Blob, sample_rate: int, settings: AudioSettings, limits: Limits
    ) -> None:
        self._data = data
        self._kind = (sample_rate, settings, limits)
        self._whole_T: Samples | None = None
        header = flac_header(data)
        if (
            header is None
            or (header.sample_rate, header.num_channels) != (sample_rate, 1)
            or header.num_samples / sample_rate > limits.seconds
        ):
            self.num_samples = len(self._whole())
        else:
            self.num_samples = header.num_samples

    def cut(self, start: int, num_samples: int) -> Samples:
        """Return so many samples, with zeros behind the recording's end."""
        size = min(num_samples, self.num_samples - start)
        part_T = None
        if self._whole_T is None and size < self.num_samples:
            part_T = _read(self._data, start, size)
        if part_T is None:
            part_T = self._whole()[start : start + size]
        return np.pad(part_T, (0, num_samples - len(part_T)))

    def _whole(self) -> Samples:
        if self._whole_T is None:
            self._whole_T = to_float(decode_audio(self._data, *self._kind).audio_T)
        return self._whole_T


def _read(data: Blob, start: int, size: int) -> Samples | None:
    """Return None for what cannot be read so: whoever decodes it whole will say why."""
    try:
        with soundfile.SoundFile(io.BytesIO(data[:])) as file:
            file.seek(start)
            part_T = file.read(size, dtype="int16")
    except soundfile.LibsndfileError:
        return None
    return to_float(part_T) if len(part_T) == size else None
