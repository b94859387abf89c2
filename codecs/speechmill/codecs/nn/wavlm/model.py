"""The layers of WavLM and HuBERT, and their weights from transformers."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from speechmill.codecs.checkpoint import load_strict, merge_weight_norm
from speechmill.codecs.nn.frame_conv import Memory
from speechmill.codecs.nn.norm import LayerNorm
from speechmill.codecs.nn.wavlm.encoder import WavLMEncoder
from speechmill.codecs.nn.wavlm.features import WavLMFeatureExtractor
from speechmill.codecs.nn.wavlm.sizes import WavLMSizes

_POSITIONS = "encoder.positional_embedding.conv."
_FACTORS = {  # of the positions' weight norm, before and after PyTorch renamed them
    "encoder.pos_conv_embed.conv.weight_g": "length",
    "encoder.pos_conv_embed.conv.weight_v": "direction",
    "encoder.pos_conv_embed.conv.parametrizations.weight.original0": "length",
    "encoder.pos_conv_embed.conv.parametrizations.weight.original1": "direction",
}
_NAMES = (  # transformers', and ours
    (r"^feature_extractor\.conv_layers\.(\d+)\.layer_norm\.", r"feature_extractor.layers.\1.norm."),
    (r"^feature_extractor\.conv_layers\.", "feature_extractor.layers."),
    (r"^feature_projection\.layer_norm\.", "norm."),
    (r"^feature_projection\.projection\.", "feature_proj."),
    (r"^encoder\.pos_conv_embed\.conv\.", _POSITIONS),
    (r"^encoder\.layer_norm\.", "encoder.norm."),
    (r"^encoder\.layers\.0\.attention\.rel_attn_embed\.", "encoder.relative_embedding."),
    (r"(\.\d+)\.layer_norm\.", r"\1.attention_norm."),
    (r"\.final_layer_norm\.", ".feed_forward_norm."),
    (r"\.intermediate_dense\.", ".in_proj."),
    (r"\.output_dense\.", ".out_proj."),
)


class WavLM(nn.Module):
    """The layers; a subclass defines `forward`."""

    def __init__(self, sizes: WavLMSizes) -> None:
        super().__init__()
        width = sizes.conv_dims[-1]
        self.feature_extractor = WavLMFeatureExtractor(sizes)
        self.norm = LayerNorm(width, eps=sizes.eps)
        self.feature_proj = nn.Linear(width, sizes.dim)
        self.encoder = WavLMEncoder(sizes)

    def features(
        self, audio_BT: Tensor, lengths_B: Tensor | None, memory: Memory | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return x_BFD, the input of the encoder, and each row's frames.

        The audio must be zero after its lengths.
        """
        x_BFC, lengths_B = self.feature_extractor(audio_BT, lengths_B, memory)
        return self.feature_proj(self.norm(x_BFC)), lengths_B

    def load_transformers(self, state: Mapping[str, Tensor], source: str = "state") -> None:
        """Load the weights of these layers from transformers' `WavLMModel` or `HubertModel`."""
        load_strict(self, self._renamed(state), source)

    def _renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        ours: dict[str, Tensor] = {}
        factors: dict[str, Tensor] = {}
        for key, value in state.items():
            layer = re.match(r"encoder\.layers\.(\d+)\.", key)
            if key == "masked_spec_embed" or (layer and int(layer[1]) >= len(self.encoder.layers)):
                continue
            if key.startswith("encoder.layer_norm.") and self.encoder.norm is None:
                continue  # after the last layer
            if key in _FACTORS:
                factors[_FACTORS[key]] = value
                continue
            for pattern, replacement in _NAMES:
                key = re.sub(pattern, replacement, key)
            ours[key] = value.view(1, -1, 1, 1) if key.endswith("gru_rel_pos_const") else value
        if len(factors) == 2:
            ours[f"{_POSITIONS}weight"] = merge_weight_norm(factors["direction"], factors["length"])
        return join_projections(ours)


def join_projections(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state in which each attention's three projections are one matrix."""
    for key in [key for key in state if ".q_proj." in key]:
        parts = [state.pop(key.replace(".q_proj.", f".{name}_proj."), None) for name in "qkv"]
        present = [part for part in parts if part is not None]
        state[key.replace(".q_proj.", ".qkv_proj.")] = torch.cat(present)
    return state
