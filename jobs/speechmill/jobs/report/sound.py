"""Audio for a page: a player's file and a spectrogram, both inside of the page."""

import base64
import struct
import zlib

import numpy as np
import numpy.typing as npt

from speechmill.pipeline.audio.flac import encode_flac
from speechmill.pipeline.audio.samples import Samples

_WINDOW_SECONDS = 0.032
_BANDS = 104  # rows of pixels
_COLUMNS_PER_SECOND, _MOST_COLUMNS = 64, 1024
_LEVELS = 32  # colours: more make the file larger, not clearer
_RANGE_DB = 75.0  # below the loudest point; everything quieter is black
# Black, violet, orange, pale yellow: brightness grows with level, also for the colour-blind.
_COLOURS = (
    (0, 0, 4),
    (66, 10, 104),
    (147, 38, 103),
    (221, 81, 58),
    (252, 165, 10),
    (252, 255, 164),
)


def flac_url(audio_T: Samples, sample_rate: int) -> str:
    """Return the audio as a data URL, 16-bit FLAC."""
    return _data_url("audio/flac", encode_flac(audio_T, sample_rate))


def spectrogram_url(audio_T: Samples, sample_rate: int, top: float | None = None) -> str:
    """Return the spectrogram as a data URL, PNG."""
    return _data_url("image/png", spectrogram_png(audio_T, sample_rate, top))


def spectrogram_png(audio_T: Samples, sample_rate: int, top: float | None = None) -> bytes:
    """Return level over time and linear frequency up to `top` Hz, low at the bottom.

    By default `top` is half of the sample rate. Longer audio is wider, up to a limit.
    """
    columns = round(len(audio_T) / sample_rate * _COLUMNS_PER_SECOND)
    levels_FC = _levels(audio_T, sample_rate, min(_MOST_COLUMNS, max(2, columns)))
    nyquist = sample_rate / 2
    rows = max(1, round(_BANDS * nyquist / (top or nyquist)))
    pixels = np.zeros((_BANDS, levels_FC.shape[1]), np.uint8)
    shown = _averaged(levels_FC, rows)[:_BANDS]
    pixels[: len(shown)] = np.clip(1 + shown / _RANGE_DB, 0, 1) * (_LEVELS - 1)
    return png(np.flipud(pixels), _palette())


def _levels(audio_T: Samples, sample_rate: int, columns: int) -> npt.NDArray[np.float64]:
    """Return magnitudes in dB below the loudest, in `columns` windows spread over the audio."""
    window = max(16, round(_WINDOW_SECONDS * sample_rate))
    padded_T = np.pad(audio_T, (window // 2, window))
    starts_C = np.linspace(0, max(0, len(audio_T) - 1), columns).astype(int)
    frames_CW = np.lib.stride_tricks.sliding_window_view(padded_T, window)[starts_C]
    magnitudes_CF = np.abs(np.fft.rfft(frames_CW * np.hanning(window)))
    loudest = max(float(magnitudes_CF.max()), 1e-9)
    return 20 * np.log10(np.maximum(magnitudes_CF / loudest, 1e-9)).T


def _averaged(levels_FC: npt.NDArray[np.float64], rows: int) -> npt.NDArray[np.float64]:
    """Return the levels in `rows` bands of equal width."""
    edges = np.linspace(0, len(levels_FC), rows + 1)
    starts = np.minimum(edges[:-1].astype(int), len(levels_FC) - 1)
    stops = np.maximum(edges[1:].astype(int), starts + 1)
    sums = np.vstack([np.zeros(levels_FC.shape[1]), np.cumsum(levels_FC, axis=0)])
    means: npt.NDArray[np.float64] = (sums[stops] - sums[starts]) / (stops - starts)[:, None]
    return means


def _palette() -> npt.NDArray[np.uint8]:
    at = np.linspace(0, 1, _LEVELS)
    known = np.linspace(0, 1, len(_COLOURS))
    channels = [np.interp(at, known, np.array(_COLOURS)[:, i]) for i in range(3)]
    return np.round(np.stack(channels, 1)).astype(np.uint8)


def png(pixels_HW: npt.NDArray[np.uint8], palette_N3: npt.NDArray[np.uint8]) -> bytes:
    """Return an image whose pixels are positions in a palette (PNG, colour type 3)."""
    height, width = pixels_HW.shape
    lines = np.pad(pixels_HW, ((0, 0), (1, 0)))  # each begins with its filter: none
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette_N3.tobytes()),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
