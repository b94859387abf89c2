"""SnakeBeta at twice the rate."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmill.codecs.nn.snake import REACH, AliasFreeSnakeBeta, kaiser_sinc


def activation(channels: int) -> AliasFreeSnakeBeta:
    layer = AliasFreeSnakeBeta(channels).requires_grad_(False)
    layer.log_alpha.normal_(generator=torch.Generator().manual_seed(0))
    layer.log_beta.normal_(generator=torch.Generator().manual_seed(1))
    return layer


@settings(max_examples=30)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_each_row_ends_at_its_own_end(lengths: list[int]) -> None:
    layer = activation(3)
    x_BCT = torch.randn(len(lengths), 3, max(lengths) + 5)
    y_BCT = layer(x_BCT, torch.tensor(lengths))
    for x_CT, y_CT, length in zip(x_BCT, y_BCT, lengths, strict=True):
        torch.testing.assert_close(y_CT[:, :length], layer(x_CT[None, :, :length])[0])


def test_a_constant_stays_constant() -> None:
    layer = activation(1)
    y_BCT = layer(torch.full((1, 1, 20), 0.7))
    alpha, beta = layer.log_alpha.exp(), layer.log_beta.exp()
    expected = 0.7 + torch.sin(0.7 * alpha) ** 2 / beta
    torch.testing.assert_close(y_BCT, expected.expand(1, 1, 20))


def test_an_output_column_depends_only_on_columns_within_reach() -> None:
    layer, x_BCT = activation(1), torch.randn(1, 1, 41)
    moved_BCT = x_BCT.clone()
    moved_BCT[..., 20] += 1
    changed_N = (layer(moved_BCT) != layer(x_BCT)).flatten().nonzero().flatten()
    assert (changed_N.min(), changed_N.max()) == (20 - REACH, 20 + REACH)


def test_the_filter_is_a_symmetric_low_pass_of_unit_sum() -> None:
    taps_K = kaiser_sinc(12, 0.25, 0.3)
    torch.testing.assert_close(taps_K, taps_K.flip(0))
    assert abs(taps_K.sum().item() - 1) < 1e-6
    spectrum_S = torch.fft.rfft(taps_K, 64).abs()
    assert spectrum_S[-1] < 0.01 < 0.3 < spectrum_S[16] < 0.7
