"""The Triton kernels of Snake compute what PyTorch computes; see `kernel_checks.py`."""

import pytest
import torch

from speechmill.codecs.nn.conv import _pad_rows
from speechmill.codecs.nn.kernels.snake import fused_snake, reflected_snake
from speechmill.codecs.nn.masks import mask_padding
from speechmill.codecs.nn.snake import AliasFreeSnakeBeta, Snake, snake

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


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
