"""DualCodec as a `Codec`."""

from dataclasses import replace

import torch
from torch import Tensor

from speechmill.codecs.api import CodecInfo
from speechmill.codecs.batch_runner import BatchRunner
from speechmill.codecs.dualcodec.config import SEMANTIC_CHECKPOINT, SEMANTIC_STATS
from speechmill.codecs.dualcodec.model import DualCodecNetwork
from speechmill.codecs.dualcodec.semantic import SemanticFeatures
from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.nn.cpu_kernels import pack_linears
from speechmill.codecs.nn.factorized import FactorizedQuantizer
from speechmill.codecs.nn.masks import mask_padding
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
        self._decode_runner = replace(self._runner, compiled=False)
        for part in filter(None, (network, semantic)):
            part.to(device).eval().requires_grad_(False)
            if self._runner.packs_weights:
                pack_linears(part)
            cast_weights(precision, part)
        for module in network.modules():
            if isinstance(module, FactorizedQuantizer):
                module.cache_directions()
        self._code = self._runner.compile(self._code)  # type: ignore[method-assign]

    @torch.inference_mode()
    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """Return codes_BKN; a clip that is too short for a frame has none."""
        num_samples = check_audio(audio_BT, num_samples_B)
        if self.semantic is None:
            raise InvalidConfig(
                f"{self.info.name} was loaded without its semantic model and cannot encode; give "
                f"semantic_checkpoint={SEMANTIC_CHECKPOINT!r} and semantic_stats={SEMANTIC_STATS!r}"
            )
        return self._runner.compute_codes(self._encode, audio_BT, num_samples, self.info)

    @torch.inference_mode()
    def decode(self, codes_BKF: Tensor, num_frames_B: Tensor) -> Tensor:
        """Return audio_BT; the last frame of a clip lacks `info.missing_samples`."""
        num_frames = check_codes(self.info, codes_BKF, num_frames_B)
        return self._decode_runner.compute(
            self._decode, codes_BKF, num_frames, self.info.num_decoded_samples
        )

    def _encode(self, audio_BT: Tensor, num_samples: list[int], num_frames: list[int]) -> Tensor:
        """Return codes_BKN, zero after each row's end."""
        samples_B = self._runner.unequal_lengths(num_samples)
        frames_B = self._runner.unequal_lengths(num_frames)
        if samples_B is not None:
            audio_BT = self._runner.pad_to_bucket(mask_padding(audio_BT, samples_B))
        codes_BKN = self._code(audio_BT, samples_B, frames_B)
        return codes_BKN if frames_B is None else mask_padding(codes_BKN, frames_B)

    def _code(self, audio_BT: Tensor, samples_B: Tensor | None, frames_B: Tensor | None) -> Tensor:
        assert self.semantic is not None
        pooled_BND = self.semantic(audio_BT, samples_B)
        return self.network.encode(
            audio_BT, pooled_BND, self.info.num_codebooks, samples_B, frames_B
        )

    def _decode(self, codes_BKN: Tensor, frames_B: Tensor | None) -> Tensor:
        return self.network.decode(codes_BKN.long(), frames_B).float()
