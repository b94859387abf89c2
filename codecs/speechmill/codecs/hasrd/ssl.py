"""WavLM (arXiv 2110.13900) and HuBERT (2106.07447), cut after the layer that is used.

Modules have the names of transformers' `WavLMModel` and `HubertModel`. Those leak padding into the
first norm of base models and compute attention weights that nobody reads, so they do not serve.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.hasrd.config import SSLConfig
from speechmill.codecs.nn.frame_conv import FrameConv1d, mask_padding_frames
from speechmill.codecs.nn.gated_bias import bias_gate, position_bias
from speechmill.codecs.nn.lengths import mask_padding, padding_mask

_VARIANCE_FLOOR = 1e-7  # that of transformers' feature extractor
_NORM_EPS = 1e-5


class SSLModel(nn.Module):
    """audio_BT to hidden states; every `lengths_B` may be None, then all rows are full."""

    def __init__(self, config: SSLConfig, num_layers: int) -> None:
        super().__init__()
        self.do_normalize = config.do_normalize
        self.edges = (config.overlap // 2, config.overlap - config.overlap // 2)
        self.feature_extractor = FeatureExtractor(config)
        self.feature_projection = FeatureProjection(config)
        self.encoder = TransformerEncoder(config, num_layers)

    def heard(self, audio_BT: Tensor, num_samples_B: Tensor | None = None) -> Tensor:
        """Return audio_BT as the model wants it, zero behind each row's end if it was."""
        return normalized(audio_BT, num_samples_B) if self.do_normalize else audio_BT

    def forward(self, heard_BT: Tensor, lengths_B: Tensor | None = None) -> Iterator[Tensor]:
        """Yield hidden_BFD before the first layer and after each, of T / hop frames.

        Zeros at both ends make the frames so many. With lengths, `heard_BT` is zero behind them.
        """
        x_BFC, frames_B = self.feature_extractor(
            F.pad(heard_BT, self.edges),
            None if lengths_B is None else lengths_B + sum(self.edges),
        )
        yield from self.encoder(self.feature_projection(x_BFC), frames_B)


