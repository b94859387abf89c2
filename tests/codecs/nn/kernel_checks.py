"""Our Triton kernels compute what PyTorch computes: on a GPU, or by Triton's interpreter on a CPU.

Collected only by name: `test_kernels.py` runs it in a process of its own, because Triton decides
when it is imported whether it interprets.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from speechmill.codecs.nn.conv import _pad_rows
from speechmill.codecs.nn.kernels.attention import gated_attention
from speechmill.codecs.nn.kernels.distance_attention import distance_attention
from speechmill.codecs.nn.kernels.layer_norm import layer_norm
from speechmill.codecs.nn.kernels.snake import fused_snake, reflected_snake
from speechmill.codecs.nn.masks import mask_padding
from speechmill.codecs.nn.snake import AliasFreeSnakeBeta, Snake, snake

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


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
    torch.testing.assert_close(
        y_BQD,
        expected_BHQE.transpose(1, 2).flatten(2),
        rtol=1e-3,
        atol=1e-3 if DEVICE == "cuda" else 1e-5,
    )


@pytest.mark.parametrize("channels_last", [False, True])
def test_snake_is_that_of_pytorch_and_zero_after_each_row(channels_last: bool) -> None:
    layer = Snake(5, channels_last=channels_last).requires_grad_(False).to(DEVICE)
    layer.alpha.uniform_(0.5, 3)
    x_BCT = 3 * torch.randn(2, 5, 5, device=DEVICE)
    lengths_B = None if channels_last else torch.tensor([3, 5], device=DEVICE)
    both = (layer.alpha, layer.alpha)
    y_BCT = fused_snake(x_BCT, both, 1e-9, lengths_B, channels_last)
    with torch.enable_grad():  # PyTorch's operations, also on a GPU
        torch.testing.assert_close(y_BCT, layer(x_BCT, lengths_B))
    half_BCT = fused_snake(x_BCT.bfloat16(), both, 1e-9, lengths_B, channels_last)
    torch.testing.assert_close(half_BCT.float(), y_BCT, atol=0.1, rtol=0.05)


def test_snake_beta_is_that_of_pytorch() -> None:
    layer = AliasFreeSnakeBeta(2).requires_grad_(False).to(DEVICE)
    layer.log_beta.normal_()
    x_BCT = torch.randn(2, 2, 5, device=DEVICE)
    both = (layer.log_alpha.exp(), layer.log_beta.exp())
    with torch.enable_grad():
        expected_BCT = layer._snake(x_BCT)
    torch.testing.assert_close(fused_snake(x_BCT, both, 1e-9, None, False), expected_BCT)


@pytest.mark.parametrize(("left", "right", "stride"), [(3, 3, 1), (27, 27, 1), (4, 4, 8)])
def test_reflected_snake_pads_every_row_like_pytorch(left: int, right: int, stride: int) -> None:
    lengths_B = torch.tensor([1, 7, 40], device=DEVICE)
    x_BCT = torch.randn(3, 2, 40, device=DEVICE)
    y_BCT = reflected_snake(x_BCT, left, right, stride, lengths_B)
    with torch.enable_grad():
        expected_BCT = snake(_pad_rows(x_BCT, left, right, stride, lengths_B))
    assert y_BCT.shape == expected_BCT.shape
    read_B = left + lengths_B + right + -lengths_B % stride  # columns that the convolution reads
    torch.testing.assert_close(mask_padding(y_BCT, read_B), mask_padding(expected_BCT, read_B))


@pytest.mark.parametrize("attended", [None, [150, 1]])
def test_distance_attention_equals_that_with_a_dense_bias(attended: list[int] | None) -> None:
    size, heads, left, places = 150, 2, 20, 29
    query_BSD, key_BSD, value_BSD = torch.randn(3, 2, size, heads * 24, device=DEVICE)
    score_BSHP = torch.randn(2, size, heads, places, device=DEVICE)
    frame_S = torch.arange(size, device=DEVICE)
    position_QK = (frame_S - frame_S[:, None] + left).clamp(0, places - 1)
    position_BHQK = position_QK.expand(2, heads, -1, -1)
    bias_BHQK = score_BSHP.transpose(1, 2).gather(-1, position_BHQK) / 24**0.5
    attended_B = None if attended is None else torch.tensor(attended, device=DEVICE)
    if attended_B is not None:
        hidden_BK = frame_S >= attended_B[:, None]
        bias_BHQK = bias_BHQK.masked_fill(hidden_BK[:, None, None], -torch.inf)
    inputs = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query_BSD, key_BSD, value_BSD)]
    expected_BSD = F.scaled_dot_product_attention(*inputs, bias_BHQK).transpose(1, 2).flatten(2)
    y_BSD = distance_attention(query_BSD, key_BSD, value_BSD, score_BSHP, left, attended_B)
    tolerance = 1e-3 if DEVICE == "cuda" else 1e-5  # tf32 or float32
    torch.testing.assert_close(y_BSD, expected_BSD, atol=tolerance, rtol=1e-3)
