"""Losses of waveforms and of discriminators' outputs."""

from collections.abc import Sequence
from math import log, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.nn.spectra import mel_bank

_FLOOR = 1e-5  # of a magnitude, before its logarithm
_LOUDNESS = 0.3  # power of a magnitude
_INAUDIBLE = 1e-4  # added to a magnitude, so that this power has a bounded gradient

Features = list[list[Tensor]]  # for each discriminator its layers' outputs, logits last


class MelLoss(nn.Module):
    """Distance of log-mel spectrograms at several resolutions, as ESPnet-Codec weighs them.

    Scale i uses a Hann window of `ffts[i]` samples with a hop of a quarter of it. Its loss is L1
    plus sqrt(2^i - 1) times the squared error; the sum is divided by the sum of all weights. With
    `squared=False` the loss is the mean L1 over the scales. Only the lowest `share` of the bands
    counts. The loss is multiplied by `scale`. Raises `InvalidConfig` if `ffts` and `mels` differ in
    length.
    """

    def __init__(
        self,
        sample_rate: int,
        ffts: Sequence[int] = (64, 128, 256, 512, 1024),
        mels: Sequence[int] = (80, 80, 80, 80, 80),
        *,
        squared: bool = True,
        share: float = 1.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if len(ffts) != len(mels):
            raise InvalidConfig(
                f"there are {len(ffts)} mel_ffts and {len(mels)} mel_bands; give as many"
            )
        self.ffts = tuple(ffts)
        self.scale = scale
        self.alphas = [sqrt(2**i - 1) if squared else 0.0 for i in range(len(ffts))]
        for i, (fft, count) in enumerate(zip(ffts, mels, strict=True)):
            bank_SM = mel_bank(fft, count, sample_rate)[:, : max(1, round(share * count))]
            self.register_buffer(f"bank_{i}", bank_SM, persistent=False)

    def forward(self, audio_BT: Tensor, target_BT: Tensor) -> Tensor:
        total = audio_BT.new_zeros(())
        for i, (fft, alpha) in enumerate(zip(self.ffts, self.alphas, strict=True)):
            bank_SM = self.get_buffer(f"bank_{i}")
            difference = _log_mel(audio_BT, fft, bank_SM) - _log_mel(target_BT, fft, bank_SM)
            total = total + difference.abs().mean()
            if alpha:
                total = total + alpha * difference.square().mean()
        return self.scale * total / sum(alpha + 1 for alpha in self.alphas)


def dac_mel_loss(
    sample_rate: int,
    ffts: Sequence[int],
    mels: Sequence[int],
    *,
    power: float = 1.0,
    share: float = 1.0,
) -> MelLoss:
    """Return the mel loss to which DAC's loss weights belong (arXiv 2306.06546, section 3.4).

    It is the L1 of log10 of the magnitudes to the `power`, summed over the scales.
    """
    scale = len(ffts) * power / log(10)
    return MelLoss(sample_rate, ffts, mels, squared=False, share=share, scale=scale)


class STFTLoss(nn.Module):
    """L1 of log10 magnitudes plus L1 of magnitudes, averaged over windows; the hop is a quarter."""

    def __init__(self, ffts: Sequence[int] = (2048, 512)) -> None:
        super().__init__()
        self.ffts = tuple(ffts)

    def forward(self, audio_BT: Tensor, target_BT: Tensor) -> Tensor:
        total = audio_BT.new_zeros(())
        for fft in self.ffts:
            ours, theirs = magnitudes(audio_BT, fft), magnitudes(target_BT, fft)
            logs = ours.clamp(min=_FLOOR).log10() - theirs.clamp(min=_FLOOR).log10()
            total = total + (ours - theirs).abs().mean() + logs.abs().mean()
        return total / len(self.ffts)


class LoudnessLoss(nn.Module):
    """L1 of mel magnitudes to the power 0.3, averaged over windows; the hop is a quarter.

    Loudness grows about like this, so loud bands count more than in a log-mel loss, and bands that
    nobody hears count less (compressed spectra: Braun and Tashev, arXiv 2009.12286, section 2.3).
    Raises `InvalidConfig` if `ffts` and `mels` differ in length.
    """

    def __init__(self, sample_rate: int, ffts: Sequence[int], mels: Sequence[int]) -> None:
        super().__init__()
        if len(ffts) != len(mels):
            raise InvalidConfig(
                f"there are {len(ffts)} loudness_ffts and {len(mels)} loudness_bands; give as many"
            )
        self.ffts = tuple(ffts)
        for i, (fft, count) in enumerate(zip(ffts, mels, strict=True)):
            bank_SM = mel_bank(fft, count, sample_rate)
            mean_SM = bank_SM / (bank_SM.sum(0) * sqrt(fft)).clamp(min=_FLOOR)
            self.register_buffer(f"bank_{i}", mean_SM, persistent=False)

    def forward(self, audio_BT: Tensor, target_BT: Tensor) -> Tensor:
        total = audio_BT.new_zeros(())
        for i, fft in enumerate(self.ffts):
            ours_BFM, theirs_BFM = (
                _mel(audio, fft, self.get_buffer(f"bank_{i}")).add(_INAUDIBLE).pow(_LOUDNESS)
                for audio in (audio_BT, target_BT)
            )
            total = total + (ours_BFM - theirs_BFM).abs().mean()
        return total / len(self.ffts)


def magnitudes(audio_BT: Tensor, fft: int) -> Tensor:
    """Return the magnitudes of a Hann-windowed STFT, of shape (B, fft / 2 + 1, frames)."""
    window_N = torch.hann_window(fft, device=audio_BT.device)
    audio_BT = audio_BT.float()
    spectrum = torch.stft(audio_BT, fft, fft // 4, window=window_N, return_complex=True)
    return spectrum.real.square().add(spectrum.imag.square()).clamp(min=_FLOOR**2).sqrt()


def kl_to_standard_normal(mu: Tensor, logvar: Tensor) -> Tensor:
    """Return KL(N(mu, exp(logvar)) || N(0, 1)) in nats, averaged over all elements."""
    return 0.5 * (mu.square() + logvar.exp() - logvar - 1).mean()


def l1_and_mse(x: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute plus the mean squared difference."""
    return F.l1_loss(x, target) + F.mse_loss(x, target)


def feature_matching(real: Features, fake: Features, *, mean: bool = False) -> Tensor:
    """Return the L1 between layers, logits included: summed over all of them, or their mean."""
    pairs = [pair for r, f in zip(real, fake, strict=True) for pair in zip(r, f, strict=True)]
    losses = torch.stack([F.l1_loss(ours, theirs.detach()) for theirs, ours in pairs])
    return losses.mean() if mean else losses.sum()


def least_squares_generator(fake: Features) -> Tensor:
    """Return the generator's loss of LSGAN (arXiv 1611.04076), summed over discriminators."""
    return torch.stack([(1 - _logits(layers)).square().mean() for layers in fake]).sum()


def least_squares_discriminator(real: Features, fake: Features) -> Tensor:
    """Return the discriminators' loss of LSGAN: real to 1, fake to 0."""
    losses = [
        (1 - _logits(r)).square().mean() + _logits(f).square().mean()
        for r, f in zip(real, fake, strict=True)
    ]
    return torch.stack(losses).sum()


def hinge_generator(fake: Features) -> Tensor:
    """Return the generator's hinge loss, averaged over discriminators."""
    return torch.stack([F.relu(1 - _logits(layers)).mean() for layers in fake]).mean()


def hinge_discriminator(real: Features, fake: Features) -> Tensor:
    """Return the discriminators' hinge loss, averaged over them."""
    losses = [
        F.relu(1 - _logits(r)).mean() + F.relu(1 + _logits(f)).mean()
        for r, f in zip(real, fake, strict=True)
    ]
    return torch.stack(losses).mean()


def _logits(layers: list[Tensor]) -> Tensor:
    """Return a discriminator's logits in float32: the square of 256 is infinite in fp16."""
    return layers[-1].float()


def _log_mel(audio_BT: Tensor, fft: int, bank_SM: Tensor) -> Tensor:
    return _mel(audio_BT, fft, bank_SM).clamp(min=_FLOOR).log()


def _mel(audio_BT: Tensor, fft: int, bank_SM: Tensor) -> Tensor:
    with torch.autocast(audio_BT.device.type, enabled=False):  # quiet bands are zero in fp16
        mel_BFM: Tensor = magnitudes(audio_BT, fft).transpose(1, 2) @ bank_SM
    return mel_BFM


GAN_LOSSES = {
    "least_squares": (least_squares_generator, least_squares_discriminator),
    "hinge": (hinge_generator, hinge_discriminator),
}
