"""Our Triton kernels compute what PyTorch computes: on a GPU, or by Triton's interpreter on a CPU.

Collected only by name: `test_kernels.py` runs it in a process of its own, because Triton decides
when it is imported whether it interprets.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from speechmill.codecs.focalcodec.focal import prepare_for_cuda
from speechmill.codecs.focalcodec.published import read_focalcodec_config
from speechmill.codecs.focalcodec.weights import untrained_focalcodec
from speechmill.codecs.nn import norm
from speechmill.codecs.nn.kernels.attention import gated_attention
from speechmill.codecs.nn.kernels.grouped_conv import grouped_conv_gelu
from speechmill.codecs.nn.kernels.layer_norm import layer_norm
from speechmill.codecs.nn.wavlm import encoder
from tests.codecs.focalcodec.small import tiny

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = 1e-2 if DEVICE == "cuda" else 2e-5  # tensor cores round float32 to TF32


@pytest.mark.parametrize("gelu", [False, True])
def test_layer_norm_of_bf16_equals_that_of_float32(gelu: bool) -> None:
    x_BFD = (3 * torch.randn(3, 37, 48, device=DEVICE) + 1).bfloat16()
    weight_D, bias_D = torch.randn(48, device=DEVICE), torch.randn(48, device=DEVICE)
    y_BFD = layer_norm(x_BFD, weight_D, bias_D, 1e-5, torch.float32, gelu)
    expected_BFD = F.layer_norm(x_BFD.float(), (48,), weight_D, bias_D, 1e-5)
    torch.testing.assert_close(y_BFD, F.gelu(expected_BFD) if gelu else expected_BFD)


@pytest.mark.parametrize(("past", "window"), [(0, 1_000), (30, 20)])
def test_gated_attention_equals_that_with_a_dense_bias(past: int, window: int) -> None:
    batch, heads, queries, width = 2, 2, 150, 24
    keys, draw = past + queries, lambda *shape: torch.randn(*shape, device=DEVICE)
    query_BHQE, x_BQD = draw(batch, heads, queries, width), draw(batch, queries, heads * width)
    key_BHKE, value_BHKE = draw(2, batch, keys, heads, width).transpose(2, 3)
    linear = nn.Linear(width, 8, device=DEVICE).requires_grad_(False)
    constant_H, table_HN = draw(heads), draw(heads, queries + keys - 1)
    lengths_B = torch.tensor([queries, 3], device=DEVICE)
    query_Q, key_K = torch.arange(queries, device=DEVICE), torch.arange(keys, device=DEVICE)
    end_BQ = past + torch.minimum(query_Q + 1, lengths_B[:, None])
    sums_BHQ2 = linear(x_BQD.view(batch, queries, heads, -1)).unflatten(-1, (2, 4)).sum(-1)
    one_BQH, two_BQH = torch.sigmoid(sums_BHQ2).unbind(-1)
    gate_BQH = one_BQH * (two_BQH * constant_H - 1) + 2
    bias_HQK = table_HN[:, key_K - query_Q[:, None] + queries - 1]
    hidden_BQK = (key_K >= end_BQ[..., None]) | (key_K < end_BQ[..., None] - window)
    mask = gate_BQH.transpose(1, 2)[..., None] * bias_HQK
    mask = mask.masked_fill(hidden_BQK[:, None], -torch.inf)
    expected_BHQE = F.scaled_dot_product_attention(query_BHQE, key_BHKE, value_BHKE, mask)
    y_BQD = gated_attention(
        query_BHQE, key_BHKE, value_BHKE, end_BQ, window, x_BQD, linear.weight, linear.bias,
        constant_H, table_HN,
    )  # fmt: skip
    expected_BQD = expected_BHQE.transpose(1, 2).flatten(2)
    torch.testing.assert_close(y_BQD, expected_BQD, rtol=0, atol=TOLERANCE)


def test_grouped_convolution_equals_that_of_pytorch() -> None:
    x_BTC, bias_C = torch.randn(2, 150, 40, device=DEVICE), torch.randn(40, device=DEVICE)
    weight_OIK = 0.1 * torch.randn(40, 20, 9, device=DEVICE)
    expected_BCT = F.gelu(F.conv1d(x_BTC.transpose(1, 2), weight_OIK, bias_C, groups=2))
    y_BTC = grouped_conv_gelu(x_BTC, weight_OIK, bias_C)
    torch.testing.assert_close(y_BTC, expected_BCT.transpose(1, 2), rtol=0, atol=TOLERANCE)


def test_network_of_our_kernels_gives_the_latents_of_pytorch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = read_focalcodec_config("focalcodec-50hz", tiny(causal=False))
    network = untrained_focalcodec(sizes, 0).to(DEVICE)
    lengths_B = torch.tensor([3_200, 330, 1], device=DEVICE)
    audio_BT = torch.randn(3, 3_200, device=DEVICE)
    audio_BT = audio_BT.where(torch.arange(3_200, device=DEVICE) < lengths_B[:, None], 0)
    expected_BND = network.latents(audio_BT, lengths_B)
    prepare_for_cuda(network)
    for module in (norm, encoder):
        monkeypatch.setattr(module, "fused_dtype", lambda _: torch.float32)
    latents_BND = network.latents(audio_BT, lengths_B)
    torch.testing.assert_close(latents_BND[0], expected_BND[0], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(latents_BND[1:, :1], expected_BND[1:, :1], rtol=0, atol=TOLERANCE)
