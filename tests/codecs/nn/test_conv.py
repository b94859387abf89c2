"""Convolutions over rows of different length."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmill.codecs.checkpoint import fold_weight_norm
from speechmill.codecs.nn.conv import PaddedConv1d, TrimmedConvTranspose1d


def identity(kernel: int, tap: int, **geometry: int) -> PaddedConv1d:
    """A convolution that returns one tap of its padded input."""
    conv = PaddedConv1d(1, 1, kernel, **geometry)
    fold_weight_norm(conv)
    with torch.no_grad():
        conv.conv.weight.zero_()[..., tap] = 1
        conv.conv.bias.zero_()
    return conv.requires_grad_(False)


@settings(max_examples=60)
@given(
    kernel=st.integers(1, 7),
    dilation=st.integers(1, 4),
    stride=st.integers(1, 8),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5),
)
def test_each_row_is_padded_at_its_own_end(
    kernel: int, dilation: int, stride: int, lengths: list[int]
) -> None:
    if stride > 1:
        kernel, dilation = 2 * stride, 1
    conv = PaddedConv1d(2, 3, kernel, stride=stride, dilation=dilation)
    x_BCT = torch.randn(len(lengths), 2, max(lengths) + 5)
    y_BCT = conv(x_BCT, torch.tensor(lengths))
    for x_CT, y_CT, length in zip(x_BCT, y_BCT, lengths, strict=True):
        alone_CT = conv(x_CT[None, :, :length])[0]
        assert alone_CT.shape[1] == -(-length // stride)
        torch.testing.assert_close(y_CT[:, : alone_CT.shape[1]], alone_CT)


@pytest.mark.parametrize(
    ("tap", "seen"),
    [
        (0, [4, 3, 2, 1]),
        (3, [1, 2, 3, 4]),
        (6, [4, 3, 2, 1]),
    ],
)
def test_padding_reflects_without_repeating_the_edge(tap: int, seen: list[int]) -> None:
    x_BCT = torch.tensor([[[1.0, 2, 3, 4]]])
    assert identity(7, tap)(x_BCT).flatten().tolist() == seen


def test_a_clip_shorter_than_its_padding_is_first_lengthened_with_zeros() -> None:
    x_BCT = torch.tensor([[[1.0, 2]]])
    seen = [identity(7, tap)(x_BCT).flatten().tolist() for tap in range(7)]
    assert [first for first, _ in seen] == [0, 0, 2, 1, 2, 0, 0]


@settings(max_examples=30)
@given(
    stride=st.sampled_from([1, 2, 4, 5, 8]),
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4),
)
def test_padding_does_not_reach_a_transposed_convolution(stride: int, lengths: list[int]) -> None:
    conv = TrimmedConvTranspose1d(2, 3, stride=stride)
    x_BCT = torch.randn(len(lengths), 2, max(lengths) + 3)
    y_BCT = conv(x_BCT, torch.tensor(lengths))
    assert y_BCT.shape[-1] == x_BCT.shape[-1] * stride
    for x_CT, y_CT, length in zip(x_BCT, y_BCT, lengths, strict=True):
        alone_CT = conv(x_CT[None, :, :length])[0]
        torch.testing.assert_close(y_CT[:, : length * stride], alone_CT)
