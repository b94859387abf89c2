"""Speaker similarity and transcripts of reconstructions, by models that the user names.

A model is a Hugging Face id or folder, or `package.module:function`. Such a function takes audio_T
(float32, 16 kHz) and returns an embedding or a transcript.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from speechmill.pipeline.audio.samples import Samples
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.imports import load_extra, load_function
from speechmill.pipeline.quality import RATE
from speechmill.pipeline.quality.testset import Utterance

_SHORTEST = RATE // 10  # samples; the models need some frames

Embed = Callable[[Samples], Any]
Transcribe = Callable[[Samples], str]


@dataclass(frozen=True, slots=True)
class SpeechScores:
    """The results of the models for one clip."""

    scores: dict[str, float | None] = field(default_factory=dict)
    transcript: str | None = None


class SpeechMetrics:
    """Scores clips at 16 kHz with the models that are given."""

    def __init__(self, speaker: str | None, recognizer: str | None, device: str):
        self._embed = speaker_model(speaker, device) if speaker else None
        self._transcribe = speech_recognizer(recognizer, device) if recognizer else None
        self._references: dict[str, Any] = {}  # embeddings, by key

    def __call__(self, utterance: Utterance, audio_T: Samples) -> SpeechScores:
        scores: dict[str, float | None] = {}
        transcript = None
        text = utterance.text if utterance.text and words(utterance.text) else None
        if len(audio_T) < _SHORTEST:
            wanted = {"speaker": self._embed, "wer": self._transcribe and text}
            return SpeechScores({name: None for name, value in wanted.items() if value})
        if self._embed:
            reference = self._references.get(utterance.key)
            if reference is None:
                reference = self._references[utterance.key] = self._embed(utterance.reference_T)
            score = similarity(reference, self._embed(audio_T))
            scores["speaker"] = score if math.isfinite(score) else None
        if self._transcribe and text:
            transcript = self._transcribe(audio_T)
            scores["wer"] = word_error_rate([text], [transcript])
        return SpeechScores(scores, transcript)


def speaker_model(name: str, device: str) -> Embed:
    """A function from audio to a speaker embedding, such as `microsoft/wavlm-base-plus-sv`'s."""
    if ":" in name:
        return load_function(name, "metrics.speaker")
    transformers = load_extra("transformers", "evaluate")
    features, network = _load(
        name, transformers.AutoFeatureExtractor, transformers.AutoModelForAudioXVector
    )
    network = network.to(device).eval()

    def embed(audio_T: Samples) -> Any:
        import torch

        given = features(audio_T, sampling_rate=RATE, return_tensors="pt").to(device)
        with torch.inference_mode():
            return network(**given).embeddings[0].float().cpu().numpy()

    return embed


def speech_recognizer(name: str, device: str) -> Transcribe:
    """A function from audio to its transcript, such as `openai/whisper-base`'s."""
    if ":" in name:
        return load_function(name, "metrics.recognizer")
    transformers = load_extra("transformers", "evaluate")
    try:
        recognize = transformers.pipeline(
            "automatic-speech-recognition", model=name, device=device, chunk_length_s=30
        )
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load {name!r} as a speech recognizer: {error}") from error
    return lambda audio_T: str(recognize({"raw": audio_T, "sampling_rate": RATE})["text"])


def similarity(one: Any, other: Any) -> float:
    """Cosine similarity of two embeddings."""
    a, b = np.ravel(one).astype(np.float64), np.ravel(other).astype(np.float64)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms else 0.0


def word_error_rate(texts: Sequence[str], transcripts: Sequence[str]) -> float:
    """Wrong words over spoken words of all clips; case and punctuation are ignored."""
    metric = load_extra("torchmetrics.functional.text", "evaluate").word_error_rate
    return float(metric([words(t) for t in transcripts], [words(t) for t in texts]))


def words(text: str) -> str:
    """A text normalized for comparison: case-folded words without punctuation."""
    return " ".join(re.findall(r"[^\W_]+(?:['\u2019][^\W_]+)*", text.casefold()))


def _load(name: str, *kinds: Any) -> list[Any]:
    try:
        return [kind.from_pretrained(name) for kind in kinds]
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load {name!r} from Hugging Face: {error}") from error
