"""An evaluation as one HTML page that needs no other file: tables, spectrograms, players."""

import base64
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from speechmill.jobs.evaluation.results import (
    METRICS,
    Results,
    cells,
    columns,
    headings,
    without_score,
)
from speechmill.jobs.report import render
from speechmill.pipeline.audio.flac import encode_flac
from speechmill.pipeline.audio.samples import Samples
from speechmill.pipeline.imports import load_extra

_FFT, _HOP = 512, 128
_HEIGHT = 160  # pixels of a spectrogram
_PIXELS_PER_SECOND, _WIDEST = 120, 1600
_RANGE_DB = 80.0  # below the loudest point; everything quieter is black
# Black, violet, orange, pale yellow: brightness grows with level, also for the colour-blind.
_COLOURS = (
    (0, 0, 4),
    (66, 10, 104),
    (147, 38, 103),
    (221, 81, 58),
    (252, 165, 10),
    (252, 255, 164),
)


@dataclass(frozen=True, slots=True)
class Player:
    """One version of a clip."""

    title: str
    audio_T: Samples
    sample_rate: int  # Hz
    scores: dict[str, float | None]

    @property
    def source(self) -> str:
        """Return the audio as a data URL, 16-bit FLAC."""
        data = encode_flac(self.audio_T, self.sample_rate)
        return f"data:audio/flac;base64,{base64.b64encode(data).decode()}"

    @property
    def picture(self) -> str:
        """Return the spectrogram as a data URL, PNG."""
        data = spectrogram_png(self.audio_T, self.sample_rate)
        return f"data:image/png;base64,{base64.b64encode(data).decode()}"

    @property
    def caption(self) -> str:
        shown = [
            f"{METRICS[name].title} {value:.{METRICS[name].digits}f}"
            for name, value in self.scores.items()
            if value is not None and name in METRICS
        ]
        return ", ".join(shown)

    @property
    def top(self) -> str:
        """Return the highest frequency of the spectrogram."""
        return f"{self.sample_rate / 2000:g} kHz"


@dataclass(frozen=True, slots=True)
class PlayedClip:
    """One clip, in every version."""

    key: str
    text: str | None
    players: list[Player]


def evaluation_page(results: Results, clips: list[PlayedClip]) -> str:
    """Return the page as HTML, with players of these clips."""
    metrics = columns(results)
    return render(
        "evaluation.html",
        title="Speechmill evaluation",
        results=results,
        headings=headings(metrics),
        rows=[cells(system, list(metrics)) for system in results.systems],
        codecs={s.label: s.codec for s in results.systems if s.codec},
        metrics=metrics,
        without_score=without_score(results),
        clips=clips,
    )


def spectrogram_png(audio_T: Samples, sample_rate: int) -> bytes:
    """Return level over time and linear frequency, low at the bottom; longer clips are wider."""
    image = load_extra("PIL.Image", "evaluate")
    picture = image.fromarray(_levels(audio_T), mode="P")
    picture.putpalette(_palette())
    width = min(_WIDEST, max(1, round(len(audio_T) / sample_rate * _PIXELS_PER_SECOND)))
    sink = io.BytesIO()
    picture.resize((width, _HEIGHT)).save(sink, "PNG", optimize=True)
    return sink.getvalue()


def _levels(audio_T: Samples) -> npt.NDArray[np.uint8]:
    """Return magnitudes in dB below the loudest, from 0 (quietest) to 255."""
    padded_T = np.pad(audio_T, (_FFT // 2, _FFT))
    frames_NF = np.lib.stride_tricks.sliding_window_view(padded_T, _FFT)[::_HOP]
    magnitudes = np.abs(np.fft.rfft(frames_NF * np.hanning(_FFT)))
    decibels = 20 * np.log10(np.maximum(magnitudes / max(magnitudes.max(), 1e-9), 1e-9))
    levels_NF = (np.clip(1 + decibels / _RANGE_DB, 0, 1) * 255).astype(np.uint8)
    return np.flipud(levels_NF.T)


def _palette() -> list[int]:
    at = np.linspace(0, 1, len(_COLOURS))
    colours = np.array(_COLOURS)
    channels = [np.interp(np.linspace(0, 1, 256), at, colours[:, i]) for i in range(3)]
    return [int(value) for value in np.round(np.stack(channels, 1)).ravel()]
