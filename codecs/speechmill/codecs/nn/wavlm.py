"""WavLM (arXiv 2110.13900) and HuBERT (2106.07447), up to the layer whose features are used.

The causal form (FocalCodec-Stream, arXiv 2509.16195) pads every convolution on the left and attends
to a window that ends with the frame's chunk, so that chunks can be computed one by one. The models
of transformers are not used because in their base models padding changes the first norm, and
because they compute attention weights that are not needed.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import log, prod
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.checkpoint import load_strict, merge_weight_norm
from speechmill.codecs.config import receptive_field
from speechmill.codecs.nn.frame_conv import FrameConv1d, Memory
from speechmill.codecs.nn.masks import mask_padding_frames, padding_mask

_PART = 128  # feature frames whose activations fit into a CPU's cache
_TIME_NORM_EPS = 1e-5
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


@dataclass(frozen=True, kw_only=True, slots=True)
class WavLMSizes:
    """The sizes of the layers, and the differences between the models."""

    conv_dims: tuple[int, ...]
    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    num_layers: int
    dim: int
    ffn_dim: int
    heads: int
    positions_kernel: int
    positions_groups: int
    num_buckets: int | None  # of relative positions; None: HuBERT has none
    max_distance: int
    eps: float = 1e-5
    conv_bias: bool = False
    time_norm: bool = False  # base models norm the first convolution over time, the others not
    norm_first: bool = True  # base models norm after attention and perceptron
    short_rows: bool = False  # zeros lengthen rows that are too short for a frame
    causal: bool = False
    window: int = 0  # frames that a causal frame attends to
    chunk: int = 1  # causal frames that attend to each other

    @property
    def hop_length(self) -> int:
        """Samples per feature frame."""
        return prod(self.strides)

    @property
    def first_samples(self) -> int:
        """Number of samples that the first frame needs."""
        return 1 if self.causal else receptive_field(self.kernels, self.strides)


class WavLM(nn.Module):
    """The layers; a subclass defines `forward`."""

    def __init__(self, sizes: WavLMSizes) -> None:
        super().__init__()
        width = sizes.conv_dims[-1]
        self.feature_extractor = WavLMFeatureExtractor(sizes)
        self.norm = nn.LayerNorm(width, eps=sizes.eps)
        self.feature_proj = nn.Linear(width, sizes.dim)
        self.encoder = WavLMEncoder(sizes)

    def features(
        self, audio_BT: Tensor, lengths_B: Tensor | None, memory: Memory | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return x_BFD, the input of the encoder, and each row's frames."""
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


class WavLMFeatureExtractor(nn.Module):
    """Strided convolutions, each followed by a norm and a GELU."""

    def __init__(self, sizes: WavLMSizes) -> None:
        super().__init__()
        widths = (1, *sizes.conv_dims)
        self.layers = nn.ModuleList(
            WavLMConv(sizes, i, width) for i, width in enumerate(widths[:-1])
        )
        self.causal, self.hop = sizes.causal, sizes.hop_length
        self.first_samples = sizes.first_samples
        self.by_parts = not sizes.time_norm

    def forward(
        self, audio_BT: Tensor, lengths_B: Tensor | None, memory: Memory | None
    ) -> tuple[Tensor, Tensor | None]:
        whole = audio_BT.device.type != "cpu" or lengths_B is not None or memory is not None
        if whole or not self.by_parts:
            return self._layers(audio_BT, lengths_B, memory)
        past = Memory() if self.causal else None
        parts = [self._layers(part_BT, None, past)[0] for part_BT in self._parts(audio_BT)]
        return torch.cat(parts, dim=1), None

    def _parts(self, audio_BT: Tensor) -> Iterator[Tensor]:
        """Yield audio of `_PART` frames each; the widest activation of 10 s at once has 65 MB."""
        start, step = 0, _PART * self.hop
        overlap = 0 if self.causal else self.first_samples - self.hop
        while start + step + self.first_samples <= audio_BT.shape[1]:
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


