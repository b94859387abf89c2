"""The HASRD networks behind the `Codec` protocol."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from speechmill.codecs.api import CodecInfo
from speechmill.codecs.batch_runner import Rows
from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.hasrd.model import HasrdNetwork
from speechmill.codecs.hasrd.ssl import SSLModel
from speechmill.codecs.nn.frame_conv import pack
from speechmill.codecs.nn.lengths import zero_behind
from speechmill.codecs.precision import computing_in, store_in
from speechmill.codecs.validation import check_audio, check_codes


class HasrdCodec:
    """Encodes a batch in one go, masked, or row by row.

    Row by row the codes of a clip are the same to the last bit, whatever shares its batch; masked
    they are so but for rounding. On a CPU, row by row is the faster way too, so it is the default
    there. Without `ssl` the codec only decodes.
    """

    def __init__(
        self,
        network: HasrdNetwork,
        ssl: SSLModel | None,
        info: CodecInfo,
        *,
        device: torch.device,
        precision: str,
        row_by_row: bool | None = None,
        compiled: bool = False,
    ) -> None:
        self.info = info
        self.network = network.to(device).eval().requires_grad_(False)
        self.network.cache_tables()
        self.ssl = None if ssl is None else ssl.to(device).eval().requires_grad_(False)
        self._device = device
        self._precision = precision
        self._rows = Rows.on(device, precision, row_by_row, compiled=compiled)
        self._plain = replace(self._rows, compiled=False)
        for part in filter(None, (self.network, self.ssl)):
            store_in(precision, part)
        if self.ssl is not None and self._rows.packs:
            pack(self.ssl)
        self._code = self._rows.faster(self._code)  # type: ignore[method-assign]

    @torch.inference_mode()
    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """Return codes_BKF."""
        num_samples = check_audio(audio_BT, num_samples_B)
        if self.ssl is None:
            raise InvalidConfig(
                f"{self.info.name} was loaded without its self-supervised model and cannot encode; "
                "give semantic_checkpoint"
            )
        num_frames = [self.info.num_frames(samples) for samples in num_samples]
        shape = (len(audio_BT), self.info.num_codebooks, max(num_frames))
        codes_BKF = torch.zeros(shape, dtype=torch.int64, device=self._device)
        for rows in self._rows.groups([row for row, frames in enumerate(num_frames) if frames]):
            samples, frames = [num_samples[r] for r in rows], [num_frames[r] for r in rows]
            audio_GT = audio_BT[rows, : max(samples)].to(self._device)
            with computing_in(self._precision, self._device):
                codes_GKF = self._encode(audio_GT, samples, frames)
            codes_BKF[rows, :, : max(frames)] = codes_GKF[..., : max(frames)]
        return codes_BKF

    @torch.inference_mode()
    def decode(self, codes_BKF: Tensor, num_frames_B: Tensor) -> Tensor:
        """Return audio_BT."""
        num_frames, hop = check_codes(self.info, codes_BKF, num_frames_B), self.info.hop_length
        audio_BT = torch.zeros(len(codes_BKF), max(num_frames) * hop, device=self._device)
        for rows in self._rows.groups(list(range(len(codes_BKF)))):
            frames = [num_frames[r] for r in rows]
            codes_GKF = codes_BKF[rows, :, : max(frames)].to(self._device).long()
            with computing_in(self._precision, self._device):
                audio_BT[rows, : max(frames) * hop] = self._decode(codes_GKF, frames)
        return audio_BT

    def _encode(self, audio_BT: Tensor, num_samples: list[int], num_frames: list[int]) -> Tensor:
        """Return codes_BKF, zero behind each row's end."""
        hop = self.info.hop_length
        filled = [max(n, f * hop) for n, f in zip(num_samples, num_frames, strict=True)]
        samples_B, frames_B = self._rows.unequal(num_samples), self._rows.unequal(num_frames)
        if samples_B is not None:
            audio_BT = zero_behind(audio_BT, samples_B)
        size = max(filled)
        if self._rows.compiled:
            audio_BT = self._rows.widened(_resized(audio_BT, size))
            size = audio_BT.shape[1]
        codes_BKF = self._code(audio_BT, samples_B, self._rows.unequal(filled), frames_B, size)
        return codes_BKF if frames_B is None else zero_behind(codes_BKF, frames_B)

    def _code(
        self,
        audio_BT: Tensor,
        samples_B: Tensor | None,
        filled_B: Tensor | None,
        frames_B: Tensor | None,
        size: int,
    ) -> Tensor:
        """Return codes_BKF of rows that are lengthened with zeros to `size` samples."""
        assert self.ssl is not None
        hop = self.info.hop_length
        states = self.ssl(_resized(self.ssl.heard(audio_BT, samples_B), size), filled_B)
        framed_BT = _resized(audio_BT, size // hop * hop)
        if frames_B is not None:
            framed_BT = zero_behind(framed_BT, frames_B * hop)
        return self.network.encode(states, framed_BT, self.info.num_codebooks, frames_B)

    def _decode(self, codes_BKF: Tensor, num_frames: list[int]) -> Tensor:
        """Return audio_BT, zero behind each row's end."""
        frames_B = self._plain.unequal(num_frames)
        if frames_B is None:
            return self.network.decode(codes_BKF).float()
        audio_BT = self.network.decode(zero_behind(codes_BKF, frames_B), frames_B).float()
        return zero_behind(audio_BT, frames_B * self.info.hop_length)


def _resized(audio_BT: Tensor, size: int) -> Tensor:
    """Return audio_BT of `size` columns, filled with zeros or cut."""
    return F.pad(audio_BT, (0, size - audio_BT.shape[1]))
