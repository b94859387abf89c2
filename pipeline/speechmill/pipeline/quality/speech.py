"""Speaker similarity and transcripts of reconstructions, by models that the user names.

A model is a Hugging Face id or folder, the weights of CAM++, or `package.module:function`. Such a
function takes audio_T (float32, 16 kHz) and returns an embedding or a transcript.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from speechmill.pipeline.audio.samples import Samples
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.imports import load_extra, load_function
from speechmill.pipeline.quality import RATE
from speechmill.pipeline.quality.campplus import kaldi_features, load_campplus
from speechmill.pipeline.quality.testset import Utterance
from speechmill.pipeline.quality.transcript_errors import (
    ErrorCount,
    Normalize,
    count_errors,
)

_SHORTEST = RATE // 10  # samples; the models need some frames

Embed = Callable[[Samples], Any]
Transcribe = Callable[[Samples], str]


@dataclass(frozen=True, slots=True)
class SpeechScores:
    """The results of the models for one clip."""

    scores: dict[str, float | None] = field(default_factory=dict)
    transcript: str | None = None
    errors: dict[str, ErrorCount] = field(default_factory=dict)  # of words and of characters


class SpeechMetrics:
    """Scores clips at 16 kHz with the models that are given."""

    def __init__(self, embed: Embed | None, transcribe: Transcribe | None, normalize: Normalize):
        self._embed = embed
        self._transcribe = transcribe
        self._normalize = normalize
        self._references: dict[str, Any] = {}  # embeddings, by key

    def __call__(self, utterance: Utterance, audio_T: Samples) -> SpeechScores:
        scores: dict[str, float | None] = {}
        transcript = None
        errors: dict[str, ErrorCount] = {}
        text = self._normalize(utterance.text or "")
        if len(audio_T) < _SHORTEST:
            names = ["speaker"] if self._embed else []
            names += ["wer", "cer"] if self._transcribe and text else []
            return SpeechScores(dict.fromkeys(names))
        if self._embed:
            reference = self._references.get(utterance.key)
            if reference is None:
                reference = self._references[utterance.key] = self._embed(utterance.reference_T)
            score = similarity(reference, self._embed(audio_T))
            scores["speaker"] = score if math.isfinite(score) else None
        if self._transcribe and text:
            transcript = self._transcribe(audio_T)
            errors = count_errors(text, self._normalize(transcript))
            scores |= {name: count.rate for name, count in errors.items()}
        return SpeechScores(scores, transcript, errors)


def speaker_model(name: str, device: str) -> Embed:
    """Return a function from audio to a speaker embedding.

    The model is CAM++ for a path or URL that ends in .pt, and else an x-vector model such as
    `microsoft/wavlm-base-plus-sv`.
    """
    if name.partition("#")[0].endswith(".pt"):
        return _campplus(name, device)
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


def _campplus(model: str, device: str) -> Embed:
    import torch

    network = load_campplus(model).to(device)

    def embed(audio_T: Samples) -> Any:
        with torch.inference_mode():
            return network(kaldi_features(audio_T)[None].to(device))[0].cpu().numpy()

    return embed


def speech_recognizer(
    name: str, device: str, options: Mapping[str, Any] | None = None
) -> Transcribe:
    """Return a function from audio to its transcript, by a model such as `openai/whisper-base`.

    `options` are arguments of the model's `generate`. Raises `InputError` if it refuses them.
    """
    if ":" in name:
        if options:
            raise InputError(
                f"metrics.recognizer_options is {dict(options)}, but {name!r} is a function; "
                "leave the options out"
            )
        return load_function(name, "metrics.recognizer")
    transformers = load_extra("transformers", "evaluate")
    try:
        recognize = transformers.pipeline(
            "automatic-speech-recognition",
            model=name,
            device=device,
            chunk_length_s=30,
            # Many weights are published in float16, with which a CPU is slow.
            dtype="float32" if device == "cpu" else "auto",
        )
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load {name!r} as a speech recognizer: {error}") from error
    if options:
        _try_options(recognize, options)
    arguments = {"generate_kwargs": dict(options)} if options else {}
    return lambda audio_T: str(recognize(_given(audio_T), **arguments)["text"])


def _try_options(recognize: Any, options: Mapping[str, Any]) -> None:
    """Raise `InputError` unless the model takes the options, before clips are transcribed."""
    one_token = {**options, "max_new_tokens": 1}
    try:
        if not recognize.model.can_generate():
            raise ValueError("it does not generate its text, so it has no options")
        recognize(_given(np.zeros(RATE, np.float32)), generate_kwargs=one_token)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"metrics.recognizer_options is {dict(options)}, which the recognizer refuses: {error} "
            "(leave out what it does not take: English-only Whisper has no language and no task)"
        ) from error


def _given(audio_T: Samples) -> dict[str, Any]:
    return {"raw": audio_T, "sampling_rate": RATE}


def similarity(one: Any, other: Any) -> float:
    """Cosine similarity of two embeddings."""
    a, b = np.ravel(one).astype(np.float64), np.ravel(other).astype(np.float64)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms else 0.0


def _load(name: str, *kinds: Any) -> list[Any]:
    try:
        return [kind.from_pretrained(name) for kind in kinds]
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load {name!r} from Hugging Face: {error}") from error
