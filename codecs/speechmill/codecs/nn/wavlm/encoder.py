"""Transformer layers with convolutional and, in WavLM, relative positions."""

from collections.abc import Iterator
from math import log
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.nn.frame_conv import FrameConv1d, Memory
from speechmill.codecs.nn.masks import mask_padding_frames, padding_mask
from speechmill.codecs.nn.norm import LayerNorm
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
        queries, bias_HQK = x_BFD.shape[1], None
        past = cast(WavLMLayer, self.layers[0]).attention.num_past_frames(memory)
        if self.relative_embedding is not None:
            bias_HQK = position_bias(self.relative_embedding, self.max_distance, queries, past)
        masked_BQK = self.masked_keys(x_BFD, lengths_B, past)
        for layer in self.layers:
            x_BFD = layer(x_BFD, bias_HQK, masked_BQK, memory)
            yield x_BFD

    def masked_keys(self, x_BFD: Tensor, lengths_B: Tensor | None, past: int) -> Tensor | None:
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
        end_BQ1 = (past + torch.minimum((chunk_Q + 1) * self.chunk, lengths_B[:, None]))[..., None]
        key_K = torch.arange(past + queries, device=device)
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
        norm = LayerNorm if sizes.norm_first else nn.LayerNorm  # the latter gives a residual stream
        self.attention_norm = norm(sizes.dim, eps=sizes.eps)
        self.attention = WavLMAttention(sizes)
        self.feed_forward_norm = norm(sizes.dim, eps=sizes.eps)
        self.feed_forward = FeedForward(sizes.dim, sizes.ffn_dim)

    def forward(
        self,
        x_BFD: Tensor,
        bias_HQK: Tensor | None,
        masked_BQK: Tensor | None,
        memory: Memory | None,
    ) -> Tensor:
        attend = (bias_HQK, masked_BQK, memory)
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
        masked_BQK: Tensor | None,
        memory: Memory | None,
    ) -> Tensor:
        qkv_BF3HE = self.qkv_proj(x_BFD).view(*x_BFD.shape[:2], 3, self.heads, -1)
        query_BHQE, key_BHKE, value_BHKE = qkv_BF3HE.permute(2, 0, 3, 1, 4)
        if memory is not None:
            key_BHKE, value_BHKE = self._with_past(key_BHKE, value_BHKE, memory)
        mask = None if masked_BQK is None else ~masked_BQK[:, None]
        if bias_HQK is not None:
            mask = self._gate(x_BFD) * bias_HQK
            if masked_BQK is not None:
                mask = mask.masked_fill_(masked_BQK[:, None], -torch.inf)
            mask = mask.to(query_BHQE.dtype)
        y_BHQE = F.scaled_dot_product_attention(query_BHQE, key_BHKE, value_BHKE, attn_mask=mask)
        output_BFD: Tensor = self.out_proj(y_BHQE.transpose(1, 2).flatten(2))
        return output_BFD

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


def position_bias(
    embedding: nn.Embedding, max_distance: int, queries: int, past: int = 0
) -> Tensor:
    """Return bias_HQK of queries and of keys, which start `past` frames before the first query.

    It depends only on their distance: one row per distance is looked up, then shifted.
    """
    distance_N = torch.arange(1 - queries - past, queries, device=embedding.weight.device)
    bucket_N = _bucket(distance_N, embedding.num_embeddings, max_distance)
    table_HN: Tensor = embedding(bucket_N).T
    return table_HN.unfold(-1, queries + past, 1).flip(1)


def _bucket(distance_N: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """Return a bucket per signed distance: linear, then logarithmic (arXiv 1910.10683, 2.1)."""
    half = num_buckets // 2
    exact = half // 2
    far_N = distance_N.abs()
    log_N = torch.log(far_N.float() / exact) / log(max_distance / exact)
    log_N = (log_N * (half - exact) + exact).clamp(max=half - 1).long()
    return torch.where(far_N < exact, far_N, log_N) + half * (distance_N > 0)
