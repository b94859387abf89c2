"""Which utterances are worth encoding; each that is held back becomes a row in rejects/."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import numpy as np

from speechmill.pipeline.audio.decoders import Samples, to_float
from speechmill.pipeline.audio.expression import Expression
from speechmill.pipeline.errors import (
    ClippedAudio,
    InputError,
    LowQuality,
    OtherMetadata,
    SilentAudio,
    TooLong,
    TooShort,
)

ENTRY_POINT_GROUP = "speechmill.quality"
_STEPS_PER_SECOND = 50  # at which loudness is measured
_FULL_SCALE = 0.999

Score = Callable[[Samples, int], float]  # float32 samples of one channel, and their rate in Hz


@dataclass
class FilterSettings:
    """What an utterance must be like; part of a token dataset's identity."""

    min_seconds: float = 0.0
    max_seconds: float | None = None
    max_silence: float = 1.0  # share of the utterance that may be quieter than silence_db
    silence_db: float = -60.0  # of full scale
    max_clipping: float = 1.0  # share of the samples that may be at full scale
    metadata: str | None = None  # condition on the sample's JSON, such as `lang == "en"`
    quality: str | None = None  # function(samples, rate) -> score: entry point or module:function
    min_quality: float = 0.0

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

    Raises `InputError` for a quality function that cannot be imported.
    """

    def __init__(self, settings: FilterSettings):
        self.settings = settings
        metadata = settings.metadata
        self._condition = Expression(metadata, "filters.metadata") if metadata else None
        self._score = load_score(settings.quality) if settings.quality else None

    def check_metadata(self, fields: Any) -> None:
        """Raise `OtherMetadata` where the condition does not hold, or cannot be judged."""
        if self._condition is None:
            return
        try:
            wanted = self._condition(fields)
        except (TypeError, ValueError, ArithmeticError) as error:
            raise OtherMetadata(f"{self._condition.text!r} cannot be judged: {error}") from error
        if not wanted:
            raise OtherMetadata(f"{self._condition.text!r} is not true")

    def check_audio(self, audio_T: Samples, rate: int, seconds: float) -> None:
        """Raise an `Unwanted` that says which filter, and by how much.

        `seconds` is the length of the utterance, of which `audio_T` may hold context.
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
            if not score >= settings.min_quality:  # not a number is no quality
                raise LowQuality(f"{score:.4g}; filters.min_quality is {settings.min_quality:g}")


def silent_share(audio_T: Samples, rate: int, silence_db: float) -> float:
    """Share of 20 ms steps whose mean power is below a level in dB of full scale."""
    step = rate // _STEPS_PER_SECOND
    padded_T = np.pad(to_float(audio_T), (0, -len(audio_T) % step))
    power_S = np.square(padded_T.reshape(-1, step), dtype=np.float64).mean(axis=1)
    return float(np.mean(power_S < 10 ** (silence_db / 10)))


@cache
def load_score(name: str) -> Score:
    """A function by the name of its entry point, or by `package.module:function`."""
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        if entry_point.name == name:
            return _callable(entry_point.load(), name)
    module, _, function = name.partition(":")
    try:
        return _callable(getattr(import_module(module), function), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"filters.quality is {name!r}: {error}; name an entry point of {ENTRY_POINT_GROUP} or "
            "write package.module:function"
        ) from error


def _callable(found: Any, name: str) -> Score:
    if not callable(found):
        raise InputError(f"filters.quality is {name!r}, which is no function")
    score: Score = found
    return score
