"""FocalCodec as a `Codec`."""

import torch
from torch import Tensor

from speechmill.codecs.api import CodecInfo
from speechmill.codecs.batch_runner import BatchRunner
from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.focalcodec.config import FocalCodecConfig
from speechmill.codecs.focalcodec.focal import FocalBlock, prepare_for_cuda
from speechmill.codecs.focalcodec.model import FocalCodecNetwork
from speechmill.codecs.focalcodec.stream import FocalCodecStream
from speechmill.codecs.nn.frame_conv import pack_matrices
from speechmill.codecs.nn.wavlm.encoder import WavLMLayer
from speechmill.codecs.nn.wavlm.features import WavLMConv
from speechmill.codecs.precision import cast_weights
from speechmill.codecs.validation import check_audio, check_codes


class FocalCodec:
    """Encodes and decodes a batch at once, masked, or row by row (see `batch_runner`).

    In float32 on a CPU the network's matrices are packed, and its weights can no longer be saved.
    """

    def __init__(
        self,
        network: FocalCodecNetwork,
        sizes: FocalCodecConfig,
        info: CodecInfo,
        *,
        device: torch.device,
        precision: str,
        row_by_row: bool | None = None,
        compiled: bool = False,
    ) -> None:
        self.info = info
        self.network = network.to(device).eval().requires_grad_(False)
        self.sizes = sizes
        self._runner = BatchRunner.on(device, precision, row_by_row, compiled=compiled)
        if self._runner.packs_weights:
            pack_matrices(self.network)
        if device.type == "cuda":
            prepare_for_cuda(self.network)
        cast_weights(precision, self.network)
        self._runner.compile_layers(self.network, WavLMConv, WavLMLayer, FocalBlock)

    @torch.inference_mode()
    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """Return codes_BKF."""
        num_samples = check_audio(audio_BT, num_samples_B)
        return self._runner.encode(self.network.encode, audio_BT, num_samples, self.info)

    @torch.inference_mode()
    def encode_padded(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """Return codes_BKF; see `BatchRunner.encode_padded`."""
        return self._runner.encode_padded(self.network.encode, audio_BT, num_samples_B, self.info)

    @torch.inference_mode()
    def decode(self, codes_BKF: Tensor, num_frames_B: Tensor) -> Tensor:
        """Return audio_BT of the same number of samples for every frame."""
        num_frames = check_codes(self.info, codes_BKF, num_frames_B)
        return self._runner.compute(
            self._decode, codes_BKF, num_frames, self.info.num_decoded_samples
        )

    def stream(self) -> FocalCodecStream:
        """Return a new stream, which encodes and decodes one clip chunk by chunk.

        Raises `InvalidConfig` if the variant is not causal.
        """
        if not self.sizes.causal:
            raise InvalidConfig(f"{self.info.name} is not causal; only causal variants stream")
        return FocalCodecStream(
            self.network,
            self.sizes,
            self.info,
            device=self._runner.device,
            precision=self._runner.precision,
        )

    def _decode(self, codes_BKF: Tensor, num_frames_B: Tensor | None) -> Tensor:
        return self.network.decode(codes_BKF.long(), num_frames_B).float()
