"""DualCodec as a `Codec`."""

import torch
from torch import Tensor

from speechmill.codecs.api import CodecInfo
from speechmill.codecs.batch_runner import BatchRunner, num_frames
from speechmill.codecs.dualcodec.config import SEMANTIC_CHECKPOINT, SEMANTIC_STATS
from speechmill.codecs.dualcodec.model import DualCodecNetwork
from speechmill.codecs.dualcodec.semantic import SemanticFeatures
from speechmill.codecs.dualcodec.w2vbert import ConformerLayer
from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.nn.convnext import ConvNeXtBlock
from speechmill.codecs.nn.cpu_kernels import pack_linears
from speechmill.codecs.nn.dac import DacDownStage
from speechmill.codecs.nn.factorized import FactorizedQuantizer
from speechmill.codecs.precision import cast_weights
from speechmill.codecs.validation import check_audio, check_codes


class DualCodec:
    """Encodes and decodes a batch at once, masked, or row by row (see `batch_runner`).

    Without `semantic` the codec only decodes.
    """

    def __init__(
        self,
        network: DualCodecNetwork,
        semantic: SemanticFeatures | None,
        info: CodecInfo,
        *,
        device: torch.device,
        precision: str,
        row_by_row: bool | None = None,
        compiled: bool = False,
    ) -> None:
        self.info = info
        self.network = network
        self.semantic = semantic
        self._runner = BatchRunner.on(device, precision, row_by_row, compiled=compiled)
        for part in filter(None, (network, semantic)):
            part.to(device).eval().requires_grad_(False)
            if self._runner.packs_weights:
                pack_linears(part)
            cast_weights(precision, part)
            self._runner.compile_layers(part, ConformerLayer, ConvNeXtBlock, DacDownStage)
        for module in network.modules():
            if isinstance(module, FactorizedQuantizer):
                module.cache_directions()

    @torch.inference_mode()
    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """Return codes_BKN; a clip that is too short for a frame has none."""
        num_samples = check_audio(audio_BT, num_samples_B)
        return self._runner.encode(self._code, audio_BT, num_samples, self.info)

    @torch.inference_mode()
    def encode_padded(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """Return codes_BKN; see `BatchRunner.encode_padded`."""
        return self._runner.encode_padded(self._code, audio_BT, num_samples_B, self.info)

    @torch.inference_mode()
    def decode(self, codes_BKF: Tensor, num_frames_B: Tensor) -> Tensor:
        """Return audio_BT; the last frame of a clip lacks `info.missing_samples`."""
        frames = check_codes(self.info, codes_BKF, num_frames_B)
        return self._runner.compute(self._decode, codes_BKF, frames, self.info.num_decoded_samples)

    def _code(self, audio_BT: Tensor, samples_B: Tensor | None) -> Tensor:
        if self.semantic is None:
            raise InvalidConfig(
                f"{self.info.name} was loaded without its semantic model and cannot encode; give "
                f"semantic_checkpoint={SEMANTIC_CHECKPOINT!r} and semantic_stats={SEMANTIC_STATS!r}"
            )
        frames_B = None if samples_B is None else num_frames(self.info, samples_B)
        pooled_BND = self.semantic(audio_BT, samples_B)
        return self.network.encode(
            audio_BT, pooled_BND, self.info.num_codebooks, samples_B, frames_B
        )

    def _decode(self, codes_BKN: Tensor, frames_B: Tensor | None) -> Tensor:
        return self.network.decode(codes_BKN.long(), frames_B).float()
