"""Small Mimi, EnCodec and DAC, with the keys of transformers."""

from typing import Any

CONFIGS: dict[str, dict[str, Any]] = {
    "mimi": {
        "model_type": "mimi",
        "num_filters": 4,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "sliding_window": 6,
        "upsample_groups": 32,
        "codebook_size": 64,
        "codebook_dim": 16,
        "vector_quantization_hidden_dimension": 16,
        "num_quantizers": 4,
    },
    "encodec": {
        "model_type": "encodec",
        "num_filters": 4,
        "hidden_size": 16,
        "codebook_dim": 16,
        "codebook_size": 64,
        "target_bandwidths": [0.45, 1.8],
    },
    "dac": {
        "model_type": "dac",
        "encoder_hidden_size": 4,
        "hidden_size": 64,
        "decoder_hidden_size": 48,
        "downsampling_ratios": [2, 4, 5, 8],
        "codebook_size": 64,
        "n_codebooks": 3,
    },
}
