"""Signals like speech: a gliding pitch, harmonics, syllables, noise."""

import torch
from torch import Tensor

SAMPLE_RATE = 16_000


def speech(num_samples: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    time_T = torch.arange(num_samples) / SAMPLE_RATE
    rates = torch.rand(3, generator=generator) + torch.tensor([0.3, 2.5, 0.1])
    pitch_T = 140 + 40 * torch.sin(2 * torch.pi * rates[0] * time_T)
    phase_T = 2 * torch.pi * torch.cumsum(pitch_T, 0) / SAMPLE_RATE
    voice_T = sum(torch.sin(h * phase_T) / h for h in range(1, 20))
    noise_T = torch.randn(num_samples, generator=generator)
    syllable_T = torch.sin(2 * torch.pi * rates[1] * time_T + rates[2]).clamp(min=0)
    return (0.1 * voice_T * syllable_T + 0.02 * noise_T * (1 - syllable_T)).clamp(-1, 1)


def padded(clips: list[Tensor], extra: int = 0, garbage: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return audio_BT and num_samples_B; noise of the level `garbage` follows each clip."""
    num_samples_B = torch.tensor([len(clip) for clip in clips])
    size = int(num_samples_B.max()) + extra
    audio_BT = garbage * torch.randn(
        len(clips), size, generator=torch.Generator().manual_seed(size)
    )
    for row_T, clip_T in zip(audio_BT, clips, strict=True):
        row_T[: len(clip_T)] = clip_T
    return audio_BT, num_samples_B
