"""PURE as a `Codec`."""

import torch
from torch import Tensor

from speechmill.codecs.api import CodecInfo
from speechmill.codecs.batch_runner import BatchRunner
from speechmill.codecs.nn.convnext import ConvNeXtBlock
from speechmill.codecs.precision import cast_weights
from speechmill.codecs.pure.model import PureNetwork, SeanetBlock
from speechmill.codecs.validation import check_audio, check_codes


class PureCodec:
    """Encodes and decodes a batch at once, masked, or row by row (see `batch_runner`)."""

    def __init__(
        self,
        network: PureNetwork,
        info: CodecInfo,
        *,
        device: torch.device,
        precision: str,
        row_by_row: bool | None = None,
        compiled: bool = False,
    ) -> None:
        self.info = info
        self.network = network.to(device).eval().requires_grad_(False)
        self.network.quantizer.cache_norms()
        self._runner = BatchRunner.on(device, precision, row_by_row, compiled=compiled)
        cast_weights(precision, self.network)
        self._runner.compile_layers(self.network, SeanetBlock, ConvNeXtBlock)

    @torch.inference_mode()
    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """Return codes_BKF."""
        num_samples = check_audio(audio_BT, num_samples_B)
        return self._runner.encode(self._encode, audio_BT, num_samples, self.info)

    @torch.inference_mode()
    def encode_padded(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """Return codes_BKF; see `BatchRunner.encode_padded`."""
        return self._runner.encode_padded(self._encode, audio_BT, num_samples_B, self.info)

    @torch.inference_mode()
    def decode(self, codes_BKF: Tensor, num_frames_B: Tensor) -> Tensor:
        """Return audio_BT."""
        num_frames = check_codes(self.info, codes_BKF, num_frames_B)
        return self._runner.compute(
            self._decode, codes_BKF, num_frames, self.info.num_decoded_samples
        )

    def _encode(self, audio_BT: Tensor, lengths_B: Tensor | None) -> Tensor:
        return self.network.encode(audio_BT, self.info.num_codebooks, lengths_B)

    def _decode(self, codes_BKF: Tensor, lengths_B: Tensor | None) -> Tensor:
        return self.network.decode(codes_BKF.long(), lengths_B).float()
