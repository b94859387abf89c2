"""WavLM (arXiv 2110.13900) up to the layer that FocalCodec uses, offline or causal.

The features are the residual stream after the last layer, with no norm after it. The causal form
(arXiv 2509.16195) pads every convolution on the left and attends to a window that ends with the
frame's chunk, so that chunks may come one by one.
"""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.focalcodec.config import WavLMConfig
from speechmill.codecs.nn.focal import FeedForward
from speechmill.codecs.nn.frame_conv import FrameConv1d, Memory, mask_padding_frames
from speechmill.codecs.nn.gated_bias import bias_gate, position_bias
from speechmill.codecs.nn.lengths import padding_mask

_PART = 128  # feature frames whose columns fit into a CPU's cache together


class WavLM(nn.Module):
    """audio_BT to features_BFD; `num_frames_B` are the feature frames of each row."""

    def __init__(self, config: WavLMConfig) -> None:
        super().__init__()
        self.feature_extractor = FeatureExtractor(config)
        self.norm = nn.LayerNorm(config.hidden_dims[-1])
        self.feature_proj = nn.Linear(config.hidden_dims[-1], config.dim)
        self.encoder = TransformerEncoder(config)

    def forward(
        self,
        audio_BT: Tensor,
        num_samples_B: Tensor | None = None,
        memory: Memory | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the features and each row's frames."""
        x_BFC, lengths_B = self.feature_extractor(audio_BT, num_samples_B, memory)
        x_BFD = self.feature_proj(self.norm(x_BFC))
        return self.encoder(x_BFD, lengths_B, memory), lengths_B


class FeatureExtractor(nn.Module):
    """Strided convolutions, each layer-normed and under a GELU."""

    def __init__(self, config: WavLMConfig) -> None:
        super().__init__()
        sizes = zip(
            (1, *config.hidden_dims),
            config.hidden_dims,
            config.kernel_sizes,
            config.strides,
            strict=False,
        )
        self.layers = nn.ModuleList(ConvBlock(*size, causal=config.causal) for size in sizes)
        self.causal, self.hop = config.causal, config.hop_length
        self.least = 1 if config.causal else config.receptive_field  # samples, of a frame

    def forward(
        self, audio_BT: Tensor, lengths_B: Tensor | None, memory: Memory | None
    ) -> tuple[Tensor, Tensor | None]:
        if audio_BT.device.type != "cpu" or lengths_B is not None or memory is not None:
            return self._layers(audio_BT, lengths_B, memory)
        past = Memory() if self.causal else None
        parts = [self._layers(part_BT, None, past)[0] for part_BT in self._parts(audio_BT)]
        return torch.cat(parts, dim=1), None

    def _parts(self, audio_BT: Tensor) -> Iterator[Tensor]:
        """Yield what gives `_PART` frames each: the widest layer of 10 s is of 65 MB at once."""
        start, step = 0, _PART * self.hop
        overlap = 0 if self.causal else self.least - self.hop
        while start + step + self.least <= audio_BT.shape[1]:
            yield audio_BT[:, start : start + step + overlap]
            start += step
        yield audio_BT[:, start:]

    def _layers(
        self, audio_BT: Tensor, lengths_B: Tensor | None, memory: Memory | None
    ) -> tuple[Tensor, Tensor | None]:
        x_BTC = audio_BT[..., None]
        for layer in self.layers:
            x_BTC, lengths_B = layer(x_BTC, lengths_B, memory)
        return x_BTC, lengths_B


class ConvBlock(nn.Module):
    """A row shorter than the kernel is lengthened with zeros, so that one sample gives a frame."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, *, causal: bool
    ) -> None:
        super().__init__()
        self.conv = FrameConv1d(
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            padding="replicate" if causal else "valid",
            bias=False,
        )
        self.norm = nn.LayerNorm(out_channels)
        self.first = 1 if causal else kernel  # samples that it takes to give a frame

    def forward(
        self, x_BTC: Tensor, lengths_B: Tensor | None, memory: Memory | None
    ) -> tuple[Tensor, Tensor | None]:
        if self.conv.edges == "valid":
            x_BTC = self._lengthened(x_BTC, lengths_B)
        y_BTC: Tensor = F.gelu(self.norm(self.conv(x_BTC, memory=memory)))
        return y_BTC, None if lengths_B is None else self._out_lengths(lengths_B)

    def _lengthened(self, x_BTC: Tensor, lengths_B: Tensor | None) -> Tensor:
        """Return x_BTC with zeros where the first frame reads behind a short row's end."""
        kernel = self.conv.reach + 1
        if lengths_B is not None:
            head_BKC = mask_padding_frames(x_BTC[:, :kernel], lengths_B)
            x_BTC = torch.cat([head_BKC, x_BTC[:, kernel:]], dim=1)
        missing = kernel - x_BTC.shape[1]
        return F.pad(x_BTC, (0, 0, 0, missing)) if missing > 0 else x_BTC

    def _out_lengths(self, lengths_B: Tensor) -> Tensor:
        stride = self.conv.stride[0]
        return (torch.div(lengths_B - self.first, stride, rounding_mode="floor") + 1).clamp(min=1)


class TransformerEncoder(nn.Module):
    """Convolutional positions, then pre-norm layers that share one table of relative positions."""

    def __init__(self, config: WavLMConfig) -> None:
        super().__init__()
        self.causal = config.causal
        self.window = config.window_size
        self.chunk = config.chunk_frames
        self.max_distance = config.max_distance
        self.positional_embedding = PositionalEmbedding(config)
        self.relative_embedding = nn.Embedding(config.num_buckets, config.num_heads)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))

    def forward(self, x_BFD: Tensor, lengths_B: Tensor | None, memory: Memory | None) -> Tensor:
        # in half precision too, the sum over all layers is kept in float32
        x_BFD = x_BFD.float() + self.positional_embedding(x_BFD, lengths_B, memory)
        seen = cast(TransformerLayer, self.layers[0]).attention.seen(memory)
        queries = x_BFD.shape[1]
        bias_HQK = position_bias(self.relative_embedding, self.max_distance, queries, seen)
        hidden_BQK = self.hidden(x_BFD, lengths_B, seen)
        for layer in self.layers:
            x_BFD = layer(x_BFD, bias_HQK, hidden_BQK, memory)
        return x_BFD

    def hidden(self, x_BFD: Tensor, lengths_B: Tensor | None, seen: int) -> Tensor | None:
        """Return mask_BQK (B may be 1), True where a query may not see a key; None: all are seen.

        A causal query sees the `window` keys up to the end of its chunk, or of its row.
        """
        queries, device = x_BFD.shape[1], x_BFD.device
        if not self.causal:
            return None if lengths_B is None else padding_mask(lengths_B, queries)[:, None]
        if lengths_B is None:
            lengths_B = torch.full((1,), queries, device=device)
        chunk_Q = torch.arange(queries, device=device) // self.chunk
        end_BQ1 = (seen + torch.minimum((chunk_Q + 1) * self.chunk, lengths_B[:, None]))[..., None]
        key_K = torch.arange(seen + queries, device=device)
        return (key_K < end_BQ1 - self.window) | (key_K >= end_BQ1)


