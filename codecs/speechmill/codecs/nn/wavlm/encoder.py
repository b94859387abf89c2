"""Transformer layers with convolutional and, in WavLM, relative positions."""

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.nn.frame_conv import FrameConv1d, Memory
from speechmill.codecs.nn.kernels import fused_dtype
from speechmill.codecs.nn.masks import mask_padding_frames
from speechmill.codecs.nn.norm import LayerNorm
from speechmill.codecs.nn.wavlm.positions import Attended, relative_biases
from speechmill.codecs.nn.wavlm.sizes import WavLMSizes


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
        attended = self.attended(x_BFD, lengths_B, memory)
        for layer in self.layers:
            x_BFD = layer(x_BFD, attended, memory)
            yield x_BFD

    def attended(self, x_BFD: Tensor, lengths_B: Tensor | None, memory: Memory | None) -> Attended:
        """Return the keys of each query, and their biases."""
        queries = x_BFD.shape[1]
        past = cast(WavLMLayer, self.layers[0]).attention.num_past_frames(memory)
        table_HN = None
        if self.relative_embedding is not None:
            table_HN = relative_biases(self.relative_embedding, self.max_distance, queries, past)
        window = self.window if self.causal else None
        attended = Attended(
            queries, past + queries, self._ends(x_BFD, lengths_B, past), window, table_HN
        )
        blocks = attended.blocks()
        is_fused = table_HN is not None and fused_dtype(x_BFD) is not None
        if is_fused or len(blocks) > 1:
            return attended
        return replace(attended, whole=attended.dense(blocks[0]))

    def _ends(self, x_BFD: Tensor, lengths_B: Tensor | None, past: int) -> Tensor | None:
        """Return end_BQ; that of a causal query is the end of its chunk, or of its row."""
        queries, device = x_BFD.shape[1], x_BFD.device
        if not self.causal:
            return None if lengths_B is None else lengths_B[:, None]
        if lengths_B is None:
            lengths_B = torch.full((1,), queries, device=device)
        chunk_Q = torch.arange(queries, device=device) // self.chunk
        return past + torch.minimum((chunk_Q + 1) * self.chunk, lengths_B[:, None])


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
        dtype = fused_dtype(x_BFD)
        if dtype is not None:
            x_BFD = x_BFD.to(dtype)
        if self.conv.edges == "valid":
            if lengths_B is not None:
                x_BFD = mask_padding_frames(x_BFD, lengths_B)
            reach = self.conv.reach
            x_BFD = F.pad(x_BFD, (0, 0, (reach + 1) // 2, reach // 2))
        if dtype is None:
            return F.gelu(self.conv(x_BFD, memory=memory))
        from speechmill.codecs.nn.kernels.grouped_conv import grouped_conv_gelu

        assert self.conv.bias is not None
        x_BFD = self.conv.with_past(x_BFD, memory)
        y_BFD: Tensor = grouped_conv_gelu(x_BFD, self.conv.weight.to(dtype), self.conv.bias)
        return y_BFD


class WavLMLayer(nn.Module):
    """Attention and a perceptron, each added to its input and normed before or after that."""

    def __init__(self, sizes: WavLMSizes) -> None:
        super().__init__()
        self.norm_first = sizes.norm_first
        norm = LayerNorm if sizes.norm_first else nn.LayerNorm  # the latter gives a residual stream
        self.attention_norm = norm(sizes.dim, eps=sizes.eps)
        self.attention = WavLMAttention(sizes)
        self.feed_forward_norm = norm(sizes.dim, eps=sizes.eps)
        self.feed_forward = FeedForward(sizes.dim, sizes.ffn_dim)

    def forward(self, x_BFD: Tensor, attended: Attended, memory: Memory | None) -> Tensor:
        if self.norm_first:
            x_BFD = x_BFD + self.attention(self.attention_norm(x_BFD), attended, memory)
            return x_BFD.add(self.feed_forward(self.feed_forward_norm(x_BFD)))
        x_BFD = self.attention_norm(x_BFD + self.attention(x_BFD, attended, memory))
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

    def forward(self, x_BFD: Tensor, attended: Attended, memory: Memory | None) -> Tensor:
        qkv_BF3HE = self.qkv_proj(x_BFD).view(*x_BFD.shape[:2], 3, self.heads, -1)
        query_BHQE, key_BHKE, value_BHKE = qkv_BF3HE.permute(2, 0, 3, 1, 4)
        if memory is not None:
            key_BHKE, value_BHKE = self._with_past(key_BHKE, value_BHKE, memory)
        if attended.table_HN is None:
            _, masked_BQK = attended.dense(slice(0, attended.queries))
            seen = None if masked_BQK is None else ~masked_BQK[:, None]
            y_BFD = _attend(query_BHQE, key_BHKE, value_BHKE, seen)
        elif fused_dtype(x_BFD) is not None:
            y_BFD = self._attend_fused(query_BHQE, key_BHKE, value_BHKE, x_BFD, attended)
        else:
            y_BFD = self._attend_in_blocks(query_BHQE, key_BHKE, value_BHKE, x_BFD, attended)
        output_BFD: Tensor = self.out_proj(y_BFD)
        return output_BFD

    def _attend_in_blocks(
        self, query_BHQE: Tensor, key_BHKE: Tensor, value_BHKE: Tensor, x: Tensor, keys: Attended
    ) -> Tensor:
        gate_BHQ1 = self._gate(x)
        parts = [
            _attend(
                query_BHQE[:, :, block],
                key_BHKE,
                value_BHKE,
                _dense_mask(gate_BHQ1[:, :, block], *keys.dense(block)).to(query_BHQE.dtype),
            )
            for block in keys.blocks()
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _attend_fused(
        self, query_BHQE: Tensor, key_BHKE: Tensor, value_BHKE: Tensor, x: Tensor, keys: Attended
    ) -> Tensor:
        from speechmill.codecs.nn.kernels.attention import gated_attention

        assert keys.table_HN is not None
        end_BQ = keys.end_BQ
        if end_BQ is None:
            end_BQ = torch.full((1, 1), keys.keys, device=x.device)
        linear = self.gru_rel_pos_linear
        y_BFD: Tensor = gated_attention(
            query_BHQE,
            key_BHKE,
            value_BHKE,
            end_BQ,
            keys.window or keys.keys,
            x,
            linear.weight,
            linear.bias,
            self.gru_rel_pos_const.flatten(),
            keys.table_HN,
        )
        return y_BFD

    def num_past_frames(self, memory: Memory | None) -> int:
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


def _dense_mask(gate_BHQ1: Tensor, bias_HQK: Tensor | None, masked_BQK: Tensor | None) -> Tensor:
    """Return mask_BHQK; only a model with a table of biases has one."""
    assert bias_HQK is not None
    mask_BHQK = gate_BHQ1 * bias_HQK
    if masked_BQK is None:
        return mask_BHQK
    return mask_BHQK.masked_fill_(masked_BQK[:, None], -torch.inf)


def _attend(
    query_BHQE: Tensor, key_BHKE: Tensor, value_BHKE: Tensor, mask: Tensor | None
) -> Tensor:
    y_BHQE = F.scaled_dot_product_attention(query_BHQE, key_BHKE, value_BHKE, attn_mask=mask)
    return y_BHQE.transpose(1, 2).flatten(2)
