"""Grouped finite scalar quantization."""

import torch

from speechmill.codecs.nn.fsq import GroupedFSQ


def test_every_code_survives_decoding_and_encoding() -> None:
    quantizer = GroupedFSQ(2, (8, 7, 6, 6))
    codes_BKF = torch.arange(2016).expand(1, 2, -1)
    x_BDF = quantizer.decode(codes_BKF)
    assert x_BDF.abs().max() == 1
    assert len(x_BDF[0, :4].T.unique(dim=0)) == 2016
    x_BDF = x_BDF.clamp(-0.999, 0.999)  # an end of the tanh has no finite inverse
    levels_L1 = torch.tensor([8.0, 7, 6, 6])[:, None]
    scale_L1, offset_L1 = (levels_L1 - 1) / 2 * 0.999, (levels_L1 % 2 == 0) / 2
    value_BKLF = x_BDF.view(1, 2, 4, -1) * (levels_L1 // 2) + offset_L1
    latent_BKLF = (value_BKLF / scale_L1).clamp(-0.9999, 0.9999).atanh()
    latent_BDF = (latent_BKLF - (offset_L1 / scale_L1).tan()).flatten(1, 2)
    assert torch.equal(quantizer.encode(latent_BDF), codes_BKF)


def test_the_first_channel_is_the_fastest_digit() -> None:
    quantizer = GroupedFSQ(1, (8, 7, 6, 6))
    low_BDF = torch.full((1, 4, 1), -50.0)
    codes = [quantizer.encode(low_BDF).item()]
    for channel in range(4):
        one_BDF = low_BDF.clone()
        one_BDF[:, channel] = 50
        codes.append(quantizer.encode(one_BDF).item())
    assert codes == [0, 7, 6 * 8, 5 * 56, 5 * 336]


def test_a_prefix_of_the_groups_decodes_with_zeros_for_the_rest() -> None:
    quantizer = GroupedFSQ(3, (5, 4))
    codes_BKF = torch.randint(0, 20, (2, 3, 9))
    x_BDF = quantizer.decode(codes_BKF)
    prefix_BDF = quantizer.decode(codes_BKF[:, :2])
    assert torch.equal(prefix_BDF[:, :4], x_BDF[:, :4])
    assert not prefix_BDF[:, 4:].any()


def test_a_bound_value_is_rounded_to_its_level() -> None:
    quantizer = GroupedFSQ(2, (8, 5))
    x_BDF = torch.randn(3, 4, 50)
    level_BKLF = quantizer.bound(x_BDF).round()
    half_L1 = torch.tensor([4.0, 2.0])[:, None]
    decoded_BDF = quantizer.decode(quantizer.encode(x_BDF))
    assert torch.equal(decoded_BDF, (level_BKLF / half_L1).flatten(1, 2))