class FeatureExtractor(nn.Module):
    """Strided convolutions under GELUs."""

    def __init__(self, config: SSLConfig) -> None:
        super().__init__()
        widths = (1, *config.conv_dim)
        self.conv_layers = nn.ModuleList(
            ConvLayer(config, index, width) for index, width in enumerate(widths[:-1])
        )

    def forward(self, audio_BT: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x_BTC = audio_BT[..., None]
        for layer in self.conv_layers:
            x_BTC, lengths_B = layer(x_BTC, lengths_B)
        return x_BTC, lengths_B


class ConvLayer(nn.Module):
    """A convolution, a norm of each column, or in base models of the first layer over time."""

    def __init__(self, config: SSLConfig, index: int, in_channels: int) -> None:
        super().__init__()
        width = config.conv_dim[index]
        self.conv = FrameConv1d(
            in_channels,
            width,
            config.conv_kernel[index],
            stride=config.conv_stride[index],
            padding="valid",
            bias=config.conv_bias,
        )
        if config.feat_extract_norm == "layer":
            self.layer_norm: ColumnNorm | TimeNorm | None = ColumnNorm(width)
        else:
            self.layer_norm = TimeNorm(width) if index == 0 else None

    def forward(self, x_BTC: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x_BTC = self.conv(x_BTC)
        if lengths_B is not None:
            lengths_B = (lengths_B - self.conv.reach - 1) // self.conv.stride[0] + 1
        if self.layer_norm is not None:
            x_BTC = self.layer_norm(x_BTC, lengths_B)
        return F.gelu(x_BTC), lengths_B


class ColumnNorm(nn.LayerNorm):
    """A layer norm, which needs no lengths."""

    def forward(self, x_BTC: Tensor, _: Tensor | None = None) -> Tensor:
        return super().forward(x_BTC)


class TimeNorm(nn.Module):
    """Each channel is normed by its own statistics up to the row's end."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BTC: Tensor, lengths_B: Tensor | None) -> Tensor:
        x_BTC = x_BTC.float()
        if lengths_B is None:
            variance_B1C, mean_B1C = torch.var_mean(x_BTC, 1, correction=0, keepdim=True)
        else:
            count_B11 = lengths_B[:, None, None]
            mean_B1C = mask_padding_frames(x_BTC, lengths_B).sum(1, keepdim=True) / count_B11
            off_BTC = mask_padding_frames(x_BTC - mean_B1C, lengths_B)
            variance_B1C = off_BTC.square_().sum(1, keepdim=True) / count_B11
        scale_B1C = self.weight * torch.rsqrt(variance_B1C + _NORM_EPS)
        return torch.addcmul(self.bias - mean_B1C * scale_B1C, x_BTC, scale_B1C)


class FeatureProjection(nn.Module):
    """A layer norm and a linear layer."""

    def __init__(self, config: SSLConfig) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.conv_dim[-1], eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.conv_dim[-1], config.hidden_size)

    def forward(self, x_BFC: Tensor) -> Tensor:
        y_BFD: Tensor = self.projection(self.layer_norm(x_BFC))
        return y_BFD


class TransformerEncoder(nn.Module):
    """Convolutional positions, then layers that are normed before or, in base models, behind."""

    def __init__(self, config: SSLConfig, num_layers: int) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.max_distance = config.max_bucket_distance
        self.pos_conv_embed = PositionalConv(config)
        self.layer_norm, self.rel_attn_embed = None, None
        if not config.do_stable_layer_norm:
            self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if config.model_type == "wavlm":
            self.rel_attn_embed = nn.Embedding(config.num_buckets, self.heads)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(num_layers))

    def forward(self, x_BFD: Tensor, lengths_B: Tensor | None) -> Iterator[Tensor]:
        frames = x_BFD.shape[1]
        x_BFD = x_BFD + self.pos_conv_embed(x_BFD, lengths_B)
        if self.layer_norm is not None:
            x_BFD = self.layer_norm(x_BFD)
        yield x_BFD
        hidden_BK = None if lengths_B is None else padding_mask(lengths_B, frames)
        bias_HQK = None
        if self.rel_attn_embed is not None:
            bias_HQK = position_bias(self.rel_attn_embed, self.max_distance, frames)
        for layer in self.layers:
            x_BFD = layer(x_BFD, bias_HQK, hidden_BK)
            yield x_BFD


class PositionalConv(nn.Module):
    """A grouped convolution under a GELU; the odd column of an even kernel's zeros goes left."""

    def __init__(self, config: SSLConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.conv = FrameConv1d(
            dim,
            dim,
            config.num_conv_pos_embeddings,
            padding="valid",
            groups=config.num_conv_pos_embedding_groups,
        )

    def forward(self, x_BFD: Tensor, lengths_B: Tensor | None) -> Tensor:
        if lengths_B is not None:
            x_BFD = mask_padding_frames(x_BFD, lengths_B)
        reach = self.conv.reach
        return F.gelu(self.conv(F.pad(x_BFD, (0, 0, (reach + 1) // 2, reach // 2))))


class TransformerLayer(nn.Module):
    """Attention and perceptron, each added to its input and normed before or behind."""

    def __init__(self, config: SSLConfig) -> None:
        super().__init__()
        dim, eps = config.hidden_size, config.layer_norm_eps
        self.norm_first = config.do_stable_layer_norm
        self.attention = Attention(config)
        self.layer_norm = nn.LayerNorm(dim, eps=eps)
        self.feed_forward = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, x_BFD: Tensor, bias_HQK: Tensor | None, hidden_BK: Tensor | None) -> Tensor:
        if self.norm_first:
            x_BFD = x_BFD + self.attention(self.layer_norm(x_BFD), bias_HQK, hidden_BK)
            return x_BFD.add(self.feed_forward(self.final_layer_norm(x_BFD)))
        x_BFD = self.layer_norm(x_BFD + self.attention(x_BFD, bias_HQK, hidden_BK))
        y_BFD: Tensor = self.final_layer_norm(x_BFD + self.feed_forward(x_BFD))
        return y_BFD


class FeedForward(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, config: SSLConfig) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output_dense = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x_BFD: Tensor) -> Tensor:
        y_BFD: Tensor = self.output_dense(F.gelu(self.intermediate_dense(x_BFD)))
        return y_BFD


class Attention(nn.Module):
    """Self-attention, in WavLM with a position bias that each query gates."""

    def __init__(self, config: SSLConfig) -> None:
        super().__init__()
        dim, self.heads = config.hidden_size, config.num_attention_heads
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.q_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        if config.model_type == "wavlm":
            self.gru_rel_pos_linear = nn.Linear(dim // self.heads, 8)
            self.gru_rel_pos_const = nn.Parameter(torch.ones(1, self.heads, 1, 1))

    def forward(self, x_BFD: Tensor, bias_HQK: Tensor | None, hidden_BK: Tensor | None) -> Tensor:
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (self._by_head(projection(x_BFD)) for projection in projections)
        mask = None if hidden_BK is None else ~hidden_BK[:, None, None]
        if bias_HQK is not None:
            mask = self._gated(x_BFD, bias_HQK)
            if hidden_BK is not None:
                mask = mask.masked_fill_(hidden_BK[:, None, None], -torch.inf)
            mask = mask.to(q.dtype)
        y_BHFE = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        y_BFD: Tensor = self.out_proj(y_BHFE.transpose(1, 2).flatten(2))
        return y_BFD

    def _by_head(self, x_BFD: Tensor) -> Tensor:
        return x_BFD.view(*x_BFD.shape[:2], self.heads, -1).transpose(1, 2)

    def _gated(self, x_BFD: Tensor, bias_HQK: Tensor) -> Tensor:
        x_BHFE = self._by_head(x_BFD)
        return bias_gate(x_BHFE, self.gru_rel_pos_linear, self.gru_rel_pos_const) * bias_HQK


def normalized(audio_BT: Tensor, num_samples_B: Tensor | None) -> Tensor:
    """Return audio_BT of zero mean and unit variance in each row, zero behind its end."""
    if num_samples_B is None:
        variance_B1, mean_B1 = torch.var_mean(audio_BT, 1, correction=0, keepdim=True)
        return (audio_BT - mean_B1) * torch.rsqrt(variance_B1 + _VARIANCE_FLOOR)
    count_B1 = num_samples_B[:, None]
    off_BT = mask_padding(audio_BT - audio_BT.sum(1, keepdim=True) / count_B1, num_samples_B)
    variance_B1 = off_BT.square().sum(1, keepdim=True) / count_B1
    return off_BT * torch.rsqrt(variance_B1 + _VARIANCE_FLOOR)
