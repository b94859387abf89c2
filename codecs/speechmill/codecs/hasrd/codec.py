"""HASRD as a `Codec`."""

import torch
from torch import Tensor

from speechmill.codecs.api import CodecInfo
from speechmill.codecs.batch_runner import BatchRunner, num_frames
from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.hasrd.model import HasrdNetwork
from speechmill.codecs.hasrd.ssl import FeatureModel
from speechmill.codecs.nn.dac import DacDownStage
from speechmill.codecs.nn.frame_conv import pack_matrices
from speechmill.codecs.nn.masks import mask_padding, pad_or_trim
from speechmill.codecs.nn.wavlm.encoder import WavLMLayer
from speechmill.codecs.nn.wavlm.features import WavLMConv
from speechmill.codecs.nn.whisper.layers import WhisperLayer
from speechmill.codecs.precision import cast_weights
from speechmill.codecs.validation import check_audio, check_codes


class HasrdCodec:
    """Encodes and decodes a batch at once, masked, or row by row (see `batch_runner`).

    Without `ssl` the codec only decodes.
    """

    def __init__(
        self,
        network: HasrdNetwork,
        ssl: FeatureModel | None,
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
        for part in filter(None, (self.network, self.ssl)):
            cast_weights(precision, part)
        if self.ssl is not None and self._runner.packs_weights:
            pack_matrices(self.ssl)
        for part in filter(None, (self.network, self.ssl)):
            self._runner.compile_layers(part, WavLMConv, WavLMLayer, WhisperLayer, DacDownStage)

    @torch.inference_mode()
    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """Return codes_BKF."""
        num_samples = check_audio(audio_BT, num_samples_B)
        return self._runner.encode(self._code, audio_BT, num_samples, self.info)

    @torch.inference_mode()
    def encode_padded(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """Return codes_BKF; see `BatchRunner.encode_padded`."""
        return self._runner.encode_padded(self._code, audio_BT, num_samples_B, self.info)

    @torch.inference_mode()
    def decode(self, codes_BKF: Tensor, num_frames_B: Tensor) -> Tensor:
        """Return audio_BT."""
        frames = check_codes(self.info, codes_BKF, num_frames_B)
        return self._runner.compute(self._decode, codes_BKF, frames, self.info.num_decoded_samples)

    def _code(self, audio_BT: Tensor, samples_B: Tensor | None) -> Tensor:
        """Return codes_BKF; zeros pad a row up to the end of its last frame."""
        if self.ssl is None:
            raise InvalidConfig(
                f"{self.info.name} was loaded without its self-supervised model and cannot encode; "
                "give semantic_checkpoint"
            )
        hop, width = self.info.hop_length, audio_BT.shape[1]
        size = max(width, self.info.num_frames(width) * hop)
        prepared_BT = pad_or_trim(self.ssl.prepare(audio_BT, samples_B), size)
        framed_BT = pad_or_trim(audio_BT, size // hop * hop)
        if samples_B is None:
            return self.network.encode(self.ssl(prepared_BT), framed_BT, self.info.num_codebooks)
        frames_B = num_frames(self.info, samples_B)
        states = self.ssl(prepared_BT, torch.maximum(samples_B, frames_B * hop))
        framed_BT = mask_padding(framed_BT, frames_B * hop)
        return self.network.encode(states, framed_BT, self.info.num_codebooks, frames_B)

    def _decode(self, codes_BKF: Tensor, frames_B: Tensor | None) -> Tensor:
        return self.network.decode(codes_BKF.long(), frames_B).float()