class PositionalEmbedding(nn.Module):
    """A grouped convolution under a GELU; the odd column of an even kernel's zeros goes left."""

    def __init__(self, config: WavLMConfig) -> None:
        super().__init__()
        self.conv = FrameConv1d(
            config.dim,
            config.dim,
            config.conv_pos,
            padding="replicate" if config.causal else "valid",
            groups=config.conv_pos_groups,
        )

    def forward(self, x_BFD: Tensor, lengths_B: Tensor | None, memory: Memory | None) -> Tensor:
        if self.conv.edges == "valid":
            if lengths_B is not None:
                x_BFD = mask_padding_frames(x_BFD, lengths_B)
            reach = self.conv.reach
            x_BFD = F.pad(x_BFD, (0, 0, (reach + 1) // 2, reach // 2))
        return F.gelu(self.conv(x_BFD, memory=memory))


class TransformerLayer(nn.Module):
    """Attention and perceptron, each normed before and added to its input."""

    def __init__(self, config: WavLMConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.dim)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.LayerNorm(config.dim)
        self.feed_forward = FeedForward(config.dim, config.ffn_dim)

    def forward(
        self, x_BFD: Tensor, bias_HQK: Tensor, hidden_BQK: Tensor | None, memory: Memory | None
    ) -> Tensor:
        x_BFD = x_BFD + self.attention(self.attention_norm(x_BFD), bias_HQK, hidden_BQK, memory)
        y_BFD: Tensor = self.feed_forward(self.feed_forward_norm(x_BFD))
        return x_BFD + y_BFD


class Attention(nn.Module):
    """Attention whose position bias each query gates (WavLM, section III-B)."""

    def __init__(self, config: WavLMConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.keep = config.window_size - 1  # a chunk of one frame looks back so far
        self.qkv_proj = nn.Linear(config.dim, 3 * config.dim)
        self.out_proj = nn.Linear(config.dim, config.dim)
        self.gru_rel_pos_linear = nn.Linear(config.dim // config.num_heads, 8)
        self.gru_rel_pos_const = nn.Parameter(torch.ones(1, config.num_heads, 1, 1))

    def forward(
        self, x_BFD: Tensor, bias_HQK: Tensor, hidden_BQK: Tensor | None, memory: Memory | None
    ) -> Tensor:
        qkv_BF3HE = self.qkv_proj(x_BFD).view(*x_BFD.shape[:2], 3, self.heads, -1)
        query_BHQE, key_BHKE, value_BHKE = qkv_BF3HE.permute(2, 0, 3, 1, 4)
        if memory is not None:
            key_BHKE, value_BHKE = self._behind_its_past(key_BHKE, value_BHKE, memory)
        bias_BHQK = self._gate(x_BFD) * bias_HQK
        if hidden_BQK is not None:
            bias_BHQK = bias_BHQK.masked_fill_(hidden_BQK[:, None], -torch.inf)
        y_BHQE = F.scaled_dot_product_attention(
            query_BHQE, key_BHKE, value_BHKE, attn_mask=bias_BHQK.to(query_BHQE.dtype)
        )
        output_BFD: Tensor = self.out_proj(y_BHQE.transpose(1, 2).flatten(2))
        return output_BFD

    def seen(self, memory: Memory | None) -> int:
        """Return the number of frames that the memory holds."""
        return memory[self].shape[3] if memory is not None and self in memory else 0

    def _gate(self, x_BFD: Tensor) -> Tensor:
        x_BHFE = x_BFD.view(*x_BFD.shape[:2], self.heads, -1).transpose(1, 2)
        return bias_gate(x_BHFE, self.gru_rel_pos_linear, self.gru_rel_pos_const)

    def _behind_its_past(self, key: Tensor, value: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        pair_2BHKE = torch.stack([key, value])
        if self in memory:
            pair_2BHKE = torch.cat([memory[self], pair_2BHKE], dim=3)
        memory[self] = pair_2BHKE[..., max(0, pair_2BHKE.shape[3] - self.keep) :, :]
        return pair_2BHKE[0], pair_2BHKE[1]