class WavLMConv(nn.Module):
    """A convolution, a norm of each column or (in a base model's first layer) channel, a GELU."""

    def __init__(self, sizes: WavLMSizes, index: int, in_channels: int) -> None:
        super().__init__()
        width, kernel = sizes.conv_dims[index], sizes.kernels[index]
        self.conv = FrameConv1d(
            in_channels,
            width,
            kernel,
            stride=sizes.strides[index],
            padding="replicate" if sizes.causal else "valid",
            bias=sizes.conv_bias,
        )
        self.norm: nn.LayerNorm | TimeNorm | None = None
        if not sizes.time_norm:
            self.norm = nn.LayerNorm(width)
        elif index == 0:
            self.norm = TimeNorm(width)
        self.short_rows = sizes.short_rows and not sizes.causal
        self.first = 1 if sizes.causal else kernel  # columns that the first output column needs

    def forward(
        self, x_BTC: Tensor, lengths_B: Tensor | None, memory: Memory | None
    ) -> tuple[Tensor, Tensor | None]:
        if self.short_rows:
            x_BTC = self._lengthened(x_BTC, lengths_B)
        y_BTC = self.conv(x_BTC, memory=memory)
        if lengths_B is not None:
            columns_B = torch.div(
                lengths_B - self.first, self.conv.stride[0], rounding_mode="floor"
            )
            lengths_B = (columns_B + 1).clamp(min=1)
        if isinstance(self.norm, TimeNorm):
            y_BTC = self.norm(y_BTC, lengths_B)
        elif self.norm is not None:
            y_BTC = self.norm(y_BTC)
        return F.gelu(y_BTC), lengths_B

    def _lengthened(self, x_BTC: Tensor, lengths_B: Tensor | None) -> Tensor:
        """Return x_BTC with zeros where the first frame reads after a short row's end."""
        kernel = self.conv.reach + 1
        if lengths_B is not None:
            head_BKC = mask_padding_frames(x_BTC[:, :kernel], lengths_B)
            x_BTC = torch.cat([head_BKC, x_BTC[:, kernel:]], dim=1)
        missing = kernel - x_BTC.shape[1]
        return F.pad(x_BTC, (0, 0, 0, missing)) if missing > 0 else x_BTC


class TimeNorm(nn.Module):
    """Normalises each channel by its statistics up to the row's end."""

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
        scale_B1C = self.weight * torch.rsqrt(variance_B1C + _TIME_NORM_EPS)
        return torch.addcmul(self.bias - mean_B1C * scale_B1C, x_BTC, scale_B1C)


