"""Whisper's transformer layers (arXiv 2212.04356, section 2.2), without positions."""

from torch import Tensor, nn
from torch.nn import functional as F


class TransformerLayer(nn.Module):
    """Self-attention and a two-layer perceptron, each normed first and added to its input."""

    def __init__(self, dim: int, heads: int, ffn_dim: int) -> None:
        super().__init__()
        self.self_attn = Attention(dim, heads)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, dim)
        self.final_layer_norm = nn.LayerNorm(dim)

    def forward(self, x_BTD: Tensor, mask_B11T: Tensor | None) -> Tensor:
        """Return y_BTD; `mask_B11T` is True where a column may be attended to, None for all."""
        x_BTD = x_BTD + self.self_attn(self.self_attn_layer_norm(x_BTD), mask_B11T)
        y_BTD: Tensor = self.fc2(F.gelu(self.fc1(self.final_layer_norm(x_BTD))))
        return x_BTD + y_BTD


class Attention(nn.Module):
    """Multi-head attention; keys have no bias."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x_BTD: Tensor, mask_B11T: Tensor | None) -> Tensor:
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (p(x_BTD).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in projections)
        y_BHTE = F.scaled_dot_product_attention(q, k, v, mask_B11T)
        y_BTD: Tensor = self.out_proj(y_BHTE.transpose(1, 2).flatten(-2))
        return y_BTD


def attention_mask(behind_BT: Tensor | None) -> Tensor | None:
    """Return mask_B11T from what lies behind the rows' ends."""
    return None if behind_BT is None else ~behind_BT[:, None, None]
