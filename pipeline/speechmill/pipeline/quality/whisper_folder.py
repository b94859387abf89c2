"""Whisper from CTranslate2's format to the folder that transformers loads."""

import json
from collections.abc import Mapping
from typing import Any

from safetensors.numpy import save

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.quality.ctranslate2 import Tensors, read_model, to_transformers

WEIGHTS = "model.safetensors"
_MULTILINGUAL = 51_865  # tokens of a vocabulary with languages; the English one has one less
_END = "<|endoftext|>"
_FEATURES = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "processor_class": "WhisperProcessor",
    "sampling_rate": 16_000,
    "n_fft": 400,
    "hop_length": 160,
    "chunk_length": 30,
    "n_samples": 480_000,
    "nb_max_frames": 3_000,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": False,
}
_TOKENIZER = {
    "tokenizer_class": "WhisperTokenizer",
    "processor_class": "WhisperProcessor",
    "model_max_length": 1024,
    **dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), _END),
}


def transformers_files(model: bytes, config: bytes, tokenizer: bytes) -> dict[str, bytes]:
    """Return the files of the folder by name, from the three files of a converted model.

    The weights keep their type, and transformers loads them in float32. Raises `InputError` if one
    of the files is of another kind.
    """
    tensors = read_model(model)
    try:
        weights = to_transformers(tensors)
        added = json.loads(tokenizer)["added_tokens"]
        ids = {token["content"]: token["id"] for token in added}
        documents = {
            "config.json": _config(tensors, weights, ids),
            "generation_config.json": _generation(json.loads(config), weights, ids),
            "preprocessor_config.json": {
                "feature_size": weights["model.encoder.conv1.weight"].shape[1],
                **_FEATURES,
            },
            "tokenizer_config.json": _TOKENIZER,
        }
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"this is not a Whisper model of CTranslate2: {error!r}") from error
    files = {name: json.dumps(value, indent=1).encode() for name, value in documents.items()}
    return {**files, "tokenizer.json": tokenizer, WEIGHTS: save(weights, {"format": "pt"})}


def _config(tensors: Mapping[str, Any], weights: Tensors, ids: Mapping[str, int]) -> dict[str, Any]:
    """Return the fields of `transformers.WhisperConfig` that depend on the model."""
    sizes: dict[str, int] = {}
    for side, positions in (
        ("encoder", "max_source_positions"),
        ("decoder", "max_target_positions"),
    ):
        own = f"model.{side}"
        layers = [name for name in weights if name.startswith(own) and name.endswith("fc1.weight")]
        sizes |= {
            f"{side}_layers": len(layers),
            f"{side}_attention_heads": int(tensors[f"{side}/num_heads"]),
            f"{side}_ffn_dim": len(weights[f"{own}.layers.0.fc1.weight"]),
            positions: len(weights[f"{own}.embed_positions.weight"]),
        }
    width, mels, _ = weights["model.encoder.conv1.weight"].shape
    return {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "vocab_size": len(weights["model.decoder.embed_tokens.weight"]),
        "d_model": width,
        "num_mel_bins": mels,
        **sizes,
        **_special_tokens(ids),
        "dtype": "float32",
    }


def _generation(
    config: Mapping[str, Any], weights: Tensors, ids: Mapping[str, int]
) -> dict[str, Any]:
    """Return the fields of `transformers.GenerationConfig` that Whisper's generation reads."""
    multilingual = len(weights["model.decoder.embed_tokens.weight"]) >= _MULTILINGUAL
    found = {
        **_special_tokens(ids),
        "max_length": len(weights["model.decoder.embed_positions.weight"]),
        "suppress_tokens": config["suppress_ids"],
        "begin_suppress_tokens": config["suppress_ids_begin"],
        "alignment_heads": config["alignment_heads"],
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "prev_sot_token_id": ids["<|startofprev|>"],
        "max_initial_timestamp_index": 50,
        "return_timestamps": False,
        "is_multilingual": multilingual,
    }
    if multilingual:
        languages = set(config["lang_ids"])
        found["lang_to_id"] = {token: i for token, i in ids.items() if i in languages}
        found["task_to_id"] = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
        found["task"] = "transcribe"
    return found


def _special_tokens(ids: Mapping[str, int]) -> dict[str, int]:
    end = ids[_END]
    return {
        "decoder_start_token_id": ids["<|startoftranscript|>"],
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end),
    }
