"""HASRD as a `Codec`."""

from dataclasses import replace

import torch
from torch import Tensor

from speechmill.codecs.api import CodecInfo
from speechmill.codecs.batch_runner import BatchRunner
from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.hasrd.model import HasrdNetwork
from speechmill.codecs.hasrd.ssl import SSLModel
from speechmill.codecs.nn.frame_conv import pack_matrices
from speechmill.codecs.nn.masks import mask_padding, pad_or_trim
from speechmill.codecs.precision import cast_weights
from speechmill.codecs.validation import check_audio, check_codes


class HasrdCodec:
    """Encodes and decodes a batch at once, masked, or row by row (see `batch_runner`).

    Without `ssl` the codec only decodes.
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
        self._runner = BatchRunner.on(device, precision, row_by_row, compiled=compiled)
        self._decode_runner = replace(self._runner, compiled=False)
        for part in filter(None, (self.network, self.ssl)):
            cast_weights(precision, part)
        if self.ssl is not None and self._runner.packs_weights:
            pack_matrices(self.ssl)
        self._code = self._runner.compile(self._code)  # type: ignore[method-assign]

    @torch.inference_mode()
    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """Return codes_BKF."""
        num_samples = check_audio(audio_BT, num_samples_B)
        if self.ssl is None:
            raise InvalidConfig(
                f"{self.info.name} was loaded without its self-supervised model and cannot encode; "
                "give semantic_checkpoint"
            )
        return self._runner.compute_codes(self._encode, audio_BT, num_samples, self.info)

    @torch.inference_mode()
    def decode(self, codes_BKF: Tensor, num_frames_B: Tensor) -> Tensor:
        """Return audio_BT."""
        num_frames = check_codes(self.info, codes_BKF, num_frames_B)
        return self._decode_runner.compute(
            self._decode, codes_BKF, num_frames, self.info.num_decoded_samples
        )

    def _encode(self, audio_BT: Tensor, num_samples: list[int], num_frames: list[int]) -> Tensor:
        """Return codes_BKF, zero after each row's end."""
        hop = self.info.hop_length
        filled = [max(n, f * hop) for n, f in zip(num_samples, num_frames, strict=True)]
        samples_B = self._runner.unequal_lengths(num_samples)
        frames_B = self._runner.unequal_lengths(num_frames)
        if samples_B is not None:
            audio_BT = mask_padding(audio_BT, samples_B)
        size = max(filled)
        if self._runner.compiled:
            audio_BT = self._runner.pad_to_bucket(pad_or_trim(audio_BT, size))
            size = audio_BT.shape[1]
        codes_BKF = self._code(
            audio_BT, samples_B, self._runner.unequal_lengths(filled), frames_B, size
        )
        return codes_BKF if frames_B is None else mask_padding(codes_BKF, frames_B)

    def _code(
        self,
        audio_BT: Tensor,
        samples_B: Tensor | None,
        filled_B: Tensor | None,
        frames_B: Tensor | None,
        size: int,
    ) -> Tensor:
        """Return codes_BKF of rows, padded with zeros to `size` samples."""
        assert self.ssl is not None
        hop = self.info.hop_length
        states = self.ssl(pad_or_trim(self.ssl.prepare(audio_BT, samples_B), size), filled_B)
        framed_BT = pad_or_trim(audio_BT, size // hop * hop)
        if frames_B is not None:
            framed_BT = mask_padding(framed_BT, frames_B * hop)
        return self.network.encode(states, framed_BT, self.info.num_codebooks, frames_B)

    def _decode(self, codes_BKF: Tensor, frames_B: Tensor | None) -> Tensor:
        return self.network.decode(codes_BKF.long(), frames_B).float()
