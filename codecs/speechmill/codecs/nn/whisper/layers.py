"""The layers of Whisper's encoder, under the names that transformers gives them."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.nn.masks import padding_mask
from speechmill.codecs.nn.norm import LayerNorm
from speechmill.codecs.nn.whisper.sizes import STRIDE

_PREFIXES = ("model.encoder.", "encoder.")


class WhisperLayer(nn.Module):
    """Self-attention and a perceptron, each normed first and added to its input; no positions."""

    def __init__(self, dim: int, heads: int, ffn_dim: int) -> None:
        super().__init__()
        self.self_attn = WhisperAttention(dim, heads)
        self.self_attn_layer_norm = LayerNorm(dim)
        self.fc1 = nn.Linear(dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, dim)
        self.final_layer_norm = LayerNorm(dim)

    def forward(self, x_BTD: Tensor, bias_B11T: Tensor | None) -> Tensor:
        """Return y_BTD; `bias_B11T` is 0 for columns to attend to, -inf for others; None: all."""
        x_BTD = x_BTD + self.self_attn(self.self_attn_layer_norm(x_BTD), bias_B11T)
        y_BTD: Tensor = self.fc2(F.gelu(self.fc1(self.final_layer_norm(x_BTD))))
        return x_BTD + y_BTD


class WhisperAttention(nn.Module):
    """Multi-head attention; the keys' projection has no bias."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x_BTD: Tensor, bias_B11T: Tensor | None) -> Tensor:
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (p(x_BTD).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in projections)
        y_BHTE = F.scaled_dot_product_attention(q, k, v, bias_B11T)
        y_BTD: Tensor = self.out_proj(y_BHTE.transpose(1, 2).flatten(-2))
        return y_BTD


def convolve(
    mel_BMT: Tensor,
    num_frames: int,
    conv1: nn.Module,
    conv2: nn.Module,
    activation: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return h_BTD of `num_frames` at 50 Hz, of two convolutions over mel_BMT at 100 Hz.

    The last frame depends on one mel column after its own, of silence or of the clip's end.
    """
    columns = num_frames * STRIDE
    mel_BMT = mel_BMT[..., : columns + 1]
    x_BDT: Tensor = conv1(F.pad(mel_BMT, (1, columns + 1 - mel_BMT.shape[-1])))
    if activation is None:
        h_BDT: Tensor = conv2(F.pad(x_BDT, (1, 0)))
    else:
        h_BDT = activation(conv2(F.pad(activation(x_BDT), (1, 0))))
    return h_BDT.transpose(1, 2)


def attention_bias(h_BTD: Tensor, lengths_B: Tensor | None) -> Tensor | None:
    """Return bias_B11T of a `WhisperLayer`, None if all rows are full.

    It is made once, in the type of the layers: of a boolean mask PyTorch makes a bias in each.
    """
    if lengths_B is None:
        return None
    hidden_B11T = padding_mask(lengths_B, h_BTD.shape[1])[:, None, None]
    return torch.zeros_like(hidden_B11T, dtype=h_BTD.dtype).masked_fill_(hidden_B11T, -torch.inf)


def encoder_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the encoder's weights of transformers' Whisper, whole or its encoder, in float32."""
    prefix = next((p for p in _PREFIXES if any(key.startswith(p) for key in state)), "")
    return {
        key.removeprefix(prefix): value.float()
        for key, value in state.items()
        if key.startswith(prefix)
    }
