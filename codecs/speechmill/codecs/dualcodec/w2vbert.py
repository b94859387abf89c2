"""w2v-BERT 2.0 (Seamless, arXiv 2312.05187, section 3.2.1), up to the layer that is used.

Conformer layers (arXiv 2005.08100) with a causal convolution and relative positions added to the
attention's keys (arXiv 1803.02155), under the names of transformers' `Wav2Vec2BertModel`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.dualcodec.config import W2VBertConfig
from speechmill.codecs.nn.frame_conv import FrameConv1d
from speechmill.codecs.nn.kernels import fused_dtype
from speechmill.codecs.nn.masks import padding_mask
from speechmill.codecs.nn.norm import LayerNorm
from speechmill.codecs.nn.query_blocks import query_blocks


class W2VBert(nn.Module):
    """features_BSI to hidden_BSD."""

    def __init__(self, config: W2VBertConfig) -> None:
        super().__init__()
        self.feature_projection = W2VBertProjection(config)
        self.layers = nn.ModuleList(
            ConformerLayer(config) for _ in range(config.hidden_state_index)
        )

    def forward(self, features_BSI: Tensor, attended_B: Tensor | None = None) -> Tensor:
        """Return hidden_BSD; frames from `attended_B` on are masked as keys of the attention.

        They start as zeros, but are computed: a clip's last frame may be one of them.
        """
        x_BSD: Tensor = self.feature_projection(features_BSI)
        masked_BS = None if attended_B is None else padding_mask(attended_B, x_BSD.shape[1])
        if masked_BS is not None:
            x_BSD = x_BSD.masked_fill(masked_BS[..., None], 0)
        for layer in self.layers:
            x_BSD = layer(x_BSD, attended_B, masked_BS)
        return x_BSD


class W2VBertProjection(nn.Module):
    """A layer norm and a linear layer."""

    def __init__(self, config: W2VBertConfig) -> None:
        super().__init__()
        width = config.feature_projection_input_dim
        self.layer_norm = LayerNorm(width, eps=config.layer_norm_eps)
        self.projection = nn.Linear(width, config.hidden_size)

    def forward(self, x_BSI: Tensor) -> Tensor:
        y_BSD: Tensor = self.projection(self.layer_norm(x_BSI))
        return y_BSD


class ConformerLayer(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, a norm."""

    def __init__(self, config: W2VBertConfig) -> None:
        super().__init__()
        dim, eps = config.hidden_size, config.layer_norm_eps
        self.ffn1_layer_norm = LayerNorm(dim, eps=eps)
        self.ffn1 = ConformerFeedForward(config)
        self.self_attn_layer_norm = LayerNorm(dim, eps=eps)
        self.self_attn = ConformerAttention(config)
        self.conv_module = ConformerConvolution(config)
        self.ffn2_layer_norm = LayerNorm(dim, eps=eps)
        self.ffn2 = ConformerFeedForward(config)
        self.final_layer_norm = nn.LayerNorm(dim, eps=eps)  # gives the residual stream

    def forward(self, x_BSD: Tensor, attended_B: Tensor | None, masked_BS: Tensor | None) -> Tensor:
        """Return x_BSD; `masked_BS` is True after the first `attended_B` frames of each row."""
        x_BSD = x_BSD.add(self.ffn1(self.ffn1_layer_norm(x_BSD)), alpha=0.5)
        x_BSD = x_BSD + self.self_attn(self.self_attn_layer_norm(x_BSD), attended_B, masked_BS)
        x_BSD = x_BSD + self.conv_module(x_BSD, masked_BS)
        x_BSD = x_BSD.add(self.ffn2(self.ffn2_layer_norm(x_BSD)), alpha=0.5)
        y_BSD: Tensor = self.final_layer_norm(x_BSD)
        return y_BSD


class ConformerFeedForward(nn.Module):
    """Two linear layers with SiLU between."""

    def __init__(self, config: W2VBertConfig) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output_dense = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x_BSD: Tensor) -> Tensor:
        y_BSD: Tensor = self.output_dense(F.silu(self.intermediate_dense(x_BSD)))
        return y_BSD


