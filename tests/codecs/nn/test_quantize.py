"""Residual vector quantization."""

import pytest
import torch

from speechmill.codecs.nn.quantize import ResidualQuantizer


@pytest.fixture
def quantizer() -> ResidualQuantizer:
    quantizer = ResidualQuantizer(4, 32, 6)
    quantizer.codebooks_KND.normal_(generator=torch.Generator().manual_seed(0))
    return quantizer


def test_each_stage_picks_the_codeword_nearest_to_the_residual(
    quantizer: ResidualQuantizer,
) -> None:
    x_BDF = torch.randn(2, 6, 9)
    codes_BKF = quantizer.encode(x_BDF, 4)
    for stage in range(4):
        so_far_BDF = quantizer.decode(codes_BKF[:, :stage]) if stage else torch.zeros_like(x_BDF)
        residual_BFD = (x_BDF - so_far_BDF).transpose(1, 2)
        distance_BFN = (residual_BFD[:, :, None] - quantizer.codebooks_KND[stage]).norm(dim=-1)
        assert torch.equal(distance_BFN.argmin(-1), codes_BKF[:, stage])


def test_the_lowest_index_of_equal_codewords_wins(quantizer: ResidualQuantizer) -> None:
    quantizer.codebooks_KND[0, 20] = quantizer.codebooks_KND[0, 3]
    x_BDF = quantizer.codebooks_KND[0, 20][None, :, None]
    assert quantizer.encode(x_BDF, 1).item() == 3


def test_cached_norms_do_not_change_codes(quantizer: ResidualQuantizer) -> None:
    x_BDF = torch.randn(3, 6, 50)
    before_BKF = quantizer.encode(x_BDF, 4)
    quantizer.cache_norms()
    assert torch.equal(quantizer.encode(x_BDF, 4), before_BKF)
    assert "norms_KN" not in quantizer.state_dict()
