"""The modified discrete cosine transform and the STFT."""

import pytest
import torch

from speechmill.codecs.nn.spectra import MDCT, STFT
from tests.codecs.speech import padded, speech


@pytest.mark.parametrize("hop", [320, 7])
def test_the_inverse_returns_the_audio_except_for_half_a_hop_at_its_ends(hop: int) -> None:
    mdct, audio_BT = MDCT(hop), torch.randn(2, 9 * hop)
    back_BT = mdct.inverse(mdct(audio_BT))
    assert back_BT.shape == audio_BT.shape
    inner = slice(-(-hop // 2), -hop // 2)
    torch.testing.assert_close(back_BT[:, inner], audio_BT[:, inner], atol=1e-5, rtol=0)


def test_it_is_orthonormal() -> None:
    mdct = MDCT(320)
    audio_BT = torch.nn.functional.pad(torch.randn(1, 3_200), (160, 160))
    torch.testing.assert_close(mdct(audio_BT).norm(), audio_BT.norm())


def test_padding_does_not_change_the_inverse_of_a_row() -> None:
    mdct = MDCT(320)
    audio_BT, _ = padded([speech(3_200), speech(1_600)])
    spectrum_BFS = mdct(audio_BT)
    spectrum_BFS[1, 5:] = 1e3
    short_BT = mdct.inverse(spectrum_BFS[1:, :5])
    masked_BT = mdct.inverse(spectrum_BFS, torch.tensor([10, 5]))
    torch.testing.assert_close(masked_BT[1:, :1_600], short_BT, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("n_fft", "hop"), [(320, 80), (40, 8), (36, 9)])
def test_the_inverse_stft_returns_every_sample(n_fft: int, hop: int) -> None:
    stft, audio_BT = STFT(n_fft, hop), torch.randn(2, 9 * hop)
    spectrum_BFS = stft(audio_BT)
    assert spectrum_BFS.shape == (2, 9, n_fft // 2 + 1)
    torch.testing.assert_close(stft.inverse(spectrum_BFS), audio_BT, atol=1e-5, rtol=0)
