"""What recipes share: losses of the papers' scales, frozen networks, quantizers in training."""

from math import log
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from speechmill.codecs import InvalidConfig
from speechmill.codecs.losses import dac_mel_loss, feature_matching, magnitudes
from speechmill.codecs.nn.codebook_ema import initialize_by_kmeans
from speechmill.codecs.nn.factorized import FactorizedQuantizer, ResidualFactorizedQuantizer
from speechmill.codecs.nn.masks import pad_or_trim
from speechmill.codecs.nn.quantize import ResidualQuantizer, straight_through
from speechmill.codecs.nn.spectra import mel_bank
from speechmill.codecs.recipe import Frozen
from tests.codecs.speech import speech


def test_the_mel_loss_of_dac_sums_log10_over_scales() -> None:
    ours_BT, theirs_BT = speech(8_000)[None], speech(8_000, 1)[None]
    total = 0.0
    for fft, bands in ((256, 20), (512, 40)):
        bank_SM = mel_bank(fft, bands, 16_000)
        ours, theirs = (
            (magnitudes(x, fft).transpose(1, 2) @ bank_SM).clamp(min=1e-5).square().log10()
            for x in (ours_BT, theirs_BT)
        )
        total += (ours - theirs).abs().mean().item()
    loss = dac_mel_loss(16_000, (256, 512), (20, 40), power=2.0)
    assert loss(ours_BT, theirs_BT).item() == pytest.approx(total, rel=1e-5)
    assert dac_mel_loss(16_000, (256,), (20,)).scale == pytest.approx(1 / log(10))


def test_a_mel_loss_needs_as_many_bands_as_windows() -> None:
    with pytest.raises(InvalidConfig, match="2 mel_ffts and 1 mel_bands"):
        dac_mel_loss(16_000, (256, 512), (20,))


def test_features_are_matched_in_sum_or_on_average() -> None:
    torch.manual_seed(0)
    real = [[torch.randn(2, 3), torch.randn(4)], [torch.randn(5)]]
    fake = [[layer + 1 for layer in layers] for layers in real]
    assert feature_matching(real, fake).item() == pytest.approx(3, rel=1e-5)
    assert feature_matching(real, fake, mean=True).item() == pytest.approx(1, rel=1e-5)


def test_a_frozen_network_moves_with_its_recipe_but_is_not_in_its_state_dict() -> None:
    owner = nn.Sequential(nn.Linear(3, 3), Frozen(nn.Linear(3, 3)))
    frozen = cast(Frozen, owner[1])
    assert owner.state_dict().keys() == {"0.weight", "0.bias"}
    assert len(list(owner.parameters())) == 2
    owner.double().train()
    assert cast(nn.Linear, frozen.network).weight.dtype == torch.float64
    assert not frozen.network.training
    assert not frozen(torch.ones(1, 3, dtype=torch.float64, requires_grad=True)).requires_grad


def test_the_losses_of_a_factorized_quantizer_train_input_and_codewords() -> None:
    torch.manual_seed(0)
    quantizer = FactorizedQuantizer(6, 16, 4)
    x_BFD = torch.randn(2, 30, 6, requires_grad=True)
    coded = quantizer.quantize(x_BFD)
    torch.testing.assert_close(coded.x_BFD, quantizer.decode(quantizer.encode(x_BFD)))
    (coded.commitment_B.sum()).backward(retain_graph=True)
    assert quantizer.codebook.weight.grad is None
    assert x_BFD.grad is not None
    moved, x_BFD.grad = x_BFD.grad.clone(), None
    assert moved.any()
    coded.codebook_B.sum().backward(retain_graph=True)
    assert x_BFD.grad is None
    assert quantizer.codebook.weight.grad.any()
    coded.x_BFD.sum().backward()
    assert x_BFD.grad.any()


def test_each_row_keeps_the_first_stages_that_it_drew() -> None:
    torch.manual_seed(0)
    quantizer = ResidualFactorizedQuantizer(6, 3, 16, 4)
    x_BFD = torch.randn(4, 10, 6)
    coded = quantizer.quantize(x_BFD, torch.arange(4))
    codes_BKF = quantizer.encode(x_BFD, 3)
    assert not coded.x_BFD[0].any()
    assert coded.commitment_B[0] == 0
    for row in (1, 2, 3):
        expected = quantizer.decode(codes_BKF[row : row + 1, :row])[0]
        torch.testing.assert_close(coded.x_BFD[row], expected, atol=1e-5, rtol=1e-4)


def test_residual_stages_equal_those_of_encode_and_start_from_the_data() -> None:
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(3, 8, 5)
    x_MD = torch.randn(200, 5)
    counts_KN = initialize_by_kmeans(quantizer, x_MD, 10)
    stages = quantizer.stages(x_MD)
    assert torch.equal(stages.codes_KM[None], quantizer.encode(x_MD.T[None], 3))
    assert counts_KN.sum(1).tolist() == [200, 200, 200]
    left: Tensor = (stages.inputs_KMD - stages.words_KMD).square().sum(-1).mean(-1)
    assert left.tolist() == sorted(left.tolist(), reverse=True)
    torch.testing.assert_close(stages.inputs_KMD[2], x_MD - stages.words_KMD[:2].sum(0))


def test_gradients_go_straight_through_a_quantizer() -> None:
    x = torch.tensor([0.3], requires_grad=True)
    quantized = straight_through(x, torch.tensor([1.0]))
    quantized.backward()
    assert quantized == 1
    assert x.grad == 1


def test_audio_is_cut_or_padded_to_a_length() -> None:
    assert pad_or_trim(torch.ones(1, 3), 5).tolist() == [[1, 1, 1, 0, 0]]
    assert pad_or_trim(torch.ones(1, 3), 2).tolist() == [[1, 1]]
