"""Who speaks and what is said, judged by models that the user names.

A model is a Hugging Face id or folder, or `package.module:function` of the user's own. Such a
function takes audio_T (float32, 16 kHz) and returns an embedding or a transcript.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from speechmill.pipeline.audio.decoders import Samples
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.imports import load_extra, load_function

RATE = 16_000  # Hz

Embed = Callable[[Samples], Any]
Transcribe = Callable[[Samples], str]


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
    """Cosine of the angle between two embeddings."""
    a, b = np.ravel(one).astype(np.float64), np.ravel(other).astype(np.float64)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms else 0.0


def word_error_rate(texts: Sequence[str], transcripts: Sequence[str]) -> float:
    """Wrong words over spoken words, of all clips together; case and punctuation do not count."""
    metric = load_extra("torchmetrics.functional.text", "evaluate").word_error_rate
    return float(metric([words(t) for t in transcripts], [words(t) for t in texts]))


def words(text: str) -> str:
    """A text as its words are compared."""
    return " ".join(re.findall(r"[^\W_]+(?:['\u2019][^\W_]+)*", text.casefold()))


def _load(name: str, *kinds: Any) -> list[Any]:
    try:
        return [kind.from_pretrained(name) for kind in kinds]
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load {name!r} from Hugging Face: {error}") from error