class ConformerAttention(nn.Module):
    """Self-attention whose scores include an embedding of the clipped distance of the key."""

    def __init__(self, config: W2VBertConfig) -> None:
        super().__init__()
        dim, self.heads = config.hidden_size, config.num_attention_heads
        self.linear_q = nn.Linear(dim, dim)
        self.linear_k = nn.Linear(dim, dim)
        self.linear_v = nn.Linear(dim, dim)
        self.linear_out = nn.Linear(dim, dim)
        self.left = config.left_max_position_embeddings
        self.right = config.right_max_position_embeddings
        self.distance_embedding = nn.Embedding(self.left + self.right + 1, dim // self.heads)

    def forward(self, x_BSD: Tensor, attended_B: Tensor | None, masked_BS: Tensor | None) -> Tensor:
        q_BSD, k_BSD, v_BSD = self.linear_q(x_BSD), self.linear_k(x_BSD), self.linear_v(x_BSD)
        if fused_dtype(x_BSD) is not None:
            from speechmill.codecs.nn.kernels.distance_attention import distance_attention

            score_BSHP = q_BSD.unflatten(-1, (self.heads, -1)) @ self.distance_embedding.weight.T
            y_BSD = distance_attention(q_BSD, k_BSD, v_BSD, score_BSHP, self.left, attended_B)
        else:
            y_BSD = self._attend_in_blocks(q_BSD, k_BSD, v_BSD, masked_BS)
        output_BSD: Tensor = self.linear_out(y_BSD)
        return output_BSD

    def _attend_in_blocks(
        self, q_BSD: Tensor, k_BSD: Tensor, v_BSD: Tensor, masked_BS: Tensor | None
    ) -> Tensor:
        """Return y_BSD, computed in blocks of queries if there are many: biases are dense.

        On a CPU the result is the same, to the last bit, as of the whole.
        """
        q_BHSE, k_BHSE, v_BHSE = (
            x_BSD.view(*x_BSD.shape[:2], self.heads, -1).transpose(1, 2)
            for x_BSD in (q_BSD, k_BSD, v_BSD)
        )
        parts = [
            self._attend(q_BHSE[:, :, block], k_BHSE, v_BHSE, block.start, masked_BS)
            for block in query_blocks(q_BHSE.shape[2])
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _attend(
        self,
        q_BHQE: Tensor,
        k_BHSE: Tensor,
        v_BHSE: Tensor,
        start: int,
        masked_BS: Tensor | None,
    ) -> Tensor:
        bias_BHQK = self._distance_scores(q_BHQE, start, k_BHSE.shape[2])
        if masked_BS is not None:
            bias_BHQK = bias_BHQK.masked_fill_(masked_BS[:, None, None], -torch.inf)
        y_BHQE = F.scaled_dot_product_attention(q_BHQE, k_BHSE, v_BHSE, attn_mask=bias_BHQK)
        return y_BHQE.transpose(1, 2).flatten(2)

    def _distance_scores(self, q_BHQE: Tensor, start: int, keys: int) -> Tensor:
        """Return bias_BHQK of queries from `start` on: a product per distance, then a gather."""
        query_Q1 = torch.arange(start, start + q_BHQE.shape[2], device=q_BHQE.device)[:, None]
        key_K = torch.arange(keys, device=q_BHQE.device)
        position_QK = (key_K - query_Q1).clamp_(-self.left, self.right).add_(self.left)
        scale = q_BHQE.shape[-1] ** -0.5
        score_BHQP: Tensor = (q_BHQE * scale) @ self.distance_embedding.weight.T
        return score_BHQP.gather(-1, position_QK.expand(*score_BHQP.shape[:2], -1, -1))


class ConformerConvolution(nn.Module):
    """Gated linear unit, causal depthwise convolution, norm, SiLU, linear layer."""

    def __init__(self, config: W2VBertConfig) -> None:
        super().__init__()
        dim, eps = config.hidden_size, config.layer_norm_eps
        self.layer_norm = LayerNorm(dim, eps=eps)
        self.pointwise_conv1 = nn.Linear(dim, 2 * dim, bias=False)
        self.depthwise_conv = FrameConv1d(
            dim, dim, config.conv_depthwise_kernel_size, padding="zeros", groups=dim, bias=False
        )
        self.depthwise_layer_norm = LayerNorm(dim, eps=eps)
        self.pointwise_conv2 = nn.Linear(dim, dim, bias=False)

    def forward(self, x_BSD: Tensor, masked_BS: Tensor | None) -> Tensor:
        y_BSD = F.glu(self.pointwise_conv1(self.layer_norm(x_BSD)))
        if masked_BS is not None:
            y_BSD = y_BSD.masked_fill(masked_BS[..., None], 0)
        y_BSD = F.silu(self.depthwise_layer_norm(self.depthwise_conv(y_BSD)))
        output_BSD: Tensor = self.pointwise_conv2(y_BSD)
        return output_BSD
