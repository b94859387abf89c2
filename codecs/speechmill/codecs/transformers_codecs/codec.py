"""A model of transformers as a `Codec`."""

from collections.abc import Callable, Iterator
from itertools import groupby
from math import log2
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.api import CodecInfo
from speechmill.codecs.precision import autocast
from speechmill.codecs.transformers_codecs.config import TransformersConfig
from speechmill.codecs.validation import check_audio, check_codes


class TransformersCodec:
    """Computes clips of one length together, so that nothing is padded; on a CPU one by one.

    One by one, the codes of a clip are the same to the last bit in every batch; on other devices
    they may differ by rounding.
    """

    def __init__(
        self,
        network: nn.Module,
        sizes: TransformersConfig,
        info: CodecInfo,
        *,
        device: torch.device,
        precision: str,
    ) -> None:
        self.info = info
        self.network = network.to(device).eval().requires_grad_(False)
        self._encode, self._decode = _CALLS[sizes.model_type]
        self._device = device
        self._precision = precision

    @torch.inference_mode()
    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """Return codes_BKF."""
        num_samples, books = check_audio(audio_BT, num_samples_B), self.info.num_codebooks
        num_frames = [self.info.num_frames(samples) for samples in num_samples]
        codes_BKF = torch.zeros(
            len(audio_BT), books, max(num_frames), dtype=torch.int64, device=self._device
        )
        for rows, samples in self._groups(num_samples):
            audio_G1T = audio_BT[rows, None, :samples].to(self._device)
            with autocast(self._precision, self._device):
                codes_GKF = self._encode(self.network, audio_G1T, books)
            codes_BKF[rows, :, : codes_GKF.shape[2]] = codes_GKF
        return codes_BKF

    @torch.inference_mode()
    def decode(self, codes_BKF: Tensor, num_frames_B: Tensor) -> Tensor:
        """Return audio_BT."""
        num_frames = check_codes(self.info, codes_BKF, num_frames_B)
        size = self.info.num_decoded_samples(max(num_frames))
        audio_BT = torch.zeros(len(codes_BKF), size, device=self._device)
        for rows, frames in self._groups(num_frames):
            codes_GKF = codes_BKF[rows, :, :frames].to(self._device).long()
            with autocast(self._precision, self._device):
                audio_GT = self._decode(self.network, codes_GKF).float()
            audio_BT[rows, : audio_GT.shape[1]] = audio_GT
        return audio_BT

    def _groups(self, lengths: list[int]) -> Iterator[tuple[list[int], int]]:
        """Yield rows to compute together, and their length."""
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        for length, rows in groupby(order, key=lengths.__getitem__):
            if self._device.type == "cpu":
                yield from (([row], length) for row in rows)
            else:
                yield list(rows), length


def _encode_mimi(network: Any, audio_B1T: Tensor, num_codebooks: int) -> Tensor:
    codes_BKF: Tensor = network.encode(audio_B1T, num_quantizers=num_codebooks).audio_codes
    return codes_BKF


def _decode_mimi(network: Any, codes_BKF: Tensor) -> Tensor:
    audio_B1T: Tensor = network.decode(codes_BKF).audio_values
    return audio_B1T[:, 0]


def _encode_encodec(network: Any, audio_B1T: Tensor, num_codebooks: int) -> Tensor:
    """Ask for the bandwidth of half a codebook more; transformers rounds it down."""
    quantizer = network.quantizer
    kbps = log2(quantizer.codebook_size) * quantizer.frame_rate / 1000
    x_BDF = network.encoder(audio_B1T)
    codes_KBF: Tensor = quantizer.encode(x_BDF, (num_codebooks + 0.5) * kbps)
    return codes_KBF.transpose(0, 1)


def _decode_encodec(network: Any, codes_BKF: Tensor) -> Tensor:
    audio_B1T: Tensor = network.decode(codes_BKF[None], [None]).audio_values
    return audio_B1T[:, 0]


def _encode_dac(network: Any, audio_B1T: Tensor, num_codebooks: int) -> Tensor:
    """Pad the last frame with zeros, as the authors do."""
    audio_B1T = F.pad(audio_B1T, (0, -audio_B1T.shape[2] % network.config.hop_length))
    codes_BKF: Tensor = network.encode(audio_B1T, n_quantizers=num_codebooks).audio_codes
    return codes_BKF


def _decode_dac(network: Any, codes_BKF: Tensor) -> Tensor:
    audio_BT: Tensor = network.decode(audio_codes=codes_BKF).audio_values
    return audio_BT


Encode = Callable[[Any, Tensor, int], Tensor]
Decode = Callable[[Any, Tensor], Tensor]
_CALLS: dict[str, tuple[Encode, Decode]] = {
    "mimi": (_encode_mimi, _decode_mimi),
    "encodec": (_encode_encodec, _decode_encodec),
    "dac": (_encode_dac, _decode_dac),
}
