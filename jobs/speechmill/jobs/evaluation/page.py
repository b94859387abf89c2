"""An evaluation as one HTML page that needs no other file: tables, spectrograms, players."""

from dataclasses import dataclass

from speechmill.jobs.evaluation.results import (
    METRICS,
    Results,
    cells,
    columns,
    headings,
    intervals,
    without_score,
)
from speechmill.jobs.report import render
from speechmill.jobs.report.sound import flac_url, spectrogram_url
from speechmill.pipeline.audio.samples import Samples


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
        return flac_url(self.audio_T, self.sample_rate)

    @property
    def picture(self) -> str:
        """Return the spectrogram as a data URL, PNG."""
        return spectrogram_url(self.audio_T, self.sample_rate)

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
        rows=[
            zip(cells(system, list(metrics)), intervals(system, list(metrics)), strict=True)
            for system in results.systems
        ],
        codecs={s.label: s.codec for s in results.systems if s.codec},
        metrics=metrics,
        without_score=without_score(results),
        clips=clips,
    )
