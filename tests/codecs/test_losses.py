"""Losses of waveforms, against their definitions."""

import numpy as np
import pytest
import torch

from speechmill.codecs import InvalidConfig
from speechmill.codecs.losses import LoudnessLoss, MelLoss
from speechmill.codecs.nn.spectra import mel_bank
from tests.codecs.speech import speech

FFT, BANDS = 512, 40


def test_loudness_is_the_difference_of_mel_magnitudes_to_the_power_0_3() -> None:
    ours_T, theirs_T = speech(8_000, seed=1), speech(8_000, seed=2)
    bank_SM = mel_bank(FFT, BANDS, 16_000).double().numpy()
    window_N = np.hanning(FFT + 1)[:-1]

    def loudness(audio_T: torch.Tensor) -> np.ndarray:
        padded_T = np.pad(audio_T.double().numpy(), FFT // 2, mode="reflect")
        windows_FN = np.lib.stride_tricks.sliding_window_view(padded_T, FFT)[:: FFT // 4]
        magnitude_FS = np.abs(np.fft.rfft(windows_FN * window_N)) / np.sqrt(FFT)
        mean_FM = magnitude_FS @ bank_SM / bank_SM.sum(0)
        return (mean_FM + 1e-4) ** 0.3

    expected = np.abs(loudness(ours_T) - loudness(theirs_T)).mean()
    loss = LoudnessLoss(16_000, [FFT], [BANDS])(ours_T[None], theirs_T[None])
    assert float(loss) == pytest.approx(expected, rel=1e-3)


def test_loudness_weighs_what_is_loud_and_log_mel_what_is_quiet() -> None:
    speech_BT = speech(16_000)[None]
    hiss_BT = 1e-4 * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    silence_BT, louder_BT = torch.zeros_like(hiss_BT), 1.5 * speech_BT
    loudness = LoudnessLoss(16_000, [FFT], [BANDS])
    log_mel = MelLoss(16_000, [FFT], [BANDS], squared=False)
    assert loudness(hiss_BT, silence_BT) < 0.5 * loudness(louder_BT, speech_BT)
    assert log_mel(hiss_BT, silence_BT) > 2 * log_mel(louder_BT, speech_BT)


def test_loudness_has_a_finite_gradient_in_silence() -> None:
    audio_BT = torch.zeros(1, 4_000, requires_grad=True)
    LoudnessLoss(16_000, [FFT], [BANDS])(audio_BT, speech(4_000)[None]).backward()
    assert audio_BT.grad is not None
    assert audio_BT.grad.isfinite().all()


def test_loudness_needs_as_many_bands_as_windows() -> None:
    with pytest.raises(InvalidConfig, match="2 loudness_ffts and 1 loudness_bands"):
        LoudnessLoss(16_000, [256, 512], [32])
