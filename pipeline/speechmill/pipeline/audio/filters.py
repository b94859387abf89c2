"""Which utterances are worth encoding; the others become rows in rejects/."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, reduce
from importlib.metadata import entry_points
from typing import Any

import numpy as np

from speechmill.pipeline.audio.expression import Expression
from speechmill.pipeline.audio.samples import Samples, step_power, to_float
from speechmill.pipeline.errors import (
    CancelledAudio,
    ClippedAudio,
    InputError,
    LowQuality,
    OtherMetadata,
    OverscaledAudio,
    SilentAudio,
    TooLong,
    TooShort,
)
from speechmill.pipeline.imports import load_function

ENTRY_POINT_GROUP = "speechmill.quality"
_STEPS_PER_SECOND = 50  # at which loudness is measured
_FULL_SCALE = 0.999
_SILENT = 1e-9  # mean power of channels whose sum is not judged, below the last bit of 16

Score = Callable[[Samples, int], float]  # float32 samples of one channel, and their rate in Hz


@dataclass
class FilterSettings:
    """The requirements for an utterance; part of a token dataset's identity."""

    min_seconds: float = 0.0  # of an utterance
    max_seconds: float | None = None  # of an utterance
    max_silence: float = 1.0  # share of the utterance that may be quieter than silence_db
    silence_db: float = -60.0  # of full scale
    max_clipping: float = 1.0  # share of the samples that may be at full scale
    max_peak: float | None = 8.0  # of float samples, times full scale; null: any
    min_mix: float = 0.01  # energy of the channels' sum, as a share of the sum of their energies
    metadata: str | None = None  # condition on the sample's JSON, such as `lang == "en"`
    quality: str | None = None  # function(samples, rate) -> score: entry point or module:function
    min_quality: float = 0.0  # the lowest score that passes

    def __post_init__(self) -> None:
        if self.max_seconds is not None and self.max_seconds < self.min_seconds:
            raise InputError(
                f"filters.max_seconds ({self.max_seconds:g}) is below filters.min_seconds "
                f"({self.min_seconds:g})"
            )
        if self.metadata is not None:
            Expression(self.metadata, "filters.metadata")


class Filters:
    """The checks that the settings ask for, cheapest first.

    Raises `InputError` if the quality function cannot be imported.
    """

    def __init__(self, settings: FilterSettings):
        self.settings = settings
        metadata = settings.metadata
        self._condition = Expression(metadata, "filters.metadata") if metadata else None
        self._score = load_score(settings.quality) if settings.quality else None

    def check_metadata(self, fields: Any) -> None:
        """Raise `OtherMetadata` if the condition is false or cannot be evaluated."""
        if self._condition is None:
            return
        try:
            wanted = self._condition(fields)
        except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
            reason = f"{self._condition.text!r} cannot be evaluated: {error}"
            raise OtherMetadata(reason) from error
        if not wanted:
            raise OtherMetadata(f"{self._condition.text!r} is not true")

    def checked(self, blocks: Iterator[Samples], mixed: bool) -> Iterator[Samples]:
        """Yield the blocks, (T, C), of a recording; check their peak and how their mean cancels.

        Raises `OverscaledAudio`, and `CancelledAudio` after the last block if they are `mixed`.
        """
        together = apart = 0.0  # energy of the sum of the channels, sum of their energies
        num_samples = 0
        for block_TC in blocks:
            if block_TC.dtype != np.int16 and self.settings.max_peak is not None:
                _check_peak(block_TC, self.settings.max_peak)
            if mixed and block_TC.shape[1] > 1 and self.settings.min_mix > 0:
                together += _energy(reduce(np.add, block_TC.T))
                apart += _energy(block_TC.ravel(order="K"))
                num_samples += block_TC.size
            yield block_TC
        if apart > _SILENT * num_samples and together < self.settings.min_mix * apart:
            raise CancelledAudio(
                f"the sum of the channels has {together / apart:.2%} of their energy; "
                f"filters.min_mix is {self.settings.min_mix:.2%}; audio.channels=first takes one"
            )

    def check_audio(self, audio_T: Samples, rate: int, seconds: float) -> None:
        """Raise an `Unwanted` that names the filter, the value and the limit.

        `seconds` is the exact length of the utterance.
        """
        settings = self.settings
        if seconds < settings.min_seconds:
            raise TooShort(f"{seconds:.3f} s; filters.min_seconds is {settings.min_seconds:g}")
        if settings.max_seconds is not None and seconds > settings.max_seconds:
            raise TooLong(f"{seconds:.3f} s; filters.max_seconds is {settings.max_seconds:g}")
        if settings.max_silence < 1:
            share = silent_share(audio_T, rate, settings.silence_db)
            if share > settings.max_silence:
                raise SilentAudio(f"{share:.0%} silence; max_silence is {settings.max_silence:.0%}")
        if settings.max_clipping < 1:
            share = float(np.mean(np.abs(to_float(audio_T)) >= _FULL_SCALE))
            if share > settings.max_clipping:
                limit = settings.max_clipping
                raise ClippedAudio(f"{share:.3%} at full scale; max_clipping is {limit:.3%}")
        if self._score is not None:
            score = float(self._score(to_float(audio_T), rate))
            if not score >= settings.min_quality:  # NaN is rejected too
                raise LowQuality(f"{score:.4g}; filters.min_quality is {settings.min_quality:g}")


def _energy(audio_N: Samples) -> float:
    return float(np.dot(audio_N, audio_N))


def _check_peak(block_TC: Samples, limit: float) -> None:
    """Raise `OverscaledAudio`; samples that are not finite are rejected elsewhere."""
    if not block_TC.size:
        return
    peak = max(float(block_TC.max()), -float(block_TC.min()))
    if limit < peak < np.inf:
        raise OverscaledAudio(
            f"a sample of {peak:.4g} times full scale; filters.max_peak is {limit:g}"
        )


def silent_share(audio_T: Samples, rate: int, silence_db: float) -> float:
    """Share of 20 ms steps whose mean power is below a level in dB of full scale."""
    power_S = step_power(audio_T, rate // _STEPS_PER_SECOND)
    return float(np.mean(power_S < 10 ** (silence_db / 10)))


def quality_package(name: str | None) -> str | None:
    """The distribution of a quality function that is an entry point."""
    points = entry_points(group=ENTRY_POINT_GROUP, name=name) if name else ()
    return next((point.dist.name for point in points if point.dist), None)


@cache
def load_score(name: str) -> Score:
    """A quality function by the name of its entry point, or by `package.module:function`."""
    points = entry_points(group=ENTRY_POINT_GROUP, name=name)
    function = next((f"{point.module}:{point.attr}" for point in points), name)
    cure = f"name an entry point of {ENTRY_POINT_GROUP} or write package.module:function"
    return load_function(function, "filters.quality", cure)
