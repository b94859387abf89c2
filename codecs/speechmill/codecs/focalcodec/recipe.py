"""Training of FocalCodec: a vocoder of WavLM's features, and a bottleneck that reconstructs these.

Follows section 3 of arXiv 2502.04465 and the author's recipe: two independent stages, with WavLM
frozen in both. Here the vocoder comes first, so that the second phase can be validated on
audio. The distillation of the causal encoders (arXiv 2509.16195) is not implemented: causal
variants are trained with their frozen encoders.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torchaudio.transforms import Resample

from speechmill.codecs.checkpoint import load_strict, read_state_dict
from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.fetch import fetch
from speechmill.codecs.focalcodec.config import SAMPLE_RATE, FocalCodecConfig
from speechmill.codecs.focalcodec.model import FocalCodecNetwork
from speechmill.codecs.focalcodec.weights import to_current_names
from speechmill.codecs.losses import MelLoss
from speechmill.codecs.nn.masks import pad_or_trim
from speechmill.codecs.nn.quantize import straight_through
from speechmill.codecs.nn.usage import codebook_use
from speechmill.codecs.recipe import (
    Recipe,
    StepOutput,
    TrainingBatch,
    merge_weights,
)

_WEIGHTS = {  # all of the author's recipe
    "mel": 45.0,
    "adversarial": 1.0,
    "feature": 54.0,
    "rebuilt": 1.0,
    "entropy": 0.1,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FocalCodecRecipeConfig:
    """Settings of the training."""

    wavlm: str | None = None  # file or url of WavLM Large, in transformers' format, for the encoder
    vocoder_frames: int = 22  # of each crop, at a random place, for the vocoder; 0: all
    inverse_temperature: float = 100.0  # of the soft codes in the entropy loss
    codebook_entropy: float = 1.0  # weight of the mean code's entropy; each code's has weight 1
    mel_ffts: tuple[int, ...] = (1024,)
    mel_bands: tuple[int, ...] = (80,)
    weights: dict[str, float] = field(default_factory=dict)  # by loss; replace the defaults

    def __post_init__(self) -> None:
        if self.vocoder_frames < 0:
            raise InvalidConfig(f"vocoder_frames is {self.vocoder_frames}; give 0 or more")


class FocalCodecRecipe(Recipe):
    """Phase "vocoder": features to audio. Phase "features": compressor, decompressor.

    Audio is at the codec's output rate, and resampled for WavLM.
    """

    phases = ("vocoder", "features")
    phases_without_audio = ("features",)
    gan = "hinge"
    mean_features = True

    def __init__(self, sizes: FocalCodecConfig, config: FocalCodecRecipeConfig) -> None:
        super().__init__()
        self.config = config
        self.sample_rate = sizes.output_sample_rate
        self.hop_length = sizes.upscale * sizes.decoder.hop_length
        self.samples_per_feature = sizes.decoder.hop_length
        self.weights = merge_weights(_WEIGHTS, config.weights)
        self.network = FocalCodecNetwork(sizes)
        with torch.device("cpu"):  # the constructor computes the kernel
            self.resample = Resample(self.sample_rate, SAMPLE_RATE)
        self.mel = MelLoss(self.sample_rate, config.mel_ffts, config.mel_bands, squared=False)
        self.phase = "vocoder"
        if config.wavlm is not None:
            state = read_state_dict(fetch(config.wavlm))
            self.network.encoder.load_transformers(state, config.wavlm)

    def start_from(self, path: Path) -> None:
        """Load the weights of a checkpoint, in either published layout."""
        if self.config.wavlm is not None:
            raise InvalidConfig(
                "the checkpoint contains an encoder; leave wavlm out, or set the "
                "checkpoint to untrained"
            )
        state = {
            name: value.float() for name, value in to_current_names(read_state_dict(path)).items()
        }
        load_strict(self.network, state, str(path))

    def begin_phase(self, phase: str) -> None:
        self.phase = phase
        if phase == "vocoder":
            self.train_only("network.decoder")
        else:
            self.train_only("network.compressor", "network.decompressor")

    def forward(self, batch: TrainingBatch) -> StepOutput:
        features_BFC = self.features(batch.audio_BT)
        if self.phase == "vocoder":
            return self._vocoder(features_BFC, batch.audio_BT)
        return self._bottleneck(features_BFC)

    @torch.no_grad()
    def features(self, audio_BT: Tensor) -> Tensor:
        """Return features_BFC of WavLM, in float32."""
        features_BFC: Tensor = self.network.encoder(self.resample(audio_BT))[0]
        return features_BFC.float()

    @torch.no_grad()
    def reconstruct(self, audio_BT: Tensor) -> Tensor:
        features_BFC = self.features(audio_BT)
        if self.phase != "vocoder":
            corners_BND = self.network.quantizer.quantize(self._unit(features_BFC))
            features_BFC, _ = self.network.decompressor(corners_BND)
        return pad_or_trim(self.network.decoder(features_BFC, None, None), audio_BT.shape[-1])

    def weights_for_inference(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    def _vocoder(self, features_BFC: Tensor, audio_BT: Tensor) -> StepOutput:
        part_BSC, target_BT = self._parts(features_BFC, audio_BT)
        ours_BT = self.network.decoder(part_BSC, None, None).float()
        return StepOutput({"mel": self.mel(ours_BT, target_BT)}, ours_BT, target_BT)

    def _bottleneck(self, features_BFC: Tensor) -> StepOutput:
        quantizer = self.network.quantizer
        unit_BND = self._unit(features_BFC)
        corners_BND = quantizer.quantize(unit_BND.detach())
        rebuilt_BFC, _ = self.network.decompressor(straight_through(unit_BND, corners_BND))
        rebuilt_BFC = rebuilt_BFC[:, : features_BFC.shape[1]].float()
        each, of_mean = quantizer.entropies(unit_BND, self.config.inverse_temperature)
        terms = {
            "rebuilt": F.mse_loss(rebuilt_BFC, features_BFC),
            "entropy": each - self.config.codebook_entropy * of_mean,
        }
        error = F.mse_loss(rebuilt_BFC.detach(), features_BFC) / features_BFC.var()
        metrics = {"unexplained": error, "code_entropy": of_mean.detach()}
        codes_1M = quantizer.encode(unit_BND.detach()).flatten()[None]
        return StepOutput(terms, metrics=metrics | codebook_use(codes_1M))

    def _unit(self, features_BFC: Tensor) -> Tensor:
        """Return latents_BND of length 1, whose signs are the codes."""
        return F.normalize(self.network.compressor(features_BFC).float(), dim=-1)

    def _parts(self, features_BFC: Tensor, audio_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return a random section of each utterance's features, and its audio."""
        batch, frames, _ = features_BFC.shape
        size = min(self.config.vocoder_frames or frames, frames)
        first_B1 = torch.randint(frames - size + 1, (batch, 1), device=audio_BT.device)
        frame_BS = first_B1 + torch.arange(size, device=audio_BT.device)
        row_B1 = torch.arange(batch, device=audio_BT.device)[:, None]
        num_samples = frames * self.samples_per_feature
        samples_BFN = pad_or_trim(audio_BT, num_samples).view(batch, frames, -1)
        return features_BFC[row_B1, frame_BS], samples_BFN[row_B1, frame_BS].flatten(1)
