"""Small HASRD codecs of random weights, one for every assumption."""

from functools import cache
from typing import Any

from speechmill.codecs import load_codec
from speechmill.codecs.hasrd.codec import HasrdCodec

LARGE: dict[str, Any] = {
    "conv_dim": [32] * 7,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 6,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_buckets": 40,
    "max_bucket_distance": 60,
}
BASE = LARGE | {"feat_extract_norm": "group", "do_stable_layer_norm": False, "do_normalize": False}
HUBERT = BASE | {"model_type": "hubert", "do_normalize": True, "conv_bias": True}
WHISPER: dict[str, Any] = {
    "model_type": "whisper",
    "d_model": 64,
    "encoder_layers": 4,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
}
TINY: dict[str, Any] = {
    "ssl": LARGE,
    "semantic_layer": 4,
    "semantic_codebook_size": 64,
    "codebook_size": 32,
    "dim": 32,
    "encoder_dim": 4,
    "decoder_dim": 32,
}
HALF_RATE = {
    "pool_factor": 2,
    "encoder_rates": [2, 4, 5, 8, 2],
    "decoder_rates": [2, 8, 5, 4, 2],
    "decoder_dim": 64,
}
CONFIGS = {
    "default": TINY,
    "same": TINY | {"acoustic_source": "same"},
    "conv": TINY | {"acoustic_source": "conv"},
    "factorized": TINY | {"acoustic_quantizer": "factorized"},
    "wavlm-base": TINY | {"ssl": BASE},
    "hubert-base": TINY | {"ssl": HUBERT},
    "whisper": TINY | {"ssl": WHISPER},
    "half-rate": TINY | HALF_RATE,
    "whole-frames": TINY | {"keep_partial": False, "acoustic_source": "conv"},
    "semantic-only": TINY | {"num_codebooks": 1},
}


@cache
def codec(kind: str = "default") -> HasrdCodec:
    loaded = load_codec("hasrd", config=CONFIGS[kind])
    assert isinstance(loaded, HasrdCodec)
    return loaded
