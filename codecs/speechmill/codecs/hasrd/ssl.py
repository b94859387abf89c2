"""The model whose features HASRD quantizes: WavLM, HuBERT or Whisper's encoder."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from speechmill.codecs.hasrd.config import SSLConfig, WhisperConfig
from speechmill.codecs.hasrd.whisper import WhisperFeatures
from speechmill.codecs.nn.masks import mask_padding
from speechmill.codecs.nn.wavlm.model import WavLM
from speechmill.codecs.nn.wavlm.sizes import WavLMSizes

_VARIANCE_FLOOR = 1e-7  # that of transformers' feature extractor


class SSLModel(WavLM):
    """audio_BT to hidden states of WavLM or HuBERT."""

    def __init__(self, config: SSLConfig, num_layers: int) -> None:
        super().__init__(
            WavLMSizes(
                conv_dims=config.conv_dim,
                kernels=config.conv_kernel,
                strides=config.conv_stride,
                num_layers=num_layers,
                dim=config.hidden_size,
                ffn_dim=config.intermediate_size,
                heads=config.num_attention_heads,
                positions_kernel=config.num_conv_pos_embeddings,
                positions_groups=config.num_conv_pos_embedding_groups,
                num_buckets=config.num_buckets if config.model_type == "wavlm" else None,
                max_distance=config.max_bucket_distance,
                eps=config.layer_norm_eps,
                conv_bias=config.conv_bias,
                time_norm=config.feat_extract_norm == "group",
                norm_first=config.do_stable_layer_norm,
            )
        )
        self.do_normalize = config.do_normalize
        self.edges = (config.overlap // 2, config.overlap - config.overlap // 2)

    def prepare(self, audio_BT: Tensor, num_samples_B: Tensor | None = None) -> Tensor:
        """Return audio_BT as the model expects it; padding stays zero."""
        return normalized(audio_BT, num_samples_B) if self.do_normalize else audio_BT

    def forward(self, prepared_BT: Tensor, lengths_B: Tensor | None = None) -> Iterator[Tensor]:
        """Yield hidden_BFD before the first layer and after each, of T / hop frames.

        Zeros at both ends give that number of frames. The audio must be zero after its lengths.
        """
        if lengths_B is not None:
            lengths_B = lengths_B + sum(self.edges)
        yield from self.encoder(*self.features(F.pad(prepared_BT, self.edges), lengths_B))


FeatureModel = SSLModel | WhisperFeatures


def feature_model(config: SSLConfig | WhisperConfig, num_layers: int) -> FeatureModel:
    """Return the first layers of the model that a configuration names."""
    if isinstance(config, WhisperConfig):
        return WhisperFeatures(config, num_layers)
    return SSLModel(config, num_layers)


def normalized(audio_BT: Tensor, num_samples_B: Tensor | None) -> Tensor:
    """Return audio_BT of zero mean and unit variance in each row, zero after its end."""
    if num_samples_B is None:
        variance_B1, mean_B1 = torch.var_mean(audio_BT, 1, correction=0, keepdim=True)
        return (audio_BT - mean_B1) * torch.rsqrt(variance_B1 + _VARIANCE_FLOOR)
    count_B1 = num_samples_B[:, None]
    off_BT = mask_padding(audio_BT - audio_BT.sum(1, keepdim=True) / count_B1, num_samples_B)
    variance_B1 = off_BT.square().sum(1, keepdim=True) / count_B1
    return off_BT * torch.rsqrt(variance_B1 + _VARIANCE_FLOOR)
