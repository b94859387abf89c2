"""Small FocalCodecs of random weights, one for every published option."""

FOCAL = {"hidden_dims": [48, 32], "focal_window": 4, "window_size": 16}
ENCODER = {"hidden_dims": [32] * 7, "dim": 64, "ffn_dim": 96, "num_heads": 4, "num_layers": 2}


def tiny(*, causal: bool = False, factor: int = 1, **focal: bool) -> dict[str, object]:
    """A configuration with the published keys; `factor` is the number of frames per token."""
    common = {**FOCAL, **focal, "causal": causal}
    conv = {"conv_pos": 18, "conv_pos_groups": 4, "window_size": 20}
    down, up = {"downscale_factors": [factor, 1]}, {"upscale_factors": [1, factor]}
    return {
        "encoder_config": {**ENCODER, **conv, "causal": causal},
        "compressor_config": {**common, **down, "input_dim": 64, "output_dim": 10},
        "quantizer_config": {"codebook_size": 1024},
        "decompressor_config": {**common, **up, "input_dim": 10, "output_dim": 64},
        "decoder_name": "WaveNeXt" if causal else "Vocos",
        "decoder_config": {"input_dim": 64, "dim": 32, "ffn_dim": 48, "causal": causal},
    }


CONFIGS = {
    "25hz": tiny(factor=2),
    "17hz": tiny(factor=3),
    "all options": tiny(use_post_norm=True, use_layerscale=True, normalize_modulator=True),
    "causal 25hz": tiny(causal=True, factor=2),
}
