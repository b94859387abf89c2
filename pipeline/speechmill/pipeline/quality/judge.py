"""Speaker similarity and transcripts of reconstructions, where the user gives the models."""

from dataclasses import dataclass, field
from typing import Any

from speechmill.pipeline.audio.decoders import Samples
from speechmill.pipeline.quality.speech import (
    similarity,
    speaker_model,
    speech_recognizer,
    word_error_rate,
    words,
)
from speechmill.pipeline.quality.testset import Utterance


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the models found in one clip."""

    scores: dict[str, float | None] = field(default_factory=dict)
    transcript: str | None = None


class Judge:
    """Listens to clips at 16 kHz, one after the other."""

    def __init__(self, speaker: str | None, recognizer: str | None, device: str):
        self._embed = speaker_model(speaker, device) if speaker else None
        self._transcribe = speech_recognizer(recognizer, device) if recognizer else None
        self._voices: dict[str, Any] = {}  # of the references, by key

    def __call__(self, utterance: Utterance, audio_T: Samples) -> Opinion:
        scores: dict[str, float | None] = {}
        transcript = None
        if self._embed:
            voice = self._voices.get(utterance.key)
            if voice is None:
                voice = self._voices[utterance.key] = self._embed(utterance.reference_T)
            scores["speaker"] = similarity(voice, self._embed(audio_T))
        if self._transcribe and utterance.text and words(utterance.text):
            transcript = self._transcribe(audio_T)
            scores["wer"] = word_error_rate([utterance.text], [transcript])
        return Opinion(scores, transcript)
