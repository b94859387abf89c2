"""A codec whose codes are hashes of eight samples of each frame."""

import torch
from torch import Tensor
from torch.nn import functional as F

from speechmill.codecs.api import CodecInfo
from speechmill.codecs.nn.masks import mask_padding
from speechmill.codecs.validation import check_audio, check_codes

_MULTIPLIER = 2_654_435_761  # Knuth's: 2^32 over the golden ratio; neighbours get distant codes
_PCM_SCALE = 32_768


class NullCodec:
    """Code k of a frame is a hash of the frame's sample k * hop / K, read as 16-bit PCM."""

    def __init__(self, info: CodecInfo, device: torch.device) -> None:
        self.info = info
        self._device = device
        self._step = info.hop_length // info.num_codebooks
        self._offset_K = torch.arange(info.num_codebooks, device=device) * _MULTIPLIER

    @torch.inference_mode()
    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """Return codes_BKF."""
        audio_BT, num_samples_B = audio_BT.to(self._device), num_samples_B.to(self._device)
        longest = max(check_audio(audio_BT, num_samples_B))
        picked_BN = audio_BT[:, : longest : self._step]
        picked_BN = mask_padding(picked_BN, _ceil_div(num_samples_B, self._step))
        frames, books = self.info.num_frames(longest), self.info.num_codebooks
        picked_BN = F.pad(picked_BN, (0, frames * books - picked_BN.shape[1]))
        codes_BFK = (picked_BN * _PCM_SCALE).long().view(-1, frames, books)
        codes_BFK.mul_(books * _MULTIPLIER).add_(self._offset_K).bitwise_right_shift_(22)
        codes_BFK.bitwise_and_(self._codebook_size - 1)
        return mask_padding(
            codes_BFK.transpose(1, 2), _ceil_div(num_samples_B, self.info.hop_length)
        )

    @torch.inference_mode()
    def decode(self, codes_BKF: Tensor, num_frames_B: Tensor) -> Tensor:
        """Return a step function: each code, scaled to [-1, 1), fills its part of the frame."""
        codes_BKF, num_frames_B = codes_BKF.to(self._device), num_frames_B.to(self._device)
        frames = max(check_codes(self.info, codes_BKF, num_frames_B))
        level_BKF = codes_BKF[..., :frames].float() * (2 / self._codebook_size) - 1
        missing = self.info.num_codebooks - codes_BKF.shape[1]
        level_BFK = F.pad(level_BKF.transpose(1, 2), (0, missing))
        audio_BT = level_BFK.flatten(1).repeat_interleave(self._step, dim=1)
        return mask_padding(audio_BT, num_frames_B * self.info.hop_length)

    @property
    def _codebook_size(self) -> int:
        return self.info.codebook_sizes[0]


def _ceil_div(lengths_B: Tensor, divisor: int) -> Tensor:
    return (lengths_B + divisor - 1) // divisor