class WavLMEncoder(nn.Module):
    """Convolutional positions, then transformer layers that share a table of relative positions."""

    def __init__(self, sizes: WavLMSizes) -> None:
        super().__init__()
        self.causal, self.window, self.chunk = sizes.causal, sizes.window, sizes.chunk
        self.max_distance = sizes.max_distance
        self.positional_embedding = WavLMPositions(sizes)
        self.norm = None if sizes.norm_first else nn.LayerNorm(sizes.dim, eps=sizes.eps)
        self.relative_embedding: nn.Embedding | None = None
        if sizes.num_buckets is not None:
            self.relative_embedding = nn.Embedding(sizes.num_buckets, sizes.heads)
        self.layers = nn.ModuleList(WavLMLayer(sizes) for _ in range(sizes.num_layers))

    def forward(
        self, x_BFD: Tensor, lengths_B: Tensor | None, memory: Memory | None = None
    ) -> Iterator[Tensor]:
        """Yield hidden_BFD before the first layer and after each."""
        x_BFD = x_BFD + self.positional_embedding(x_BFD, lengths_B, memory)
        if self.norm is not None:
            x_BFD = self.norm(x_BFD)
        yield x_BFD
        queries, bias_HQK = x_BFD.shape[1], None
        seen = cast(WavLMLayer, self.layers[0]).attention.seen(memory)
        if self.relative_embedding is not None:
            bias_HQK = position_bias(self.relative_embedding, self.max_distance, queries, seen)
        hidden_BQK = self.hidden(x_BFD, lengths_B, seen)
        for layer in self.layers:
            x_BFD = layer(x_BFD, bias_HQK, hidden_BQK, memory)
            yield x_BFD

    def hidden(self, x_BFD: Tensor, lengths_B: Tensor | None, seen: int) -> Tensor | None:
        """Return mask_BQK (B and Q may be 1), True where a query may not attend to a key.

        None: all attend to all. A causal query attends to the `window` keys up to the end of its
        chunk, or of its row.
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


class WavLMPositions(nn.Module):
    """A grouped convolution and a GELU; an even kernel pads one column more on the left."""

    def __init__(self, sizes: WavLMSizes) -> None:
        super().__init__()
        self.conv = FrameConv1d(
            sizes.dim,
            sizes.dim,
            sizes.positions_kernel,
            padding="replicate" if sizes.causal else "valid",
            groups=sizes.positions_groups,
        )

    def forward(self, x_BFD: Tensor, lengths_B: Tensor | None, memory: Memory | None) -> Tensor:
        if self.conv.edges == "valid":
            if lengths_B is not None:
                x_BFD = mask_padding_frames(x_BFD, lengths_B)
            reach = self.conv.reach
            x_BFD = F.pad(x_BFD, (0, 0, (reach + 1) // 2, reach // 2))
        return F.gelu(self.conv(x_BFD, memory=memory))


class WavLMLayer(nn.Module):
    """Attention and a perceptron, each added to its input and normed before or after that."""

    def __init__(self, sizes: WavLMSizes) -> None:
        super().__init__()
        self.norm_first = sizes.norm_first
        self.attention_norm = nn.LayerNorm(sizes.dim, eps=sizes.eps)
        self.attention = WavLMAttention(sizes)
        self.feed_forward_norm = nn.LayerNorm(sizes.dim, eps=sizes.eps)
        self.feed_forward = FeedForward(sizes.dim, sizes.ffn_dim)

    def forward(
        self,
        x_BFD: Tensor,
        bias_HQK: Tensor | None,
        hidden_BQK: Tensor | None,
        memory: Memory | None,
    ) -> Tensor:
        attend = (bias_HQK, hidden_BQK, memory)
        if self.norm_first:
            x_BFD = x_BFD + self.attention(self.attention_norm(x_BFD), *attend)
            return x_BFD.add(self.feed_forward(self.feed_forward_norm(x_BFD)))
        x_BFD = self.attention_norm(x_BFD + self.attention(x_BFD, *attend))
        y_BFD: Tensor = self.feed_forward_norm(x_BFD + self.feed_forward(x_BFD))
        return y_BFD


class WavLMAttention(nn.Module):
    """Self-attention, in WavLM with a position bias that each query gates (section III-B)."""

    def __init__(self, sizes: WavLMSizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.keep = sizes.window - 1  # past frames that a chunk of one frame attends to
        self.qkv_proj = nn.Linear(sizes.dim, 3 * sizes.dim)
        self.out_proj = nn.Linear(sizes.dim, sizes.dim)
        if sizes.num_buckets is not None:
            self.gru_rel_pos_linear = nn.Linear(sizes.dim // sizes.heads, 8)
            self.gru_rel_pos_const = nn.Parameter(torch.ones(1, sizes.heads, 1, 1))

    def forward(
        self,
        x_BFD: Tensor,
        bias_HQK: Tensor | None,
        hidden_BQK: Tensor | None,
        memory: Memory | None,
    ) -> Tensor:
        qkv_BF3HE = self.qkv_proj(x_BFD).view(*x_BFD.shape[:2], 3, self.heads, -1)
        query_BHQE, key_BHKE, value_BHKE = qkv_BF3HE.permute(2, 0, 3, 1, 4)
        if memory is not None:
            key_BHKE, value_BHKE = self._with_past(key_BHKE, value_BHKE, memory)
        mask = None if hidden_BQK is None else ~hidden_BQK[:, None]
        if bias_HQK is not None:
            mask = self._gate(x_BFD) * bias_HQK
            if hidden_BQK is not None:
                mask = mask.masked_fill_(hidden_BQK[:, None], -torch.inf)
            mask = mask.to(query_BHQE.dtype)
        y_BHQE = F.scaled_dot_product_attention(query_BHQE, key_BHKE, value_BHKE, attn_mask=mask)
        output_BFD: Tensor = self.out_proj(y_BHQE.transpose(1, 2).flatten(2))
        return output_BFD

    def seen(self, memory: Memory | None) -> int:
        """Return the number of frames in the memory."""
        return memory[self].shape[3] if memory is not None and self in memory else 0

    def _gate(self, x_BFD: Tensor) -> Tensor:
        """Return gate_BHF1 from each head's part of the input."""
        x_BHFE = x_BFD.view(*x_BFD.shape[:2], self.heads, -1).transpose(1, 2)
        sums_BHF2 = self.gru_rel_pos_linear(x_BHFE).unflatten(-1, (2, 4)).sum(-1)
        one_BHF1, two_BHF1 = torch.sigmoid(sums_BHF2).chunk(2, dim=-1)
        return one_BHF1 * (two_BHF1 * self.gru_rel_pos_const - 1) + 2

    def _with_past(self, key: Tensor, value: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        pair_2BHKE = torch.stack([key, value])
        if self in memory:
            pair_2BHKE = torch.cat([memory[self], pair_2BHKE], dim=3)
        memory[self] = pair_2BHKE[..., max(0, pair_2BHKE.shape[3] - self.keep) :, :]
        return pair_2BHKE[0], pair_2BHKE[1]


class FeedForward(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(dim, ffn_dim)
        self.out_proj = nn.Linear(ffn_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out_proj(F.gelu(self.in_proj(x)))
        return y


def position_bias(
    embedding: nn.Embedding, max_distance: int, queries: int, seen: int = 0
) -> Tensor:
    """Return bias_HQK of queries and of keys, which start `seen` frames before the first query.

    It depends only on their distance: one row per distance is looked up, then shifted.
    """
    distance_N = torch.arange(1 - queries - seen, queries, device=embedding.weight.device)
    bucket_N = _bucket(distance_N, embedding.num_embeddings, max_distance)
    table_HN: Tensor = embedding(bucket_N).T
    return table_HN.unfold(-1, queries + seen, 1).flip(1)


def _bucket(distance_N: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """Return a bucket per signed distance: linear, then logarithmic (arXiv 1910.10683, 2.1)."""
    half = num_buckets // 2
    exact = half // 2
    far_N = distance_N.abs()
    log_N = torch.log(far_N.float() / exact) / log(max_distance / exact)
    log_N = (log_N * (half - exact) + exact).clamp(max=half - 1).long()
    return torch.where(far_N < exact, far_N, log_N) + half * (distance_N > 0)
